//! What users' DestinationRules say of a destination. Istio applies them to its own clusters;
//! clusters that redis-mesh adds get from them what can be carried over.
//!
//! As in Istio, the rules of the namespace to which the host belongs come before those of the root
//! namespace, and of one namespace only the most specific rule holds. Rules in other namespaces
//! are for the clients there alone, so a cluster for all clients can't follow them.

use std::sync::Arc;

use serde_json::Value;

use crate::destination_rule::{DestinationRules, KnownRule};
use crate::exports::DefaultExports;
use crate::inventory::NamespacedName;

use super::host::HostName;
use super::policy::TcpOptions;
use super::rule_fields::{self, OutlierOptions, RuleFields};
use super::rule_tls::{self, RuleTls};

/// What DestinationRules say of a destination.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct UserRules {
    /// The rule that holds for all clients.
    pub carried: Option<CarriedRule>,
    /// Rules that hold for some clients only.
    pub partial: Vec<PartialRule>,
    /// True if any of the rules makes Istio's own cluster lead to the address that the client has
    /// connected to.
    pub passes_through: bool,
}

/// A rule that holds for all clients.
#[derive(Clone, Debug, PartialEq)]
pub struct CarriedRule {
    /// The rule.
    pub key: NamespacedName,
    /// TLS; none where the rule doesn't say.
    pub tls: Option<RuleTls>,
    /// The settings of TCP connections.
    pub tcp: TcpOptions,
    /// The detection of servers that fail; none where the rule doesn't say.
    pub outliers: Option<OutlierOptions>,
    /// The fields that can't be carried over.
    pub left: Vec<String>,
}

/// A rule that holds for some clients only.
#[derive(Clone, Debug, PartialEq)]
pub struct PartialRule {
    /// The rule.
    pub key: NamespacedName,
    /// True if it stands in the namespace of the host or in the root namespace.
    pub is_of_owner: bool,
    /// True if it asks for TLS.
    pub asks_for_tls: bool,
}

impl UserRules {
    /// The rule that asks for TLS which can't be carried over, and the field that can't; none if
    /// there is none, or if another rule brings TLS.
    ///
    /// Rules of clients' namespaces don't count: nobody there may stop what the owner's object
    /// does for everybody.
    pub fn lost_tls(&self) -> Option<(&NamespacedName, &str)> {
        match self.carried.as_ref().map(|carried| (&carried.key, &carried.tls)) {
            Some((key, Some(RuleTls::Unknown(field)))) => Some((key, field)),
            Some((_, Some(RuleTls::IstioMutual(_) | RuleTls::Files(_)))) => None,
            Some((_, None | Some(RuleTls::Disabled))) | None => {
                let lost = self.partial.iter().find(|partial| partial.is_of_owner && partial.asks_for_tls);
                lost.map(|partial| (&partial.key, "trafficPolicy.tls"))
            }
        }
    }
}

/// The place of a destination among the rules.
pub struct RulePlace<'a> {
    /// The host.
    pub name: &'a HostName,
    /// The port.
    pub port: u16,
    /// The namespace to which the host belongs, which is that of its Service or ServiceEntry.
    pub owner: Option<&'a str>,
    /// Istio's root namespace.
    pub root: &'a str,
    /// To whom rules are exported that don't say it.
    pub defaults: &'a DefaultExports,
}

/// Reads the rules about a destination; none if there are none.
pub fn read(rules: &DestinationRules, place: &RulePlace<'_>) -> Option<Box<UserRules>> {
    let all = rules.of(&place.name.host, place.name.service.as_ref());
    let mut found = UserRules::default();
    let in_namespace = |namespace: &str| {
        let is_there =
            |rule: &&Arc<KnownRule>| rule.key.namespace == namespace && rule.is_for_everybody(place.defaults);
        let first = all.iter().find(is_there)?;
        // Istio merges the rules for a host, and the first policy holds.
        let is_same = |rule: &&Arc<KnownRule>| {
            rule.hosts.wildcard() == first.hosts.wildcard() && rule.spec.traffic_policy.is_some()
        };
        Some(all.iter().filter(is_there).find(is_same).unwrap_or(first))
    };
    let chosen = place.owner.and_then(in_namespace).or_else(|| in_namespace(place.root));
    for rule in &all {
        let policies = policies(rule, place.port);
        found.passes_through |= policies.iter().any(|policy| policy["loadBalancer"]["simple"] == "PASSTHROUGH");
        let is_of_owner = Some(rule.key.namespace.as_str()) == place.owner || rule.key.namespace.as_str() == place.root;
        if is_of_owner && rule.is_for_everybody(place.defaults) {
            continue;
        }
        if let Some(policy) = policy(rule, place.port) {
            let asks_for_tls = rule_tls::asks_for_tls(&policy["tls"]);
            found.partial.push(PartialRule { key: rule.key.clone(), is_of_owner, asks_for_tls });
        }
    }
    found.carried = chosen.and_then(|rule| Some(carried(&rule.key, policy(rule, place.port)?)));
    let is_empty = found == UserRules::default();
    (!is_empty).then(|| Box::new(found))
}

/// The policy of a rule for a port. As in Istio, what the rule says of the port replaces what it
/// says of all ports, also where it says nothing.
fn policy(rule: &KnownRule, port: u16) -> Option<&Value> {
    let all = rule.spec.traffic_policy.as_ref()?;
    let of_ports = all["portLevelSettings"].as_array().into_iter().flatten();
    Some(of_port(of_ports, port).unwrap_or(all))
}

fn of_port<'a>(mut settings: impl Iterator<Item = &'a Value>, port: u16) -> Option<&'a Value> {
    settings.find(|settings| settings["port"]["number"].as_u64() == Some(u64::from(port)))
}

/// The policies of a rule that may hold for a port: its own, and those of its subsets.
fn policies(rule: &KnownRule, port: u16) -> Vec<&Value> {
    let of_subsets = rule.spec.subsets.iter().filter_map(|subset| subset.traffic_policy.as_ref());
    let all: Vec<&Value> = rule.spec.traffic_policy.iter().chain(of_subsets).collect();
    let of_ports = all.iter().filter_map(|policy| {
        let settings = policy["portLevelSettings"].as_array()?;
        of_port(settings.iter(), port)
    });
    all.iter().copied().chain(of_ports).collect()
}

fn carried(key: &NamespacedName, policy: &Value) -> CarriedRule {
    let mut left = Vec::new();
    let mut fields = RuleFields::new(policy, "trafficPolicy", &mut left);
    fields.only(&["tls", "connectionPool", "outlierDetection", "portLevelSettings", "port"]);
    let tls = fields.below("tls").map(|mut fields| rule_tls::read(&mut fields));
    let mut tcp = TcpOptions::default();
    if let Some(mut pool) = fields.below("connectionPool") {
        pool.only(&["tcp"]);
        tcp = pool.below("tcp").map(|mut fields| rule_fields::tcp(&mut fields)).unwrap_or_default();
    }
    let outliers = fields.below("outlierDetection").map(|mut fields| rule_fields::outliers(&mut fields));
    CarriedRule { key: key.clone(), tls, tcp, outliers, left }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::validate::rule_tls::PeerNames;

    fn rules(all: &[Value]) -> DestinationRules {
        let mut rules = DestinationRules::default();
        for rule in all {
            rules.add(serde_json::from_value(rule.clone()).unwrap());
        }
        rules
    }

    fn read(all: &[Value]) -> Option<UserRules> {
        read_with(all, &DefaultExports::default())
    }

    fn read_with(all: &[Value], defaults: &DefaultExports) -> Option<UserRules> {
        let service = Some(NamespacedName::new("data", "redis"));
        let name = HostName { host: "redis.data.svc.cluster.local".to_owned(), service };
        let place = RulePlace { name: &name, port: 6379, owner: Some("data"), root: "istio-system", defaults };
        super::read(&rules(all), &place).map(|found| *found)
    }

    fn rule(key: &str, host: &str, policy: Value) -> Value {
        let (namespace, name) = key.split_once('/').unwrap();
        json!({"metadata": {"namespace": namespace, "name": name}, "spec": {"host": host, "trafficPolicy": policy}})
    }

    fn tcp(connections: u32) -> Value {
        json!({"connectionPool": {"tcp": {"maxConnections": connections}}})
    }

    fn carried(all: &[Value]) -> Option<(String, Option<u32>)> {
        read(all)?.carried.map(|carried| (carried.key.to_string(), carried.tcp.max_connections))
    }

    const HOST: &str = "redis.data.svc.cluster.local";

    #[test]
    fn the_namespace_of_the_host_comes_before_the_root_namespace() {
        let (own, root) = (rule("data/a", "*.local", tcp(1)), rule("istio-system/b", HOST, tcp(2)));
        assert_eq!(carried(&[own.clone(), root.clone()]), Some(("data/a".to_owned(), Some(1))));
        assert_eq!(carried(std::slice::from_ref(&root)), Some(("istio-system/b".to_owned(), Some(2))));
        assert_eq!(carried(&[own, rule("data/c", "redis", tcp(3))]), Some(("data/c".to_owned(), Some(3))));
        assert_eq!(read(&[rule("data/d", "another", tcp(4))]), None);
        assert_eq!(read(&[]), None);
    }

    #[test]
    fn rules_for_some_clients_are_not_carried() {
        let mut of_pods = rule("data/pods", "redis", json!({"tls": {"mode": "SIMPLE"}}));
        of_pods["spec"]["workloadSelector"] = json!({"matchLabels": {"app": "a"}});
        let mut kept = rule("istio-system/kept", HOST, tcp(1));
        kept["spec"]["exportTo"] = json!(["."]);
        let of_client = rule("shop/client", HOST, json!({"tls": {"mode": "SIMPLE"}}));
        let found = read(&[of_pods, kept, of_client.clone()]).unwrap();
        assert_eq!(found.carried, None);
        let partial: Vec<_> = found
            .partial
            .iter()
            .map(|partial| (partial.key.name.as_str(), partial.is_of_owner, partial.asks_for_tls))
            .collect();
        assert_eq!(partial, [("pods", true, true), ("kept", true, false), ("client", false, true)]);
        assert_eq!(found.lost_tls().map(|(key, _)| key.name.as_str()), Some("pods"));
        // A tenant's rule stops nobody.
        assert_eq!(read(&[of_client]).unwrap().lost_tls(), None);
    }

    #[test]
    fn a_rule_that_says_nothing_is_exported_as_the_mesh_says() {
        let own = rule("data/own", "redis", tcp(1));
        let mut all = rule("istio-system/all", HOST, tcp(2));
        all["spec"]["exportTo"] = json!(["*"]);
        let defaults = |words: &[&str]| DefaultExports {
            rules: words.iter().map(|word| word.to_string()).collect(),
            // Those of Services have nothing to do with it.
            services: vec![".".to_owned()],
        };
        let carried = |words: &[&str]| read_with(&[own.clone(), all.clone()], &defaults(words)).unwrap();
        assert_eq!(carried(&[]).carried.unwrap().key.name, "own");
        assert_eq!(carried(&["*"]).carried.unwrap().key.name, "own");
        let found = carried(&["."]);
        assert_eq!(found.carried.unwrap().key.name, "all");
        assert_eq!(found.partial.iter().map(|partial| partial.key.name.as_str()).collect::<Vec<_>>(), ["own"]);
    }

    #[test]
    fn what_a_rule_says_of_a_port_replaces_what_it_says_of_all() {
        let policy = |port: u16| {
            let of_port = json!([{"port": {"number": port}, "connectionPool": {"tcp": {"connectTimeout": "1s"}}}]);
            json!({"tls": {"mode": "ISTIO_MUTUAL"}, "portLevelSettings": of_port})
        };
        let found = read(&[rule("data/a", "redis", policy(6379))]).unwrap().carried.unwrap();
        assert_eq!((found.tls, found.tcp.connect_timeout.is_some()), (None, true));
        assert_eq!(found.left, Vec::<String>::new());
        let found = read(&[rule("data/a", "redis", policy(6380))]).unwrap().carried.unwrap();
        assert_eq!(found.tls, Some(RuleTls::IstioMutual(PeerNames::default())));
    }

    #[test]
    fn what_is_left_is_named() {
        let policy = json!({
            "loadBalancer": {"simple": "RANDOM"}, "tunnel": {},
            "connectionPool": {"http": {}, "tcp": {"idleTimeout": "1s", "tcpKeepalive": {"time": "40000s", "probes": 3}}},
            "outlierDetection": {"interval": "0s", "consecutive5xxErrors": 2, "maxEjectionPercent": 101},
        });
        let found = read(&[rule("data/a", "redis", policy)]).unwrap().carried.unwrap();
        let mut left = found.left;
        left.sort();
        let expected = [
            "connectionPool.http",
            "connectionPool.tcp.idleTimeout",
            "connectionPool.tcp.tcpKeepalive.time",
            "loadBalancer",
            "outlierDetection.interval",
            "outlierDetection.maxEjectionPercent",
            "tunnel",
        ];
        assert_eq!(left, expected.map(|field| format!("trafficPolicy.{field}")));
        assert_eq!(found.tcp.keepalive.unwrap().probes, Some(3));
        assert_eq!(found.outliers.unwrap().consecutive_5xx, Some(2));
    }

    #[test]
    fn a_passthrough_anywhere_counts() {
        let passes = |rule: Value| read(&[rule]).is_some_and(|found| found.passes_through);
        let policy = json!({"loadBalancer": {"simple": "PASSTHROUGH"}});
        assert!(passes(rule("data/a", "redis", policy.clone())));
        assert!(passes(rule("shop/a", HOST, policy.clone())));
        let mut of_subset = rule("data/a", "redis", json!({}));
        of_subset["spec"]["subsets"] = json!([{"name": "v1", "trafficPolicy": policy}]);
        assert!(passes(of_subset));
        let of_port = |port: u16| {
            let settings = json!({"port": {"number": port}, "loadBalancer": {"simple": "PASSTHROUGH"}});
            rule("data/a", "redis", json!({"portLevelSettings": [settings]}))
        };
        assert!(passes(of_port(6379)) && !passes(of_port(6380)));
        assert!(!passes(rule("data/a", "redis", json!({"loadBalancer": {"simple": "RANDOM"}}))));
    }

    #[test]
    fn tls() {
        let read_tls = |tls: Value| {
            let found = read(&[rule("data/a", "redis", json!({"tls": tls}))]).unwrap();
            let is_lost = found.lost_tls().is_some();
            (found.carried.unwrap().tls.unwrap(), is_lost)
        };
        assert_eq!(read_tls(json!({})), (RuleTls::Disabled, false));
        let (tls, is_lost) = read_tls(json!({"mode": "SIMPLE", "sni": "r", "subjectAltNames": ["a"]}));
        let RuleTls::Files(files) = tls else { panic!("{tls:?}") };
        assert_eq!(
            (files.server.sni.as_deref(), files.authorities.as_str(), files.verify),
            (Some("r"), "system", true)
        );
        assert!(!is_lost);
        for lost in [
            json!({"mode": "SIMPLE", "credentialName": "c"}),
            json!({"mode": "MUTUAL"}),
            json!({"mode": "MUTUAL", "clientCertificate": "/c~", "privateKey": "/k"}),
            json!({"mode": "NEW"}),
            json!({"mode": "SIMPLE", "sni": "a\nb"}),
            json!({"mode": 7}),
        ] {
            assert!(read_tls(lost.clone()).1, "{lost}");
        }
    }
}
