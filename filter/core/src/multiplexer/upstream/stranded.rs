//! A command that no node of its Redis Cluster has executed yet.

use super::cluster_queue::{Followed, WaitingCommand};
use super::pool_key::Purpose;
use super::retry::Retry;
use crate::multiplexer::ids::ConnectionId;

/// A command that waits for a node that executes it.
#[derive(Debug)]
pub struct Stranded {
    /// The command.
    pub retry: Retry,
    /// The slot whose master executes it; `None`: any master does.
    pub slot: Option<u16>,
    /// Why it wasn't executed.
    pub why: Unexecuted,
}

/// Why a command wasn't executed.
#[derive(Debug)]
pub enum Unexecuted {
    /// It wasn't sent, since its node can't be reached. The error for its client if no node can be in
    /// time, without `-`.
    Unsent(String),
    /// A node has said that the cluster doesn't serve it at present.
    Refused {
        /// The connection over which it went.
        from: ConnectionId,
        /// What the connection is for.
        purpose: Purpose,
        /// What the node has said: the reply for its client if no node executes it in time.
        reply: Vec<u8>,
    },
}

impl WaitingCommand for Stranded {
    fn retry(&self) -> &Retry {
        &self.retry
    }

    fn followed(&self) -> Followed {
        match self.why {
            Unexecuted::Unsent(_) if self.retry.in_flight.sendings.was_redirected => Followed::Anywhere,
            Unexecuted::Unsent(_) => Followed::Nowhere,
            Unexecuted::Refused { from, .. } => Followed::Over(from),
        }
    }
}
