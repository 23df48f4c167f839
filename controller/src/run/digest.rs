//! Digests of documents, by which rendered objects are compared.

use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// The SHA-256 of a document. The order of fields doesn't matter.
pub type ContentDigest = [u8; 32];

/// Returns the digest of a document.
pub fn digest(value: &Value) -> ContentDigest {
    let mut hash = Sha256::new();
    feed(value, &mut hash);
    hash.finalize().into()
}

fn feed(value: &Value, hash: &mut Sha256) {
    match value {
        Value::Object(fields) => {
            let mut sorted: Vec<_> = fields.iter().collect();
            sorted.sort_by_key(|(name, _)| *name);
            hash.update([b'{']);
            hash.update((sorted.len() as u64).to_be_bytes());
            for (name, value) in sorted {
                hash.update((name.len() as u64).to_be_bytes());
                hash.update(name);
                feed(value, hash);
            }
        }
        Value::Array(items) => {
            hash.update([b'[']);
            hash.update((items.len() as u64).to_be_bytes());
            items.iter().for_each(|item| feed(item, hash));
        }
        scalar => {
            let text = scalar.to_string();
            hash.update([b'=']);
            hash.update((text.len() as u64).to_be_bytes());
            hash.update(text);
        }
    }
}

/// Reads a digest from 64 hexadecimal digits.
pub fn from_hex(text: &str) -> Option<ContentDigest> {
    let mut digest = ContentDigest::default();
    if text.len() != 2 * digest.len() || !text.is_ascii() {
        return None;
    }
    for (i, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * i..2 * i + 2)?, 16).ok()?;
    }
    Some(digest)
}

#[cfg(test)]
mod tests {
    use redis_mesh_core::hex::to_hex;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_digest_knows_no_order_of_fields() {
        assert_eq!(digest(&json!({"a": 1, "b": [1, 2]})), digest(&json!({"b": [1, 2], "a": 1})));
        for other in [json!({"a": 1, "b": [2, 1]}), json!({"a": "1", "b": [1, 2]}), json!({"a": 1}), json!([1, 2])] {
            assert_ne!(digest(&json!({"a": 1, "b": [1, 2]})), digest(&other), "{other}");
        }
    }

    #[test]
    fn a_digest_as_text_and_back() {
        let digest = digest(&json!({"a": 1}));
        assert_eq!(from_hex(&to_hex(&digest)), Some(digest));
        for other in ["", "ab", &"x".repeat(64), &"\u{e4}".repeat(32)] {
            assert_eq!(from_hex(other), None, "{other}");
        }
    }
}
