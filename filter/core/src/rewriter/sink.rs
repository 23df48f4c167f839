//! Where edited client bytes go.

/// The client bytes of one call: `out` holds everything of `buffer` before `copied`. Bytes that
/// don't change are copied only when something after them does.
pub(super) struct Sink<'a> {
    pub(super) out: &'a mut Vec<u8>,
    pub(super) buffer: &'a [u8],
    /// Bytes of `buffer` that are in `out`, edited or left out.
    pub(super) copied: usize,
    /// Where the current command begins in `buffer`.
    pub(super) at: usize,
}

impl Sink<'_> {
    /// Returns `out` with everything before the current command in it.
    pub(super) fn write(&mut self) -> &mut Vec<u8> {
        if self.copied < self.at {
            self.out.extend_from_slice(&self.buffer[self.copied..self.at]);
            self.copied = self.at;
        }
        self.out
    }

    /// Leaves `n` bytes of the buffer out.
    pub(super) fn skip(&mut self, n: usize) {
        self.write();
        self.at += n;
        self.copied = self.at;
    }

    /// Passes `n` bytes of the buffer on.
    pub(super) fn pass(&mut self, n: usize) {
        self.at += n;
    }

    /// Returns the bytes of the buffer from the current command on.
    pub(super) fn rest(&self) -> &[u8] {
        &self.buffer[self.at..]
    }
}
