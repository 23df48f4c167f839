//! Digests of what names and secrets are made from.

use sha2::{Digest, Sha256};

/// SHA-256 over parts, each preceded by its length so that no two lists of parts are the same
/// bytes.
pub fn digest(parts: &[&str]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    hash.finalize().into()
}
