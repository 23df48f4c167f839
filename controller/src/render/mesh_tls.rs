//! TLS with certificates that Istio's agent hands to the sidecar: those of the mesh, and files of the
//! sidecar's container.

use serde_json::{Map, Value, json};

use crate::validate::destination::ValidatedDestination;
use crate::validate::rule_tls::{FileTls, PeerNames};

use super::envoy;

/// TLS with the certificates of the mesh, as Istio itself configures it. Where nothing says which names
/// the server's certificate must carry, it is the identity of a pod in the Service's own namespace:
/// whoever else has a certificate of the mesh could otherwise take the Redis's place.
pub fn istio_mutual(destination: &ValidatedDestination, server: &PeerNames) -> Value {
    let own = || format!("outbound_.{}_._.{}", destination.address.port, destination.address.host);
    // A sidecar gets these in any case, and waits for them.
    let sds = |name: &str| secret(name, Some("0s"));
    let context = json!({
        "sni": server.sni.clone().unwrap_or_else(own),
        "common_tls_context": {
            "alpn_protocols": ["istio"],
            "tls_certificate_sds_secret_configs": [sds("default")],
            "combined_validation_context": {
                "default_validation_context": owned_by(destination, server),
                "validation_context_sds_secret_config": sds("ROOTCA"),
            },
        },
    });
    transport_socket(context)
}

/// TLS with files. As for Istio's own clusters the agent reads them: it renews them, and Envoy would
/// refuse a cluster that names a file which isn't there.
pub fn by_files(files: &FileTls) -> Value {
    let mut common = Map::new();
    if let Some((chain, key)) = &files.certificate {
        let certificates = json!([secret(&format!("file-cert:{chain}~{key}"), None)]);
        common.insert("tls_certificate_sds_secret_configs".to_owned(), certificates);
    }
    if files.verify {
        let context = json!({
            "default_validation_context": validation_context(&files.server),
            "validation_context_sds_secret_config": secret(&format!("file-root:{}", files.authorities), None),
        });
        common.insert("combined_validation_context".to_owned(), context);
    }
    let mut context = Map::new();
    if let Some(sni) = &files.server.sni {
        context.insert("sni".to_owned(), sni.as_str().into());
    }
    context.insert("common_tls_context".to_owned(), Value::Object(common));
    transport_socket(Value::Object(context))
}

fn transport_socket(context: Value) -> Value {
    json!({
        "name": "envoy.transport_sockets.tls",
        "typed_config": envoy::any("envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext", context),
    })
}

/// The names of the server's certificate; without any, the identities of the Service's namespace, in any
/// trust domain that the mesh's certificate authorities vouch for. Endpoints that a person has written
/// may be pods of other namespaces.
fn owned_by(destination: &ValidatedDestination, server: &PeerNames) -> Value {
    let owner = destination.service.as_ref().filter(|_| destination.selects_pods).map(|(key, _)| &key.namespace);
    match owner.filter(|_| server.names.is_empty()) {
        None => validation_context(server),
        Some(namespace) => {
            let regex = format!("spiffe://[^/]+/ns/{namespace}/sa/[^/]+");
            json!({"match_typed_subject_alt_names": [
                {"san_type": "URI", "matcher": {"safe_regex": {"regex": regex}}},
            ]})
        }
    }
}

/// The names of which the server's certificate must carry one.
fn validation_context(server: &PeerNames) -> Value {
    match server.names.is_empty() {
        true => json!({}),
        false => json!({"match_typed_subject_alt_names": envoy::alternative_names(&server.names)}),
    }
}

/// A certificate from the agent, for which Envoy waits so long; by default 15 s. A file that isn't
/// there must not keep a sidecar from getting ready.
fn secret(name: &str, waits: Option<&str>) -> Value {
    let source = json!({
        "api_type": "GRPC",
        "grpc_services": [{"envoy_grpc": {"cluster_name": "sds-grpc"}}],
        "set_node_on_first_message_only": true,
        "transport_api_version": "V3",
    });
    let mut config = Map::new();
    config.insert("api_config_source".to_owned(), source);
    if let Some(waits) = waits {
        config.insert("initial_fetch_timeout".to_owned(), waits.into());
    }
    config.insert("resource_api_version".to_owned(), "V3".into());
    json!({"name": name, "sds_config": config})
}
