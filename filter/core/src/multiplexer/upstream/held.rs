//! Commands whose redirections wait until the nodes of their clusters have answered.

use super::pending::Owner;
use super::pool_key::Purpose;
use super::redirect::Redirect;
use super::retry::{Retry, slot_of};
use crate::multiplexer::ids::{ClusterId, ConnectionId};

/// A command that a node hasn't executed.
pub struct Refused {
    /// The connection over which the node has said so.
    pub from: ConnectionId,
    /// What the connection is for.
    pub purpose: Purpose,
    /// What it has said.
    pub redirect: Redirect,
    /// Its reply.
    pub reply: Vec<u8>,
    /// The command.
    pub retry: Retry,
}

/// Commands whose redirections can't be followed before the nodes of their clusters were asked.
#[derive(Default)]
pub struct HeldRedirects {
    waiting: Vec<(ClusterId, Refused)>,
}

impl HeldRedirects {
    /// The number of commands that wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Adds a command, until the nodes of this cluster have answered.
    pub fn add(&mut self, cluster: ClusterId, refused: Refused) {
        self.waiting.push((cluster, refused));
    }

    /// Removes and returns the commands that waited for this cluster, in order.
    pub fn take(&mut self, cluster: ClusterId) -> Vec<Refused> {
        self.waiting.extract_if(.., |(of, _)| *of == cluster).map(|(_, refused)| refused).collect()
    }

    /// True if a later command of the same client for the same slot waits.
    pub fn has_later(&self, owner: Owner, slot: Option<u16>) -> bool {
        let mut retries = self.waiting.iter().map(|(_, refused)| &refused.retry);
        retries.any(|retry| retry.in_flight.what.is_after(owner) && slot_of(&retry.bytes) == slot)
    }
}
