//! Revisions of istiod.

/// A revision of istiod: its name, and its ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Revision {
    /// The name, as in `istio.io/rev`.
    pub name: &'static str,
    /// The host at which sidecars reach it.
    pub host: &'static str,
    /// The number that is added to the ports of the first revision.
    pub offset: u16,
}

/// The revision of the mesh's own istiod.
pub const DEFAULT: Revision = Revision { name: "default", host: "istiod.istio-system.svc", offset: 0 };
/// A revision that runs beside it during an upgrade.
pub const CANARY: Revision = Revision { name: "canary", host: "istiod-canary.istio-system.svc", offset: 1000 };

impl Revision {
    /// The address at which sidecars reach it.
    pub fn discovery_address(&self) -> String {
        format!("{}:{}", self.host, 15012 + self.offset)
    }

    /// The name of the ConfigMap with its mesh configuration.
    pub fn config_map(&self) -> String {
        if self.name == DEFAULT.name { "istio".to_owned() } else { format!("istio-{}", self.name) }
    }
}
