//! Commands as one types them into redis-cli: split into words, and shown.

use anyhow::{Result, bail};

/// Splits a line into words: `"…"` with escapes (`\n`, `\x01`, …), `'…'` with `\'`, or plain text.
pub fn words(line: &str) -> Result<Vec<Vec<u8>>> {
    let bytes = line.as_bytes();
    let mut words = Vec::new();
    let mut at = 0;
    loop {
        while bytes.get(at).is_some_and(u8::is_ascii_whitespace) {
            at += 1;
        }
        if at == bytes.len() {
            return Ok(words);
        }
        let mut word = Vec::new();
        while let Some(&byte) = bytes.get(at).filter(|byte| !byte.is_ascii_whitespace()) {
            match byte {
                b'"' | b'\'' => {
                    at = quoted_part(bytes, at + 1, byte, &mut word, line)?;
                    if bytes.get(at).is_some_and(|next| !next.is_ascii_whitespace()) {
                        bail!("a closing quote must be followed by a space: {line}");
                    }
                }
                _ => {
                    word.push(byte);
                    at += 1;
                }
            }
        }
        words.push(word);
    }
}

/// Splits a text into commands, one a line. Empty lines and lines that begin with `#` are skipped.
pub fn commands(text: &str) -> Result<Vec<Vec<Vec<u8>>>> {
    text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).map(words).collect()
}

/// Formats a command for a message. Bytes that aren't printable are escaped.
pub fn shown(words: &[Vec<u8>]) -> String {
    words.iter().map(|word| word.escape_ascii().to_string()).collect::<Vec<_>>().join(" ")
}

fn quoted_part(bytes: &[u8], mut at: usize, quote: u8, word: &mut Vec<u8>, line: &str) -> Result<usize> {
    loop {
        match (bytes.get(at), bytes.get(at + 1)) {
            (Some(&byte), _) if byte == quote => return Ok(at + 1),
            (Some(b'\\'), Some(b'x')) if quote == b'"' => {
                let hex = bytes.get(at + 2..at + 4).and_then(|hex| std::str::from_utf8(hex).ok());
                match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
                    Some(byte) => {
                        word.push(byte);
                        at += 4;
                    }
                    None => {
                        word.push(b'x');
                        at += 2;
                    }
                }
            }
            (Some(b'\\'), Some(&next)) if quote == b'"' || next == b'\'' => {
                word.push(match next {
                    b'n' if quote == b'"' => b'\n',
                    b'r' if quote == b'"' => b'\r',
                    b't' if quote == b'"' => b'\t',
                    b'b' if quote == b'"' => 0x08,
                    b'a' if quote == b'"' => 0x07,
                    _ => next,
                });
                at += 2;
            }
            (Some(&byte), _) => {
                word.push(byte);
                at += 1;
            }
            (None, _) => bail!("a quote is not closed: {line}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_and_escapes() {
        let split = |line: &str| -> Vec<String> {
            words(line).unwrap().into_iter().map(|word| String::from_utf8(word).unwrap()).collect()
        };
        assert_eq!(split(r#"  set  a "b c" "#), ["set", "a", "b c"]);
        assert_eq!(split(r#"x "a\x01\n\"" 'it\'s \n' """#), ["x", "a\x01\n\"", "it's \\n", ""]);
        assert!(words("\"open").is_err());
        assert!(words("\"a\"b").is_err());
    }
}
