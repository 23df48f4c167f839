//! The scope of a destination's cluster: the rules that may lead there, and the namespace whose
//! readers may see its secrets.

use redis_mesh_core::wire;

use crate::diagnostic::Subject;
use crate::validate::destination::ValidatedDestination;
use crate::validate::scope::ClientScope;
use crate::validate::service::ValidatedService;

use super::envoy::ClusterUse;
use super::envoy_filter::{self, ClusterOwner};

/// The scope of a cluster for rules whose clients a RedisDestination of the host doesn't reach. It is
/// the name of no namespace.
pub const WITHHELD: &str = "*/~";

/// The namespace of the RedisDestination that applies to a host of another namespace. It applies
/// to rules of its own namespace only.
fn foreign(destination: &ValidatedDestination) -> Option<&str> {
    let (says, _) = destination.policy.object.as_ref()?.name.split_once('/')?;
    let owner = destination.service.as_ref().map(|(key, _)| key.namespace.as_str());
    (owner != Some(says)).then_some(says)
}

/// The scope of a cluster that redis-mesh adds for a destination; none where rules of all
/// namespaces may lead there.
pub fn cluster_scope(service: &ValidatedService, destination: &ValidatedDestination) -> Option<String> {
    match scope_of(service) {
        Some(namespace) => Some(namespace.to_owned()),
        // Elsewhere in the same sidecar, rules may lead there as its RedisDestination says.
        None if destination.policy.is_withheld => Some(WITHHELD.to_owned()),
        // The name differs from that in rules for the clients of the namespace: both may be in
        // one sidecar.
        None => foreign(destination).map(|namespace| format!("*/{namespace}")),
    }
}

/// The RedisDestination of one namespace that would change Istio's own cluster of another
/// namespace's Service for all clients; none if there is no such change.
pub fn changes_for_everybody<'a>(
    service: &ValidatedService,
    destination: &'a ValidatedDestination,
) -> Option<&'a Subject> {
    let policy = &destination.policy;
    let logs_in = service.path == wire::DataPath::Proxy && policy.login.is_some();
    let changes = logs_in || policy.tcp.connect_timeout.is_some() || policy.tcp.keepalive.is_some();
    let is_everybodys = scope_of(service).is_none()
        && destination.service.is_some()
        && envoy_filter::owner(destination, ClusterUse::by(service, destination)) == ClusterOwner::Istio
        && foreign(destination).is_some();
    policy.object.as_ref().filter(|_| is_everybodys && changes)
}

/// The namespace of the clients, where an object for them must not stand there.
///
/// A destination's credentials may be those of another namespace, which readers of the clients'
/// namespace may not see. And whatever stands in the root namespace is for everybody.
pub fn kept_from<'a>(
    service: &'a ValidatedService,
    destination: &ValidatedDestination,
    root_namespace: &str,
) -> Option<&'a str> {
    let clients = scope_of(service)?;
    if clients == root_namespace {
        return Some(clients);
    }
    let policy = &destination.policy;
    let (owner, _) = policy.object.as_ref()?.name.split_once('/')?;
    let holds_secrets = policy.login.is_some() || policy.tls.as_ref().is_some_and(|tls| tls.certificate.is_some());
    (holds_secrets && owner != clients).then_some(clients)
}

fn scope_of(service: &ValidatedService) -> Option<&str> {
    match &service.clients.scope {
        ClientScope::Mesh => None,
        ClientScope::Namespace(namespace) => Some(namespace),
    }
}
