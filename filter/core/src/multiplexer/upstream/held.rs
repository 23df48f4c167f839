//! Commands that wait until the nodes of their clusters have said who executes them.

use super::later::WaitingCommands;
use super::pending::Owner;
use super::pool_key::Purpose;
use super::redirect::Redirect;
use super::retry::Retry;
use crate::multiplexer::ids::{ClusterId, ConnectionId};

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

/// Commands that can't be sent to another node before the nodes of their clusters were asked.
#[derive(Default)]
pub struct HeldCommands {
    waiting: Vec<(ClusterId, Refused)>,
    by_client: WaitingCommands,
}

impl HeldCommands {
    /// The number of commands that wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Adds a command, until the nodes of this cluster have answered.
    pub fn add(&mut self, cluster: ClusterId, refused: Refused) {
        self.by_client.add(refused.retry.in_flight, &refused.retry.bytes);
        self.waiting.push((cluster, refused));
    }

    /// Removes and returns the commands that waited for this cluster, in order.
    pub fn take(&mut self, cluster: ClusterId) -> Vec<Refused> {
        let taken = self.waiting.extract_if(.., |(of, _)| *of == cluster).map(|(_, refused)| refused);
        taken.inspect(|refused| self.by_client.remove(refused.retry.in_flight, &refused.retry.bytes)).collect()
    }

    /// True if a later command of the same client for the same slot waits.
    pub fn has_later(&self, owner: Owner, slot: Option<u16>) -> bool {
        self.by_client.has_later(owner, slot)
    }
}
