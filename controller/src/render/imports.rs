//! Hosts that Istio's Sidecars keep from the proxies of clients: a proxy has listeners and clusters only
//! of the hosts that the Sidecar of its pod imports.

use std::collections::BTreeSet;

use crate::diagnostic::{Code, Diagnostics, Problem, some_of};
use crate::inventory::{Inventory, NamespacedName};
use crate::sidecar::ImportedHost;
use crate::validate::destination::ValidatedDestination;
use crate::validate::host_port::HostPort;
use crate::validate::risks::route_field;
use crate::validate::scope::ClientScope;
use crate::validate::service::ValidatedService;

use super::envoy::ClusterUse;
use super::envoy_filter::{self, ClusterOwner};

/// Reports the Sidecars because of which the rules of a service don't hold for some clients.
///
/// Of the Sidecars of other namespaces than the object's own, only those count that import the host:
/// the others say that nobody there needs it.
pub fn report(service: &ValidatedService, inventory: &Inventory, root: &str, diagnostics: &mut Diagnostics) {
    let own = match (&service.clients.scope, &service.service) {
        (ClientScope::Namespace(namespace), _) => namespace.as_str(),
        (ClientScope::Mesh, Some((key, _))) => key.namespace.as_str(),
        (ClientScope::Mesh, None) => return,
    };
    let Some(host) = NeededHost::of(&service.address, service.service.as_ref().map(|(key, _)| key), inventory, own)
    else {
        return;
    };
    let lacking = host.lacking(inventory, own, root);
    if !lacking.is_empty() && service.clients.includes(own) {
        let message = format!(
            "{} of Istio's doesn't import {} in namespace {own}: clients there connect around these rules, so no password is asked for and no key is routed",
            named(&lacking),
            service.address.host,
        );
        let problem = Problem::new(Code::HostNotImported, message, host.remedy());
        diagnostics.add(&service.owner, "spec.host", problem);
    }
    let mut clients = BTreeSet::from([own]);
    if service.clients.scope == ClientScope::Mesh {
        clients.extend(inventory.sidecars.namespaces());
    }
    clients.retain(|namespace| service.clients.includes(namespace));
    let others = service.destinations().into_iter().filter(|known| known.address != service.address);
    for destination in others.filter(|destination| is_istios(destination, ClusterUse::by(service, destination))) {
        let key = destination.service.as_ref().map(|(key, _)| key);
        let Some(needed) = NeededHost::of(&destination.address, key, inventory, own) else { continue };
        let mut keeping: BTreeSet<&NamespacedName> = BTreeSet::new();
        for namespace in &clients {
            let without = host.lacking(inventory, namespace, root);
            let found = needed.lacking(inventory, namespace, root).into_iter();
            keeping.extend(found.filter(|sidecar| !without.contains(sidecar)));
        }
        if !keeping.is_empty() {
            let message = format!(
                "{} of Istio's imports {} and not {}, to which a rule leads: commands are answered with `no upstream host`, or their connections closed",
                named(&keeping.into_iter().collect::<Vec<_>>()),
                service.address.host,
                destination.address.host,
            );
            let problem = Problem::new(Code::DestinationNotImported, message, needed.remedy());
            diagnostics.add(&service.owner, route_field(service, destination), problem);
        }
    }
}

/// True if a proxy needs what Istio knows of the destination.
pub(super) fn is_istios(destination: &ValidatedDestination, usage: ClusterUse) -> bool {
    let is_found = envoy_filter::owner(destination, usage) == ClusterOwner::Istio;
    is_found || destination.in_mesh && destination.follows_the_client()
}

/// A host with the namespace to which it belongs.
struct NeededHost<'a> {
    address: &'a HostPort,
    namespace: String,
}

impl<'a> NeededHost<'a> {
    /// None for a host of which Istio knows nothing.
    fn of(
        address: &'a HostPort,
        service: Option<&NamespacedName>,
        inventory: &Inventory,
        clients: &str,
    ) -> Option<NeededHost<'a>> {
        let key = service.or_else(|| Some(&inventory.entry(&address.host, clients)?.key))?;
        Some(NeededHost { address, namespace: key.namespace.clone() })
    }

    fn lacking<'s>(&self, inventory: &'s Inventory, clients: &str, root: &str) -> Vec<&'s NamespacedName> {
        let host = ImportedHost { host: &self.address.host, namespace: &self.namespace, port: self.address.port };
        inventory.sidecars.lacking(&host, clients, root)
    }

    fn remedy(&self) -> String {
        format!("add `{}/{}` to `hosts` of its egress", self.namespace, self.address.host)
    }
}

/// The Sidecars in words.
fn named(sidecars: &[&NamespacedName]) -> String {
    format!("Sidecar {}", some_of(sidecars.iter().map(|key| key.to_string()).collect()))
}
