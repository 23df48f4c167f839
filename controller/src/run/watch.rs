//! Watches: what an API server tells, as [`Update`]s in one channel.
//!
//! A watch that breaks is opened again, and what is listed then is compared with what is known, so that nothing that happened
//! meanwhile is missed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc::Sender;
use tokio::task::JoinHandle;

use crate::build::{envoy_filter, wasm_plugin};
use crate::crd;
use crate::inventory::Key;

use super::world::{Change, Kind, ObjectKey};

/// What is watched.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// One of our kinds.
    Objects(Kind),
    /// Services.
    Services,
    /// EndpointSlices.
    Slices,
    /// ServiceEntries.
    Entries,
    /// What we have rendered, by kind.
    Rendered(&'static str),
    /// Secrets.
    Secrets(Scope),
}

impl Source {
    /// The kind in the plural, for people.
    pub fn name(&self) -> &'static str {
        match self {
            Source::Objects(Kind::Service) => "redisservices",
            Source::Objects(Kind::Destination) => "redisdestinations",
            Source::Services => "services",
            Source::Slices => "endpointslices",
            Source::Entries => "serviceentries",
            Source::Rendered(wasm_plugin::KIND) => "wasmplugins",
            Source::Rendered(_) => "envoyfilters",
            Source::Secrets(_) => "secrets",
        }
    }

    /// True where a cluster may do without this kind.
    fn is_optional(&self) -> bool {
        match self {
            Source::Entries | Source::Rendered(_) => true,
            Source::Objects(_) | Source::Services | Source::Slices | Source::Secrets(_) => false,
        }
    }
}

/// Which Secrets a watch shows.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// One.
    Name(Key),
    /// Those of a namespace.
    Namespace(String),
    /// All.
    All,
}

impl Scope {
    /// True if the Secret is shown.
    pub fn covers(&self, key: &Key) -> bool {
        match self {
            Scope::Name(name) => name == key,
            Scope::Namespace(namespace) => *namespace == key.namespace,
            Scope::All => true,
        }
    }
}

/// Names in one namespace above which the namespace is watched.
const MAX_NAMES: usize = 16;
/// Watches above which there is one of everything.
const MAX_SCOPES: usize = 128;

/// The fewest Secrets to look at that are not too many watches: each by itself as long as they are few.
pub fn scopes(named: &BTreeSet<Key>) -> BTreeSet<Scope> {
    let mut names: BTreeMap<&str, usize> = BTreeMap::new();
    for key in named {
        *names.entry(&key.namespace).or_default() += 1;
    }
    let scope = |key: &Key| match names.get(key.namespace.as_str()).is_some_and(|names| *names > MAX_NAMES) {
        true => Scope::Namespace(key.namespace.clone()),
        false => Scope::Name(key.clone()),
    };
    let scopes: BTreeSet<Scope> = named.iter().map(scope).collect();
    if scopes.len() > MAX_SCOPES { BTreeSet::from([Scope::All]) } else { scopes }
}

/// What a watch tells.
pub enum Update {
    /// Everything will be listed anew.
    Listing(Source),
    /// An object is there, or has changed.
    There(Source, Key, Told),
    /// It is gone.
    Gone(Source, Key),
    /// Everything has been listed.
    Listed(Source),
    /// The watch doesn't work at the moment.
    Failed(Source, String),
}

/// An object.
pub enum Told {
    /// What the world is made of.
    Change(Change),
    /// One that we have rendered.
    Rendered(Box<DynamicObject>),
}

/// How a kind that we know no type of is asked for.
pub fn resource(group: &str, version: &str, kind: &str) -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind))
}

/// What we render, by kind.
pub fn rendered(kind: &str) -> ApiResource {
    match kind {
        wasm_plugin::KIND => resource("extensions.istio.io", "v1alpha1", wasm_plugin::KIND),
        _ => resource("networking.istio.io", "v1alpha3", envoy_filter::KIND),
    }
}

/// One of our kinds.
pub fn ours(kind: Kind) -> ApiResource {
    let version = crd::API_VERSION.rsplit('/').next().unwrap_or_default();
    resource(crd::GROUP, version, kind.name())
}

/// The change that says that an object is gone.
pub fn gone(source: &Source, key: &Key) -> Option<Change> {
    let key = key.clone();
    match source {
        Source::Objects(kind) => Some(Change::ObjectGone(ObjectKey { kind: *kind, key })),
        Source::Services => Some(Change::ServiceGone(key)),
        Source::Slices => Some(Change::SliceGone(key)),
        Source::Entries => Some(Change::EntryGone(key)),
        Source::Secrets(_) => Some(Change::SecretGone(key)),
        Source::Rendered(_) => None,
    }
}

/// Opens a watch that lasts until it is aborted or nobody listens.
pub fn start(client: &Client, source: Source, updates: Sender<Update>) -> JoinHandle<()> {
    let client = client.clone();
    tokio::spawn(async move {
        // A connection that has silently died is found out by the end of this.
        let config = watcher::Config::default().timeout(60);
        match source.clone() {
            Source::Objects(kind) => {
                let api = Api::<DynamicObject>::all_with(client, &ours(kind));
                watch(api, config, source, updates, move |object| Told::Change(Change::Object(kind, Box::new(object))))
                    .await;
            }
            Source::Services => {
                let api = Api::<Service>::all(client);
                watch(api, config, source, updates, |object| Told::Change(Change::Service(Box::new(object)))).await;
            }
            Source::Slices => {
                let api = Api::<EndpointSlice>::all(client);
                watch(api, config, source, updates, |object| Told::Change(Change::Slice(Box::new(object)))).await;
            }
            Source::Entries => {
                let api =
                    Api::<DynamicObject>::all_with(client, &resource("networking.istio.io", "v1", "ServiceEntry"));
                watch(api, config, source, updates, |object| Told::Change(Change::Entry(Box::new(object)))).await;
            }
            Source::Rendered(kind) => {
                let api = Api::<DynamicObject>::all_with(client, &rendered(kind));
                let config = config.labels("app.kubernetes.io/managed-by=redis-mesh");
                watch(api, config, source, updates, |object| Told::Rendered(Box::new(object))).await;
            }
            Source::Secrets(scope) => {
                let (api, config) = match scope {
                    Scope::Name(key) => {
                        let config = config.fields(&format!("metadata.name={}", key.name));
                        (Api::<Secret>::namespaced(client, &key.namespace), config)
                    }
                    Scope::Namespace(namespace) => (Api::<Secret>::namespaced(client, &namespace), config),
                    Scope::All => (Api::<Secret>::all(client), config),
                };
                watch(api, config, source, updates, |object| Told::Change(Change::Secret(Box::new(object)))).await;
            }
        }
    })
}

async fn watch<K>(
    api: Api<K>,
    config: watcher::Config,
    source: Source,
    updates: Sender<Update>,
    told: impl Fn(K) -> Told,
) where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let mut stream = watcher(api, config).default_backoff().boxed();
    loop {
        let update = match stream.try_next().await {
            Ok(Some(Event::Init)) => Update::Listing(source.clone()),
            Ok(Some(Event::InitApply(object) | Event::Apply(object))) => {
                Update::There(source.clone(), Key::of(object.meta()), told(object))
            }
            Ok(Some(Event::InitDone)) => Update::Listed(source.clone()),
            Ok(Some(Event::Delete(object))) => Update::Gone(source.clone(), Key::of(object.meta())),
            Ok(None) => return,
            Err(error) if source.is_optional() && is_unknown_kind(&error) => {
                // Nothing of it, until somebody installs it.
                for update in [Update::Listing(source.clone()), Update::Listed(source.clone())] {
                    if updates.send(update).await.is_err() {
                        return;
                    }
                }
                tokio::time::sleep(Duration::from_secs(10)).await;
                continue;
            }
            Err(error) => Update::Failed(source.clone(), reason(&error)),
        };
        if updates.send(update).await.is_err() {
            return;
        }
    }
}

fn response(error: &watcher::Error) -> Option<&kube::core::Status> {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status))
        | watcher::Error::WatchError(status) => Some(status),
        _ => None,
    }
}

fn is_unknown_kind(error: &watcher::Error) -> bool {
    response(error).is_some_and(|status| status.code == 404)
}

fn reason(error: &watcher::Error) -> String {
    match response(error) {
        Some(status) => status.message.clone(),
        None => super::chain(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(namespaces: usize, names: usize) -> BTreeSet<Key> {
        let names =
            |namespace: usize| (0..names).map(move |name| Key::new(&format!("n{namespace}"), &format!("s{name}")));
        (0..namespaces).flat_map(names).collect()
    }

    #[test]
    fn few_secrets_are_watched_each_by_itself() {
        assert_eq!(scopes(&named(0, 0)), BTreeSet::new());
        assert!(scopes(&named(3, MAX_NAMES)).iter().all(|scope| matches!(scope, Scope::Name(_))));
        let crowded = scopes(&named(2, MAX_NAMES + 1));
        assert_eq!(crowded, BTreeSet::from([Scope::Namespace("n0".into()), Scope::Namespace("n1".into())]));
        assert_eq!(scopes(&named(MAX_SCOPES + 1, 1)), BTreeSet::from([Scope::All]));
    }

    #[test]
    fn every_named_secret_is_covered() {
        for (namespaces, names) in [(1, 1), (5, 20), (200, 3), (1, 200)] {
            let named = named(namespaces, names);
            let scopes = scopes(&named);
            assert!(named.iter().all(|key| scopes.iter().any(|scope| scope.covers(key))), "{namespaces} {names}");
        }
    }
}
