//! The load-balancing policy `node`, for clusters whose hosts are asked for one by one: the nodes
//! of a Redis Cluster.
//!
//! An upstream filter names the wanted address right before `tcp_proxy` chooses a host, on the
//! same thread. Where a node is wanted that isn't a healthy member of the cluster, no other is
//! chosen in its place, and the connection fails.

use crate::envoy::ClusterHosts;
use redis_mesh_core::multiplexer::Address;
use std::cell::{Cell, RefCell};

/// The name by which a cluster's configuration (`lb_policy_name`) refers to the policy.
pub const NAME: &[u8] = b"node";

thread_local! {
    static WANTED: RefCell<Option<Address>> = const { RefCell::new(None) };
}

/// Sets the address to which the next connection of this worker leads.
pub fn want(address: &Address) {
    WANTED.replace(Some(address.clone()));
}

/// The policy of one cluster on one worker.
#[derive(Default)]
pub struct NodePolicy {
    /// The index of the next host, modulo their number, for connections that want no particular
    /// one: round robin.
    next: Cell<usize>,
}

impl NodePolicy {
    /// Chooses a host: its priority, and its index among the healthy hosts of that priority.
    /// `None`: there is no suitable one.
    pub fn choose(&self, hosts: &ClusterHosts) -> Option<(u32, u32)> {
        let wanted = WANTED.take().filter(|address| hosts.are_of(&address.cluster));
        let node = wanted.and_then(|address| address.node).map(|node| node.to_string());
        let mut healthy = (0..hosts.priorities()).map(|priority| (priority, hosts.healthy(priority)));
        match node {
            Some(node) => healthy.find_map(|(priority, count)| {
                let index = (0..count).find(|index| hosts.is_at(priority, *index, &node))?;
                Some((priority, index as u32))
            }),
            None => {
                let (priority, count) = healthy.find(|(_, count)| *count > 0)?;
                let next = self.next.get();
                self.next.set(next.wrapping_add(1));
                Some((priority, (next % count) as u32))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::standin;

    fn address(cluster: &str, node: Option<&str>) -> Address {
        Address { cluster: cluster.into(), node: node.map(|node| node.parse().unwrap()) }
    }

    #[test]
    fn the_wanted_node_or_none() {
        standin::set_hosts("redis", &[&["10.0.0.1:7000", "10.0.0.2:7000"], &["[::1]:7000"]]);
        let policy = NodePolicy::default();
        let choose = |wanted: Option<Address>| {
            if let Some(wanted) = wanted {
                want(&wanted);
            }
            policy.choose(&standin::hosts())
        };
        assert_eq!(choose(Some(address("redis", Some("10.0.0.2:7000")))), Some((0, 1)));
        assert_eq!(choose(Some(address("redis", Some("[::1]:7000")))), Some((1, 0)));
        assert_eq!(choose(Some(address("redis", Some("10.0.0.3:7000")))), None);
        assert_eq!(choose(Some(address("redis", None))), Some((0, 0)));
        // A connection of another filter wants no node; one of this module wants a node of another
        // cluster.
        assert_eq!(choose(None), Some((0, 1)));
        assert_eq!(choose(Some(address("other", Some("10.0.0.2:7000")))), Some((0, 0)));
        standin::set_hosts("redis", &[]);
        assert_eq!(choose(Some(address("redis", None))), None);
    }
}
