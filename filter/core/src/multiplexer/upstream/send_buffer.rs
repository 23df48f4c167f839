//! Bytes that wait to be sent to Redis.

use super::replay_buffer::remove_ranges;
use std::ops::Range;

/// More waiting bytes than this make clients wait before they add to them.
const HIGH_WATERMARK: usize = 1024 * 1024;

/// Bytes for one connection, and how far the host has come with them.
#[derive(Debug, Default)]
pub struct SendBuffer {
    /// Bytes that can be sent.
    ready: Vec<u8>,
    /// Bytes that can be sent when the connection is ready for commands.
    staged: Vec<u8>,
    /// A host was told that there is something to send.
    is_announced: bool,
    /// The connection takes no bytes at present.
    is_full: bool,
    /// Clients wait until there is room again.
    is_awaited: bool,
}

impl SendBuffer {
    /// A buffer whose first bytes are those of a handshake.
    pub fn new(handshake: Vec<u8>) -> SendBuffer {
        SendBuffer { ready: handshake, ..SendBuffer::default() }
    }

    /// The buffer to which a command is appended.
    #[inline]
    pub fn writer(&mut self, is_ready: bool) -> &mut Vec<u8> {
        if is_ready { &mut self.ready } else { &mut self.staged }
    }

    /// Stages what was staged in another buffer.
    pub fn stage(&mut self, mut other: SendBuffer) {
        self.staged.append(&mut other.staged);
    }

    /// Removes these ranges, in ascending order, of what was staged.
    pub fn withdraw(&mut self, ranges: &[Range<usize>]) {
        remove_ranges(&mut self.staged, ranges);
    }

    /// Makes what was staged ready to be sent.
    pub fn release_staged(&mut self) {
        self.ready.append(&mut self.staged);
    }

    /// True, once, if a host has to be told that there is something to send.
    #[inline]
    pub fn announce(&mut self) -> bool {
        let is_news = !self.ready.is_empty() && !self.is_announced && !self.is_full;
        self.is_announced |= is_news;
        is_news
    }

    /// Returns the bytes to send and leaves `spare` in their place.
    pub fn take(&mut self, spare: Vec<u8>) -> Vec<u8> {
        self.is_announced = false;
        std::mem::replace(&mut self.ready, spare)
    }

    /// The number of bytes that wait.
    pub fn len(&self) -> usize {
        self.ready.len() + self.staged.len()
    }

    /// True if a client's command has to wait until there is room.
    #[inline]
    pub fn has_no_room(&self) -> bool {
        self.is_full || self.len() > HIGH_WATERMARK
    }

    /// Notes whether the connection takes bytes. Returns true if it does again.
    pub fn set_full(&mut self, is_full: bool) -> bool {
        std::mem::replace(&mut self.is_full, is_full) && !is_full
    }

    /// Notes that a client waits for room.
    pub fn await_room(&mut self) {
        self.is_awaited = true;
    }

    /// True, once, if clients have waited for room and there is some.
    pub fn wake(&mut self) -> bool {
        !self.is_full && std::mem::take(&mut self.is_awaited)
    }

    /// True if clients wait for room.
    pub fn is_awaited(&self) -> bool {
        self.is_awaited
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn commands_wait_for_the_handshake() {
        let mut buffer = SendBuffer::new(b"AUTH".to_vec());
        buffer.writer(false).extend_from_slice(b"GET");
        assert!(buffer.announce() && !buffer.announce());
        assert_eq!(buffer.take(Vec::new()), b"AUTH");
        assert!(!buffer.announce());
        buffer.release_staged();
        assert!(buffer.announce());
        assert_eq!((buffer.take(Vec::new()), buffer.len()), (b"GET".to_vec(), 0));
    }

    #[test]
    fn room_is_told_once_to_those_who_wait() {
        let mut buffer = SendBuffer::default();
        assert!(!buffer.set_full(true) && buffer.has_no_room());
        buffer.await_room();
        buffer.writer(true).push(b'x');
        assert!(!buffer.announce() && !buffer.wake());
        assert!(buffer.set_full(false) && buffer.wake() && !buffer.wake());
        buffer.writer(true).resize(HIGH_WATERMARK + 1, b'x');
        assert!(buffer.has_no_room());
    }
}
