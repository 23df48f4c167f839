//! EnvoyFilters of users whose patches have no effect where the rules of a host put another filter in the
//! place of `tcp_proxy`.

use std::collections::BTreeSet;

use redis_mesh_core::wire;

use crate::diagnostic::{Code, Diagnostics, Problem, some_of};
use crate::inventory::{Inventory, NamespacedName};
use crate::validate::service::ValidatedService;

use super::prepared_service::listener_name;

/// Reports the EnvoyFilters that lose by the rules of a service: those of its clients' namespaces, and those
/// of the root namespace.
pub fn report(service: &ValidatedService, inventory: &Inventory, root: &str, diagnostics: &mut Diagnostics) {
    if service.path != wire::DataPath::Proxy {
        return;
    }
    let port = service.address.port;
    let mut lost: BTreeSet<&NamespacedName> = BTreeSet::new();
    let listeners: Vec<String> = service.addresses.all().map(|address| listener_name(address, port)).collect();
    for listener in &listeners {
        let found = inventory.user_filters.of(listener, port);
        lost.extend(found.filter(|key| key.namespace == root || service.clients.includes(&key.namespace)));
    }
    if lost.is_empty() {
        return;
    }
    let message = format!(
        "EnvoyFilter {} patches tcp_proxy, in whose place redis_proxy serves {}: the patch has no effect there",
        some_of(lost.into_iter().map(NamespacedName::to_string).collect()),
        service.address,
    );
    let remedy = "insert filters before tcp_proxy, with a priority of less than 1000; what is merged into tcp_proxy itself can't be kept on the data path proxy";
    diagnostics.add(&service.owner, "spec.host", Problem::new(Code::FilterPatchLost, message, remedy));
}
