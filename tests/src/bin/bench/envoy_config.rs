//! The configurations of the measured Envoys: those of `redis-mesh render envoy`, reduced to the
//! measured parts.

use std::net::SocketAddr;
use std::path::Path;

use redis_mesh_core::wire::{DataPath, FilterConfig, Host, KeyMatch, Limits, ReadPolicy, Route, Selector, Target};
use serde_json::{Value, json};

/// The password between the filter and `redis_proxy`.
const HANDSHAKE: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// Returns a configuration of one listener with these filters, and these clusters.
pub fn envoy(listener: SocketAddr, filters: &[Value], clusters: &[Value]) -> String {
    json!({"static_resources": {
        "listeners": [{"name": "bench", "address": address(listener), "filter_chains": [{"filters": filters}]}],
        "clusters": clusters,
    }})
    .to_string()
}

/// Returns a cluster of one server, or without endpoints.
pub fn cluster(name: &str, server: Option<SocketAddr>) -> Value {
    let endpoints: Vec<Value> =
        server.iter().map(|server| json!({"lb_endpoints": [{"endpoint": {"address": address(*server)}}]})).collect();
    let most = u32::MAX;
    json!({
        "name": name, "type": "STATIC", "lb_policy": "MAGLEV", "connect_timeout": "10s",
        "circuit_breakers": {"thresholds": [
            {"max_connections": most, "max_pending_requests": most, "max_requests": most}]},
        "load_assignment": {"cluster_name": name, "endpoints": endpoints},
    })
}

/// Returns the cluster of a Redis Cluster, which is discovered through one of its nodes.
pub fn redis_cluster(name: &str, node: SocketAddr) -> Value {
    let mut cluster = cluster(name, Some(node));
    cluster["lb_policy"] = json!("CLUSTER_PROVIDED");
    cluster["cluster_type"] = json!({"name": "envoy.clusters.redis", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.clusters.redis.v3.RedisClusterConfig",
        "cluster_refresh_rate": "5s", "cluster_refresh_timeout": "1s",
        "redirect_refresh_interval": "0.2s", "redirect_refresh_threshold": 1,
    }});
    if let Some(fields) = cluster.as_object_mut() {
        fields.remove("type");
    }
    cluster
}

/// Returns the filter tcp_proxy.
pub fn tcp_proxy(cluster: &str) -> Value {
    json!({"name": "envoy.filters.network.tcp_proxy", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": "bench", "cluster": cluster,
    }})
}

/// Returns the filter redis_proxy with prefix routes `(prefix, whether it is removed, cluster)`
/// and a catch-all route.
pub fn redis_proxy(routes: &[(String, bool, String)], catch_all: Option<&str>, behind_the_filter: bool) -> Value {
    let routes: Vec<Value> = routes
        .iter()
        .map(|(prefix, remove, cluster)| json!({"prefix": prefix, "remove_prefix": remove, "cluster": cluster}))
        .collect();
    let mut config = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.redis_proxy.v3.RedisProxy",
        "stat_prefix": "bench", "settings": {"op_timeout": "20s"}, "prefix_routes": {"routes": routes},
    });
    if let Some(cluster) = catch_all {
        config["prefix_routes"]["catch_all_route"] = json!({"cluster": cluster});
    }
    if behind_the_filter {
        config["downstream_auth_passwords"] = json!([{"inline_string": HANDSHAKE}]);
    }
    json!({"name": "envoy.filters.network.redis_proxy", "typed_config": config})
}

/// Returns the wasm filter.
pub fn filter(file: &Path, config: &FilterConfig) -> Value {
    let document = serde_json::to_string(config).unwrap_or_default();
    json!({"name": "envoy.filters.network.wasm", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.wasm.v3.Wasm",
        "config": {
            "name": config.name,
            "vm_config": {
                "vm_id": "redis-mesh", "runtime": "envoy.wasm.runtime.v8", "code": {"local": {"filename": file}},
            },
            "configuration": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.GenericSecret",
                "secret": {"inline_string": document},
            },
            "failure_policy": "FAIL_RELOAD",
        },
    }})
}

/// Returns the configuration of the filter: one host without authentication, faults and mirrors.
pub fn filter_config(path: DataPath, tags: &[Option<String>], routes: Vec<(KeyMatch, usize)>) -> FilterConfig {
    let target = |(i, tag): (usize, &Option<String>)| Target {
        destination: format!("redis-{i}.bench.svc.cluster.local:6379"),
        cluster: false,
        mirrors: Vec::new(),
        tags: match path {
            DataPath::Direct | DataPath::Native => Vec::new(),
            DataPath::Proxy => vec![tag.clone()],
        },
        upstream: None,
    };
    let route = |(key, target): (KeyMatch, usize)| Route {
        key,
        remove_prefix: false,
        target: target as u32,
        read_policy: None,
        faults: Vec::new(),
    };
    let host = Host {
        host: "redis.bench.svc.cluster.local:6379".into(),
        selector: Selector::default(),
        path,
        client_auth: None,
        upstream_login: None,
        login_for: None,
        handshake: (path == DataPath::Proxy).then(|| HANDSHAKE.into()),
        guard_credentials: false,
        allow_admin_commands: false,
        refuse_scripts: false,
        several_endpoints: false,
        case_insensitive: false,
        read_policy: ReadPolicy::default(),
        op_timeout_ms: None,
        command_stats: false,
        targets: tags.iter().enumerate().map(target).collect(),
        routes: routes.into_iter().map(route).collect(),
        faults: Vec::new(),
    };
    FilterConfig {
        name: "bench".into(),
        revision: 1,
        hosts: vec![host],
        refused: Vec::new(),
        limits: Limits::default(),
    }
}

/// Returns the tag of a target, with the length that `redis-mesh render` gives it.
pub fn tag(target: usize) -> String {
    format!("\u{1}benchbenc{}:", char::from(b'a' + (target % 26) as u8))
}

fn address(addr: SocketAddr) -> Value {
    json!({"socket_address": {"address": addr.ip().to_string(), "port_value": addr.port()}})
}
