//! The last step of a sync: the status of each object about which there is something new to say.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use kube::runtime::events::Recorder;
use tracing::warn;

use crate::crd::status::ResourceStatus;
use crate::validate::destination::unused;
use crate::validate::scope::ClientScope;

use super::names::{ObjectKey, ObjectKind, RenderedKey};
use super::rendered::{Applied, Rendered};
use super::request::{CONCURRENCY, chain, is_of_deleted_namespace, until, with_timeout};
use super::state::ObjectState;
use super::sync_state::SyncState;
use super::telemetry::OutcomeLabel;
use super::update_status::{self, StatusFacts};
use super::witness::judge;
use super::witness::ledger::Claim;

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

/// A status that is to be written.
struct StatusUpdate {
    key: ObjectKey,
    uid: Option<String>,
    before: ResourceStatus,
    after: ResourceStatus,
}

impl StatusUpdate {
    /// Writes the Events about what has changed.
    async fn publish(&self, recorder: &Recorder) {
        let reference = self.key.reference(self.uid.clone());
        let published = update_status::publish(recorder, &reference, &self.before, &self.after).await;
        // Nothing is created in a namespace that is being deleted, Events included.
        if let Err(error) = published.or_else(unless_deleted) {
            warn!(error = chain(&error), "an Event could not be written");
        }
    }
}

impl SyncState {
    /// Writes the statuses that have changed, and begins none when its share of time is over. It takes a
    /// plan that has been applied; the status of an object that isn't in force yet stays. False if
    /// statuses are left for the next sync.
    pub(super) async fn update_statuses(
        &mut self,
        rendered: &Rendered<Applied>,
        share: Duration,
    ) -> Result<bool, StatusError> {
        let judgements = self.judgements(rendered);
        if !self.context.is_leader() {
            return Err(StatusError::NotLeading);
        }
        let mut waiting = self.statuses_to_write(&judgements, &rendered.stage.pending).into_iter();
        let end = Instant::now() + share;
        let (client, recorder) = (self.context.client.clone(), self.context.recorder.clone());
        let requests = until(end, &mut waiting).map(|update| {
            let (client, recorder) = (client.clone(), &recorder);
            async move {
                let result = with_timeout(update_status::write(client, update.key.clone(), update.after.clone())).await;
                if result.is_ok() {
                    update.publish(recorder).await;
                }
                (update, result)
            }
        });
        let mut failed = 0;
        let mut requests = stream::iter(requests).buffer_unordered(CONCURRENCY);
        while let Some((update, result)) = requests.next().await {
            self.context.http.metrics.status_written(OutcomeLabel::of(&result));
            match result {
                Ok(version) => self.store.set_status(&update.key, update.after, version.as_deref()),
                Err(error) => {
                    let (name, kind) = (&update.key.name, update.key.kind.name());
                    warn!(object = %name, kind, error = %error, "the status could not be written");
                    self.statuses.status_dirty.insert(update.key);
                    failed += 1;
                }
            }
        }
        drop(requests);
        let left: Vec<ObjectKey> = waiting.map(|update| update.key).collect();
        let is_finished = left.is_empty();
        self.statuses.status_dirty.extend(left);
        if failed == 0 { Ok(is_finished) } else { Err(StatusError::Failed { objects: failed }) }
    }

    /// The statuses that have changed, of objects that don't wait for an operation. Those of the others stay
    /// marked.
    fn statuses_to_write(
        &mut self,
        judgements: &BTreeMap<ObjectKey, Judgement>,
        pending: &BTreeSet<ObjectKey>,
    ) -> Vec<StatusUpdate> {
        let (dirty, later) =
            std::mem::take(&mut self.statuses.status_dirty).into_iter().partition(|key| !pending.contains(key));
        self.statuses.status_dirty = later;
        let dirty: BTreeSet<ObjectKey> = dirty;
        let (mut updates, mut early, mut unsettled) = (Vec::new(), Vec::new(), Vec::new());
        for key in dirty {
            let (Some(object), Some(state)) = (self.store.objects().get(&key), self.states.get(&key)) else { continue };
            let judgement = judgements.get(&key).cloned().unwrap_or_default();
            let claim = judge::claim(self, &key);
            let after = update_status::status(&self.facts(&key, state, judgement), &object.status);
            if judge::is_too_early(claim, &after) {
                early.push(key);
                continue;
            }
            if !matches!(claim, Claim::Taken | Claim::NoWitness) {
                unsettled.push(key.clone());
            }
            if !crate::crd::status::is_same(&after, &object.status) {
                updates.push(StatusUpdate { uid: object.uid.clone(), before: object.status.clone(), after, key });
            }
        }
        // The witness is about to be asked again.
        unsettled.extend(early);
        self.statuses.unsettled.extend(unsettled);
        updates
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
            withheld: self.states.withheld(key),
            claim: judge::claim(self, key),
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
            object.purpose == purpose || object.plugin.hosts.iter().any(|host| is_about(&at.name.namespace, &host.host))
        })
    }
}

fn unless_deleted(error: kube::Error) -> Result<(), kube::Error> {
    if is_of_deleted_namespace(&error) { Ok(()) } else { Err(error) }
}
