//! The watches of Secrets: only those are opened that show a Secret which an object names.

use std::collections::{BTreeMap, BTreeSet};

use tokio::task::JoinHandle;
use tracing::info;

use crate::inventory::NamespacedName;

use super::names::ObjectKey;
use super::source::{SecretScope, WatchSource, secret_scopes};
use super::store::Store;
use super::watch::WatchFailure;

/// The open watches of Secrets, with what each of them has shown.
#[derive(Default)]
pub struct SecretWatches {
    tasks: BTreeMap<SecretScope, JoinHandle<()>>,
    /// The Secrets that were named when the watches were opened.
    named: BTreeSet<NamespacedName>,
    /// The watches that have neither listed their Secrets nor failed yet.
    unread: BTreeSet<SecretScope>,
    /// Wider watches that the API server has forbidden: narrower ones take their place.
    forbidden: BTreeSet<SecretScope>,
    /// Why watches can't list their Secrets.
    unreadable: BTreeMap<SecretScope, String>,
    /// The version of the set of named Secrets for which the watches were opened.
    version: Option<u64>,
}

impl SecretWatches {
    /// Opens and closes watches so that they show the named Secrets. Returns the sources whose
    /// watches were closed.
    pub fn update(&mut self, store: &Store, open: impl Fn(WatchSource) -> JoinHandle<()>) -> Vec<WatchSource> {
        let version = store.index().secrets_version();
        if self.version.replace(version) == Some(version) {
            return Vec::new();
        }
        let named = store.index().secrets();
        let wanted = secret_scopes(&named, &self.forbidden);
        // A watch of many Secrets may have shown one before it was named, when it was dropped:
        // the watch has to list again.
        let missed = named.difference(&self.named).filter(|secret| !store.has_secret(secret));
        let missed: BTreeSet<&SecretScope> =
            missed.flat_map(|secret| self.tasks.keys().filter(|scope| scope.covers(secret))).collect();
        let is_over = |scope: &&SecretScope| !wanted.contains(*scope) || missed.contains(*scope);
        let over: Vec<SecretScope> = self.tasks.keys().filter(is_over).cloned().collect();
        self.named = named;
        for scope in &over {
            if let Some(task) = self.tasks.remove(scope) {
                task.abort();
            }
            self.unread.remove(scope);
            self.unreadable.remove(scope);
        }
        for scope in wanted {
            if !self.tasks.contains_key(&scope) {
                self.unread.insert(scope.clone());
                self.tasks.insert(scope.clone(), open(WatchSource::Secrets(scope)));
            }
        }
        over.into_iter().map(WatchSource::Secrets).collect()
    }

    /// Records that a watch has listed its Secrets. True if it could not before.
    pub fn listed(&mut self, scope: &SecretScope) -> bool {
        let was_unread = self.unread.remove(scope);
        self.unreadable.remove(scope).is_some() || was_unread
    }

    /// Records that a watch failed. True if it has never listed its Secrets; else the Secrets as
    /// known stay valid.
    pub fn failed(&mut self, scope: &SecretScope, failure: WatchFailure) -> bool {
        let WatchFailure { reason, is_forbidden } = failure;
        if is_forbidden && !matches!(scope, SecretScope::Name(_)) && self.forbidden.insert(scope.clone()) {
            info!(%scope, "this watch of Secrets is forbidden; those that objects name are watched by narrower ones");
            // The next update replaces the watch.
            self.version = None;
        }
        let was_unread = self.unread.remove(scope);
        if was_unread {
            self.unreadable.insert(scope.clone(), reason);
        }
        was_unread
    }

    /// True while any watch has neither listed its Secrets nor failed.
    pub fn is_any_unread(&self) -> bool {
        !self.unread.is_empty()
    }

    /// True if a watch that is about to list its Secrets will show this one.
    pub fn is_about_to_show(&self, secret: &NamespacedName) -> bool {
        self.unread.iter().any(|scope| scope.covers(secret))
    }

    /// True while it is unknown whether a Secret exists.
    pub fn is_unread(&self, secret: &NamespacedName) -> bool {
        let mut scopes = self.tasks.keys().filter(|scope| scope.covers(secret));
        scopes.all(|scope| self.unread.contains(scope))
    }

    /// Why Secrets that an object names can't be read.
    pub fn unreadable_of(&self, store: &Store, key: &ObjectKey) -> Vec<String> {
        let secrets = store.secrets_of(key).filter(|secret| !store.has_secret(secret));
        let reason = |secret: &NamespacedName| {
            let reason = self.unreadable.iter().find(|(scope, _)| scope.covers(secret)).map(|(_, reason)| reason)?;
            Some(format!("Secret {secret} can't be read by the controller: {reason}"))
        };
        secrets.filter_map(reason).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::crd;
    use crate::run::change::StoreChange;
    use crate::run::names::ObjectKind;
    use crate::validate::options::ValidateOptions;

    /// A store whose objects name this many Secrets in one namespace.
    fn naming(secrets: usize) -> Store {
        let mut store = Store::new(ValidateOptions::default());
        for number in 0..secrets {
            let secret = json!({"secret": {"name": format!("s{number}")}});
            let spec = json!({
                "host": format!("h{number}.example.com"),
                "trafficPolicy": {"connectionPool": {"redis": {"auth": secret}}},
            });
            let object = json!({
                "apiVersion": crd::API_VERSION,
                "kind": "RedisDestination",
                "metadata": {"namespace": "n", "name": format!("d{number}"), "uid": "u", "generation": 1},
                "spec": spec,
            });
            let object = serde_json::from_value(object).unwrap();
            store.apply(StoreChange::Object(ObjectKind::Destination, Box::new(object))).unwrap();
        }
        store
    }

    fn failure(is_forbidden: bool) -> WatchFailure {
        WatchFailure { reason: "no".to_owned(), is_forbidden }
    }

    #[tokio::test]
    async fn a_forbidden_wide_watch_gives_way_to_narrow_ones() {
        let store = naming(17);
        let mut watches = SecretWatches::default();
        let open = |_| tokio::spawn(std::future::pending());
        let whole = SecretScope::Namespace("n".to_owned());
        let first = NamespacedName::new("n", "s0");
        assert!(watches.update(&store, open).is_empty());
        assert_eq!(watches.tasks.keys().collect::<Vec<_>>(), [&whole]);
        // An API server that is away forbids nothing.
        watches.failed(&whole, failure(false));
        assert!(watches.update(&store, open).is_empty());

        watches.failed(&whole, failure(true));
        assert_eq!(watches.update(&store, open), [WatchSource::Secrets(whole.clone())]);
        assert_eq!(watches.tasks.len(), 17);
        assert!(watches.tasks.keys().all(|scope| matches!(scope, SecretScope::Name(_))));
        assert!(watches.is_any_unread() && watches.is_unread(&first));
        // What a narrow watch fails with is told about its Secret alone.
        for number in 0..17 {
            let scope = SecretScope::Name(NamespacedName::new("n", &format!("s{number}")));
            if number == 0 {
                watches.failed(&scope, failure(true))
            } else {
                watches.listed(&scope)
            };
        }
        let of = |name: &str| ObjectKey { kind: ObjectKind::Destination, name: NamespacedName::new("n", name) };
        assert_eq!(watches.unreadable_of(&store, &of("d0")).len(), 1);
        assert!(watches.unreadable_of(&store, &of("d1")).is_empty());
        assert!(watches.update(&store, open).is_empty(), "watches are opened again and again");
    }
}
