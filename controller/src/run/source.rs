//! The kinds that the controller watches, and the selection of the Secrets among them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::discovery::DiscoveryChange;
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
    /// DestinationRules.
    Rules,
    /// Sidecars.
    Sidecars,
    /// EnvoyFilters of users.
    UserFilters,
    /// Namespaces.
    Namespaces,
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
            WatchSource::Rules => "destinationrules",
            WatchSource::Sidecars => "sidecars",
            WatchSource::UserFilters => "envoyfilters",
            WatchSource::Namespaces => "namespaces",
            WatchSource::Rendered(wasm_plugin::KIND) => "wasmplugins",
            WatchSource::Rendered(_) => "envoyfilters",
            WatchSource::Secrets(_) => "secrets",
        }
    }

    /// True where the kind need not be installed in the cluster.
    pub fn is_optional(&self) -> bool {
        match self {
            WatchSource::Entries
            | WatchSource::Rules
            | WatchSource::Sidecars
            | WatchSource::UserFilters
            | WatchSource::Rendered(_) => true,
            WatchSource::Objects(_)
            | WatchSource::Services
            | WatchSource::Slices
            | WatchSource::Namespaces
            | WatchSource::Secrets(_) => false,
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
            WatchSource::Rules => Some(StoreChange::RuleGone(name)),
            WatchSource::Sidecars => Some(StoreChange::SidecarGone(name)),
            WatchSource::UserFilters => Some(StoreChange::UserFilterGone(name)),
            WatchSource::Namespaces => Some(StoreChange::Discovery(DiscoveryChange::NamespaceGone(name.name))),
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

impl fmt::Display for SecretScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SecretScope::Name(name) => write!(f, "Secret {name}"),
            SecretScope::Namespace(namespace) => write!(f, "the Secrets of the namespace {namespace}"),
            SecretScope::All => f.write_str("all Secrets"),
        }
    }
}

/// The number of Secrets named in one namespace above which the whole namespace is watched.
const MAX_NAMES: usize = 16;
/// The number of watches above which all Secrets are watched by one.
const MAX_SCOPES: usize = 128;

/// The scopes that cover the named Secrets and as few others as possible: a watch for each Secret
/// while there are few, and wider ones where the API server doesn't forbid them.
pub fn secret_scopes(named: &BTreeSet<NamespacedName>, forbidden: &BTreeSet<SecretScope>) -> BTreeSet<SecretScope> {
    let mut names: BTreeMap<&str, usize> = BTreeMap::new();
    for secret in named {
        *names.entry(&secret.namespace).or_default() += 1;
    }
    let scopes = |most: usize| -> BTreeSet<SecretScope> {
        let scope = |secret: &NamespacedName| {
            let of_namespace = SecretScope::Namespace(secret.namespace.clone());
            let is_crowded = names.get(secret.namespace.as_str()).is_some_and(|names| *names > most);
            if is_crowded && !forbidden.contains(&of_namespace) {
                of_namespace
            } else {
                SecretScope::Name(secret.clone())
            }
        };
        named.iter().map(scope).collect()
    };
    let few = scopes(MAX_NAMES);
    match few.len() > MAX_SCOPES {
        false => few,
        true if !forbidden.contains(&SecretScope::All) => BTreeSet::from([SecretScope::All]),
        // As few as are permitted.
        true => scopes(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret_scopes(named: &BTreeSet<NamespacedName>) -> BTreeSet<SecretScope> {
        super::secret_scopes(named, &BTreeSet::new())
    }

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
    fn what_is_forbidden_is_not_asked_for() {
        let all = SecretScope::All;
        let namespace = |number: usize| SecretScope::Namespace(format!("n{number}"));
        let scopes = super::secret_scopes(&named(2, MAX_NAMES + 1), &BTreeSet::from([namespace(0)]));
        assert!(scopes.contains(&namespace(1)) && !scopes.contains(&namespace(0)));
        assert_eq!(scopes.len(), 1 + MAX_NAMES + 1);
        // Above the bound for all of them, whole namespaces are next, however few names they have.
        let many = named(MAX_SCOPES, 2);
        let scopes = super::secret_scopes(&many, &BTreeSet::from([all.clone()]));
        assert_eq!(scopes, (0..MAX_SCOPES).map(namespace).collect());
        let forbidden = (0..MAX_SCOPES).map(namespace).chain([all]).collect();
        assert_eq!(super::secret_scopes(&many, &forbidden), many.into_iter().map(SecretScope::Name).collect());
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
