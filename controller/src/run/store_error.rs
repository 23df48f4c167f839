//! Objects of Istio's that the store can't take in.

use std::fmt;

use crate::inventory::NamespacedName;

/// Why a change can't be taken in.
#[derive(Debug)]
pub enum StoreError {
    /// A ServiceEntry doesn't have the shape that Istio's schema gives it.
    UnreadableServiceEntry(NamespacedName, serde_json::Error),
    /// A DestinationRule doesn't have the shape that Istio's schema gives it.
    UnreadableDestinationRule(NamespacedName, serde_json::Error),
    /// A Sidecar doesn't have the shape that Istio's schema gives it.
    UnreadableSidecar(NamespacedName, serde_json::Error),
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreError::UnreadableSidecar(name, error) => write!(f, "Sidecar {name} can't be read: {error}"),
            StoreError::UnreadableServiceEntry(name, error) => write!(f, "ServiceEntry {name} can't be read: {error}"),
            StoreError::UnreadableDestinationRule(name, error) => {
                write!(f, "DestinationRule {name} can't be read: {error}")
            }
        }
    }
}
