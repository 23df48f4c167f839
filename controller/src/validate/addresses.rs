//! The ports on which a host is governed, and the addresses to which its clients connect.

use crate::diagnostic::{Code, FieldReporter};
use crate::inventory::{self, Inventory, NamespacedName, ServicePort};

use super::host::{self, HostName};
use super::options::ValidateOptions;
use super::service::HostAddresses;

/// The addresses of a Service or ServiceEntry, and where a Service is headless, those of its
/// endpoints.
pub fn addresses(
    host: &str,
    namespace: &str,
    service: &Option<(NamespacedName, ServicePort)>,
    inventory: &Inventory,
    reporter: &mut FieldReporter<'_>,
) -> HostAddresses {
    let Some((key, port)) = service else {
        let Some(entry) = inventory.entry(host, namespace) else { return Default::default() };
        if entry.is_allocated && !entry.addresses.is_empty() {
            let message = format!(
                "has no effect in sidecars that don't capture DNS: {host} has only addresses that Istio has allocated ({})",
                entry.addresses.join(", ")
            );
            let remedy = format!("give ServiceEntry {} `addresses`, to which the clients resolve the name", entry.key);
            reporter.report(Code::AllocatedAddress, message, remedy);
        }
        // The mesh names listeners by their addresses, so an entry could choose the listener of
        // another host.
        let (addresses, others): (Vec<_>, Vec<_>) =
            entry.addresses.iter().cloned().partition(|address| inventory.service_at(address).is_none());
        for address in others {
            let message = format!("{address}, which ServiceEntry {} gives {host}, is that of a Service", entry.key);
            reporter.report(Code::AddressOfService, message, "give the ServiceEntry another address");
        }
        return HostAddresses { cluster_ips: addresses, ..HostAddresses::default() };
    };
    let own = inventory.service(key).map(inventory::cluster_ips).unwrap_or_default();
    if !own.is_empty() {
        return HostAddresses { cluster_ips: own, ..HostAddresses::default() };
    }
    let alias_of = inventory.service(key).and_then(inventory::external_name).map(str::to_owned);
    let mut pods = Vec::new();
    for endpoint in inventory.endpoints(key, port).unwrap_or_default() {
        match inventory.other_owner(key, &endpoint.address) {
            Some(other) => {
                let message = format!(
                    "endpoint {} of the headless Service {key} belongs to Service {other}, whose clients this object must not govern",
                    endpoint.address
                );
                reporter.report(Code::EndpointOfOtherService, message, "remove the endpoint from the EndpointSlice");
            }
            None => pods.push(endpoint.address),
        }
    }
    HostAddresses { cluster_ips: own, pods, alias_of }
}

/// A port, and the Service's port of that number where the host is a Service.
pub type GovernedPort = (u16, Option<(NamespacedName, ServicePort)>);

/// The ports on which a host is governed.
pub fn ports(
    name: &HostName,
    namespace: &str,
    inventory: &Inventory,
    options: &ValidateOptions,
    reporter: &mut FieldReporter<'_>,
) -> Vec<GovernedPort> {
    let Some(key) = &name.service else {
        if let Some(ports) = options.ports.get(&name.host) {
            return ports.iter().map(|port| (*port, None)).collect();
        }
        let Some(entry) = inventory.entry(&name.host, namespace) else { return vec![(host::REDIS_PORT, None)] };
        let ports = inventory::redis_ports(entry.ports.clone());
        if ports.is_empty() {
            let ports = host::listed(&entry.ports);
            let message = format!("none of the ports of ServiceEntry {} is known to be Redis ({ports})", entry.key);
            let remedy = "name one `redis` or `tcp-redis`, with the protocol TCP";
            reporter.report(Code::NoRedisPort, message, remedy);
        }
        return ports.into_iter().map(|port| (port.number, None)).collect();
    };
    let Some(service) = host::service(key, inventory, reporter) else { return Vec::new() };
    let ports = inventory::redis_ports(inventory::ports(service));
    if ports.is_empty() {
        reporter.add(host::no_redis_port(key, service));
    }
    ports.into_iter().map(|port| (port.number, Some((key.clone(), port)))).collect()
}
