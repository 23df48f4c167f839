//! RESP2 and RESP3 replies: reading, writing, and the format of redis-cli.

use std::fmt;
use std::io::{self, BufRead};

/// A reply. The encoding of a value is unique except for doubles and big numbers, whose text is
/// kept, so [`Reply::encode`] returns the bytes that were read.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Reply {
    /// The status `OK`.
    Status(Vec<u8>),
    /// `-ERR …`, without the dash.
    Error(Vec<u8>),
    /// `:1`
    Integer(i64),
    /// `$3`
    Bulk(Vec<u8>),
    /// RESP2's `$-1`
    NullBulk,
    /// RESP2's `*-1`
    NullArray,
    /// `*2`
    Array(Vec<Reply>),
    /// RESP3's `_`
    Null,
    /// RESP3's `#t` and `#f`
    Boolean(bool),
    /// RESP3's `,1.5`, as text.
    Double(Vec<u8>),
    /// RESP3's `(123`, as text.
    BigNumber(Vec<u8>),
    /// RESP3's `!5`
    BulkError(Vec<u8>),
    /// RESP3's `=15`, with its format (`txt`) and colon.
    Verbatim(Vec<u8>),
    /// RESP3's `%2`
    Map(Vec<(Reply, Reply)>),
    /// RESP3's `~2`
    Set(Vec<Reply>),
    /// RESP3's `>2`
    Push(Vec<Reply>),
    /// RESP3's `|1`: attributes and the value that they belong to.
    Attribute(Vec<(Reply, Reply)>, Box<Reply>),
}

impl Reply {
    /// The status `OK`.
    pub fn ok() -> Reply {
        Reply::Status(b"OK".to_vec())
    }

    /// A bulk string of this text.
    pub fn bulk(text: impl AsRef<[u8]>) -> Reply {
        Reply::Bulk(text.as_ref().to_vec())
    }

    /// An error with this text, without the dash.
    pub fn error(text: impl AsRef<[u8]>) -> Reply {
        Reply::Error(text.as_ref().to_vec())
    }

    /// An array of bulk strings of these texts.
    pub fn bulks<S: AsRef<[u8]>>(items: &[S]) -> Reply {
        Reply::Array(items.iter().map(Reply::bulk).collect())
    }

    /// Whether the reply is an error, simple or bulk.
    pub fn is_error(&self) -> bool {
        matches!(self, Reply::Error(_) | Reply::BulkError(_))
    }

    /// Whether the reply is one of the three nulls.
    pub fn is_null(&self) -> bool {
        matches!(self, Reply::Null | Reply::NullBulk | Reply::NullArray)
    }

    /// The bytes of a status, error, bulk or verbatim string (without its format), double or big
    /// number.
    pub fn bytes(&self) -> Option<&[u8]> {
        match self {
            Reply::Verbatim(text) => Some(text.get(4..).unwrap_or_default()),
            Reply::Status(text)
            | Reply::Error(text)
            | Reply::Bulk(text)
            | Reply::Double(text)
            | Reply::BigNumber(text)
            | Reply::BulkError(text) => Some(text),
            _ => None,
        }
    }

    /// Returns [`Reply::bytes`] as text, or an empty text for a reply without bytes.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(self.bytes().unwrap_or_default()).into_owned()
    }

    /// Returns the number of an integer reply.
    pub fn integer(&self) -> Option<i64> {
        match self {
            Reply::Integer(n) => Some(*n),
            _ => None,
        }
    }

    /// Returns the elements of an array, set or push, and none for any other reply.
    pub fn items(&self) -> &[Reply] {
        match self {
            Reply::Array(items) | Reply::Set(items) | Reply::Push(items) => items,
            _ => &[],
        }
    }

    /// Reads one reply. Errors: `UnexpectedEof` when the stream ends, `InvalidData` for what is
    /// not RESP.
    pub fn read(from: &mut impl BufRead) -> io::Result<Reply> {
        let line = read_line(from)?;
        let (&kind, rest) = line.split_first().ok_or_else(|| invalid("an empty line", &line))?;
        Ok(match kind {
            b'+' => Reply::Status(rest.to_vec()),
            b'-' => Reply::Error(rest.to_vec()),
            b':' => Reply::Integer(number(rest)?),
            b',' => Reply::Double(rest.to_vec()),
            b'(' => Reply::BigNumber(rest.to_vec()),
            b'_' if rest.is_empty() => Reply::Null,
            b'#' if rest == b"t" || rest == b"f" => Reply::Boolean(rest == b"t"),
            b'$' => match length(rest)? {
                Some(n) => Reply::Bulk(read_bulk(from, n)?),
                None => Reply::NullBulk,
            },
            b'!' => Reply::BulkError(read_bulk(from, some_length(rest)?)?),
            b'=' => Reply::Verbatim(read_bulk(from, some_length(rest)?)?),
            b'*' => match length(rest)? {
                Some(n) => Reply::Array(read_items(from, n)?),
                None => Reply::NullArray,
            },
            b'~' => Reply::Set(read_items(from, some_length(rest)?)?),
            b'>' => Reply::Push(read_items(from, some_length(rest)?)?),
            b'%' => Reply::Map(read_pairs(from, some_length(rest)?)?),
            b'|' => {
                let attributes = read_pairs(from, some_length(rest)?)?;
                Reply::Attribute(attributes, Box::new(Reply::read(from)?))
            }
            _ => return Err(invalid("not a reply", &line)),
        })
    }

    /// Encodes the reply as RESP.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode_into(&mut out);
        out
    }

    fn encode_into(&self, out: &mut Vec<u8>) {
        let line = |out: &mut Vec<u8>, kind: u8, text: &[u8]| {
            out.push(kind);
            out.extend_from_slice(text);
            out.extend_from_slice(b"\r\n");
        };
        let bulk = |out: &mut Vec<u8>, kind: u8, text: &[u8]| {
            line(out, kind, text.len().to_string().as_bytes());
            out.extend_from_slice(text);
            out.extend_from_slice(b"\r\n");
        };
        let many = |out: &mut Vec<u8>, kind: u8, items: &[Reply]| {
            line(out, kind, items.len().to_string().as_bytes());
            items.iter().for_each(|item| item.encode_into(out));
        };
        let pairs = |out: &mut Vec<u8>, kind: u8, pairs: &[(Reply, Reply)]| {
            line(out, kind, pairs.len().to_string().as_bytes());
            for (key, value) in pairs {
                key.encode_into(out);
                value.encode_into(out);
            }
        };
        match self {
            Reply::Status(text) => line(out, b'+', text),
            Reply::Error(text) => line(out, b'-', text),
            Reply::Integer(n) => line(out, b':', n.to_string().as_bytes()),
            Reply::Bulk(text) => bulk(out, b'$', text),
            Reply::NullBulk => out.extend_from_slice(b"$-1\r\n"),
            Reply::NullArray => out.extend_from_slice(b"*-1\r\n"),
            Reply::Array(items) => many(out, b'*', items),
            Reply::Null => out.extend_from_slice(b"_\r\n"),
            Reply::Boolean(b) => line(out, b'#', if *b { b"t" } else { b"f" }),
            Reply::Double(text) => line(out, b',', text),
            Reply::BigNumber(text) => line(out, b'(', text),
            Reply::BulkError(text) => bulk(out, b'!', text),
            Reply::Verbatim(text) => bulk(out, b'=', text),
            Reply::Map(items) => pairs(out, b'%', items),
            Reply::Set(items) => many(out, b'~', items),
            Reply::Push(items) => many(out, b'>', items),
            Reply::Attribute(attributes, value) => {
                pairs(out, b'|', attributes);
                value.encode_into(out);
            }
        }
    }

    /// Replaces every time in milliseconds by 0, because the times of two servers differ.
    pub fn timeless(self) -> Reply {
        let all = |items: Vec<Reply>| items.into_iter().map(Reply::timeless).collect();
        match self {
            Reply::Integer(1_600_000_000_000..=9_999_999_999_999) => Reply::Integer(0),
            Reply::Array(items) => Reply::Array(all(items)),
            Reply::Set(items) => Reply::Set(all(items)),
            Reply::Map(items) => {
                Reply::Map(items.into_iter().map(|(key, value)| (key.timeless(), value.timeless())).collect())
            }
            other => other,
        }
    }

    /// Formats the reply as redis-cli does on a terminal, without the last line break.
    pub fn tty(&self) -> String {
        let mut out = String::new();
        self.tty_into("", &mut out);
        out.pop();
        out
    }

    /// Formats the reply as redis-cli does with `--raw`, without the last line break.
    pub fn raw(&self) -> String {
        match self {
            Reply::Integer(n) => n.to_string(),
            Reply::Boolean(b) => if *b { "(true)" } else { "(false)" }.to_string(),
            Reply::Array(items) | Reply::Set(items) | Reply::Push(items) => {
                items.iter().map(Reply::raw).collect::<Vec<_>>().join("\n")
            }
            Reply::Map(pairs) => {
                pairs.iter().map(|(k, v)| format!("{} {}", k.raw(), v.raw())).collect::<Vec<_>>().join("\n")
            }
            Reply::Attribute(_, value) => value.raw(),
            Reply::Null | Reply::NullBulk | Reply::NullArray => String::new(),
            _ => self.text(),
        }
    }

    fn tty_into(&self, prefix: &str, out: &mut String) {
        match self {
            Reply::Error(_) | Reply::BulkError(_) => *out += &format!("(error) {}\n", self.text()),
            Reply::Status(_) | Reply::Verbatim(_) | Reply::BigNumber(_) => *out += &format!("{}\n", self.text()),
            Reply::Integer(n) => *out += &format!("(integer) {n}\n"),
            Reply::Double(_) => *out += &format!("(double) {}\n", self.text()),
            Reply::Bulk(text) => *out += &format!("{}\n", quoted(text)),
            Reply::Null | Reply::NullBulk | Reply::NullArray => *out += "(nil)\n",
            Reply::Boolean(b) => *out += if *b { "(true)\n" } else { "(false)\n" },
            Reply::Array(items) => tty_items(items, ")", "(empty array)\n", prefix, out),
            Reply::Set(items) => tty_items(items, "~", "(empty set)\n", prefix, out),
            Reply::Push(items) => tty_items(items, ")", "(empty push)\n", prefix, out),
            Reply::Map(pairs) if pairs.is_empty() => *out += "(empty hash)\n",
            Reply::Map(pairs) => {
                let width = pairs.len().to_string().len();
                let deeper = format!("{prefix}{}", " ".repeat(width + 2));
                for (i, (key, value)) in pairs.iter().enumerate() {
                    *out += &format!("{}{:>width$}# ", if i == 0 { "" } else { prefix }, i + 1);
                    key.tty_into(&deeper, out);
                    out.pop();
                    *out += " => ";
                    value.tty_into(&deeper, out);
                }
            }
            Reply::Attribute(_, value) => value.tty_into(prefix, out),
        }
    }
}

fn tty_items(items: &[Reply], mark: &str, empty: &str, prefix: &str, out: &mut String) {
    if items.is_empty() {
        *out += empty;
    }
    let width = items.len().to_string().len();
    let deeper = format!("{prefix}{}", " ".repeat(width + 2));
    for (i, item) in items.iter().enumerate() {
        *out += &format!("{}{:>width$}{mark} ", if i == 0 { "" } else { prefix }, i + 1);
        item.tty_into(&deeper, out);
    }
}

/// Quotes a string as redis-cli does.
pub fn quoted(text: &[u8]) -> String {
    let mut out = String::from('"');
    for &byte in text {
        match byte {
            b'\\' | b'"' => out.extend(['\\', byte as char]),
            b'\n' => out += "\\n",
            b'\r' => out += "\\r",
            b'\t' => out += "\\t",
            0x07 => out += "\\a",
            0x08 => out += "\\b",
            0x20..=0x7e => out.push(byte as char),
            _ => out += &format!("\\x{byte:02x}"),
        }
    }
    out.push('"');
    out
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wire = self.encode();
        let shown = &wire[..wire.len().min(400)];
        write!(f, "Reply({}{})", shown.escape_ascii(), if wire.len() > shown.len() { "…" } else { "" })
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.tty())
    }
}

fn invalid(what: &str, line: &[u8]) -> io::Error {
    let shown = &line[..line.len().min(200)];
    io::Error::new(io::ErrorKind::InvalidData, format!("{what}: {}", shown.escape_ascii()))
}

fn read_line(from: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    from.read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the connection was closed"));
    }
    if !line.ends_with(b"\r\n") {
        return Err(invalid("a line that doesn't end in CR LF", &line));
    }
    line.truncate(line.len() - 2);
    Ok(line)
}

fn number(text: &[u8]) -> io::Result<i64> {
    std::str::from_utf8(text).ok().and_then(|t| t.parse().ok()).ok_or_else(|| invalid("not a number", text))
}

fn length(text: &[u8]) -> io::Result<Option<usize>> {
    match number(text)? {
        -1 => Ok(None),
        n => usize::try_from(n).map(Some).map_err(|_| invalid("a negative length", text)),
    }
}

fn some_length(text: &[u8]) -> io::Result<usize> {
    length(text)?.ok_or_else(|| invalid("a null where RESP3 has none", text))
}

fn read_bulk(from: &mut impl BufRead, n: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; n + 2];
    from.read_exact(&mut bytes)?;
    if !bytes.ends_with(b"\r\n") {
        return Err(invalid("a bulk string longer than its length", &bytes));
    }
    bytes.truncate(n);
    Ok(bytes)
}

fn read_items(from: &mut impl BufRead, n: usize) -> io::Result<Vec<Reply>> {
    (0..n).map(|_| Reply::read(from)).collect()
}

fn read_pairs(from: &mut impl BufRead, n: usize) -> io::Result<Vec<(Reply, Reply)>> {
    (0..n).map(|_| Ok((Reply::read(from)?, Reply::read(from)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(wire: &str) -> Reply {
        let mut bytes = wire.as_bytes();
        let reply = Reply::read(&mut bytes).unwrap();
        assert!(bytes.is_empty());
        assert_eq!(String::from_utf8(reply.encode()).unwrap(), wire);
        reply
    }

    fn check(wire: &str, shown: &str) {
        assert_eq!(read(wire).tty(), shown);
    }

    #[test]
    fn every_type_reads_writes_and_shows_as_in_redis_cli() {
        check("+OK\r\n", "OK");
        check("-ERR no\r\n", "(error) ERR no");
        check(":-7\r\n", "(integer) -7");
        check("$3\r\nbar\r\n", "\"bar\"");
        check("$6\r\na\"\\\n\x01b\r\n", r#""a\"\\\n\x01b""#);
        check("$-1\r\n", "(nil)");
        check("*-1\r\n", "(nil)");
        check("_\r\n", "(nil)");
        check("*0\r\n", "(empty array)");
        check("#t\r\n", "(true)");
        check(",1.50\r\n", "(double) 1.50");
        check("(12345678901234567890\r\n", "12345678901234567890");
        check("!5\r\nERR x\r\n", "(error) ERR x");
        check("=7\r\ntxt:abc\r\n", "abc");
        check("~1\r\n:1\r\n", "1~ (integer) 1");
        check("%1\r\n$1\r\na\r\n:1\r\n", "1# \"a\" => (integer) 1");
        check("*2\r\n*2\r\n:1\r\n:2\r\n$1\r\nx\r\n", "1) 1) (integer) 1\n   2) (integer) 2\n2) \"x\"");
        check("|1\r\n+ttl\r\n:1\r\n$1\r\nx\r\n", "\"x\"");
    }

    #[test]
    fn what_is_not_resp_is_an_error() {
        for wire in ["", "+OK", "hello\r\n", "$-2\r\n", "$2\r\nabc\r\n", "~-1\r\n", ":x\r\n"] {
            assert!(Reply::read(&mut wire.as_bytes()).is_err(), "{wire:?}");
        }
    }
}
