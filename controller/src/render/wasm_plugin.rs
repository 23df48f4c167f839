//! WasmPlugins: the filter on every outbound connection of a port, with the rules of all managed
//! hosts of that port. A WasmPlugin can't match a host, so the filter finds the host of a
//! connection itself.

use redis_mesh_core::wire;
use serde_json::{Value, json};

use super::mesh_options::MeshOptions;
use super::object_meta::labels;

/// The kind.
pub const KIND: &str = "WasmPlugin";

/// The name of the WasmPlugin of a port.
pub fn name(port: u16) -> String {
    format!("redis-mesh-{port}")
}

/// A WasmPlugin.
pub fn object(namespace: &str, port: u16, config: &wire::FilterConfig, options: &MeshOptions) -> Value {
    let mut spec = json!({
        "type": "NETWORK",
        "url": options.filter_url,
        "failStrategy": "FAIL_RELOAD",
        "match": [{"mode": "CLIENT", "ports": [{"number": port}]}],
        "pluginName": config.name,
        "pluginConfig": config,
    });
    if let Some(sha256) = &options.filter_sha256 {
        spec["sha256"] = sha256.as_str().into();
    }
    json!({
        "apiVersion": "extensions.istio.io/v1alpha1",
        "kind": KIND,
        "metadata": {"name": name(port), "namespace": namespace, "labels": labels()},
        "spec": spec,
    })
}
