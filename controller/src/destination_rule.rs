//! Istio's DestinationRules: what users say of the connections to a host
//! (<https://istio.io/latest/docs/reference/config/networking/destination-rule/>).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;
use serde_json::Value;

use crate::exports::DefaultExports;
use crate::namespaced_name::NamespacedName;

/// The fields of a DestinationRule that are used. What they hold is looked at where a host needs
/// it, since the rules of most hosts are never needed.
#[derive(Clone, Debug, Deserialize)]
pub struct DestinationRule {
    /// The metadata.
    pub metadata: ObjectMeta,
    /// The content.
    #[serde(default)]
    pub spec: RuleSpec,
}

/// The content of a DestinationRule.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RuleSpec {
    /// The host, or a wildcard.
    pub host: String,
    /// The policy for all ports.
    pub traffic_policy: Option<Value>,
    /// Versions of the host with policies of their own.
    pub subsets: Vec<RuleSubset>,
    /// The namespaces whose clients the rule is for; empty for all.
    pub export_to: Vec<String>,
    /// The pods that the rule is for; none for all.
    pub workload_selector: Option<Value>,
}

/// A version of a host with a policy of its own.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RuleSubset {
    /// The policy.
    pub traffic_policy: Option<Value>,
}

/// A DestinationRule that the inventory keeps.
#[derive(Debug, PartialEq)]
pub struct KnownRule {
    /// The rule.
    pub key: NamespacedName,
    /// The time of its creation, as text that sorts; empty in files.
    pub created: String,
    /// Its hosts.
    pub hosts: RuleHosts,
    /// The content.
    pub spec: RuleSpec,
}

impl KnownRule {
    /// True if the rule is for all clients of its hosts: those of all namespaces, and all of their
    /// pods.
    pub fn is_for_everybody(&self, defaults: &DefaultExports) -> bool {
        let words = if self.spec.export_to.is_empty() { &defaults.rules } else { &self.spec.export_to };
        let is_exported = words.is_empty() || words.iter().any(|to| to == "*");
        is_exported && self.spec.workload_selector.is_none()
    }
}

/// The hosts of a DestinationRule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RuleHosts {
    /// One host by its whole name.
    Name(String),
    /// A Service in the namespace of the rule.
    Service(NamespacedName),
    /// All hosts whose names end so.
    Ending(String),
}

impl RuleHosts {
    fn of(host: &str, namespace: &str) -> RuleHosts {
        let host = host.to_ascii_lowercase();
        match host.strip_prefix('*') {
            Some(ending) => RuleHosts::Ending(ending.to_owned()),
            None if host.contains('.') => RuleHosts::Name(host),
            None => RuleHosts::Service(NamespacedName::new(namespace, &host)),
        }
    }

    /// True if the rule is about a host, which `service` tells if it is a Service.
    pub fn hold(&self, host: &str, service: Option<&NamespacedName>) -> bool {
        match self {
            RuleHosts::Name(name) => name == host,
            RuleHosts::Service(key) => Some(key) == service,
            RuleHosts::Ending(ending) => host.ends_with(ending),
        }
    }

    /// How the names of the hosts end, where the rule has a wildcard.
    pub fn wildcard(&self) -> Option<&str> {
        match self {
            RuleHosts::Name(_) | RuleHosts::Service(_) => None,
            RuleHosts::Ending(ending) => Some(ending),
        }
    }
}

/// DestinationRules by their hosts.
#[derive(Clone, Debug, Default)]
pub struct DestinationRules {
    rules: BTreeMap<NamespacedName, Arc<KnownRule>>,
    by_hosts: BTreeMap<RuleHosts, BTreeSet<NamespacedName>>,
}

impl DestinationRules {
    /// Adds a rule, or replaces it. Returns the hosts that it had and those that it has; nothing
    /// if the rule is the same as before.
    pub fn add(&mut self, rule: DestinationRule) -> Vec<RuleHosts> {
        let key = NamespacedName::of(&rule.metadata);
        let created = rule.metadata.creation_timestamp.map(|time| time.0.to_string()).unwrap_or_default();
        let hosts = RuleHosts::of(&rule.spec.host, &key.namespace);
        let known = KnownRule { key: key.clone(), created, hosts: hosts.clone(), spec: rule.spec };
        if self.rules.get(&key).is_some_and(|old| **old == known) {
            return Vec::new();
        }
        let mut concerned: Vec<RuleHosts> = self.remove(&key).into_iter().collect();
        self.by_hosts.entry(hosts.clone()).or_default().insert(key.clone());
        self.rules.insert(key, Arc::new(known));
        concerned.push(hosts);
        concerned
    }

    /// Removes a rule. Returns the hosts that it had.
    pub fn remove(&mut self, key: &NamespacedName) -> Option<RuleHosts> {
        let hosts = self.rules.remove(key)?.hosts.clone();
        if let Some(rules) = self.by_hosts.get_mut(&hosts) {
            rules.remove(key);
            if rules.is_empty() {
                self.by_hosts.remove(&hosts);
            }
        }
        Some(hosts)
    }

    /// The keys of all rules.
    pub fn keys(&self) -> impl Iterator<Item = &NamespacedName> {
        self.rules.keys()
    }

    /// The rules about a host, which `service` tells if it is a Service: those that name it, then
    /// those with wildcards, the longest first; among equals the oldest first.
    pub fn of(&self, host: &str, service: Option<&NamespacedName>) -> Vec<Arc<KnownRule>> {
        let exact = [Some(RuleHosts::Name(host.to_owned())), service.cloned().map(RuleHosts::Service)];
        let mut hosts: Vec<&RuleHosts> =
            exact.iter().flatten().filter_map(|hosts| self.by_hosts.get_key_value(hosts)).map(|(key, _)| key).collect();
        let wildcards = self.by_hosts.range(RuleHosts::Ending(String::new())..);
        hosts.extend(wildcards.map(|(key, _)| key).filter(|key| key.hold(host, service)));
        let keys = hosts.into_iter().filter_map(|hosts| self.by_hosts.get(hosts)).flatten();
        let mut found: Vec<Arc<KnownRule>> = keys.filter_map(|key| self.rules.get(key)).cloned().collect();
        found.sort_by_cached_key(|rule| {
            let length = rule.hosts.wildcard().map_or(usize::MAX, str::len);
            (std::cmp::Reverse(length), rule.created.clone(), rule.key.clone())
        });
        found
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rule(namespace: &str, name: &str, host: &str) -> DestinationRule {
        let created = format!("2026-01-01T00:00:{:02}Z", 59 - name.len());
        let metadata = json!({"namespace": namespace, "name": name, "creationTimestamp": created});
        serde_json::from_value(json!({"metadata": metadata, "spec": {"host": host}})).unwrap()
    }

    #[test]
    fn the_most_specific_and_oldest_rules_come_first() {
        let mut rules = DestinationRules::default();
        for (namespace, name, host) in [
            ("data", "a", "*.local"),
            ("data", "b", "redis"),
            ("shop", "c", "redis"),
            ("shop", "d", "Redis.data.svc.cluster.local"),
            ("data", "e", "*.data.svc.cluster.local"),
            ("data", "older", "redis"),
            ("data", "g", "*"),
            ("data", "h", "*.example.com"),
            // A name with a dot is a whole name.
            ("data", "i", "redis.data"),
        ] {
            rules.add(rule(namespace, name, host));
        }
        let of = |host: &str, service: Option<&NamespacedName>| {
            let found = rules.of(host, service);
            found.iter().map(|rule| rule.key.name.clone()).collect::<Vec<_>>().join(" ")
        };
        let redis = NamespacedName::new("data", "redis");
        assert_eq!(of("redis.data.svc.cluster.local", Some(&redis)), "older b d e a g");
        assert_eq!(of("cache.example.com", None), "h g");
    }

    #[test]
    fn a_change_concerns_the_hosts_before_and_after() {
        let mut rules = DestinationRules::default();
        let redis = RuleHosts::Service(NamespacedName::new("data", "redis"));
        let all = RuleHosts::Ending(".local".to_owned());
        assert_eq!(rules.add(rule("data", "a", "redis")), std::slice::from_ref(&redis));
        assert_eq!(rules.add(rule("data", "a", "redis")), []);
        assert_eq!(rules.add(rule("data", "a", "*.local")), [redis.clone(), all.clone()]);
        assert!(rules.of("redis.data.svc.cluster.local", None).len() == 1);
        assert_eq!(rules.remove(&NamespacedName::new("data", "a")), Some(all));
        assert!(rules.of("redis.data.svc.cluster.local", None).is_empty() && rules.keys().next().is_none());
    }
}
