//! A reply as a value, for the few replies whose content matters.

/// A reply of either protocol, or an element of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// A simple, bulk or verbatim string.
    Text(&'a [u8]),
    /// An error, without its first byte.
    Error(&'a [u8]),
    /// An integer.
    Integer(i64),
    /// A null.
    Null,
    /// An array, a set, a push, or a map with its keys and values in turn.
    Array(Vec<Value<'a>>),
}

/// The depth to which replies are read.
const DEPTH: u32 = 8;

impl<'a> Value<'a> {
    /// Parses one whole reply; `None`: the bytes are no reply, or more than one.
    pub fn parse(reply: &'a [u8]) -> Option<Value<'a>> {
        let mut rest = reply;
        let value = parse(&mut rest, DEPTH)?;
        rest.is_empty().then_some(value)
    }

    /// Returns the elements of an array.
    pub fn array(&self) -> Option<&[Value<'a>]> {
        match self {
            Value::Array(elements) => Some(elements),
            _ => None,
        }
    }

    /// Returns the bytes of a string.
    pub fn text(&self) -> Option<&'a [u8]> {
        match self {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Returns an integer.
    pub fn integer(&self) -> Option<i64> {
        match self {
            Value::Integer(number) => Some(*number),
            _ => None,
        }
    }
}

fn line<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let end = memchr::memchr(b'\n', rest)?;
    let (line, after) = rest.split_at_checked(end + 1)?;
    *rest = after;
    line.strip_suffix(b"\r\n")
}

fn number(digits: &[u8]) -> Option<i64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Reads a length; `Some(None)`: -1, the length of a null.
fn length(digits: &[u8]) -> Option<Option<usize>> {
    if digits == b"-1" {
        return Some(None);
    }
    usize::try_from(number(digits)?).ok().map(Some)
}

fn parse<'a>(rest: &mut &'a [u8], depth: u32) -> Option<Value<'a>> {
    let (kind, content) = line(rest)?.split_first()?;
    Some(match kind {
        b'+' | b'(' | b',' | b'#' => Value::Text(content),
        b'-' => Value::Error(content),
        b':' => Value::Integer(number(content)?),
        b'_' => Value::Null,
        b'$' | b'=' | b'!' => {
            let Some(length) = length(content)? else { return Some(Value::Null) };
            let (text, after) = rest.split_at_checked(length)?;
            *rest = after.strip_prefix(b"\r\n")?;
            match kind {
                b'!' => Value::Error(text),
                // The text follows three letters for its format and a colon.
                b'=' => Value::Text(text.get(4..)?),
                _ => Value::Text(text),
            }
        }
        b'*' | b'~' | b'>' | b'%' => {
            let Some(length) = length(content)? else { return Some(Value::Null) };
            let length = if *kind == b'%' { length.checked_mul(2)? } else { length };
            let depth = depth.checked_sub(1)?;
            let mut elements = Vec::new();
            for _ in 0..length {
                elements.push(parse(rest, depth)?);
            }
            Value::Array(elements)
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn replies() {
        let value = Value::parse(b"*4\r\n:-1\r\n$2\r\nab\r\n%1\r\n+k\r\n=5\r\ntxt:v\r\n$-1\r\n").unwrap();
        let map = Value::Array(vec![Value::Text(b"k"), Value::Text(b"v")]);
        assert_eq!(value, Value::Array(vec![Value::Integer(-1), Value::Text(b"ab"), map, Value::Null]));
        assert_eq!(Value::parse(b"-ERR x\r\n"), Some(Value::Error(b"ERR x")));
        for bad in [&b"*1\r\n"[..], b"$3\r\nab\r\n", b"+a\r\n+b\r\n", b"*99999999999999\r\n", b":x\r\n", b"?\r\n", b""]
        {
            assert_eq!(Value::parse(bad), None, "{}", bad.escape_ascii());
        }
        assert_eq!(Value::parse("*1\r\n".repeat(100).as_bytes()), None);
    }
}
