//! The kinds that the controller watches, and the selection of the Secrets among them.

use std::collections::{BTreeMap, BTreeSet};

use crate::inventory::NamespacedName;
use crate::render::wasm_plugin;

use super::change::StoreChange;
use super::names::{ObjectKey, ObjectKind};

/// A set of objects that one watch shows.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum WatchSource {
    /// RedisServices or RedisDestinations.
    Objects(ObjectKind),
    /// Services.
    Services,
    /// EndpointSlices.
    Slices,
    /// ServiceEntries.
    Entries,
    /// Rendered objects of a kind.
    Rendered(&'static str),
    /// Secrets.
    Secrets(SecretScope),
}

impl WatchSource {
    /// The plural of the kind, for logs and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            WatchSource::Objects(ObjectKind::Service) => "redisservices",
            WatchSource::Objects(ObjectKind::Destination) => "redisdestinations",
            WatchSource::Services => "services",
            WatchSource::Slices => "endpointslices",
            WatchSource::Entries => "serviceentries",
            WatchSource::Rendered(wasm_plugin::KIND) => "wasmplugins",
            WatchSource::Rendered(_) => "envoyfilters",
            WatchSource::Secrets(_) => "secrets",
        }
    }

    /// True where the kind need not be installed in the cluster.
    pub fn is_optional(&self) -> bool {
        match self {
            WatchSource::Entries | WatchSource::Rendered(_) => true,
            WatchSource::Objects(_) | WatchSource::Services | WatchSource::Slices | WatchSource::Secrets(_) => false,
        }
    }

    /// The change of the store when an object of this source is gone; none for rendered objects,
    /// which the store doesn't keep.
    pub fn removal(&self, name: &NamespacedName) -> Option<StoreChange> {
        let name = name.clone();
        match self {
            WatchSource::Objects(kind) => Some(StoreChange::ObjectGone(ObjectKey { kind: *kind, name })),
            WatchSource::Services => Some(StoreChange::ServiceGone(name)),
            WatchSource::Slices => Some(StoreChange::SliceGone(name)),
            WatchSource::Entries => Some(StoreChange::EntryGone(name)),
            WatchSource::Secrets(_) => Some(StoreChange::SecretGone(name)),
            WatchSource::Rendered(_) => None,
        }
    }
}

/// The Secrets that one watch shows.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SecretScope {
    /// One Secret.
    Name(NamespacedName),
    /// The Secrets of a namespace.
    Namespace(String),
    /// All Secrets.
    All,
}

impl SecretScope {
    /// True if the watch shows the Secret.
    pub fn covers(&self, secret: &NamespacedName) -> bool {
        match self {
            SecretScope::Name(name) => name == secret,
            SecretScope::Namespace(namespace) => *namespace == secret.namespace,
            SecretScope::All => true,
        }
    }
}

/// The number of Secrets named in one namespace above which the whole namespace is watched.
const MAX_NAMES: usize = 16;
/// The number of watches above which all Secrets are watched by one.
const MAX_SCOPES: usize = 128;

/// The scopes that cover the named Secrets and as few others as possible: a watch for each Secret
/// while there are few.
pub fn secret_scopes(named: &BTreeSet<NamespacedName>) -> BTreeSet<SecretScope> {
    let mut names: BTreeMap<&str, usize> = BTreeMap::new();
    for secret in named {
        *names.entry(&secret.namespace).or_default() += 1;
    }
    let scope =
        |secret: &NamespacedName| match names.get(secret.namespace.as_str()).is_some_and(|names| *names > MAX_NAMES) {
            true => SecretScope::Namespace(secret.namespace.clone()),
            false => SecretScope::Name(secret.clone()),
        };
    let scopes: BTreeSet<SecretScope> = named.iter().map(scope).collect();
    if scopes.len() > MAX_SCOPES { BTreeSet::from([SecretScope::All]) } else { scopes }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(namespaces: usize, names: usize) -> BTreeSet<NamespacedName> {
        let names = |namespace: usize| {
            (0..names).map(move |name| NamespacedName::new(&format!("n{namespace}"), &format!("s{name}")))
        };
        (0..namespaces).flat_map(names).collect()
    }

    #[test]
    fn few_secrets_are_watched_each_by_itself() {
        assert_eq!(secret_scopes(&named(0, 0)), BTreeSet::new());
        assert!(secret_scopes(&named(3, MAX_NAMES)).iter().all(|scope| matches!(scope, SecretScope::Name(_))));
        let crowded = secret_scopes(&named(2, MAX_NAMES + 1));
        let namespaces = ["n0", "n1"].map(|namespace| SecretScope::Namespace(namespace.into()));
        assert_eq!(crowded, BTreeSet::from(namespaces));
        assert_eq!(secret_scopes(&named(MAX_SCOPES + 1, 1)), BTreeSet::from([SecretScope::All]));
    }

    #[test]
    fn every_named_secret_is_covered() {
        for (namespaces, names) in [(1, 1), (5, 20), (200, 3), (1, 200)] {
            let named = named(namespaces, names);
            let scopes = secret_scopes(&named);
            assert!(named.iter().all(|key| scopes.iter().any(|scope| scope.covers(key))), "{namespaces} {names}");
        }
    }
}
