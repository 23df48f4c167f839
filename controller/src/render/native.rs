//! The configuration of the dynamic module: its filters, and the internal listeners and clusters
//! through which it connects to Redis. It is the same in a standalone Envoy and in a mesh.

use serde_json::{Map, Value, json};

use crate::validate::destination::ValidatedDestination;
use crate::validate::settings::ValidatedSettings;

use super::digest::digest;
use super::envoy::{any, tcp, transport_socket};
use redis_mesh_core::hex::to_hex;
use redis_mesh_core::wire;

/// The name of the internal listener and cluster of the dialer, through which connections are
/// asked for.
const ANCHOR: &str = "redis_anchor";
/// The name of the internal listener and cluster of the connections to Redis.
const CARRIER: &str = "redis_carrier";
/// The prefix that Envoy puts before the names of the module's metrics. It is that of wasm
/// filters, so that a metric is the same on all data paths and Istio's sidecars keep it.
const METRICS: &str = "wasmcustom";
/// The name of the module in Envoy.
const MODULE: &str = "redis_mesh";

/// The type of the module's filters.
pub const FILTER: &str = "envoy.extensions.filters.network.dynamic_modules.v3.DynamicModuleNetworkFilter";

/// The module's file, and the names of what belongs to it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct DynamicModule {
    /// The path of the file in the proxy's container.
    pub filename: String,
    /// The end of the names of the module's listeners and clusters, so that several versions can
    /// be in one Envoy.
    pub suffix: String,
}

impl DynamicModule {
    /// The only version in an Envoy.
    pub fn only(filename: String) -> DynamicModule {
        DynamicModule { filename, suffix: String::new() }
    }

    /// One of several versions, which differ in their paths.
    pub fn among_others(filename: String) -> DynamicModule {
        let suffix = format!("-{}", &to_hex(&digest(&[&filename]))[..8]);
        DynamicModule { filename, suffix }
    }
}

/// The filter at the end of a listener's chain. Its configuration is a `GenericSecret`, which
/// Envoy redacts in `/config_dump`.
pub fn proxy(module: &DynamicModule, config: &str) -> Value {
    let secret =
        any("envoy.extensions.transport_sockets.tls.v3.GenericSecret", json!({"secret": {"inline_string": config}}));
    filter("proxy", true, module, Some(secret))
}

fn filter(name: &str, is_terminal: bool, module: &DynamicModule, config: Option<Value>) -> Value {
    let mut fields = json!({
        "dynamic_module_config": of_module(module),
        "filter_name": format!("{name}{}", module.suffix),
        "terminal_filter": is_terminal,
    });
    if let Some(config) = config {
        fields["filter_config"] = config;
    }
    json!({"name": format!("redis_mesh.{name}"), "typed_config": any(FILTER, fields)})
}

fn of_module(module: &DynamicModule) -> Value {
    // The module stays loaded, since a thread may return to its code.
    json!({
        "name": MODULE,
        "module": {"local": {"filename": module.filename}},
        "do_not_close": true,
        "metrics_namespace": METRICS,
    })
}

/// The hash by which the module places keys on a destination's endpoints, as `redis_proxy` does
/// with the same clusters and settings; none where a Redis Cluster places them, or any endpoint
/// may answer.
pub fn key_hash(destination: &ValidatedDestination, settings: &ValidatedSettings) -> Option<wire::KeyHash> {
    let what = if settings.enable_hashtagging { wire::KeyHash::Tag } else { wire::KeyHash::Key };
    places_keys(destination).then_some(what)
}

/// True if the module places keys on a destination's endpoints, whatever their number.
pub fn places_keys(destination: &ValidatedDestination) -> bool {
    destination.policy.mode.is_none()
}

/// Has the module choose the endpoint in a cluster.
pub fn choose_endpoint(cluster: &mut Value, module: &DynamicModule) {
    if let Some(cluster) = cluster.as_object_mut() {
        cluster.shift_remove("lb_policy");
        cluster.insert("load_balancing_policy".to_owned(), load_balancing_policy(module));
    }
}

/// The load-balancing policy of a cluster whose members are asked for one by one: the module
/// chooses the node of a Redis Cluster, or the endpoint that has a key.
pub fn load_balancing_policy(module: &DynamicModule) -> Value {
    let config = any(
        "envoy.extensions.load_balancing_policies.dynamic_modules.v3.DynamicModulesLoadBalancerConfig",
        json!({"dynamic_module_config": of_module(module), "lb_policy_name": "node"}),
    );
    json!({"policies": [{"typed_extension_config": {"name": "redis_mesh.node", "typed_config": config}}]})
}

/// The internal listeners.
pub fn listeners(module: &DynamicModule) -> Vec<Value> {
    let listener = |name: &str, filters: Vec<Value>| {
        let name = format!("{name}{}", module.suffix);
        json!({"name": name, "internal_listener": {}, "filter_chains": [{"filters": filters}]})
    };
    let tcp_proxy = json!({
        "name": "envoy.filters.network.tcp_proxy",
        "typed_config": any("envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy", json!({
            "stat_prefix": CARRIER,
            // The filter before `tcp_proxy` names the cluster of each connection.
            "cluster": "redis_nowhere",
            "max_early_data_bytes": 65536,
            "upstream_connect_mode": "ON_DOWNSTREAM_DATA",
            // The default is an hour and would close idle connections.
            "idle_timeout": "0s",
        })),
    });
    vec![
        listener(ANCHOR, vec![filter("anchor", true, module, None)]),
        listener(CARRIER, vec![filter("carrier", false, module, None), tcp_proxy]),
    ]
}

/// The clusters of the internal listeners.
pub fn clusters(module: &DynamicModule) -> Vec<Value> {
    [ANCHOR, CARRIER].map(|name| internal_cluster(&format!("{name}{}", module.suffix))).into()
}

fn internal_cluster(name: &str) -> Value {
    let address = json!({"envoy_internal_address": {"server_listener_name": name}});
    json!({
        "name": name,
        "alt_stat_name": format!("{name};"),
        "type": "STATIC",
        "connect_timeout": "1s",
        // Above Envoy's default thresholds, connections would wait without a sign.
        "circuit_breakers": {"thresholds": [{"max_connections": u32::MAX, "max_pending_requests": u32::MAX, "max_requests": u32::MAX}]},
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": any("envoy.extensions.upstreams.http.v3.HttpProtocolOptions", json!({
                "common_http_protocol_options": {"idle_timeout": "0s"},
                "explicit_http_config": {"http_protocol_options": {}},
            })),
        },
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}]},
    })
}

/// The bootstrap extension for internal listeners. Istio's sidecars have it.
pub fn bootstrap_extension() -> Value {
    json!({
        "name": "envoy.bootstrap.internal_listener",
        "typed_config": any("envoy.extensions.bootstrap.internal_listener.v3.InternalListener", json!({})),
    })
}

/// The runtime flag by which Envoy leaves [`METRICS`] out of the names that Prometheus reads.
/// Where there is a wasm filter, Envoy does so by default.
pub fn runtime() -> Value {
    let flag = "envoy.reloadable_features.dynamic_modules_strip_custom_stat_prefix";
    json!({"layers": [{"name": "redis-mesh", "static_layer": {flag: true}}]})
}

/// The labels that only the module's metrics have.
pub fn stats_tags() -> [Value; 3] {
    ["redis_route", "redis_command", "redis_destination"]
        .map(|name| json!({"tag_name": name, "regex": format!(r"({name}=\.=(.*?);\.;)")}))
}

/// The name of the cluster for nodes of a Redis Cluster that aren't members of the given cluster.
pub fn nodes_name(cluster: &str) -> String {
    format!("{cluster}|nodes")
}

/// The cluster for nodes of a Redis Cluster. The addresses are those that the Redis Cluster
/// announces.
pub fn nodes(cluster: &str, destination: &ValidatedDestination) -> Value {
    let name = nodes_name(cluster);
    let mut fields = Map::new();
    fields.insert("name".to_owned(), name.as_str().into());
    fields.insert("alt_stat_name".to_owned(), format!("{name};").into());
    fields.insert("type".to_owned(), "ORIGINAL_DST".into());
    fields.insert("lb_policy".to_owned(), "CLUSTER_PROVIDED".into());
    tcp(&mut fields, &destination.policy.tcp);
    if let Some(tls) = &destination.policy.tls {
        fields.insert("transport_socket".to_owned(), transport_socket(tls));
    }
    Value::Object(fields)
}
