//! Where the messages of subscriptions come from.

use crate::multiplexer::ids::ConnectionId;

/// Where the messages of a subscription come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SubscriptionSource {
    /// One connection.
    One(ConnectionId),
    /// None at the moment: the slot of the shard channel has moved, and the channel is to be subscribed
    /// to where the slot is now.
    Moving(MovingChannel),
    /// Several servers.
    Several(Box<SeveralServers>),
}

/// A shard channel that is to be subscribed to where its slot is now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MovingChannel {
    /// How often that was tried.
    pub attempts: u32,
    /// The connection over which it was asked for, until the server answers.
    pub at: Option<ConnectionId>,
}

/// The servers at which one subscription is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SeveralServers {
    /// The name of the subscription there: keys may have other names, and a pattern may be wider.
    pub name: Vec<u8>,
    /// The connections over which what clients publish is taken. In a Redis Cluster it comes from
    /// every node.
    pub published: Vec<ConnectionId>,
    /// The connections over which notifications are taken, which servers send for their own keys.
    pub notified: Vec<ConnectionId>,
}

impl SeveralServers {
    /// Returns true if a connection belongs to one of the servers.
    pub fn uses(&self, connection: ConnectionId) -> bool {
        self.published.contains(&connection) || self.notified.contains(&connection)
    }

    /// Returns all connections, each once.
    pub fn connections(&self) -> Vec<ConnectionId> {
        let others = self.published.iter().filter(|connection| !self.notified.contains(connection));
        self.notified.iter().chain(others).copied().collect()
    }
}

impl SubscriptionSource {
    /// Returns true if messages come over a connection.
    pub fn uses(&self, connection: ConnectionId) -> bool {
        match self {
            SubscriptionSource::One(used) => *used == connection,
            SubscriptionSource::Moving(_) => false,
            SubscriptionSource::Several(servers) => servers.uses(connection),
        }
    }
}
