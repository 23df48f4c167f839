//! Rendering: validated services → documents for Envoy and Istio.
//!
//! Most mistakes are found by [`crate::validate`]. Reported here are those that depend on the
//! target: addresses and listeners that can't be told, settings that a mesh or a standalone Envoy
//! can't carry out, and sizes.
//!
//! **Invariant:** no client, no file system, and the same input gives the same bytes.

pub mod backend;
mod carried;
mod cluster_scope;
mod digest;
pub mod envoy;
pub mod envoy_filter;
pub mod filter_config;
pub mod handshake;
pub mod imports;
pub mod listen;
pub mod lost_filters;
pub mod marker;
pub mod mesh;
pub mod mesh_options;
mod mesh_tls;
mod mesh_warnings;
pub mod native;
pub mod object_meta;
pub mod overlay;
pub mod plan;
pub mod planned_object;
pub mod plugin_hosts;
pub mod prepared_service;
pub mod redact;
mod refused;
pub mod sharing;
pub mod standalone;
pub mod unseen;
pub mod wasm_plugin;
