//! Which node is a master, and which a node at all.

use crate::cluster::topology::Topology;
use std::collections::HashSet;
use std::net::SocketAddr;

/// The nodes of a topology by their roles.
pub struct Roles {
    /// The masters.
    pub masters: HashSet<SocketAddr>,
    /// All nodes.
    pub nodes: HashSet<SocketAddr>,
}

impl Roles {
    /// The roles of a topology.
    pub fn of(topology: &Topology) -> Roles {
        Roles {
            masters: topology.shards().iter().map(|shard| shard.master).collect(),
            nodes: topology.nodes().collect(),
        }
    }

    /// True if a connection to the node, read-only or not, is still of use.
    pub fn has(&self, node: SocketAddr, readonly: bool) -> bool {
        if readonly { self.nodes.contains(&node) } else { self.masters.contains(&node) }
    }
}
