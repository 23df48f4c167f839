//! What of a key is hashed.

use super::murmur_hash::murmur_hash;
use crate::cluster::slot::hashed_part;
use crate::wire::KeyHash;

/// Returns the hash by which a key is placed.
#[inline]
pub fn key_hash(what: KeyHash, key: &[u8]) -> u64 {
    murmur_hash(match what {
        KeyHash::Key => key,
        KeyHash::Tag => hashed_part(key),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn tags_are_hashed_where_they_count() {
        let hash = |what, key: &str| key_hash(what, key.as_bytes());
        assert_eq!(hash(KeyHash::Tag, "{user}a"), hash(KeyHash::Key, "user"));
        assert_ne!(hash(KeyHash::Key, "{user}a"), hash(KeyHash::Key, "{user}b"));
        assert_eq!(hash(KeyHash::Tag, "a{}b"), hash(KeyHash::Key, "a{}b"));
    }
}
