//! Validated services → the objects of Istio that make its sidecars serve them.
//!
//! Whatever arrives first, a filter or a listener, nothing is misrouted meanwhile: a host on `proxy` is known to the filter by
//! its address too, and the handshake then fails at whatever is behind it; a host on `direct` that leads elsewhere is known
//! only by what the listener itself says of where it leads.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use redis_mesh_core::wire;
use serde_json::{Value, json};

use crate::diagnostic::{Diagnostics, Reason, Subject};
use crate::inventory::Endpoint;
use crate::validate::destination::Destination;
use crate::validate::scope::Scope;
use crate::validate::{HostPort, ValidatedService};

use super::backend::{self, Backends};
use super::envoy::Use;
use super::envoy_filter::{self, Found};
use super::handshake::HandshakeKey;
use super::native::Module;
use super::overlay::{self, Replaced};
use super::standalone::Listen;
use super::{digest, filter_config, hex, wasm_plugin};

/// The size of a WasmPlugin's configuration, in bytes, above which hosts are configured each by itself.
pub const MAX_PLUGIN: usize = 256 * 1024;
/// The size below which they come together again: not the same, so that one host more or less doesn't move all of them.
pub const MIN_PLUGIN: usize = 192 * 1024;
/// The size above which one object is too much for an API server.
const MAX_OBJECT: usize = 1024 * 1024;
/// The size of a host's configuration from which on its object is measured.
const LARGE: usize = 256 * 1024;

/// How the names of the EnvoyFilters of destinations end. Those of hosts end in a port.
pub const DESTINATION: &str = "-destination";

/// What is needed besides the services.
#[derive(Clone)]
pub struct Options {
    /// Where proxies fetch the filter.
    pub filter_url: String,
    /// Its checksum.
    pub filter_sha256: Option<String>,
    /// Istio's root namespace.
    pub root_namespace: String,
    /// Configure each host by itself.
    pub per_host: bool,
    /// Addresses of hosts that are no Services, such as those of ServiceEntries.
    pub listen: Vec<Listen>,
    /// The key of the handshakes.
    pub handshake_key: HandshakeKey,
    /// The dynamic module, where sidecars may have it.
    pub module: Option<Module>,
    /// The files of versions before, by which open connections may still be served.
    pub other_modules: BTreeSet<String>,
}

/// Labels of everything that we render.
pub fn labels() -> Value {
    json!({"app.kubernetes.io/managed-by": "redis-mesh", "app.kubernetes.io/part-of": "redis-mesh"})
}

/// A service with what follows from it alone.
pub struct Piece {
    /// The service.
    pub service: ValidatedService,
    /// Where its objects are.
    pub namespace: String,
    backends: Backends,
    /// The names of its listeners; none if they are not known.
    listeners: Vec<String>,
    /// Bytes that it takes in a WasmPlugin.
    size: usize,
    per_host: bool,
    /// Sidecars that have the dynamic module serve it by that.
    is_native: bool,
}

impl Piece {
    /// Prepares a service, and reports why it can't be served in a mesh.
    pub fn new(service: ValidatedService, options: &Options, diagnostics: &mut Diagnostics) -> Piece {
        let namespace = match &service.scope {
            Scope::Mesh => options.root_namespace.clone(),
            Scope::Namespace(namespace) => namespace.clone(),
        };
        let per_host = options.per_host || needs_per_host(&service);
        let backends = backend::backends(&service);
        let listeners = listener_names(&service, options).unwrap_or_else(|message| {
            if per_host || changes_listener(&service) {
                diagnostics.add(&service.owner, "spec.host", Reason::Unresolved, message);
            }
            Vec::new()
        });
        let mut piece = Piece { service, namespace, backends, listeners, size: 0, per_host, is_native: false };
        let config = filter_config::document(piece.service.address.to_string(), 1, vec![piece.host(options)]);
        filter_config::check(&config, &piece.service, diagnostics);
        piece.size = filter_config::json(&config).len();
        piece.choose_native(options, diagnostics);
        if piece.size > LARGE {
            let size = piece.listener(&piece.namespace, &piece.object_name(), true, options, 1).to_string().len();
            if size > MAX_OBJECT {
                let message = format!(
                    "what follows from it for {} has {size} bytes, more than an API server takes; use fewer routes",
                    piece.service.address
                );
                diagnostics.add(&piece.service.owner, "spec.redis", Reason::Unsupported, message);
            }
        }
        for destination in piece.service.destinations() {
            if let Some(policy) = changes_for_everybody(&piece.service, destination) {
                let message = format!(
                    "leads to {}, which belongs to another namespace, and {} {} would change for everybody how that is reached; put such a RedisDestination there, or lead to a Service of your own",
                    destination.address, policy.kind, policy.name
                );
                diagnostics.add(&piece.service.owner, "spec.redis", Reason::Unsupported, message);
            }
            if destination.policy.tcp.max_connections.is_some() && envoy_filter::found(destination) == Found::Istio {
                let owner = destination.policy.object.as_ref().unwrap_or(&piece.service.owner);
                let message = "has no effect in a mesh, where Istio's own cluster is used; set connectionPool.tcp.maxConnections in a DestinationRule";
                let field = "spec.trafficPolicy.connectionPool.tcp.maxConnections";
                diagnostics.add(owner, field, Reason::NoEffect, message);
            }
        }
        piece
    }

    /// Whether sidecars that have the module can serve it by that.
    fn choose_native(&mut self, options: &Options, diagnostics: &mut Diagnostics) {
        let destinations = self.service.destinations();
        let can_be = options.module.is_some() && self.service.native && !self.listeners.is_empty();
        self.is_native = can_be && destinations.iter().all(|destination| overlay::is_reachable(destination));
        if self.is_native {
            filter_config::check(&self.native_document(options, String::new(), 1), &self.service, diagnostics);
        }
    }

    fn native_document(&self, options: &Options, name: String, revision: u64) -> wire::FilterConfig {
        let circle = |destination: &Destination| circle(&self.service, destination);
        overlay::document(&self.service, &self.backends, &options.handshake_key, name, revision, &circle)
    }

    /// The EnvoyFilter of the host for sidecars that have the module.
    fn native_listener(&self, namespace: &str, name: &str, options: &Options, revision: u64) -> Value {
        let module = options.module.clone().unwrap_or_default();
        let config = self.native_document(options, format!("redis-mesh/{namespace}/{name}"), revision);
        let (_, _, base) = self.listener_place(&options.root_namespace);
        let replaced = Replaced {
            plugins_of: [&options.root_namespace, &self.namespace],
            port: self.service.address.port,
            extension: self.extension(&base),
        };
        let patches = overlay::listener(&self.listeners, &replaced, name, &config, &module);
        overlay::object(namespace, name, &self.purpose(), patches)
    }

    /// Where the EnvoyFilter of the host stands: only for these clients, namespace, name.
    fn listener_place(&self, root_namespace: &str) -> (Option<&str>, String, String) {
        let single = self.service.single_destination().filter(|_| needs_per_host(&self.service));
        let clients = single.and_then(|single| kept_from(&self.service, single));
        let (namespace, name) = placed(&self.namespace, self.object_name(), clients, root_namespace);
        (clients, namespace, name)
    }

    fn purpose(&self) -> String {
        format!("{} {}", self.service.owner.kind, self.service.owner.name)
    }

    /// True if sidecars that have the dynamic module serve it by that.
    pub fn is_native(&self) -> bool {
        self.is_native
    }

    /// The host as the filter of a WasmPlugin gets it.
    fn host(&self, options: &Options) -> wire::Host {
        filter_config::host(
            &self.service,
            &self.backends,
            &options.handshake_key,
            selector(&self.service),
            &filter_config::by_address,
        )
    }

    /// The name of the EnvoyFilter of its host.
    pub fn object_name(&self) -> String {
        object_name(&self.service.address, "")
    }

    /// True if it has to be configured by itself, whatever the others are.
    pub fn is_per_host(&self) -> bool {
        self.per_host
    }
}

/// A host's place among all: the namespace of its objects, and its port.
pub type Group = (String, u16);

/// One object that is to be.
pub struct Planned {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Only for the clients of a namespace, where it stands in another one.
    pub clients: Option<String>,
    /// What it is, and what it is made from.
    pub content: Content,
}

/// What an object is made from.
pub enum Content {
    /// A WasmPlugin of a port: the services, and hosts that are kept as they are.
    Plugin {
        /// The port.
        port: u16,
        /// The services.
        pieces: Vec<Arc<Piece>>,
        /// Hosts whose services can't be told at the moment.
        kept: Vec<wire::Host>,
    },
    /// The EnvoyFilter of a host.
    Listener {
        /// The service.
        piece: Arc<Piece>,
        /// With the filter's configuration.
        per_host: bool,
    },
    /// The EnvoyFilter of a host for sidecars that have the dynamic module.
    NativeListener {
        /// The service.
        piece: Arc<Piece>,
    },
    /// What the dynamic module itself needs.
    Module(Module),
    /// The EnvoyFilter of a destination.
    Cluster {
        /// The destination.
        destination: Arc<Destination>,
        /// What it has to serve; the dynamic module: in sidecars that have it.
        usage: Use,
        /// Only for the clients of a namespace.
        scope: Option<String>,
        /// The services that lead there.
        pieces: Vec<Arc<Piece>>,
    },
}

/// What has to be known of the past for a plan.
#[derive(Default)]
pub struct Past {
    /// Groups that were too large for a WasmPlugin.
    pub large: BTreeSet<Group>,
    /// Hosts in WasmPlugins that must stay as they are.
    pub kept: BTreeMap<Group, Vec<wire::Host>>,
}

/// All objects that are to be, in a fixed order.
pub struct Plan {
    /// The objects.
    pub objects: Vec<Planned>,
    /// Groups that are too large for a WasmPlugin.
    pub large: BTreeSet<Group>,
}

/// Plans all objects.
pub fn plan(pieces: &[Arc<Piece>], options: &Options, past: &Past) -> Plan {
    let root_namespace = options.root_namespace.as_str();
    let mut groups: BTreeMap<Group, Vec<&Arc<Piece>>> = BTreeMap::new();
    for piece in pieces.iter().filter(|piece| !piece.per_host) {
        groups.entry((piece.namespace.clone(), piece.service.address.port)).or_default().push(piece);
    }
    for group in past.kept.keys() {
        groups.entry(group.clone()).or_default();
    }
    let mut planned = Vec::new();
    let mut large: BTreeSet<Group> = BTreeSet::new();
    for (group, members) in groups {
        let kept = past.kept.get(&group).cloned().unwrap_or_default();
        let kept_size = |host| serde_json::to_string(host).unwrap_or_default().len();
        let size = members.iter().map(|piece| piece.size).chain(kept.iter().map(kept_size)).sum::<usize>();
        let limit = if past.large.contains(&group) { MIN_PLUGIN } else { MAX_PLUGIN };
        let mut pieces: Vec<Arc<Piece>> = members.into_iter().cloned().collect();
        if size > limit {
            // Those whose listeners are not known can only stay.
            pieces.retain(|piece| piece.listeners.is_empty());
            large.insert(group.clone());
        }
        if pieces.is_empty() && kept.is_empty() {
            continue;
        }
        let (namespace, port) = group;
        let content = Content::Plugin { port, pieces, kept };
        planned.push(Planned { namespace, name: wasm_plugin::name(port), clients: None, content });
    }
    for piece in pieces {
        let is_large = large.contains(&(piece.namespace.clone(), piece.service.address.port));
        planned.extend(listener(piece, is_large, root_namespace));
    }
    planned.extend(clusters(pieces, root_namespace));
    planned.extend(native(pieces, options));
    Plan { objects: planned, large }
}

/// What sidecars get that have the dynamic module.
fn native(pieces: &[Arc<Piece>], options: &Options) -> Vec<Planned> {
    let root_namespace = options.root_namespace.as_str();
    let mut planned: Vec<Planned> = pieces.iter().filter_map(|piece| native_listener(piece, root_namespace)).collect();
    let natively = || pieces.iter().filter(|piece| piece.is_native);
    planned.extend(clusters_of(natively(), root_namespace, true));
    if natively().next().is_some() {
        let others = options.other_modules.iter().map(|filename| Module::among_others(filename.clone()));
        let modules: BTreeSet<Module> = options.module.iter().cloned().chain(others).collect();
        planned.extend(modules.into_iter().map(|module| Planned {
            namespace: root_namespace.to_owned(),
            name: overlay::module_name(&module),
            clients: None,
            content: Content::Module(module),
        }));
    }
    planned
}

/// The EnvoyFilter of a host for sidecars that have the dynamic module.
fn native_listener(piece: &Arc<Piece>, root_namespace: &str) -> Option<Planned> {
    if !piece.is_native {
        return None;
    }
    let destinations = piece.service.destinations();
    let clients = destinations.iter().find_map(|destination| kept_from(&piece.service, destination));
    let name = object_name(&piece.service.address, overlay::SUFFIX);
    let (namespace, name) = placed(&piece.namespace, name, clients, root_namespace);
    let (clients, content) = (clients.map(str::to_owned), Content::NativeListener { piece: piece.clone() });
    Some(Planned { namespace, name, clients, content })
}

/// The EnvoyFilter of a host, if it needs one.
fn listener(piece: &Arc<Piece>, is_large: bool, root_namespace: &str) -> Option<Planned> {
    let per_host = piece.per_host || is_large;
    if piece.listeners.is_empty() || !per_host && !changes_listener(&piece.service) {
        return None;
    }
    let (clients, namespace, name) = piece.listener_place(root_namespace);
    let (clients, content) = (clients.map(str::to_owned), Content::Listener { piece: piece.clone(), per_host });
    Some(Planned { namespace, name, clients, content })
}

/// The plan for a service that takes the place of another, where nothing else can follow from that: both are configured by
/// themselves and lead to the same clusters. None if more has to be looked at.
pub fn plan_alone(
    old: &Piece,
    new: &Arc<Piece>,
    large: &BTreeSet<Group>,
    root_namespace: &str,
) -> Option<Vec<Planned>> {
    let is_large = |piece: &Piece| large.contains(&(piece.namespace.clone(), piece.service.address.port));
    let (before, after) = (&old.service, &new.service);
    let is_same_place =
        before.address == after.address && before.scope == after.scope && old.namespace == new.namespace;
    let is_alone = (old.per_host || is_large(old)) && (new.per_host || is_large(new)) && old.per_host == new.per_host;
    let is_same_way = before.path == after.path
        && before.destinations() == after.destinations()
        && old.is_native == new.is_native
        && old.listeners.is_empty() == new.listeners.is_empty();
    if !(is_same_place && is_alone && is_same_way) {
        return None;
    }
    let alone = listener(new, is_large(new), root_namespace)?;
    Some([alone].into_iter().chain(native_listener(new, root_namespace)).collect())
}

impl Content {
    /// The services for which it is.
    pub fn pieces(&self) -> &[Arc<Piece>] {
        match self {
            Content::Plugin { pieces, .. } | Content::Cluster { pieces, .. } => pieces.as_slice(),
            Content::Listener { piece, .. } | Content::NativeListener { piece } => std::slice::from_ref(piece),
            // It is everybody's.
            Content::Module(_) => &[],
        }
    }
}

impl Planned {
    /// `WasmPlugin` or `EnvoyFilter`.
    pub fn kind(&self) -> &'static str {
        match self.content {
            Content::Plugin { .. } => wasm_plugin::KIND,
            Content::Listener { .. }
            | Content::Cluster { .. }
            | Content::NativeListener { .. }
            | Content::Module(_) => envoy_filter::KIND,
        }
    }

    /// Our objects from which it follows: services, and the destinations where they lead.
    pub fn subjects(&self) -> Vec<&Subject> {
        let pieces = self.content.pieces();
        let mut subjects: Vec<&Subject> = Vec::new();
        match &self.content {
            Content::Cluster { destination, .. } => subjects.extend(destination.policy.object.as_ref()),
            Content::Plugin { .. } | Content::Listener { .. } | Content::NativeListener { .. } | Content::Module(_) => {
                let destinations = pieces.iter().flat_map(|piece| piece.service.destinations());
                subjects.extend(destinations.filter_map(|destination| destination.policy.object.as_ref()));
            }
        }
        subjects.extend(pieces.iter().map(|piece| &piece.service.owner));
        subjects
    }

    /// The object, as the push of this number.
    pub fn build(&self, options: &Options, revision: u64) -> Value {
        let mut object = self.build_for_all(options, revision);
        if let Some(clients) = &self.clients {
            for patch in object["spec"]["configPatches"].as_array_mut().into_iter().flatten() {
                patch["match"]["proxy"] = json!({"metadata": {"NAMESPACE": clients}});
            }
        }
        object
    }

    fn build_for_all(&self, options: &Options, revision: u64) -> Value {
        match &self.content {
            Content::Plugin { port, pieces, kept } => {
                let hosts = pieces.iter().map(|piece| piece.host(options)).chain(kept.iter().cloned()).collect();
                let config = filter_config::document(format!("redis-mesh/{}/{port}", self.namespace), revision, hosts);
                wasm_plugin::object(&self.namespace, *port, &config, options)
            }
            Content::Listener { piece, per_host } => {
                piece.listener(&self.namespace, &self.name, *per_host, options, revision)
            }
            Content::NativeListener { piece } => piece.native_listener(&self.namespace, &self.name, options, revision),
            Content::Module(module) => {
                overlay::object(&self.namespace, &self.name, overlay::PURPOSE, overlay::module(module))
            }
            Content::Cluster { destination, usage, scope, pieces } => {
                let purpose = purpose_of(destination, pieces);
                if *usage == Use::Native {
                    let module = options.module.clone().unwrap_or_default();
                    let patches = overlay::cluster(destination, scope.as_deref(), &module);
                    return overlay::object(&self.namespace, &self.name, &purpose, patches);
                }
                let patch = envoy_filter::cluster(destination, *usage, scope.as_deref());
                envoy_filter::object(&self.namespace, &self.name, &purpose, patch.into_iter().collect())
            }
        }
    }
}

fn purpose_of(destination: &Destination, pieces: &[Arc<Piece>]) -> String {
    let owner = destination.policy.object.as_ref().or(pieces.first().map(|piece| &piece.service.owner));
    owner.map(|owner| format!("{} {}", owner.kind, owner.name)).unwrap_or_default()
}

/// The namespace that says how a host is reached that isn't its own. What it says holds for its own rules only.
fn foreign(destination: &Destination) -> Option<&str> {
    let (says, _) = destination.policy.object.as_ref()?.name.split_once('/')?;
    let owner = destination.service.as_ref().map(|(key, _)| key.namespace.as_str());
    (owner != Some(says)).then_some(says)
}

/// For whom a destination's cluster of ours is: not everybody's rules may lead there.
fn circle(service: &ValidatedService, destination: &Destination) -> Option<String> {
    match scope_of(service) {
        Some(namespace) => Some(namespace.to_owned()),
        // Not the name that it has in rules for the clients of that namespace: both may be in one sidecar.
        None => foreign(destination).map(|namespace| format!("*/{namespace}")),
    }
}

/// The RedisDestination of one namespace that would change Istio's own cluster of another namespace's Service for all clients.
fn changes_for_everybody<'a>(service: &ValidatedService, destination: &'a Destination) -> Option<&'a Subject> {
    let policy = &destination.policy;
    let logs_in = service.path == wire::DataPath::Proxy && policy.login.is_some();
    let changes = logs_in || policy.tcp.connect_timeout.is_some() || policy.tcp.keepalive.is_some();
    let is_everybodys = scope_of(service).is_none()
        && destination.service.is_some()
        && envoy_filter::found(destination) == Found::Istio
        && foreign(destination).is_some();
    policy.object.as_ref().filter(|_| is_everybodys && changes)
}

/// The namespace of the clients, where a destination's credentials are those of another namespace. Who may read what stands
/// in the one may not read what stands in the other, so what holds them must not stand there.
fn kept_from<'a>(service: &'a ValidatedService, destination: &Destination) -> Option<&'a str> {
    let clients = scope_of(service)?;
    let policy = &destination.policy;
    let (owner, _) = policy.object.as_ref()?.name.split_once('/')?;
    let holds_secrets = policy.login.is_some() || policy.tls.as_ref().is_some_and(|tls| tls.certificate.is_some());
    (holds_secrets && owner != clients).then_some(clients)
}

/// Where an object stands: beside the clients for whom it is, unless it is kept from those who read there.
fn placed(namespace: &str, name: String, kept_from: Option<&str>, root_namespace: &str) -> (String, String) {
    match kept_from {
        Some(clients) => (root_namespace.to_owned(), format!("{name}-in-{clients}")),
        None => (namespace.to_owned(), name),
    }
}

/// Builds all objects, in a fixed order.
pub fn build(
    services: &[ValidatedService],
    options: &Options,
    revision: u64,
    diagnostics: &mut Diagnostics,
) -> Vec<Value> {
    let pieces: Vec<Arc<Piece>> =
        services.iter().map(|service| Arc::new(Piece::new(service.clone(), options, diagnostics))).collect();
    let plan = plan(&pieces, options, &Past::default());
    plan.objects.iter().map(|planned| planned.build(options, revision)).collect()
}

/// Only in a filter that is configured by itself does Envoy hide the configuration, so that is where a password goes.
fn needs_per_host(service: &ValidatedService) -> bool {
    let logs_in = service.single_destination().is_some_and(|destination| destination.policy.login.is_some());
    service.path == wire::DataPath::Direct && logs_in
}

/// True if the listener of a host must differ from what Istio makes it, for more than the filter.
fn changes_listener(service: &ValidatedService) -> bool {
    service.path == wire::DataPath::Proxy || leads_elsewhere(service)
}

/// True on `direct` to another host, or to this one in a cluster of ours.
fn leads_elsewhere(service: &ValidatedService) -> bool {
    service.path == wire::DataPath::Direct
        && !service.single_destination().is_some_and(|single| is_own_cluster(service, single))
}

/// By what the filter of a WasmPlugin knows the connections of a host.
fn selector(service: &ValidatedService) -> wire::Selector {
    let mut selector = wire::Selector::default();
    let is_own = service.single_destination().is_some_and(|destination| is_own_cluster(service, destination));
    if service.path == wire::DataPath::Proxy || !is_own {
        selector.listeners.push(token(service));
    }
    if service.path == wire::DataPath::Proxy || is_own {
        let (host, port) = (&service.address.host, service.address.port);
        selector.clusters.push(format!("outbound|{port}||{host}"));
        let address = |address: &String| Endpoint { address: address.clone(), port }.to_string();
        selector.addresses.extend(service.cluster_ips.iter().map(address));
    }
    selector
}

/// What a listener says it is: its host, and on `direct` where it leads if not to the host itself.
fn token(service: &ValidatedService) -> String {
    match (service.path, service.single_destination()) {
        (wire::DataPath::Direct, Some(destination)) => {
            format!(
                "{} to {}",
                service.address,
                envoy_filter::cluster_name(destination, circle(service, destination).as_deref())
            )
        }
        _ => service.address.to_string(),
    }
}

fn scope_of(service: &ValidatedService) -> Option<&str> {
    match &service.scope {
        Scope::Mesh => None,
        Scope::Namespace(namespace) => Some(namespace),
    }
}

fn is_own_cluster(service: &ValidatedService, destination: &Destination) -> bool {
    destination.address == service.address && envoy_filter::found(destination) == Found::Istio
}

impl Piece {
    /// The EnvoyFilter of the host.
    fn listener(&self, namespace: &str, name: &str, per_host: bool, options: &Options, revision: u64) -> Value {
        let (service, listeners) = (&self.service, &self.listeners);
        let single = service.single_destination();
        let cluster = |destination: &Destination| {
            envoy_filter::cluster_name(destination, circle(service, destination).as_deref())
        };
        let mut patches = Vec::new();
        let token = token(service);
        if per_host {
            let extension = self.extension(name);
            let host = filter_config::host(
                service,
                &self.backends,
                &options.handshake_key,
                wire::Selector::default(),
                &filter_config::by_address,
            );
            let config = filter_config::document(format!("redis-mesh/{namespace}/{extension}"), revision, vec![host]);
            patches.push(envoy_filter::extension(&extension, &config, options));
            patches.extend(listeners.iter().map(|listener| envoy_filter::discovered_filter(listener, &extension)));
            // The filter of a WasmPlugin that is there too leaves the connection to this one.
            patches
                .extend(listeners.iter().map(|listener| envoy_filter::metadata(listener, wire::CONFIGURED_BY_ITSELF)));
        } else {
            patches.extend(listeners.iter().map(|listener| envoy_filter::metadata(listener, &token)));
        }
        for listener in listeners {
            match (service.path, single) {
                (wire::DataPath::Proxy, _) => {
                    let password = options.handshake_key.password(service, &self.backends);
                    patches.push(envoy_filter::redis_proxy(listener, service, &self.backends, &password, &cluster));
                }
                (wire::DataPath::Direct, Some(single)) if leads_elsewhere(service) => {
                    patches.push(envoy_filter::other_cluster(listener, &cluster(single)));
                }
                (wire::DataPath::Direct | wire::DataPath::Native, _) => {}
            }
        }
        envoy_filter::object(namespace, name, &self.purpose(), patches)
    }

    /// The name of the filter that is configured by itself, in the EnvoyFilter of this name.
    fn extension(&self, name: &str) -> String {
        let single = self.service.single_destination();
        // Where the listener leads is part of the name, so that credentials never meet a listener that leads elsewhere.
        let leads = single.map(|single| envoy_filter::cluster_name(single, circle(&self.service, single).as_deref()));
        format!("{name}-{}", &hex(&digest(&[&token(&self.service), &leads.unwrap_or_default()]))[..8])
    }
}

/// The names that Istio gives the outbound listeners of a host.
fn listener_names(service: &ValidatedService, options: &Options) -> Result<Vec<String>, String> {
    let (host, port) = (&service.address.host, service.address.port);
    let name = |address: &str, port: u16| format!("{address}_{port}");
    let given = options.listen.iter().find(|listen| listen.names(&service.address));
    if let Some(Listen { address, .. }) = given {
        return Ok(vec![name(&address.ip().to_string(), address.port())]);
    }
    if let Some(first) = service.cluster_ips.first() {
        return Ok(match service.service {
            Some(_) => vec![name(first, port)],
            // Each address of a ServiceEntry has a listener of its own.
            None => service.cluster_ips.iter().map(|address| name(address, port)).collect(),
        });
    }
    match &service.service {
        Some((key, _)) if service.pods.is_empty() => Err(format!(
            "Service {key} is headless and has no EndpointSlices here, by whose addresses a mesh names its listeners; add them"
        )),
        Some(_) => Ok(service.pods.iter().map(|pod| name(pod, port)).collect()),
        None => Err(format!(
            "{host} is no Service, and no ServiceEntry gives it an address of its own, by which the listener that has to be changed ({}) could be told from others; add a ServiceEntry for {host} with `addresses` (for `redis-mesh render`: or --listen {host}=ADDRESS:{port})",
            service.path_reason
        )),
    }
}

/// The length of a name that still has room for what comes behind it.
const LONGEST: usize = 150;

/// The name of an object about an address.
fn object_name(address: &HostPort, suffix: &str) -> String {
    // Of Services only: without the end of their names, two hosts outside of the cluster could be one.
    let host = match address.host.strip_suffix(".cluster.local") {
        Some(host) if host.ends_with(".svc") => host,
        _ => &address.host,
    };
    let name = format!("redis-mesh-{}-{}", host.replace(['_', ':'], "-"), address.port);
    // `_` may stand in a host, and `:` in an address, but not in the name of an object, which with a namespace at its end may
    // also not be longer than a host. What is lost by that is made up for by a digest, so that no two hosts have one name.
    if name.len() <= LONGEST && !host.contains(['_', ':']) {
        return format!("{name}{suffix}");
    }
    let end = name.len().min(LONGEST);
    let beginning = name.get(..end).unwrap_or(&name).trim_end_matches(['-', '.']);
    format!("{beginning}-{}-{}{suffix}", &hex(&digest(&[host]))[..8], address.port)
}

/// The EnvoyFilters of the destinations, each once for each namespace.
///
/// The cluster to which tags lead that are not known is not among them: a cluster that is not there answers the same.
fn clusters(pieces: &[Arc<Piece>], root_namespace: &str) -> Vec<Planned> {
    clusters_of(pieces.iter(), root_namespace, false)
}

/// As [`clusters`], or for sidecars that have the dynamic module.
fn clusters_of<'a>(
    pieces: impl Iterator<Item = &'a Arc<Piece>>,
    root_namespace: &str,
    is_native: bool,
) -> Vec<Planned> {
    struct Wanted<'a> {
        destination: &'a Arc<Destination>,
        usage: Use,
        scope: Option<String>,
        kept_from: Option<&'a str>,
        pieces: Vec<Arc<Piece>>,
    }
    let mut found: BTreeMap<(&str, &HostPort, Option<String>), Wanted<'_>> = BTreeMap::new();
    for piece in pieces {
        let usage = if is_native { Use::Native } else { Use::of(piece.service.path) };
        for destination in piece.service.destinations() {
            let scope = circle(&piece.service, destination);
            let place = (piece.namespace.as_str(), &destination.address, scope.clone());
            let wanted = found.entry(place).or_insert_with(|| Wanted {
                destination,
                usage,
                scope,
                kept_from: kept_from(&piece.service, destination),
                pieces: Vec::new(),
            });
            wanted.pieces.push(piece.clone());
            // What `redis_proxy` needs does no harm to `tcp_proxy`.
            if usage == Use::Proxy {
                wanted.usage = usage;
            }
        }
    }
    let planned = found.into_iter().filter_map(|((namespace, ..), wanted)| {
        let is_wanted = match wanted.usage {
            Use::Native => wanted.destination.is_cluster(),
            usage => envoy_filter::changes_cluster(wanted.destination, usage),
        };
        if !is_wanted {
            return None;
        }
        let mut name = object_name(&wanted.destination.address, DESTINATION);
        if let Some(says) = wanted.scope.as_ref().and_then(|scope| scope.strip_prefix("*/")) {
            name = format!("{name}-of-{says}");
        }
        if is_native {
            name += overlay::SUFFIX;
        }
        let (namespace, name) = placed(namespace, name, wanted.kept_from, root_namespace);
        Some(Planned {
            namespace,
            name,
            clients: wanted.kept_from.map(str::to_owned),
            content: Content::Cluster {
                destination: wanted.destination.clone(),
                usage: wanted.usage,
                scope: wanted.scope,
                pieces: wanted.pieces,
            },
        })
    });
    planned.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_addresses_have_one_name() {
        let long = |end: &str| format!("{}.example.{end}", [&"x".repeat(60)[..]; 3].join("."));
        let hosts = [
            "r.a.svc.cluster.local",
            "cache.example",
            "cache.example.cluster.local",
            "a-b.example",
            "a_b.example",
            "::1",
            "1.2.3.4",
            &long("com"),
            &long("org"),
        ];
        let name = |host: &&str| object_name(&HostPort { host: (*host).to_owned(), port: 65535 }, DESTINATION);
        let names: BTreeSet<String> = hosts.iter().map(name).collect();
        assert_eq!(names.len(), hosts.len(), "{names:?}");
        for name in names {
            let is_fine = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte);
            assert!(name.bytes().all(is_fine), "{name}");
            let with_namespace = format!("{name}-in-{}", "n".repeat(63));
            assert!(with_namespace.len() <= 253, "{with_namespace}");
        }
    }
}
