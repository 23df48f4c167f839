//! Hash slots (<https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/#key-distribution-model>).

/// How many slots a cluster has.
pub const SLOTS: u16 = 16384;

/// The slot of a key: CRC16 (XMODEM) of the key, or of its hash tag, what stands between its first `{` and the next `}`, if that
/// isn't empty.
pub fn slot(key: &[u8]) -> u16 {
    crc16::State::<crc16::XMODEM>::calculate(hash_tag(key).unwrap_or(key)) % SLOTS
}

fn hash_tag(key: &[u8]) -> Option<&[u8]> {
    let open = memchr::memchr(b'{', key)?;
    let rest = key.get(open + 1..)?;
    let close = memchr::memchr(b'}', rest)?;
    rest.get(..close).filter(|tag| !tag.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn slots_of_the_specification() {
        // The check value of the cluster specification, and what `CLUSTER KEYSLOT` answers.
        for (key, want) in [("123456789", 0x31c3), ("foo", 12182), ("bar", 5061), ("", 0), ("a", 15495)] {
            assert_eq!(slot(key.as_bytes()), want, "{key}");
        }
    }

    #[test]
    fn hash_tags() {
        for (key, tagged) in [
            ("{user1000}.following", "user1000"),
            ("foo{}{bar}", "foo{}{bar}"),
            ("foo{{bar}}zap", "{bar"),
            ("foo{bar}{zap}", "bar"),
            ("foo{bar", "foo{bar"),
            ("}{", "}{"),
        ] {
            assert_eq!(slot(key.as_bytes()), slot_without_tags(tagged.as_bytes()), "{key}");
        }
    }

    fn slot_without_tags(key: &[u8]) -> u16 {
        crc16::State::<crc16::XMODEM>::calculate(key) % SLOTS
    }
}
