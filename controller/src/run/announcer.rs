//! What a replica says while the root namespace isn't known: in its readiness, and in an Event of its
//! pod.

use std::sync::Arc;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use tokio::sync::watch;
use tracing::warn;

use super::http::HttpState;
use super::readiness::WriteObstacle;
use super::request::chain;
use super::root::RootFinding;

/// The longest note of an Event, in bytes, that the API server takes.
const MAX_NOTE: usize = 1024;

/// Tells a person what was found out about the root namespace.
pub struct Announcer {
    recorder: Recorder,
    /// The pod of this replica.
    pod: ObjectReference,
}

impl Announcer {
    /// Creates an announcer for the replica of this identity.
    pub fn new(client: Client, namespace: &str, identity: &str) -> Announcer {
        let reporter = Reporter { controller: "redis-mesh".to_owned(), instance: Some(identity.to_owned()) };
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let pod = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            namespace: Some(namespace.to_owned()),
            name: Some(variable("POD_NAME").unwrap_or_else(|| "redis-mesh".to_owned())),
            uid: variable("POD_UID"),
            ..ObjectReference::default()
        };
        Announcer { recorder: Recorder::new(client, reporter), pod }
    }

    /// Runs until the sender is dropped.
    pub async fn run(self, mut findings: watch::Receiver<RootFinding>, http: Arc<HttpState>) {
        loop {
            let finding = findings.borrow_and_update().clone();
            let words = finding.found().is_none().then(|| finding.to_string());
            http.readiness.set(WriteObstacle::Root, words);
            if let RootFinding::Refused(_) = &finding {
                self.publish(finding.to_string()).await;
            }
            if findings.changed().await.is_err() {
                return;
            }
        }
    }

    async fn publish(&self, mut note: String) {
        let end = (0..=MAX_NOTE.min(note.len())).rev().find(|end| note.is_char_boundary(*end)).unwrap_or_default();
        note.truncate(end);
        let event = Event {
            type_: EventType::Warning,
            reason: "RootNamespaceUnknown".to_owned(),
            note: Some(note),
            action: "Apply".to_owned(),
            secondary: None,
        };
        if let Err(error) = self.recorder.publish(&event, &self.pod).await {
            warn!(error = chain(&error), "an Event could not be written");
        }
    }
}
