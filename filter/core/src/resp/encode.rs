//! Functions that write RESP.

/// Appends `*n\r\n`.
pub fn array(out: &mut Vec<u8>, n: usize) {
    header(out, b'*', n as u64);
}

/// Appends a bulk string.
pub fn bulk(out: &mut Vec<u8>, data: &[u8]) {
    header(out, b'$', data.len() as u64);
    out.extend_from_slice(data);
    out.extend_from_slice(b"\r\n");
}

/// Appends a text: a verbatim string in RESP3, a bulk string in RESP2.
pub fn text(out: &mut Vec<u8>, resp3: bool, text: &str) {
    if !resp3 {
        return bulk(out, text.as_bytes());
    }
    header(out, b'=', text.len() as u64 + 4);
    out.extend_from_slice(b"txt:");
    out.extend_from_slice(text.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Appends `:n\r\n`.
pub fn integer(out: &mut Vec<u8>, n: u64) {
    header(out, b':', n);
}

/// Appends a type byte, a number and `\r\n`.
pub fn header(out: &mut Vec<u8>, kind: u8, n: u64) {
    out.push(kind);
    decimal(out, n);
    out.extend_from_slice(b"\r\n");
}

/// Appends a number in decimal.
pub fn decimal(out: &mut Vec<u8>, mut n: u64) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (n % 10) as u8;
        n /= 10;
        if n == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// Appends a command as an array of bulk strings.
pub fn command(out: &mut Vec<u8>, args: &[&[u8]]) {
    array(out, args.len());
    for arg in args {
        bulk(out, arg);
    }
}

/// Appends an error. `text` includes the error's code, such as `ERR …`. Line breaks become spaces,
/// so that text from a client can't end the line.
pub fn error(out: &mut Vec<u8>, text: &[u8]) {
    out.push(b'-');
    out.extend(text.iter().map(|&b| if b == b'\r' || b == b'\n' { b' ' } else { b }));
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn writes_each_type() {
        let mut out = Vec::new();
        command(&mut out, &[b"GET", b""]);
        integer(&mut out, u64::MAX);
        error(&mut out, b"ERR a\r\nb");
        assert_eq!(out, b"*2\r\n$3\r\nGET\r\n$0\r\n\r\n:18446744073709551615\r\n-ERR a  b\r\n");
    }
}
