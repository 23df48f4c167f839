//! Validated services → documents for Envoy and Istio. Nothing is decided here that a person could get wrong: that is
//! [`crate::validate`]'s.
//!
//! **Invariant:** no client, no file system, and the same input gives the same bytes.

pub mod backend;
pub mod envoy;
pub mod filter_config;
pub mod handshake;
pub mod standalone;

use sha2::{Digest, Sha256};

/// Lower-case hex of SHA-256 over parts, each preceded by its length so that no two lists of parts are the same bytes.
fn digest(parts: &[&str]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    hash.finalize().into()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
