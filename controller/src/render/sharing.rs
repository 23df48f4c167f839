//! The hosts that share a WasmPlugin, and those of the same port that get a filter of their own since the
//! WasmPlugin would grow too large.
//!
//! A host that changes from one to the other gets another listener, and Envoy closes the connections of the old
//! one when its drain time is over. So no more hosts change than must, and they don't change back as soon as
//! there is room again. The WasmPlugin itself stays as long as there is any such host: with it go or come the
//! listeners of every host of the port, whoever owns it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::validate::host_port::HostPort;

use super::prepared_service::PreparedService;

/// The size in bytes of a WasmPlugin's configuration above which hosts get filters of their own.
pub const MAX_PLUGIN: usize = 256 * 1024;
/// The size in bytes that the hosts of a port must not pass together if those with filters of their own are to
/// share a WasmPlugin again. It is smaller, so that one host more or less moves none.
pub const MIN_PLUGIN: usize = 192 * 1024;

/// Hosts by the namespace of their rendered objects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostsByNamespace(BTreeMap<String, BTreeSet<HostPort>>);

impl HostsByNamespace {
    /// Adds the host of a service.
    pub fn insert(&mut self, prepared: &PreparedService) {
        let hosts = self.0.entry(prepared.namespace.clone()).or_default();
        hosts.insert(prepared.service.address.clone());
    }

    /// True if the host of a service is among them.
    pub fn contains(&self, prepared: &PreparedService) -> bool {
        self.0.get(&prepared.namespace).is_some_and(|hosts| hosts.contains(&prepared.service.address))
    }
}

/// Where the hosts were before.
#[derive(Clone, Default)]
pub struct SharingHistory {
    /// The hosts that had filters of their own though nothing of their own required that.
    pub apart: Arc<HostsByNamespace>,
    /// The hosts in WasmPlugins.
    pub together: HostsByNamespace,
}

/// Divides the hosts of one namespace and port: those that share the WasmPlugin, and those with filters of
/// their own. `kept` is the size in bytes of what else the WasmPlugin holds.
pub fn divide<'a>(
    members: &[&'a Arc<PreparedService>],
    kept: usize,
    past: &SharingHistory,
) -> (Vec<Arc<PreparedService>>, Vec<&'a Arc<PreparedService>>) {
    let size_of = |hosts: &[&Arc<PreparedService>]| hosts.iter().map(|prepared| prepared.size).sum::<usize>();
    // A host whose listeners are unknown can't get a filter of its own.
    let (mut apart, mut shared): (Vec<_>, Vec<_>) =
        members.iter().copied().partition(|prepared| !prepared.listeners.is_empty() && past.apart.contains(prepared));
    if kept + size_of(members) <= MIN_PLUGIN {
        shared.append(&mut apart);
    }
    let mut size = kept + size_of(&shared);
    if size > MAX_PLUGIN {
        // Hosts that are new have no connections to lose; then few large ones rather than many.
        let mut movable: Vec<_> = shared.iter().copied().filter(|prepared| !prepared.listeners.is_empty()).collect();
        movable.sort_by_key(|prepared| (past.together.contains(prepared), std::cmp::Reverse(prepared.size)));
        let moved = movable.into_iter().take_while(|prepared| {
            let is_too_large = size > MAX_PLUGIN;
            size -= prepared.size;
            is_too_large
        });
        let moved: Vec<_> = moved.collect();
        shared.retain(|prepared| !moved.iter().any(|other| Arc::ptr_eq(prepared, other)));
        apart.extend(moved);
    }
    let mut shared: Vec<Arc<PreparedService>> = shared.into_iter().cloned().collect();
    shared.sort_by(|one, other| one.service.address.cmp(&other.service.address));
    (shared, apart)
}

#[cfg(test)]
mod tests;
