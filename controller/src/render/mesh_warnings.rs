//! Warnings about services for some of whose clients the rules don't hold in a mesh, though all that
//! is rendered for them is in force.

use crate::diagnostic::{Code, Diagnostics, Problem, some_of};
use crate::inventory::{NamespacedName, ServicePort};
use crate::validate::risks::route_field;
use crate::validate::service::ValidatedService;

use super::mesh_options::MeshOptions;

/// Reports everything because of which the rules of a service don't hold in some sidecars.
pub fn report(service: &ValidatedService, options: &MeshOptions, diagnostics: &mut Diagnostics) {
    taken_for_http(service, diagnostics);
    another_redis(service, diagnostics);
    if !options.is_dual_stack && options.listen.iter().all(|listen| !listen.names(&service.address)) {
        second_family(service, diagnostics);
    }
}

/// A Service with addresses of both families. A sidecar with both has a listener for the first address
/// only, unless Istio's support of both is on.
fn second_family(service: &ValidatedService, diagnostics: &mut Diagnostics) {
    let Some((key, _)) = &service.service else { return };
    let addresses = &service.addresses.cluster_ips;
    let is_v6 = |address: &&String| address.contains(':');
    let Some(first) = addresses.first() else { return };
    let Some(second) = addresses.iter().find(|address| is_v6(address) != is_v6(&first)) else { return };
    let message = format!(
        "Service {key} has addresses of both families, and in a pod that has both, too, a sidecar has a listener for {first} alone: connections to {second} are not governed there, so no password is asked for and no key is routed"
    );
    let remedy = "switch on ISTIO_DUAL_STACK, both in istiod's environment and in meshConfig.defaultConfig.proxyMetadata, or give the Service ipFamilyPolicy: SingleStack; pods with one family need neither";
    diagnostics.add(&service.owner, "spec.host", Problem::new(Code::SecondFamilyPasses, message, remedy));
}

/// Ports that Istio takes for HTTP. A sidecar of the client has no TCP listener for the port of such
/// a host that could be patched; a sidecar of the Redis reads commands as HTTP.
fn taken_for_http(service: &ValidatedService, diagnostics: &mut Diagnostics) {
    if let Some((key, port, sign)) = http_port(service.service.as_ref()) {
        let message = format!(
            "Istio takes port {} of Service {key} for HTTP by {sign}, so sidecars read the commands of clients as HTTP requests: connections hang or are closed, and no rule of this object takes effect",
            port.number
        );
        diagnostics.add(&service.owner, "spec.host", Problem::new(Code::PortTakenForHttp, message, remedy(port)));
    }
    for destination in service.destinations() {
        let Some((key, port, sign)) = http_port(destination.service.as_ref()) else { continue };
        if destination.address == service.address {
            continue;
        }
        let message = format!(
            "Istio takes port {} of Service {key} for HTTP by {sign}, so a sidecar of that Redis reads commands as HTTP requests",
            port.number
        );
        let problem = Problem::new(Code::PortTakenForHttp, message, remedy(port));
        diagnostics.add(&service.owner, route_field(service, destination), problem);
    }
}

/// ServiceEntries of clients' namespaces by which connections lead to another Redis there.
fn another_redis(service: &ValidatedService, diagnostics: &mut Diagnostics) {
    for destination in service.destinations() {
        if destination.policy.login.is_none() {
            continue;
        }
        let reached = destination.policy.overriding.iter().filter(|entry| service.clients.includes(&entry.namespace));
        let entries: Vec<String> = reached.map(NamespacedName::to_string).collect();
        if entries.is_empty() {
            continue;
        }
        let message = format!(
            "ServiceEntry {} makes another Redis of {} for the clients in its namespace: the login at {} is kept from them",
            some_of(entries),
            destination.address.host,
            destination.address
        );
        let remedy = "remove it, or name in exportTo the namespaces that may have the login";
        let problem = Problem::new(Code::HostOverridden, message, remedy);
        diagnostics.add(&service.owner, route_field(service, destination), problem);
    }
}

fn http_port(service: Option<&(NamespacedName, ServicePort)>) -> Option<(&NamespacedName, &ServicePort, &str)> {
    let (key, port) = service?;
    Some((key, port, port.http.as_deref()?))
}

fn remedy(port: &ServicePort) -> String {
    format!("give port {} of the Service the appProtocol `redis`, or the name `redis` or `tcp-redis`", port.number)
}
