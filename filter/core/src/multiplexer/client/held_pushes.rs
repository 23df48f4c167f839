//! Pushes that wait for the end of a reply.

use std::collections::BTreeMap;

/// When a push is written to a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PushOrder {
    /// At once, or after the end of the reply that has been begun.
    AtOnce,
    /// Behind all replies of which something has arrived. It is about a key that may be in one of them,
    /// and that one may wait for others.
    BehindHeard,
    /// At once, and again behind all replies that are outstanding. It is about all keys.
    Twice,
}

/// Pushes that are written behind the replies to certain commands of a client.
#[derive(Debug, Default)]
pub struct HeldPushes {
    /// The pushes by the numbers of the commands.
    behind: BTreeMap<u64, Vec<u8>>,
    bytes: usize,
}

impl HeldPushes {
    /// Holds a push until the reply to this command has been written.
    pub fn hold(&mut self, sequence: u64, push: &[u8]) {
        self.bytes += push.len();
        self.behind.entry(sequence).or_default().extend_from_slice(push);
    }

    /// Returns the number of bytes that are held.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Appends the pushes behind replies before the one to this command.
    #[inline]
    pub fn release(&mut self, next: u64, out: &mut Vec<u8>) {
        while let Some(entry) = self.behind.first_entry().filter(|entry| *entry.key() < next) {
            let mut pushes = entry.remove();
            self.bytes -= pushes.len();
            out.append(&mut pushes);
        }
    }
}
