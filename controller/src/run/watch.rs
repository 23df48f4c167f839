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
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc::Sender;
use tokio::task::JoinHandle;

use crate::build::{envoy_filter, wasm_plugin};
use crate::crd;
use crate::inventory::Key;

use super::apply::Live;
use super::world::{Change, Kind, OWN_ANNOTATIONS, ObjectKey};

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

/// How many objects are listed at once. They are held as text and as objects while they are taken in, those of all kinds at
/// the same time.
const PAGE: u32 = 100;

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
    /// One that we have rendered, as far as it is of use: many of them may be on their way, and each is large.
    Rendered(Box<Live>),
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
pub fn start(client: &Client, source: Source, controller: &str, updates: Sender<Update>) -> JoinHandle<()> {
    let (client, controller) = (client.clone(), controller.to_owned());
    tokio::spawn(async move {
        // A connection that has silently died is found out by the end of this.
        let config = watcher::Config::default().timeout(60).page_size(PAGE);
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
                let live = move |object| Told::Rendered(Box::new(Live::of(&object, &controller)));
                watch(api, config, source, updates, live).await;
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
    let mut stream = watcher(api, config).boxed();
    let mut failures = 0;
    loop {
        let event = stream.try_next().await;
        // That a list begins says nothing: it does so before the API server is asked.
        if let Ok(Some(Event::InitDone | Event::Apply(_) | Event::Delete(_))) = &event {
            failures = 0;
        }
        let update = match event {
            Ok(Some(Event::Init)) => Update::Listing(source.clone()),
            Ok(Some(Event::InitApply(mut object) | Event::Apply(mut object))) => {
                strip(object.meta_mut());
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
            Err(error) => {
                let is_refused = response(&error).is_some_and(|status| matches!(status.code, 401 | 403));
                let update = Update::Failed(source.clone(), reason(&error));
                if updates.send(update).await.is_err() {
                    return;
                }
                tokio::time::sleep(wait(failures, is_refused)).await;
                failures += 1;
                continue;
            }
        };
        if updates.send(update).await.is_err() {
            return;
        }
    }
}

/// How long until a watch is opened again that has failed so many times before. What isn't allowed seldom is a moment later;
/// an API server that is away may be back.
fn wait(failures: u32, is_refused: bool) -> Duration {
    let longest = Duration::from_secs(if is_refused { 60 } else { 10 });
    Duration::from_secs(1 << failures.min(6)).min(longest)
}

/// Takes away what is of no use, which is often most of an object, before it waits for its turn.
fn strip(metadata: &mut ObjectMeta) {
    metadata.managed_fields = None;
    if let Some(annotations) = &mut metadata.annotations {
        annotations.retain(|name, _| name.starts_with(OWN_ANNOTATIONS));
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
    use std::collections::VecDeque;
    use std::sync::{Arc, Mutex};

    use serde_json::{Value, json};

    use super::*;

    fn named(namespaces: usize, names: usize) -> BTreeSet<Key> {
        let names =
            |namespace: usize| (0..names).map(move |name| Key::new(&format!("n{namespace}"), &format!("s{name}")));
        (0..namespaces).flat_map(names).collect()
    }

    /// What an API server answers in turn, to whatever it is asked; from then on nothing.
    async fn scripted(answers: Vec<(u16, Value)>) -> Client {
        let answers = Arc::new(Mutex::new(VecDeque::from(answers)));
        let answer = move || {
            let next = answers.lock().unwrap().pop_front();
            async move {
                let Some((code, body)) = next else { return std::future::pending().await };
                (axum::http::StatusCode::from_u16(code).unwrap(), body.to_string())
            }
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(axum::serve(listener, axum::Router::new().fallback(answer)).into_future());
        Client::try_from(kube::Config::new(url.parse().unwrap())).unwrap()
    }

    /// The names of what a watch tells of the Services `a`, `b`, …
    async fn told(client: &Client, count: usize) -> Vec<String> {
        let (sender, mut updates) = tokio::sync::mpsc::channel(16);
        let task = start(client, Source::Services, "c", sender);
        let mut told = Vec::new();
        while told.len() < count {
            told.push(match updates.recv().await.unwrap() {
                Update::Listing(_) => "listing".to_owned(),
                Update::There(_, key, _) => key.name,
                Update::Gone(_, key) => format!("no {}", key.name),
                Update::Listed(_) => "listed".to_owned(),
                Update::Failed(_, message) => message,
            });
        }
        task.abort();
        told
    }

    fn list(names: &[&str]) -> Value {
        let items: Vec<Value> =
            names.iter().map(|name| json!({"metadata": {"namespace": "n", "name": name}})).collect();
        json!({"apiVersion": "v1", "kind": "ServiceList", "metadata": {"resourceVersion": "1"}, "items": items})
    }

    fn failure(code: u16, message: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "code": code, "reason": message, "message": message})
    }

    /// Whatever an API server answers for a while, what it says afterwards is heard.
    #[tokio::test]
    async fn a_watch_goes_on() {
        let gone = json!({"type": "ERROR", "object": failure(410, "too old")});
        let client = scripted(vec![
            (500, failure(500, "broken")),
            (429, failure(429, "too many")),
            (200, list(&["a"])),
            (200, gone),
            (200, list(&["a", "b"])),
            (500, failure(500, "broken again")),
            (200, json!({"type": "DELETED", "object": {"metadata": {"namespace": "n", "name": "a", "resourceVersion": "2"}}})),
        ])
        .await;
        let told = told(&client, 12).await;
        // After a 429, the client itself asks again.
        let expected = [
            "listing",
            "broken",
            "listing",
            "a",
            "listed",
            "too old",
            "listing",
            "a",
            "b",
            "listed",
            "broken again",
            "no a",
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn what_is_refused_is_asked_for_ever_more_rarely() {
        let seconds = |is_refused| [0, 1, 2, 3, 4, 5, 6, 7, 99].map(|failures| wait(failures, is_refused).as_secs());
        assert_eq!(seconds(true), [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(seconds(false), [1, 2, 4, 8, 10, 10, 10, 10, 10]);
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
