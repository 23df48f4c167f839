//! EnvoyFilters of users that say something of `tcp_proxy`, in whose place the rules of a host may put
//! another filter (<https://istio.io/latest/docs/reference/config/networking/envoy-filter/>).

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;

use crate::namespaced_name::NamespacedName;

/// The name of the filter at the end of Istio's filter chains.
pub const TCP_PROXY: &str = "envoy.filters.network.tcp_proxy";

/// The label by which redis-mesh recognises what it has written itself.
const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "redis-mesh");

/// The fields of an EnvoyFilter that are used.
#[derive(Clone, Debug, Deserialize)]
pub struct UserFilter {
    /// The metadata.
    pub metadata: ObjectMeta,
    #[serde(default)]
    spec: FilterSpec,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct FilterSpec {
    priority: i32,
    config_patches: Vec<FilterPatch>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct FilterPatch {
    apply_to: String,
    r#match: PatchMatch,
    patch: PatchOperation,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct PatchMatch {
    context: String,
    listener: ListenerMatch,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ListenerMatch {
    name: String,
    port_number: u16,
    filter_chain: ChainMatch,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct ChainMatch {
    filter: NameMatch,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct NameMatch {
    name: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct PatchOperation {
    operation: String,
}

/// The listeners whose `tcp_proxy` a patch is about; an empty name and a port of 0 mean any.
#[derive(Clone, Debug, PartialEq, Eq)]
struct PatchedListeners {
    name: String,
    port: u16,
}

impl FilterPatch {
    /// The listeners in which the patch has no effect once `tcp_proxy` is replaced by a patch of the priority
    /// `replaced_at`; none for patches that keep their effect, or are about other things.
    fn lost(&self, priority: i32, replaced_at: i32) -> Option<PatchedListeners> {
        let listener = &self.r#match.listener;
        let is_about = self.apply_to == "NETWORK_FILTER" && listener.filter_chain.filter.name == TCP_PROXY;
        let is_outbound = matches!(self.r#match.context.as_str(), "" | "ANY" | "SIDECAR_OUTBOUND");
        let is_lost = match self.patch.operation.as_str() {
            "MERGE" | "REPLACE" => true,
            // What is inserted before the replacement stays.
            "INSERT_BEFORE" | "INSERT_AFTER" => priority > replaced_at,
            _ => false,
        };
        let lost = || PatchedListeners { name: listener.name.clone(), port: listener.port_number };
        (is_about && is_outbound && is_lost).then(lost)
    }
}

/// The EnvoyFilters that lose by rules which replace `tcp_proxy`.
#[derive(Clone, Debug, Default)]
pub struct UserFilters(BTreeMap<NamespacedName, Vec<PatchedListeners>>);

impl UserFilters {
    /// Adds an EnvoyFilter, or replaces it, given the priority of the patches that replace `tcp_proxy`. True if
    /// that makes a difference.
    pub fn add(&mut self, filter: &UserFilter, replaced_at: i32) -> bool {
        let key = NamespacedName::of(&filter.metadata);
        let (label, ours) = MANAGED_BY;
        if filter.metadata.labels.as_ref().and_then(|labels| labels.get(label)).is_some_and(|value| value == ours) {
            return self.remove(&key);
        }
        let patches = filter.spec.config_patches.iter();
        let lost: Vec<_> = patches.filter_map(|patch| patch.lost(filter.spec.priority, replaced_at)).collect();
        if lost.is_empty() {
            return self.remove(&key);
        }
        self.0.insert(key, lost.clone()).as_ref() != Some(&lost)
    }

    /// Removes an EnvoyFilter. True if that makes a difference.
    pub fn remove(&mut self, key: &NamespacedName) -> bool {
        self.0.remove(key).is_some()
    }

    /// The keys of these EnvoyFilters.
    pub fn keys(&self) -> impl Iterator<Item = &NamespacedName> {
        self.0.keys()
    }

    /// Those about a listener of this port.
    pub fn of<'a>(&'a self, listener: &'a str, port: u16) -> impl Iterator<Item = &'a NamespacedName> {
        let is_about = move |patched: &PatchedListeners| {
            (patched.name.is_empty() || patched.name == listener) && (patched.port == 0 || patched.port == port)
        };
        self.0.iter().filter(move |(_, lost)| lost.iter().any(is_about)).map(|(key, _)| key)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn lost(priority: i32, patch: serde_json::Value, operation: &str, listener: &str) -> bool {
        let mut filters = UserFilters::default();
        let mut patch = patch;
        patch["patch"] = json!({"operation": operation});
        let spec = json!({"priority": priority, "configPatches": [patch]});
        let object = json!({"metadata": {"namespace": "shop", "name": "mine"}, "spec": spec});
        filters.add(&serde_json::from_value(object).unwrap(), 1000);
        filters.of(listener, 6379).count() > 0
    }

    fn on(listener: serde_json::Value, context: &str) -> serde_json::Value {
        let mut listener = listener;
        listener["filterChain"] = json!({"filter": {"name": TCP_PROXY}});
        json!({"applyTo": "NETWORK_FILTER", "match": {"context": context, "listener": listener}})
    }

    #[test]
    fn what_is_said_of_tcp_proxy_is_lost() {
        let any = || on(json!({}), "SIDECAR_OUTBOUND");
        for (priority, operation, is_lost) in [
            (0, "MERGE", true),
            (2000, "MERGE", true),
            (0, "REPLACE", true),
            (0, "INSERT_BEFORE", false),
            (1000, "INSERT_BEFORE", false),
            (1001, "INSERT_BEFORE", true),
            (1001, "INSERT_AFTER", true),
            (0, "REMOVE", false),
        ] {
            assert_eq!(lost(priority, any(), operation, "10.96.0.22_6379"), is_lost, "{operation} at {priority}");
        }
    }

    #[test]
    fn a_patch_is_about_the_listeners_that_it_names() {
        let is_lost = |patch| lost(0, patch, "MERGE", "10.96.0.22_6379");
        assert!(is_lost(on(json!({"name": "10.96.0.22_6379"}), "ANY")) && is_lost(on(json!({"portNumber": 6379}), "")));
        assert!(!is_lost(on(json!({"name": "10.96.0.21_6379"}), "ANY")));
        assert!(!is_lost(on(json!({"portNumber": 6380}), "ANY")));
        for context in ["SIDECAR_INBOUND", "GATEWAY"] {
            assert!(!is_lost(on(json!({}), context)), "{context}");
        }
        let mut other = on(json!({}), "ANY");
        other["match"]["listener"]["filterChain"]["filter"]["name"] = json!("envoy.filters.network.rbac");
        assert!(!is_lost(other));
    }

    #[test]
    fn ours_are_no_users() {
        let mut filters = UserFilters::default();
        let mut patch = on(json!({}), "ANY");
        patch["patch"] = json!({"operation": "MERGE"});
        let object = |labels| {
            let metadata = json!({"namespace": "istio-system", "name": "x", "labels": labels});
            serde_json::from_value(json!({"metadata": metadata, "spec": {"configPatches": [patch]}})).unwrap()
        };
        assert!(filters.add(&object(json!({})), 1000) && !filters.add(&object(json!({})), 1000));
        assert!(filters.add(&object(json!({"app.kubernetes.io/managed-by": "redis-mesh"})), 1000));
        assert!(filters.keys().next().is_none());
    }
}
