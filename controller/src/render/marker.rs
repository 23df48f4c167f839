//! The marker: by it a proxy shows how much of what was written it has got.

use serde_json::{Value, json};

use super::envoy_filter::{self, object, patch};

/// The name of the EnvoyFilter, and of the cluster in it.
pub const NAME: &str = "redis-mesh-marker";
/// The key of our metadata in a cluster.
pub const METADATA: &str = "redis-mesh";
/// The field of the metadata with the number of the batch.
pub const BATCH: &str = "batch";
/// The field of the metadata with the digest of the objects.
const CONTENT: &str = "content";

/// The EnvoyFilter that gives every sidecar the marker of a batch.
pub fn envoy_filter(root_namespace: &str, number: u64, content: &str) -> Value {
    let matches = json!({"context": envoy_filter::CONTEXT});
    let patches = vec![patch("CLUSTER", matches, "ADD", cluster(number, content))];
    object(root_namespace, NAME, "the number of the last batch of changes", patches)
}

/// A cluster without endpoints, to which nothing leads. A number in metadata would be a floating-point
/// one, so it is a text.
pub fn cluster(number: u64, content: &str) -> Value {
    json!({
        "name": NAME,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": NAME},
        "metadata": {"filter_metadata": {METADATA: {BATCH: number.to_string(), CONTENT: content}}},
    })
}
