//! Hosts and clients in namespaces of which istiod knows nothing: proxies have neither listener nor
//! cluster of such a host, and nothing that is written into such a namespace reaches a proxy.

use crate::diagnostic::{Code, Diagnostics, Problem};
use crate::inventory::Inventory;
use crate::validate::risks::route_field;
use crate::validate::scope::ClientScope;
use crate::validate::service::ValidatedService;

use super::envoy::ClusterUse;
use super::imports;

/// Reports the namespaces because of which the rules of a service can't take effect.
pub fn report(service: &ValidatedService, inventory: &Inventory, diagnostics: &mut Diagnostics) {
    let is_unseen = |namespace: &str| !inventory.discovery.is_seen(namespace);
    if let Some((key, _)) = service.service.as_ref().filter(|(key, _)| is_unseen(&key.namespace)) {
        let message = format!(
            "istiod doesn't look at namespace {}, which no discoverySelectors of Istio's mesh configuration select: sidecars have no listener for Service {key}, so no rule takes effect, no password is asked for and no key is routed",
            key.namespace,
        );
        diagnostics.add(&service.owner, "spec.host", problem(message, &key.namespace, inventory));
        return;
    }
    if let ClientScope::Namespace(clients) = &service.clients.scope
        && is_unseen(clients)
    {
        let message = format!(
            "istiod doesn't look at namespace {clients}, which no discoverySelectors of Istio's mesh configuration select: what is written for the clients there reaches no sidecar"
        );
        diagnostics.add(&service.owner, "metadata.namespace", problem(message, clients, inventory));
        return;
    }
    let usage = ClusterUse::of(service.path);
    for destination in service.destinations() {
        let Some((key, _)) = destination.service.as_ref().filter(|(key, _)| is_unseen(&key.namespace)) else {
            continue;
        };
        // A cluster of redis-mesh may reach it all the same.
        if imports::is_istios(destination, usage) {
            let message = format!(
                "istiod doesn't look at namespace {}, which no discoverySelectors of Istio's mesh configuration select: sidecars have no cluster for Service {key}",
                key.namespace,
            );
            let field = route_field(service, destination);
            diagnostics.add(&service.owner, field, problem(message, &key.namespace, inventory));
        }
    }
}

fn problem(message: String, namespace: &str, inventory: &Inventory) -> Problem {
    let remedy = format!(
        "label namespace {namespace} so that a selector selects it ({}), or add a selector for it",
        inventory.discovery.selectors()
    );
    Problem::new(Code::UnseenNamespace, message, remedy)
}
