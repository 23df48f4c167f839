//! Destinations: a host with its endpoints, and what a RedisDestination says of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::crd::destination::{Mode, RedisDestination};
use crate::diagnostic::{Code, Diagnostics, FieldReporter, Loaded, Problem};
use crate::inventory::{self, Inventory, NamespacedName, Resolution, ServiceEndpoint, ServicePort};

use super::claims::Claims;
use super::host::{self, HostName};
use super::host_port::HostPort;
use super::options::ValidateOptions;
use super::policy::{self, DestinationPolicy, Discovery};
use super::scope::{self, ServiceClients};
use super::user_rules::{self, RulePlace, UserRules};

/// A Redis to which commands are sent.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidatedDestination {
    /// The host and port.
    pub address: HostPort,
    /// The Service of that name and its port; none where the host lies outside of the cluster.
    pub service: Option<(NamespacedName, ServicePort)>,
    /// The namespace of the Service, or of the ServiceEntry that brings the host into the mesh; none where
    /// neither is known.
    pub owner: Option<String>,
    /// True if the Service has no address of its own.
    pub is_headless: bool,
    /// Where the endpoints of its ServiceEntry come from; none without a ServiceEntry.
    pub resolution: Option<Resolution>,
    /// True if the endpoints are the pods that the Service selects.
    pub selects_pods: bool,
    /// True if the mesh has a cluster for the host: it is a Service, or a ServiceEntry names it.
    pub in_mesh: bool,
    /// The settings of its RedisDestination.
    pub policy: DestinationPolicy,
    /// Where the endpoints come from.
    pub source: EndpointSource,
    /// The endpoints.
    pub endpoints: Vec<ServiceEndpoint>,
    /// The endpoints that its ServiceEntry lists.
    pub listed: Vec<String>,
    /// What users' DestinationRules say of it; none where there are none.
    pub rules: Option<Box<UserRules>>,
}

/// Where the endpoints of a destination come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndpointSource {
    /// `discoveryEndpoints`.
    Discovery,
    /// The EndpointSlices of the Service: its ready endpoints.
    Slices,
    /// The name that an ExternalName Service stands for.
    ExternalName,
    /// The host's own name.
    Host,
}

impl ValidatedDestination {
    /// True for a Redis Cluster.
    pub fn is_cluster(&self) -> bool {
        self.policy.mode == Some(Mode::Cluster)
    }

    /// True where an object says that any endpoint may answer any command.
    pub fn is_interchangeable(&self) -> bool {
        self.policy.mode == Some(Mode::Proxy)
    }

    /// The addresses among which commands are spread, where more than one is known and no mode says
    /// what they are to each other; else empty. A pod with an address of each family counts once.
    pub fn unexplained_endpoints(&self) -> Vec<String> {
        let all: Vec<String> = match self.source {
            EndpointSource::Slices => self.endpoints.iter().map(|endpoint| endpoint.address.clone()).collect(),
            EndpointSource::Host => self.listed.clone(),
            EndpointSource::Discovery | EndpointSource::ExternalName => Vec::new(),
        };
        let (v6, others): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|address| address.parse::<std::net::Ipv6Addr>().is_ok());
        let several = if others.len() > 1 { others } else { v6 };
        if self.policy.mode.is_none() && several.len() > 1 { several } else { Vec::new() }
    }

    /// True where only redis-mesh knows the endpoints, so that the host's own name doesn't lead to
    /// them: they were given for discovery, or they are names, which neither Kubernetes nor Istio
    /// takes for the endpoints of a Service.
    pub fn has_own_endpoints(&self) -> bool {
        match self.source {
            EndpointSource::Discovery | EndpointSource::ExternalName => true,
            EndpointSource::Slices => !self.is_static(),
            EndpointSource::Host => false,
        }
    }

    /// True where Istio's own cluster leads to the address that the client itself has connected to.
    /// Such a cluster (`ORIGINAL_DST`) serves that host's own clients on `direct`; nothing else can
    /// be reached through it, and Envoy refuses it with any load-balancing policy of ours.
    pub fn follows_the_client(&self) -> bool {
        let is_unresolved = self.resolution == Some(Resolution::None);
        self.is_headless || is_unresolved || self.rules.as_ref().is_some_and(|rules| rules.passes_through)
    }

    /// True where istiod has the endpoints: those of a Service, and those that a ServiceEntry lists
    /// by their addresses. Names are resolved by the sidecars themselves.
    pub fn has_istios_endpoints(&self) -> bool {
        match self.resolution {
            Some(resolution) => resolution == Resolution::Static,
            None => self.service.is_some(),
        }
    }

    /// True where the clients in a namespace reach another Redis by the name of this one, because of a
    /// ServiceEntry there.
    pub fn is_another_in(&self, namespace: &str) -> bool {
        self.policy.overriding.iter().any(|entry| entry.namespace == namespace)
    }

    /// True where all endpoints are IP addresses.
    pub fn is_static(&self) -> bool {
        self.endpoints.iter().all(ServiceEndpoint::is_ip)
    }
}

/// The place of rules that name destinations.
pub struct RulesPlace<'a> {
    /// The namespace of the rules.
    pub namespace: &'a str,
    /// The clients whom they reach.
    pub clients: &'a ServiceClients,
    /// The host and port to which these connect; none where the rules are about their own host.
    pub listener: Option<&'a HostPort>,
}

/// Resolves names to destinations, each once.
pub struct Destinations<'a> {
    policies: Vec<DestinationPolicy>,
    claims: &'a Claims,
    inventory: &'a Inventory,
    options: &'a ValidateOptions,
    known: BTreeMap<(HostPort, Option<usize>, bool), Arc<ValidatedDestination>>,
    used: BTreeSet<usize>,
}

impl<'a> Destinations<'a> {
    /// Reads the RedisDestinations.
    pub fn new(
        objects: &[Arc<Loaded<RedisDestination>>],
        claims: &'a Claims,
        inventory: &'a Inventory,
        options: &'a ValidateOptions,
        diagnostics: &mut Diagnostics,
    ) -> Destinations<'a> {
        let policies = objects
            .iter()
            .map(|loaded| {
                let host = host::name(&loaded.object.spec.host, &scope::namespace(loaded), &options.cluster_domain);
                let host = host.map(|name| name.host).unwrap_or_default();
                policy::read(loaded, &host, inventory, options, diagnostics)
            })
            .collect();
        Destinations { policies, claims, inventory, options, known: BTreeMap::new(), used: BTreeSet::new() }
    }

    /// The domain under which hosts are Services.
    pub fn cluster_domain(&self) -> &'a str {
        &self.options.cluster_domain
    }

    /// True if there is such a Service.
    pub fn has_service(&self, key: &NamespacedName) -> bool {
        self.inventory.service(key).is_some()
    }

    /// Resolves a name in rules; none if it can't be resolved, which is then reported. Without a
    /// port, the port is that of the listener if its host is the same, else the Service's Redis port.
    pub fn resolve(
        &mut self,
        name: &HostName,
        port: Option<u16>,
        place: &RulesPlace<'_>,
        field: &mut FieldReporter<'_>,
    ) -> Option<Arc<ValidatedDestination>> {
        let namespace = place.namespace;
        let port =
            port.or_else(|| place.listener.filter(|listener| listener.host == name.host).map(|listener| listener.port));
        let service = match &name.service {
            Some(key) => Some((key, service_port(key, port, self.inventory, field)?)),
            None => None,
        };
        let entry = self.inventory.entry(&name.host, namespace).filter(|_| service.is_none());
        let of_entry = || match &inventory::redis_ports(entry?.ports.clone())[..] {
            [port] => Some(port.number),
            _ => None,
        };
        let port = service.as_ref().map(|(_, port)| port.number).or(port).or_else(of_entry).unwrap_or(host::REDIS_PORT);
        let in_mesh = service.is_some() || entry.is_some_and(|entry| entry.ports.iter().any(|own| own.number == port));
        let (policy, held) = self.held(name, place, field);
        let is_withheld = held.is_withheld;
        let address = HostPort { host: name.host.clone(), port };
        if self.is_guarded(name, namespace, policy, field) {
            return None;
        }
        let identity = (address.clone(), policy, is_withheld);
        if let Some(known) = self.known.get(&identity).cloned() {
            report_unready(&known, field);
            return Some(known);
        }
        let service = service.map(|(key, port)| (key.clone(), port));
        let (source, endpoints) = self.endpoints(&address, service.as_ref(), &held);
        let known = service.as_ref().and_then(|(key, _)| self.inventory.service(key));
        let is_headless = known.is_some_and(|service| inventory::cluster_ips(service).is_empty());
        let selects_pods = known.is_some_and(inventory::selects_pods);
        let owner = name.namespace().or(entry.map(|entry| entry.key.namespace.as_str()));
        let (root, defaults) = (&self.options.root_namespace, &self.inventory.default_exports);
        let rules = RulePlace { name, port, owner, root, defaults };
        let destination = ValidatedDestination {
            address: address.clone(),
            service,
            owner: owner.map(str::to_owned),
            is_headless,
            resolution: entry.map(|entry| entry.resolution),
            selects_pods,
            in_mesh,
            policy: held,
            source,
            endpoints,
            listed: entry.map(|entry| entry.endpoints.clone()).unwrap_or_default(),
            rules: user_rules::read(&self.inventory.rules, &rules),
        };
        let destination = Arc::new(destination);
        report_unready(&destination, field);
        self.known.insert(identity, destination.clone());
        Some(destination)
    }

    /// The RedisDestination that holds for a host in rules, and what it says; the defaults where it is not
    /// exported to all of their clients, which is reported.
    fn held(
        &mut self,
        name: &HostName,
        place: &RulesPlace<'_>,
        field: &mut FieldReporter<'_>,
    ) -> (Option<usize>, DestinationPolicy) {
        let claimed = self.claims.destination(name, place.namespace);
        let held = claimed.map(|index| self.policy(index, name)).unwrap_or_default();
        if !is_exported(&held, place) {
            withheld(&held, name, place, field);
            return (None, DestinationPolicy::withheld());
        }
        self.used.extend(claimed);
        (claimed, held)
    }

    /// What a RedisDestination says of a host, which reaches no client whom the host's own Service
    /// doesn't reach.
    fn policy(&self, index: usize, name: &HostName) -> DestinationPolicy {
        let mut policy = self.policies.get(index).cloned().unwrap_or_default();
        if let Some(owner) = name.namespace() {
            policy.overriding = inventory::overriding(self.inventory, &name.host, owner).cloned().collect();
        }
        policy.exports = policy.exports.and(&inventory::exports(self.inventory, name.service.as_ref()));
        policy
    }

    /// Reports a rule that leads around a password: with the login of the host's owner, rules of
    /// another namespace would reach what the owner protects from its own clients.
    fn is_guarded(
        &self,
        name: &HostName,
        namespace: &str,
        policy: Option<usize>,
        field: &mut FieldReporter<'_>,
    ) -> bool {
        let logs_in = policy.and_then(|index| self.policies.get(index)).is_some_and(|policy| policy.login.is_some());
        let is_foreign = name.namespace().is_some_and(|owner| owner != namespace);
        let Some(guard) = self.claims.guarded(&name.host).filter(|_| logs_in && is_foreign) else { return false };
        let message = format!(
            "{} asks its clients for a password ({}), and a rule of another namespace would lead around that",
            name.host,
            scope::described(guard)
        );
        field.report(Code::GuardedHost, message, "remove one of the two");
        true
    }

    fn endpoints(
        &self,
        address: &HostPort,
        service: Option<&(NamespacedName, ServicePort)>,
        policy: &DestinationPolicy,
    ) -> (EndpointSource, Vec<ServiceEndpoint>) {
        let named = |name: &str| vec![ServiceEndpoint { address: name.to_owned(), port: address.port }];
        if policy.mode == Some(Mode::Cluster) && !policy.discovery.is_empty() {
            let expand = |entry: &Discovery| self.discovered(entry, address.port);
            return (EndpointSource::Discovery, policy.discovery.iter().flat_map(expand).collect());
        }
        let slices = service.and_then(|(key, port)| self.inventory.endpoints(key, port));
        if let Some(endpoints) = slices {
            return (EndpointSource::Slices, endpoints);
        }
        let external = service.and_then(|(key, _)| self.inventory.service(key)).and_then(inventory::external_name);
        match external {
            Some(name) => (EndpointSource::ExternalName, named(name)),
            None => (EndpointSource::Host, named(&address.host)),
        }
    }

    fn discovered(&self, entry: &Discovery, port: u16) -> Vec<ServiceEndpoint> {
        let port = entry.port.unwrap_or(port);
        let service = entry.service.as_ref().and_then(|key| Some((key, self.inventory.service(key)?)));
        let of_service = service.and_then(|(key, service)| {
            let port = inventory::ports(service).into_iter().find(|known| known.number == port)?;
            self.inventory.endpoints(key, &port)
        });
        of_service.unwrap_or_else(|| vec![ServiceEndpoint { address: entry.host.clone(), port }])
    }

    /// Reports the RedisDestinations without effect.
    pub fn report_unused(
        &self,
        objects: &[Arc<Loaded<RedisDestination>>],
        claims: &Claims,
        diagnostics: &mut Diagnostics,
    ) {
        for (index, loaded) in objects.iter().enumerate() {
            if let Some(name) = claims.of_destination(index)
                && claims.implicit(index).is_none()
                && !self.used.contains(&index)
            {
                diagnostics.add(&scope::subject(loaded), "spec.host", unused(&name.host));
            }
        }
    }
}

/// Reports a Service without a ready endpoint.
fn report_unready(destination: &ValidatedDestination, field: &mut FieldReporter<'_>) {
    let Some((key, port)) = &destination.service else { return };
    if destination.source == EndpointSource::Slices && destination.endpoints.is_empty() {
        let number = port.number;
        let message =
            format!("Service {key} has no ready endpoint for port {number}; commands are answered with an error");
        field.report(Code::NoReadyEndpoint, message, "see why the pods of the Service are not ready");
    }
}

/// True if a RedisDestination may be used for the clients of rules. In its own namespace it may: there
/// the rules end where it does.
fn is_exported(policy: &DestinationPolicy, place: &RulesPlace<'_>) -> bool {
    policy.namespace().is_none_or(|own| own == place.namespace) || place.clients.are_within(&policy.exports)
}

/// Reports a RedisDestination that may not be used for the clients of rules.
fn withheld(held: &DestinationPolicy, name: &HostName, place: &RulesPlace<'_>, field: &mut FieldReporter<'_>) {
    let Some(object) = &held.object else { return };
    let message = format!(
        "{} {} isn't exported to {}, so {} is reached without its login, its mode and its TLS",
        object.kind, object.name, place.clients, name.host
    );
    let remedy = "export it to all clients of these rules, or these rules only to those to whom it is exported";
    field.report(Code::DestinationNotExported, message, remedy);
}

/// The problem of a RedisDestination without effect.
pub fn unused(host: &str) -> Problem {
    let message = format!(
        "has no effect: a RedisService governs the clients of {host}, and no rule that this object holds for leads there"
    );
    Problem::new(Code::UnusedDestination, message, "remove it, or route to its host")
}

fn service_port(
    key: &NamespacedName,
    port: Option<u16>,
    inventory: &Inventory,
    field: &mut FieldReporter<'_>,
) -> Option<ServicePort> {
    let service = host::service(key, inventory, field)?;
    match port {
        Some(number) => match inventory::ports(service).into_iter().find(|port| port.number == number) {
            Some(port) => return Some(port),
            None => {
                if let Some(port) = inventory::port_of_alias(service, number) {
                    return Some(port);
                }
                let known = host::listed(&inventory::ports(service));
                let message = format!("Service {key} has no TCP port {number}");
                field.report(Code::UnknownPort, message, format!("it has {known}"));
            }
        },
        None => match &inventory::redis_ports(inventory::ports(service))[..] {
            [port] => return Some(port.clone()),
            [] => field.add(host::no_redis_port(key, service)),
            several => {
                let message = format!("Service {key} has several ports that are Redis ({})", host::listed(several));
                field.report(Code::AmbiguousPort, message, "say which with port");
            }
        },
    }
    None
}
