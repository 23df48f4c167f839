//! The sans-IO core of redis-mesh.
#![forbid(unsafe_code)]

pub mod wire;
