//! The clients whom a service reaches, given its destinations.
//!
//! An object that is not exported to a namespace doesn't exist for the clients there. Rules that lead
//! to a destination of their own namespace end where its RedisDestination ends, so that nobody is led
//! there without its login or its TLS.

use crate::diagnostic::{Code, Diagnostics, Problem};

use super::risks::route_field;
use super::service::ValidatedService;

/// Leaves the clients whom all of the destinations reach. False if nobody is left, which is reported.
pub fn narrow(service: &mut ValidatedService, field: &str, diagnostics: &mut Diagnostics) -> bool {
    let mut clients = service.clients.clone();
    let mut problems = Vec::new();
    for destination in service.destinations() {
        let Some(object) = &destination.policy.object else { continue };
        let within = service.clients.within(&destination.policy.exports);
        if within == service.clients {
            continue;
        }
        if *object != service.owner {
            let message = format!(
                "leads to {}, whose {} {} is exported to {} only: the rules hold there alone, and clients elsewhere connect around them",
                destination.address, object.kind, object.name, destination.policy.exports
            );
            let remedy = "write the same exportTo here, or export that object to all clients of these rules";
            let problem = Problem::new(Code::RulesNotExported, message, remedy);
            problems.push((route_field(service, destination), problem));
        }
        clients = clients.within(&destination.policy.exports);
    }
    service.clients = clients;
    for (field, problem) in problems {
        diagnostics.add(&service.owner, field, problem);
    }
    if service.clients.exports.is_nobody() {
        let message = format!(
            "has no effect: no client of {} is in a namespace to which all of this is exported",
            service.address.host
        );
        let remedy = "have exportTo name the namespaces of the clients, here and in the annotation networking.istio.io/exportTo of the Service";
        diagnostics.add(&service.owner, field, Problem::new(Code::ExportedToNobody, message, remedy));
        return false;
    }
    true
}
