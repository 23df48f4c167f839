//! What the controller writes back, the same for both kinds.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// What became of this object.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResourceStatus {
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

/// True if both say the same, whenever they said it.
pub fn is_same(a: &ResourceStatus, b: &ResourceStatus) -> bool {
    let said = |status: &ResourceStatus| {
        let conditions = status
            .conditions
            .iter()
            .map(|condition| Condition { last_transition_time: Time(Timestamp::UNIX_EPOCH), ..condition.clone() });
        ResourceStatus { conditions: conditions.collect(), ..status.clone() }
    };
    said(a) == said(b)
}
