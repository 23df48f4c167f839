//! The heads of the requests by which this module asks itself for connections: `POST /NUMBER`.

/// What stands at the beginning of a buffer.
#[derive(Debug, PartialEq)]
pub enum Head {
    /// Not the whole head yet.
    Incomplete,
    /// A head of this length that names this number.
    Number(u64, usize),
    /// Somebody else's request.
    Foreign,
}

/// Envoy's own head has a few hundred bytes.
const LONGEST: usize = 16 * 1024;

/// Parses what Envoy's HTTP/1.1 client sends.
pub fn parse(bytes: &[u8]) -> Head {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        return if bytes.len() > LONGEST { Head::Foreign } else { Head::Incomplete };
    };
    let number = bytes.strip_prefix(b"POST /").and_then(|rest| {
        let digits = rest.split(|&byte| byte == b' ').next()?;
        std::str::from_utf8(digits).ok()?.parse().ok()
    });
    number.map_or(Head::Foreign, |number| Head::Number(number, end + 4))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_told_apart() {
        let head = b"POST /42 HTTP/1.1\r\nhost: redis_carrier\r\ncontent-length: 0\r\n\r\n";
        for n in 0..head.len() {
            assert_eq!(parse(&head[..n]), Head::Incomplete);
        }
        assert_eq!(parse(head), Head::Number(42, head.len()));
        assert_eq!(parse(&[head, &b"more"[..]].concat()), Head::Number(42, head.len()));
        assert_eq!(parse(b"GET /42 HTTP/1.1\r\n\r\n"), Head::Foreign);
        assert_eq!(parse(b"POST /x HTTP/1.1\r\n\r\n"), Head::Foreign);
        assert_eq!(parse(b"POST /99999999999999999999 HTTP/1.1\r\n\r\n"), Head::Foreign);
        assert_eq!(parse(b"PING\r\n\r\n"), Head::Foreign);
        assert_eq!(parse(&[b'x'; LONGEST + 1]), Head::Foreign);
    }
}
