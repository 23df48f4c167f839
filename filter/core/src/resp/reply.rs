//! Framing of what a Redis answers, RESP2 and RESP3.

use super::framer::{Framer, Malformed};

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

/// Finds the end of the reply that begins at `input[0]`, as [`Framer`] does it.
pub fn measure(input: &[u8]) -> Measure {
    match Framer::default().feed(input) {
        Ok((length, true)) => Measure::Complete(length),
        Ok((_, false)) => Measure::Partial,
        Err(Malformed) => Measure::Malformed,
    }
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
