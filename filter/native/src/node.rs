//! The load-balancing policy of clusters in which single hosts are asked for: the nodes of a Redis Cluster.
//!
//! A carrier says where it leads right before `tcp_proxy` chooses a host, on the same thread. A host that isn't a member of the
//! cluster is never chosen in the place of one that is asked for: the connection fails.

use crate::envoy::Hosts;
use redis_mesh_core::multiplexer::Address;
use std::cell::{Cell, RefCell};

/// The name under which a cluster's configuration refers to it.
pub const NAME: &[u8] = b"node";

thread_local! {
    static WANTED: RefCell<Option<Address>> = const { RefCell::new(None) };
}

/// Where the next connection of this worker leads.
pub fn want(address: &Address) {
    WANTED.replace(Some(address.clone()));
}

/// The policy of one cluster on one worker.
#[derive(Default)]
pub struct Policy {
    /// Who is next, where nobody is asked for.
    next: Cell<usize>,
}

impl Policy {
    /// A host: its priority, and its index among the healthy ones of that priority.
    pub fn choose(&self, hosts: &Hosts) -> Option<(u32, u32)> {
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
    fn a_node_or_nobody() {
        standin::set_hosts("redis", &[&["10.0.0.1:7000", "10.0.0.2:7000"], &["[::1]:7000"]]);
        let policy = Policy::default();
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
        // Somebody else uses the cluster, and somebody wants a host of another one.
        assert_eq!(choose(None), Some((0, 1)));
        assert_eq!(choose(Some(address("other", Some("10.0.0.2:7000")))), Some((0, 0)));
        standin::set_hosts("redis", &[]);
        assert_eq!(choose(Some(address("redis", None))), None);
    }
}
