//! What the dynamic module needs in an Envoy: its filters, and the internal listeners and clusters by which its connections to
//! Redis begin. A standalone Envoy and a mesh have them in common.

use serde_json::{Map, Value, json};

use crate::validate::destination::ValidatedDestination;

use super::digest::digest;
use super::envoy::{any, tcp, transport_socket};
use redis_mesh_core::downstream::auth::to_hex;

/// The listener and the cluster of what carriers hang on.
const ANCHOR: &str = "redis_anchor";
/// The listener and the cluster of the connections to Redis.
const CARRIER: &str = "redis_carrier";
/// What Envoy puts before the names of the module's metrics: the same as before those of the wasm filter, so that a metric is the
/// same one on all data paths, and one that Istio's sidecars keep.
const METRICS: &str = "wasmcustom";
/// The name by which Envoy knows the module.
const MODULE: &str = "redis_mesh";

/// The type of the module's filters.
pub const FILTER: &str = "envoy.extensions.filters.network.dynamic_modules.v3.DynamicModuleNetworkFilter";

/// The module, as an Envoy finds it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct DynamicModule {
    /// The file, in the proxy's container.
    pub filename: String,
    /// Ends the names of what belongs to this module only, so that another version of it can be there at the same time.
    pub suffix: String,
}

impl DynamicModule {
    /// The only one of an Envoy.
    pub fn only(filename: String) -> DynamicModule {
        DynamicModule { filename, suffix: String::new() }
    }

    /// One of several versions, told apart by their files.
    pub fn among_others(filename: String) -> DynamicModule {
        let suffix = format!("-{}", &to_hex(&digest(&[&filename]))[..8]);
        DynamicModule { filename, suffix }
    }
}

/// The filter at the end of a listener's chain. Its configuration travels as a message that Envoy shows as redacted.
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
    // Code to which a thread may return must stay where it is.
    json!({
        "name": MODULE,
        "module": {"local": {"filename": module.filename}},
        "do_not_close": true,
        "metrics_namespace": METRICS,
    })
}

/// The load-balancing policy of a cluster whose members are the nodes of a Redis Cluster: the module chooses.
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
            // The filter before it names the real one.
            "cluster": "redis_nowhere",
            "max_early_data_bytes": 65536,
            "upstream_connect_mode": "ON_DOWNSTREAM_DATA",
            // The default, an hour, would end a quiet connection.
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
        // Above Envoy's own thresholds, what is asked for waits without a word.
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

/// What a bootstrap needs for internal listeners. Those of Istio's sidecars have it.
pub fn bootstrap_extension() -> Value {
    json!({
        "name": "envoy.bootstrap.internal_listener",
        "typed_config": any("envoy.extensions.bootstrap.internal_listener.v3.InternalListener", json!({})),
    })
}

/// Has Envoy leave [`METRICS`] out of what Prometheus reads, which it does by itself only where there is a wasm filter.
pub fn runtime() -> Value {
    let flag = "envoy.reloadable_features.dynamic_modules_strip_custom_stat_prefix";
    json!({"layers": [{"name": "redis-mesh", "static_layer": {flag: true}}]})
}

/// The labels that only the module's metrics have.
pub fn stats_tags() -> [Value; 2] {
    ["redis_route", "redis_command"].map(|name| json!({"tag_name": name, "regex": format!(r"({name}=\.=(.*?);\.;)")}))
}

/// The name of the cluster through which the nodes of a Redis Cluster are reached that are not members of this one.
pub fn nodes_name(cluster: &str) -> String {
    format!("{cluster}|nodes")
}

/// That cluster. Which addresses it is asked for is what the Redis Cluster says of itself.
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
