//! The conversion of one RESP2 reply to its RESP3 form.

use super::encode;
use super::shape::Shape;
use memchr::memchr;

/// The reason why a reply can't be converted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ConversionError {
    /// The reply isn't complete.
    Incomplete,
    /// The bytes aren't RESP2.
    Malformed,
}

pub(super) const NULL: &[u8] = b"_\r\n";

/// The line that begins a value.
#[derive(Clone, Copy)]
pub(super) enum Token {
    /// `$-1` or `*-1`.
    Null,
    /// A bulk string of so many bytes.
    Bulk(usize),
    /// An array of so many elements.
    Array(u64),
    /// An error, an integer, a simple string.
    Other,
}

/// Reads the input from front to back and copies it in the longest runs that need no change.
pub(super) struct Converter<'a> {
    input: &'a [u8],
    pub(super) at: usize,
    /// Number of bytes of the input that are in the output already.
    copied: usize,
    out: &'a mut Vec<u8>,
}

pub(super) fn convert(
    input: &[u8],
    out: &mut Vec<u8>,
    body: impl FnOnce(&mut Converter<'_>) -> Result<(), ConversionError>,
) -> Result<usize, ConversionError> {
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
    pub(super) fn replace(&mut self, start: usize, text: &[u8]) {
        self.copy_to(start);
        self.out.extend_from_slice(text);
        self.copied = self.at;
    }

    pub(super) fn replace_head(&mut self, start: usize, kind: u8, count: u64) {
        self.replace(start, b"");
        encode::header(self.out, kind, count);
    }

    pub(super) fn replace_verbatim(&mut self, start: usize, length: usize) {
        const FORMAT: &[u8] = b"txt:";
        self.replace_head(start, b'=', length as u64 + FORMAT.len() as u64);
        self.out.extend_from_slice(FORMAT);
    }

    /// Reads the line that begins a value.
    pub(super) fn line(&mut self) -> Result<Token, ConversionError> {
        let rest = self.input.get(self.at..).unwrap_or_default();
        let &kind = rest.first().ok_or(ConversionError::Incomplete)?;
        if !matches!(kind, b'+' | b'-' | b':' | b'$' | b'*') {
            return Err(ConversionError::Malformed);
        }
        let Some(newline) = memchr(b'\n', rest) else {
            let endless = matches!(kind, b'$' | b'*' | b':') && rest.len() > 32;
            return Err(if endless { ConversionError::Malformed } else { ConversionError::Incomplete });
        };
        let line = rest.get(1..newline).and_then(|line| line.strip_suffix(b"\r")).ok_or(ConversionError::Malformed)?;
        self.at += newline + 1;
        if !matches!(kind, b'$' | b'*') {
            return Ok(Token::Other);
        }
        if line == b"-1" {
            return Ok(Token::Null);
        }
        if line.is_empty() || line.len() > 18 || !line.iter().all(u8::is_ascii_digit) {
            return Err(ConversionError::Malformed);
        }
        let number = line.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0'));
        if kind == b'*' {
            return Ok(Token::Array(number));
        }
        // Where usize has 32 bits, a longer string can't have been received.
        usize::try_from(number).map(Token::Bulk).map_err(|_| ConversionError::Malformed)
    }

    /// Reads the head of a value and, of a bulk string, the content; a null is replaced.
    pub(super) fn head(&mut self) -> Result<Token, ConversionError> {
        let start = self.at;
        let token = self.line()?;
        match token {
            Token::Bulk(length) => self.content(length)?,
            Token::Null => self.replace(start, NULL),
            Token::Array(_) | Token::Other => {}
        }
        Ok(token)
    }

    fn content(&mut self, length: usize) -> Result<(), ConversionError> {
        let end = self.at.checked_add(length).and_then(|end| end.checked_add(2)).ok_or(ConversionError::Malformed)?;
        match end.checked_sub(2).and_then(|from| self.input.get(from..end)) {
            Some(b"\r\n") => {}
            Some(_) => return Err(ConversionError::Malformed),
            None => return Err(ConversionError::Incomplete),
        }
        self.at = end;
        Ok(())
    }

    /// Reads the rest of a value whose head was read. Nesting needs no stack, since an array only
    /// adds to the number of values that are still to come.
    pub(super) fn plain(&mut self, head: Token) -> Result<(), ConversionError> {
        let Token::Array(mut left) = head else {
            return Ok(());
        };
        while left > 0 {
            left -= 1;
            if let Token::Array(count) = self.head()? {
                left = left.checked_add(count).ok_or(ConversionError::Malformed)?;
            }
        }
        Ok(())
    }

    /// Converts a value. The recursion is as deep as the shape, which is a constant of this crate.
    pub(super) fn value(&mut self, shape: Shape) -> Result<(), ConversionError> {
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

    fn array(&mut self, start: usize, count: u64, shape: Shape) -> Result<(), ConversionError> {
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
                        // It is no map: the reply is read again as it is.
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

    /// Reads a field's name, and returns the shape of its value.
    fn field(&mut self, fields: &[(&str, Shape)]) -> Result<Shape, ConversionError> {
        let start = self.at;
        let head = self.head()?;
        self.plain(head)?;
        let name = self.input.get(start..self.at).unwrap_or_default();
        // The bytes that were read are `$length`, then the name between two line ends.
        let name = name.strip_suffix(b"\r\n").unwrap_or_default();
        let shape = fields.iter().find(|(field, _)| {
            name.strip_suffix(field.as_bytes()).is_some_and(|before| before.ends_with(b"\r\n") || before == b"+")
        });
        Ok(shape.map_or(Shape::Plain, |(_, shape)| *shape))
    }

    /// Converts a bulk string to a double if it is a number.
    fn double(&mut self, start: usize, length: usize) -> Result<(), ConversionError> {
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

/// Returns the length of the reply that begins with `head`, if the head alone tells it: `None` for
/// an array that isn't null, and if the line of the head isn't complete.
pub fn length_by_head(head: &[u8]) -> Option<usize> {
    let mut converter = Converter { input: head, at: 0, copied: 0, out: &mut Vec::new() };
    let token = converter.line().ok()?;
    match token {
        Token::Bulk(content) => converter.at.checked_add(content)?.checked_add(2),
        Token::Null | Token::Other => Some(converter.at),
        Token::Array(_) => None,
    }
}
