//! The ports whose WasmPlugins stand from the installation on.
//!
//! All sidecars of the mesh fetch the filter as soon as such a WasmPlugin is written. An agent tries for some
//! seconds; if it can't fetch the filter, the sidecar refuses every connection to the port, whatever the host.
//! So where this controller serves the filter, the WasmPlugins wait until sidecars can reach it: until it
//! has been asked whether it is ready, since only then it becomes an endpoint of its Service, and some
//! seconds more.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::inventory::NamespacedName;
use crate::render::wasm_plugin;

use super::names::RenderedKey;
use super::sync_state::SyncState;

/// The time in which an endpoint of a Service reaches all nodes.
const PROPAGATION: Duration = Duration::from_secs(10);
/// The time after which nobody is expected to ask whether the controller is ready.
const UNASKED: Duration = Duration::from_secs(60);
/// The time between two looks whether sidecars can reach the filter.
const RETRY: Duration = Duration::from_secs(1);

/// The ports that the command line declares.
pub struct DeclaredPorts {
    /// The ports.
    ports: BTreeSet<u16>,
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
    fn is_reachable(&self, ready: Option<Instant>, now: Instant) -> bool {
        let has_passed = |since: Instant, time| now.saturating_duration_since(since) >= time;
        !self.is_served_here
            || ready.is_some_and(|ready| has_passed(ready, PROPAGATION))
            || has_passed(self.start, UNASKED)
    }
}

impl SyncState {
    /// Adds the declared ports to the options of rendering, as soon as sidecars can fetch the filter, and those
    /// that have a WasmPlugin already at once.
    pub(super) fn declare_ports(&mut self) {
        let settings = &self.context.settings;
        let missing: Vec<u16> = settings.ports.ports.difference(&settings.mesh.ports).copied().collect();
        if missing.is_empty() {
            return;
        }
        let is_reachable = settings.ports.is_reachable(self.context.http.readiness.found_ready(), Instant::now());
        let has_plugin = |port: &u16| {
            let name = NamespacedName::new(&settings.mesh.root_namespace, &wasm_plugin::name(*port));
            self.objects.observed().contains_key(&RenderedKey { kind: wasm_plugin::KIND, name })
        };
        let (due, later): (Vec<u16>, Vec<u16>) = missing.into_iter().partition(|port| is_reachable || has_plugin(port));
        self.progress.is_stale |= !due.is_empty();
        self.context.settings.mesh.ports.extend(due);
        if !later.is_empty() {
            self.progress.look_again(RETRY);
        }
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
