//! Objects as they stand → services as they can be served: names resolved, texts parsed, precedence settled, the data path
//! chosen, and everything that is wrong or without effect reported.
//!
//! **Invariant:** no client, no file system. What the objects refer to comes from the [`Inventory`].

pub mod auth;
pub mod destination;
pub mod host;
pub mod mentions;
pub mod route;
pub mod scope;
pub mod settings;
pub mod tls;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use redis_mesh_core::wire;

use crate::crd::destination::RedisDestination;
use crate::crd::service::{ReadPolicy, RedisService};
use crate::diagnostic::{Diagnostics, Loaded, Place, Reason, Subject};
use crate::inventory::{self, Inventory, Key, ServicePort};

use auth::Login;
use destination::{Destination, Destinations};
use host::Name;
use scope::{Claims, Scope};
use settings::Settings;

/// The annotation on a RedisService that pins its data path.
pub const DATA_PATH: &str = "redis-mesh.io/data-path";

/// What validation needs to know besides the objects.
#[derive(Clone, Debug)]
pub struct Options {
    /// The domain under which hosts are Services.
    pub cluster_domain: String,
    /// Ports of hosts that are no Services, where they are not 6379.
    pub ports: BTreeMap<String, BTreeSet<u16>>,
    /// Who has the dynamic module.
    pub module: Module,
}

/// Who has the dynamic module, without which there is no `native`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Module {
    /// Nobody knows: what is pinned to `native` is served so, nothing else.
    #[default]
    Unknown,
    /// The Envoy for which this is.
    Envoy,
    /// Sidecars that say so by a label of their pods; others are served too.
    Sidecars,
    /// No sidecar has it.
    Nobody,
}

impl Default for Options {
    fn default() -> Options {
        Options { cluster_domain: "cluster.local".to_owned(), ports: BTreeMap::new(), module: Module::default() }
    }
}

/// A host and a port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPort {
    /// Fully qualified name.
    pub host: String,
    /// Port.
    pub port: u16,
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// One port of one host as some clients see it, ready to be built.
#[derive(Clone, Debug)]
pub struct ValidatedService {
    /// The object that this follows from.
    pub owner: Subject,
    /// What clients connect to.
    pub address: HostPort,
    /// The Service that has this name, with its port; none where the host is a DNS name.
    pub service: Option<(Key, ServicePort)>,
    /// The addresses of the Service, or of the ServiceEntry; empty where it is headless.
    pub cluster_ips: Vec<String>,
    /// The addresses of its endpoints, by which a mesh names the listeners of a headless Service.
    pub pods: Vec<String>,
    /// Whose clients.
    pub scope: Scope,
    /// How it is served.
    pub path: wire::DataPath,
    /// Why so.
    pub path_reason: String,
    /// Sidecars that have the dynamic module serve it natively.
    pub native: bool,
    /// What clients must present.
    pub client_auth: Option<Login>,
    /// Settings.
    pub settings: Settings,
    /// Which nodes of a Redis Cluster serve reads.
    pub read_policy: ReadPolicy,
    /// Destinations with their mirrors.
    pub targets: Vec<Target>,
    /// Routes into them.
    pub routes: Vec<Route>,
    /// Faults of all commands.
    pub faults: Vec<wire::Fault>,
}

impl ValidatedService {
    /// Every destination that commands may reach, mirrors too, each once.
    pub fn destinations(&self) -> Vec<&Arc<Destination>> {
        let mut found: Vec<&Arc<Destination>> = Vec::new();
        let all = self.targets.iter().flat_map(|target| {
            std::iter::once(&target.destination).chain(target.mirrors.iter().map(|mirror| &mirror.destination))
        });
        for destination in all {
            if !found.iter().any(|known| known.address == destination.address) {
                found.push(destination);
            }
        }
        found
    }

    /// The destination, where there is only one besides mirrors.
    pub fn single_destination(&self) -> Option<&Arc<Destination>> {
        let first = &self.targets.first()?.destination;
        self.targets.iter().all(|target| target.destination.address == first.address).then_some(first)
    }
}

/// A destination with its mirrors.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// Where commands go.
    pub destination: Arc<Destination>,
    /// Where copies go.
    pub mirrors: Vec<Mirror>,
}

/// A mirror.
#[derive(Clone, Debug, PartialEq)]
pub struct Mirror {
    /// Where copies go.
    pub destination: Arc<Destination>,
    /// Share of the commands.
    pub per_million: u32,
    /// Leave out commands that only read.
    pub exclude_read_commands: bool,
}

/// A route.
#[derive(Clone, Debug)]
pub struct Route {
    /// Which keys.
    pub key: wire::KeyMatch,
    /// Remove the prefix.
    pub remove_prefix: bool,
    /// Index into the targets.
    pub target: usize,
    /// Which nodes of a Redis Cluster serve its reads, where it says so itself.
    pub read_policy: Option<ReadPolicy>,
    /// Faults of this route.
    pub faults: Vec<wire::Fault>,
    /// The route's place in the object; none for the one that stands for no routes at all.
    pub index: Option<usize>,
}

/// Validates everything there is. Services come in the order of their host, port and scope.
pub fn validate(
    services: &[Arc<Loaded<RedisService>>],
    destinations: &[Arc<Loaded<RedisDestination>>],
    inventory: &Inventory,
    options: &Options,
    diagnostics: &mut Diagnostics,
) -> Vec<ValidatedService> {
    let claims = Claims::settle(services, destinations, options, diagnostics);
    let mut resolver = Destinations::new(destinations, &claims, inventory, options, diagnostics);
    let mut validated = Vec::new();
    for (index, loaded) in services.iter().enumerate() {
        let subject = scope::subject(loaded);
        let namespace = scope::namespace(loaded);
        let rules = route::Rules::read(&loaded.object.spec, &subject, diagnostics);
        let settings = settings::read(&loaded.object.spec, &subject, diagnostics);
        let client_auth =
            loaded.object.spec.settings.as_ref().and_then(|settings| settings.auth.as_ref()).and_then(|auth| {
                auth::login(auth, &namespace, inventory, &mut diagnostics.at(&subject, "spec.settings.auth"))
            });
        let pinned = pinned(loaded, &subject, diagnostics);
        for (field, name) in claims.of_service(index) {
            let scope = Scope::of(name, &namespace);
            for (port, service) in ports(name, &namespace, inventory, options, &mut diagnostics.at(&subject, field)) {
                let address = HostPort { host: name.host.clone(), port };
                let place = route::Place { subject: &subject, namespace: &namespace, listener: &address, field };
                let Some(targets) = rules.resolve(&place, &mut resolver, diagnostics) else { continue };
                let (cluster_ips, pods) =
                    addresses(&name.host, &namespace, &service, inventory, &mut diagnostics.at(&subject, field));
                let mut built = ValidatedService {
                    owner: subject.clone(),
                    address,
                    service,
                    cluster_ips,
                    pods,
                    scope: scope.clone(),
                    path: wire::DataPath::Direct,
                    path_reason: String::new(),
                    native: false,
                    client_auth: client_auth.clone(),
                    settings: settings.clone(),
                    read_policy: ReadPolicy::Master,
                    targets: targets.targets,
                    routes: targets.routes,
                    faults: rules.faults.clone(),
                };
                settings::choose_path(&mut built, &loaded.object.spec, pinned, options.module, diagnostics);
                validated.push(built);
            }
        }
    }
    implicit(destinations, &claims, &mut resolver, inventory, options, &mut validated, diagnostics);
    if inventory.is_whole {
        resolver.report_unused(destinations, &claims, diagnostics);
    }
    validated.sort_by(|a, b| (&a.address, &a.scope).cmp(&(&b.address, &b.scope)));
    validated
}

/// Hosts that only a RedisDestination names: everything goes to the host itself.
fn implicit(
    destinations: &[Arc<Loaded<RedisDestination>>],
    claims: &Claims,
    resolver: &mut Destinations<'_>,
    inventory: &Inventory,
    options: &Options,
    validated: &mut Vec<ValidatedService>,
    diagnostics: &mut Diagnostics,
) {
    for (index, loaded) in destinations.iter().enumerate() {
        let subject = scope::subject(loaded);
        if loaded.object.metadata.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(DATA_PATH)) {
            let message = "has an effect on a RedisService only; write one for this host to pin its data path";
            diagnostics.add(&subject, annotation(DATA_PATH), Reason::NoEffect, message);
        }
        let Some(name) = claims.implicit(index) else { continue };
        let namespace = scope::namespace(loaded);
        for (port, service) in ports(name, &namespace, inventory, options, &mut diagnostics.at(&subject, "spec.host")) {
            let address = HostPort { host: name.host.clone(), port };
            let field = &mut diagnostics.at(&subject, "spec.host");
            let Some(destination) = resolver.resolve(name, Some(port), &namespace, None, field) else { continue };
            let (cluster_ips, pods) =
                addresses(&name.host, &namespace, &service, inventory, &mut diagnostics.at(&subject, "spec.host"));
            let mut built = ValidatedService {
                owner: subject.clone(),
                address,
                cluster_ips,
                pods,
                service,
                scope: Scope::of(name, &namespace),
                path: wire::DataPath::Direct,
                path_reason: String::new(),
                native: false,
                client_auth: None,
                settings: Settings::default(),
                read_policy: ReadPolicy::Master,
                targets: vec![Target { destination, mirrors: Vec::new() }],
                routes: vec![Route {
                    key: wire::KeyMatch::Any,
                    remove_prefix: false,
                    target: 0,
                    read_policy: None,
                    faults: Vec::new(),
                    index: None,
                }],
                faults: Vec::new(),
            };
            settings::choose_implicit_path(&mut built, options.module);
            validated.push(built);
        }
    }
}

/// The addresses of a Service itself; where it is headless, those of its endpoints.
fn addresses(
    host: &str,
    namespace: &str,
    service: &Option<(Key, ServicePort)>,
    inventory: &Inventory,
    place: &mut Place<'_>,
) -> (Vec<String>, Vec<String>) {
    let Some((key, port)) = service else {
        let Some(entry) = inventory.entry(host, namespace) else { return Default::default() };
        if entry.is_allocated && !entry.addresses.is_empty() {
            let message = format!(
                "in sidecars that don't capture DNS, nothing of this has an effect: {host} has only addresses that Istio gave out ({}); give ServiceEntry {} `addresses`, to which the clients resolve the name",
                entry.addresses.join(", "),
                entry.key
            );
            place.report(Reason::NoEffect, message);
        }
        // Its listener has the name of the address, so without this an entry could choose somebody else's.
        let (addresses, others): (Vec<_>, Vec<_>) =
            entry.addresses.iter().cloned().partition(|address| inventory.service_at(address).is_none());
        for address in others {
            let message = format!("{address}, which ServiceEntry {} gives {host}, is that of a Service", entry.key);
            place.report(Reason::Conflict, message);
        }
        return (addresses, Vec::new());
    };
    let own = inventory.service(key).map(inventory::cluster_ips).unwrap_or_default();
    if !own.is_empty() {
        return (own, Vec::new());
    }
    let mut pods = Vec::new();
    for endpoint in inventory.endpoints(key, port).unwrap_or_default() {
        match inventory.other_owner(key, &endpoint.address) {
            Some(other) => {
                let message = format!(
                    "endpoint {} of the headless Service {key} belongs to Service {other}, whose clients this object must not govern",
                    endpoint.address
                );
                place.report(Reason::Conflict, message);
            }
            None => pods.push(endpoint.address),
        }
    }
    (own, pods)
}

type Port = (u16, Option<(Key, ServicePort)>);

/// The ports on which a host is governed.
fn ports(name: &Name, namespace: &str, inventory: &Inventory, options: &Options, place: &mut Place<'_>) -> Vec<Port> {
    let Some(key) = &name.service else {
        if let Some(ports) = options.ports.get(&name.host) {
            return ports.iter().map(|port| (*port, None)).collect();
        }
        let Some(entry) = inventory.entry(&name.host, namespace) else { return vec![(host::REDIS_PORT, None)] };
        let ports = inventory::redis_ports(entry.ports.clone());
        if ports.is_empty() {
            let message = format!(
                "none of the ports of ServiceEntry {} is known to be Redis ({}); name one `redis` or `tcp-redis`",
                entry.key,
                host::listed(&entry.ports)
            );
            place.report(Reason::Unresolved, message);
        }
        return ports.into_iter().map(|port| (port.number, None)).collect();
    };
    let Some(service) = host::service(key, inventory, place) else { return Vec::new() };
    let ports = inventory::redis_ports(inventory::ports(service));
    if ports.is_empty() {
        place.report(Reason::Unresolved, host::no_redis_port(key, service));
    }
    ports.into_iter().map(|port| (port.number, Some((key.clone(), port)))).collect()
}

/// What the annotation asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pinned {
    /// `direct`.
    Direct,
    /// `proxy`.
    Proxy,
    /// `native`.
    Native,
}

fn annotation(name: &str) -> String {
    format!("metadata.annotations[{name}]")
}

fn pinned(loaded: &Loaded<RedisService>, subject: &Subject, diagnostics: &mut Diagnostics) -> Option<Pinned> {
    let annotations = loaded.object.metadata.annotations.as_ref()?;
    let (prefix, _) = DATA_PATH.split_once('/')?;
    for (name, _) in annotations.iter().filter(|(name, _)| *name != DATA_PATH) {
        if name.split_once('/').is_some_and(|(before, _)| before == prefix) {
            let message = format!("is not known; the only annotation of ours is {DATA_PATH}");
            diagnostics.add(subject, annotation(name), Reason::NoEffect, message);
        }
    }
    let mut place = diagnostics.at(subject, annotation(DATA_PATH));
    match annotations.get(DATA_PATH)?.as_str() {
        "auto" => None,
        "direct" => Some(Pinned::Direct),
        "proxy" => Some(Pinned::Proxy),
        "native" => Some(Pinned::Native),
        other => {
            let hint = crate::diagnostic::did_you_mean(other, ["auto", "direct", "proxy", "native"]);
            place.invalid(format!("`{other}` is not one of auto, direct, proxy, native{hint}"));
            None
        }
    }
}
