//! The hosts of a cluster.

use super::buffer::{EMPTY, bytes};
use crate::abi::{self, Opaque};

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
