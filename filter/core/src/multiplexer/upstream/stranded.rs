//! The commands of a worker that weren't sent, since nodes of their Redis Clusters can't be reached.

use super::later::WaitingCommands;
use super::pending::Owner;
use super::retry::Retry;
use crate::multiplexer::ids::{ClientId, ClusterId};
use std::collections::HashSet;

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

/// The commands of a worker that weren't sent.
#[derive(Default)]
pub struct StrandedCommands {
    /// Each with its cluster, in the order in which they go on.
    waiting: Vec<(ClusterId, Stranded)>,
    by_client: WaitingCommands,
}

impl StrandedCommands {
    /// The number of commands, and of their bytes.
    pub fn held(&self) -> (usize, usize) {
        (self.waiting.len(), self.waiting.iter().map(|(_, stranded)| stranded.retry.bytes.len()).sum())
    }

    /// The clients whose commands they are.
    pub fn clients(&self) -> HashSet<ClientId> {
        self.waiting.iter().filter_map(|(_, stranded)| stranded.owner()).map(|owner| owner.client).collect()
    }

    /// True if a later command of the same client for the same slot is among them.
    pub fn has_later(&self, owner: Owner, slot: Option<u16>) -> bool {
        self.by_client.has_later(owner, slot)
    }

    /// Adds a command, until this cluster has a node for it.
    pub fn add(&mut self, cluster: ClusterId, stranded: Stranded) {
        self.by_client.add(stranded.retry.in_flight, &stranded.retry.bytes);
        self.waiting.push((cluster, stranded));
    }

    /// Removes and returns some of the commands, in order.
    pub fn take(&mut self, is_taken: impl Fn(ClusterId, &Stranded) -> bool) -> Vec<Stranded> {
        let taken = self.waiting.extract_if(.., |(of, stranded)| is_taken(*of, stranded)).map(|(_, stranded)| stranded);
        taken.inspect(|one| self.by_client.remove(one.retry.in_flight, &one.retry.bytes)).collect()
    }
}

impl Stranded {
    /// Whose command it is.
    pub fn owner(&self) -> Option<Owner> {
        self.retry.in_flight.what.command()
    }
}
