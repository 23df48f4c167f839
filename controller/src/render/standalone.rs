//! Validated services → the whole configuration of an Envoy that runs by itself.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use redis_mesh_core::wire;
use serde_json::{Value, json};

use crate::diagnostic::{Code, Diagnostics, Problem};
use crate::validate::destination::ValidatedDestination;
use crate::validate::host_port::HostPort;
use crate::validate::service::ValidatedService;

use super::backend::{self, Backends};
use super::envoy::ClusterUse;
use super::handshake::HandshakeKey;
use super::listen::ListenOverride;
use super::native::DynamicModule;
use super::prepared_service::alias;
use super::{envoy, filter_config, native};

/// The options of rendering for a standalone Envoy.
pub struct StandaloneOptions {
    /// The path of the wasm filter's file.
    pub filter: String,
    /// The dynamic module.
    pub module: DynamicModule,
    /// Addresses to listen on in the place of a Service's own.
    pub listen: Vec<ListenOverride>,
    /// The address of Envoy's administration interface; none to leave it out.
    pub admin: Option<SocketAddr>,
    /// The namespace of the clients; needed where objects of several namespaces govern a host.
    pub client_namespace: Option<String>,
    /// The revision of the configuration.
    pub revision: u64,
    /// The key of the handshakes.
    pub handshake_key: HandshakeKey,
}

/// Builds the bootstrap document. Mistakes are reported; the document is then of no use.
pub fn build(services: &[ValidatedService], options: &StandaloneOptions, diagnostics: &mut Diagnostics) -> Value {
    let mut bootstrap = Bootstrap {
        options,
        clusters: Clusters::default(),
        listeners: Vec::new(),
        taken: BTreeMap::new(),
        is_native: false,
    };
    for service in of_clients(services, options, diagnostics) {
        bootstrap.add(service, diagnostics);
    }
    bootstrap.report_unknown_hosts(diagnostics);
    bootstrap.document()
}

/// The parts of a bootstrap document.
struct Bootstrap<'a> {
    options: &'a StandaloneOptions,
    clusters: Clusters,
    listeners: Vec<Value>,
    /// The addresses of the listeners with their hosts.
    taken: BTreeMap<SocketAddr, &'a HostPort>,
    /// True if any host is served by the dynamic module.
    is_native: bool,
}

impl<'a> Bootstrap<'a> {
    /// Adds the listener of a service, and the clusters of its destinations.
    fn add(&mut self, service: &'a ValidatedService, diagnostics: &mut Diagnostics) {
        let Some(address) = address(service, self.options, diagnostics) else { return };
        if let Some(other) = self.taken.insert(address, &service.address) {
            let message = format!("{address} is the address of {other} too");
            let problem = Problem::new(Code::AddressTaken, message, "give one of them another with --listen");
            return diagnostics.add(&service.owner, "", problem);
        }
        let usage = ClusterUse::of(service.path);
        for destination in service.destinations() {
            if destination.policy.istio_mutual {
                let owner = destination.policy.object.as_ref().unwrap_or(&service.owner);
                let message = "ISTIO_MUTUAL takes the certificates of a mesh, which an Envoy by itself has not";
                let problem = Problem::new(Code::NoMeshCertificates, message, "use MUTUAL with a secret");
                diagnostics.add(owner, "spec.trafficPolicy.tls.mode", problem);
            }
            self.clusters.add(destination, usage);
        }
        let backends = backend::backends(service);
        let filters = self.filters(service, &backends, diagnostics);
        self.is_native |= usage == ClusterUse::Native;
        self.clusters.nowhere |= usage == ClusterUse::Proxy && backends.catch_all.is_some();
        self.listeners.push(json!({
            "name": service.address.to_string(),
            "address": {"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}},
            "filter_chains": [{"filters": filters}],
        }));
    }

    /// The filters of a service's listener.
    fn filters(&self, service: &ValidatedService, backends: &Backends, diagnostics: &mut Diagnostics) -> Vec<Value> {
        let usage = ClusterUse::of(service.path);
        let named = |destination: &ValidatedDestination| self.clusters.name(destination, usage);
        let reach = |destination: &ValidatedDestination| {
            let cluster = named(destination);
            // The endpoints of a Service may be some of the nodes only, so all nodes get a
            // cluster of their own.
            let nodes = destination.is_cluster().then(|| native::nodes_name(&cluster));
            (cluster, nodes)
        };
        let key = &self.options.handshake_key;
        let host = filter_config::host(service, backends, key, wire::Selector::default(), &reach);
        let name = format!("redis-mesh {}", service.address);
        let config = filter_config::document(name.clone(), self.options.revision, vec![host]);
        filter_config::check(&config, service, diagnostics);
        let config = filter_config::json(&config);
        let wasm = || envoy::wasm_filter(&name, json!({"local": {"filename": self.options.filter}}), &config);
        match service.path {
            wire::DataPath::Direct => {
                let cluster = service.single_destination().map(|destination| named(destination)).unwrap_or_default();
                vec![wasm(), envoy::tcp_proxy(service, &cluster)]
            }
            wire::DataPath::Proxy => {
                let password = key.password(service, backends);
                vec![wasm(), envoy::redis_proxy(service, backends, &password, &named)]
            }
            wire::DataPath::Native => vec![native::proxy(&self.options.module, &config)],
        }
    }

    /// Reports values of `--listen` that name no host.
    fn report_unknown_hosts(&self, diagnostics: &mut Diagnostics) {
        let is_unknown = |listen: &&ListenOverride| !self.taken.values().any(|known| listen.names(known));
        for unknown in self.options.listen.iter().filter(is_unknown) {
            let known: Vec<String> = self.taken.values().map(|known| known.to_string()).collect();
            let port = unknown.port.map(|port| format!(":{port}")).unwrap_or_default();
            let message = format!("--listen: no object names {}{port}", unknown.host);
            let problem = Problem::new(Code::UnknownHostOption, message, format!("there are {}", known.join(", ")));
            diagnostics.add(&Default::default(), "", problem);
        }
    }

    fn document(self) -> Value {
        let mut bootstrap = json!({"node": {"id": "redis-mesh", "cluster": "redis-mesh"}});
        if let Some(admin) = self.options.admin {
            let address = json!({"address": admin.ip().to_string(), "port_value": admin.port()});
            bootstrap["admin"] = json!({"address": {"socket_address": address}});
        }
        // The labels in the names of statistics are those of Istio's sidecars, so that both have
        // the same metrics. By Envoy's own rules, a cluster's name would end at the first dot.
        bootstrap["stats_config"] = json!({"use_all_default_tags": false, "stats_tags": [
            {"tag_name": "redis_host", "regex": r"(redis_host=\.=(.*?);\.;)"},
            {"tag_name": "cluster_name", "regex": r"^cluster(\.(.+);)"},
            {"tag_name": "envoy.listener_address"},
        ]});
        // What a peak has needed goes back to the system, up to 16 MB each second; by itself, the
        // allocator keeps it.
        bootstrap["memory_allocator_manager"] =
            json!({"bytes_to_release": 16 * 1024 * 1024, "memory_release_interval": "1s"});
        let (mut listeners, mut clusters) = (self.listeners, self.clusters.documents(&self.options.module));
        if self.is_native {
            let module = &self.options.module;
            listeners.extend(native::listeners(module));
            clusters.extend(native::clusters(module));
            bootstrap["bootstrap_extensions"] = json!([native::bootstrap_extension()]);
            bootstrap["layered_runtime"] = native::runtime();
            if let Some(tags) = bootstrap["stats_config"]["stats_tags"].as_array_mut() {
                tags.extend(native::stats_tags());
            }
        }
        bootstrap["static_resources"] = json!({"listeners": listeners, "clusters": clusters});
        bootstrap
    }
}

/// The services for the clients of this Envoy: those for every client, and those for the clients'
/// namespace.
fn of_clients<'a>(
    services: &'a [ValidatedService],
    options: &StandaloneOptions,
    diagnostics: &mut Diagnostics,
) -> Vec<&'a ValidatedService> {
    let mut chosen: Vec<&ValidatedService> = Vec::new();
    for service in services {
        if options.client_namespace.as_ref().is_some_and(|clients| !service.clients.includes(clients)) {
            continue;
        }
        match chosen.last() {
            Some(other) if other.address == service.address => {
                let message = format!(
                    "{} is governed by {} {} too, for {}",
                    service.address, other.owner.kind, other.owner.name, other.clients
                );
                let remedy = "say with --client-namespace which clients this Envoy is for";
                diagnostics.add(&service.owner, "spec.host", Problem::new(Code::AmbiguousClients, message, remedy));
            }
            _ => chosen.push(service),
        }
    }
    chosen
}

fn address(
    service: &ValidatedService,
    options: &StandaloneOptions,
    diagnostics: &mut Diagnostics,
) -> Option<SocketAddr> {
    // An entry with a port has precedence over one without.
    let mut matching: Vec<&ListenOverride> =
        options.listen.iter().filter(|listen| listen.names(&service.address)).collect();
    matching.sort_by_key(|listen| listen.port.is_none());
    if let Some(listen) = matching.first() {
        return Some(listen.address);
    }
    if let Some(name) = &service.addresses.alias_of {
        diagnostics.add(&service.owner, "spec.host", alias(service, name));
        return None;
    }
    let ip = service.addresses.cluster_ips.first().map(|address| address.parse::<IpAddr>());
    let listen = format!("--listen {}=ADDRESS:{}", service.address.host, service.address.port);
    let (message, remedy) = match (ip, &service.service) {
        (Some(Ok(ip)), _) => return Some(SocketAddr::new(ip, service.address.port)),
        (Some(Err(_)), Some((key, _))) => {
            (format!("clusterIP of Service {key} is not an IP address"), "write an IP address, or None".to_owned())
        }
        (_, Some((key, _))) => {
            (format!("Service {key} has no clusterIP to listen on"), format!("give one, or an address with {listen}"))
        }
        (_, None) => {
            let message = format!("{} is no Service and has no address here", service.address.host);
            (message, format!("give one with {listen}"))
        }
    };
    diagnostics.add(&service.owner, "spec.host", Problem::new(Code::NoAddress, message, remedy));
    None
}

/// Clusters by name, each once. Two destinations have one name and differ where two namespaces
/// say different things about a host.
#[derive(Default)]
struct Clusters {
    documents: BTreeMap<String, (ValidatedDestination, ClusterUse)>,
    nowhere: bool,
}

impl Clusters {
    fn base(destination: &ValidatedDestination, usage: ClusterUse) -> String {
        let kind = match (usage, destination.is_cluster()) {
            (ClusterUse::Direct | ClusterUse::Forwarded, _) => "direct",
            (ClusterUse::Proxy, false) => "proxy",
            (ClusterUse::Proxy, true) => "cluster",
            (ClusterUse::Native, _) => "native",
        };
        format!("{kind}|{}||{}", destination.address.port, destination.address.host)
    }

    fn add(&mut self, destination: &ValidatedDestination, usage: ClusterUse) {
        let name = self.name(destination, usage);
        self.documents.entry(name).or_insert_with(|| (destination.clone(), usage));
    }

    fn name(&self, destination: &ValidatedDestination, usage: ClusterUse) -> String {
        let base = Self::base(destination, usage);
        match self.documents.get(&base) {
            Some((known, _)) if known != destination => {
                let object = destination.policy.object.as_ref().map(|object| object.name.as_str());
                format!("{base}@{}", object.unwrap_or("default"))
            }
            _ => base,
        }
    }

    fn documents(&self, module: &DynamicModule) -> Vec<Value> {
        let mut documents = Vec::new();
        for (name, (destination, usage)) in &self.documents {
            let mut document = envoy::cluster(name, destination, *usage);
            if *usage == ClusterUse::Native && native::places_keys(destination) {
                native::choose_endpoint(&mut document, module);
            }
            documents.push(document);
            let has_nodes = *usage == ClusterUse::Native && destination.is_cluster();
            documents.extend(has_nodes.then(|| native::nodes(name, destination)));
        }
        documents.extend(self.nowhere.then(envoy::nowhere));
        documents
    }
}
