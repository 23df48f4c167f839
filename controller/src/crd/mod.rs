//! The two kinds as Kubernetes stores them. No invariants here: [`crate::validate`] makes them into types that hold.
//!
//! The definitions that are applied to a cluster are generated from these types, and so is the check of a manifest's
//! shape in [`crate::schema`]: a field exists in one place.

pub mod destination;
pub mod service;
pub mod status;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{CustomResourceExt, KubeSchema};
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use destination::RedisDestination;
pub use service::RedisService;

/// The API group of both kinds.
pub const GROUP: &str = "redis.aeraki.io";
/// The only version of both kinds.
pub const API_VERSION: &str = "redis.aeraki.io/v1alpha1";

/// Go's duration syntax, in which Istio's and Aeraki's durations are written.
const DURATION: &str =
    r"^([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|ms|s|m|h)(([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|ms|s|m|h))*$";

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

/// The definition as a document, rid of what the generator says in Rust's terms.
fn definition(generated: &CustomResourceDefinition, description: &str) -> Value {
    let mut definition = serde_json::to_value(generated).unwrap_or_default();
    definition["metadata"]["labels"] = serde_json::json!({"app.kubernetes.io/part-of": "redis-mesh"});
    let schema = &mut definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    schema["description"] = description.into();
    plain(schema);
    definition
}

/// Optional fields may be left out, but not null (CEL's `has` takes a null for a value); integers are written as such, in
/// formats that Kubernetes knows.
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

/// Credentials: in a Secret of the object's own namespace, or written out. Exactly one of the two.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.secret) != has(self.plain)").message("give exactly one of secret and plain"))]
pub struct Auth {
    /// A Secret in the namespace of this object that holds the credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<SecretReference>,
    /// Credentials written out. Everybody who may read this object can read them; prefer `secret`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plain: Option<PlainAuth>,
}

/// Names a Secret and the keys in it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretReference {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Key of the password. By default `password`, or `token` where there is no `password`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub password_field: Option<String>,
    /// Key of the user name. By default `username`, if the Secret has it; without a user name the login is that of
    /// Redis's `default` user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub username_field: Option<String>,
}

/// Credentials written out.
#[derive(Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlainAuth {
    /// The password.
    #[schemars(length(min = 1))]
    pub password: String,
    /// The user name; by default Redis's `default` user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
}

impl std::fmt::Debug for PlainAuth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PlainAuth").field("username", &self.username).field("password", &"[redacted]").finish()
    }
}
