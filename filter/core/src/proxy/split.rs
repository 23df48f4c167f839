//! A command whose keys belong to several destinations, in parts, and its reply out of the replies to those.

use crate::command::Split;
use crate::resp::encode;
use crate::resp::framer::Framer;

/// What becomes of a command in parts.
#[derive(Debug)]
pub struct Merge {
    split: Split,
    /// For each key of the command, in order: which part has it.
    owners: Vec<usize>,
    replies: Vec<Option<Vec<u8>>>,
}

impl Merge {
    /// Of a command whose keys, in their order, belong to these of `parts` parts.
    pub fn new(split: Split, owners: Vec<usize>, parts: usize) -> Merge {
        Merge { split, owners, replies: vec![None; parts] }
    }

    /// A part's reply; the whole reply when it was the last one.
    pub fn part(&mut self, part: usize, reply: Vec<u8>) -> Option<Vec<u8>> {
        *self.replies.get_mut(part)? = Some(reply);
        if self.replies.iter().any(Option::is_none) {
            return None;
        }
        let replies: Vec<Vec<u8>> = self.replies.iter_mut().filter_map(Option::take).collect();
        // What failed for some keys has failed.
        if let Some(error) = replies.iter().find(|reply| matches!(reply.first(), Some(b'-' | b'!'))) {
            return Some(error.clone());
        }
        Some(match self.split {
            Split::Sum => sum(&replies),
            Split::Array => self.array(&replies),
            Split::Ok | Split::No => replies.into_iter().next().unwrap_or_default(),
        })
    }

    fn array(&self, replies: &[Vec<u8>]) -> Vec<u8> {
        let mut elements: Vec<Elements<'_>> = replies.iter().map(|reply| Elements::of(reply)).collect();
        let mut out = Vec::with_capacity(replies.iter().map(Vec::len).sum());
        encode::array(&mut out, self.owners.len());
        for owner in &self.owners {
            match elements.get_mut(*owner).and_then(Elements::next) {
                Some(element) => out.extend_from_slice(element),
                None => return b"-ERR redis-mesh: a destination answered with fewer values than keys\r\n".to_vec(),
            }
        }
        out
    }
}

fn sum(replies: &[Vec<u8>]) -> Vec<u8> {
    let number = |reply: &Vec<u8>| {
        let digits = reply.strip_prefix(b":")?.strip_suffix(b"\r\n")?;
        std::str::from_utf8(digits).ok()?.parse::<u64>().ok()
    };
    let mut out = Vec::new();
    match replies.iter().map(number).sum::<Option<u64>>() {
        Some(sum) => encode::integer(&mut out, sum),
        None => out.extend_from_slice(b"-ERR redis-mesh: a destination answered with something that is no number\r\n"),
    }
    out
}

/// The elements of an array, one by one.
struct Elements<'a> {
    rest: &'a [u8],
}

impl<'a> Elements<'a> {
    fn of(reply: &'a [u8]) -> Elements<'a> {
        let head = memchr::memchr(b'\n', reply).map_or(reply.len(), |end| end + 1);
        Elements { rest: if reply.first() == Some(&b'*') { &reply[head..] } else { &[] } }
    }

    fn next(&mut self) -> Option<&'a [u8]> {
        let (length, is_complete) = Framer::default().feed(self.rest).ok()?;
        let (element, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        is_complete.then_some(element)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(split: Split, owners: &[usize], replies: &[&[u8]]) -> String {
        let mut merge = Merge::new(split, owners.to_vec(), replies.len());
        let mut whole = None;
        // The last part first: in which order they come doesn't matter.
        for (part, reply) in replies.iter().enumerate().rev() {
            assert!(whole.is_none());
            whole = merge.part(part, reply.to_vec());
        }
        whole.unwrap().escape_ascii().to_string()
    }

    #[test]
    fn parts_become_one_reply() {
        assert_eq!(merged(Split::Sum, &[], &[b":2\r\n", b":0\r\n", b":1\r\n"]), ":3\\r\\n");
        assert_eq!(merged(Split::Ok, &[], &[b"+OK\r\n", b"+OK\r\n"]), "+OK\\r\\n");
        let array: &[&[u8]] = &[b"*2\r\n$1\r\na\r\n$-1\r\n", b"*1\r\n_\r\n"];
        assert_eq!(merged(Split::Array, &[0, 1, 0], array), "*3\\r\\n$1\\r\\na\\r\\n_\\r\\n$-1\\r\\n");
    }

    #[test]
    fn a_part_that_fails_fails_all() {
        assert_eq!(merged(Split::Sum, &[], &[b":2\r\n", b"-READONLY x\r\n"]), "-READONLY x\\r\\n");
        assert!(merged(Split::Sum, &[], &[b":2\r\n", b"+OK\r\n"]).contains("no number"));
        assert!(merged(Split::Array, &[0, 0, 1], &[b"*1\r\n:1\r\n", b"*1\r\n:1\r\n"]).contains("fewer values"));
    }
}
