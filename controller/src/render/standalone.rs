//! Validated services → the whole configuration of an Envoy that runs by itself.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use redis_mesh_core::wire;
use serde_json::{Value, json};

use crate::diagnostic::{Code, Diagnostics, Problem};
use crate::validate::destination::ValidatedDestination;
use crate::validate::host_port::HostPort;
use crate::validate::service::ValidatedService;

use super::envoy::ClusterUse;
use super::handshake::HandshakeKey;
use super::listen::ListenOverride;
use super::native::DynamicModule;
use super::{backend, envoy, filter_config, native};

/// What is needed besides the services.
pub struct StandaloneOptions {
    /// The wasm filter's file, as Envoy is to open it.
    pub filter: String,
    /// The dynamic module.
    pub module: DynamicModule,
    /// Addresses that replace a Service's own, by host, and by port where one is named.
    pub listen: Vec<ListenOverride>,
    /// Envoy's own administration interface.
    pub admin: Option<SocketAddr>,
    /// The namespace of the clients, where namespaces have rules of their own.
    pub client_namespace: Option<String>,
    /// The number of this push.
    pub revision: u64,
    /// The key of the handshakes.
    pub handshake_key: HandshakeKey,
}

/// Builds the bootstrap document. What is wrong is reported; then the document is of no use.
pub fn build(services: &[ValidatedService], options: &StandaloneOptions, diagnostics: &mut Diagnostics) -> Value {
    let services = of_clients(services, options, diagnostics);
    let mut clusters = Clusters::default();
    let mut listeners = Vec::new();
    let mut is_native = false;
    let mut taken: BTreeMap<SocketAddr, &HostPort> = BTreeMap::new();
    for service in services {
        let Some(address) = address(service, options, diagnostics) else { continue };
        if let Some(other) = taken.insert(address, &service.address) {
            let message = format!("{address} is the address of {other} too");
            let problem = Problem::new(Code::AddressTaken, message, "give one of them another with --listen");
            diagnostics.add(&service.owner, "", problem);
            continue;
        }
        let usage = ClusterUse::of(service.path);
        for destination in service.destinations() {
            if destination.policy.istio_mutual {
                let owner = destination.policy.object.as_ref().unwrap_or(&service.owner);
                let message = "ISTIO_MUTUAL takes the certificates of a mesh, which an Envoy by itself has not";
                let problem = Problem::new(Code::NoMeshCertificates, message, "use MUTUAL with a secret");
                diagnostics.add(owner, "spec.trafficPolicy.tls.mode", problem);
            }
            clusters.add(destination, usage);
        }
        let named = |destination: &ValidatedDestination| clusters.name(destination, usage);
        let reach = |destination: &ValidatedDestination| {
            let cluster = named(destination);
            // Which of its nodes are among the endpoints of a Service is nowhere said.
            let nodes = destination.is_cluster().then(|| native::nodes_name(&cluster));
            (cluster, nodes)
        };
        let backends = backend::backends(service);
        let key = &options.handshake_key;
        let host = filter_config::host(service, &backends, key, wire::Selector::default(), &reach);
        let name = format!("redis-mesh {}", service.address);
        let config = filter_config::document(name.clone(), options.revision, vec![host]);
        filter_config::check(&config, service, diagnostics);
        let config = filter_config::json(&config);
        let wasm = || envoy::wasm_filter(&name, json!({"local": {"filename": options.filter}}), &config);
        let filters = match service.path {
            wire::DataPath::Direct => {
                let cluster = service.single_destination().map(|destination| named(destination)).unwrap_or_default();
                vec![wasm(), envoy::tcp_proxy(service, &cluster)]
            }
            wire::DataPath::Proxy => {
                let password = key.password(service, &backends);
                vec![wasm(), envoy::redis_proxy(service, &backends, &password, &named)]
            }
            wire::DataPath::Native => vec![native::proxy(&options.module, &config)],
        };
        is_native |= usage == ClusterUse::Native;
        clusters.nowhere |= usage == ClusterUse::Proxy && backends.catch_all.is_some();
        listeners.push(json!({
            "name": service.address.to_string(),
            "address": {"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}},
            "filter_chains": [{"filters": filters}],
        }));
    }
    for unknown in options.listen.iter().filter(|listen| !taken.values().any(|known| listen.names(known))) {
        let known: Vec<String> = taken.values().map(|known| known.to_string()).collect();
        let port = unknown.port.map(|port| format!(":{port}")).unwrap_or_default();
        let message = format!("--listen: no object names {}{port}", unknown.host);
        let problem = Problem::new(Code::UnknownHostOption, message, format!("there are {}", known.join(", ")));
        diagnostics.add(&Default::default(), "", problem);
    }
    let mut bootstrap = json!({"node": {"id": "redis-mesh", "cluster": "redis-mesh"}});
    if let Some(admin) = options.admin {
        bootstrap["admin"] =
            json!({"address": {"socket_address": {"address": admin.ip().to_string(), "port_value": admin.port()}}});
    }
    // What is a label in the names of statistics, by the rules of Istio's sidecars, so that both have the same metrics. Envoy's own rules take a
    // cluster's name to end at the first dot.
    bootstrap["stats_config"] = json!({"use_all_default_tags": false, "stats_tags": [
        {"tag_name": "redis_host", "regex": r"(redis_host=\.=(.*?);\.;)"},
        {"tag_name": "cluster_name", "regex": r"^cluster(\.(.+);)"},
        {"tag_name": "envoy.listener_address"},
    ]});
    let mut clusters = clusters.documents();
    if is_native {
        listeners.extend(native::listeners(&options.module));
        clusters.extend(native::clusters(&options.module));
        bootstrap["bootstrap_extensions"] = json!([native::bootstrap_extension()]);
        bootstrap["layered_runtime"] = native::runtime();
        if let Some(tags) = bootstrap["stats_config"]["stats_tags"].as_array_mut() {
            tags.extend(native::stats_tags());
        }
    }
    bootstrap["static_resources"] = json!({"listeners": listeners, "clusters": clusters});
    bootstrap
}

/// The services as the clients of this Envoy see them: everybody's, and those of their namespace.
fn of_clients<'a>(
    services: &'a [ValidatedService],
    options: &StandaloneOptions,
    diagnostics: &mut Diagnostics,
) -> Vec<&'a ValidatedService> {
    let mut chosen: Vec<&ValidatedService> = Vec::new();
    for service in services {
        if options.client_namespace.as_ref().is_some_and(|clients| !service.scope.includes(clients)) {
            continue;
        }
        match chosen.last() {
            Some(other) if other.address == service.address => {
                let message = format!(
                    "{} is governed by {} {} too, for {}",
                    service.address, other.owner.kind, other.owner.name, other.scope
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
    // The entry that names the port is meant for this port.
    let mut matching: Vec<&ListenOverride> =
        options.listen.iter().filter(|listen| listen.names(&service.address)).collect();
    matching.sort_by_key(|listen| listen.port.is_none());
    if let Some(listen) = matching.first() {
        return Some(listen.address);
    }
    let ip = service.cluster_ips.first().map(|address| address.parse::<IpAddr>());
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

/// Clusters by name, each once. Two destinations of one name differ where two namespaces say different things about a host.
#[derive(Default)]
struct Clusters {
    documents: BTreeMap<String, (ValidatedDestination, ClusterUse)>,
    nowhere: bool,
}

impl Clusters {
    fn base(destination: &ValidatedDestination, usage: ClusterUse) -> String {
        let kind = match (usage, destination.is_cluster()) {
            (ClusterUse::Direct, _) => "direct",
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

    fn documents(&self) -> Vec<Value> {
        let mut documents = Vec::new();
        for (name, (destination, usage)) in &self.documents {
            documents.push(envoy::cluster(name, destination, *usage));
            let has_nodes = *usage == ClusterUse::Native && destination.is_cluster();
            documents.extend(has_nodes.then(|| native::nodes(name, destination)));
        }
        documents.extend(self.nowhere.then(envoy::nowhere));
        documents
    }
}
