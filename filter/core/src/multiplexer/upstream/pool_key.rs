//! What makes connections to Redis interchangeable, and what a connection is for.

use super::endpoint::{EndpointMember, UpstreamEndpoint};
use crate::multiplexer::ids::{ClientId, ClusterId};
use crate::multiplexer::outbox::Address;
use std::net::SocketAddr;

/// The connection pool key: where a connection leads and the state it is in. Clients that need the
/// same share a connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PoolKey {
    /// The Redis, with the login for it.
    pub endpoint: UpstreamEndpoint,
    /// A node of a Redis Cluster; absent: whichever Envoy chooses.
    pub node: Option<SocketAddr>,
    /// The protocol is RESP3; replies differ between protocols.
    pub resp3: bool,
    /// The database that is selected.
    pub database: u32,
    /// READONLY has been sent, so that a replica answers reads.
    pub readonly: bool,
}

impl PoolKey {
    /// The key of a connection to any node, in database 0, not read-only.
    pub fn new(endpoint: UpstreamEndpoint, resp3: bool) -> PoolKey {
        PoolKey { endpoint, node: None, resp3, database: 0, readonly: false }
    }

    /// The key of a connection that comes about while Redis is busy with a script: SELECT is refused
    /// then.
    pub fn heard_while_busy(self) -> PoolKey {
        PoolKey { database: 0, ..self }
    }

    /// The address at which a host opens the connection.
    pub fn address(&self) -> Address {
        let UpstreamEndpoint { cluster, nodes, member, .. } = &self.endpoint;
        let cluster = if self.node.is_some() { nodes.as_ref().unwrap_or(cluster) } else { cluster };
        let at = match member {
            EndpointMember::At(address) => Some(*address),
            EndpointMember::Any | EndpointMember::Unknown => None,
        };
        Address { cluster: cluster.clone(), node: self.node.or(at) }
    }
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Commands of all clients that need its pool key.
    Shared,
    /// Commands of one client that block or depend on the connection.
    Dedicated(ClientId),
    /// Commands of one client that would go over a shared connection, if the client read its
    /// replies.
    Backlog(ClientId),
    /// One client's subscriptions, tracking or MONITOR: frames that are no replies are for that
    /// client.
    Pushes(ClientId),
    /// Questions about the Redis Cluster of this index.
    Discovery(ClusterId),
    /// The question whether a Redis answers that is silent over other connections.
    HealthCheck,
    /// Questions to a server about itself and about the login.
    Introduction,
    /// None at present: the connection is in the state of a new one and waits for a client that
    /// needs one of its own.
    Idle,
}

impl Purpose {
    /// The client that has begun something over the connection, or waits for something, if it is
    /// one client's: that ends with the connection.
    pub fn client(self) -> Option<ClientId> {
        match self {
            Purpose::Dedicated(client) | Purpose::Pushes(client) => Some(client),
            Purpose::Shared
            | Purpose::Backlog(_)
            | Purpose::Discovery(_)
            | Purpose::HealthCheck
            | Purpose::Introduction
            | Purpose::Idle => None,
        }
    }

    /// The client to which a connection belongs, if it belongs to one.
    pub fn owner(self) -> Option<ClientId> {
        match self {
            Purpose::Backlog(client) => Some(client),
            _ => self.client(),
        }
    }

    /// True if only commands go over the connection that could go over any other one to the same
    /// server.
    pub fn has_no_state(self) -> bool {
        matches!(self, Purpose::Shared | Purpose::Backlog(_))
    }
}
