//! The last step of a sync: the status of each object about which there is something new to say.

use std::collections::BTreeMap;
use std::fmt;

use futures::{StreamExt, stream};
use tracing::warn;

use crate::validate::destination::unused;
use crate::validate::scope::ClientScope;

use super::names::{ObjectKey, ObjectKind, RenderedKey};
use super::rendered::{Applied, Rendered};
use super::request::{CONCURRENCY, chain, is_of_deleted_namespace, with_timeout};
use super::state::ObjectState;
use super::sync_state::SyncState;
use super::telemetry::OutcomeLabel;
use super::update_status::{self, StatusFacts};

/// Why statuses are not as they should be.
#[derive(Debug)]
pub enum StatusError {
    /// Another replica leads.
    NotLeading,
    /// Statuses could not be written.
    Failed {
        /// The number of objects.
        objects: usize,
    },
}

impl fmt::Display for StatusError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StatusError::NotLeading => f.write_str("another replica leads"),
            StatusError::Failed { objects } => write!(f, "the statuses of {objects} objects could not be written"),
        }
    }
}

/// The failures of the objects that were rendered from one object.
#[derive(Clone, Default)]
struct Judgement {
    /// Rendered objects that could not be written.
    failures: Vec<String>,
    /// Rendered objects that Istio rejects.
    rejections: Vec<String>,
}

impl SyncState {
    /// Writes the statuses that have changed. It takes a plan that has been applied.
    pub(super) async fn update_statuses(&mut self, rendered: &Rendered<Applied>) -> Result<(), StatusError> {
        let judgements = self.judgements(rendered);
        if !self.context.is_leader() {
            return Err(StatusError::NotLeading);
        }
        let mut requests = Vec::new();
        for key in std::mem::take(&mut self.statuses.status_dirty) {
            let (Some(object), Some(state)) = (self.store.objects().get(&key), self.states.get(&key)) else { continue };
            let judgement = judgements.get(&key).cloned().unwrap_or_default();
            let status = update_status::status(&self.facts(&key, state, judgement), &object.status);
            if crate::crd::status::is_same(&status, &object.status) {
                continue;
            }
            let client = self.context.client.clone();
            requests.push(async move {
                let result = with_timeout(update_status::write(client, key.clone(), status.clone())).await;
                (key, status, result)
            });
        }
        let mut failed = 0;
        let mut requests = stream::iter(requests).buffer_unordered(CONCURRENCY);
        while let Some((key, status, result)) = requests.next().await {
            self.context.http.metrics.status_written(OutcomeLabel::of(&result));
            match result {
                Ok(version) => {
                    if let Some(object) = self.store.objects().get(&key) {
                        let reference = key.reference(object.uid.clone());
                        let recorder = &self.context.recorder;
                        let published = update_status::publish(recorder, &reference, &object.status, &status).await;
                        // Nothing is created in a namespace that is being deleted, Events included.
                        if let Err(error) = published.or_else(unless_deleted) {
                            warn!(error = chain(&error), "an Event could not be written");
                        }
                    }
                    self.store.set_status(&key, status, version.as_deref());
                }
                Err(error) => {
                    warn!(object = %key.name, kind = key.kind.name(), error = %error, "the status could not be written");
                    self.statuses.status_dirty.insert(key);
                    failed += 1;
                }
            }
        }
        if failed == 0 { Ok(()) } else { Err(StatusError::Failed { objects: failed }) }
    }

    fn facts<'a>(&'a self, key: &ObjectKey, state: &'a ObjectState, judgement: Judgement) -> StatusFacts<'a> {
        StatusFacts {
            evaluation: &state.evaluation,
            in_force: state.in_force.iter().map(AsRef::as_ref).collect(),
            good_generation: state.good_generation,
            unused: self.unused(key, state),
            has_remains: state.is_frozen() && self.has_remains(key),
            unreadable: self.secrets.unreadable_of(&self.store, key),
            failures: judgement.failures,
            rejections: judgement.rejections,
            module_refusal: self.context.settings.module_refusal.as_ref(),
        }
    }

    /// The failures of each object's rendered objects. The statuses of objects whose
    /// judgement may have changed are marked as dirty.
    fn judgements(&mut self, rendered: &Rendered<Applied>) -> BTreeMap<ObjectKey, Judgement> {
        let mut judgements: BTreeMap<ObjectKey, Judgement> = BTreeMap::new();
        let has_complaints = self.objects.has_complaints();
        for planned in rendered.plan.objects.iter().filter(|_| has_complaints) {
            let key = RenderedKey::of(planned);
            let failure = self.objects.failure(&key);
            let rejection = self.objects.observed().get(&key).and_then(|object| object.rejected.as_ref());
            if failure.is_none() && rejection.is_none() {
                continue;
            }
            for subject in planned.subjects().into_iter().filter_map(ObjectKey::of) {
                let judgement = judgements.entry(subject).or_default();
                judgement.failures.extend(failure.cloned());
                judgement.rejections.extend(rejection.map(|rejection| format!("{key}: {rejection}")));
            }
        }
        let before = std::mem::replace(&mut self.statuses.judged, judgements.keys().cloned().collect());
        self.statuses.status_dirty.extend(before);
        self.statuses.status_dirty.extend(judgements.keys().cloned());
        judgements
    }

    /// The message about a RedisDestination without effect.
    fn unused(&self, key: &ObjectKey, state: &ObjectState) -> Option<String> {
        let is_used = !state.evaluation.prepared_services.is_empty() || self.states.is_used(key);
        let name = self.store.hosts_of(key).next().filter(|_| key.kind == ObjectKind::Destination && !is_used)?;
        Some(format!("spec.host: {}", unused(&name.host)))
    }

    /// True if an object exists that was rendered from this object, by any replica.
    fn has_remains(&self, key: &ObjectKey) -> bool {
        let purpose = key.to_string();
        let root = self.context.settings.mesh.root_namespace.as_str();
        let names: Vec<_> = self.store.hosts_of(key).collect();
        let is_about = |namespace: &str, host: &str| {
            names.iter().any(|name| {
                let is_placed_there = match ClientScope::of(name, &key.name.namespace) {
                    ClientScope::Mesh => namespace == root,
                    ClientScope::Namespace(own) => namespace == own,
                };
                is_placed_there && host.strip_prefix(&name.host).is_some_and(|rest| rest.starts_with(':'))
            })
        };
        self.objects.own().any(|(at, object)| {
            object.purpose == purpose || object.hosts.iter().any(|host| is_about(&at.name.namespace, &host.host))
        })
    }
}

fn unless_deleted(error: kube::Error) -> Result<(), kube::Error> {
    if is_of_deleted_namespace(&error) { Ok(()) } else { Err(error) }
}
