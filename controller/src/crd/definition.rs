//! The CustomResourceDefinitions, generated from the types.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::Value;

use super::destination::{self, RedisDestination};
use super::service::{self, RedisService};

/// The definitions, in the order in which they are printed.
pub fn definitions() -> [Value; 2] {
    [
        definition(&RedisService::crd(), service::DESCRIPTION),
        definition(&RedisDestination::crd(), destination::DESCRIPTION),
    ]
}

/// The schema of a whole object of a kind, by which [`crate::schema`] checks manifests.
pub fn schema(definition: &Value) -> &Value {
    &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
}

/// The definition as a document, without the generator's words about Rust.
fn definition(generated: &CustomResourceDefinition, description: &str) -> Value {
    let mut definition = serde_json::to_value(generated).unwrap_or_default();
    definition["metadata"]["labels"] = serde_json::json!({"app.kubernetes.io/part-of": "redis-mesh"});
    let schema = &mut definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    schema["description"] = description.into();
    plain(schema);
    definition
}

/// Adapts a generated schema to Kubernetes: optional fields may be missing but not null, which
/// `has` in CEL takes for a value, and integers have formats that Kubernetes knows.
fn plain(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            if fields.get("nullable").is_some_and(Value::is_boolean) {
                fields.shift_remove("nullable");
            }
            if let Some(Value::Array(values)) = fields.get_mut("enum") {
                values.retain(|value| !value.is_null());
            }
            if fields.get("format").is_some_and(|format| format == "uint32") {
                fields.insert("format".to_owned(), "int64".into());
            }
            for bound in ["minimum", "maximum"] {
                if let Some(value) = fields.get(bound).and_then(Value::as_f64)
                    && value.fract() == 0.0
                {
                    fields.insert(bound.to_owned(), (value as i64).into());
                }
            }
            fields.values_mut().for_each(plain);
        }
        Value::Array(items) => items.iter_mut().for_each(plain),
        _ => {}
    }
}
