//! Hash slots
//! (<https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/#key-distribution-model>).

/// Number of hash slots of a Redis Cluster.
pub const SLOTS: u16 = 16384;

/// Returns the slot of a key: CRC16 (XMODEM) of the key, or of its hash tag, the text between the
/// first `{` and the next `}`, if that isn't empty.
pub fn slot(key: &[u8]) -> u16 {
    crc(hashed_part(key)) % SLOTS
}

/// Computes CRC16 a byte at a time, since the wasm filter has to be small.
#[cfg(target_arch = "wasm32")]
fn crc(bytes: &[u8]) -> u16 {
    crc16::State::<crc16::XMODEM>::calculate(bytes)
}

/// Computes CRC16 four bytes at a time. A byte at a time, each step would wait for the sum of the
/// step before, which is most of the time.
#[cfg(not(target_arch = "wasm32"))]
fn crc(bytes: &[u8]) -> u16 {
    use std::array::from_fn;
    /// For each byte its sum, and the sum after one, two and three further bytes.
    static SUMS: std::sync::LazyLock<[[u16; 256]; 4]> = std::sync::LazyLock::new(|| {
        from_fn(|behind| from_fn(|byte| crc16::State::<crc16::XMODEM>::calculate(&[byte as u8, 0, 0, 0][..behind + 1])))
    });
    let [one, two, three, four] = &*SUMS;
    let sum = |of: &[u16; 256], byte: u8| of[usize::from(byte)];
    let (fours, rest) = bytes.as_chunks::<4>();
    let crc = fours.iter().fold(0u16, |crc, [a, b, c, d]| {
        let [high, low] = crc.to_be_bytes();
        sum(four, high ^ a) ^ sum(three, low ^ b) ^ sum(two, *c) ^ sum(one, *d)
    });
    rest.iter().fold(crc, |crc, byte| crc << 8 ^ sum(one, (crc >> 8) as u8 ^ byte))
}

/// Returns the hash tag of a key, the text between the first `{` and the next `}`, or the whole
/// key if there is none or it is empty.
#[inline]
pub fn hashed_part(key: &[u8]) -> &[u8] {
    hash_tag(key).unwrap_or(key)
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
    fn sums_are_those_of_the_specification() {
        let bytes: Vec<u8> = (0..1000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        for length in 0..200 {
            for begin in [0, 1, 500] {
                let key = &bytes[begin..begin + length];
                assert_eq!(crc(key), crc16::State::<crc16::XMODEM>::calculate(key), "{length} from {begin}");
            }
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
