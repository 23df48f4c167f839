//! Turning a RESP2 reply into what the same server would have sent in RESP3.
//!
//! RESP3 tells maps, sets, doubles and nulls apart, RESP2 doesn't; which of them a reply is follows from the
//! command and is said by a [`Shape`]. The texts within are the same in both protocols, so that only heads are
//! rewritten and everything between them is copied as it came.

use memchr::memchr;

/// What a RESP2 reply is in RESP3.
///
/// Errors, integers and simple strings are the same in both and pass under every shape, and a null is a null. Where a
/// reply has another structure than its shape says (an odd number of elements under a map, a bulk string under a set),
/// it passes as [`Shape::Plain`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shape {
    /// Arrays and bulk strings stay what they are; a null may be anywhere.
    Plain,
    /// The same, and there is no null within an array: only the head of the reply is looked at.
    Flat,
    /// A bulk string becomes a double.
    Double,
    /// A bulk string becomes a verbatim text.
    Verbatim,
    /// Every element of an array has this shape.
    Array(&'static Shape),
    /// The elements of an array that are arrays have this shape; the others are plain.
    Arrays(&'static Shape),
    /// Each element of an array has its own shape; what is beyond the list is plain.
    Tuple(&'static [Shape]),
    /// An array becomes a set of elements of this shape.
    Set(&'static Shape),
    /// An array of alternating keys and values becomes a map; the values have this shape.
    Map(&'static Shape),
    /// The same, and the values under these names have their own shapes; the others are plain.
    Fields(&'static [(&'static str, Shape)]),
    /// An array of pairs, each an array of key and value, becomes a map; the values have this shape.
    EntryMap(&'static Shape),
    /// An array of alternating first and second halves becomes an array of arrays of two; the second has this shape.
    Pairs(&'static Shape),
}

/// Why a reply can't be converted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Error {
    /// It isn't complete.
    Incomplete,
    /// It isn't RESP2.
    Malformed,
}

/// What can be done with the beginning of a reply: see [`to_resp3_head`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Head {
    /// So many bytes of the input give way to what was appended to the output; the rest of the reply is right as it is.
    Replaced(usize),
    /// The shape touches more than the head.
    Whole,
}

/// Appends the RESP3 form of the reply that begins at `input[0]`; says how long the reply was. On an error nothing is
/// appended.
pub fn to_resp3(input: &[u8], shape: Shape, out: &mut Vec<u8>) -> Result<usize, Error> {
    convert(input, out, |converter| converter.value(shape))
}

/// The same for the reply to EXEC, whose elements have the shapes of the commands of the transaction; elements beyond
/// them are plain.
pub fn exec_to_resp3(input: &[u8], shapes: &[Shape], out: &mut Vec<u8>) -> Result<usize, Error> {
    convert(input, out, |converter| match converter.head()? {
        Token::Array(count) => (0..count).try_for_each(|index| {
            let shape = usize::try_from(index).ok().and_then(|index| shapes.get(index));
            converter.value(shape.copied().unwrap_or(Shape::Plain))
        }),
        head => converter.plain(head),
    })
}

/// The same from the beginning of the reply alone, where that is enough: for a value, HGETALL, SMEMBERS, LRANGE and
/// the like, however large they are. The caller copies what follows.
pub fn to_resp3_head(input: &[u8], shape: Shape, out: &mut Vec<u8>) -> Result<Head, Error> {
    let mut whole = false;
    let consumed = convert(input, out, |converter| {
        let start = converter.at;
        // A bulk string needn't be there with its content.
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
        return Ok(Head::Whole);
    }
    Ok(Head::Replaced(consumed))
}

const NULL: &[u8] = b"_\r\n";

/// The head of a value.
#[derive(Clone, Copy)]
enum Token {
    /// `$-1` or `*-1`
    Null,
    /// A bulk string of so many bytes.
    Bulk(usize),
    /// An array of so many elements.
    Array(u64),
    /// An error, an integer, a simple string.
    Other,
}

/// Reads the input from front to back and copies it in the longest runs that need no change.
struct Converter<'a> {
    input: &'a [u8],
    at: usize,
    /// What lies before is in the output already.
    copied: usize,
    out: &'a mut Vec<u8>,
}

fn convert(
    input: &[u8],
    out: &mut Vec<u8>,
    body: impl FnOnce(&mut Converter<'_>) -> Result<(), Error>,
) -> Result<usize, Error> {
    let before = out.len();
    let mut converter = Converter { input, at: 0, copied: 0, out };
    let result = body(&mut converter);
    converter.copy_to(converter.at);
    let consumed = converter.at;
    match result {
        Ok(()) => Ok(consumed),
        Err(error) => {
            out.truncate(before);
            Err(error)
        }
    }
}

impl Converter<'_> {
    fn copy_to(&mut self, end: usize) {
        self.out.extend_from_slice(self.input.get(self.copied..end).unwrap_or_default());
        self.copied = end;
    }

    /// Puts `text` in place of what was read since `start`.
    fn replace(&mut self, start: usize, text: &[u8]) {
        self.copy_to(start);
        self.out.extend_from_slice(text);
        self.copied = self.at;
    }

    fn replace_head(&mut self, start: usize, kind: u8, count: u64) {
        self.replace(start, &[kind]);
        self.number(count);
    }

    /// Appends a number and the end of the line.
    fn number(&mut self, mut number: u64) {
        let mut digits = [0; 20];
        let mut first = digits.len();
        for digit in digits.iter_mut().rev() {
            *digit = b'0' + (number % 10) as u8;
            number /= 10;
            first -= 1;
            if number == 0 {
                break;
            }
        }
        self.out.extend_from_slice(digits.get(first..).unwrap_or_default());
        self.out.extend_from_slice(b"\r\n");
    }

    fn replace_verbatim(&mut self, start: usize, length: usize) {
        const FORMAT: &[u8] = b"txt:";
        self.replace_head(start, b'=', length as u64 + FORMAT.len() as u64);
        self.out.extend_from_slice(FORMAT);
    }

    /// Reads the line that begins a value.
    fn line(&mut self) -> Result<Token, Error> {
        let rest = self.input.get(self.at..).unwrap_or_default();
        let &kind = rest.first().ok_or(Error::Incomplete)?;
        if !matches!(kind, b'+' | b'-' | b':' | b'$' | b'*') {
            return Err(Error::Malformed);
        }
        let Some(newline) = memchr(b'\n', rest) else {
            let endless = matches!(kind, b'$' | b'*' | b':') && rest.len() > 32;
            return Err(if endless { Error::Malformed } else { Error::Incomplete });
        };
        let line = rest.get(1..newline).and_then(|line| line.strip_suffix(b"\r")).ok_or(Error::Malformed)?;
        self.at += newline + 1;
        if !matches!(kind, b'$' | b'*') {
            return Ok(Token::Other);
        }
        if line == b"-1" {
            return Ok(Token::Null);
        }
        if line.is_empty() || line.len() > 18 || !line.iter().all(u8::is_ascii_digit) {
            return Err(Error::Malformed);
        }
        let number = line.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0'));
        if kind == b'*' {
            return Ok(Token::Array(number));
        }
        // Where usize has 32 bits, more than that can't have been received.
        usize::try_from(number).map(Token::Bulk).map_err(|_| Error::Malformed)
    }

    /// Reads the head of a value and, of a bulk string, the content; a null is replaced.
    fn head(&mut self) -> Result<Token, Error> {
        let start = self.at;
        let token = self.line()?;
        match token {
            Token::Bulk(length) => self.content(length)?,
            Token::Null => self.replace(start, NULL),
            Token::Array(_) | Token::Other => {}
        }
        Ok(token)
    }

    fn content(&mut self, length: usize) -> Result<(), Error> {
        let end = self.at.checked_add(length).and_then(|end| end.checked_add(2)).ok_or(Error::Malformed)?;
        match end.checked_sub(2).and_then(|from| self.input.get(from..end)) {
            Some(b"\r\n") => {}
            Some(_) => return Err(Error::Malformed),
            None => return Err(Error::Incomplete),
        }
        self.at = end;
        Ok(())
    }

    /// The rest of a value whose head was read. Nesting needs no stack: every array only adds to what is still to come.
    fn plain(&mut self, head: Token) -> Result<(), Error> {
        let Token::Array(mut left) = head else {
            return Ok(());
        };
        while left > 0 {
            left -= 1;
            if let Token::Array(count) = self.head()? {
                left = left.checked_add(count).ok_or(Error::Malformed)?;
            }
        }
        Ok(())
    }

    /// A value. The recursion is as deep as the shape, which is a constant of this crate.
    fn value(&mut self, shape: Shape) -> Result<(), Error> {
        let start = self.at;
        let head = self.line()?;
        match (head, shape) {
            (Token::Null, _) => self.replace(start, NULL),
            (Token::Other, _) => {}
            (Token::Bulk(length), Shape::Double) => self.double(start, length)?,
            (Token::Bulk(length), Shape::Verbatim) => {
                self.replace_verbatim(start, length);
                self.content(length)?;
            }
            (Token::Bulk(length), _) => self.content(length)?,
            (Token::Array(count), _) => self.array(start, count, shape)?,
        }
        Ok(())
    }

    fn array(&mut self, start: usize, count: u64, shape: Shape) -> Result<(), Error> {
        match shape {
            Shape::Plain | Shape::Flat | Shape::Double | Shape::Verbatim => self.plain(Token::Array(count)),
            Shape::Array(of) => (0..count).try_for_each(|_| self.value(*of)),
            Shape::Arrays(of) => (0..count).try_for_each(|_| {
                let shape = if self.input.get(self.at) == Some(&b'*') { *of } else { Shape::Plain };
                self.value(shape)
            }),
            Shape::Tuple(of) => (0..count).try_for_each(|index| {
                let shape = usize::try_from(index).ok().and_then(|index| of.get(index));
                self.value(shape.copied().unwrap_or(Shape::Plain))
            }),
            Shape::Set(of) => {
                self.replace_head(start, b'~', count);
                (0..count).try_for_each(|_| self.value(*of))
            }
            Shape::Map(_) | Shape::Fields(_) | Shape::Pairs(_) if count % 2 == 1 => self.plain(Token::Array(count)),
            Shape::Map(of) => {
                self.replace_head(start, b'%', count / 2);
                (0..count / 2).try_for_each(|_| {
                    self.value(Shape::Flat)?;
                    self.value(*of)
                })
            }
            Shape::Fields(fields) => {
                self.replace_head(start, b'%', count / 2);
                (0..count / 2).try_for_each(|_| {
                    let field = self.field(fields)?;
                    self.value(field)
                })
            }
            Shape::Pairs(of) => {
                self.replace_head(start, b'*', count / 2);
                (0..count / 2).try_for_each(|_| {
                    self.replace(self.at, b"*2\r\n");
                    self.value(Shape::Flat)?;
                    self.value(*of)
                })
            }
            Shape::EntryMap(of) => {
                let output = self.out.len();
                let copied = self.copied;
                self.replace_head(start, b'%', count);
                for _ in 0..count {
                    let entry = self.at;
                    if !matches!(self.line()?, Token::Array(2)) {
                        // No map after all: read it again as it is.
                        self.out.truncate(output);
                        (self.copied, self.at) = (copied, start);
                        return self.value(Shape::Plain);
                    }
                    self.replace(entry, b"");
                    self.value(Shape::Flat)?;
                    self.value(*of)?;
                }
                Ok(())
            }
        }
    }

    /// Reads a field's name; says the shape of its value.
    fn field(&mut self, fields: &[(&str, Shape)]) -> Result<Shape, Error> {
        let start = self.at;
        let head = self.head()?;
        self.plain(head)?;
        let name = self.input.get(start..self.at).unwrap_or_default();
        // What was read is `$length`, then the name between two line ends.
        let name = name.strip_suffix(b"\r\n").unwrap_or_default();
        let shape = fields.iter().find(|(field, _)| {
            name.strip_suffix(field.as_bytes()).is_some_and(|before| before.ends_with(b"\r\n") || before == b"+")
        });
        Ok(shape.map_or(Shape::Plain, |(_, shape)| *shape))
    }

    /// A number as the server wrote it, or else, if it isn't one, the bulk string that it is.
    fn double(&mut self, start: usize, length: usize) -> Result<(), Error> {
        let content = self.at;
        self.content(length)?;
        let text = self.input.get(content..content + length).unwrap_or_default();
        if is_double(text) {
            let end = self.at;
            self.at = content;
            self.replace(start, b",");
            self.at = end;
        }
        Ok(())
    }
}

fn is_double(text: &[u8]) -> bool {
    let unsigned = text.strip_prefix(b"-").unwrap_or(text);
    matches!(unsigned, b"inf" | b"nan")
        || (unsigned.first().is_some_and(u8::is_ascii_digit)
            && unsigned.iter().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'e' | b'E' | b'+' | b'-')))
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
                assert_eq!(to_resp3(&input[..length], *shape, &mut out), Err(Error::Incomplete), "{resp2} {length}");
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
                    Ok(Head::Replaced(consumed)) => {
                        let whole = [&out[6..], &input[consumed..]].concat();
                        assert_eq!(whole, expected, "{resp2}");
                    }
                    Ok(Head::Whole) => assert_eq!(out, b"before"),
                    Err(error) => {
                        assert_eq!(error, Error::Incomplete);
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
            assert_eq!((head, out), (Ok(Head::Replaced(wire(input).len())), wire(expected)), "{input}");
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
            assert_eq!(to_resp3(&wire(input), Shape::Plain, &mut out), Err(Error::Malformed), "{input}");
            assert!(out.is_empty());
        }
        let mut out = Vec::new();
        assert_eq!(to_resp3(&[b'$'; 40], Shape::Plain, &mut out), Err(Error::Malformed));
    }

    /// Replies of every structure under every shape: the same length is consumed as the framing finds, only nulls and
    /// heads change, and where the head alone is replaced the outcome is the same.
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
                if let Ok(Head::Replaced(consumed)) = to_resp3_head(&reply, *shape, &mut head)
                    && promises
                {
                    head.extend_from_slice(&reply[consumed..]);
                    assert_eq!(head, whole, "{shape:?} {show}");
                }
                let cut = below(reply.len() as u64) as usize;
                assert_eq!(
                    to_resp3(&reply[..cut], *shape, &mut Vec::new()),
                    Err(Error::Incomplete),
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
            assert_eq!(to_resp3(b"*999999999999999998\r\n", shape, &mut out), Err(Error::Incomplete));
            assert_eq!(to_resp3(&b"*999999999999999998\r\n".repeat(30), Shape::Plain, &mut out), Err(Error::Malformed));
        }
        assert!(out.capacity() < 1024);
    }
}
