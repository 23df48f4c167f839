//! RequestPolicy much there is to do, so that a leak is seen.

use crate::multiplexer::Multiplexer;
use crate::multiplexer::upstream::connection::Purpose;

/// What a machine holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Clients that are there.
    pub clients: usize,
    /// Connections to Redis that many share.
    pub shared: usize,
    /// Connections of one client's own, or over which the nodes of a Redis Cluster are asked.
    pub own: usize,
    /// Connections that wait for somebody who needs one of his own.
    pub parked: usize,
    /// Replies that are to come, and commands that will be sent again.
    pub expected: usize,
    /// Bytes that wait for a client or for Redis, or that are kept until a reply has come.
    pub bytes: usize,
}

impl Load {
    /// True if nothing is left of what clients wanted, but connections that others may share.
    pub fn is_idle(&self) -> bool {
        Load { shared: 0, ..*self } == Load::default()
    }
}

impl Multiplexer {
    /// What this machine holds.
    pub fn load(&self) -> Load {
        let mut load = Load { clients: self.clients.ids().count(), expected: self.retries.len(), ..Load::default() };
        for client in self.clients.ids().filter_map(|id| self.clients.get(id)) {
            load.bytes += client.buffer.len() + client.out.len() + client.queue.held();
        }
        for carrier in self.carriers.ids().filter_map(|id| self.carriers.get(id)) {
            let kind = match carrier.purpose {
                Purpose::Shared => &mut load.shared,
                Purpose::Dedicated(_) | Purpose::Pushes(_) | Purpose::Probe(_) => &mut load.own,
                Purpose::Parked => &mut load.parked,
            };
            *kind += 1;
            load.expected += carrier.expected.len();
            load.bytes += carrier.waiting() + carrier.kept.len() + carrier.whole.len();
        }
        load
    }
}
