//! The hosts in a WasmPlugin's configuration.

use redis_mesh_core::wire;

/// The hosts that a WasmPlugin's configuration names.
#[derive(Clone, Debug, Default)]
pub struct PluginHosts {
    /// Those that it has rules for.
    pub hosts: Vec<wire::Host>,
    /// The names in tokens of those whose connections it refuses.
    pub refused: Vec<String>,
}

impl PluginHosts {
    /// The hosts with their ports, some of them twice.
    pub fn addresses(&self) -> impl Iterator<Item = &str> {
        let refused = self.refused.iter().map(|name| wire::address_in(name));
        self.hosts.iter().map(|host| host.host.as_str()).chain(refused)
    }
}
