//! Warnings about services for some of whose clients the rules don't hold in a mesh, though all that
//! is rendered for them is in force.

use crate::diagnostic::{Code, Diagnostics, Problem};
use crate::inventory::{NamespacedName, ServicePort};
use crate::validate::risks::route_field;
use crate::validate::service::ValidatedService;

/// Reports everything because of which the rules of a service don't hold in some sidecars.
pub fn report(service: &ValidatedService, diagnostics: &mut Diagnostics) {
    taken_for_http(service, diagnostics);
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

fn http_port(service: Option<&(NamespacedName, ServicePort)>) -> Option<(&NamespacedName, &ServicePort, &str)> {
    let (key, port) = service?;
    Some((key, port, port.http.as_deref()?))
}

fn remedy(port: &ServicePort) -> String {
    format!("give port {} of the Service the appProtocol `redis`, or the name `redis` or `tcp-redis`", port.number)
}
