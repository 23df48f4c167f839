//! The heads of the HTTP requests by which this module opens connections to itself: `POST
//! /NUMBER`.

use crate::envoy::FilterHandle;

/// The beginning of a read buffer, parsed.
#[derive(Debug, PartialEq)]
enum RequestHead {
    /// The buffer doesn't hold the whole head yet.
    Incomplete,
    /// The number in the head's path, and the length of the head in bytes.
    Number(u64, usize),
    /// A request that this module didn't send.
    Foreign,
}

/// The longest head that is waited for, in bytes. The head that Envoy sends has a few hundred.
const LONGEST: usize = 16 * 1024;

/// Takes the head of a request out of a connection's read buffer and returns its number, or `None`
/// if the head isn't complete. A foreign request closes the connection. Call it only within the
/// read hook.
pub fn take(handle: &FilterHandle) -> Option<u64> {
    match parse(&handle.peek_read()) {
        RequestHead::Incomplete => None,
        RequestHead::Foreign => {
            handle.abort();
            None
        }
        RequestHead::Number(number, len) => {
            handle.drain_read(len);
            Some(number)
        }
    }
}

/// Parses a head as Envoy's HTTP/1.1 client writes it.
fn parse(bytes: &[u8]) -> RequestHead {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        return if bytes.len() > LONGEST { RequestHead::Foreign } else { RequestHead::Incomplete };
    };
    let number = bytes.strip_prefix(b"POST /").and_then(|rest| {
        let digits = rest.split(|&byte| byte == b' ').next()?;
        std::str::from_utf8(digits).ok()?.parse().ok()
    });
    number.map_or(RequestHead::Foreign, |number| RequestHead::Number(number, end + 4))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_told_apart() {
        let head = b"POST /42 HTTP/1.1\r\nhost: redis_carrier\r\ncontent-length: 0\r\n\r\n";
        for n in 0..head.len() {
            assert_eq!(parse(&head[..n]), RequestHead::Incomplete);
        }
        assert_eq!(parse(head), RequestHead::Number(42, head.len()));
        assert_eq!(parse(&[head, &b"more"[..]].concat()), RequestHead::Number(42, head.len()));
        assert_eq!(parse(b"GET /42 HTTP/1.1\r\n\r\n"), RequestHead::Foreign);
        assert_eq!(parse(b"POST /x HTTP/1.1\r\n\r\n"), RequestHead::Foreign);
        assert_eq!(parse(b"POST /99999999999999999999 HTTP/1.1\r\n\r\n"), RequestHead::Foreign);
        assert_eq!(parse(b"PING\r\n\r\n"), RequestHead::Foreign);
        assert_eq!(parse(&[b'x'; LONGEST + 1]), RequestHead::Foreign);
    }
}
