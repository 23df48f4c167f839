//! How much there is to do, so that a leak is seen.

use super::reply::Clients;
use super::upstream::Upstreams;
use super::upstream::pool_key::Purpose;

/// What a multiplexer holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Clients that are connected.
    pub clients: usize,
    /// Connections to Redis that clients share.
    pub shared: usize,
    /// Connections of one client's own, or over which servers are asked something.
    pub dedicated: usize,
    /// Connections that wait for a client that needs one of its own.
    pub idle: usize,
    /// Redis Clusters whose nodes are known or asked for, one for each login.
    pub clusters: usize,
    /// Replies that are to come, and commands that will be sent again.
    pub pending: usize,
    /// Bytes that wait for a client or for Redis, or that are kept until a reply has come.
    pub bytes: usize,
}

impl Load {
    /// True if nothing is left of what clients wanted, but connections that others may share, and what
    /// is known of the servers.
    pub fn is_idle(&self) -> bool {
        Load { shared: 0, clusters: 0, ..*self } == Load::default()
    }
}

/// The load of these clients and upstreams.
pub fn of(clients: &Clients, upstreams: &Upstreams) -> Load {
    let mut load = Load { pending: upstreams.retries.len() + upstreams.held.held().0, ..Load::default() };
    load.clusters = upstreams.discovery.clusters.len();
    for (commands, bytes) in [upstreams.copies.held(), upstreams.stranded.held()] {
        (load.pending, load.bytes) = (load.pending + commands, load.bytes + bytes);
    }
    for (_, client) in clients.iter() {
        load.clients += 1;
        load.bytes += client.input.buffer.len() + client.output.out.len() + client.output.queue.held();
    }
    for (_, connection) in upstreams.pool.iter() {
        let kind = match connection.purpose {
            Purpose::Shared => &mut load.shared,
            Purpose::Dedicated(_)
            | Purpose::Backlog(_)
            | Purpose::Pushes(_)
            | Purpose::Discovery(_)
            | Purpose::HealthCheck
            | Purpose::Introduction => &mut load.dedicated,
            Purpose::Idle => &mut load.idle,
        };
        *kind += 1;
        load.pending += connection.pending.len();
        load.bytes += connection.send.len() + connection.replay.len() + connection.reader.held();
    }
    load
}
