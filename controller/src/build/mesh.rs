//! Validated services → the objects of Istio that make its sidecars serve them.
//!
//! Whatever arrives first, a filter or a listener, nothing is misrouted meanwhile: a host on `proxy` is known to the filter by
//! its address too, and the handshake then fails at whatever is behind it; a host on `direct` that leads elsewhere is known
//! only by what the listener itself says of where it leads.

use std::collections::BTreeMap;

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
use super::standalone::Listen;
use super::{digest, filter_config, hex, wasm_plugin};

/// The size of a WasmPlugin's configuration above which hosts are configured each by itself.
const MAX_PLUGIN: usize = 256 * 1024;
/// The size above which one object is too much for an API server.
const MAX_OBJECT: usize = 1024 * 1024;

/// What is needed besides the services.
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
    /// The number of this push.
    pub revision: u64,
    /// The key of the handshakes.
    pub handshake_key: HandshakeKey,
}

/// Labels of everything that we render.
pub fn labels() -> Value {
    json!({"app.kubernetes.io/managed-by": "redis-mesh", "app.kubernetes.io/part-of": "redis-mesh"})
}

/// Everything that one service needs.
struct Rendered<'a> {
    service: &'a ValidatedService,
    backends: Backends,
    namespace: String,
    per_host: bool,
}

/// Builds all objects, in a fixed order.
pub fn build(services: &[ValidatedService], options: &Options, diagnostics: &mut Diagnostics) -> Vec<Value> {
    let mut rendered: Vec<Rendered<'_>> = services
        .iter()
        .map(|service| Rendered {
            service,
            backends: backend::backends(service),
            namespace: match &service.scope {
                Scope::Mesh => options.root_namespace.clone(),
                Scope::Namespace(namespace) => namespace.clone(),
            },
            per_host: options.per_host || needs_per_host(service),
        })
        .collect();
    let mut objects = plugins(&mut rendered, options, diagnostics);
    for one in &rendered {
        objects.extend(listener(one, options, diagnostics));
    }
    objects.extend(clusters(&rendered, diagnostics));
    for object in &objects {
        let size = object.to_string().len();
        if size > MAX_OBJECT {
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            let message = format!("{name} would have {size} bytes, more than an API server takes; use fewer routes");
            diagnostics.add(&Subject::default(), "", Reason::Unsupported, message);
        }
    }
    objects
}

/// Only in a filter that is configured by itself does Envoy hide the configuration, so that is where a password goes.
fn needs_per_host(service: &ValidatedService) -> bool {
    let logs_in = service.single_destination().is_some_and(|destination| destination.policy.login.is_some());
    service.path == wire::DataPath::Direct && logs_in
}

/// One WasmPlugin for each namespace and port.
fn plugins(rendered: &mut [Rendered<'_>], options: &Options, diagnostics: &mut Diagnostics) -> Vec<Value> {
    let mut groups: BTreeMap<(String, u16), Vec<usize>> = BTreeMap::new();
    for (index, one) in rendered.iter().enumerate().filter(|(_, one)| !one.per_host) {
        groups.entry((one.namespace.clone(), one.service.address.port)).or_default().push(index);
    }
    let mut objects = Vec::new();
    for ((namespace, port), members) in groups {
        let hosts = members
            .iter()
            .filter_map(|index| rendered.get(*index))
            .map(|one| filter_config::host(one.service, &one.backends, &options.handshake_key, selector(one.service)))
            .collect();
        let config = filter_config::document(format!("redis-mesh/{namespace}/{port}"), options.revision, hosts);
        if filter_config::json(&config).len() > MAX_PLUGIN {
            for index in members {
                rendered[index].per_host = true;
            }
            continue;
        }
        if let Some(first) = members.first().and_then(|index| rendered.get(*index)) {
            filter_config::check(&config, first.service, diagnostics);
        }
        objects.push(wasm_plugin::object(&namespace, port, &config, options));
    }
    objects
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
            format!("{} to {}", service.address, envoy_filter::cluster_name(destination, scope_of(service)))
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

/// The EnvoyFilter of a host, if its listener has to be changed.
fn listener(one: &Rendered<'_>, options: &Options, diagnostics: &mut Diagnostics) -> Option<Value> {
    let service = one.service;
    let single = service.single_destination();
    let leads_elsewhere =
        service.path == wire::DataPath::Direct && !single.is_some_and(|single| is_own_cluster(service, single));
    if service.path == wire::DataPath::Direct && !leads_elsewhere && !one.per_host {
        return None;
    }
    let listeners = match listener_names(service, options) {
        Ok(names) => names,
        Err(message) => {
            diagnostics.add(&service.owner, "spec.host", Reason::Unresolved, message);
            return None;
        }
    };
    let scope = scope_of(service);
    let cluster = |destination: &Destination| envoy_filter::cluster_name(destination, scope);
    let mut patches = Vec::new();
    let name = object_name("redis-mesh", &service.address);
    if one.per_host {
        // Where the listener leads is part of the name, so that credentials never meet a listener that leads elsewhere.
        let leads = single.map(|single| cluster(single)).unwrap_or_default();
        let extension = format!("{name}-{}", &hex(&digest(&[&token(service), &leads]))[..8]);
        let host = filter_config::host(service, &one.backends, &options.handshake_key, wire::Selector::default());
        let config =
            filter_config::document(format!("redis-mesh/{}/{extension}", one.namespace), options.revision, vec![host]);
        filter_config::check(&config, service, diagnostics);
        patches.push(envoy_filter::extension(&extension, &config, options));
        patches.extend(listeners.iter().map(|listener| envoy_filter::discovered_filter(listener, &extension)));
    } else {
        let token = token(service);
        patches.extend(listeners.iter().map(|listener| envoy_filter::metadata(listener, &token)));
    }
    for listener in &listeners {
        match (service.path, single) {
            (wire::DataPath::Proxy, _) => {
                let password = options.handshake_key.password(service, &one.backends);
                patches.push(envoy_filter::redis_proxy(listener, service, &one.backends, &password, &cluster));
            }
            (wire::DataPath::Direct, Some(single)) if leads_elsewhere => {
                patches.push(envoy_filter::other_cluster(listener, &cluster(single)));
            }
            (wire::DataPath::Direct, _) => {}
        }
    }
    let purpose = format!("{} {}", service.owner.kind, service.owner.name);
    Some(envoy_filter::object(&one.namespace, &name, &purpose, patches))
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
        return Ok(vec![name(first, port)]);
    }
    match &service.service {
        Some((key, _)) if service.pods.is_empty() => Err(format!(
            "Service {key} is headless and has no EndpointSlices here, by whose addresses a mesh names its listeners; add them"
        )),
        Some(_) => Ok(service.pods.iter().map(|pod| name(pod, port)).collect()),
        None => Err(format!(
            "{host} is no Service, so the listener of it that has to be changed ({}) is not known; give the address of its ServiceEntry with --listen {host}=ADDRESS:{port}",
            service.path_reason
        )),
    }
}

/// The name of an object about an address.
fn object_name(kind: &str, address: &HostPort) -> String {
    // `_` may stand in a host but not in the name of an object, which may also not be longer than a host.
    let host = address.host.strip_suffix(".cluster.local").unwrap_or(&address.host).replace('_', "-");
    let name = format!("{kind}-{host}-{}", address.port);
    match name.get(..200) {
        Some(beginning) => format!("{}-{}", beginning.trim_end_matches(['-', '.']), &hex(&digest(&[&name]))[..8]),
        None => name,
    }
}

/// The EnvoyFilters of the destinations, each once for each namespace.
///
/// The cluster to which tags lead that are not known is not among them: a cluster that is not there answers the same.
fn clusters(rendered: &[Rendered<'_>], diagnostics: &mut Diagnostics) -> Vec<Value> {
    type Wanted<'a> = (&'a Destination, Use, Option<&'a str>, &'a ValidatedService);
    let mut found: BTreeMap<(&str, String), Wanted<'_>> = BTreeMap::new();
    for one in rendered {
        let usage = Use::of(one.service.path);
        let scope = scope_of(one.service);
        for destination in one.service.destinations() {
            let key = (one.namespace.as_str(), destination.address.to_string());
            let entry = found.entry(key).or_insert((destination, usage, scope, one.service));
            // What `redis_proxy` needs does no harm to `tcp_proxy`.
            if usage == Use::Proxy {
                entry.1 = usage;
            }
        }
    }
    let mut objects = Vec::new();
    for ((namespace, _), (destination, usage, scope, service)) in found {
        let owner = destination.policy.object.as_ref().unwrap_or(&service.owner);
        if destination.policy.tcp.max_connections.is_some() && envoy_filter::found(destination) == Found::Istio {
            let message = "has no effect in a mesh, where Istio's own cluster is used; set connectionPool.tcp.maxConnections in a DestinationRule";
            diagnostics.add(owner, "spec.trafficPolicy.connectionPool.tcp.maxConnections", Reason::NoEffect, message);
        }
        let Some(patch) = envoy_filter::cluster(destination, usage, scope) else { continue };
        let name = object_name("redis-mesh-to", &destination.address);
        objects.push(envoy_filter::object(namespace, &name, &format!("{} {}", owner.kind, owner.name), vec![patch]));
    }
    objects
}
