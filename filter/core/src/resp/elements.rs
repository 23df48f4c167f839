//! The elements of a whole reply, one by one.

use super::framer::Framer;

/// The elements of an array or a set, one by one, as they are written.
pub struct Elements<'a> {
    rest: &'a [u8],
}

impl<'a> Elements<'a> {
    /// Returns the elements of an aggregate of any kind, such as a push.
    pub fn of_push(frame: &'a [u8]) -> Elements<'a> {
        let head = memchr::memchr(b'\n', frame).map_or(frame.len(), |end| end + 1);
        Elements { rest: frame.get(head..).unwrap_or_default() }
    }

    /// Returns the elements of a reply that is an array or a set; another reply has none.
    pub fn of(reply: &'a [u8]) -> Elements<'a> {
        if matches!(reply.first(), Some(b'*' | b'~')) { Elements::of_push(reply) } else { Elements { rest: &[] } }
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (length, is_complete) = Framer::default().feed(self.rest).ok()?;
        let (element, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        is_complete.then_some(element)
    }
}
