//! The sans-IO core of redis-mesh: RESP, the command table, routing, and the machine that edits a client's connection.
//!
//! Bytes, time, randomness and configuration go in as arguments; edited bytes and values that say what to do come out.
//! No socket, no clock, no callback: a host (the wasm filter, a native module, a test) only translates.
#![forbid(unsafe_code)]

pub mod cluster;
pub mod command;
pub mod config;
pub mod downstream;
pub mod fault;
pub mod hex;
pub mod multiplexer;
pub mod random;
pub mod request;
pub mod resp;
pub mod rewriter;
pub mod route;
pub mod stats;
pub mod wire;
