//! The objects of a run as their owners have written them, and what follows from them.

use serde_json::{Value, json};

use super::behaviour::{Behaviour, HOSTS, LOCKED};

/// The Kubernetes namespace of everything.
pub const NAMESPACE: &str = "chaos";

/// The login that rules ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// None.
    Nothing,
    /// A password in the object.
    Plain(String),
    /// That of the Secret of the host's clients.
    Secret,
}

/// Where rules lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leads {
    /// To the host itself.
    Home,
    /// To another host.
    To(usize),
    /// Keys that begin with `x-` to another host.
    Split(usize),
}

/// A RedisService.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// The name of the object.
    pub name: String,
    /// The login.
    pub asked: Asked,
    /// The routes.
    pub leads: Leads,
}

impl Rules {
    /// The manifest for a host.
    pub fn manifest(&self, host: usize) -> Value {
        let auth = match &self.asked {
            Asked::Nothing => json!({}),
            Asked::Plain(password) => json!({ "auth": { "plain": { "password": password } } }),
            Asked::Secret => json!({ "auth": { "secret": { "name": clients_secret(host) } } }),
        };
        let to = |target: usize| json!({ "route": { "host": fqdn(HOSTS[target]) } });
        let routes = match self.leads {
            Leads::Home => json!([]),
            Leads::To(target) => json!([to(target)]),
            Leads::Split(target) => {
                let mut split = to(target);
                split["match"] = json!({ "key": { "prefix": "x-" } });
                json!([split, to(host)])
            }
        };
        json!({
            "apiVersion": "redis.aeraki.io/v1alpha1",
            "kind": "RedisService",
            "metadata": { "name": self.name, "namespace": NAMESPACE },
            "spec": { "host": [fqdn(HOSTS[host])], "settings": auth, "redis": routes },
        })
    }

    fn targets(&self, host: usize) -> [usize; 2] {
        match self.leads {
            Leads::Home => [host; 2],
            Leads::To(target) => [target; 2],
            Leads::Split(target) => [host, target],
        }
    }
}

/// All objects.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    /// The last number of each host's ClusterIP, while it has a Service.
    pub services: [Option<u8>; 3],
    /// The rules of each host.
    pub rules: [Option<Rules>; 3],
    /// The password in the Secret of each host's clients.
    pub secrets: [Option<String>; 3],
    /// Whether there is a RedisDestination of the locked host.
    pub has_destination: bool,
    /// The password in the Secret of the RedisDestination.
    pub login: Option<String>,
}

impl Objects {
    /// The behaviour of a host according to its objects, and whether they are without errors.
    pub fn behaviour(&self, host: usize) -> (Behaviour, bool) {
        let Some(rules) = &self.rules[host] else {
            let is_valid = host != LOCKED || self.is_destination_valid();
            return (Behaviour::plain(host), is_valid);
        };
        let password = match &rules.asked {
            Asked::Nothing => None,
            Asked::Plain(password) => Some(password.clone()),
            Asked::Secret => self.secrets[host].clone(),
        };
        let targets = rules.targets(host);
        let has_login = rules.asked != Asked::Secret || password.is_some();
        let concerned = || targets.into_iter().chain([host]);
        let are_there = concerned().all(|target| self.services[target].is_some());
        let can_log_in = !concerned().any(|target| target == LOCKED) || self.is_destination_valid();
        (Behaviour { password, targets }, has_login && are_there && can_log_in)
    }

    /// The behaviour of a host, unless its rules ask for a password that nobody knows.
    pub fn sayable(&self, host: usize) -> Option<Behaviour> {
        let asks = self.rules[host].as_ref().is_some_and(|rules| rules.asked == Asked::Secret);
        (!asks || self.secrets[host].is_some()).then(|| self.behaviour(host).0)
    }

    /// True if there is no RedisDestination with errors.
    pub fn is_destination_valid(&self) -> bool {
        !self.has_destination || (self.login.is_some() && self.services[LOCKED].is_some())
    }
}

/// The full name of a host.
pub fn fqdn(host: &str) -> String {
    format!("{host}.{NAMESPACE}.svc.cluster.local")
}

/// The name of the Secret of a host's clients.
pub fn clients_secret(host: usize) -> String {
    format!("clients-of-{}", HOSTS[host])
}

/// The name of the Secret of the RedisDestination.
pub const LOGIN_SECRET: &str = "login";

/// The manifest of a Secret with a password.
pub fn secret(name: &str, password: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": { "name": name, "namespace": NAMESPACE },
        "stringData": { "password": password },
    })
}

/// The manifest of the RedisDestination.
pub fn destination() -> Value {
    json!({
        "apiVersion": "redis.aeraki.io/v1alpha1",
        "kind": "RedisDestination",
        "metadata": { "name": HOSTS[LOCKED], "namespace": NAMESPACE },
        "spec": {
            "host": fqdn(HOSTS[LOCKED]),
            "trafficPolicy": { "connectionPool": { "redis": { "auth": { "secret": { "name": LOGIN_SECRET } } } } },
        },
    })
}

/// The manifests of a Service and its endpoint.
pub fn service(name: &str, address: u8, pod: u8) -> [Value; 2] {
    [
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": { "name": name, "namespace": NAMESPACE },
            "spec": { "clusterIP": format!("10.96.0.{address}"), "ports": [{ "name": "tcp-redis", "port": 6379 }] },
        }),
        json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": format!("{name}-1"),
                "namespace": NAMESPACE,
                "labels": { "kubernetes.io/service-name": name },
            },
            "addressType": "IPv4",
            "ports": [{ "name": "tcp-redis", "port": 6379, "protocol": "TCP" }],
            "endpoints": [{ "addresses": [format!("10.244.0.{pod}")], "conditions": { "ready": true } }],
        }),
    ]
}
