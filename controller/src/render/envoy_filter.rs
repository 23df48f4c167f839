//! EnvoyFilters: patches of the listener of a host, and of the clusters of its destinations.

use redis_mesh_core::wire;
use serde_json::{Map, Value, json};

use crate::validate::destination::ValidatedDestination;
use crate::validate::policy::TcpOptions;
use crate::validate::rule_tls::PeerNames;
use crate::validate::service::ValidatedService;

use super::backend::Backends;
use super::carried;
use super::envoy::{self, ClusterUse};
use super::mesh_options::MeshOptions;
use super::mesh_tls::istio_mutual;
use super::object_meta::{PURPOSE, labels};

/// The kind.
pub const KIND: &str = "EnvoyFilter";

/// The name of the filter at the end of Istio's filter chains.
pub const TCP_PROXY: &str = "envoy.filters.network.tcp_proxy";
/// The name of the EnvoyFilter that has istiod send all filter configurations again.
pub const BEACON: &str = "redis-mesh-beacon";
/// The priority of the EnvoyFilters of listeners. They refer to the place of `tcp_proxy`, which some of them
/// replace, so they come after a mesh's own EnvoyFilters that insert filters there: those have the
/// priority 0 where nothing is said, else multiples of 10 as Istio recommends.
pub const LISTENER_PRIORITY: i32 = 1000;
/// The context of listeners for outbound traffic.
pub const CONTEXT: &str = "SIDECAR_OUTBOUND";

/// An EnvoyFilter with patches.
pub fn object(namespace: &str, name: &str, purpose: &str, patches: Vec<Value>) -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1alpha3",
        "kind": KIND,
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": labels(),
            "annotations": {PURPOSE: purpose},
        },
        "spec": {"configPatches": patches},
    })
}

/// An EnvoyFilter with patches of listeners.
pub fn of_listeners(namespace: &str, name: &str, purpose: &str, patches: Vec<Value>) -> Value {
    let mut object = object(namespace, name, purpose, patches);
    object["spec"]["priority"] = LISTENER_PRIORITY.into();
    object
}

/// A match of a listener, or of a filter in its chains.
pub fn on_listener(listener: &str, filter: Option<&str>) -> Value {
    let mut listener = json!({"name": listener});
    if let Some(filter) = filter {
        listener["filterChain"] = json!({"filter": {"name": filter}});
    }
    json!({"context": CONTEXT, "listener": listener})
}

/// A patch.
pub fn patch(apply_to: &str, matches: Value, operation: &str, value: Value) -> Value {
    json!({"applyTo": apply_to, "match": matches, "patch": {"operation": operation, "value": value}})
}

/// A patch that writes the token of a host into the listener's metadata, where the filter of a
/// WasmPlugin reads it.
pub fn metadata(listener: &str, token: &str) -> Value {
    let value = json!({"metadata": {"filter_metadata": {"redis-mesh": {"host": token}}}});
    patch("LISTENER", on_listener(listener, None), "MERGE", value)
}

/// A patch that replaces `tcp_proxy` by `redis_proxy`.
pub fn redis_proxy(
    listener: &str,
    service: &ValidatedService,
    backends: &Backends,
    password: &str,
    cluster: &dyn Fn(&ValidatedDestination) -> String,
) -> Value {
    let filter = envoy::redis_proxy(service, backends, password, cluster);
    patch("NETWORK_FILTER", on_listener(listener, Some(TCP_PROXY)), "REPLACE", filter)
}

/// A patch that sends `tcp_proxy` to another cluster.
pub fn other_cluster(listener: &str, cluster: &str) -> Value {
    let value = json!({
        "name": TCP_PROXY,
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
            "cluster": cluster,
        },
    });
    patch("NETWORK_FILTER", on_listener(listener, Some(TCP_PROXY)), "MERGE", value)
}

/// A patch that inserts a filter before `tcp_proxy` whose configuration is delivered separately,
/// so that a change of rules doesn't change the listener. It has to precede the patch that
/// replaces `tcp_proxy`.
pub fn discovered_filter(listener: &str, name: &str) -> Value {
    let value = json!({
        "name": name,
        "config_discovery": {
            "config_source": {"ads": {}, "initial_fetch_timeout": "5s", "resource_api_version": "V3"},
            // The agent delivers the second type while it can't fetch the filter.
            "type_urls": [
                "type.googleapis.com/envoy.extensions.filters.network.wasm.v3.Wasm",
                "type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC",
            ],
        },
    });
    patch("NETWORK_FILTER", on_listener(listener, Some(TCP_PROXY)), "INSERT_BEFORE", value)
}

/// A patch with the configuration of such a filter.
pub fn extension(name: &str, config: &wire::FilterConfig, options: &MeshOptions) -> Value {
    let code = match options.filter_url.strip_prefix("file://") {
        Some(path) => json!({"local": {"filename": path}}),
        None => {
            let url = &options.filter_url;
            let uri = if url.contains("://") { url.clone() } else { format!("oci://{url}") };
            // Istio's agent fetches the filter and replaces this by a local file; "nil" is its
            // word for no checksum.
            json!({"remote": {
                "http_uri": {"uri": uri, "timeout": "30s", "cluster": "_"},
                "sha256": options.filter_sha256.as_deref().unwrap_or("nil"),
            }})
        }
    };
    let mut value = envoy::wasm_filter(&config.name, code, &super::filter_config::json(config));
    value["name"] = name.into();
    patch("EXTENSION_CONFIG", json!({"context": CONTEXT}), "ADD", value)
}

/// An EnvoyFilter with the configuration of a filter that no listener has. When it changes,
/// istiod sends all filter configurations again. A proxy that could not fetch the filter has
/// given up, and refuses connections until then.
pub fn beacon(namespace: &str, number: u64) -> Value {
    let name = BEACON;
    let value = json!({
        "name": name,
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC",
            "stat_prefix": format!("{name}-{number}"),
        },
    });
    let patch = patch("EXTENSION_CONFIG", json!({"context": CONTEXT}), "ADD", value);
    object(namespace, name, "sidecars that could not fetch the filter", vec![patch])
}

/// The owner of a destination's cluster in a mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterOwner {
    /// Istio has the cluster.
    Istio,
    /// redis-mesh adds the cluster.
    Added,
}

/// The owner of a destination's cluster. Istio's own cluster has precedence: it has the
/// endpoints, mutual TLS, and metrics. It has none for an ExternalName Service, nor for endpoints
/// that are names.
pub fn found(destination: &ValidatedDestination) -> ClusterOwner {
    let is_istios = destination.in_mesh && !destination.has_own_endpoints();
    if destination.is_cluster() || destination.policy.tls.is_some() || !is_istios {
        ClusterOwner::Added
    } else {
        ClusterOwner::Istio
    }
}

/// The owner of a destination's cluster for this use. A cluster of Istio's that follows the client is
/// left as it is, for the host's own clients; others are served by one of ours.
pub fn owner(destination: &ValidatedDestination, usage: ClusterUse) -> ClusterOwner {
    match (found(destination), usage) {
        (ClusterOwner::Istio, ClusterUse::Forwarded | ClusterUse::Proxy | ClusterUse::Native)
            if destination.follows_the_client() =>
        {
            ClusterOwner::Added
        }
        (found, _) => found,
    }
}

/// The name of a destination's cluster. A cluster that is added for one namespace has another
/// name than that of the whole mesh.
pub fn cluster_name(destination: &ValidatedDestination, usage: ClusterUse, namespace: Option<&str>) -> String {
    let (host, port) = (&destination.address.host, destination.address.port);
    match (owner(destination, usage), namespace) {
        (ClusterOwner::Istio, _) => wire::istio_cluster(host, port),
        (ClusterOwner::Added, None) => format!("redis-mesh|{port}||{host}"),
        (ClusterOwner::Added, Some(namespace)) => format!("redis-mesh|{port}|{namespace}|{host}"),
    }
}

/// True if a destination's cluster needs a patch.
pub fn changes_cluster(destination: &ValidatedDestination, usage: ClusterUse) -> bool {
    let tcp = &destination.policy.tcp;
    match owner(destination, usage) {
        ClusterOwner::Added => true,
        ClusterOwner::Istio => usage == ClusterUse::Proxy || tcp.connect_timeout.is_some() || tcp.keepalive.is_some(),
    }
}

/// The patch of a destination's cluster; none if it serves as it is.
pub fn cluster(destination: &ValidatedDestination, usage: ClusterUse, namespace: Option<&str>) -> Option<Value> {
    if !changes_cluster(destination, usage) {
        return None;
    }
    match owner(destination, usage) {
        ClusterOwner::Added => {
            let name = cluster_name(destination, usage, namespace);
            let mut value = added(envoy::cluster(&name, &in_mesh(destination), usage), destination);
            if let Some(owner) = destination.owner.as_ref().filter(|_| follows(destination)) {
                // As Istio marks its own clusters. By that the filter knows whether it may log in.
                let services = json!([{"namespace": owner, "host": destination.address.host}]);
                value["metadata"] = json!({"filter_metadata": {"istio": {"services": services}}});
            }
            Some(patch("CLUSTER", json!({"context": CONTEXT}), "ADD", value))
        }
        ClusterOwner::Istio => {
            let mut value = Map::new();
            merged_tcp(&mut value, &destination.policy.tcp);
            if usage == ClusterUse::Proxy {
                // All commands for a key have to go to the same endpoint.
                value.insert("lb_policy".to_owned(), "MAGLEV".into());
                envoy::protocol_options(&mut value, destination);
                envoy::outlier_detection(&mut value, destination);
            }
            Some(on_istios(destination, Value::Object(value)))
        }
    }
}

/// Completes a cluster that redis-mesh adds in a mesh: with the certificates of the mesh, with
/// Istio's endpoints where only Istio's own cluster can't serve, and with what users' rules say.
pub fn added(mut value: Value, destination: &ValidatedDestination) -> Value {
    if follows(destination) && destination.has_istios_endpoints() {
        by_istios_endpoints(&mut value, destination);
    }
    if destination.policy.istio_mutual {
        value["transport_socket"] = istio_mutual(destination, &PeerNames::default());
    }
    if let Some(cluster) = value.as_object_mut() {
        carried::complete(cluster, destination);
    }
    value
}

/// Takes the endpoints from istiod, which has them also where its own cluster follows the client and
/// doesn't ask for them. It gives such a cluster no mutual TLS, so that is chosen here for each
/// endpoint, by the mark that istiod sets.
fn by_istios_endpoints(value: &mut Value, destination: &ValidatedDestination) {
    let Some(cluster) = value.as_object_mut() else { return };
    for name in ["load_assignment", "dns_lookup_family", "wait_for_warm_on_init"] {
        cluster.shift_remove(name);
    }
    cluster.insert("type".to_owned(), "EDS".into());
    let (host, port) = (&destination.address.host, destination.address.port);
    let config = json!({
        "service_name": wire::istio_cluster(host, port),
        "eds_config": {"ads": {}, "initial_fetch_timeout": "0s", "resource_api_version": "V3"},
    });
    cluster.insert("eds_cluster_config".to_owned(), config);
    if !destination.policy.istio_mutual {
        let raw = json!({
            "name": "envoy.transport_sockets.raw_buffer",
            "typed_config": envoy::any("envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer", json!({})),
        });
        let matches = json!([
            {"name": "tlsMode-istio", "match": {"tlsMode": "istio"}, "transport_socket": istio_mutual(destination, &PeerNames::default())},
            {"name": "tlsMode-disabled", "match": {}, "transport_socket": raw},
        ]);
        cluster.insert("transport_socket_matches".to_owned(), matches);
    }
}

/// A patch of Istio's own cluster that follows the client, for the host's own clients on `direct`; none
/// if it serves as it is.
pub fn following(destination: &ValidatedDestination) -> Option<Value> {
    cluster(destination, ClusterUse::Direct, None).filter(|_| follows(destination))
}

/// True for a destination that isn't reached through Istio's cluster for the only reason that this one
/// follows the client.
pub fn follows(destination: &ValidatedDestination) -> bool {
    destination.follows_the_client() && found(destination) == ClusterOwner::Istio
}

/// A patch that merges a value into Istio's own cluster of a destination.
pub fn on_istios(destination: &ValidatedDestination, value: Value) -> Value {
    let matches = json!({
        "context": CONTEXT,
        "cluster": {"service": destination.address.host, "portNumber": destination.address.port},
    });
    patch("CLUSTER", matches, "MERGE", value)
}

/// A patch that takes the login from Istio's own cluster of a destination again, behind the patch that
/// has given it; none if there is no login. Merging puts this in the place of what the map holds.
pub fn without_login(destination: &ValidatedDestination) -> Option<Value> {
    let is_merged = destination.policy.login.is_some() && owner(destination, ClusterUse::Proxy) == ClusterOwner::Istio;
    is_merged.then(|| on_istios(destination, json!({"typed_extension_protocol_options": envoy::no_login()})))
}

/// A patch that adds a destination's cluster without a login, and without the mark by which others log in,
/// before the patch that adds it with them: istiod keeps the first cluster of a name. None if the cluster isn't
/// added, or has other endpoints than those that istiod knows for the host.
pub fn added_without_login(
    destination: &ValidatedDestination,
    usage: ClusterUse,
    namespace: Option<&str>,
) -> Option<Value> {
    let is_concerned = destination.policy.login.is_some()
        && follows(destination)
        && owner(destination, usage) == ClusterOwner::Added
        && destination.has_istios_endpoints();
    let mut unknown = destination.clone();
    unknown.policy.login = None;
    unknown.owner = None;
    cluster(&unknown, usage, namespace).filter(|_| is_concerned)
}

/// Adds the settings of TCP in a form that can be merged.
pub fn merged_tcp(value: &mut Map<String, Value>, tcp: &TcpOptions) {
    if tcp.connect_timeout.is_some() || tcp.keepalive.is_some() {
        envoy::tcp(value, tcp);
        // Merging appends to Istio's list of thresholds, of which Envoy takes the first.
        value.shift_remove("circuit_breakers");
        if tcp.connect_timeout.is_none() {
            value.shift_remove("connect_timeout");
        }
        if tcp.keepalive.is_none() {
            // The mesh's own holds, if it has any.
            value.shift_remove("upstream_connection_options");
        }
    }
}

/// A destination as a cluster that redis-mesh adds reaches it: by its name rather than by its
/// endpoints, which change, and with the settings of connections from users' rules.
pub fn in_mesh(destination: &ValidatedDestination) -> ValidatedDestination {
    let mut destination = destination.clone();
    destination.policy.tcp = carried::tcp(&destination);
    if !destination.has_own_endpoints() {
        let address = &destination.address;
        destination.endpoints =
            vec![crate::inventory::ServiceEndpoint { address: address.host.clone(), port: address.port }];
    }
    destination
}
