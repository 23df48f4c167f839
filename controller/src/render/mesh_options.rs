//! What rendering for a mesh is told besides the services.

use std::collections::BTreeSet;

use super::handshake::HandshakeKey;
use super::listen::ListenOverride;
use super::native::DynamicModule;

/// What is needed besides the services.
#[derive(Clone)]
pub struct MeshOptions {
    /// Where proxies fetch the filter.
    pub filter_url: String,
    /// Its checksum.
    pub filter_sha256: Option<String>,
    /// Istio's root namespace.
    pub root_namespace: String,
    /// Configure each host by itself.
    pub per_host: bool,
    /// Addresses of hosts that are no Services, such as those of ServiceEntries.
    pub listen: Vec<ListenOverride>,
    /// The key of the handshakes.
    pub handshake_key: HandshakeKey,
    /// The dynamic module, where sidecars may have it.
    pub module: Option<DynamicModule>,
    /// The files of versions before, by which open connections may still be served.
    pub other_modules: BTreeSet<String>,
}
