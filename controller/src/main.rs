//! `redis-mesh`: RedisService and RedisDestination in, Envoy and Istio configuration out.
//!
//! Manifests become objects in [`manifest`], objects become services that can be served in [`validate`], services become
//! documents in [`render`]. The last two know neither files nor an API server.
#![forbid(unsafe_code)]

mod cli;
mod crd;
mod diagnostic;
mod explain;
mod inventory;
mod manifest;
mod quantity;
mod render;
mod run;
mod schema;
mod spans;
mod validate;
mod yaml;

use std::process::ExitCode;

// Watches make and drop objects by the thousand, and the image's musl is slow at that, with one lock for all threads. With an
// allocator of our own, what is measured is what is shipped, whatever the C library.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cli::run()
}
