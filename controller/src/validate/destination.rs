//! Destinations: what a RedisDestination says of a host, joined with where the host is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::crd::destination::{Mode, RedisDestination, TcpSpec, TlsMode};
use crate::diagnostic::{Diagnostics, FieldReporter, Loaded, Reason, Subject};
use crate::inventory::{self, Inventory, NamespacedName, ServiceEndpoint, ServicePort};
use crate::quantity;

use super::auth::{self, Credentials};
use super::host::{self, HostName};
use super::host_port::HostPort;
use super::options::ValidateOptions;
use super::scope::{self, Claims};
use super::tls::{self, TlsOptions};

/// A Redis as commands reach it.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidatedDestination {
    /// Its host and port.
    pub address: HostPort,
    /// The Service of that name, with its port.
    pub service: Option<(NamespacedName, ServicePort)>,
    /// That Service has no address of its own.
    pub is_headless: bool,
    /// Its endpoints are the pods that it selects.
    pub selects_pods: bool,
    /// The mesh has a cluster of it: it is a Service, or a ServiceEntry makes it known.
    pub in_mesh: bool,
    /// How it is reached.
    pub policy: DestinationPolicy,
    /// The endpoints are what `discoveryEndpoints` say.
    pub discovered: bool,
    /// Where it is: what `discoveryEndpoints` say, else the Service's endpoints, else its name.
    pub endpoints: Vec<ServiceEndpoint>,
}

impl ValidatedDestination {
    /// True for a Redis Cluster.
    pub fn is_cluster(&self) -> bool {
        self.policy.mode == Mode::Cluster
    }

    /// True where all endpoints are IP addresses.
    pub fn is_static(&self) -> bool {
        self.endpoints.iter().all(ServiceEndpoint::is_ip)
    }
}

/// What a RedisDestination says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DestinationPolicy {
    /// The object; none: the defaults.
    pub object: Option<Subject>,
    /// Single Redis or Redis Cluster.
    pub mode: Mode,
    /// Our login at it.
    pub login: Option<Credentials>,
    /// The mesh's own mutual TLS, asked for by name.
    pub istio_mutual: bool,
    /// TLS of ours.
    pub tls: Option<TlsOptions>,
    /// The connections.
    pub tcp: TcpOptions,
    /// Where a Redis Cluster is discovered; none: at the host itself.
    pub discovery: Vec<Discovery>,
}

/// Settings of TCP connections.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TcpOptions {
    /// Time to establish one.
    pub connect_timeout: Option<Duration>,
    /// Greatest number.
    pub max_connections: Option<u32>,
    /// Keepalive.
    pub keepalive: Option<Keepalive>,
}

/// TCP keepalive, in whole seconds; what is not given is as the operating system has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// Unanswered probes that mean death.
    pub probes: Option<u32>,
    /// Idle time before the first probe.
    pub time: Option<u64>,
    /// Time between probes.
    pub interval: Option<u64>,
}

/// An entry of `discoveryEndpoints`.
#[derive(Clone, Debug, PartialEq)]
pub struct Discovery {
    host: String,
    port: Option<u16>,
    service: Option<NamespacedName>,
}

/// Joins hosts with policies, each once.
pub struct Destinations<'a> {
    policies: Vec<DestinationPolicy>,
    claims: &'a Claims,
    inventory: &'a Inventory,
    cluster_domain: &'a str,
    known: BTreeMap<(HostPort, Option<usize>), Arc<ValidatedDestination>>,
    used: BTreeSet<usize>,
}

impl<'a> Destinations<'a> {
    /// Reads the policies.
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
                policy(loaded, &host, inventory, options, diagnostics)
            })
            .collect();
        let cluster_domain = &options.cluster_domain;
        Destinations { policies, claims, inventory, cluster_domain, known: BTreeMap::new(), used: BTreeSet::new() }
    }

    /// The domain under which hosts are Services.
    pub fn cluster_domain(&self) -> &'a str {
        self.cluster_domain
    }

    /// True if there is such a Service.
    pub fn has_service(&self, key: &NamespacedName) -> bool {
        self.inventory.service(key).is_some()
    }

    /// The destination that rules in `namespace` mean by a name. Without a port, `listener` is the one that clients use if
    /// the host is the same, else the Service's Redis port.
    pub fn resolve(
        &mut self,
        name: &HostName,
        port: Option<u16>,
        namespace: &str,
        listener: Option<&HostPort>,
        place: &mut FieldReporter<'_>,
    ) -> Option<Arc<ValidatedDestination>> {
        let port =
            port.or_else(|| listener.filter(|listener| listener.host == name.host).map(|listener| listener.port));
        let service = match &name.service {
            Some(key) => Some((key, service_port(key, port, self.inventory, place)?)),
            None => None,
        };
        let entry = self.inventory.entry(&name.host, namespace).filter(|_| service.is_none());
        let of_entry = || match &inventory::redis_ports(entry?.ports.clone())[..] {
            [port] => Some(port.number),
            _ => None,
        };
        let port = service.as_ref().map(|(_, port)| port.number).or(port).or_else(of_entry).unwrap_or(host::REDIS_PORT);
        let in_mesh = service.is_some() || entry.is_some_and(|entry| entry.ports.iter().any(|own| own.number == port));
        let policy = self.claims.destination(name, namespace);
        self.used.extend(policy);
        let address = HostPort { host: name.host.clone(), port };
        // With the owner's login, rules of another namespace would get around the password for which the owner asks.
        if policy.and_then(|index| self.policies.get(index)).is_some_and(|policy| policy.login.is_some())
            && name.namespace().is_some_and(|owner| owner != namespace)
            && let Some(guard) = self.claims.guarded(&name.host)
        {
            let message = format!(
                "{} asks its clients for a password ({}), and a rule of another namespace would lead around that; remove one of the two",
                name.host,
                scope::place_of(guard)
            );
            place.report(Reason::Conflict, message);
            return None;
        }
        if let Some(known) = self.known.get(&(address.clone(), policy)) {
            return Some(known.clone());
        }
        let service = service.map(|(key, port)| (key.clone(), port));
        let held = policy.and_then(|index| self.policies.get(index)).cloned().unwrap_or_default();
        let endpoints = self.endpoints(&address, service.as_ref(), &held, place);
        let discovered = held.mode == Mode::Cluster && !held.discovery.is_empty();
        let known = service.as_ref().and_then(|(key, _)| self.inventory.service(key));
        let is_headless = known.is_some_and(|service| inventory::cluster_ips(service).is_empty());
        let selects_pods = known.is_some_and(inventory::selects_pods);
        let destination = ValidatedDestination {
            address: address.clone(),
            service,
            is_headless,
            selects_pods,
            in_mesh,
            policy: held,
            discovered,
            endpoints,
        };
        let destination = Arc::new(destination);
        self.known.insert((address, policy), destination.clone());
        Some(destination)
    }

    fn endpoints(
        &self,
        address: &HostPort,
        service: Option<&(NamespacedName, ServicePort)>,
        policy: &DestinationPolicy,
        place: &mut FieldReporter<'_>,
    ) -> Vec<ServiceEndpoint> {
        let by_name = || vec![ServiceEndpoint { address: address.host.clone(), port: address.port }];
        if policy.mode == Mode::Cluster && !policy.discovery.is_empty() {
            let expand = |entry: &Discovery| self.discovered(entry, address.port);
            return policy.discovery.iter().flat_map(expand).collect();
        }
        let Some((key, port)) = service else { return by_name() };
        match self.inventory.endpoints(key, port) {
            Some(endpoints) => {
                if endpoints.is_empty() {
                    let message = format!(
                        "Service {key} has no ready endpoint for port {}; commands are answered with an error",
                        port.number
                    );
                    place.report(Reason::NoEffect, message);
                }
                endpoints
            }
            None => match self.inventory.service(key).and_then(inventory::external_name) {
                Some(name) => vec![ServiceEndpoint { address: name.to_owned(), port: address.port }],
                None => by_name(),
            },
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

    /// Reports the objects that nothing follows from.
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
                diagnostics.add(&scope::subject(loaded), "spec.host", Reason::NoEffect, unused(&name.host));
            }
        }
    }
}

/// What to say of a RedisDestination that nothing follows from.
pub fn unused(host: &str) -> String {
    format!(
        "has no effect: a RedisService governs the clients of {host}, and no rule that this object holds for leads there"
    )
}

fn service_port(
    key: &NamespacedName,
    port: Option<u16>,
    inventory: &Inventory,
    place: &mut FieldReporter<'_>,
) -> Option<ServicePort> {
    let service = host::service(key, inventory, place)?;
    let message = match port {
        Some(number) => match inventory::ports(service).into_iter().find(|port| port.number == number) {
            Some(port) => return Some(port),
            None => {
                format!("Service {key} has no TCP port {number}; it has {}", host::listed(&inventory::ports(service)))
            }
        },
        None => match &inventory::redis_ports(inventory::ports(service))[..] {
            [port] => return Some(port.clone()),
            [] => host::no_redis_port(key, service),
            several => format!(
                "Service {key} has several ports that are Redis ({}); say which with port",
                host::listed(several)
            ),
        },
    };
    place.report(Reason::Unresolved, message);
    None
}

fn policy(
    loaded: &Loaded<RedisDestination>,
    host: &str,
    inventory: &Inventory,
    options: &ValidateOptions,
    diagnostics: &mut Diagnostics,
) -> DestinationPolicy {
    let (subject, namespace) = (scope::subject(loaded), scope::namespace(loaded));
    let mut policy = DestinationPolicy { object: Some(subject.clone()), ..DestinationPolicy::default() };
    let Some(traffic) = &loaded.object.spec.traffic_policy else { return policy };
    if let Some(spec) = &traffic.tls {
        policy.istio_mutual = spec.mode == TlsMode::IstioMutual;
        policy.tls =
            tls::read(spec, host, &namespace, inventory, &mut diagnostics.at(&subject, "spec.trafficPolicy.tls"));
    }
    let Some(pool) = &traffic.connection_pool else { return policy };
    let mut place = diagnostics.at(&subject, "spec.trafficPolicy.connectionPool");
    if let Some(tcp) = &pool.tcp {
        policy.tcp = self::tcp(tcp, &mut place.at(".tcp"));
    }
    let Some(redis) = &pool.redis else { return policy };
    policy.mode = redis.mode.unwrap_or_default();
    if let Some(auth) = &redis.auth {
        policy.login = auth::login(auth, &namespace, inventory, &mut place.at(".redis.auth"));
    }
    for (index, text) in redis.discovery_endpoints.iter().enumerate().filter(|(_, text)| !text.is_empty()) {
        let mut place = place.at(format_args!(".redis.discoveryEndpoints[{index}]"));
        match discovery(text, &namespace, options) {
            Ok(entry) => policy.discovery.push(entry),
            Err(message) => place.invalid(message),
        }
    }
    if policy.mode == Mode::Proxy && !redis.discovery_endpoints.is_empty() {
        place
            .at(".redis.discoveryEndpoints")
            .report(Reason::NoEffect, "has no effect with mode PROXY; set mode: CLUSTER, or remove it");
    }
    policy
}

impl Discovery {
    /// Its host.
    pub fn name(self) -> HostName {
        HostName { host: self.host, service: self.service }
    }
}

/// Reads an entry of `discoveryEndpoints`.
pub fn discovery(text: &str, namespace: &str, options: &ValidateOptions) -> Result<Discovery, String> {
    let wrong = || format!("`{text}` is not HOST:PORT");
    // `[::1]:6379` and `::1` are addresses; of anything else, what stands behind the last colon is a port.
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, rest)) => {
            (address, rest.strip_prefix(':').or_else(|| rest.is_empty().then_some("")).ok_or_else(wrong)?)
        }
        None if text.parse::<std::net::Ipv6Addr>().is_ok() => (text, ""),
        None => text.rsplit_once(':').unwrap_or((text, "")),
    };
    let port = match port {
        "" if !text.ends_with(':') => None,
        digits => Some(digits.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(wrong)?),
    };
    match host::name(host, namespace, &options.cluster_domain) {
        Ok(name) => Ok(Discovery { host: name.host, port, service: name.service }),
        // The name of one pod of a headless Service is a good place for discovery.
        Err(_) if host.ends_with(&format!(".svc.{}", options.cluster_domain)) => {
            Ok(Discovery { host: host.to_owned(), port, service: None })
        }
        Err(message) => Err(message),
    }
}

fn tcp(spec: &TcpSpec, place: &mut FieldReporter<'_>) -> TcpOptions {
    let parse = |text: &Option<String>, place: &mut FieldReporter<'_>| -> Option<Duration> {
        quantity::duration(text.as_ref()?).map_err(|message| place.invalid(message)).ok()
    };
    let mut timeout = place.at(".connectTimeout");
    let connect_timeout = parse(&spec.connect_timeout, &mut timeout);
    if connect_timeout.is_some_and(|duration| duration < Duration::from_millis(1)) {
        timeout.invalid("must be at least 1ms");
    }
    let keepalive = spec.tcp_keepalive.as_ref().map(|spec| {
        let mut place = place.at(".tcpKeepalive");
        let mut whole = |text: &Option<String>, field: &str| -> Option<u64> {
            let mut place = place.at(field);
            let duration = parse(text, &mut place)?;
            if duration.subsec_nanos() != 0 || duration.is_zero() {
                place.invalid("must be whole seconds, at least 1s");
            }
            Some(duration.as_secs())
        };
        Keepalive {
            probes: spec.probes,
            time: whole(&spec.time, ".time"),
            interval: whole(&spec.interval, ".interval"),
        }
    });
    TcpOptions { connect_timeout, max_connections: spec.max_connections, keepalive }
}
