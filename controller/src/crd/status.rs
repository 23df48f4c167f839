//! The status that the controller writes, the same for both kinds.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// The result of the object's last reconciliation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResourceStatus {
    /// `Accepted`: the object is valid and no other object has precedence. `ResolvedRefs`: the
    /// objects that it names exist. `Programmed`: a proxy has taken the configuration that follows
    /// from it, or, with the reason `Applied`, it has been written to the mesh. `Warnings`, where there
    /// are any: what is in force as it is written puts data or protection at risk.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// The generation of the object for which this status was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The data paths that serve its hosts: `direct`, `proxy` or `native`; several, separated by
    /// commas, where hosts differ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_path: Option<String>,
}

/// True if both statuses differ in times at most.
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
