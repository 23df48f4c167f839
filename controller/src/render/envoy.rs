//! The parts of Envoy's configuration that are the same in a standalone Envoy and in a mesh.

use std::time::Duration;

use redis_mesh_core::wire;
use serde_json::{Map, Value, json};

use crate::crd::service::ReadPolicySpec;
use crate::inventory::ServiceEndpoint;
use crate::quantity::seconds;
use crate::validate::destination::ValidatedDestination;
use crate::validate::policy::TcpOptions;
use crate::validate::service::ValidatedService;
use crate::validate::tls::TlsOptions;

use super::backend::{Backend, Backends, TAG_MARK};

/// The name of the cluster without endpoints, to which unknown tags lead.
pub const NOWHERE: &str = "redis-mesh-nowhere";
/// The identity of the VM, which all filters of a worker share.
pub const VM_ID: &str = "redis-mesh";
/// The file in which distributions keep trusted certificate authorities.
const SYSTEM_AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

const REDIS_PROXY: &str = "envoy.filters.network.redis_proxy";

/// A message in an `Any` with its type.
pub fn any(kind: &str, mut fields: Value) -> Value {
    let mut message = Map::new();
    message.insert("@type".to_owned(), format!("type.googleapis.com/{kind}").into());
    if let Some(fields) = fields.as_object_mut() {
        message.append(fields);
    }
    Value::Object(message)
}

/// The wasm filter. Its configuration is a `GenericSecret`, which Envoy redacts in `/config_dump`.
pub fn wasm_filter(name: &str, code: Value, config: &str) -> Value {
    let secret =
        any("envoy.extensions.transport_sockets.tls.v3.GenericSecret", json!({"secret": {"inline_string": config}}));
    json!({
        "name": "envoy.filters.network.wasm",
        "typed_config": any("envoy.extensions.filters.network.wasm.v3.Wasm", json!({
            "config": {
                "name": name,
                "vm_config": {"vm_id": VM_ID, "runtime": "envoy.wasm.runtime.v8", "code": code},
                "configuration": secret,
                // A VM that trapped is started anew. Until then connections are closed rather
                // than passed through.
                "failure_policy": "FAIL_RELOAD",
            },
        })),
    })
}

/// `tcp_proxy` to one cluster.
pub fn tcp_proxy(service: &ValidatedService, cluster: &str) -> Value {
    json!({
        "name": "envoy.filters.network.tcp_proxy",
        "typed_config": any("envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy", json!({
            "stat_prefix": stat_prefix(service),
            "cluster": cluster,
            // Redis keeps idle connections for ever, and so must the proxy.
            "idle_timeout": "0s",
        })),
    })
}

/// The `op_timeout` of `redis_proxy`, which knows no way to say that there is none: zero is a year.
fn op_timeout(timeout: Option<Duration>) -> String {
    match timeout {
        None => "5s".to_owned(),
        Some(Duration::ZERO) => "31536000s".to_owned(),
        Some(timeout) => seconds(timeout),
    }
}

/// `redis_proxy` with a route for each backend.
pub fn redis_proxy(
    service: &ValidatedService,
    backends: &Backends,
    password: &str,
    cluster: &dyn Fn(&ValidatedDestination) -> String,
) -> Value {
    let settings = &service.settings;
    let any_cluster = service.destinations().iter().any(|destination| destination.is_cluster());
    let mut pool = Map::new();
    pool.insert("op_timeout".to_owned(), op_timeout(settings.op_timeout).into());
    pool.insert("enable_redirection".to_owned(), settings.enable_redirection.unwrap_or(any_cluster).into());
    if settings.enable_hashtagging {
        pool.insert("enable_hashtagging".to_owned(), true.into());
    }
    if settings.enable_command_stats {
        pool.insert("enable_command_stats".to_owned(), true.into());
    }
    pool.insert("read_policy".to_owned(), read_policy(settings.proxy_read_policy).into());
    if let Some(bytes) = settings.max_buffer_size_before_flush {
        pool.insert("max_buffer_size_before_flush".to_owned(), bytes.into());
    }
    if let Some(timeout) = settings.buffer_flush_timeout {
        pool.insert("buffer_flush_timeout".to_owned(), seconds(timeout).into());
    }
    // A script may choose the address in an error. Nodes that the cluster names are known.
    pool.insert("max_upstream_unknown_connections".to_owned(), 0.into());
    let mut routes: Vec<Value> = backends
        .tagged
        .iter()
        .map(|(tag, backend)| {
            let mut entry = Map::new();
            entry.insert("prefix".to_owned(), tag.as_str().into());
            entry.insert("remove_prefix".to_owned(), true.into());
            destination(&mut entry, backend, cluster);
            Value::Object(entry)
        })
        .collect();
    let mut prefix_routes = Map::new();
    if let Some(backend) = &backends.catch_all {
        // The longest prefix has precedence, so this route takes unknown tags only.
        routes.push(json!({"prefix": TAG_MARK, "cluster": NOWHERE}));
        let mut entry = Map::new();
        destination(&mut entry, backend, cluster);
        prefix_routes.insert("catch_all_route".to_owned(), Value::Object(entry));
    }
    prefix_routes.insert("routes".to_owned(), routes.into());
    let mut proxy = json!({
        "stat_prefix": stat_prefix(service),
        "settings": pool,
        "downstream_auth_passwords": [{"inline_string": password}],
        "prefix_routes": prefix_routes,
    });
    if service.single_destination().is_some_and(|single| !single.is_cluster()) {
        proxy["custom_commands"] = TO_ONE_SERVER.into();
    }
    json!({
        "name": REDIS_PROXY,
        "typed_config": any("envoy.extensions.filters.network.redis_proxy.v3.RedisProxy", proxy),
    })
}

/// Commands that `redis_proxy` by itself sends to all servers, for which it asks a load balancer
/// 16,384 times, some milliseconds each. As custom commands they go to one server, which is all of
/// them where there is one destination (and INFO is the server's own, with all of its sections): the filter refuses them where that has several endpoints
/// without a word on what they are.
///
/// Only commands that have an argument at all times may be here, which the filter sees to: `redis_proxy`
/// routes a custom command by its first argument without looking whether it is there, and crashes
/// (Envoy 1.40). So FLUSHALL and FLUSHDB, which have none, stay as slow as they are.
const TO_ONE_SERVER: [&str; 6] = ["config", "info", "keys", "scan", "script", "slowlog"];

fn destination(entry: &mut Map<String, Value>, backend: &Backend, cluster: &dyn Fn(&ValidatedDestination) -> String) {
    entry.insert("cluster".to_owned(), cluster(&backend.destination).into());
    if !backend.mirrors.is_empty() {
        // The filter decides which commands are copied, and gives them a backend of their own.
        let mirrors =
            backend.mirrors.iter().map(|mirror| json!({"cluster": cluster(mirror), "exclude_read_commands": false}));
        entry.insert("request_mirror_policy".to_owned(), mirrors.collect());
    }
}

fn read_policy(policy: ReadPolicySpec) -> &'static str {
    match policy {
        ReadPolicySpec::Master => "MASTER",
        ReadPolicySpec::PreferMaster => "PREFER_MASTER",
        ReadPolicySpec::Replica => "REPLICA",
        ReadPolicySpec::PreferReplica => "PREFER_REPLICA",
        ReadPolicySpec::Any => "ANY",
    }
}

/// The prefix of statistics, with the host as a label in the syntax of Istio's `extraStatTags`.
fn stat_prefix(service: &ValidatedService) -> String {
    format!("redis_host=.={};.;{}", service.address, service.path.name())
}

/// The use of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterUse {
    /// `tcp_proxy`: each client has a connection of its own to Redis.
    Direct,
    /// The same for the clients of another host, where Istio's own cluster would lead them to the address
    /// that they have connected to.
    Forwarded,
    /// `redis_proxy`: clients share connections.
    Proxy,
    /// The dynamic module: it has connections, also to single nodes of a Redis Cluster.
    Native,
}

impl ClusterUse {
    /// The use on a data path.
    pub fn of(path: wire::DataPath) -> ClusterUse {
        match path {
            wire::DataPath::Direct => ClusterUse::Direct,
            wire::DataPath::Proxy => ClusterUse::Proxy,
            wire::DataPath::Native => ClusterUse::Native,
        }
    }

    /// The use of a destination's cluster by the clients of a service in a mesh.
    pub fn by(service: &ValidatedService, destination: &ValidatedDestination) -> ClusterUse {
        match ClusterUse::of(service.path) {
            ClusterUse::Direct if destination.follows_the_client() && destination.address != service.address => {
                ClusterUse::Forwarded
            }
            usage => usage,
        }
    }
}

/// A cluster that redis-mesh adds.
pub fn cluster(name: &str, destination: &ValidatedDestination, usage: ClusterUse) -> Value {
    let mut cluster = Map::new();
    cluster.insert("name".to_owned(), name.into());
    // The semicolon marks the end of the cluster's name in the names of statistics for Istio's
    // sidecars.
    cluster.insert("alt_stat_name".to_owned(), format!("{name};").into());
    match (usage, destination.is_cluster()) {
        (ClusterUse::Proxy, true) => {
            cluster.insert(
                "cluster_type".to_owned(),
                json!({
                    "name": "envoy.clusters.redis",
                    "typed_config": any("envoy.extensions.clusters.redis.v3.RedisClusterConfig", json!({
                        "cluster_refresh_rate": "5s",
                        "cluster_refresh_timeout": "1s",
                        "redirect_refresh_interval": "0.2s",
                        "redirect_refresh_threshold": 1,
                        // Without this, Envoy notices the loss of a master only at the next
                        // periodic refresh.
                        "failure_refresh_threshold": 1,
                    })),
                }),
            );
            cluster.insert("lb_policy".to_owned(), "CLUSTER_PROVIDED".into());
            // A Redis Cluster that is down must not keep Envoy from opening other listeners.
            cluster.insert("wait_for_warm_on_init".to_owned(), false.into());
        }
        (usage, _) => {
            cluster.insert("type".to_owned(), if destination.is_static() { "STATIC" } else { "STRICT_DNS" }.into());
            let policy = match usage {
                ClusterUse::Direct | ClusterUse::Forwarded | ClusterUse::Native => "ROUND_ROBIN",
                ClusterUse::Proxy => "MAGLEV",
            };
            cluster.insert("lb_policy".to_owned(), policy.into());
            if !destination.is_static() {
                cluster.insert("wait_for_warm_on_init".to_owned(), false.into());
            }
        }
    }
    if !destination.is_static() {
        cluster.insert("dns_lookup_family".to_owned(), "V4_PREFERRED".into());
    }
    tcp(&mut cluster, &destination.policy.tcp);
    if usage == ClusterUse::Proxy {
        protocol_options(&mut cluster, destination);
        outlier_detection(&mut cluster, destination);
    }
    if let Some(tls) = &destination.policy.tls {
        cluster.insert("transport_socket".to_owned(), transport_socket(tls));
    }
    let endpoints = endpoints(destination).into_iter().map(|endpoint| {
        json!({"endpoint": {"address": {"socket_address": {"address": endpoint.address, "port_value": endpoint.port}}}})
    });
    let endpoints: Vec<Value> = endpoints.collect();
    let localities = if endpoints.is_empty() { json!([]) } else { json!([{"lb_endpoints": endpoints}]) };
    cluster.insert("load_assignment".to_owned(), json!({"cluster_name": name, "endpoints": localities}));
    Value::Object(cluster)
}

/// The endpoints of a destination's cluster. Where keys are placed on them, one that has an address
/// of each family must not be taken for two.
fn endpoints(destination: &ValidatedDestination) -> Vec<&ServiceEndpoint> {
    let is_v4 = |endpoint: &&ServiceEndpoint| endpoint.address.parse::<std::net::Ipv4Addr>().is_ok();
    let all = destination.endpoints.iter();
    match destination.policy.mode.is_none() && destination.is_static() && all.clone().any(|endpoint| is_v4(&endpoint)) {
        true => all.filter(is_v4).collect(),
        false => all.collect(),
    }
}

/// The cluster without endpoints.
pub fn nowhere() -> Value {
    json!({
        "name": NOWHERE,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": NOWHERE, "endpoints": []},
    })
}

/// TCP keepalive
/// ([`config.core.v3.TcpKeepalive`](https://www.envoyproxy.io/docs/envoy/latest/api-v3/config/core/v3/address.proto#config-core-v3-tcpkeepalive)).
/// Where none is given, a connection whose other end is gone, and over which a client waits, ends
/// after a minute and a half; Linux asks for the first time after two hours.
fn keepalive(tcp: &TcpOptions) -> Map<String, Value> {
    let Some(keepalive) = &tcp.keepalive else {
        return [("keepalive_probes", 3), ("keepalive_time", 60), ("keepalive_interval", 10)]
            .map(|(name, value)| (name.to_owned(), value.into()))
            .into_iter()
            .collect();
    };
    let mut fields = Map::new();
    if let Some(probes) = keepalive.probes {
        fields.insert("keepalive_probes".to_owned(), probes.into());
    }
    if let Some(time) = keepalive.time {
        fields.insert("keepalive_time".to_owned(), time.into());
    }
    if let Some(interval) = keepalive.interval {
        fields.insert("keepalive_interval".to_owned(), interval.into());
    }
    fields
}

/// The settings of the connections.
pub fn tcp(cluster: &mut Map<String, Value>, tcp: &TcpOptions) {
    cluster.insert("connect_timeout".to_owned(), tcp.connect_timeout.map_or_else(|| "10s".to_owned(), seconds).into());
    cluster.insert("upstream_connection_options".to_owned(), json!({"tcp_keepalive": keepalive(tcp)}));
    // Envoy's own bound of 1024 would turn away the clients of a busy Redis, each of which has a
    // connection of its own.
    let connections = tcp.max_connections.unwrap_or(u32::MAX);
    cluster.insert(
        "circuit_breakers".to_owned(),
        json!({"thresholds": [{"max_connections": connections, "max_pending_requests": u32::MAX, "max_requests": u32::MAX}]}),
    );
}

/// The login of `redis_proxy` at a destination.
pub fn protocol_options(cluster: &mut Map<String, Value>, destination: &ValidatedDestination) {
    let Some(login) = &destination.policy.login else { return };
    let mut fields = Map::new();
    if let Some(username) = &login.username {
        fields.insert("auth_username".to_owned(), json!({"inline_string": username}));
    }
    fields.insert("auth_password".to_owned(), json!({"inline_string": login.password.reveal()}));
    let options = any("envoy.extensions.filters.network.redis_proxy.v3.RedisProtocolOptions", Value::Object(fields));
    cluster.insert("typed_extension_protocol_options".to_owned(), json!({REDIS_PROXY: options}));
}

/// The settings by which `redis_proxy` logs in nowhere.
pub fn no_login() -> Value {
    json!({REDIS_PROXY: any("envoy.extensions.filters.network.redis_proxy.v3.RedisProtocolOptions", json!({}))})
}

/// Makes `redis_proxy` leave a server alone that doesn't answer, where others may answer in its
/// place: in a Redis Cluster those that the read policy lets, and interchangeable endpoints. Where
/// keys are spread over servers, a server's keys must not go to others while it is away.
///
/// Each try of a dead server costs commands, so after three failures there is none for 2 s, and
/// then 4 s, up to 10 s. No success rate is looked at, since Redis doesn't have server errors.
pub fn outlier_detection(cluster: &mut Map<String, Value>, destination: &ValidatedDestination) {
    if destination.is_cluster() || destination.is_interchangeable() {
        let settings = json!({
            "consecutive_5xx": 3,
            "interval": "0.5s",
            "base_ejection_time": "2s",
            "max_ejection_time": "10s",
            "max_ejection_percent": 100,
            "enforcing_success_rate": 0,
        });
        cluster.insert("outlier_detection".to_owned(), settings);
        // Else workers are told of a server's health up to a second later.
        cluster.insert("common_lb_config".to_owned(), json!({"update_merge_window": "0s"}));
    }
}

/// TLS that redis-mesh configures.
pub fn transport_socket(tls: &TlsOptions) -> Value {
    let mut common = Map::new();
    if let Some((certificate, key)) = &tls.certificate {
        let chain = json!([{"certificate_chain": {"inline_string": certificate}, "private_key": {"inline_string": key.reveal()}}]);
        common.insert("tls_certificates".to_owned(), chain);
    }
    if tls.verify {
        let mut context = Map::new();
        let authorities = match &tls.authorities {
            Some(pem) => json!({"inline_string": pem}),
            None => json!({"filename": SYSTEM_AUTHORITIES}),
        };
        context.insert("trusted_ca".to_owned(), authorities);
        context.insert("match_typed_subject_alt_names".to_owned(), alternative_names(&tls.names));
        common.insert("validation_context".to_owned(), Value::Object(context));
    }
    let mut fields = Map::new();
    if let Some(sni) = &tls.sni {
        fields.insert("sni".to_owned(), sni.as_str().into());
    }
    fields.insert("common_tls_context".to_owned(), Value::Object(common));
    json!({
        "name": "envoy.transport_sockets.tls",
        "typed_config": any("envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext", Value::Object(fields)),
    })
}

/// The names of which a server's certificate must carry one.
pub fn alternative_names(names: &[String]) -> Value {
    names.iter().map(|name| json!({"san_type": san_type(name), "matcher": {"exact": name}})).collect()
}

fn san_type(name: &str) -> &'static str {
    if name.parse::<std::net::IpAddr>().is_ok() {
        "IP_ADDRESS"
    } else if name.contains("://") {
        "URI"
    } else if name.contains('@') {
        "EMAIL"
    } else {
        "DNS"
    }
}
