//! Whose clients an object governs, and which of several objects has precedence.
//!
//! An object in the namespace of the Service that it names governs every client of it. In another namespace it governs the
//! clients of that namespace only, and only while the Service's own namespace has no object for that host. So nobody can
//! redirect somebody else's clients. Of two objects for the same clients, the older wins.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Resource;

use crate::crd::{RedisDestination, RedisService};
use crate::diagnostic::{Diagnostics, Loaded, Reason, Subject};

use super::host::{self, HostName};
use super::options::ValidateOptions;

/// Whose clients.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ClientScope {
    /// Everybody's.
    Mesh,
    /// Those in one namespace.
    Namespace(String),
}

impl ClientScope {
    /// Of an object in `namespace` about a host.
    pub fn of(name: &HostName, namespace: &str) -> ClientScope {
        match name.namespace() {
            Some(owner) if owner == namespace => ClientScope::Mesh,
            // A host outside of the cluster belongs to nobody in it.
            _ => ClientScope::Namespace(namespace.to_owned()),
        }
    }

    /// True if clients in a namespace belong to it.
    pub fn includes(&self, namespace: &str) -> bool {
        match self {
            ClientScope::Mesh => true,
            ClientScope::Namespace(own) => own == namespace,
        }
    }
}

impl fmt::Display for ClientScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClientScope::Mesh => f.write_str("every client"),
            ClientScope::Namespace(namespace) => write!(f, "the clients in namespace {namespace}"),
        }
    }
}

/// Names an object in messages.
pub fn subject<K: Resource<DynamicType = ()>>(loaded: &Loaded<K>) -> Subject {
    let meta = loaded.object.meta();
    let name =
        format!("{}/{}", meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default());
    Subject { origin: loaded.origin.clone(), kind: K::kind(&()).into_owned(), name }
}

/// The namespace of an object.
pub fn namespace<K: Resource<DynamicType = ()>>(loaded: &Loaded<K>) -> String {
    loaded.object.meta().namespace.clone().unwrap_or_default()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Claim {
    object: usize,
}

/// Host and the namespace of the object.
type ClaimKey = (String, String);

/// Which object speaks for which host.
#[derive(Default)]
pub struct Claims {
    services: BTreeMap<ClaimKey, Claim>,
    destinations: BTreeMap<ClaimKey, Claim>,
    /// For each RedisService, the hosts that it governs, with their fields.
    of_services: Vec<Vec<(String, HostName)>>,
    /// For each RedisDestination, its host, unless another object has precedence.
    of_destinations: Vec<Option<HostName>>,
    /// Hosts whose owners ask their clients for a password, with the objects that say so.
    guarded: BTreeMap<String, Subject>,
    /// For each RedisDestination, whether it alone governs the clients of its host.
    implicit: Vec<bool>,
}

impl Claims {
    /// Settles who governs what, and reports who doesn't.
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
        let mut named = vec![Vec::new(); services.len()];
        for index in by_age(services) {
            let loaded = &services[index];
            let (subject, namespace) = (subject(loaded), namespace(loaded));
            for (position, text) in loaded.object.spec.host.iter().enumerate().filter(|(_, text)| !text.is_empty()) {
                let field = format!("spec.host[{position}]");
                let Some(name) = resolve(text, &namespace, options, &subject, &field, diagnostics) else { continue };
                match claims.services.get(&(name.host.clone(), namespace.clone())) {
                    Some(other) if other.object == index => {
                        diagnostics.at(&subject, field).invalid(format!("names {} twice", name.host));
                    }
                    Some(other) => {
                        let other = self::subject(&services[other.object]);
                        diagnostics.add(&subject, field, Reason::Conflict, taken(&name, &other));
                    }
                    None => {
                        claims.services.insert((name.host.clone(), namespace.clone()), Claim { object: index });
                        named[index].push((field, name));
                    }
                }
            }
        }
        for index in by_age(destinations) {
            let loaded = &destinations[index];
            let (subject, namespace) = (subject(loaded), namespace(loaded));
            let text = &loaded.object.spec.host;
            if text.is_empty() {
                continue;
            }
            let Some(name) = resolve(text, &namespace, options, &subject, "spec.host", diagnostics) else { continue };
            match claims.destinations.get(&(name.host.clone(), namespace.clone())) {
                Some(other) => {
                    let other = self::subject(&destinations[other.object]);
                    diagnostics.add(&subject, "spec.host", Reason::Conflict, taken(&name, &other));
                }
                None => {
                    claims.destinations.insert((name.host.clone(), namespace), Claim { object: index });
                    claims.of_destinations[index] = Some(name);
                }
            }
        }
        // Now that it is known what the owners of the hosts say, the other namespaces' objects.
        for (index, loaded) in services.iter().enumerate() {
            let (subject, namespace) = (subject(loaded), namespace(loaded));
            for (field, name) in std::mem::take(&mut named[index]) {
                let owner = owner_key(&name).filter(|(_, owner)| *owner != namespace);
                let service = owner
                    .as_ref()
                    .and_then(|key| claims.services.get(key))
                    .map(|claim| self::subject(&services[claim.object]));
                let destination = owner
                    .as_ref()
                    .and_then(|key| claims.destinations.get(key))
                    .map(|claim| self::subject(&destinations[claim.object]));
                match service.or(destination) {
                    Some(other) => diagnostics.add(&subject, field, Reason::Conflict, owned(&name, &other)),
                    None => {
                        let asks = loaded.object.spec.settings.as_ref().is_some_and(|settings| settings.auth.is_some());
                        if asks && name.namespace() == Some(namespace.as_str()) {
                            claims.guarded.insert(name.host.clone(), subject.clone());
                        }
                        claims.of_services[index].push((field, name));
                    }
                }
            }
        }
        for (index, loaded) in destinations.iter().enumerate() {
            let (subject, namespace) = (subject(loaded), namespace(loaded));
            let Some(name) = claims.of_destinations[index].clone() else { continue };
            let owner = owner_key(&name).filter(|(_, owner)| *owner != namespace);
            if let Some(other) = owner.as_ref().and_then(|key| claims.destinations.get(key)) {
                let other = self::subject(&destinations[other.object]);
                diagnostics.add(&subject, "spec.host", Reason::Conflict, owned(&name, &other));
                claims.of_destinations[index] = None;
                claims.destinations.remove(&(name.host, namespace));
                continue;
            }
            let governed = owner.is_some_and(|key| claims.services.contains_key(&key))
                || claims.services.contains_key(&(name.host, namespace));
            claims.implicit[index] = !governed;
        }
        claims
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

    /// The RedisDestination that holds for a host where rules in `namespace` name it: the owner's, else their own.
    pub fn destination(&self, name: &HostName, namespace: &str) -> Option<usize> {
        let of = |namespace: &str| self.destinations.get(&(name.host.clone(), namespace.to_owned()));
        name.namespace().and_then(of).or_else(|| of(namespace)).map(|claim| claim.object)
    }
}

fn owner_key(name: &HostName) -> Option<ClaimKey> {
    name.namespace().map(|owner| (name.host.clone(), owner.to_owned()))
}

fn resolve(
    text: &str,
    namespace: &str,
    options: &ValidateOptions,
    subject: &Subject,
    field: &str,
    diagnostics: &mut Diagnostics,
) -> Option<HostName> {
    host::name(text, namespace, &options.cluster_domain)
        .map_err(|message| diagnostics.at(subject, field).invalid(message))
        .ok()
}

/// Names another object in a message.
pub fn place_of(other: &Subject) -> String {
    match other.origin.file.as_str() {
        "" => format!("{} {}", other.kind, other.name),
        file => format!("{} {} ({file}:{})", other.kind, other.name, other.origin.line),
    }
}

fn taken(name: &HostName, other: &Subject) -> String {
    format!(
        "{} is already governed by {}, which is older or comes first; remove it from one of the two",
        name.host,
        place_of(other)
    )
}

fn owned(name: &HostName, other: &Subject) -> String {
    format!(
        "{} is governed by {}, in the namespace of the Service, which has precedence; remove it here or there",
        name.host,
        place_of(other)
    )
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

    /// Which services and which destinations govern the clients of the host, and how many errors there are.
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
