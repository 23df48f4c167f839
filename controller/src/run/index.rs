//! An index of what objects mention. A change of one object concerns the few others that mention
//! the same hosts.

use std::collections::BTreeSet;

use crate::inventory::NamespacedName;
use crate::validate::host::HostName;
use crate::validate::mentions::Mentions;

use super::names::{ObjectKey, ObjectKind};

/// The [`Mentions`] of an object in a compact form: a set allocates room for eleven entries where
/// most often there is one.
#[derive(Clone, Default)]
pub struct Mentioned {
    /// Hosts that the object governs.
    pub claims: Box<[HostName]>,
    /// Hosts to which the object routes.
    pub leads: Box<[HostName]>,
    /// Secrets that the object names.
    pub secrets: Box<[NamespacedName]>,
}

impl From<Mentions> for Mentioned {
    fn from(mentions: Mentions) -> Mentioned {
        Mentioned {
            claims: mentions.claims.into_iter().collect(),
            leads: mentions.leads.into_iter().collect(),
            secrets: mentions.secrets.into_iter().collect(),
        }
    }
}

/// Host, namespace of the object, object.
type HostEntries = BTreeSet<(String, String, ObjectKey)>;

/// Objects by the hosts and Secrets that they mention.
#[derive(Default)]
pub struct MentionIndex {
    claimers: HostEntries,
    leaders: HostEntries,
    secret_users: BTreeSet<(NamespacedName, ObjectKey)>,
    secrets_version: u64,
}

impl MentionIndex {
    /// Adds an object.
    pub fn add(&mut self, key: &ObjectKey, mentioned: &Mentioned) {
        for (entries, names) in [(&mut self.claimers, &mentioned.claims), (&mut self.leaders, &mentioned.leads)] {
            entries.extend(names.iter().map(|name| (name.host.clone(), key.name.namespace.clone(), key.clone())));
        }
        self.secrets_version += u64::from(!mentioned.secrets.is_empty());
        self.secret_users.extend(mentioned.secrets.iter().map(|secret| (secret.clone(), key.clone())));
    }

    /// Removes an object that was added with these mentions.
    pub fn remove(&mut self, key: &ObjectKey, mentioned: &Mentioned) {
        for (entries, names) in [(&mut self.claimers, &mentioned.claims), (&mut self.leaders, &mentioned.leads)] {
            for name in names {
                entries.remove(&(name.host.clone(), key.name.namespace.clone(), key.clone()));
            }
        }
        for secret in &mentioned.secrets {
            self.secrets_version += 1;
            self.secret_users.remove(&(secret.clone(), key.clone()));
        }
    }

    /// A number that changes whenever the result of [`MentionIndex::secrets`] may have changed.
    pub fn secrets_version(&self) -> u64 {
        self.secrets_version
    }

    /// The Secrets that objects name.
    pub fn secrets(&self) -> BTreeSet<NamespacedName> {
        self.secret_users.iter().map(|(secret, _)| secret.clone()).collect()
    }

    /// The objects that name a Secret.
    pub fn users_of(&self, secret: &NamespacedName) -> impl Iterator<Item = &ObjectKey> + use<'_> {
        let (from, secret) = ((secret.clone(), ObjectKey::FIRST), secret.clone());
        range(&self.secret_users, move |(known, _)| *known == secret, from).map(|(_, key)| key)
    }

    /// The objects that govern a host or route to it.
    pub fn of_host(&self, host: &str) -> impl Iterator<Item = &ObjectKey> + use<'_> {
        of_host(&self.claimers, host).chain(of_host(&self.leaders, host)).map(|entry| &entry.2)
    }

    /// The objects whose evaluation a change of this object concerns.
    pub fn affected_by(&self, key: &ObjectKey, mentioned: &Mentioned) -> Vec<ObjectKey> {
        let namespace = &key.name.namespace;
        let mut found: Vec<ObjectKey> = Vec::new();
        for name in &mentioned.claims {
            // An object in the namespace that owns the host concerns the objects of all
            // namespaces.
            let is_owner = name.namespace() == Some(namespace);
            let near = |entry: &&(String, String, ObjectKey)| is_owner || entry.1 == *namespace;
            found.extend(of_host(&self.claimers, &name.host).filter(near).map(|entry| entry.2.clone()));
            if key.kind == ObjectKind::Destination || is_owner {
                found.extend(of_host(&self.leaders, &name.host).filter(near).map(|entry| entry.2.clone()));
            }
        }
        found
    }

    /// The objects that have to be validated together with this one, itself among them.
    pub fn neighbours(&self, key: &ObjectKey, mentioned: &Mentioned) -> BTreeSet<ObjectKey> {
        let mut neighbours = BTreeSet::from([key.clone()]);
        let namespace = &key.name.namespace;
        for name in &mentioned.claims {
            for namespace in std::iter::once(namespace.as_str()).chain(name.namespace()) {
                neighbours.extend(in_namespace(&self.claimers, &name.host, namespace).cloned());
            }
        }
        let is_other = |other: &ObjectKey| other.name.namespace != *namespace;
        for name in &mentioned.leads {
            for namespace in std::iter::once(namespace.as_str()).chain(name.namespace()) {
                // RedisDestinations say how the host is reached; its owner's RedisService,
                // whether others may route there.
                let found = in_namespace(&self.claimers, &name.host, namespace);
                neighbours.extend(found.filter(|key| key.kind == ObjectKind::Destination || is_other(key)).cloned());
            }
        }
        neighbours
    }
}

fn range<T: Ord>(set: &BTreeSet<T>, within: impl Fn(&T) -> bool, from: T) -> impl Iterator<Item = &T> {
    set.range(from..).take_while(move |entry| within(entry))
}

fn of_host<'a>(set: &'a HostEntries, host: &str) -> impl Iterator<Item = &'a (String, String, ObjectKey)> + use<'a> {
    let (from, host) = ((host.to_owned(), String::new(), ObjectKey::FIRST), host.to_owned());
    range(set, move |entry| entry.0 == host, from)
}

fn in_namespace<'a>(
    set: &'a HostEntries,
    host: &str,
    namespace: &str,
) -> impl Iterator<Item = &'a ObjectKey> + use<'a> {
    let from = (host.to_owned(), namespace.to_owned(), ObjectKey::FIRST);
    let (host, namespace) = (host.to_owned(), namespace.to_owned());
    range(set, move |entry| entry.0 == host && entry.1 == namespace, from).map(|entry| &entry.2)
}
