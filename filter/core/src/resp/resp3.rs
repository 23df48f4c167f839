//! Conversion of a RESP2 reply to the reply that the same server would have sent in RESP3.
//!
//! RESP3 has types for maps, sets, doubles and nulls that RESP2 hasn't. Which of them a reply has
//! follows from the command, as a [`Shape`]. Texts are the same in both protocols, so only the
//! heads of values are rewritten, and everything between them is copied.

pub use super::converter::{ConversionError, length_by_head};
use super::converter::{NULL, Token, convert};
use super::shape::Shape;

/// The conversion of the beginning of a reply: see [`to_resp3_head`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HeadForm {
    /// So many bytes of the input give way to the bytes that were appended; the rest of the reply
    /// stays as it is.
    Replaced(usize),
    /// The shape concerns more than the head.
    Whole,
}

/// Appends the RESP3 form of the reply that begins at `input[0]`, and returns the length of the
/// reply. On an error nothing is appended.
pub fn to_resp3(input: &[u8], shape: Shape, out: &mut Vec<u8>) -> Result<usize, ConversionError> {
    convert(input, out, |converter| converter.value(shape))
}

/// Does what [`to_resp3`] does for the reply to EXEC, whose elements have the shapes of the
/// transaction's commands. Elements beyond these are plain.
pub fn exec_to_resp3(input: &[u8], shapes: &[Shape], out: &mut Vec<u8>) -> Result<usize, ConversionError> {
    convert(input, out, |converter| match converter.head()? {
        Token::Array(count) => (0..count).try_for_each(|index| {
            let shape = usize::try_from(index).ok().and_then(|index| shapes.get(index));
            converter.value(shape.copied().unwrap_or(Shape::Plain))
        }),
        head => converter.plain(head),
    })
}

/// Converts the head of a reply alone where that is enough: for a value, HGETALL, SMEMBERS, LRANGE
/// and the like, however large they are. The caller copies the rest.
pub fn to_resp3_head(input: &[u8], shape: Shape, out: &mut Vec<u8>) -> Result<HeadForm, ConversionError> {
    let mut whole = false;
    let consumed = convert(input, out, |converter| {
        let start = converter.at;
        // The content of a bulk string isn't needed.
        let head = converter.line()?;
        whole = match (head, shape) {
            (Token::Null, _) => {
                converter.replace(start, NULL);
                false
            }
            (Token::Other | Token::Array(0), Shape::Double | Shape::Verbatim | Shape::Plain | Shape::Flat) => false,
            (Token::Other, _) | (Token::Array(_), Shape::Flat) => false,
            (Token::Bulk(length), Shape::Verbatim) => {
                converter.replace_verbatim(start, length);
                false
            }
            (Token::Bulk(_), Shape::Double) => true,
            (Token::Bulk(_), _) => false,
            (Token::Array(count), Shape::Map(Shape::Flat)) if count % 2 == 0 => {
                converter.replace_head(start, b'%', count / 2);
                false
            }
            (Token::Array(count), Shape::Set(Shape::Flat)) => {
                converter.replace_head(start, b'~', count);
                false
            }
            (Token::Array(_), _) => true,
        };
        Ok(())
    })?;
    if whole {
        out.truncate(out.len() - consumed);
        return Ok(HeadForm::Whole);
    }
    Ok(HeadForm::Replaced(consumed))
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::resp::framer::Framer;

    /// Replies are written with `|` for the end of a line.
    fn wire(text: &str) -> Vec<u8> {
        text.replace('|', "\r\n").into_bytes()
    }

    const SCORES: Shape = Shape::Pairs(&Shape::Double);
    const FIELDS: Shape =
        Shape::Fields(&[("flags", Shape::Set(&Shape::Flat)), ("list", Shape::Array(&Shape::Map(&Shape::Flat)))]);

    const CASES: &[(&str, Shape, &str)] = &[
        // Nothing changes, whatever the shape.
        ("+OK|", Shape::Map(&Shape::Flat), "+OK|"),
        ("-ERR no|", SCORES, "-ERR no|"),
        (":1|", Shape::Set(&Shape::Flat), ":1|"),
        ("+QUEUED|", Shape::Double, "+QUEUED|"),
        // Nulls.
        ("$-1|", Shape::Plain, "_|"),
        ("*-1|", Shape::Flat, "_|"),
        ("$-1|", Shape::Double, "_|"),
        ("*-1|", Shape::EntryMap(&Shape::Plain), "_|"),
        ("*3|$1|a|$-1|*2|*-1|:1|", Shape::Plain, "*3|$1|a|_|*2|_|:1|"),
        ("$5|$-1||", Shape::Plain, "$5|$-1||"),
        // Values.
        ("$1|a|", Shape::Flat, "$1|a|"),
        ("$0||", Shape::Plain, "$0||"),
        ("$3|1.5|", Shape::Double, ",1.5|"),
        ("$4|-inf|", Shape::Double, ",-inf|"),
        ("$6|1e-300|", Shape::Double, ",1e-300|"),
        ("$3|one|", Shape::Double, "$3|one|"),
        ("$0||", Shape::Double, "$0||"),
        ("$3|abc|", Shape::Verbatim, "=7|txt:abc|"),
        ("$0||", Shape::Verbatim, "=4|txt:|"),
        // Aggregates.
        ("*0|", Shape::Map(&Shape::Flat), "%0|"),
        ("*4|$1|a|$1|b|$1|c|$1|d|", Shape::Map(&Shape::Flat), "%2|$1|a|$1|b|$1|c|$1|d|"),
        ("*3|$1|a|$1|b|$1|c|", Shape::Map(&Shape::Flat), "*3|$1|a|$1|b|$1|c|"),
        ("$1|a|", Shape::Map(&Shape::Flat), "$1|a|"),
        ("*2|$1|a|$1|b|", Shape::Set(&Shape::Flat), "~2|$1|a|$1|b|"),
        ("*2|$1|a|$1|1|", Shape::Tuple(&[Shape::Flat, Shape::Double]), "*2|$1|a|,1|"),
        ("*3|$1|1|$-1|$1|2|", Shape::Array(&Shape::Double), "*3|,1|_|,2|"),
        ("*4|$1|a|$1|1|$1|b|$3|2.5|", SCORES, "*2|*2|$1|a|,1|*2|$1|b|,2.5|"),
        ("*0|", SCORES, "*0|"),
        ("*1|$1|a|", SCORES, "*1|$1|a|"),
        ("*1|*2|$1|k|*1|*2|$3|1-1|$-1|", Shape::EntryMap(&Shape::Plain), "%1|$1|k|*1|*2|$3|1-1|_|"),
        ("*2|*2|$1|k|*0|$1|x|", Shape::EntryMap(&Shape::Plain), "*2|*2|$1|k|*0|$1|x|"),
        (
            "*2|*2|$1|a|*2|$1|1|$1|2|$1|b|",
            Shape::Array(&Shape::Arrays(&Shape::Array(&Shape::Double))),
            "*2|*2|$1|a|*2|,1|,2|$1|b|",
        ),
        ("*4|$5|flags|*1|$1|x|$4|list|*1|*2|$1|a|$-1|", FIELDS, "%2|$5|flags|~1|$1|x|$4|list|*1|%1|$1|a|_|"),
    ];

    #[test]
    fn shapes() {
        for (resp2, shape, resp3) in CASES {
            let (input, expected) = (wire(resp2), wire(resp3));
            for behind in ["", "+NEXT\r\n", "$-1\r\n"] {
                let mut out = b"before".to_vec();
                let consumed = to_resp3(&[&input, behind.as_bytes()].concat(), *shape, &mut out);
                assert_eq!(consumed, Ok(input.len()), "{resp2}");
                assert_eq!(out, [b"before", &expected[..]].concat(), "{resp2}");
            }
            for length in 0..input.len() {
                let mut out = b"before".to_vec();
                assert_eq!(
                    to_resp3(&input[..length], *shape, &mut out),
                    Err(ConversionError::Incomplete),
                    "{resp2} {length}"
                );
                assert_eq!(out, b"before");
            }
        }
    }

    #[test]
    fn heads() {
        for (resp2, shape, resp3) in CASES {
            let (input, expected) = (wire(resp2), wire(resp3));
            let line = input.iter().position(|byte| *byte == b'\n').unwrap() + 1;
            for length in 0..=input.len() {
                let mut out = b"before".to_vec();
                match to_resp3_head(&input[..length], *shape, &mut out) {
                    Ok(HeadForm::Replaced(consumed)) => {
                        let whole = [&out[6..], &input[consumed..]].concat();
                        assert_eq!(whole, expected, "{resp2}");
                    }
                    Ok(HeadForm::Whole) => assert_eq!(out, b"before"),
                    Err(error) => {
                        assert_eq!(error, ConversionError::Incomplete);
                        assert!(length < line, "{resp2} {length}");
                        assert_eq!(out, b"before");
                    }
                }
            }
        }
    }

    #[test]
    fn large_replies_need_their_heads_only() {
        let replaced = |input: &str, shape, expected: &str| {
            let mut out = Vec::new();
            let head = to_resp3_head(&wire(input), shape, &mut out);
            assert_eq!((head, out), (Ok(HeadForm::Replaced(wire(input).len())), wire(expected)), "{input}");
        };
        replaced("*2000000|", Shape::Map(&Shape::Flat), "%1000000|");
        replaced("*2000000|", Shape::Set(&Shape::Flat), "~2000000|");
        replaced("*2000000|", Shape::Flat, "*2000000|");
        replaced("$536870912|", Shape::Plain, "$536870912|");
        replaced("$1000|", Shape::Verbatim, "=1004|txt:");
        replaced("*0|", Shape::Plain, "*0|");
    }

    #[test]
    fn transactions() {
        let shapes = [Shape::Map(&Shape::Flat), Shape::Double, Shape::Plain];
        let check = |resp2: &str, resp3: &str| {
            let mut out = Vec::new();
            assert_eq!(exec_to_resp3(&wire(resp2), &shapes, &mut out), Ok(wire(resp2).len()));
            assert_eq!(out, wire(resp3));
        };
        check("*3|*2|$1|a|$1|1|$1|1|*1|$-1|", "*3|%1|$1|a|$1|1|,1|*1|_|");
        check("*4|-ERR x|$1|1|:1|$1|1|", "*4|-ERR x|,1|:1|$1|1|");
        check("*-1|", "_|");
        check("-EXECABORT x|", "-EXECABORT x|");
    }

    #[test]
    fn malformed_replies() {
        for input in ["x|", "$x|", "$-2|", "*-2|", "$|", "*99999999999999999999|", "$1|ab|", "+a\n", "_|", "%0|", ",1|"]
        {
            let mut out = Vec::new();
            assert_eq!(to_resp3(&wire(input), Shape::Plain, &mut out), Err(ConversionError::Malformed), "{input}");
            assert!(out.is_empty());
        }
        let mut out = Vec::new();
        assert_eq!(to_resp3(&[b'$'; 40], Shape::Plain, &mut out), Err(ConversionError::Malformed));
    }

    /// Replies of every structure under every shape: the same length is consumed as the framing
    /// finds, only nulls and heads change, and where the head alone is replaced the outcome is the
    /// same.
    #[test]
    fn random_replies_under_all_shapes() {
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let mut below = |n: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 16) % n
        };
        let mut shapes: Vec<Shape> = CASES.iter().map(|(_, shape, _)| *shape).collect();
        shapes.dedup();
        for _ in 0..2000 {
            let mut reply = Vec::new();
            let mut left = 1;
            while left > 0 {
                left -= 1;
                let kind = if reply.len() > 400 { below(5) } else { below(8) };
                let text: &[u8] = match kind {
                    0 => b"+OK\r\n",
                    1 => b":1\r\n",
                    2 => b"$-1\r\n",
                    3 => b"$3\r\n1.5\r\n",
                    4 => b"$5\r\nflags\r\n",
                    5 => b"*-1\r\n",
                    _ => {
                        let count = below(5);
                        left += count;
                        reply.extend_from_slice(format!("*{count}\r\n").as_bytes());
                        b""
                    }
                };
                reply.extend_from_slice(text);
            }
            for shape in &shapes {
                let mut whole = Vec::new();
                let show = reply.escape_ascii();
                assert_eq!(to_resp3(&reply, *shape, &mut whole), Ok(reply.len()), "{shape:?} {show}");
                assert_eq!(Framer::default().feed(&whole), Ok((whole.len(), true)), "{shape:?} {show}");
                // A shape that promises no nulls is broken by most of these replies.
                let promises = !matches!(shape, Shape::Flat | Shape::Map(_) | Shape::Set(_));
                let mut head = Vec::new();
                if let Ok(HeadForm::Replaced(consumed)) = to_resp3_head(&reply, *shape, &mut head)
                    && promises
                {
                    head.extend_from_slice(&reply[consumed..]);
                    assert_eq!(head, whole, "{shape:?} {show}");
                }
                let cut = below(reply.len() as u64) as usize;
                assert_eq!(
                    to_resp3(&reply[..cut], *shape, &mut Vec::new()),
                    Err(ConversionError::Incomplete),
                    "{shape:?} {show}"
                );
            }
        }
    }

    #[test]
    fn deep_nesting_and_claimed_lengths_cost_nothing() {
        let deep: Vec<u8> = [b"*1\r\n".repeat(1_000_000), b"$-1\r\n".to_vec()].concat();
        let mut out = Vec::new();
        assert_eq!(to_resp3(&deep, Shape::Plain, &mut out), Ok(deep.len()));
        assert!(out.ends_with(b"*1\r\n_\r\n"));
        let mut out = Vec::new();
        for shape in [Shape::Plain, Shape::Set(&Shape::Flat), SCORES, Shape::EntryMap(&Shape::Flat)] {
            assert_eq!(to_resp3(b"*999999999999999998\r\n", shape, &mut out), Err(ConversionError::Incomplete));
            assert_eq!(
                to_resp3(&b"*999999999999999998\r\n".repeat(30), Shape::Plain, &mut out),
                Err(ConversionError::Malformed)
            );
        }
        assert!(out.capacity() < 1024);
    }
}
