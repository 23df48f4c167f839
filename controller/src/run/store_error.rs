//! Objects of Istio's that the store can't take in.

use std::fmt;

use crate::inventory::NamespacedName;

/// The object because of which a change can't be taken in.
#[derive(Debug)]
pub enum StoreError {
    /// A ServiceEntry doesn't have the shape that Istio's schema gives it.
    ServiceEntry(NamespacedName, serde_json::Error),
    /// A DestinationRule doesn't have the shape that Istio's schema gives it.
    DestinationRule(NamespacedName, serde_json::Error),
    /// A Sidecar doesn't have the shape that Istio's schema gives it.
    Sidecar(NamespacedName, serde_json::Error),
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreError::Sidecar(name, error) => write!(f, "Sidecar {name} can't be read: {error}"),
            StoreError::ServiceEntry(name, error) => write!(f, "ServiceEntry {name} can't be read: {error}"),
            StoreError::DestinationRule(name, error) => {
                write!(f, "DestinationRule {name} can't be read: {error}")
            }
        }
    }
}
