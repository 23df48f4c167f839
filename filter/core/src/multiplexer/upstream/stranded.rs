//! A command that wasn't sent, since a node of its Redis Cluster can't be reached.

use super::retry::Retry;

/// A command that wasn't sent.
#[derive(Debug)]
pub struct Stranded {
    /// The command.
    pub retry: Retry,
    /// The slot whose master executes it; `None`: any master does.
    pub slot: Option<u16>,
    /// The error for its client if no node can be reached in time, without `-`.
    pub error: String,
}

impl AsRef<Retry> for Stranded {
    fn as_ref(&self) -> &Retry {
        &self.retry
    }
}
