//! Precedence between objects that name the same host.
//!
//! In another namespace than the host's, an object governs clients only while the host's own
//! namespace has no object for the host. So nobody can redirect the clients of others. Of two
//! objects for the same clients, the older has precedence.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Resource;

use crate::crd::{RedisDestination, RedisService};
use crate::diagnostic::{Code, Diagnostics, FieldReporter, Loaded, Problem, Subject};

use super::host::{self, HostName};
use super::options::ValidateOptions;
use super::scope::{self, namespace, subject};

/// A host and the namespace of the object that names it.
type ClaimKey = (String, String);

/// The objects that govern hosts; objects are numbers of their position in the input.
#[derive(Default)]
pub struct Claims {
    services: BTreeMap<ClaimKey, usize>,
    destinations: BTreeMap<ClaimKey, usize>,
    /// The hosts that each RedisService governs, with the fields that name them.
    of_services: Vec<Vec<(String, HostName)>>,
    /// The host of each RedisDestination, unless another object has precedence.
    of_destinations: Vec<Option<HostName>>,
    /// Hosts whose owners ask their clients for a password, with the objects that say so.
    guarded: BTreeMap<String, Subject>,
    /// For each RedisDestination, whether it alone governs the clients of its host.
    implicit: Vec<bool>,
}

impl Claims {
    /// Settles which object governs which host, and reports the objects that don't govern a host
    /// that they name.
    pub fn settle(
        services: &[Arc<Loaded<RedisService>>],
        destinations: &[Arc<Loaded<RedisDestination>>],
        options: &ValidateOptions,
        diagnostics: &mut Diagnostics,
    ) -> Claims {
        let mut claims = Claims {
            of_services: vec![Vec::new(); services.len()],
            of_destinations: vec![None; destinations.len()],
            implicit: vec![false; destinations.len()],
            ..Claims::default()
        };
        // First within each namespace, then between namespaces: by then it is known what the
        // hosts' owners claim.
        claims.claim_services(services, options, diagnostics);
        claims.claim_destinations(destinations, options, diagnostics);
        claims.yield_services(services, destinations, diagnostics);
        claims.yield_destinations(destinations, diagnostics);
        claims
    }

    fn claim_services(
        &mut self,
        services: &[Arc<Loaded<RedisService>>],
        options: &ValidateOptions,
        diagnostics: &mut Diagnostics,
    ) {
        for index in by_age(services) {
            let loaded = &services[index];
            let (subject, namespace) = (subject(loaded), namespace(loaded));
            for (position, text) in loaded.object.spec.host.iter().enumerate().filter(|(_, text)| !text.is_empty()) {
                let field = format!("spec.host[{position}]");
                let Some(name) = resolve(text, &namespace, options, &mut diagnostics.at(&subject, &field)) else {
                    continue;
                };
                match self.services.get(&(name.host.clone(), namespace.clone())) {
                    Some(other) if *other == index => {
                        let message = format!("names {} twice", name.host);
                        diagnostics.add(&subject, field, Problem::new(Code::DuplicateHost, message, "remove one"));
                    }
                    Some(other) => {
                        diagnostics.add(&subject, field, taken(&name, &scope::subject(&services[*other])));
                    }
                    None => {
                        self.services.insert((name.host.clone(), namespace.clone()), index);
                        self.of_services[index].push((field, name));
                    }
                }
            }
        }
    }

    fn claim_destinations(
        &mut self,
        destinations: &[Arc<Loaded<RedisDestination>>],
        options: &ValidateOptions,
        diagnostics: &mut Diagnostics,
    ) {
        for index in by_age(destinations) {
            let loaded = &destinations[index];
            let (subject, namespace) = (subject(loaded), namespace(loaded));
            let text = &loaded.object.spec.host;
            if text.is_empty() {
                continue;
            }
            let field = &mut diagnostics.at(&subject, "spec.host");
            let Some(name) = resolve(text, &namespace, options, field) else { continue };
            match self.destinations.get(&(name.host.clone(), namespace.clone())) {
                Some(other) => field.add(taken(&name, &scope::subject(&destinations[*other]))),
                None => {
                    self.destinations.insert((name.host.clone(), namespace), index);
                    self.of_destinations[index] = Some(name);
                }
            }
        }
    }

    /// Takes hosts from RedisServices of other namespaces than the host's, where an object of the
    /// host's governs it.
    fn yield_services(
        &mut self,
        services: &[Arc<Loaded<RedisService>>],
        destinations: &[Arc<Loaded<RedisDestination>>],
        diagnostics: &mut Diagnostics,
    ) {
        for (index, loaded) in services.iter().enumerate() {
            let (subject, namespace) = (subject(loaded), namespace(loaded));
            for (field, name) in std::mem::take(&mut self.of_services[index]) {
                let owner = owner_key(&name).filter(|(_, owner)| *owner != namespace);
                let service = owner.as_ref().and_then(|key| self.services.get(key));
                let destination = owner.as_ref().and_then(|key| self.destinations.get(key));
                let other = service
                    .map(|index| scope::subject(&services[*index]))
                    .or_else(|| destination.map(|index| scope::subject(&destinations[*index])));
                if let Some(other) = other {
                    diagnostics.add(&subject, field, owned(&name, &other));
                    continue;
                }
                let asks = loaded.object.spec.settings.as_ref().is_some_and(|settings| settings.auth.is_some());
                if asks && name.namespace() == Some(namespace.as_str()) {
                    self.guarded.insert(name.host.clone(), subject.clone());
                }
                self.of_services[index].push((field, name));
            }
        }
    }

    /// Takes hosts from RedisDestinations of other namespaces than the host's, where one of the
    /// host's is about it.
    fn yield_destinations(&mut self, destinations: &[Arc<Loaded<RedisDestination>>], diagnostics: &mut Diagnostics) {
        for (index, loaded) in destinations.iter().enumerate() {
            let (subject, namespace) = (subject(loaded), namespace(loaded));
            let Some(name) = self.of_destinations[index].clone() else { continue };
            let owner = owner_key(&name).filter(|(_, owner)| *owner != namespace);
            if let Some(other) = owner.as_ref().and_then(|key| self.destinations.get(key)) {
                diagnostics.add(&subject, "spec.host", owned(&name, &scope::subject(&destinations[*other])));
                self.of_destinations[index] = None;
                self.destinations.remove(&(name.host, namespace));
                continue;
            }
            let is_governed = owner.is_some_and(|key| self.services.contains_key(&key))
                || self.services.contains_key(&(name.host, namespace));
            self.implicit[index] = !is_governed;
        }
    }

    /// The hosts that a RedisService governs, each with the field that names it.
    pub fn of_service(&self, index: usize) -> impl Iterator<Item = (&str, &HostName)> {
        self.of_services[index].iter().map(|(field, name)| (field.as_str(), name))
    }

    /// The host that a RedisDestination is about.
    pub fn of_destination(&self, index: usize) -> Option<&HostName> {
        self.of_destinations[index].as_ref()
    }

    /// The host whose clients a RedisDestination governs alone.
    pub fn implicit(&self, index: usize) -> Option<&HostName> {
        self.of_destinations[index].as_ref().filter(|_| self.implicit[index])
    }

    /// The object by which a host's owner asks its clients for a password.
    pub fn guarded(&self, host: &str) -> Option<&Subject> {
        self.guarded.get(host)
    }

    /// The RedisDestination that holds for a host where rules in `namespace` name it: the
    /// owner's, else their own.
    pub fn destination(&self, name: &HostName, namespace: &str) -> Option<usize> {
        let of = |namespace: &str| self.destinations.get(&(name.host.clone(), namespace.to_owned()));
        name.namespace().and_then(of).or_else(|| of(namespace)).copied()
    }
}

fn owner_key(name: &HostName) -> Option<ClaimKey> {
    name.namespace().map(|owner| (name.host.clone(), owner.to_owned()))
}

fn resolve(text: &str, namespace: &str, options: &ValidateOptions, field: &mut FieldReporter<'_>) -> Option<HostName> {
    host::name(text, namespace, &options.cluster_domain).map_err(|problem| field.add(problem)).ok()
}

fn taken(name: &HostName, other: &Subject) -> Problem {
    let message =
        format!("{} is already governed by {}, which is older or comes first", name.host, scope::described(other));
    Problem::new(Code::HostTaken, message, "remove it from one of the two")
}

fn owned(name: &HostName, other: &Subject) -> Problem {
    let message = format!(
        "{} is governed by {}, in the namespace of the Service, which has precedence",
        name.host,
        scope::described(other)
    );
    Problem::new(Code::HostOwned, message, "remove it here or there")
}

/// The oldest first. What has no creation time is only about to be created.
fn by_age<K: Resource>(objects: &[Arc<Loaded<K>>]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..objects.len()).collect();
    let created = |index: &usize| -> Option<Time> { objects[*index].object.meta().creation_timestamp.clone() };
    order.sort_by(|a, b| match (created(a), created(b)) {
        (Some(first), Some(second)) => first.cmp(&second),
        (Some(_), None) => std::cmp::Ordering::Less,
        (None, Some(_)) => std::cmp::Ordering::Greater,
        (None, None) => std::cmp::Ordering::Equal,
    });
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnostic::Origin;
    use serde_json::json;

    const HOST: &str = "r.data.svc.cluster.local";

    fn service(index: usize, namespace: &str, created: Option<&str>) -> Arc<Loaded<RedisService>> {
        let metadata = json!({"name": format!("s{index}"), "namespace": namespace, "creationTimestamp": created});
        let object = json!({"apiVersion": "x", "kind": "x", "metadata": metadata, "spec": {"host": [HOST]}});
        let origin = Origin { index, ..Origin::default() };
        Arc::new(Loaded { origin, object: serde_json::from_value(object).unwrap() })
    }

    fn destination(index: usize, namespace: &str) -> Arc<Loaded<RedisDestination>> {
        let metadata = json!({"name": format!("d{index}"), "namespace": namespace});
        let object = json!({"apiVersion": "x", "kind": "x", "metadata": metadata, "spec": {"host": HOST}});
        let origin = Origin { index, ..Origin::default() };
        Arc::new(Loaded { origin, object: serde_json::from_value(object).unwrap() })
    }

    /// Which services and which destinations govern the clients of the host, and how many errors
    /// there are.
    fn settled(
        services: &[Arc<Loaded<RedisService>>],
        destinations: &[Arc<Loaded<RedisDestination>>],
    ) -> (Vec<usize>, Vec<usize>, usize) {
        let mut diagnostics = Diagnostics::default();
        let claims = Claims::settle(services, destinations, &ValidateOptions::default(), &mut diagnostics);
        (
            (0..services.len()).filter(|index| claims.of_service(*index).next().is_some()).collect(),
            (0..destinations.len()).filter(|index| claims.implicit(*index).is_some()).collect(),
            diagnostics.sorted().len(),
        )
    }

    #[test]
    fn the_older_wins() {
        let (old, new) = (Some("2026-01-01T00:00:00Z"), Some("2026-01-02T00:00:00Z"));
        for (first, second, winner) in
            [(old, new, 0), (new, old, 1), (None, old, 1), (old, None, 0), (None, None, 0), (old, old, 0)]
        {
            let services = [service(0, "data", first), service(1, "data", second)];
            assert_eq!(settled(&services, &[]), (vec![winner], vec![], 1), "{first:?} {second:?}");
        }
    }

    #[test]
    fn the_owners_namespace_has_precedence() {
        let age = Some("2020-01-01T00:00:00Z");
        assert_eq!(settled(&[service(0, "app", age), service(1, "data", None)], &[]), (vec![1], vec![], 1));
        assert_eq!(settled(&[service(0, "app", age)], &[destination(1, "data")]), (vec![], vec![0], 1));
        assert_eq!(settled(&[], &[destination(0, "app"), destination(1, "data")]), (vec![], vec![1], 1));
    }

    #[test]
    fn consumers_govern_their_own_clients_each() {
        assert_eq!(settled(&[service(0, "app", None), service(1, "web", None)], &[]), (vec![0, 1], vec![], 0));
        assert_eq!(settled(&[service(0, "app", None)], &[destination(1, "app")]), (vec![0], vec![], 0));
        assert_eq!(settled(&[service(0, "app", None)], &[destination(1, "web")]), (vec![0], vec![0], 0));
        // As a destination for its own namespace's rules, beside the owner's rules for the host.
        assert_eq!(settled(&[service(0, "data", None)], &[destination(1, "app")]), (vec![0], vec![], 0));
    }
}
