//! The options of rendering for a mesh.

use std::collections::BTreeSet;

use super::handshake::HandshakeKey;
use super::listen::ListenOverride;
use super::native::DynamicModule;

/// The options of rendering for a mesh.
#[derive(Clone)]
pub struct MeshOptions {
    /// The URL at which proxies fetch the filter.
    pub filter_url: String,
    /// The SHA-256 of the filter in hexadecimal digits; none if proxies don't check it.
    pub filter_sha256: Option<String>,
    /// Istio's root namespace.
    pub root_namespace: String,
    /// True if each host gets a filter of its own.
    pub per_host: bool,
    /// The ports that have a WasmPlugin from the beginning, unless each host gets a filter of its own.
    pub ports: BTreeSet<u16>,
    /// The addresses of hosts that are no Services.
    pub listen: Vec<ListenOverride>,
    /// The key from which handshakes are made.
    pub handshake_key: HandshakeKey,
    /// The dynamic module; none if no sidecar has it.
    pub module: Option<DynamicModule>,
    /// The module's files of older versions, which may still serve open connections.
    pub other_modules: BTreeSet<String>,
    /// True if sidecars are known to serve addresses of both families.
    pub is_dual_stack: bool,
}

#[cfg(test)]
impl MeshOptions {
    /// Those of tests: no sidecar has the module.
    pub fn of_tests(root_namespace: &str) -> MeshOptions {
        MeshOptions {
            filter_url: "file:///filter.wasm".to_owned(),
            filter_sha256: None,
            root_namespace: root_namespace.to_owned(),
            per_host: false,
            ports: BTreeSet::new(),
            listen: Vec::new(),
            handshake_key: HandshakeKey::given("key"),
            module: None,
            other_modules: BTreeSet::new(),
            is_dual_stack: false,
        }
    }
}
