//! `redis-mesh`: RedisService and RedisDestination in, Envoy and Istio configuration out.
//!
//! Manifests become objects in [`manifest`], objects become services that can be served in [`validate`], services become
//! documents in [`build`]. The last two know neither files nor an API server.
#![forbid(unsafe_code)]

mod build;
mod cli;
mod crd;
mod diagnostic;
mod explain;
mod inventory;
mod manifest;
mod quantity;
mod run;
mod schema;
mod validate;
mod yaml;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run()
}
