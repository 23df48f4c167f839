//! The replay buffer of a connection: the commands in flight that may have to be sent again, to
//! another node or over another connection.

use std::ops::Range;

/// The capacity in bytes above which an empty buffer is freed.
const CAPACITY: usize = 256 * 1024;
/// The number of dropped bytes from which on their room is used again.
const DROPPED: usize = 16 * 1024;

/// A queue of commands as one sequence of bytes. The caller knows the length of each command.
#[derive(Debug, Default)]
pub struct ReplayBuffer {
    bytes: Vec<u8>,
    /// The offset of the oldest command in `bytes`.
    start: usize,
}

impl ReplayBuffer {
    /// Appends a command.
    #[inline]
    pub fn push(&mut self, command: &[u8]) {
        if self.start > DROPPED && self.start > self.bytes.len() / 2 {
            drop(self.bytes.drain(..self.start));
            self.start = 0;
        }
        self.bytes.extend_from_slice(command);
    }

    /// Returns the `length` bytes behind the `older` oldest ones, or fewer if there are fewer.
    pub fn behind(&self, older: usize, length: usize) -> &[u8] {
        let rest = self.bytes.get(self.start.saturating_add(older)..).unwrap_or_default();
        rest.get(..length).unwrap_or(rest)
    }

    /// Returns the `length` newest bytes, or fewer if there are fewer.
    pub fn newest(&self, length: usize) -> &[u8] {
        self.bytes.get(self.bytes.len().saturating_sub(length).max(self.start)..).unwrap_or_default()
    }

    /// Drops the `length` oldest bytes.
    #[inline]
    pub fn drop_oldest(&mut self, length: usize) {
        self.start += length;
        if self.start >= self.bytes.len() {
            self.start = 0;
            self.bytes.clear();
            if self.bytes.capacity() > CAPACITY {
                self.bytes = Vec::new();
            }
        }
    }

    /// Removes these ranges, in ascending order and counted from the oldest command's first byte.
    pub fn remove(&mut self, ranges: &[Range<usize>]) {
        self.bytes.drain(..self.start);
        self.start = 0;
        remove_ranges(&mut self.bytes, ranges);
    }

    /// Returns the number of bytes.
    pub fn len(&self) -> usize {
        self.bytes.len() - self.start
    }
}

/// Removes ranges, which are in ascending order and don't overlap. What reaches beyond the end is
/// ignored.
pub fn remove_ranges(bytes: &mut Vec<u8>, ranges: &[Range<usize>]) {
    let length = bytes.len();
    let (mut kept, mut from) = (0, 0);
    let end = std::iter::once(length..length);
    for range in ranges.iter().cloned().chain(end) {
        let start = range.start.clamp(from, length);
        bytes.copy_within(from..start, kept);
        kept += start - from;
        from = range.end.clamp(start, length);
    }
    bytes.truncate(kept);
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn the_oldest_command_is_dropped_first() {
        let (mut buffer, mut expected) = (ReplayBuffer::default(), std::collections::VecDeque::new());
        for round in 0..200_000usize {
            let command = vec![round as u8; round % 97];
            buffer.push(&command);
            expected.push_back(command);
            // The buffer grows and shrinks.
            while expected.len() > 300 * (round / 40_000 % 2) {
                let oldest = expected.pop_front().unwrap();
                assert_eq!(buffer.behind(0, oldest.len()), oldest);
                if let Some(next) = expected.front() {
                    assert_eq!(buffer.behind(oldest.len(), next.len()), next);
                }
                buffer.drop_oldest(oldest.len());
            }
            assert!(buffer.bytes.len() <= 2 * buffer.len() + 2 * DROPPED);
        }
        buffer.drop_oldest(usize::MAX / 2);
        assert_eq!((buffer.len(), buffer.behind(0, 1), buffer.behind(7, 1)), (0, &b""[..], &b""[..]));
    }

    #[test]
    fn an_empty_buffer_that_was_large_is_freed() {
        let mut buffer = ReplayBuffer::default();
        buffer.push(&vec![0; CAPACITY + 1]);
        buffer.drop_oldest(CAPACITY);
        assert_eq!((buffer.len(), buffer.bytes.capacity() > CAPACITY), (1, true));
        buffer.drop_oldest(1);
        assert_eq!((buffer.len(), buffer.bytes.capacity()), (0, 0));
        buffer.push(b"x");
        assert_eq!(buffer.behind(0, 9), b"x");
        buffer.drop_oldest(1);
        assert!(buffer.bytes.capacity() > 0);
    }

    #[test]
    fn ranges_are_removed_from_anywhere() {
        let mut buffer = ReplayBuffer::default();
        buffer.push(b"dropped0123456789");
        buffer.drop_oldest(7);
        buffer.remove(&[0..2, 4..4, 5..6, 9..30]);
        assert_eq!(buffer.behind(0, 20), b"234678");
        buffer.remove(&[]);
        assert_eq!((buffer.behind(0, 20), buffer.len()), (&b"234678"[..], 6));
        buffer.remove(&[0..3, 3..6]);
        assert_eq!(buffer.len(), 0);
    }
}
