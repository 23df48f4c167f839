//! The core of redis-mesh as an Envoy network filter: a dynamic module for Envoy 1.40.
//!
//! This crate only translates: hooks and buffers of Envoy on one side, calls of the core's
//! multiplexer ([`redis_mesh_core::multiplexer::Multiplexer`]) on the other. It has three network
//! filters:
//!
//! * `proxy`, at the end of a listener's filter chain: a client (`filter/downstream.rs`);
//! * `carrier`, before `tcp_proxy` on an internal listener: a connection to Redis through one of
//!   Envoy's clusters (`filter/upstream.rs`);
//! * `anchor`, at the end of another internal listener's filter chain: a connection on which
//!   upstream connections are opened (`filter/dialer.rs`).
//!
//! It also has a load-balancing policy, `node`, for clusters that are Redis Clusters.
//!
//! `unsafe` is confined to `abi.rs` (declarations of the ABI), `hooks.rs` (functions that Envoy
//! calls) and `envoy/` (calls of Envoy).
#![deny(unsafe_code)]

#[allow(unsafe_code)]
mod abi;
mod config;
#[allow(unsafe_code)]
mod envoy;
mod filter;
#[allow(unsafe_code)]
mod hooks;
mod metrics;
mod node;
#[cfg(test)]
#[allow(unsafe_code)]
mod standin;
mod timer;
mod worker;
