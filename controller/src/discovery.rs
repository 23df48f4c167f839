//! The namespaces that istiod looks at: those that Istio's `discoverySelectors` select
//! (<https://istio.io/latest/docs/reference/config/istio.mesh.v1alpha1/#MeshConfig-discovery_selectors>).
//! Of objects in any other namespace it knows nothing.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::core::{ParseExpressionError, Selector, SelectorExt};

/// The labels of a namespace.
pub type NamespaceLabels = BTreeMap<String, String>;

/// Selectors of namespaces: those of each revision of istiod that has any. Of a revision any selector
/// selects a namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiscoverySelectors(Vec<Vec<Selector>>);

impl TryFrom<Vec<LabelSelector>> for DiscoverySelectors {
    type Error = ParseExpressionError;

    fn try_from(selectors: Vec<LabelSelector>) -> Result<DiscoverySelectors, ParseExpressionError> {
        let selectors = selectors.into_iter().map(Selector::try_from).collect::<Result<Vec<_>, _>>()?;
        Ok(DiscoverySelectors(Some(selectors).filter(|selectors| !selectors.is_empty()).into_iter().collect()))
    }
}

impl DiscoverySelectors {
    /// True if every revision of istiod looks at a namespace with these labels.
    pub fn select(&self, labels: &NamespaceLabels) -> bool {
        self.0.iter().all(|selectors| selectors.iter().any(|selector| selector.matches(labels)))
    }

    /// Adds those of another revision.
    pub fn add(&mut self, other: DiscoverySelectors) {
        for selectors in other.0 {
            if !self.0.contains(&selectors) {
                self.0.push(selectors);
            }
        }
    }
}

impl fmt::Display for DiscoverySelectors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of_revision = |selectors: &Vec<Selector>| {
            let texts: Vec<String> = selectors.iter().map(|selector| format!("`{selector}`")).collect();
            texts.join(" or ")
        };
        let texts: Vec<String> = self.0.iter().map(of_revision).collect();
        f.write_str(&texts.join(", and for another revision "))
    }
}

/// A change by which istiod may look at other namespaces.
#[derive(Clone, Debug)]
pub enum DiscoveryChange {
    /// Istio's mesh configuration has these selectors.
    Selectors(DiscoverySelectors),
    /// The namespace exists or has changed, and has these labels.
    Namespace(String, NamespaceLabels),
    /// The namespace was deleted.
    NamespaceGone(String),
}

/// The namespaces of a cluster, and which of them istiod looks at.
#[derive(Clone, Debug, Default)]
pub struct SeenNamespaces {
    selectors: DiscoverySelectors,
    labels: BTreeMap<String, NamespaceLabels>,
}

impl SeenNamespaces {
    /// Takes in a change. True if istiod looks at other namespaces than before.
    pub fn apply(&mut self, change: DiscoveryChange) -> bool {
        match change {
            DiscoveryChange::Selectors(selectors) => self.set_selectors(&selectors),
            DiscoveryChange::Namespace(name, labels) => self.add(&name, labels),
            DiscoveryChange::NamespaceGone(name) => self.remove(&name),
        }
    }

    fn set_selectors(&mut self, selectors: &DiscoverySelectors) -> bool {
        let is_other = self.selectors != *selectors;
        self.selectors.clone_from(selectors);
        is_other
    }

    fn add(&mut self, namespace: &str, labels: NamespaceLabels) -> bool {
        let before = self.is_seen(namespace);
        self.labels.insert(namespace.to_owned(), labels);
        self.is_seen(namespace) != before
    }

    fn remove(&mut self, namespace: &str) -> bool {
        let before = self.is_seen(namespace);
        self.labels.remove(namespace);
        !before
    }

    /// The names of all known namespaces.
    pub fn namespaces(&self) -> impl Iterator<Item = &str> {
        self.labels.keys().map(String::as_str)
    }

    /// True if istiod looks at a namespace, as far as is known.
    pub fn is_seen(&self, namespace: &str) -> bool {
        self.labels.get(namespace).is_none_or(|labels| self.selectors.select(labels))
    }

    /// The selectors.
    pub fn selectors(&self) -> &DiscoverySelectors {
        &self.selectors
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn selectors(value: serde_json::Value) -> DiscoverySelectors {
        serde_json::from_value::<Vec<LabelSelector>>(value).unwrap().try_into().unwrap()
    }

    fn labels(pairs: &[(&str, &str)]) -> NamespaceLabels {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn any_selector_selects_a_namespace_whose_labels_fit_it_as_a_whole() {
        let selectors = selectors(json!([
            {"matchLabels": {"istio": "enabled", "env": "prod"}},
            {"matchExpressions": [{"key": "team", "operator": "In", "values": ["a", "b"]}]},
        ]));
        for (pairs, is_selected) in [
            (&[("istio", "enabled"), ("env", "prod")][..], true),
            (&[("istio", "enabled")], false),
            (&[("team", "b")], true),
            (&[("team", "c")], false),
            (&[], false),
        ] {
            assert_eq!(selectors.select(&labels(pairs)), is_selected, "{pairs:?}");
        }
        assert_eq!(selectors.to_string(), "`env=prod,istio=enabled` or `team in (a,b)`");
        assert!(DiscoverySelectors::default().select(&labels(&[])));
        // As in Istio, an empty selector selects everything.
        assert!(self::selectors(json!([{}])).select(&labels(&[])));
    }

    #[test]
    fn every_revision_has_to_select_a_namespace() {
        let mut both = selectors(json!([{"matchLabels": {"istio": "on"}}]));
        both.add(DiscoverySelectors::default());
        both.add(selectors(json!([{"matchLabels": {"istio": "on"}}])));
        assert_eq!(both.to_string(), "`istio=on`");
        both.add(selectors(json!([{"matchLabels": {"canary": "on"}}])));
        assert!(!both.select(&labels(&[("istio", "on")])) && !both.select(&labels(&[("canary", "on")])));
        assert!(both.select(&labels(&[("istio", "on"), ("canary", "on")])));
        assert_eq!(both.to_string(), "`istio=on`, and for another revision `canary=on`");
    }

    #[test]
    fn what_changes_is_known() {
        let mut discovery = SeenNamespaces::default();
        assert!(!discovery.add("web", labels(&[])));
        assert!(discovery.set_selectors(&selectors(json!([{"matchLabels": {"istio": "on"}}]))));
        assert!(!discovery.set_selectors(&selectors(json!([{"matchLabels": {"istio": "on"}}]))));
        assert!(!discovery.is_seen("web") && discovery.is_seen("unknown"));
        assert!(discovery.add("web", labels(&[("istio", "on")])) && discovery.is_seen("web"));
        assert!(!discovery.add("web", labels(&[("istio", "on"), ("other", "1")])));
        assert!(!discovery.remove("web"));
        assert!(discovery.add("web", labels(&[])) && discovery.remove("web"));
    }
}
