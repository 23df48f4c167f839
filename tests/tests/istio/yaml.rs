//! Kubernetes manifests as YAML documents.

use anyhow::{Context, Result};
use redis_mesh_tests::workspace;
use serde_json::Value;

/// Parses all documents of a text except the empty ones.
pub fn documents(text: &str) -> Result<Vec<Value>> {
    let parse = |document: &str| {
        serde_saphyr::from_str::<Value>(document).with_context(|| format!("this isn't YAML:\n{document}"))
    };
    let documents: Result<Vec<Value>> = text.split("\n---\n").map(parse).collect();
    Ok(documents?.into_iter().filter(|document| !document.is_null()).collect())
}

/// Parses the only document of a file in the checkout.
pub fn file(path: &str) -> Result<Value> {
    let text = std::fs::read_to_string(workspace::root().join(path)).with_context(|| format!("can't read {path}"))?;
    serde_saphyr::from_str(&text).with_context(|| format!("{path} isn't YAML"))
}

/// Returns `Kind namespace/name` of an object.
pub fn title(document: &Value) -> String {
    let metadata = &document["metadata"];
    let field = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    format!("{} {}/{}", field(&document["kind"]), field(&metadata["namespace"]), field(&metadata["name"]))
}

/// Returns all strings in a document.
pub fn texts(value: &Value) -> Vec<&str> {
    match value {
        Value::String(text) => vec![text],
        Value::Array(items) => items.iter().flat_map(texts).collect(),
        Value::Object(fields) => fields.values().flat_map(texts).collect(),
        _ => Vec::new(),
    }
}

/// Whether a document has a null, which a template leaves for a missing value.
pub fn has_null(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.iter().any(has_null),
        Value::Object(fields) => fields.values().any(has_null),
        _ => false,
    }
}
