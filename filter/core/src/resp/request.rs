//! The framing of requests: arrays of bulk strings and inline commands.
//!
//! [`Parser`] is incremental: it is called with the same buffer, grown at its end, until a command
//! is complete, and looks at no byte twice. It is stricter than Redis where two parsers could
//! disagree about the beginning of a command: every line ends in `\r\n`, and numbers have no sign
//! and no leading zero.

use crate::hex::to_bytes;
use crate::wire::Limits;
use std::fmt;

/// The place of an argument in the buffer, relative to the command's first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Offset of the first byte.
    pub start: u32,
    /// Length in bytes.
    pub len: u32,
}

impl Span {
    /// Returns the argument's bytes.
    pub fn of(self, frame: &[u8]) -> &[u8] {
        let start = self.start as usize;
        frame.get(start..start + self.len as usize).unwrap_or_default()
    }
}

/// The reason why a client's bytes aren't RESP. [`fmt::Display`] writes the error, in Redis's
/// words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProtocolError {
    /// `*` without a number, or with one that exceeds [`Limits::max_arguments`].
    MultibulkLength,
    /// `$` without a number, or with one that exceeds [`Limits::max_bulk_bytes`].
    BulkLength,
    /// Something other than `$` where an argument begins.
    ExpectedDollar(u8),
    /// An argument that isn't followed by `\r\n`.
    MissingTerminator,
    /// An inline command with quotes that don't match.
    UnbalancedQuotes,
    /// An inline command or a length line that is too long.
    TooBigInline,
    /// A command that has to be held as a whole, and exceeds [`Limits::max_held_bytes`].
    TooBigHeld,
    /// The first words of an HTTP request, which Redis treats as an attack from a browser.
    CrossProtocol,
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ERR Protocol error: ")?;
        match self {
            ProtocolError::MultibulkLength => f.write_str("invalid multibulk length"),
            ProtocolError::BulkLength => f.write_str("invalid bulk length"),
            ProtocolError::ExpectedDollar(b) => {
                let shown = if b.is_ascii_graphic() { *b as char } else { '?' };
                write!(f, "expected '$', got '{shown}'")
            }
            ProtocolError::MissingTerminator => f.write_str("expected CRLF after an argument"),
            ProtocolError::UnbalancedQuotes => f.write_str("unbalanced quotes in request"),
            ProtocolError::TooBigInline => f.write_str("too big inline request"),
            ProtocolError::TooBigHeld => f.write_str("too big a command whose keys decide where it goes"),
            ProtocolError::CrossProtocol => f.write_str("possible cross protocol scripting"),
        }
    }
}

/// The result of [`Parser::parse`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// More bytes are needed.
    Partial,
    /// A complete command of this many bytes.
    Complete(usize),
    /// This many bytes without meaning (an empty line, an empty array), to be skipped.
    Nothing(usize),
}

/// An incremental parser for one command at a time.
#[derive(Debug, Default)]
pub struct Parser {
    args: Vec<Span>,
    /// Number of arguments that the header announced.
    expected: u32,
    /// Number of bytes that have been looked at.
    position: usize,
    /// Length of the argument that begins at `position`, once its own header has been read.
    bulk: Option<u32>,
    /// For inline commands: the arguments with their quotes resolved.
    inline: Option<Vec<u8>>,
}

/// A list of more spans than this is freed after a command.
const KEPT_ARGUMENTS: usize = 64;

impl Parser {
    /// Returns the arguments found so far; their spans refer to [`Parser::frame`].
    pub fn args(&self) -> &[Span] {
        &self.args
    }

    /// Returns the number of arguments that the command will have; 0 while that isn't known.
    pub fn expected(&self) -> u32 {
        self.expected
    }

    /// Returns the span of the argument whose header has been read but which isn't complete.
    pub fn open_argument(&self) -> Option<Span> {
        self.bulk.map(|len| Span { start: self.position as u32, len })
    }

    /// Returns the number of bytes of the buffer that have been looked at.
    pub fn position(&self) -> usize {
        self.position
    }

    /// Returns the bytes that the spans refer to: the buffer itself, or the unquoted form of an
    /// inline command.
    pub fn frame<'a>(&'a self, buffer: &'a [u8]) -> &'a [u8] {
        self.inline.as_deref().unwrap_or(buffer)
    }

    /// True if the command came as an inline command.
    pub fn is_inline(&self) -> bool {
        self.inline.is_some()
    }

    /// Forgets the command, so that the next one can be parsed.
    pub fn reset(&mut self) {
        if self.args.capacity() > KEPT_ARGUMENTS {
            self.args = Vec::new();
        } else {
            self.args.clear();
        }
        self.expected = 0;
        self.position = 0;
        self.bulk = None;
        self.inline = None;
    }

    /// Reads the header of an argument that begins at `buffer[0]`, for commands that are passed on
    /// while they arrive. Returns the argument's length and the size of the header; `None`: more
    /// bytes are needed.
    pub fn argument_header(buffer: &[u8], limits: &Limits) -> Result<Option<(u32, usize)>, ProtocolError> {
        // Most arguments are shorter than a hundred bytes.
        match *buffer {
            [] => return Ok(None),
            [b'$', d @ b'0'..=b'9', b'\r', b'\n', ..] if limits.max_bulk_bytes > 99 => {
                return Ok(Some((u32::from(d - b'0'), 4)));
            }
            [b'$', a @ b'1'..=b'9', b @ b'0'..=b'9', b'\r', b'\n', ..] if limits.max_bulk_bytes > 99 => {
                return Ok(Some((u32::from(a - b'0') * 10 + u32::from(b - b'0'), 5)));
            }
            [b'$', ..] => {}
            [other, ..] => return Err(ProtocolError::ExpectedDollar(other)),
        }
        let Some((n, next)) = number(buffer, 1, limits.max_inline_bytes, ProtocolError::BulkLength)? else {
            return Ok(None);
        };
        let n = n.filter(|&n| n <= limits.max_bulk_bytes.min(MAX_OFFSET)).ok_or(ProtocolError::BulkLength)?;
        Ok(Some((n as u32, next)))
    }

    /// Goes on parsing the command that begins at `buffer[0]`.
    pub fn parse(&mut self, buffer: &[u8], limits: &Limits) -> Result<Progress, ProtocolError> {
        if self.expected == 0 {
            match buffer.first() {
                None => return Ok(Progress::Partial),
                Some(b'*') => {
                    // Most commands have fewer than ten arguments.
                    if let [_, n @ b'1'..=b'9', b'\r', b'\n', ..] = *buffer
                        && limits.max_arguments > 9
                    {
                        self.expected = u32::from(n - b'0');
                        self.position = 4;
                        return self.parse_arguments(buffer, limits);
                    }
                    let Some((n, next)) = number(buffer, 1, limits.max_inline_bytes, ProtocolError::MultibulkLength)?
                    else {
                        return Ok(Progress::Partial);
                    };
                    let Some(n) = n.filter(|&n| n > 0) else {
                        return Ok(Progress::Nothing(next));
                    };
                    if n > u64::from(limits.max_arguments) {
                        return Err(ProtocolError::MultibulkLength);
                    }
                    self.expected = n as u32;
                    self.position = next;
                }
                Some(_) => return self.parse_inline(buffer, limits),
            }
        }
        self.parse_arguments(buffer, limits)
    }

    fn parse_arguments(&mut self, buffer: &[u8], limits: &Limits) -> Result<Progress, ProtocolError> {
        while (self.args.len() as u32) < self.expected {
            let len = match self.bulk {
                Some(len) => len,
                None => {
                    let rest = buffer.get(self.position..).unwrap_or_default();
                    let Some((len, header)) = Parser::argument_header(rest, limits)? else {
                        return Ok(Progress::Partial);
                    };
                    self.position += header;
                    self.bulk = Some(len);
                    len
                }
            };
            let end = self.position + len as usize;
            let Some(terminator) = buffer.get(end..end + 2) else {
                // The first byte of a terminator may be wrong already.
                if buffer.get(end).is_some_and(|&b| b != b'\r') {
                    return Err(ProtocolError::MissingTerminator);
                }
                return Ok(Progress::Partial);
            };
            if terminator != b"\r\n" {
                return Err(ProtocolError::MissingTerminator);
            }
            self.args.push(Span { start: self.position as u32, len });
            self.bulk = None;
            self.position = end + 2;
        }
        Ok(Progress::Complete(self.position))
    }

    fn parse_inline(&mut self, buffer: &[u8], limits: &Limits) -> Result<Progress, ProtocolError> {
        let Some(newline) = memchr::memchr(b'\n', &buffer[self.position..]).map(|i| i + self.position) else {
            self.position = buffer.len();
            if buffer.len() > limits.max_inline_bytes as usize {
                return Err(ProtocolError::TooBigInline);
            }
            return Ok(Progress::Partial);
        };
        if newline > limits.max_inline_bytes as usize {
            return Err(ProtocolError::TooBigInline);
        }
        let line = &buffer[..newline];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let mut unquoted = Vec::with_capacity(line.len());
        split_inline(line, &mut unquoted, &mut self.args)?;
        if self.args.is_empty() {
            return Ok(Progress::Nothing(newline + 1));
        }
        if self.args.len() > limits.max_arguments as usize {
            return Err(ProtocolError::MultibulkLength);
        }
        let name = self.args[0].of(&unquoted);
        if name.eq_ignore_ascii_case(b"post") || name.eq_ignore_ascii_case(b"host:") {
            return Err(ProtocolError::CrossProtocol);
        }
        self.expected = self.args.len() as u32;
        self.inline = Some(unquoted);
        self.position = newline + 1;
        Ok(Progress::Complete(newline + 1))
    }
}

/// Offsets are 32 bits wide, so that a connection stays small and wasm32 and 64-bit hosts behave
/// alike.
const MAX_OFFSET: u64 = (u32::MAX / 2) as u64;

/// A number in a length line: `None` for a negative one.
type Length = Option<u64>;

/// Reads a number and `\r\n` at `at`. Returns the number and the offset behind it; `None`: more
/// bytes are needed.
fn number(
    buffer: &[u8],
    at: usize,
    max_line: u32,
    error: ProtocolError,
) -> Result<Option<(Length, usize)>, ProtocolError> {
    let mut value = 0u64;
    let mut i = at;
    let negative = buffer.get(i) == Some(&b'-');
    if negative {
        i += 1;
    }
    let first = i;
    loop {
        match buffer.get(i) {
            None => {
                // Redis bounds length lines as it bounds inline commands.
                return if i - at > max_line as usize { Err(error) } else { Ok(None) };
            }
            Some(digit @ b'0'..=b'9') => {
                let leading_zero = i > first && value == 0;
                if leading_zero || value > u64::from(u32::MAX) {
                    return Err(error);
                }
                value = value * 10 + u64::from(digit - b'0');
                i += 1;
            }
            Some(b'\r') if i > first => match buffer.get(i + 1) {
                None => return Ok(None),
                Some(b'\n') => return Ok(Some(((!negative).then_some(value), i + 2))),
                Some(_) => return Err(error),
            },
            Some(_) => return Err(error),
        }
    }
}

/// Splits a line as Redis's `sdssplitargs` does, into words, "double quotes" with escapes and
/// 'single quotes'.
fn split_inline(line: &[u8], out: &mut Vec<u8>, args: &mut Vec<Span>) -> Result<(), ProtocolError> {
    let space = |b: u8| matches!(b, b' ' | b'\t' | b'\r' | b'\n' | 0x0b | 0x0c | 0);
    let mut i = 0;
    loop {
        while line.get(i).is_some_and(|&b| space(b)) {
            i += 1;
        }
        if i >= line.len() {
            return Ok(());
        }
        let start = out.len();
        loop {
            match line.get(i) {
                None => break,
                Some(&b) if space(b) => break,
                Some(&quote @ (b'"' | b'\'')) => {
                    i = quoted(line, i + 1, quote, out)?;
                    // A closing quote must be followed by a space or nothing.
                    if line.get(i).is_some_and(|&b| !space(b)) {
                        return Err(ProtocolError::UnbalancedQuotes);
                    }
                }
                Some(&b) => {
                    out.push(b);
                    i += 1;
                }
            }
        }
        args.push(Span { start: start as u32, len: (out.len() - start) as u32 });
    }
}

/// Resolves a quoted string that begins at `i`. Returns the offset behind its closing quote.
fn quoted(line: &[u8], mut i: usize, quote: u8, out: &mut Vec<u8>) -> Result<usize, ProtocolError> {
    loop {
        let rest = line.get(i..).unwrap_or_default();
        match *rest {
            [] => return Err(ProtocolError::UnbalancedQuotes),
            [b, ..] if b == quote => return Ok(i + 1),
            [b'\\', b'\'', ..] if quote == b'\'' => {
                out.push(b'\'');
                i += 2;
            }
            [b'\\', escaped, ..] if quote == b'"' => {
                if let [_, b'x', high, low, ..] = *rest
                    && let Some([byte]) = to_bytes(&[high, low])
                {
                    out.push(byte);
                    i += 4;
                    continue;
                }
                out.push(match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 8,
                    b'a' => 7,
                    other => other,
                });
                i += 2;
            }
            [b, ..] => {
                out.push(b);
                i += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    /// Parses `input`, given in pieces of every size, to the arguments of its first command.
    fn check(input: &[u8], want: Result<&[&[u8]], ProtocolError>) {
        for piece in 1..=input.len().max(1) {
            let mut parser = Parser::default();
            let mut given = 0;
            let got = loop {
                given = (given + piece).min(input.len());
                match parser.parse(&input[..given], &Limits::default()) {
                    Err(e) => break Err(e),
                    Ok(Progress::Complete(_)) => {
                        let frame = parser.frame(input);
                        break Ok(parser.args().iter().map(|s| s.of(frame).to_vec()).collect::<Vec<_>>());
                    }
                    Ok(Progress::Nothing(_)) => break Ok(vec![]),
                    Ok(Progress::Partial) => assert!(given < input.len(), "{:?} is not complete", input.escape_ascii()),
                }
            };
            let want = want.map(|args| args.iter().map(|a| a.to_vec()).collect::<Vec<_>>());
            assert_eq!(got, want, "{} in pieces of {piece}", input.escape_ascii());
        }
    }

    #[test]
    fn commands() {
        check(b"*1\r\n$4\r\nPING\r\n", Ok(&[b"PING"]));
        check(b"*2\r\n$3\r\nGET\r\n$0\r\n\r\n", Ok(&[b"GET", b""]));
        check(b"*2\r\n$3\r\nGET\r\n$4\r\n\r\n\r\n\r\n", Ok(&[b"GET", b"\r\n\r\n"]));
        check(b"*0\r\n", Ok(&[]));
        check(b"*-1\r\n", Ok(&[]));
    }

    #[test]
    fn inline_commands() {
        check(b"PING\r\n", Ok(&[b"PING"]));
        check(b"  set a \"b c\\x41\\n\"  'd\\'e' \n", Ok(&[b"set", b"a", b"b cA\n", b"d'e"]));
        check(b"\r\n", Ok(&[]));
        check(b"get \"a\r\n", Err(ProtocolError::UnbalancedQuotes));
        check(b"get \"a\"b\r\n", Err(ProtocolError::UnbalancedQuotes));
        check(b"POST / HTTP/1.1\r\n", Err(ProtocolError::CrossProtocol));
    }

    #[test]
    fn garbage() {
        check(b"*x\r\n", Err(ProtocolError::MultibulkLength));
        check(b"*\r\n", Err(ProtocolError::MultibulkLength));
        check(b"*2147483648\r\n", Err(ProtocolError::MultibulkLength));
        check(b"*99999999999999999999999\r\n", Err(ProtocolError::MultibulkLength));
        check(b"*01\r\n", Err(ProtocolError::MultibulkLength));
        check(b"*1\r\r", Err(ProtocolError::MultibulkLength));
        check(b"*1\r\n:4\r\n", Err(ProtocolError::ExpectedDollar(b':')));
        check(b"*1\r\n$-1\r\n", Err(ProtocolError::BulkLength));
        check(b"*1\r\n$536870913\r\n", Err(ProtocolError::BulkLength));
        check(b"*1\r\n$4\r\nPINGxx", Err(ProtocolError::MissingTerminator));
        check(b"*1\r\n$4\r\nPING\rx", Err(ProtocolError::MissingTerminator));
    }

    #[test]
    fn an_endless_line_ends() {
        let mut parser = Parser::default();
        let line = vec![b'a'; 70_000];
        assert_eq!(parser.parse(&line, &Limits::default()), Err(ProtocolError::TooBigInline));
    }
}
