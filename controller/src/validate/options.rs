//! The options of validation.

use std::collections::{BTreeMap, BTreeSet};

/// The options of validation.
#[derive(Clone, Debug)]
pub struct ValidateOptions {
    /// The domain under which hosts are Services.
    pub cluster_domain: String,
    /// The ports of hosts that are no Services, where they aren't 6379.
    pub ports: BTreeMap<String, BTreeSet<u16>>,
    /// The proxies that have the dynamic module.
    pub module: ModuleAvailability,
    /// Istio's root namespace, whose DestinationRules are for all namespaces.
    pub root_namespace: String,
    /// The clock, in seconds since 1970; none where certificates aren't held against it.
    pub clock: Option<fn() -> i64>,
}

/// The clock of the system.
pub fn system_clock() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_secs()).unwrap_or(i64::MAX)
}

/// The proxies that have the dynamic module, which the data path `native` needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ModuleAvailability {
    /// Unknown: hosts that are pinned to `native` are served natively, others are not.
    #[default]
    Unknown,
    /// The standalone Envoy has it.
    Envoy,
    /// Sidecars have it whose pods have the label; other sidecars are served without it.
    Sidecars,
    /// No proxy has it.
    Nobody,
}

impl Default for ValidateOptions {
    fn default() -> ValidateOptions {
        ValidateOptions {
            cluster_domain: "cluster.local".to_owned(),
            ports: BTreeMap::new(),
            module: ModuleAvailability::default(),
            root_namespace: "istio-system".to_owned(),
            clock: None,
        }
    }
}
