//! A command that can't be sent to another node before the nodes of its cluster were asked.

use super::cluster_queue::WaitingCommand;
use super::pool_key::Purpose;
use super::redirect::Redirect;
use super::retry::Retry;
use crate::multiplexer::ids::ConnectionId;

/// A command that a node hasn't executed, as it has said.
pub struct Refused {
    /// The connection over which it went.
    pub from: ConnectionId,
    /// What the connection is for.
    pub purpose: Purpose,
    /// Why.
    pub why: Redirect,
    /// Its reply.
    pub reply: Vec<u8>,
    /// The command.
    pub retry: Retry,
}

impl WaitingCommand for Refused {
    fn retry(&self) -> &Retry {
        &self.retry
    }
}
