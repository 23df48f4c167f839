//! Objects of Istio's that the store can't take in.

use std::fmt;

use crate::inventory::NamespacedName;

/// The object because of which a change can't be taken in: it doesn't have the shape that Istio's schema
/// gives it.
#[derive(Debug)]
pub struct StoreError {
    /// Its kind.
    pub kind: &'static str,
    /// The object.
    pub name: NamespacedName,
    /// What is wrong with it.
    pub error: serde_json::Error,
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} can't be read: {}", self.kind, self.name, self.error)
    }
}
