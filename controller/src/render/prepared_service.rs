//! A service with everything that follows from it alone, before a plan combines it with others.

use std::collections::BTreeSet;

use redis_mesh_core::hex::to_hex;
use redis_mesh_core::wire;
use serde_json::Value;

use crate::diagnostic::{Code, Diagnostics, Problem};
use crate::exports::Exports;
use crate::inventory::ServiceEndpoint;
use crate::validate::destination::ValidatedDestination;
use crate::validate::scope::ClientScope;
use crate::validate::service::ValidatedService;

use super::backend::{self, Backends};
use super::carried;
use super::cluster_scope::{changes_for_everybody, cluster_scope, kept_from};
use super::digest::digest;
use super::envoy::ClusterUse;
use super::envoy_filter::{self, ClusterOwner};
use super::filter_config;
use super::listen::ListenOverride;
use super::mesh_options::MeshOptions;
use super::mesh_warnings;
use super::object_meta::{object_name, placed};
use super::overlay::{self, ReplacedFilters};

/// The size in bytes above which an API server refuses an object.
const MAX_OBJECT: usize = 1024 * 1024;
/// The size in bytes of a host's configuration above which the size of its object is computed.
const LARGE: usize = 256 * 1024;

/// A service with everything that follows from it alone: backends, names of listeners, sizes.
pub struct PreparedService {
    /// The service.
    pub service: ValidatedService,
    /// The namespace of its objects.
    pub namespace: String,
    backends: Backends,
    /// The names of its listeners in the mesh; empty if they are unknown.
    pub(super) listeners: Vec<String>,
    /// The size of its configuration in a WasmPlugin, in bytes.
    pub(super) size: usize,
    /// True if it needs a filter of its own.
    pub(super) per_host: bool,
    /// True if sidecars with the dynamic module serve it natively.
    pub(super) is_native: bool,
}

impl PreparedService {
    /// Prepares a service, and reports why it can't be served in a mesh.
    pub fn new(service: ValidatedService, options: &MeshOptions, diagnostics: &mut Diagnostics) -> PreparedService {
        let namespace = match &service.clients.scope {
            ClientScope::Mesh => options.root_namespace.clone(),
            ClientScope::Namespace(namespace) => namespace.clone(),
        };
        let per_host = options.per_host || needs_per_host(&service) || is_limited(&service, &options.root_namespace);
        let backends = backend::backends(&service);
        let listeners = listener_names(&service, options).unwrap_or_else(|problem| {
            // An alias has no cluster either by which the filter could tell its clients.
            if per_host || changes_listener(&service) || problem.code == Code::AliasedHost {
                diagnostics.add(&service.owner, "spec.host", problem);
            }
            Vec::new()
        });
        let mut prepared =
            PreparedService { service, namespace, backends, listeners, size: 0, per_host, is_native: false };
        let address = prepared.service.address.to_string();
        let config = filter_config::document(address, 1, vec![prepared.host(options)]);
        filter_config::check(&config, &prepared.service, diagnostics);
        prepared.size = filter_config::json(&config).len();
        prepared.choose_native(options, diagnostics);
        prepared.check_size(options, diagnostics);
        prepared.check_destinations(diagnostics);
        mesh_warnings::report(&prepared.service, options, diagnostics);
        prepared
    }

    /// Reports an EnvoyFilter that is larger than an API server takes.
    fn check_size(&self, options: &MeshOptions, diagnostics: &mut Diagnostics) {
        // A patch is for one namespace.
        let copies = self.service.clients.exports.namespaces().map_or(1, BTreeSet::len);
        if self.size * copies <= LARGE {
            return;
        }
        let size = self.listener(&self.namespace, &self.object_name(), true, options, 1).to_string().len() * copies;
        if size > MAX_OBJECT {
            let message = format!(
                "the EnvoyFilter for {} would have {size} bytes, more than the {MAX_OBJECT} that an API server takes",
                self.service.address
            );
            let problem =
                Problem::new(Code::ObjectTooLarge, message, "use fewer routes, or export to fewer namespaces");
            diagnostics.add(&self.service.owner, "spec.redis", problem);
        }
    }

    /// Reports settings of destinations that can't take effect in a mesh.
    fn check_destinations(&self, diagnostics: &mut Diagnostics) {
        for destination in self.service.destinations() {
            if let Some(policy) = changes_for_everybody(&self.service, destination) {
                let message = format!(
                    "leads to {}, which belongs to another namespace, and {} {} would change for everybody how that is reached",
                    destination.address, policy.kind, policy.name
                );
                let remedy = "put such a RedisDestination there, or lead to a Service of your own";
                diagnostics.add(
                    &self.service.owner,
                    "spec.redis",
                    Problem::new(Code::ForeignDestination, message, remedy),
                );
            }
            if self.is_through_own(destination) {
                carried::report(&self.service, destination, diagnostics);
            }
            let usage = ClusterUse::by(&self.service, destination);
            let is_of_istio = envoy_filter::owner(destination, usage) == ClusterOwner::Istio;
            if destination.policy.tcp.max_connections.is_some() && is_of_istio {
                let owner = destination.policy.object.as_ref().unwrap_or(&self.service.owner);
                let message = "has no effect in a mesh, where Istio's own cluster is used";
                let remedy = "set connectionPool.tcp.maxConnections in a DestinationRule";
                let field = "spec.trafficPolicy.connectionPool.tcp.maxConnections";
                diagnostics.add(owner, field, Problem::new(Code::MaxConnectionsOfIstio, message, remedy));
            }
        }
    }

    /// True if a destination is reached through a cluster that redis-mesh adds.
    fn is_through_own(&self, destination: &ValidatedDestination) -> bool {
        let is_added = |usage| envoy_filter::owner(destination, usage) == ClusterOwner::Added;
        is_added(ClusterUse::by(&self.service, destination)) || self.is_native && is_added(ClusterUse::Native)
    }

    /// Decides whether sidecars with the dynamic module serve the host natively.
    fn choose_native(&mut self, options: &MeshOptions, diagnostics: &mut Diagnostics) {
        let destinations = self.service.destinations();
        let can_be = options.module.is_some() && self.service.choice.native && !self.listeners.is_empty();
        self.is_native =
            can_be && destinations.iter().all(|destination| overlay::is_reachable(&self.service, destination));
        if self.is_native {
            let config = self.native_document(&self.service, options, String::new(), 1);
            filter_config::check(&config, &self.service, diagnostics);
        }
    }

    fn native_document(
        &self,
        service: &ValidatedService,
        options: &MeshOptions,
        name: String,
        revision: u64,
    ) -> wire::FilterConfig {
        let scope_of = |destination: &ValidatedDestination| cluster_scope(service, destination);
        let host = overlay::host(service, &self.backends, &options.handshake_key, &scope_of);
        filter_config::document(name, revision, vec![host])
    }

    /// The patches of that EnvoyFilter, of this name, by which the clients in a namespace get no login
    /// at what is another Redis there; none if there is no such destination.
    pub(super) fn native_without_logins(
        &self,
        (name, clients): (&str, &str),
        options: &MeshOptions,
        revision: u64,
    ) -> Vec<Value> {
        let Some(service) = self.service.for_clients_in(clients) else { return Vec::new() };
        let module = options.module.clone().unwrap_or_default();
        let config = self.native_document(&service, options, format!("redis-mesh/{clients}/{name}"), revision);
        overlay::configured_otherwise(&self.listeners, name, clients, &config, &module)
    }

    /// The EnvoyFilter of the host for sidecars with the dynamic module.
    pub(super) fn native_listener(&self, namespace: &str, name: &str, options: &MeshOptions, revision: u64) -> Value {
        let module = options.module.clone().unwrap_or_default();
        let config = self.native_document(&self.service, options, format!("redis-mesh/{namespace}/{name}"), revision);
        let (_, _, base) = self.listener_place(&options.root_namespace);
        let replaced = ReplacedFilters {
            plugins_of: [&options.root_namespace, &self.namespace],
            port: self.service.address.port,
            extension: self.extension(&base),
        };
        let patches = overlay::listener(&self.listeners, &replaced, name, &config, &module);
        overlay::object(namespace, name, &self.purpose(), patches)
    }

    /// The place of the host's EnvoyFilter: the namespaces of the clients, where it stands in another
    /// namespace than theirs, and its own namespace and name.
    pub(super) fn listener_place(&self, root_namespace: &str) -> (Exports, String, String) {
        let is_needed = needs_per_host(&self.service) || is_limited(&self.service, root_namespace);
        let single = self.service.targets.first().map(|target| &target.destination).filter(|_| is_needed);
        let kept = single.and_then(|single| kept_from(&self.service, single, root_namespace));
        let (namespace, name) = placed(&self.namespace, self.object_name(), kept, root_namespace);
        (self.exports(kept), namespace, name)
    }

    /// The namespaces of the clients for whom an object is, given the namespace from which it is kept.
    pub(super) fn exports(&self, kept_from: Option<&str>) -> Exports {
        match kept_from {
            Some(namespace) => Exports::only([namespace]),
            None => self.service.clients.exports.clone(),
        }
    }

    fn purpose(&self) -> String {
        format!("{} {}", self.service.owner.kind, self.service.owner.name)
    }

    /// True if sidecars with the dynamic module serve the host natively.
    pub fn is_native(&self) -> bool {
        self.is_native
    }

    /// The host as the filter of a WasmPlugin gets it.
    pub fn host(&self, options: &MeshOptions) -> wire::Host {
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

    /// True if the host needs a filter of its own, whatever the other hosts are.
    pub fn is_per_host(&self) -> bool {
        self.per_host
    }
}

impl PreparedService {
    /// The EnvoyFilter of the host.
    pub(super) fn listener(
        &self,
        namespace: &str,
        name: &str,
        per_host: bool,
        options: &MeshOptions,
        revision: u64,
    ) -> Value {
        let (service, listeners) = (&self.service, &self.listeners);
        let single = service.single_destination();
        let cluster = |destination: &ValidatedDestination| {
            envoy_filter::cluster_name(
                destination,
                ClusterUse::by(service, destination),
                cluster_scope(service, destination).as_deref(),
            )
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
            let login_for = single.filter(|_| host.upstream_login.is_some()).and_then(|single| login_for(single));
            let host = wire::Host { login_for, ..host };
            let config = filter_config::document(format!("redis-mesh/{namespace}/{extension}"), revision, vec![host]);
            patches.push(envoy_filter::extension(&extension, &config, options));
            patches.extend(listeners.iter().map(|listener| envoy_filter::discovered_filter(listener, &extension)));
            // The filter of a WasmPlugin on the same listener leaves the connection to this
            // filter.
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
        envoy_filter::of_listeners(namespace, name, &self.purpose(), patches)
    }

    /// The name of the host's own filter in the EnvoyFilter of this name.
    fn extension(&self, name: &str) -> String {
        let single = self.service.single_destination();
        // The cluster of the listener is part of the name, so credentials never meet a listener
        // that leads elsewhere.
        let leads = single.map(|single| {
            envoy_filter::cluster_name(
                single,
                ClusterUse::by(&self.service, single),
                cluster_scope(&self.service, single).as_deref(),
            )
        });
        format!("{name}-{}", &to_hex(&digest(&[&token(&self.service), &leads.unwrap_or_default()]))[..8])
    }
}

/// True if the host needs a filter of its own: Envoy hides the configuration only there, so
/// passwords go there.
fn needs_per_host(service: &ValidatedService) -> bool {
    let logs_in = service.single_destination().is_some_and(|destination| destination.policy.login.is_some());
    service.path == wire::DataPath::Direct && logs_in
}

/// True if an object for the clients of a service has to say in which namespaces they are: a WasmPlugin
/// in the root namespace would be for everybody.
fn is_limited(service: &ValidatedService, root_namespace: &str) -> bool {
    let is_in_root = matches!(&service.clients.scope, ClientScope::Namespace(own) if own == root_namespace);
    is_in_root || service.clients.exports.namespaces().is_some()
}

/// True if the listener of a host must differ from Istio's for more than the filter.
pub(super) fn changes_listener(service: &ValidatedService) -> bool {
    service.path == wire::DataPath::Proxy || leads_elsewhere(service)
}

/// True on `direct` to another host, or to the host itself by a cluster that redis-mesh adds.
pub(super) fn leads_elsewhere(service: &ValidatedService) -> bool {
    service.path == wire::DataPath::Direct
        && !service.single_destination().is_some_and(|single| is_own_cluster(service, single))
}

/// The marks by which the filter of a WasmPlugin recognises the connections of a host.
fn selector(service: &ValidatedService) -> wire::Selector {
    let mut selector = wire::Selector::default();
    let is_own = service.single_destination().is_some_and(|destination| is_own_cluster(service, destination));
    if service.path == wire::DataPath::Proxy || !is_own {
        selector.listeners.push(token(service));
    }
    if service.path == wire::DataPath::Proxy || is_own {
        let (host, port) = (&service.address.host, service.address.port);
        selector.clusters.push(wire::istio_cluster(host, port));
        let address = |address: &String| ServiceEndpoint { address: address.clone(), port }.to_string();
        selector.addresses.extend(service.addresses.cluster_ips.iter().map(address));
    }
    selector
}

/// The token in the metadata of a listener: its host, and on `direct` the cluster to which it
/// leads if that isn't the host's.
fn token(service: &ValidatedService) -> String {
    match (service.path, service.single_destination()) {
        (wire::DataPath::Direct, Some(destination)) => {
            let scope = cluster_scope(service, destination);
            let cluster =
                envoy_filter::cluster_name(destination, ClusterUse::by(service, destination), scope.as_deref());
            wire::token(&name_in_tokens(service), &cluster)
        }
        _ => service.address.to_string(),
    }
}

/// The name of a host in tokens of listeners that lead to a cluster. A sidecar has the WasmPlugin for the
/// clients of its namespace and that for all clients, and each knows its own tokens.
pub(super) fn name_in_tokens(service: &ValidatedService) -> String {
    match &service.clients.scope {
        ClientScope::Mesh => service.address.to_string(),
        ClientScope::Namespace(namespace) => format!("{namespace}/{}", service.address),
    }
}

/// The service at whose cluster the filter may log in, where the cluster is Istio's. The clusters that
/// redis-mesh adds lead nowhere else.
fn login_for(destination: &ValidatedDestination) -> Option<String> {
    let is_istios = destination.policy.login.is_some() && envoy_filter::found(destination) == ClusterOwner::Istio;
    let owner = destination.owner.as_ref().filter(|_| is_istios)?;
    Some(wire::mesh_service(owner, &destination.address.host))
}

fn is_own_cluster(service: &ValidatedService, destination: &ValidatedDestination) -> bool {
    destination.address == service.address && envoy_filter::found(destination) == ClusterOwner::Istio
}

/// The name that Istio gives the outbound listener of an address.
pub fn listener_name(address: &str, port: u16) -> String {
    format!("{address}_{port}")
}

/// The names that Istio gives the outbound listeners of a host.
fn listener_names(service: &ValidatedService, options: &MeshOptions) -> Result<Vec<String>, Problem> {
    let (host, port) = (&service.address.host, service.address.port);
    let given = options.listen.iter().find(|listen| listen.names(&service.address));
    if let Some(ListenOverride { address, .. }) = given {
        return Ok(vec![listener_name(&address.ip().to_string(), address.port())]);
    }
    // Each address of a ServiceEntry has a listener of its own. The listener of a Service with
    // addresses of both families has the name of the first one of a family that the sidecar has.
    if !service.addresses.cluster_ips.is_empty() {
        return Ok(service.addresses.all().map(|address| listener_name(address, port)).collect());
    }
    if let Some(name) = &service.addresses.alias_of {
        return Err(alias(service, name));
    }
    match &service.service {
        Some((key, _)) if service.addresses.pods.is_empty() => {
            let message = format!(
                "Service {key} is headless and has no EndpointSlices here, by whose addresses a mesh names its listeners"
            );
            Err(Problem::new(Code::UnknownListener, message, "add them"))
        }
        Some(_) => Ok(service.addresses.all().map(|pod| listener_name(pod, port)).collect()),
        None => {
            let message = format!(
                "{host} is no Service, and no ServiceEntry gives it an address of its own, by which the listener that has to be changed ({}) could be told from others",
                service.choice.reason
            );
            let remedy = format!(
                "add a ServiceEntry for {host} with `addresses` (for `redis-mesh render`: or --listen {host}=ADDRESS:{port})"
            );
            Err(Problem::new(Code::UnknownListener, message, remedy))
        }
    }
}

/// The problem of an ExternalName Service, which is an alias in DNS: its clients connect to the
/// addresses of another name.
pub(super) fn alias(service: &ValidatedService, name: &str) -> Problem {
    let (host, port) = (&service.address.host, service.address.port);
    let message = format!(
        "{host} is an ExternalName Service, an alias in DNS: its clients connect to the addresses of {name}, so their connections can't be told by it"
    );
    // The rest of a Service's host after its own two labels is the same for all Services.
    let domain = host.splitn(3, '.').nth(2).unwrap_or_default();
    let remedy = match name.trim_end_matches('.').strip_suffix(domain) {
        Some(rest) if rest.matches('.').count() == 2 => format!("name {name} here instead"),
        _ => format!(
            "let clients connect to a Service of its own with a clusterIP, or to {name} with a ServiceEntry that has `addresses`, and name that host here"
        ),
    };
    let remedy = format!("{remedy} (for `redis-mesh render`: or --listen {host}=ADDRESS:{port})");
    Problem::new(Code::AliasedHost, message, remedy)
}
