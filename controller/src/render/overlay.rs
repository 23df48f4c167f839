//! The overlay: EnvoyFilters for sidecars with the dynamic module. They are applied after all
//! others and put the module in the place of the filters that serve a host in other sidecars.
//!
//! A sidecar has the module if its pod has a label. The template that gives a pod the label also
//! brings it the file.

use redis_mesh_core::wire;
use serde_json::{Map, Value, json};

use crate::validate::destination::ValidatedDestination;
use crate::validate::service::ValidatedService;

use super::backend::Backends;
use super::envoy::{self, ClusterUse};
use super::envoy_filter::{self, CONTEXT, ClusterOwner, TCP_PROXY, on_listener, patch};
use super::native::{self, DynamicModule};
use super::{filter_config, handshake::HandshakeKey, wasm_plugin};

/// The label of pods whose sidecars have the module.
pub const LABEL: &str = "redis-mesh.io/native";
/// Its value.
pub const ENABLED: &str = "true";
/// The purpose of the module's own EnvoyFilter.
pub const PURPOSE: &str = "sidecars that have the dynamic module";
/// The end of the names of these EnvoyFilters.
pub const SUFFIX: &str = "-native";

/// The priority of these EnvoyFilters. All others of redis-mesh have a smaller one, and come first.
const PRIORITY: i32 = envoy_filter::LISTENER_PRIORITY + 10;
const REDIS_PROXY: &str = "envoy.filters.network.redis_proxy";
/// The text before and behind the name of a WasmPlugin in the name of its filter in a listener,
/// for each version of Istio.
const OF_PLUGINS: [(&str, &str); 2] = [
    ("extensions.istio.io/trafficextension/", "~istio-translated-wasmplugin"),
    ("extenstions.istio.io/wasmplugin/", ""),
];

/// An EnvoyFilter for the sidecars with the module.
pub fn object(namespace: &str, name: &str, purpose: &str, patches: Vec<Value>) -> Value {
    let mut object = envoy_filter::object(namespace, name, purpose, patches);
    object["spec"]["priority"] = PRIORITY.into();
    object["spec"]["workloadSelector"] = json!({"labels": {LABEL: ENABLED}});
    object
}

/// The name of the EnvoyFilter with the module's own listeners and clusters.
pub fn module_name(module: &DynamicModule) -> String {
    format!("redis-mesh-module{}", module.suffix)
}

/// The patches that add the module's internal listeners and clusters.
pub fn module(module: &DynamicModule) -> Vec<Value> {
    let add = |kind: &str, value: Value| patch(kind, json!({"context": CONTEXT}), "ADD", value);
    let listeners = native::listeners(module).into_iter().map(|listener| add("LISTENER", listener));
    listeners.chain(native::clusters(module).into_iter().map(|cluster| add("CLUSTER", cluster))).collect()
}

/// True if the members of Istio's own cluster are the nodes of a Redis Cluster: the pods that a
/// Service selects. That cluster has mutual TLS and metrics, and follows nodes that come and go;
/// no other address can be reached through it. Endpoints that a person has written need not be
/// all nodes.
fn are_members(destination: &ValidatedDestination) -> bool {
    destination.in_mesh
        && destination.selects_pods
        && !destination.has_own_endpoints()
        && !destination.follows_the_client()
        && !destination.policy.istio_mutual
        && destination.policy.tls.is_none()
}

/// True if the module can serve a service that leads to a destination. On `direct`, the clients of a
/// headless Service reach the very endpoint that they have connected to, which the module doesn't know.
pub fn is_reachable(service: &ValidatedService, destination: &ValidatedDestination) -> bool {
    let is_own = service.path == wire::DataPath::Direct && service.address == destination.address;
    destination.is_cluster() || !(is_own && envoy_filter::follows(destination))
}

/// The cluster by which the module reaches a destination, and the cluster of its nodes where they
/// aren't members of the first.
pub fn reach(destination: &ValidatedDestination, scope: Option<&str>) -> (String, Option<String>) {
    let (host, port) = (&destination.address.host, destination.address.port);
    if !destination.is_cluster() {
        // Istio merges nothing into a cluster that another EnvoyFilter adds.
        let is_added = envoy_filter::owner(destination, ClusterUse::Native) == ClusterOwner::Added;
        let has_own = is_added && native::places_keys(destination) || envoy_filter::follows(destination);
        let own = || format!("redis-mesh-native|{port}|{}|{host}", scope.unwrap_or_default());
        return (
            if has_own { own() } else { envoy_filter::cluster_name(destination, ClusterUse::Native, scope) },
            None,
        );
    }
    if are_members(destination) {
        return (wire::istio_cluster(host, port), None);
    }
    let name = format!("redis-mesh-native|{port}|{}|{host}", scope.unwrap_or_default());
    let nodes = native::nodes_name(&name);
    (name, Some(nodes))
}

/// True if sidecars with the module need a patch of a destination's cluster, or one more.
pub fn needs_cluster(destination: &ValidatedDestination) -> bool {
    destination.is_cluster() || native::places_keys(destination) || envoy_filter::follows(destination)
}

/// The patches by which the module chooses the nodes or the endpoints of a destination.
pub fn cluster(destination: &ValidatedDestination, scope: Option<&str>, module: &DynamicModule) -> Vec<Value> {
    if are_members(destination) {
        let mut value = Map::new();
        envoy_filter::merged_tcp(&mut value, &destination.policy.tcp);
        value.insert("load_balancing_policy".to_owned(), native::load_balancing_policy(module));
        return vec![envoy_filter::on_istios(destination, Value::Object(value))];
    }
    if !destination.is_cluster() && envoy_filter::owner(destination, ClusterUse::Native) == ClusterOwner::Istio {
        let policy = json!({"load_balancing_policy": native::load_balancing_policy(module)});
        return vec![envoy_filter::on_istios(destination, policy)];
    }
    let (name, _) = reach(destination, scope);
    let mut clusters = vec![envoy::cluster(&name, &envoy_filter::in_mesh(destination), ClusterUse::Native)];
    if destination.is_cluster() {
        clusters.push(native::nodes(&name, &envoy_filter::in_mesh(destination)));
    } else if native::places_keys(destination) {
        clusters.iter_mut().for_each(|cluster| native::choose_endpoint(cluster, module));
    }
    let clusters = clusters.into_iter().map(|cluster| envoy_filter::added(cluster, destination));
    clusters.map(|cluster| patch("CLUSTER", json!({"context": CONTEXT}), "ADD", cluster)).collect()
}

fn natively(service: &ValidatedService) -> ValidatedService {
    ValidatedService { path: wire::DataPath::Native, ..service.clone() }
}

/// A host of the module's configuration.
pub fn host(
    service: &ValidatedService,
    backends: &Backends,
    key: &HandshakeKey,
    scope: &dyn Fn(&ValidatedDestination) -> Option<String>,
) -> wire::Host {
    let reach = |destination: &ValidatedDestination| reach(destination, scope(destination).as_deref());
    filter_config::host(&natively(service), backends, key, wire::Selector::default(), &reach)
}

/// The patches of a host's listeners. Its configuration is delivered by itself: a change of
/// policy touches no listener, and a sidecar that lacks the module's file closes connections
/// rather than letting them through as they are.
pub fn listener(
    listeners: &[String],
    replaced: &ReplacedFilters<'_>,
    name: &str,
    config: &wire::FilterConfig,
    module: &DynamicModule,
) -> Vec<Value> {
    let extension = format!("{name}{}", module.suffix);
    let (configuration, filter) = discovered(&extension, config, module);
    let mut patches = vec![configuration];
    for listener in listeners {
        // A filter that is not found by its name, and stays, leaves the connection to the module.
        patches.push(envoy_filter::metadata(listener, wire::CONFIGURED_BY_ITSELF));
        for name in replaced.filters() {
            let matches = on_listener(listener, Some(&name));
            patches.push(json!({"applyTo": "NETWORK_FILTER", "match": matches, "patch": {"operation": "REMOVE"}}));
        }
        for terminal in [REDIS_PROXY, TCP_PROXY] {
            patches.push(patch("NETWORK_FILTER", on_listener(listener, Some(terminal)), "REPLACE", filter.clone()));
        }
    }
    patches
}

/// The patches that give the sidecars in a namespace another configuration of a host's filter, behind
/// those of [`listener`] with the same name.
pub fn configured_otherwise(
    listeners: &[String],
    name: &str,
    clients: &str,
    config: &wire::FilterConfig,
    module: &DynamicModule,
) -> Vec<Value> {
    let others = format!("{name}{}", module.suffix);
    let extension = format!("{others}-for-{clients}");
    let (configuration, filter) = discovered(&extension, config, module);
    let mut patches = vec![configuration];
    for listener in listeners {
        patches.push(patch("NETWORK_FILTER", on_listener(listener, Some(&others)), "REPLACE", filter.clone()));
    }
    patches
}

/// A patch with a filter's configuration, and the filter that gets it.
fn discovered(extension: &str, config: &wire::FilterConfig, module: &DynamicModule) -> (Value, Value) {
    let mut value = native::proxy(module, &filter_config::json(config));
    value["name"] = extension.into();
    let filter = json!({
        "name": extension,
        "config_discovery": {
            "config_source": {"ads": {}, "initial_fetch_timeout": "5s", "resource_api_version": "V3"},
            "type_urls": [format!("type.googleapis.com/{}", native::FILTER)],
        },
    });
    (patch("EXTENSION_CONFIG", json!({"context": CONTEXT}), "ADD", value), filter)
}

/// The filters that serve a host in other sidecars.
pub struct ReplacedFilters<'a> {
    /// The namespaces of the WasmPlugins for the host.
    pub plugins_of: [&'a str; 2],
    /// The port.
    pub port: u16,
    /// The name of the host's own filter.
    pub extension: String,
}

impl ReplacedFilters<'_> {
    fn filters(&self) -> Vec<String> {
        let plugin = wasm_plugin::name(self.port);
        let of_plugins = self.plugins_of.iter().flat_map(|namespace| {
            let plugin = &plugin;
            OF_PLUGINS.iter().map(move |(before, behind)| format!("{before}{namespace}.{plugin}{behind}"))
        });
        let mut names: Vec<String> = Vec::new();
        for name in of_plugins.chain([self.extension.clone()]) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }
}
