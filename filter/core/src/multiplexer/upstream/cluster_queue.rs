//! Commands that wait for something of their Redis Clusters: for an answer of the nodes, or for a node that
//! can be reached and executes them.

use super::later::WaitingCommands;
use super::pending::Owner;
use super::retry::Retry;
use crate::multiplexer::ids::{ClientId, ClusterId, ConnectionId};
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// A command that waits.
pub trait WaitingCommand {
    /// The command.
    fn retry(&self) -> &Retry;

    /// Where what its client has sent behind it may be executed meanwhile.
    fn followed(&self) -> Followed {
        Followed::Nowhere
    }
}

/// Where what a client has sent behind a command that waits may be executed meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Followed {
    /// Nothing is behind it: the command wasn't sent to any node.
    Nowhere,
    /// Over the connection over which a node has refused it.
    Over(ConnectionId),
    /// Over any connection: nodes have sent it elsewhere.
    Anywhere,
}

/// The commands of a worker that wait for something of their clusters.
pub struct ClusterQueue<T> {
    /// Each with its cluster, by its place in the order in which they go on.
    waiting: BTreeMap<u64, (ClusterId, T)>,
    /// The places of each client's commands, by where they may be followed.
    places: BTreeMap<ClientId, BTreeMap<Followed, BTreeSet<u64>>>,
    by_client: WaitingCommands,
    bytes: usize,
    next: u64,
    /// How many commands were looked at.
    #[cfg(test)]
    pub looked_at: std::cell::Cell<usize>,
}

impl<T> Default for ClusterQueue<T> {
    fn default() -> ClusterQueue<T> {
        let by_client = WaitingCommands::default();
        ClusterQueue {
            waiting: BTreeMap::new(),
            places: BTreeMap::new(),
            by_client,
            bytes: 0,
            next: 0,
            #[cfg(test)]
            looked_at: std::cell::Cell::default(),
        }
    }
}

impl<T: WaitingCommand> ClusterQueue<T> {
    /// The number of commands, and of their bytes.
    pub fn held(&self) -> (usize, usize) {
        (self.waiting.len(), self.bytes)
    }

    /// The clients whose commands they are.
    pub fn clients(&self) -> HashSet<ClientId> {
        self.places.keys().copied().collect()
    }

    /// Adds a command that waits for this cluster.
    pub fn add(&mut self, cluster: ClusterId, waiting: T) {
        let Retry { in_flight, bytes, .. } = waiting.retry();
        let Some(owner) = in_flight.what.owner() else { return };
        self.by_client.add(*in_flight, bytes);
        self.bytes += bytes.len();
        let of_client = self.places.entry(owner.client).or_default();
        of_client.entry(waiting.followed()).or_default().insert(self.next);
        self.waiting.insert(self.next, (cluster, waiting));
        self.next += 1;
    }

    /// Removes and returns some of the commands, in order.
    pub fn take(&mut self, is_taken: impl Fn(ClusterId, &T) -> bool) -> Vec<T> {
        let of_interest = self.waiting.iter().filter(|(_, (of, waiting))| {
            self.look();
            is_taken(*of, waiting)
        });
        let places: Vec<u64> = of_interest.map(|(place, _)| *place).collect();
        self.take_at(places)
    }

    /// Removes and returns the commands of a client, in order.
    pub fn take_of(&mut self, client: ClientId) -> Vec<T> {
        let mut places: Vec<u64> =
            self.places.get(&client).into_iter().flat_map(BTreeMap::values).flatten().copied().collect();
        places.sort_unstable();
        self.take_at(places)
    }

    /// True if commands of this client wait that may be followed over this connection.
    pub fn is_followed(&self, client: ClientId, connection: ConnectionId) -> bool {
        let of_client = self.places.get(&client);
        let contains = |followed| of_client.is_some_and(|of_client| of_client.contains_key(&followed));
        contains(Followed::Over(connection)) || contains(Followed::Anywhere)
    }

    /// Removes and returns those commands that may be followed over this connection and that their client has
    /// sent before this one, in order.
    pub fn take_before(&mut self, owner: Owner, connection: ConnectionId, is_taken: impl Fn(&T) -> bool) -> Vec<T> {
        let of_client = self.places.get(&owner.client);
        let of = |followed| of_client.and_then(|of_client| of_client.get(&followed)).into_iter().flatten();
        let is_before = |place: &&u64| {
            self.look();
            let waiting = self.waiting.get(place).map(|(_, waiting)| waiting).filter(|waiting| is_taken(waiting));
            let waiting = waiting.and_then(|waiting| waiting.retry().in_flight.what.owner());
            waiting.is_some_and(|waiting| waiting.sequence < owner.sequence)
        };
        let all = of(Followed::Over(connection)).chain(of(Followed::Anywhere));
        let mut places: Vec<u64> = all.filter(is_before).copied().collect();
        places.sort_unstable();
        self.take_at(places)
    }

    fn take_at(&mut self, places: Vec<u64>) -> Vec<T> {
        places.into_iter().filter_map(|place| self.remove(place)).collect()
    }

    /// Tests count what is done, since a time says nothing.
    fn look(&self) {
        #[cfg(test)]
        self.looked_at.set(self.looked_at.get() + 1);
    }

    fn remove(&mut self, place: u64) -> Option<T> {
        self.look();
        let (_, waiting) = self.waiting.remove(&place)?;
        let Retry { in_flight, bytes, .. } = waiting.retry();
        self.by_client.remove(*in_flight, bytes);
        self.bytes -= bytes.len();
        let client = in_flight.what.owner()?.client;
        if let Some(of_client) = self.places.get_mut(&client) {
            let followed = waiting.followed();
            if let Some(places) = of_client.get_mut(&followed) {
                places.remove(&place);
                if places.is_empty() {
                    of_client.remove(&followed);
                }
            }
            if of_client.is_empty() {
                self.places.remove(&client);
            }
        }
        Some(waiting)
    }

    /// True if a later command of the same client for the same slot waits.
    pub fn has_later(&self, owner: Owner, slot: Option<u16>) -> bool {
        self.by_client.has_later(owner, slot)
    }

    /// True if an earlier command of the same client for the same slot waits.
    pub fn has_earlier(&self, owner: Owner, slot: Option<u16>) -> bool {
        self.by_client.has_earlier(owner, slot)
    }
}
