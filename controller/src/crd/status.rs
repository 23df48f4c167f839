//! What the controller writes back, the same for both kinds.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// What became of this object.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// `Accepted`: the object is valid and no other object has precedence. `ResolvedRefs`: what it refers to exists.
    /// `Programmed`: what follows from it has been handed to the mesh.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// The generation of the object that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// How the traffic of its hosts is served: `direct`, `proxy` or `native`; several where hosts differ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_path: Option<String>,
}
