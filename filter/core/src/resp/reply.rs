//! Framing of what a Redis answers, RESP2 and RESP3.

/// What [`measure`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// A complete reply of this many bytes.
    Complete(usize),
    /// More bytes are needed.
    Partial,
    /// These bytes are no reply.
    Malformed,
}

/// Finds the end of the reply that begins at `input[0]`, nested aggregates included, without recursion.
pub fn measure(input: &[u8]) -> Measure {
    let mut at = 0usize;
    // Elements that are still to come; an aggregate of n adds n. Nesting needs no stack.
    let mut left = 1u64;
    while left > 0 {
        let Some(&kind) = input.get(at) else {
            return Measure::Partial;
        };
        let Some(newline) = memchr::memchr(b'\n', &input[at..]).map(|i| i + at) else {
            return Measure::Partial;
        };
        let Some(line) = input[at + 1..newline].strip_suffix(b"\r") else {
            return Measure::Malformed;
        };
        at = newline + 1;
        left -= 1;
        match kind {
            b'+' | b'-' | b':' | b'_' | b',' | b'#' | b'(' => {}
            b'$' | b'=' | b'!' => match length(line) {
                Some(None) => {}
                Some(Some(n)) => {
                    let Some(end) = usize::try_from(n).ok().and_then(|n| at.checked_add(n)?.checked_add(2)) else {
                        return Measure::Malformed;
                    };
                    if input.len() < end {
                        return Measure::Partial;
                    }
                    at = end;
                }
                None => return Measure::Malformed,
            },
            b'*' | b'~' | b'>' | b'%' | b'|' => match length(line) {
                Some(None) => {}
                Some(Some(n)) => {
                    let n = if matches!(kind, b'%' | b'|') { n.saturating_mul(2) } else { n };
                    // An attribute precedes the reply that it describes.
                    left = left.saturating_add(n).saturating_add(u64::from(kind == b'|'));
                }
                None => return Measure::Malformed,
            },
            _ => return Measure::Malformed,
        }
    }
    Measure::Complete(at)
}

/// A length: `Some(None)` for -1.
fn length(digits: &[u8]) -> Option<Option<u64>> {
    if digits == b"-1" {
        return Some(None);
    }
    if digits.is_empty() || digits.len() > 18 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(Some(digits.iter().fold(0u64, |n, d| n * 10 + u64::from(d - b'0'))))
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn replies() {
        for reply in [
            &b"+OK\r\n"[..],
            b"-ERR x\r\n",
            b":1\r\n",
            b"$-1\r\n",
            b"*-1\r\n",
            b"$0\r\n\r\n",
            b"$2\r\n\r\n\r\n",
            b"*2\r\n*1\r\n:1\r\n$1\r\na\r\n",
            b"%1\r\n+a\r\n~2\r\n,1\r\n_\r\n",
            b"|1\r\n+ttl\r\n:1\r\n+OK\r\n",
            b"*0\r\n",
        ] {
            assert_eq!(measure(reply), Measure::Complete(reply.len()));
            for n in 0..reply.len() {
                assert_eq!(measure(&reply[..n]), Measure::Partial, "{}", reply[..n].escape_ascii());
            }
            let two = [reply, b"+OK\r\n"].concat();
            assert_eq!(measure(&two), Measure::Complete(reply.len()));
        }
        for bad in [&b"x\r\n"[..], b"$x\r\n", b"$-2\r\n", b"*99999999999999999999\r\n", b"+a\n"] {
            assert_eq!(measure(bad), Measure::Malformed);
        }
        assert_eq!(measure(b"*999999999999999999\r\n*999999999999999999\r\n"), Measure::Partial);
    }
}
