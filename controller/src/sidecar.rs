//! Istio's Sidecars: the hosts that they import into the proxies of a namespace
//! (<https://istio.io/latest/docs/reference/config/networking/sidecar/>).

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::namespaced_name::NamespacedName;

/// The fields of a Sidecar that are used.
#[derive(Clone, Debug, Deserialize)]
pub struct Sidecar {
    /// The metadata.
    pub metadata: ObjectMeta,
    #[serde(default)]
    spec: SidecarSpec,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct SidecarSpec {
    workload_selector: Option<IgnoredAny>,
    egress: Vec<SidecarEgress>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct SidecarEgress {
    hosts: Vec<String>,
    port: Option<EgressPort>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct EgressPort {
    number: u16,
}

/// The hosts that one Sidecar imports.
#[derive(Clone, Debug, PartialEq, Eq)]
struct SidecarImports {
    /// True for some pods of the namespace only.
    is_of_some_pods: bool,
    /// Namespaces and names of hosts, each with the only port for which they are imported. None where the
    /// Sidecar says nothing of them, and all hosts are imported.
    hosts: Option<Vec<(String, String, Option<u16>)>>,
}

impl SidecarImports {
    fn of(sidecar: &Sidecar) -> SidecarImports {
        let egress = &sidecar.spec.egress;
        let pairs = egress.iter().flat_map(|egress| {
            egress.hosts.iter().map(|text| {
                let (namespace, host) = text.split_once('/').unwrap_or(("*", text));
                (namespace.to_owned(), host.to_ascii_lowercase(), egress.port.as_ref().map(|port| port.number))
            })
        });
        let hosts = (!egress.is_empty()).then(|| pairs.collect());
        SidecarImports { is_of_some_pods: sidecar.spec.workload_selector.is_some(), hosts }
    }

    /// True if clients in `clients` get a host of a namespace.
    fn import(&self, host: &ImportedHost<'_>, clients: &str) -> bool {
        let Some(hosts) = &self.hosts else { return true };
        hosts.iter().any(|(namespace, name, port)| {
            let is_there = match namespace.as_str() {
                "*" => true,
                "." => host.namespace == clients,
                other => other == host.namespace,
            };
            let is_named = match name.strip_prefix('*') {
                Some(end) => host.host.ends_with(end),
                None => name == host.host,
            };
            is_there && is_named && port.is_none_or(|port| port == host.port)
        })
    }
}

/// A host that clients need.
pub struct ImportedHost<'a> {
    /// The name.
    pub host: &'a str,
    /// The namespace of its Service or ServiceEntry.
    pub namespace: &'a str,
    /// The port.
    pub port: u16,
}

/// The Sidecars of a mesh.
#[derive(Clone, Debug, Default)]
pub struct Sidecars(BTreeMap<NamespacedName, SidecarImports>);

impl Sidecars {
    /// Adds a Sidecar, or replaces it. True if it imports other hosts than before.
    pub fn add(&mut self, sidecar: &Sidecar) -> bool {
        let imports = SidecarImports::of(sidecar);
        let before = self.0.insert(NamespacedName::of(&sidecar.metadata), imports.clone());
        before.as_ref() != Some(&imports)
    }

    /// Removes a Sidecar. True if there was one.
    pub fn remove(&mut self, key: &NamespacedName) -> bool {
        self.0.remove(key).is_some()
    }

    /// The keys of all Sidecars.
    pub fn keys(&self) -> impl Iterator<Item = &NamespacedName> {
        self.0.keys()
    }

    /// The namespaces with Sidecars of their own, each once.
    pub fn namespaces(&self) -> impl Iterator<Item = &str> {
        let mut last = None;
        self.0.keys().map(|key| key.namespace.as_str()).filter(move |name| last.replace(*name) != Some(*name))
    }

    /// The Sidecars that apply to clients in a namespace and don't import a host: those of the
    /// namespace, and where each of them is for some pods, that of the root namespace for all.
    pub fn lacking(&self, host: &ImportedHost<'_>, clients: &str, root: &str) -> Vec<&NamespacedName> {
        let of = |namespace: &str| {
            let from = NamespacedName::new(namespace, "");
            self.0.range(from.clone()..).take_while(move |(key, _)| key.namespace == from.namespace)
        };
        let has_own = of(clients).any(|(_, imports)| !imports.is_of_some_pods);
        let of_root = of(root).filter(|(_, imports)| !has_own && clients != root && !imports.is_of_some_pods);
        of(clients).chain(of_root).filter(|(_, imports)| !imports.import(host, clients)).map(|(key, _)| key).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn sidecar(namespace: &str, name: &str, spec: serde_json::Value) -> Sidecar {
        serde_json::from_value(json!({"metadata": {"namespace": namespace, "name": name}, "spec": spec})).unwrap()
    }

    fn lacking(sidecars: &Sidecars, host: &str, namespace: &str) -> Vec<String> {
        let host = ImportedHost { host, namespace, port: 6379 };
        sidecars.lacking(&host, "shop", "istio-system").into_iter().map(NamespacedName::to_string).collect()
    }

    #[test]
    fn patterns_of_hosts() {
        let host = "redis.data.svc.cluster.local";
        for (pattern, is_imported) in [
            ("*/*", true),
            ("data/*", true),
            ("data/redis.data.svc.cluster.local", true),
            ("*/*.data.svc.cluster.local", true),
            ("./*", false),
            ("~/*", false),
            ("shop/*", false),
            ("data/other.data.svc.cluster.local", false),
            ("*/*.shop.svc.cluster.local", false),
        ] {
            let mut sidecars = Sidecars::default();
            sidecars.add(&sidecar("shop", "default", json!({"egress": [{"hosts": [pattern]}]})));
            assert_eq!(lacking(&sidecars, host, "data").is_empty(), is_imported, "{pattern}");
        }
        let mut sidecars = Sidecars::default();
        sidecars.add(&sidecar("shop", "default", json!({})));
        assert!(lacking(&sidecars, host, "data").is_empty());
        for (port, is_imported) in [(6379, true), (6380, false)] {
            let egress =
                json!({"egress": [{"port": {"number": port, "protocol": "TCP", "name": "x"}, "hosts": ["*/*"]}]});
            sidecars.add(&sidecar("shop", "default", egress));
            assert_eq!(lacking(&sidecars, host, "data").is_empty(), is_imported, "{port}");
        }
    }

    #[test]
    fn the_root_namespaces_sidecar_applies_where_there_is_no_other() {
        let mut sidecars = Sidecars::default();
        let own = || json!({"egress": [{"hosts": ["./*"]}]});
        assert!(sidecars.add(&sidecar("istio-system", "default", own())));
        assert!(!sidecars.add(&sidecar("istio-system", "default", own())));
        assert_eq!(lacking(&sidecars, "r", "data"), ["istio-system/default"]);
        assert!(lacking(&sidecars, "r", "shop").is_empty());
        let some = json!({"workloadSelector": {"labels": {"app": "a"}}, "egress": [{"hosts": ["~/*"]}]});
        sidecars.add(&sidecar("shop", "some", some));
        assert_eq!(lacking(&sidecars, "r", "data"), ["shop/some", "istio-system/default"]);
        sidecars.add(&sidecar("shop", "default", json!({"egress": [{"hosts": ["*/*"]}]})));
        assert_eq!(lacking(&sidecars, "r", "data"), ["shop/some"]);
        assert_eq!(sidecars.namespaces().collect::<Vec<_>>(), ["istio-system", "shop"]);
    }
}
