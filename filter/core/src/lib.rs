//! The sans-IO core of redis-mesh: RESP, the command table, routing, and two machines. The
//! [`rewriter`] edits one client connection; the [`multiplexer`] serves all clients of a worker
//! over connections of its own.
//!
//! Bytes, time, randomness and configuration are arguments; edited bytes and values that say what
//! to do are results. The core has no socket, no clock and no callback, so a host (the wasm
//! filter, the dynamic module, a test) only translates.
#![forbid(unsafe_code)]

pub mod cluster;
pub mod command;
pub mod config;
pub mod downstream;
pub mod fault;
pub mod hex;
pub mod maglev;
pub mod multiplexer;
pub mod random;
pub mod request;
pub mod resp;
pub mod rewriter;
pub mod route;
pub mod stats;
pub mod wire;
