//! What there is besides our own kinds: Services, EndpointSlices, Secrets. From files or from the API; the rest of the crate
//! can't tell.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::api::core::v1::{Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;

/// `namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl Key {
    /// Of a namespace and a name.
    pub fn new(namespace: &str, name: &str) -> Key {
        Key { namespace: namespace.to_owned(), name: name.to_owned() }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Everything that our kinds may refer to.
#[derive(Clone, Debug, Default)]
pub struct Inventory {
    services: BTreeMap<Key, Service>,
    slices: BTreeMap<Key, Vec<EndpointSlice>>,
    secrets: BTreeMap<Key, Secret>,
}

/// The label by which an EndpointSlice says whose it is.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

impl Inventory {
    /// Adds a Service.
    pub fn add_service(&mut self, service: Service) {
        let meta = &service.metadata;
        let key = Key::new(meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default());
        self.services.insert(key, service);
    }

    /// Adds an EndpointSlice; false if it doesn't say which Service it belongs to.
    pub fn add_slice(&mut self, slice: EndpointSlice) -> bool {
        let meta = &slice.metadata;
        let Some(name) = meta.labels.as_ref().and_then(|labels| labels.get(SERVICE_NAME)) else { return false };
        let key = Key::new(meta.namespace.as_deref().unwrap_or_default(), name);
        self.slices.entry(key).or_default().push(slice);
        true
    }

    /// Adds a Secret.
    pub fn add_secret(&mut self, secret: Secret) {
        let meta = &secret.metadata;
        let key = Key::new(meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default());
        self.secrets.insert(key, secret);
    }

    /// A Service.
    pub fn service(&self, key: &Key) -> Option<&Service> {
        self.services.get(key)
    }

    /// The keys of all Services, to suggest one.
    pub fn services(&self) -> impl Iterator<Item = &Key> {
        self.services.keys()
    }

    /// Another Service to which an endpoint of a headless Service belongs: as its own address, or, in another namespace, as
    /// the endpoint of a headless Service too.
    ///
    /// A mesh names the listeners of a headless Service by its endpoints, which whoever may write an EndpointSlice chooses.
    /// Without this check he could choose somebody else's listener.
    pub fn other_owner(&self, key: &Key, address: &str) -> Option<&Key> {
        let others = self.services.iter().filter(|(other, _)| *other != key);
        let mut owners = others.filter(|(other, service)| {
            let own = cluster_ips(service);
            own.iter().any(|own| own == address)
                || own.is_empty() && other.namespace != key.namespace && self.has_endpoint(other, address)
        });
        owners.next().map(|(other, _)| other)
    }

    fn has_endpoint(&self, key: &Key, address: &str) -> bool {
        let endpoints = self.slices.get(key).into_iter().flatten().flat_map(|slice| &slice.endpoints);
        endpoints.flat_map(|endpoint| &endpoint.addresses).any(|known| known == address)
    }

    /// A Secret.
    pub fn secret(&self, key: &Key) -> Option<&Secret> {
        self.secrets.get(key)
    }

    /// The keys of all Secrets, to suggest one.
    pub fn secrets(&self) -> impl Iterator<Item = &Key> {
        self.secrets.keys()
    }

    /// Where a Service's port is served, in the order of the EndpointSlices; `None` if it has none.
    pub fn endpoints(&self, key: &Key, port: &ServicePort) -> Option<Vec<Endpoint>> {
        let slices = self.slices.get(key)?;
        let mut endpoints = Vec::new();
        for slice in slices {
            // A slice names its ports as the Service does; an unnamed port is the only one.
            let ports = slice.ports.as_deref().unwrap_or_default();
            let number = ports.iter().find(|candidate| candidate.name.as_deref().unwrap_or_default() == port.name);
            let Some(number) = number.and_then(|port| port.port).and_then(|port| u16::try_from(port).ok()) else {
                continue;
            };
            for endpoint in &slice.endpoints {
                let ready = endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true);
                for address in endpoint.addresses.iter().filter(|_| ready) {
                    let endpoint = Endpoint { address: address.clone(), port: number };
                    if !endpoints.contains(&endpoint) {
                        endpoints.push(endpoint);
                    }
                }
            }
        }
        Some(endpoints)
    }
}

/// An address, which is an IP address or a name, and a port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// IP address or DNS name.
    pub address: String,
    /// Port.
    pub port: u16,
}

impl Endpoint {
    /// True for an IP address.
    pub fn is_ip(&self) -> bool {
        self.address.parse::<std::net::IpAddr>().is_ok()
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.address.contains(':') {
            write!(f, "[{}]:{}", self.address, self.port)
        } else {
            write!(f, "{}:{}", self.address, self.port)
        }
    }
}

/// A TCP port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name; empty where a Service has only one.
    pub name: String,
    /// Its number.
    pub number: u16,
    is_redis: bool,
}

/// The TCP ports of a Service.
pub fn ports(service: &Service) -> Vec<ServicePort> {
    let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
    ports
        .iter()
        .filter(|port| port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP"))
        .filter_map(|port| {
            let name = port.name.clone().unwrap_or_default();
            let number = u16::try_from(port.port).ok()?;
            let word = |text: &str| {
                matches!(text.split('-').collect::<Vec<_>>()[..], ["redis", ..] | ["tcp" | "tls", "redis", ..])
            };
            let is_redis = word(&name) || port.app_protocol.as_deref().is_some_and(|protocol| protocol == "redis");
            Some(ServicePort { name, number, is_redis })
        })
        .collect()
}

/// The ports of a Service on which Redis is spoken: its only one, or those that say so by name or `appProtocol`, or 6379.
pub fn redis_ports(service: &Service) -> Vec<ServicePort> {
    let all = ports(service);
    if all.len() <= 1 {
        return all;
    }
    let (named, others): (Vec<_>, Vec<_>) = all.into_iter().partition(|port| port.is_redis);
    if !named.is_empty() {
        return named;
    }
    others.into_iter().filter(|port| port.number == 6379).collect()
}

/// The addresses under which clients reach a Service; none if it is headless.
pub fn cluster_ips(service: &Service) -> Vec<String> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let mut addresses: Vec<String> = spec.cluster_ips.clone().unwrap_or_default();
    if let Some(address) = &spec.cluster_ip
        && !addresses.contains(address)
    {
        addresses.insert(0, address.clone());
    }
    addresses.retain(|address| !address.is_empty() && address != "None");
    addresses
}

/// The name that an ExternalName Service stands for.
pub fn external_name(service: &Service) -> Option<&str> {
    let spec = service.spec.as_ref()?;
    (spec.type_.as_deref() == Some("ExternalName")).then_some(spec.external_name.as_deref()).flatten()
}
