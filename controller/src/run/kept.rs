//! What is kept of objects with errors, and the addresses for which it holds.
//!
//! The last good configuration of an object was made for hosts, but listeners and connections are known by
//! addresses. The Service of a host can be deleted and its ClusterIP given to another Service, a pod's address
//! to a pod of somebody else, and the Service can be created again with another address. So what is kept
//! goes where its hosts are now: it ends at an address as soon as that isn't the host's any more, and it holds
//! at the host's new address, where clients would otherwise be answered without the password that was
//! asked for. The Service's UID would say less: one that is created again under the same name is the same host,
//! for which the object was written.

use std::collections::BTreeSet;
use std::sync::Arc;

use redis_mesh_core::wire;
use tracing::{info, warn};

use crate::diagnostic::{Diagnostics, Subject};
use crate::inventory::{self, NamespacedName, ServiceEndpoint, ServicePort};
use crate::render::mesh_options::MeshOptions;
use crate::render::prepared_service::{PreparedService, listener_name};
use crate::validate::addresses::addresses;
use crate::validate::host;
use crate::validate::service::HostAddresses;

use super::names::{ObjectKey, RenderedKey};
use super::observed::ObservedObject;
use super::place::NOWHERE;
use super::request::with_timeout;
use super::state::StateChange;
use super::store::Store;
use super::sync_state::SyncState;

/// A rendered object that stays as it is, except for the listeners that it has to patch.
pub struct Relocation {
    key: RenderedKey,
    listeners: Vec<String>,
}

impl SyncState {
    /// Takes what is kept of objects with errors to the present addresses of their hosts. `changes` gets those
    /// that have moved.
    pub(super) fn follow_hosts(&mut self, changes: &mut Vec<(ObjectKey, StateChange)>) {
        for key in self.states.kept() {
            let Some(state) = self.states.get(&key) else { continue };
            if let Some(services) = readdressed(&state.in_force, &self.store, &self.context.settings.mesh) {
                info!(object = %key, "what is kept of the object follows its hosts to their present addresses");
                changes.extend(self.states.replace_kept(&key, services).map(|change| (key, change)));
                self.progress.is_stale = true;
            }
        }
    }

    /// The rendered objects that stay as they are though their hosts have other addresses now.
    pub(super) fn relocations(&self) -> Vec<Relocation> {
        let frozen = self.states.frozen(&self.store);
        let relocations = frozen.into_iter().flat_map(|owner| {
            let (purpose, namespace) = (owner.to_string(), owner.name.namespace.as_str());
            self.objects.own().filter_map(move |(key, object)| {
                let listeners = relocated(object, namespace, &self.store).filter(|_| object.purpose == purpose)?;
                Some(Relocation { key: key.clone(), listeners })
            })
        });
        relocations.collect()
    }

    /// Performs these relocations. Returns how many failed.
    pub(super) async fn relocate(&mut self, relocations: Vec<Relocation>) -> usize {
        let mut failed = 0;
        for Relocation { key, listeners } in relocations {
            let applier = self.context.applier.clone();
            match with_timeout(applier.relocate(&key, &listeners)).await {
                Ok(object) => {
                    info!(object = %key, ?listeners, "moved to the present addresses of its host");
                    self.objects.observe(key, Box::new(ObservedObject::of(&object)));
                }
                Err(error) => {
                    warn!(object = %key, error = %error, "the object could not be moved to the addresses of its host");
                    failed += 1;
                }
            }
        }
        self.progress.is_stale |= failed > 0;
        failed
    }
}

/// These services as they are at the present addresses of their hosts; none if those are the same.
fn readdressed(
    kept: &[Arc<PreparedService>],
    store: &Store,
    options: &MeshOptions,
) -> Option<Vec<Arc<PreparedService>>> {
    let mut has_moved = false;
    let services = kept.iter().map(|prepared| {
        let mut service = prepared.service.clone();
        let Some(owner) = ObjectKey::of(&service.owner) else { return prepared.clone() };
        let address = format!("{}:{}", service.address.host, service.address.port);
        match present_addresses(&address, &owner.name.namespace, store) {
            Some((present, _)) if present != service.addresses => service.addresses = present,
            _ => return prepared.clone(),
        }
        has_moved = true;
        // Whatever there is to say about it was said when it was good.
        Arc::new(PreparedService::new(service, options, &mut Diagnostics::default()))
    });
    let services = services.collect();
    has_moved.then_some(services)
}

/// The listeners that an EnvoyFilter has to patch; none if those are the ones that it patches, or if it is
/// about no host.
fn relocated(object: &ObservedObject, namespace: &str, store: &Store) -> Option<Vec<String>> {
    let place = object.place.as_ref()?;
    let (host, port) = present_addresses(&place.host, namespace, store)?;
    let mut names: Vec<String> = host.all().map(|address| listener_name(address, port)).collect();
    if names.is_empty() {
        names.push(NOWHERE.to_owned());
    }
    (names.iter().collect::<BTreeSet<_>>() != place.listeners.iter().collect()).then_some(names)
}

/// Has a host that is kept in a WasmPlugin take only connections to its present addresses. Those that are known
/// by its name stay its own.
pub fn at_present(host: &mut wire::Host, namespace: &str, store: &Store) {
    let Some((present, port)) = present_addresses(&host.host, namespace, store) else { return };
    let present: Vec<String> =
        present.cluster_ips.into_iter().map(|address| ServiceEndpoint { address, port }.to_string()).collect();
    host.selector.addresses.retain(|address| present.contains(address));
    if host.selector.is_empty() {
        // Without any mark it would take every connection, and no two hosts have the same mark.
        host.selector.listeners.push(format!("{} {NOWHERE}", host.host));
    }
}

/// The present addresses of a host, `FQDN:port`, as an object in this namespace sees it, and the port.
fn present_addresses(host: &str, namespace: &str, store: &Store) -> Option<(HostAddresses, u16)> {
    let (name, port) = host.rsplit_once(':')?;
    let port = port.parse().ok()?;
    let name = host::name(name, namespace, &store.options().cluster_domain).ok()?;
    let service = match name.service {
        None => None,
        // EndpointSlices may be there for longer than their Service.
        Some(key) => match port_of(&key, port, store) {
            None => return Some((HostAddresses::default(), port)),
            Some(known) => Some((key, known)),
        },
    };
    let (mut unsaid, nobody) = (Diagnostics::default(), Subject::default());
    let reporter = &mut unsaid.at(&nobody, "");
    Some((addresses(&name.host, namespace, &service, store.inventory(), reporter), port))
}

fn port_of(service: &NamespacedName, number: u16, store: &Store) -> Option<ServicePort> {
    let ports = inventory::ports(store.inventory().service(service)?);
    ports.into_iter().find(|port| port.number == number)
}

#[cfg(test)]
mod tests;
