//! The ports whose WasmPlugins stand from the installation on.
//!
//! All sidecars of the mesh fetch the filter as soon as such a WasmPlugin is written. An agent tries for some
//! seconds; if it can't fetch the filter, the sidecar refuses every connection to the port, whatever the host.
//! So where this controller serves the filter, the WasmPlugins wait until sidecars can reach it: until it
//! has been asked whether it is ready, since only then it becomes an endpoint of its Service, and some
//! seconds more.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// The time in which an endpoint of a Service reaches all nodes.
const PROPAGATION: Duration = Duration::from_secs(10);
/// The time after which nobody is expected to ask whether the controller is ready.
const UNASKED: Duration = Duration::from_secs(60);
/// The time between two looks whether sidecars can reach the filter.
pub const RETRY: Duration = Duration::from_secs(1);

/// The ports that the command line declares.
pub struct DeclaredPorts {
    /// The ports.
    pub ports: BTreeSet<u16>,
    /// True if sidecars fetch the filter from this controller.
    is_served_here: bool,
    start: Instant,
}

impl DeclaredPorts {
    /// Declares ports.
    pub fn new(ports: BTreeSet<u16>, is_served_here: bool) -> DeclaredPorts {
        DeclaredPorts { ports, is_served_here, start: Instant::now() }
    }

    /// True if sidecars can fetch the filter, where `ready` is when the controller was first found to be ready.
    pub fn is_reachable(&self, ready: Option<Instant>, now: Instant) -> bool {
        let has_passed = |since: Instant, time| now.saturating_duration_since(since) >= time;
        !self.is_served_here
            || ready.is_some_and(|ready| has_passed(ready, PROPAGATION))
            || has_passed(self.start, UNASKED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_declared_when_sidecars_can_fetch_the_filter() {
        let served = DeclaredPorts::new([6379].into(), true);
        let (now, after) = (served.start, |seconds| served.start + Duration::from_secs(seconds));
        assert!(!served.is_reachable(None, now) && !served.is_reachable(None, after(59)));
        assert!(!served.is_reachable(Some(now), after(9)) && served.is_reachable(Some(now), after(10)));
        assert!(served.is_reachable(None, after(60)));
        assert!(DeclaredPorts::new([6379].into(), false).is_reachable(None, Instant::now()));
    }
}
