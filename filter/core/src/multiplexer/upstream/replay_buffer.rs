//! Commands that may have to be sent once more, one behind the other.

/// More capacity than this is given back when nothing is kept.
const CAPACITY: usize = 256 * 1024;
/// Room of what has been dropped that isn't used again at once.
const DROPPED: usize = 16 * 1024;

/// See the module. Bytes are added at the end and dropped from the beginning.
#[derive(Debug, Default)]
pub struct ReplayBuffer {
    bytes: Vec<u8>,
    /// Where the oldest begins.
    start: usize,
}

impl ReplayBuffer {
    /// Keeps a command behind the others.
    pub fn push(&mut self, command: &[u8]) {
        if self.start > DROPPED && self.start > self.bytes.len() / 2 {
            drop(self.bytes.drain(..self.start));
            self.start = 0;
        }
        self.bytes.extend_from_slice(command);
    }

    /// So many bytes, or as many as there are, behind that many older ones.
    pub fn behind(&self, older: usize, length: usize) -> &[u8] {
        let rest = self.bytes.get(self.start.saturating_add(older)..).unwrap_or_default();
        rest.get(..length).unwrap_or(rest)
    }

    /// Drops so many bytes of the oldest.
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

    /// RequestPolicy many bytes there are.
    pub fn len(&self) -> usize {
        self.bytes.len() - self.start
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn the_oldest_goes_first() {
        let (mut kept, mut expected) = (ReplayBuffer::default(), std::collections::VecDeque::new());
        for round in 0..200_000usize {
            let command = vec![round as u8; round % 97];
            kept.push(&command);
            expected.push_back(command);
            // It grows and shrinks.
            while expected.len() > 300 * (round / 40_000 % 2) {
                let oldest = expected.pop_front().unwrap();
                assert_eq!(kept.behind(0, oldest.len()), oldest);
                if let Some(next) = expected.front() {
                    assert_eq!(kept.behind(oldest.len(), next.len()), next);
                }
                kept.drop_oldest(oldest.len());
            }
            assert!(kept.bytes.len() <= 2 * kept.len() + 2 * DROPPED);
        }
        kept.drop_oldest(usize::MAX / 2);
        assert_eq!((kept.len(), kept.behind(0, 1), kept.behind(7, 1)), (0, &b""[..], &b""[..]));
    }
}
