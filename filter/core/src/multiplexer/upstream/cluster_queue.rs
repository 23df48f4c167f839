//! Commands that wait for something of their Redis Clusters: for an answer of the nodes, or for a node that
//! can be reached.

use super::later::WaitingCommands;
use super::pending::Owner;
use super::retry::Retry;
use crate::multiplexer::ids::{ClientId, ClusterId};
use std::collections::HashSet;

/// The commands of a worker that wait for something of their clusters.
pub struct ClusterQueue<T> {
    /// Each with its cluster, in the order in which they go on.
    waiting: Vec<(ClusterId, T)>,
    by_client: WaitingCommands,
}

impl<T> Default for ClusterQueue<T> {
    fn default() -> ClusterQueue<T> {
        ClusterQueue { waiting: Vec::new(), by_client: WaitingCommands::default() }
    }
}

impl<T: AsRef<Retry>> ClusterQueue<T> {
    /// The number of commands, and of their bytes.
    pub fn held(&self) -> (usize, usize) {
        (self.waiting.len(), self.retries().map(|retry| retry.bytes.len()).sum())
    }

    /// The clients whose commands they are.
    pub fn clients(&self) -> HashSet<ClientId> {
        self.retries().filter_map(|retry| retry.in_flight.what.command()).map(|owner| owner.client).collect()
    }

    fn retries(&self) -> impl Iterator<Item = &Retry> {
        self.waiting.iter().map(|(_, waiting)| waiting.as_ref())
    }

    /// Adds a command that waits for this cluster.
    pub fn add(&mut self, cluster: ClusterId, waiting: T) {
        let Retry { in_flight, bytes, .. } = waiting.as_ref();
        self.by_client.add(*in_flight, bytes);
        self.waiting.push((cluster, waiting));
    }

    /// Removes and returns some of the commands, in order.
    pub fn take(&mut self, is_taken: impl Fn(ClusterId, &T) -> bool) -> Vec<T> {
        let taken = self.waiting.extract_if(.., |(of, waiting)| is_taken(*of, waiting)).map(|(_, waiting)| waiting);
        taken
            .inspect(|taken| {
                let Retry { in_flight, bytes, .. } = taken.as_ref();
                self.by_client.remove(*in_flight, bytes);
            })
            .collect()
    }

    /// True if a later command of the same client for the same slot waits.
    pub fn has_later(&self, owner: Owner, slot: Option<u16>) -> bool {
        self.by_client.has_later(owner, slot)
    }
}
