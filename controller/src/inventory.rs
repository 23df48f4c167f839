//! The objects to which RedisServices and RedisDestinations refer: Services, EndpointSlices,
//! ServiceEntries, Secrets, and the DestinationRules of their hosts. They come from files or from
//! the API server.

mod service_port;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use k8s_openapi::api::core::v1::{Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;

use crate::discovery::SeenNamespaces;
use crate::sidecar::Sidecars;
use crate::user_filters::UserFilters;

use service_port::is_redis_name;
pub use service_port::{REDIS_PORT, ServicePort, external_name, port_of_alias, ports, redis_ports};

use crate::destination_rule::DestinationRules;
use crate::exports::{DefaultExports, Exports};
pub use crate::namespaced_name::NamespacedName;

/// The objects to which RedisServices and RedisDestinations may refer.
#[derive(Clone, Debug, Default)]
pub struct Inventory {
    // A map allocates room for values to come, and there may be thousands of Services; so large
    // values are boxed.
    services: BTreeMap<NamespacedName, Box<Service>>,
    /// By Service, then by their own name.
    slices: BTreeMap<(NamespacedName, String), Slice>,
    /// By host, then by the ServiceEntry.
    entries: BTreeMap<String, BTreeMap<NamespacedName, ServiceEntryHost>>,
    secrets: BTreeMap<NamespacedName, Secret>,
    /// The DestinationRules of Istio.
    pub rules: DestinationRules,
    /// The Sidecars.
    pub sidecars: Sidecars,
    /// The EnvoyFilters of users.
    pub user_filters: UserFilters,
    /// To whom objects are exported that don't say it.
    pub default_exports: DefaultExports,
    /// The namespaces that istiod looks at.
    pub discovery: SeenNamespaces,
    /// The Services by address: their own addresses and those of their endpoints.
    by_address: BTreeSet<(String, NamespacedName)>,
    /// True if these are all objects that there are, as in files: then names may be suggested,
    /// and unused objects reported.
    pub is_whole: bool,
}

/// The annotation of a Service by which it is exported to some namespaces only
/// (<https://istio.io/latest/docs/reference/config/annotations/#NetworkingExportTo>).
pub const EXPORT_TO: &str = "networking.istio.io/exportTo";

/// The label of an EndpointSlice that names its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

impl Inventory {
    /// Adds a Service, or replaces it.
    pub fn add_service(&mut self, mut service: Service) {
        let key = NamespacedName::of(&service.metadata);
        // Only this annotation is used of the metadata besides the name.
        let annotations = service.metadata.annotations.take();
        let exports = annotations.and_then(|all| all.into_iter().find(|(name, _)| name == EXPORT_TO));
        service.metadata = ObjectMeta::default();
        service.metadata.annotations = exports.map(|exports| [exports].into());
        service.status = None;
        self.forget_addresses(&key);
        self.services.insert(key.clone(), Box::new(service));
        self.remember_addresses(&key);
    }

    /// Removes a Service.
    pub fn remove_service(&mut self, key: &NamespacedName) {
        self.forget_addresses(key);
        self.services.remove(key);
        self.remember_addresses(key);
    }

    /// Adds an EndpointSlice, or replaces it. Returns its Service; none if its label names none.
    pub fn add_slice(&mut self, slice: EndpointSlice) -> Option<NamespacedName> {
        let key = owner_of(&slice)?;
        self.forget_addresses(&key);
        let name = slice.metadata.name.clone().unwrap_or_default();
        self.slices.insert((key.clone(), name), Slice::of(slice));
        self.remember_addresses(&key);
        Some(key)
    }

    /// Removes an EndpointSlice of a Service by its own name.
    pub fn remove_slice(&mut self, key: &NamespacedName, name: &str) {
        self.forget_addresses(key);
        self.slices.remove(&(key.clone(), name.to_owned()));
        self.remember_addresses(key);
    }

    /// Adds a ServiceEntry, or replaces it. Returns the hosts that it has or had.
    pub fn add_entry(&mut self, entry: &ServiceEntry) -> BTreeSet<String> {
        let key = NamespacedName::of(&entry.metadata);
        let mut hosts = self.remove_entry(&key);
        let entry_ports: Vec<ServicePort> = entry.spec.ports.iter().filter_map(EntryPort::tcp).collect();
        for host in &entry.spec.hosts {
            let host = host.to_ascii_lowercase();
            let given = entry.spec.addresses.iter().map(String::as_str);
            let allocated = entry.status.addresses.iter().filter(|address| {
                address.host.as_deref().is_none_or(|of| of.is_empty() || of.eq_ignore_ascii_case(&host))
            });
            let addresses = match entry.spec.addresses.is_empty() {
                true => allocated.map(|address| address.value.as_str()).map(whole_address).collect(),
                false => given.map(whole_address).collect::<Vec<_>>(),
            };
            let addresses = addresses.into_iter().flatten().collect();
            let is_allocated = entry.spec.addresses.is_empty();
            let (ports, exported_to) = (entry_ports.clone(), entry.spec.export_to.clone());
            let endpoints = entry.spec.endpoints.iter().map(|endpoint| endpoint.address.clone()).collect();
            let resolution = match entry.spec.resolution.as_str() {
                "" | "NONE" => Resolution::None,
                "STATIC" => Resolution::Static,
                _ => Resolution::Dns,
            };
            let known = ServiceEntryHost {
                key: key.clone(),
                addresses,
                is_allocated,
                ports,
                endpoints,
                resolution,
                exported_to,
            };
            self.entries.entry(host.clone()).or_default().insert(key.clone(), known);
            hosts.insert(host);
        }
        hosts
    }

    /// Removes a ServiceEntry. Returns the hosts that it had.
    pub fn remove_entry(&mut self, key: &NamespacedName) -> BTreeSet<String> {
        let mut hosts = BTreeSet::new();
        self.entries.retain(|host, entries| {
            if entries.remove(key).is_some() {
                hosts.insert(host.clone());
            }
            !entries.is_empty()
        });
        hosts
    }

    /// The keys of all ServiceEntries, one for each host.
    pub fn entries(&self) -> impl Iterator<Item = &NamespacedName> {
        self.entries.values().flat_map(BTreeMap::keys)
    }

    /// The ServiceEntry of a host outside of the cluster for clients in a namespace: that of
    /// their own namespace, else one that another namespace exports to them.
    pub fn entry(&self, host: &str, namespace: &str) -> Option<&ServiceEntryHost> {
        let entries = self.entries.get(host)?;
        let own = entries.values().find(|entry| entry.key.namespace == namespace);
        own.or_else(|| entries.values().find(|entry| entry.is_exported_to(namespace, &self.default_exports)))
    }

    /// The Service that has an address itself.
    pub fn service_at(&self, address: &str) -> Option<&NamespacedName> {
        let mut own = self.at_address(address).filter(|key| {
            self.services.get(key).is_some_and(|service| cluster_ips(service).iter().any(|own| own == address))
        });
        own.next()
    }

    /// Adds a Secret, or replaces it.
    pub fn add_secret(&mut self, mut secret: Secret) {
        let key = NamespacedName::of(&secret.metadata);
        secret.metadata = ObjectMeta::default();
        self.secrets.insert(key, secret);
    }

    /// Removes a Secret.
    pub fn remove_secret(&mut self, key: &NamespacedName) {
        self.secrets.remove(key);
    }

    /// The Services that share an address with this one, itself among them.
    pub fn sharing_addresses(&self, key: &NamespacedName) -> BTreeSet<NamespacedName> {
        let addresses = self.addresses_of(key);
        addresses.iter().flat_map(|address| self.at_address(address)).cloned().collect()
    }

    fn addresses_of(&self, key: &NamespacedName) -> BTreeSet<String> {
        let own = self.services.get(key).map(|service| cluster_ips(service)).unwrap_or_default();
        let endpoints = self.slices_of(key).flat_map(|slice| &slice.addresses);
        own.into_iter().chain(endpoints.map(|(address, _)| address.clone())).collect()
    }

    fn at_address(&self, address: &str) -> impl Iterator<Item = &NamespacedName> {
        let from = (address.to_owned(), NamespacedName::new("", ""));
        let address = address.to_owned();
        self.by_address.range(from..).take_while(move |(other, _)| *other == address).map(|(_, key)| key)
    }

    fn slices_of(&self, key: &NamespacedName) -> impl Iterator<Item = &Slice> {
        let from = (key.clone(), String::new());
        let key = key.clone();
        self.slices.range(from..).take_while(move |((owner, _), _)| *owner == key).map(|(_, slice)| slice)
    }

    fn forget_addresses(&mut self, key: &NamespacedName) {
        for address in self.addresses_of(key) {
            self.by_address.remove(&(address, key.clone()));
        }
    }

    fn remember_addresses(&mut self, key: &NamespacedName) {
        for address in self.addresses_of(key) {
            self.by_address.insert((address, key.clone()));
        }
    }

    /// A Service.
    pub fn service(&self, key: &NamespacedName) -> Option<&Service> {
        self.services.get(key).map(AsRef::as_ref)
    }

    /// The Services that may be suggested in a message: none of a cluster, where similar names may
    /// belong to other people.
    pub fn similar_services(&self) -> impl Iterator<Item = &NamespacedName> {
        self.services().filter(|_| self.is_whole)
    }

    /// The Secrets that may be suggested in a message: none of a cluster, as with Services.
    pub fn similar_secrets(&self) -> impl Iterator<Item = &NamespacedName> {
        self.secrets().filter(|_| self.is_whole)
    }

    /// The keys of all Services.
    pub fn services(&self) -> impl Iterator<Item = &NamespacedName> {
        self.services.keys()
    }

    /// Another Service to which an endpoint of a headless Service belongs: as its own address, or
    /// as an endpoint of a headless Service in another namespace.
    ///
    /// A mesh names the listeners of a headless Service by its endpoints. Without this check, a
    /// person who may write EndpointSlices could choose the listener of a Service in another
    /// namespace.
    pub fn other_owner(&self, key: &NamespacedName, address: &str) -> Option<&NamespacedName> {
        let others = self.at_address(address).filter(|other| *other != key);
        let mut owners = others.filter(|other| {
            let Some(service) = self.services.get(other) else { return false };
            let own = cluster_ips(service);
            own.iter().any(|own| own == address) || own.is_empty() && other.namespace != key.namespace
        });
        owners.next()
    }

    /// A Secret.
    pub fn secret(&self, key: &NamespacedName) -> Option<&Secret> {
        self.secrets.get(key)
    }

    /// The keys of all Secrets.
    pub fn secrets(&self) -> impl Iterator<Item = &NamespacedName> {
        self.secrets.keys()
    }

    /// The ready endpoints of a Service's port, in the order of the EndpointSlices; none if there
    /// are no EndpointSlices.
    pub fn endpoints(&self, key: &NamespacedName, port: &ServicePort) -> Option<Vec<ServiceEndpoint>> {
        let mut slices = self.slices_of(key).peekable();
        slices.peek()?;
        let mut endpoints = Vec::new();
        for slice in slices {
            // The ports of an EndpointSlice have the names of the Service's ports; an unnamed
            // port is the only one.
            let number = slice.ports.iter().find(|(name, _)| *name == port.name).and_then(|(_, number)| *number);
            let Some(number) = number else { continue };
            for (address, _) in slice.addresses.iter().filter(|(_, is_ready)| *is_ready) {
                let endpoint = ServiceEndpoint { address: address.clone(), port: number };
                if !endpoints.contains(&endpoint) {
                    endpoints.push(endpoint);
                }
            }
        }
        Some(endpoints)
    }
}

/// The ServiceEntries that give a host of another namespace's Service other endpoints. Where a
/// client's own namespace has one, its sidecar obeys that; elsewhere Istio prefers the Service.
pub fn overriding<'a>(
    inventory: &'a Inventory,
    host: &str,
    owner: &'a str,
) -> impl Iterator<Item = &'a NamespacedName> {
    let entries = inventory.entries.get(host).into_iter().flat_map(BTreeMap::values);
    let foreign = entries.filter(move |entry| entry.key.namespace != owner);
    let defaults = &inventory.default_exports;
    foreign.filter(|entry| entry.is_exported_to(&entry.key.namespace, defaults)).map(|entry| &entry.key)
}

/// The namespaces to which a Service is exported; all of them if it is unknown.
pub fn exports(inventory: &Inventory, key: Option<&NamespacedName>) -> Exports {
    let known = key.and_then(|key| Some((key, inventory.services.get(key)?)));
    let Some((key, service)) = known else { return Exports::default() };
    let annotations = service.metadata.annotations.as_ref();
    let words = annotations.and_then(|annotations| annotations.get(EXPORT_TO)).filter(|words| !words.trim().is_empty());
    match words {
        Some(words) => Exports::of(words.split(','), &key.namespace),
        None => Exports::of(inventory.default_exports.services.iter().map(String::as_str), &key.namespace),
    }
}

/// The fields of an EndpointSlice that are used.
#[derive(Clone, Debug)]
struct Slice {
    /// The names and numbers of the ports.
    ports: Vec<(String, Option<u16>)>,
    /// The addresses, each with whether it is ready.
    addresses: Vec<(String, bool)>,
}

impl Slice {
    fn of(slice: EndpointSlice) -> Slice {
        let ports = slice.ports.unwrap_or_default().into_iter();
        let number = |port: Option<i32>| port.and_then(|port| u16::try_from(port).ok());
        let addresses = slice.endpoints.into_iter().flat_map(|endpoint| {
            let is_ready = endpoint.conditions.and_then(|conditions| conditions.ready).unwrap_or(true);
            endpoint.addresses.into_iter().map(move |address| (address, is_ready))
        });
        Slice {
            ports: ports.map(|port| (port.name.unwrap_or_default(), number(port.port))).collect(),
            addresses: addresses.collect(),
        }
    }
}

/// The Service of an EndpointSlice.
pub fn owner_of(slice: &EndpointSlice) -> Option<NamespacedName> {
    let name = slice.metadata.labels.as_ref()?.get(SERVICE_NAME)?;
    Some(NamespacedName::new(slice.metadata.namespace.as_deref().unwrap_or_default(), name))
}

/// The fields of Istio's ServiceEntry that are used
/// (<https://istio.io/latest/docs/reference/config/networking/service-entry/>).
#[derive(Clone, Debug, Deserialize)]
pub struct ServiceEntry {
    /// The metadata.
    pub metadata: ObjectMeta,
    #[serde(default)]
    spec: EntrySpec,
    #[serde(default)]
    status: EntryStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct EntrySpec {
    export_to: Vec<String>,
    hosts: Vec<String>,
    addresses: Vec<String>,
    ports: Vec<EntryPort>,
    endpoints: Vec<EntryEndpoint>,
    resolution: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct EntryEndpoint {
    address: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct EntryPort {
    name: String,
    number: u16,
    protocol: String,
}

/// The addresses that Istio has allocated.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct EntryStatus {
    addresses: Vec<EntryAddress>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct EntryAddress {
    value: String,
    host: Option<String>,
}

impl EntryPort {
    fn tcp(&self) -> Option<ServicePort> {
        let protocol = self.protocol.to_ascii_uppercase();
        let is_tcp = matches!(protocol.as_str(), "" | "TCP" | "TLS" | "REDIS");
        let is_redis = protocol == "REDIS" || is_redis_name(&self.name);
        (is_tcp && self.number > 0).then(|| ServicePort {
            name: self.name.clone(),
            number: self.number,
            http: None,
            is_redis,
        })
    }
}

/// The address of a single host; none for a network.
fn whole_address(text: &str) -> Option<String> {
    let address = text.strip_suffix("/32").or_else(|| text.strip_suffix("/128")).unwrap_or(text);
    address.parse::<std::net::IpAddr>().ok().map(|address| address.to_string())
}

/// Where the endpoints of a ServiceEntry come from
/// (<https://istio.io/latest/docs/reference/config/networking/service-entry/#ServiceEntry-Resolution>).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// Connections go to the address that the client itself has connected to. This is the default.
    None,
    /// The ServiceEntry lists addresses.
    Static,
    /// Sidecars resolve names.
    Dns,
}

/// A host of a ServiceEntry.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceEntryHost {
    /// The ServiceEntry.
    pub key: NamespacedName,
    /// Its addresses; empty where clients connect to the addresses of the host itself.
    pub addresses: Vec<String>,
    /// True if Istio has allocated the addresses, so that only sidecars that capture DNS know
    /// them.
    pub is_allocated: bool,
    /// Its TCP ports.
    pub ports: Vec<ServicePort>,
    /// The addresses of the endpoints that it lists; empty where the host's name stands for them.
    pub endpoints: Vec<String>,
    /// Where the endpoints come from.
    pub resolution: Resolution,
    exported_to: Vec<String>,
}

impl ServiceEntryHost {
    /// True if the ServiceEntry is visible to clients in a namespace (`exportTo`).
    fn is_exported_to(&self, namespace: &str, defaults: &DefaultExports) -> bool {
        let words = if self.exported_to.is_empty() { &defaults.services } else { &self.exported_to };
        Exports::of(words.iter().map(String::as_str), &self.key.namespace).includes(namespace)
    }
}

/// An address and a port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServiceEndpoint {
    /// An IP address or a DNS name.
    pub address: String,
    /// The port.
    pub port: u16,
}

impl ServiceEndpoint {
    /// True for an IP address.
    pub fn is_ip(&self) -> bool {
        self.address.parse::<std::net::IpAddr>().is_ok()
    }
}

impl fmt::Display for ServiceEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.address.contains(':') {
            write!(f, "[{}]:{}", self.address, self.port)
        } else {
            write!(f, "{}:{}", self.address, self.port)
        }
    }
}

/// True if the endpoints of a Service are the pods that it selects, rather than written by hand.
pub fn selects_pods(service: &Service) -> bool {
    let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    selector.is_some_and(|selector| !selector.is_empty())
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
