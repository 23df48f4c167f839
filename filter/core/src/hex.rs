//! Bytes as hexadecimal text.

/// Writes bytes in lower case.
pub fn to_hex(bytes: &[u8]) -> String {
    base16ct::lower::encode_string(bytes)
}

/// Writes bytes in upper case to `out`, which has twice their length.
pub fn write_upper(bytes: &[u8], out: &mut [u8]) {
    // The only error is a buffer that is too short.
    let _ = base16ct::upper::encode(bytes, out);
}

/// Reads text, in any case, of any number of bytes. `None`: the text isn't hexadecimal.
pub fn from_hex(text: &str) -> Option<Vec<u8>> {
    base16ct::mixed::decode_vec(text).ok()
}

/// Reads text, in any case, of exactly `N` bytes. `None`: the text isn't hexadecimal, or has
/// another length.
pub fn to_bytes<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    if text.len() != 2 * N {
        return None;
    }
    base16ct::mixed::decode(text, &mut bytes).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn both_ways() {
        assert_eq!(to_hex(&[0, 0xaf, 0x1b]), "00af1b");
        assert_eq!(from_hex("00AF1b"), Some(vec![0, 0xaf, 0x1b]));
        assert_eq!(to_bytes(b"00aF1B"), Some([0, 0xaf, 0x1b]));
        let mut upper = [0; 4];
        write_upper(&[0xaf, 0x1b], &mut upper);
        assert_eq!(&upper, b"AF1B");
        for bad in ["0", "0g", "+1", "00a"] {
            assert_eq!((from_hex(bad), to_bytes::<1>(bad.as_bytes())), (None, None), "{bad}");
        }
        assert_eq!((from_hex(""), to_bytes::<1>(b"")), (Some(vec![]), None));
    }
}
