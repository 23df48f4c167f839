//! The hosts of a cluster.

use super::buffer::{EMPTY, bytes};
use crate::abi::{self, Opaque};
use redis_mesh_core::maglev::table::Member;
use std::net::SocketAddr;

/// The hosts of a cluster as the load balancer of this worker sees them, for the time of one hook.
pub struct ClusterHosts {
    raw: Opaque,
}

impl ClusterHosts {
    /// The hosts that a load balancer chooses from.
    ///
    /// # Safety
    /// `raw` is Envoy's load balancer of the hook that is running, on its own thread, and the
    /// result is dropped before the hook ends.
    pub unsafe fn new(raw: Opaque) -> ClusterHosts {
        ClusterHosts { raw }
    }

    /// True if the hosts' cluster has this name.
    pub fn are_of(&self, cluster: &str) -> bool {
        let mut name = EMPTY;
        // SAFETY: by `new` the load balancer is alive. The name is valid until Envoy is called
        // again, which doesn't happen before it is compared.
        unsafe {
            abi::envoy_dynamic_module_callback_lb_get_cluster_name(self.raw, &mut name);
            bytes(name) == cluster.as_bytes()
        }
    }

    /// The name of the hosts' cluster.
    pub fn cluster(&self) -> String {
        let mut name = EMPTY;
        // SAFETY: by `new` the load balancer is alive. The name is valid until Envoy is called
        // again, which doesn't happen before it is copied.
        unsafe {
            abi::envoy_dynamic_module_callback_lb_get_cluster_name(self.raw, &mut name);
            String::from_utf8_lossy(bytes(name)).into_owned()
        }
    }

    /// The healthy hosts of the first priority that has any. A host without an IP address can't be
    /// asked for by its address and is left out.
    pub fn members(&self) -> Vec<Member> {
        let mut priorities = (0..self.priorities()).map(|priority| (priority, self.healthy(priority)));
        let Some((priority, count)) = priorities.find(|(_, count)| *count > 0) else { return Vec::new() };
        let member = |index| {
            let address = self.address(priority, index)?;
            // SAFETY: by `new` the load balancer is alive.
            let weight =
                unsafe { abi::envoy_dynamic_module_callback_lb_get_healthy_host_weight(self.raw, priority, index) };
            Some(Member { address, weight })
        };
        (0..count).filter_map(member).collect()
    }

    /// The address of the healthy host of this index in a priority.
    fn address(&self, priority: u32, index: usize) -> Option<SocketAddr> {
        let mut found = EMPTY;
        // SAFETY: by `new` the load balancer is alive; it returns false for a host that it doesn't
        // have. The address is valid until Envoy is called again, which doesn't happen before it
        // is parsed.
        unsafe {
            let is_found =
                abi::envoy_dynamic_module_callback_lb_get_healthy_host_address(self.raw, priority, index, &mut found);
            if is_found { std::str::from_utf8(bytes(found)).ok()?.parse().ok() } else { None }
        }
    }

    /// The number of priorities.
    pub fn priorities(&self) -> u32 {
        // SAFETY: by `new` the load balancer is alive.
        unsafe { abi::envoy_dynamic_module_callback_lb_get_priority_set_size(self.raw) as u32 }
    }

    /// The number of healthy hosts of a priority.
    pub fn healthy(&self, priority: u32) -> usize {
        // SAFETY: by `new` the load balancer is alive.
        unsafe { abi::envoy_dynamic_module_callback_lb_get_healthy_hosts_count(self.raw, priority) }
    }

    /// True if the healthy host of this index in a priority has this address (`IP:PORT`).
    pub fn is_at(&self, priority: u32, index: usize, address: &str) -> bool {
        let mut found = EMPTY;
        // SAFETY: by `new` the load balancer is alive; it returns false for a host that it doesn't
        // have. The address is valid until Envoy is called again, which doesn't happen before it
        // is compared.
        unsafe {
            abi::envoy_dynamic_module_callback_lb_get_healthy_host_address(self.raw, priority, index, &mut found)
                && bytes(found) == address.as_bytes()
        }
    }
}
