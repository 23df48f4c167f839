//! Watches: objects of the API server, as [`WatchUpdate`]s in one channel.
//!
//! A watch that breaks is opened again. What is listed then is compared with what is known, so
//! that nothing is missed that happened meanwhile.

use std::fmt::Debug;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{Namespace, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, DynamicObject};
use kube::runtime::WatchStreamExt;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, Event, ExponentialBackoff, watcher};
use kube::{Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc::Sender;
use tokio::task::JoinHandle;

use crate::discovery::DiscoveryChange;
use crate::inventory::{EXPORT_TO, NamespacedName};
use crate::render::envoy_filter;

use super::backoff;
use super::change::StoreChange;
use super::names::{OWN_ANNOTATIONS, rendered_resource, resource};
use super::observed::ObservedObject;
use super::request::chain;
use super::source::{SecretScope, WatchSource};

/// The number of objects in a page of a list. A page is held as text and as objects while it is
/// taken in, for all kinds at the same time.
const PAGE: u32 = 100;

/// The time between two attempts to list a kind that is not installed.
const NOT_INSTALLED: Duration = Duration::from_secs(10);

/// An event of a watch.
pub enum WatchUpdate {
    /// All objects will be listed anew.
    Listing(WatchSource),
    /// An object exists or has changed.
    There(WatchSource, NamespacedName, Observation),
    /// An object is gone.
    Gone(WatchSource, NamespacedName),
    /// All objects have been listed.
    Listed(WatchSource),
    /// The watch failed; it will be opened again.
    Failed(WatchSource, WatchFailure),
}

/// Why a watch failed.
#[derive(Debug)]
pub struct WatchFailure {
    /// The reason in words.
    pub reason: String,
    /// True if the controller isn't permitted to open such a watch.
    pub is_forbidden: bool,
}

/// An object that a watch shows.
pub enum Observation {
    /// An object for the store.
    Change(StoreChange),
    /// A rendered object, reduced to what is used: many of them may wait in the channel, and each
    /// is large.
    Rendered(Box<ObservedObject>),
}

/// Opens a watch. It lasts until the task is aborted or the receiver of the updates is dropped.
pub fn start(client: &Client, source: WatchSource, updates: Sender<WatchUpdate>) -> JoinHandle<()> {
    let client = client.clone();
    tokio::spawn(async move {
        // The time limit of a watch ends it also where the connection was lost without a sign.
        let config = watcher::Config::default().timeout(60).page_size(PAGE);
        let change = Observation::Change;
        match source.clone() {
            WatchSource::Objects(kind) => {
                let api = Api::<DynamicObject>::all_with(client, &kind.resource());
                let observe = move |object| change(StoreChange::Object(kind, Box::new(object)));
                watch(api, config, source, updates, observe).await;
            }
            WatchSource::Services => {
                let api = Api::<Service>::all(client);
                watch(api, config, source, updates, |object| change(StoreChange::Service(Box::new(object)))).await;
            }
            WatchSource::Slices => {
                let api = Api::<EndpointSlice>::all(client);
                watch(api, config, source, updates, |object| change(StoreChange::Slice(Box::new(object)))).await;
            }
            WatchSource::Entries => {
                let resource = resource("networking.istio.io", "v1", "ServiceEntry");
                let api = Api::<DynamicObject>::all_with(client, &resource);
                watch(api, config, source, updates, |object| change(StoreChange::Entry(Box::new(object)))).await;
            }
            WatchSource::Rules => {
                let resource = resource("networking.istio.io", "v1", "DestinationRule");
                let api = Api::<DynamicObject>::all_with(client, &resource);
                watch(api, config, source, updates, |object| change(StoreChange::Rule(Box::new(object)))).await;
            }
            WatchSource::Sidecars => {
                let resource = resource("networking.istio.io", "v1", "Sidecar");
                let api = Api::<DynamicObject>::all_with(client, &resource);
                watch(api, config, source, updates, |object| change(StoreChange::Sidecar(Box::new(object)))).await;
            }
            WatchSource::UserFilters => {
                let api = Api::<DynamicObject>::all_with(client, &rendered_resource(envoy_filter::KIND));
                let config = config.labels("app.kubernetes.io/managed-by!=redis-mesh");
                watch(api, config, source, updates, |object| change(StoreChange::UserFilter(Box::new(object)))).await;
            }
            WatchSource::Namespaces => {
                let api = Api::<Namespace>::all(client);
                watch(api, config, source, updates, |object| change(namespace_change(object))).await;
            }
            WatchSource::Rendered(kind) => {
                let api = Api::<DynamicObject>::all_with(client, &rendered_resource(kind));
                let config = config.labels("app.kubernetes.io/managed-by=redis-mesh");
                let observe = |object| Observation::Rendered(Box::new(ObservedObject::of(&object)));
                watch(api, config, source, updates, observe).await;
            }
            WatchSource::Secrets(scope) => {
                let (api, config) = secrets(client, scope, config);
                watch(api, config, source, updates, |object| change(StoreChange::Secret(Box::new(object)))).await;
            }
        }
    })
}

fn secrets(client: Client, scope: SecretScope, config: watcher::Config) -> (Api<Secret>, watcher::Config) {
    match scope {
        SecretScope::Name(key) => {
            let config = config.fields(&format!("metadata.name={}", key.name));
            (Api::namespaced(client, &key.namespace), config)
        }
        SecretScope::Namespace(namespace) => (Api::namespaced(client, &namespace), config),
        SecretScope::All => (Api::all(client), config),
    }
}

fn namespace_change(namespace: Namespace) -> StoreChange {
    let (name, labels) = (namespace.metadata.name, namespace.metadata.labels);
    StoreChange::Discovery(DiscoveryChange::Namespace(name.unwrap_or_default(), labels.unwrap_or_default()))
}

async fn watch<K>(
    api: Api<K>,
    config: watcher::Config,
    source: WatchSource,
    updates: Sender<WatchUpdate>,
    observe: impl Fn(K) -> Observation,
) where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let mut stream = watcher(api, config).modify(|object| strip(object.meta_mut())).boxed();
    let mut backoff = WatchBackoff::new();
    loop {
        let event = stream.try_next().await;
        if let Ok(Some(Event::InitDone | Event::Apply(_) | Event::Delete(_))) = &event {
            backoff.reset();
        }
        let (update, wait) = match event {
            Ok(Some(Event::Init)) => (WatchUpdate::Listing(source.clone()), None),
            Ok(Some(Event::InitApply(object) | Event::Apply(object))) => {
                let name = NamespacedName::of(object.meta());
                (WatchUpdate::There(source.clone(), name, observe(object)), None)
            }
            Ok(Some(Event::InitDone)) => (WatchUpdate::Listed(source.clone()), None),
            Ok(Some(Event::Delete(object))) => {
                (WatchUpdate::Gone(source.clone(), NamespacedName::of(object.meta())), None)
            }
            Ok(None) => return,
            Err(error) if source.is_optional() && is_unknown_kind(&error) => {
                // There are no objects of the kind until somebody installs it.
                if updates.send(WatchUpdate::Listing(source.clone())).await.is_err() {
                    return;
                }
                (WatchUpdate::Listed(source.clone()), Some(NOT_INSTALLED))
            }
            Err(error) => {
                let is_refused = response(&error).is_some_and(|status| matches!(status.code, 401 | 403));
                let is_forbidden = response(&error).is_some_and(|status| status.code == 403);
                let failure = WatchFailure { reason: reason(&error), is_forbidden };
                (WatchUpdate::Failed(source.clone(), failure), Some(backoff.next(is_refused)))
            }
        };
        if updates.send(update).await.is_err() {
            return;
        }
        if let Some(wait) = wait {
            tokio::time::sleep(wait).await;
        }
    }
}

/// The waiting times before a watch is opened again.
///
/// `WatchStreamExt::backoff` doesn't serve: it starts over with every event, and a watch that
/// can't list its objects has one before each attempt, `Event::Init`.
struct WatchBackoff {
    /// The API server is away, and may soon be back.
    unavailable: ExponentialBackoff,
    /// The controller isn't permitted to watch, which seldom changes soon.
    refused: ExponentialBackoff,
}

impl WatchBackoff {
    fn new() -> WatchBackoff {
        let [unavailable, refused] = [10, 60].map(|longest| backoff::doubling(Duration::from_secs(longest)));
        WatchBackoff { unavailable, refused }
    }

    fn next(&mut self, is_refused: bool) -> Duration {
        let (unavailable, refused) = (self.unavailable.next(), self.refused.next());
        if is_refused { refused } else { unavailable }.unwrap_or(NOT_INSTALLED)
    }

    fn reset(&mut self) {
        self.unavailable.reset();
        self.refused.reset();
    }
}

/// Removes the metadata that nothing uses, which is often most of an object, before the object
/// waits in the channel.
fn strip(metadata: &mut ObjectMeta) {
    metadata.managed_fields = None;
    if let Some(annotations) = &mut metadata.annotations {
        annotations.retain(|name, _| name.starts_with(OWN_ANNOTATIONS) || name == EXPORT_TO);
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
        None => chain(error),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::{Arc, Mutex};

    use serde_json::{Value, json};

    use super::*;

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
        let task = start(client, WatchSource::Services, sender);
        let mut told = Vec::new();
        while told.len() < count {
            told.push(match updates.recv().await.unwrap() {
                WatchUpdate::Listing(_) => "listing".to_owned(),
                WatchUpdate::There(_, key, _) => key.name,
                WatchUpdate::Gone(_, key) => format!("no {}", key.name),
                WatchUpdate::Listed(_) => "listed".to_owned(),
                WatchUpdate::Failed(_, failure) => failure.reason,
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
        let seconds = |is_refused| {
            let mut backoff = WatchBackoff::new();
            [0, 1, 2, 3, 4, 5, 6, 7, 99].map(|_| backoff.next(is_refused).as_secs())
        };
        assert_eq!(seconds(true), [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(seconds(false), [1, 2, 4, 8, 10, 10, 10, 10, 10]);
    }
}
