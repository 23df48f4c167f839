//! `redis-mesh` turns RedisServices and RedisDestinations into configuration for Envoy and Istio.
//!
//! Manifests become objects in [`manifest`], objects become services that can be served in
//! [`validate`], and services become documents in [`render`]. The last two know neither files nor
//! an API server. [`run`] does the same in a cluster.
#![forbid(unsafe_code)]

mod cli;
mod crd;
mod destination_rule;
mod diagnostic;
mod discovery;
mod explain;
mod exports;
mod inventory;
mod manifest;
mod namespaced_name;
mod quantity;
mod render;
mod run;
mod schema;
mod sidecar;
mod spans;
mod user_filters;
mod validate;
mod yaml;

use std::process::ExitCode;

// Watches allocate and drop thousands of objects. The allocator of musl, with which the image is
// built, is slow at that: it has one lock for all threads. This allocator makes measurements
// independent of the C library.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cli::run()
}
