//! Validated services → documents for Envoy and Istio. Nothing is decided here that a person could get wrong: that is
//! [`crate::validate`]'s.
//!
//! **Invariant:** no client, no file system, and the same input gives the same bytes.

pub mod backend;
pub mod envoy;
pub mod envoy_filter;
pub mod filter_config;
pub mod handshake;
pub mod mesh;
pub mod native;
pub mod overlay;
pub mod redact;
pub mod standalone;
pub mod wasm_plugin;

use redis_mesh_core::hex::to_hex as hex;
use sha2::{Digest, Sha256};

use crate::diagnostic::Diagnostics;
use crate::validate::ValidatedService;

/// Reports what a filter would refuse, for services that are not built otherwise.
pub fn check(services: &[ValidatedService], diagnostics: &mut Diagnostics) {
    let key = handshake::HandshakeKey::derived(services);
    for service in services {
        let backends = backend::backends(service);
        let host = filter_config::host(service, &backends, &key, Default::default(), &filter_config::by_address);
        let config = filter_config::document(service.address.to_string(), 1, vec![host]);
        filter_config::check(&config, service, diagnostics);
    }
}

/// Lower-case hex of SHA-256 over parts, each preceded by its length so that no two lists of parts are the same bytes.
fn digest(parts: &[&str]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    hash.finalize().into()
}
