//! The dynamic module, built once per process, and Envoy configurations put together by hand
//! around it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anyhow::Result;
use redis_mesh_core::wire::{DataPath, FilterConfig, Host, Route, Target, Upstream};
use serde_json::{Value, json};

use crate::envoy::{Envoy, Options};
use crate::listener::{self, Config};
use crate::{cache, filter};

/// Labels that are part of the names of statistics.
const LABELS: [&str; 4] = ["redis_host", "redis_route", "redis_command", "redis_destination"];

const TYPES: &str = "type.googleapis.com/envoy.extensions";

/// Builds the module and returns its path. Cargo does nothing if nothing has changed.
pub fn build() -> Result<PathBuf> {
    static BUILT: Mutex<Option<PathBuf>> = Mutex::new(None);
    let mut built = BUILT.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if let Some(path) = &*built {
        return Ok(path.clone());
    }
    let _lock = cache::lock("build-native")?;
    let path = filter::build_artefact("the dynamic module", "module", "module/libredis_mesh_native.so")?;
    Ok(built.insert(path).clone())
}

/// Returns a host on `native` with these destinations, each reached through the cluster of its
/// name. `routes` name them by index.
pub fn host(destinations: &[&str], routes: Vec<Route>) -> Host {
    let targets = destinations.iter().map(|destination| target(destination)).collect();
    Host { host: "redis.test:6379".into(), path: DataPath::Native, targets, routes, ..listener::direct("redis") }
}

/// Returns a destination that is reached through the cluster of its name.
pub fn target(destination: &str) -> Target {
    let target = listener::target(destination, &[]);
    let upstream = Upstream { cluster: target.destination.clone(), login: None, nodes: None, key_hash: None };
    Target { upstream: Some(upstream), ..target }
}

/// Returns the filter for clients. Its configuration is a secret, which `/config_dump` doesn't
/// show.
pub fn proxy(config: &FilterConfig) -> Result<Value> {
    let secret = json!({
        "@type": format!("{TYPES}.transport_sockets.tls.v3.GenericSecret"),
        "secret": {"inline_string": serde_json::to_string(config)?},
    });
    filter("proxy", true, Some(secret))
}

/// Returns a filter of the module.
pub fn filter(name: &str, terminal: bool, config: Option<Value>) -> Result<Value> {
    let mut filter = json!({
        "@type": format!("{TYPES}.filters.network.dynamic_modules.v3.DynamicModuleNetworkFilter"),
        "dynamic_module_config": {
            "name": "redis_mesh",
            "module": {"local": {"filename": build()?}},
            "do_not_close": true,
            "metrics_namespace": "wasmcustom",
        },
        "filter_name": name,
        "terminal_filter": terminal,
    });
    if let Some(config) = config {
        filter["filter_config"] = config;
    }
    Ok(json!({"name": format!("redis_mesh.{name}"), "typed_config": filter}))
}

/// Returns a configuration with the parts that the module needs besides its listeners: the
/// internal listeners and clusters of dialers (`redis_anchor`) and upstream connections
/// (`redis_carrier`).
pub fn text(config: &str) -> Result<String> {
    let mut all: Value = serde_json::from_str(config)?;
    let listeners = [
        internal_listener("redis_anchor", vec![filter("anchor", true, None)?]),
        internal_listener("redis_carrier", vec![filter("carrier", false, None)?, carrier_proxy()]),
    ];
    let clusters = [internal_cluster("redis_anchor"), internal_cluster("redis_carrier")];
    let resources = &mut all["static_resources"];
    for (kind, more) in [("listeners", listeners), ("clusters", clusters)] {
        match &mut resources[kind] {
            Value::Array(list) => list.extend(more),
            none => *none = json!(more),
        }
    }
    all["layered_runtime"] = json!({"layers": [{"name": "redis-mesh", "static_layer": {
        "envoy.reloadable_features.dynamic_modules_strip_custom_stat_prefix": true,
    }}]});
    let tag = |name: &str| json!({"tag_name": name, "regex": format!(r"({name}=\.=(.*?);\.;)")});
    all["stats_config"] = json!({"stats_tags": LABELS.map(tag)});
    all["bootstrap_extensions"] = json!([{
        "name": "envoy.bootstrap.internal_listener",
        "typed_config": {"@type": format!("{TYPES}.bootstrap.internal_listener.v3.InternalListener")},
    }]);
    Ok(all.to_string())
}

/// Returns the load-balancing policy that selects single members.
pub fn load_balancing_policy() -> Value {
    let policy = json!({
        "@type": format!("{TYPES}.load_balancing_policies.dynamic_modules.v3.DynamicModulesLoadBalancerConfig"),
        "dynamic_module_config": {
            "name": "redis_mesh",
            "module": {"local": {"filename": build().unwrap_or_default()}},
            "do_not_close": true,
        },
        "lb_policy_name": "node",
    });
    json!({"policies": [{"typed_extension_config": {"name": "redis_mesh.node", "typed_config": policy}}]})
}

/// Returns the cluster of a Redis Cluster, with the load-balancing policy that selects single
/// nodes.
pub fn redis_cluster(name: &str, nodes: &[SocketAddr]) -> Value {
    let endpoint = |node: &SocketAddr| json!({"endpoint": {"address": {"socket_address": {"address": node.ip().to_string(), "port_value": node.port()}}}});
    let endpoints: Vec<Value> = nodes.iter().map(endpoint).collect();
    json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_balancing_policy": load_balancing_policy(),
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]},
    })
}

/// Starts an Envoy with a configuration and what the module needs.
pub fn start(config: &Config, concurrency: u32) -> Result<Envoy> {
    start_with(&config.text(), concurrency)
}

/// Does what [`start`] does for a configuration given as text.
pub fn start_with(config: &str, concurrency: u32) -> Result<Envoy> {
    let log_level = Some("warning".to_string());
    let args = ["--component-log-level", "dynamic_modules:info"].map(str::to_string).to_vec();
    Envoy::start_with(&text(config)?, &Options { concurrency, log_level, args, ..Options::default() })
}

/// Does what [`start_with`] does with one worker and, if `module` is given, that file in place of
/// the module of this checkout.
pub fn start_version(config: &str, module: Option<&Path>) -> Result<Envoy> {
    let Some(module) = module else { return start_with(config, 1) };
    let own = build()?;
    let other = |text: &str| text.replace(&own.display().to_string(), &module.display().to_string());
    let args = ["--component-log-level", "dynamic_modules:info"].map(str::to_string).to_vec();
    let log_level = Some("warning".to_string());
    Envoy::start_with(&other(&text(config)?), &Options { log_level, args, ..Options::default() })
}

fn internal_listener(name: &str, filters: Vec<Value>) -> Value {
    json!({"name": name, "internal_listener": {}, "filter_chains": [{"filters": filters}]})
}

/// Returns the filter behind that of an upstream connection, which tells it the cluster. The
/// default of `idle_timeout`, an hour, would close an idle connection.
fn carrier_proxy() -> Value {
    json!({
        "name": "envoy.filters.network.tcp_proxy",
        "typed_config": {
            "@type": format!("{TYPES}.filters.network.tcp_proxy.v3.TcpProxy"),
            "stat_prefix": "redis_carrier",
            "cluster": "redis_nowhere",
            "max_early_data_bytes": 65536,
            "upstream_connect_mode": "ON_DOWNSTREAM_DATA",
            "idle_timeout": "0s",
        },
    })
}

/// Returns the cluster of an internal listener. Above the default thresholds Envoy would queue
/// requests silently, and its default timeout would close a connection that was idle for an hour.
fn internal_cluster(name: &str) -> Value {
    let many = json!({"max_connections": 1_000_000, "max_pending_requests": 1_000_000, "max_requests": 1_000_000});
    let address = json!({"envoy_internal_address": {"server_listener_name": name}});
    json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "circuit_breakers": {"thresholds": [many]},
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": format!("{TYPES}.upstreams.http.v3.HttpProtocolOptions"),
                "common_http_protocol_options": {"idle_timeout": "0s"},
                "explicit_http_config": {"http_protocol_options": {}},
            },
        },
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
    })
}
