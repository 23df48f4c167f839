//! What validation is told besides the objects.

use std::collections::{BTreeMap, BTreeSet};

/// What validation needs to know besides the objects.
#[derive(Clone, Debug)]
pub struct ValidateOptions {
    /// The domain under which hosts are Services.
    pub cluster_domain: String,
    /// Ports of hosts that are no Services, where they are not 6379.
    pub ports: BTreeMap<String, BTreeSet<u16>>,
    /// Who has the dynamic module.
    pub module: ModuleAvailability,
}

/// Who has the dynamic module, without which there is no `native`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ModuleAvailability {
    /// Nobody knows: what is pinned to `native` is served so, nothing else.
    #[default]
    Unknown,
    /// The Envoy for which this is.
    Envoy,
    /// Sidecars that say so by a label of their pods; others are served too.
    Sidecars,
    /// No sidecar has it.
    Nobody,
}

impl Default for ValidateOptions {
    fn default() -> ValidateOptions {
        ValidateOptions {
            cluster_domain: "cluster.local".to_owned(),
            ports: BTreeMap::new(),
            module: ModuleAvailability::default(),
        }
    }
}
