//! The ends of replies in a stream that arrives in pieces, found without keeping bytes of the
//! stream.

/// The error for bytes that are no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Where the reader is in the reply that is under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum FramerState {
    /// At the beginning of an element.
    #[default]
    Kind,
    /// In the line of an element that ends with its line; true if the last byte was a carriage
    /// return.
    Text(bool),
    /// In the line of an element that announces a number.
    Number { kind: u8, value: u64, digits: u8, negative: bool },
    /// Before the line feed of an element that announces a number; `None`: the element is null.
    LineFeed { kind: u8, value: Option<u64> },
    /// In a string, of which so many bytes are to come, the line end included.
    String(u64),
}

/// Finds where replies end, nested aggregates included, without recursion and in O(1) memory.
#[derive(Clone, Debug, Default)]
pub struct Framer {
    state: FramerState,
    /// Number of elements that are to come after the one under way.
    left: u64,
    /// The first byte of the reply under way.
    kind: u8,
    is_open: bool,
}

impl Framer {
    /// True if a reply has begun and not ended.
    pub fn is_open(&self) -> bool {
        self.is_open
    }

    /// Returns the first byte of the last reply.
    pub fn kind(&self) -> u8 {
        self.kind
    }

    /// Goes on with the reply under way, or begins one. Returns how many bytes of `input` belong
    /// to the reply, and whether the reply ends there.
    pub fn feed(&mut self, input: &[u8]) -> Result<(usize, bool), Malformed> {
        if !self.is_open
            && let Some(end) = short_string(input)
        {
            self.kind = b'$';
            return Ok((end, true));
        }
        let mut at = 0;
        while let Some(&byte) = input.get(at) {
            let is_over = match self.state {
                FramerState::Kind => {
                    at += 1;
                    self.begin(byte)?
                }
                FramerState::Text(was_return) => self.text(input, &mut at, was_return)?,
                FramerState::Number { kind, value, digits, negative } => {
                    at += 1;
                    self.state = match byte {
                        b'0'..=b'9' if digits < 18 => {
                            let value = value * 10 + u64::from(byte - b'0');
                            FramerState::Number { kind, value, digits: digits + 1, negative }
                        }
                        b'-' if digits == 0 && !negative => FramerState::Number { kind, value, digits, negative: true },
                        b'\r' if digits > 0 && (!negative || value == 1) => {
                            FramerState::LineFeed { kind, value: (!negative).then_some(value) }
                        }
                        _ => return Err(Malformed),
                    };
                    false
                }
                FramerState::LineFeed { kind, value } => {
                    if byte != b'\n' {
                        return Err(Malformed);
                    }
                    at += 1;
                    self.announced(kind, value)
                }
                FramerState::String(rest) => {
                    let here = (input.len() - at) as u64;
                    if here < rest {
                        self.state = FramerState::String(rest - here);
                        return Ok((input.len(), false));
                    }
                    at += rest as usize;
                    self.ended()
                }
            };
            if is_over {
                return Ok((at, true));
            }
        }
        Ok((at, false))
    }

    /// Begins an element with its first byte. Returns false, since no reply ends with that byte.
    #[inline]
    fn begin(&mut self, byte: u8) -> Result<bool, Malformed> {
        if !self.is_open {
            self.is_open = true;
            self.kind = byte;
            self.left = 0;
        }
        self.state = match byte {
            b'+' | b'-' | b':' | b'_' | b',' | b'#' | b'(' => FramerState::Text(false),
            b'$' | b'=' | b'!' | b'*' | b'~' | b'>' | b'%' | b'|' => {
                FramerState::Number { kind: byte, value: 0, digits: 0, negative: false }
            }
            _ => return Err(Malformed),
        };
        Ok(false)
    }

    /// Looks for the end of the line of an element that ends with its line. True: the reply ends
    /// there.
    #[inline]
    fn text(&mut self, input: &[u8], at: &mut usize, was_return: bool) -> Result<bool, Malformed> {
        let line = input.get(*at..).unwrap_or_default();
        let ends_in_return = |text: &[u8]| text.last().map_or(was_return, |byte| *byte == b'\r');
        let Some(end) = memchr::memchr(b'\n', line) else {
            self.state = FramerState::Text(ends_in_return(line));
            *at = input.len();
            return Ok(false);
        };
        if !ends_in_return(line.get(..end).unwrap_or_default()) {
            return Err(Malformed);
        }
        *at += end + 1;
        Ok(self.ended())
    }

    /// Ends the line of an element that announces a number; `None`: the element is null. True: the
    /// reply ends there.
    #[inline]
    fn announced(&mut self, kind: u8, value: Option<u64>) -> bool {
        match (kind, value) {
            (_, None) => {}
            (b'$' | b'=' | b'!', Some(length)) => {
                self.state = FramerState::String(length + 2);
                return false;
            }
            (b'%', Some(pairs)) => self.left = self.left.saturating_add(pairs.saturating_mul(2)),
            // An attribute precedes the reply that it describes.
            (b'|', Some(pairs)) => self.left = self.left.saturating_add(pairs.saturating_mul(2)).saturating_add(1),
            (_, Some(elements)) => self.left = self.left.saturating_add(elements),
        }
        self.ended()
    }

    /// Ends an element. True: the reply ends there.
    fn ended(&mut self) -> bool {
        self.state = FramerState::Kind;
        self.is_open = self.left > 0;
        self.left = self.left.saturating_sub(1);
        !self.is_open
    }
}

/// Returns the end of a string of fewer than a thousand bytes, if all of it has arrived. Most
/// replies are such strings.
fn short_string(input: &[u8]) -> Option<usize> {
    let digit = |byte: u8| usize::from(byte - b'0');
    let (length, head) = match *input {
        [b'$', a @ b'0'..=b'9', b'\r', b'\n', ..] => (digit(a), 4),
        [b'$', a @ b'0'..=b'9', b @ b'0'..=b'9', b'\r', b'\n', ..] => (digit(a) * 10 + digit(b), 5),
        [b'$', a @ b'0'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9', b'\r', b'\n', ..] => {
            (digit(a) * 100 + digit(b) * 10 + digit(c), 6)
        }
        _ => return None,
    };
    let end = head + length + 2;
    (end <= input.len()).then_some(end)
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn replies_in_pieces() {
        let replies: [&[u8]; 13] = [
            b"+OK\r\n",
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
            b">2\r\n+a\r\n=5\r\ntxt:a\r\n",
            b"*2\r\n*0\r\n*-1\r\n",
        ];
        let all = replies.concat();
        for size in 1..=all.len() {
            let (mut framer, mut ends, mut begin) = (Framer::default(), Vec::new(), 0);
            for piece in all.chunks(size) {
                let mut at = 0;
                while at < piece.len() {
                    let (used, complete) = framer.feed(&piece[at..]).unwrap();
                    at += used;
                    if complete {
                        ends.push(begin + at);
                    }
                }
                begin += piece.len();
            }
            let expected = replies.iter().scan(0, |end, reply| {
                *end += reply.len();
                Some(*end)
            });
            assert_eq!(ends, expected.collect::<Vec<_>>(), "pieces of {size}");
            assert!(!framer.is_open());
        }
        for reply in replies {
            let two = [reply, b"+OK\r\n"].concat();
            assert_eq!(Framer::default().feed(&two), Ok((reply.len(), true)), "{}", reply.escape_ascii());
            for n in 0..reply.len() {
                assert_eq!(Framer::default().feed(&reply[..n]), Ok((n, false)), "{}", reply[..n].escape_ascii());
            }
        }
    }

    #[test]
    fn what_is_no_reply() {
        for bad in [
            &b"x\r\n"[..],
            b"$x\r\n",
            b"$-2\r\n",
            b"*99999999999999999999\r\n",
            b"$1\n",
            b"$\r\n",
            b"*1\rx",
            b"+a\n",
            b"+\n",
        ] {
            assert!(Framer::default().feed(bad).is_err(), "{}", bad.escape_ascii());
        }
        let mut framer = Framer::default();
        assert_eq!(framer.feed(b"*999999999999999999\r\n*999999999999999999\r\n"), Ok((42, false)));
    }
}
