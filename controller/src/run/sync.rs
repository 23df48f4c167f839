//! A sync: the steps from changed objects to a cluster that is as planned.
//!
//! 1. *Evaluate*: each changed object is validated amid its neighbours ([`super::evaluation`]).
//! 2. *Render*: a plan of the objects that are to be, as [`Rendered<Prepared>`].
//! 3. *Order*: the operations that lead there, as [`Rendered<Ordered>`] ([`super::order`]).
//! 4. *Apply*: the operations are performed, as [`Rendered<Applied>`].
//! 5. *Status*: the result is written into the status of each object ([`super::report`]).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use kube::runtime::events::{Event, EventType};
use redis_mesh_core::wire;
use tracing::{debug, info, warn};

use crate::inventory::NamespacedName;
use crate::render::mesh_options::MeshOptions;
use crate::render::plan::{self, PlanHistory, PortGroup, RenderPlan};
use crate::render::planned_object::{ObjectContent, PlannedObject};
use crate::render::plugin_hosts::PluginHosts;
use crate::render::prepared_service::PreparedService;
use crate::render::{envoy_filter, wasm_plugin};
use crate::validate::scope::ClientScope;

use super::applier::{Operation, Performed};
use super::evaluation;
use super::kept;
use super::names::{ObjectKey, ObjectKind, RenderedKey};
use super::observed;
use super::order::{Blocked, OrderContext, Ordered, order};
use super::ports;
use super::rendered::{Applied, Extent, Prepared, Rendered};
use super::report::StatusError;
use super::request::{CONCURRENCY, RequestError, SHARE, chain, until, with_timeout};
use super::state::StateChange;
use super::sync_state::SyncState;
use super::telemetry::OutcomeLabel;
use super::urgency;
use super::witness::judge;
use super::witness::state::Witness;

/// Why the cluster is not as planned after the step *apply*.
#[derive(Debug)]
pub enum ApplyError {
    /// Objects could not be written or deleted, or wait for such an object.
    Failed {
        /// The number of objects.
        objects: usize,
    },
}

impl fmt::Display for ApplyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ApplyError::Failed { objects } => write!(f, "{objects} objects could not be applied"),
        }
    }
}

/// Why a sync has to be repeated.
#[derive(Debug)]
pub enum SyncError {
    /// The step *apply* failed.
    Apply(ApplyError),
    /// The marker of the batch could not be written.
    Mark(RequestError),
    /// The step *status* failed.
    Status(StatusError),
}

impl fmt::Display for SyncError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SyncError::Apply(error) => error.fmt(f),
            SyncError::Mark(error) => write!(f, "the marker could not be written: {error}"),
            SyncError::Status(error) => error.fmt(f),
        }
    }
}

/// An operation that was not performed.
struct FailedOperation {
    key: RenderedKey,
    planned: Option<Arc<PlannedObject>>,
    /// False if nothing that the controller repeats can make it succeed.
    may_pass: bool,
}

impl Rendered<Applied> {
    /// An error if any object is not as planned.
    fn result(&self) -> Result<(), ApplyError> {
        match self.stage.failed {
            0 => Ok(()),
            objects => Err(ApplyError::Failed { objects }),
        }
    }
}

impl SyncState {
    /// Runs all steps, as far as there is anything to do and this replica leads.
    pub(super) async fn sync(&mut self) {
        let began = Instant::now();
        let is_due = judge::carry_out(self).await;
        // Refused batches are taken back before anything else is begun.
        let changes = if judge::is_returning(self) { Vec::new() } else { self.evaluate() };
        let evaluated = changes.len();
        if !self.context.is_leader() {
            self.witness.iter_mut().for_each(Witness::rest);
            return;
        }
        let unrestored = judge::restore(self).await;
        let relocations = self.relocations();
        self.declare_ports();
        let is_idle = evaluated == 0
            && relocations.is_empty()
            && !is_due
            && !self.progress.is_stale
            && !self.objects.has_failures()
            && self.statuses.status_dirty.is_empty();
        if is_idle {
            return;
        }
        if !judge::may_begin(self, &changes).await {
            return;
        }
        let unmoved = self.relocate(relocations).await;
        self.urgent.add(&changes);
        let rendered = self.render(&changes);
        let rendered = self.order(rendered);
        judge::look(self, &rendered.stage).await;
        let share = SHARE.max(began.elapsed() * 20);
        let mut rendered = self.apply(rendered, share).await;
        rendered.stage.failed += unmoved + unrestored;
        let applied = rendered.result().map_err(SyncError::Apply);
        let marked = judge::mark(self, &rendered.stage).await.map_err(SyncError::Mark);
        let reported = self.update_statuses(&rendered, share).await.map_err(SyncError::Status);
        self.set_gauges();
        let is_reported = !matches!(&reported, Ok(false));
        self.go_on(&rendered.stage, is_reported);
        let result = applied.and(marked).and(reported.map(drop));
        let seconds = began.elapsed().as_secs_f64();
        match &result {
            _ if self.progress.is_unfinished => debug!(evaluated, seconds, "synced in part"),
            Ok(()) => {
                self.progress.succeeded();
                self.settle().await;
                debug!(evaluated, seconds, "synced");
            }
            Err(error) => {
                self.progress.failed();
                debug!(evaluated, seconds, error = %error, "the sync will be repeated");
            }
        }
        let seconds = began.elapsed().as_secs_f64();
        self.context.http.metrics.reconciled(OutcomeLabel::of(&result), seconds, evaluated);
    }

    /// Adds the declared ports to the options of rendering: those that have a WasmPlugin at once, the others
    /// when sidecars can fetch the filter.
    fn declare_ports(&mut self) {
        let settings = &self.context.settings;
        let missing: Vec<u16> = settings.ports.ports.difference(&settings.mesh.ports).copied().collect();
        if missing.is_empty() {
            return;
        }
        let is_reachable = settings.ports.is_reachable(self.context.http.readiness.found_ready(), Instant::now());
        let has_plugin = |port: &u16| {
            let name = NamespacedName::new(&settings.mesh.root_namespace, &wasm_plugin::name(*port));
            self.objects.observed().contains_key(&RenderedKey { kind: wasm_plugin::KIND, name })
        };
        let (due, later): (Vec<u16>, Vec<u16>) = missing.into_iter().partition(|port| is_reachable || has_plugin(port));
        self.progress.is_stale |= !due.is_empty();
        self.context.settings.mesh.ports.extend(due);
        if !later.is_empty() {
            self.progress.look_again(ports::RETRY);
        }
    }

    /// Has what was left undone in this sync done in the next one, which begins at once.
    fn go_on(&mut self, applied: &Applied, is_reported: bool) {
        let objects = self.store.objects();
        self.urgent.retain(|key| !applied.is_finished && (applied.pending.contains(key) || !objects.contains_key(key)));
        self.progress.is_stale |= !applied.is_finished;
        self.progress.is_unfinished = !(applied.is_finished && is_reported);
    }

    /// Evaluates the objects in the queue. Objects whose Secrets are still being read stay in the
    /// queue.
    fn evaluate(&mut self) -> Vec<(ObjectKey, StateChange)> {
        let mut changes = Vec::new();
        let mut waiting = Vec::new();
        for key in self.queue.take(&self.store) {
            if self.store.secrets_around(&key).into_iter().any(|secret| self.secrets.is_unread(secret)) {
                waiting.push(key);
                continue;
            }
            let evaluation = evaluation::evaluate(&self.store, &key, &self.context.settings.mesh);
            let uid = self.store.objects().get(&key).and_then(|object| object.uid.clone());
            let (change, used) = self.states.update(&key, evaluation.map(|evaluation| (evaluation, uid)));
            changes.push((key.clone(), change));
            self.statuses.status_dirty.extend(used);
            self.statuses.status_dirty.insert(key);
        }
        self.queue.add(waiting);
        self.follow_hosts(&mut changes);
        let secrets = &self.secrets;
        self.store.drop_unnamed_secrets(|secret| secrets.is_about_to_show(secret));
        changes
    }

    /// Plans the objects that are to be.
    pub(super) fn render(&mut self, changes: &[(ObjectKey, StateChange)]) -> Rendered<Prepared> {
        if let Some(plan) = self.plan_alone(changes) {
            return Rendered { plan, stage: Prepared { extent: Extent::Part } };
        }
        self.progress.is_stale = false;
        let prepared_services = self.states.in_force();
        let sharing = self.objects.sharing(&prepared_services);
        let kept = self.kept_hosts(&prepared_services);
        let plan = plan::plan(&prepared_services, &self.context.settings.mesh, &PlanHistory { sharing, kept });
        self.objects.set_apart(plan.apart.clone());
        Rendered { plan, stage: Prepared { extent: Extent::Whole } }
    }

    /// The plan for changes that concern no rendered objects but their own: of thousands of
    /// objects, only they are looked at. None where that isn't so, or where anything else is left
    /// to do.
    fn plan_alone(&self, changes: &[(ObjectKey, StateChange)]) -> Option<RenderPlan> {
        let is_all_done = !self.progress.is_stale && !self.objects.has_failures() && self.statuses.judged.is_empty();
        let apart = self.objects.apart().filter(|_| is_all_done)?;
        let root_namespace = &self.context.settings.mesh.root_namespace;
        let mut objects = Vec::new();
        for (_, change) in changes {
            if change.before.len() != change.after.len() || !change.is_good {
                return None;
            }
            for (old, new) in change.before.iter().zip(&change.after).filter(|(old, new)| !Arc::ptr_eq(old, new)) {
                objects.extend(plan::plan_alone(old, new, apart, root_namespace)?.into_iter().map(Arc::new));
            }
        }
        Some(RenderPlan { objects, apart: apart.clone() })
    }

    /// The hosts of frozen objects in WasmPlugins, which stay as they are.
    fn kept_hosts(&self, prepared_services: &[Arc<PreparedService>]) -> BTreeMap<PortGroup, PluginHosts> {
        let frozen = self.states.frozen(&self.store);
        if frozen.is_empty() {
            return BTreeMap::new();
        }
        let root = &self.context.settings.mesh.root_namespace;
        let mut hosts: BTreeMap<(&str, &str), &str> = BTreeMap::new();
        for key in &frozen {
            for name in self.store.hosts_of(key) {
                // Objects in the root namespace follow from objects of the host's own namespace.
                let namespace = match ClientScope::of(name, &key.name.namespace) {
                    ClientScope::Mesh => root,
                    ClientScope::Namespace(_) => &key.name.namespace,
                };
                hosts.insert((namespace, &name.host), &key.name.namespace);
            }
        }
        for prepared in prepared_services {
            hosts.remove(&(prepared.namespace.as_str(), prepared.service.address.host.as_str()));
        }
        let own = self.objects.own();
        let mut kept = observed::kept_hosts(own, |namespace, host| hosts.contains_key(&(namespace, host)));
        for ((namespace, _), found) in &mut kept {
            for host in &mut found.hosts {
                let name = host.host.rsplit_once(':').map(|(name, _)| name.to_owned()).unwrap_or_default();
                let owner = hosts.get(&(namespace.as_str(), name.as_str())).copied().unwrap_or_default();
                kept::at_present(host, owner, &self.store);
            }
        }
        kept
    }

    /// Compares the plan with the cluster and orders the operations.
    fn order(&mut self, rendered: Rendered<Prepared>) -> Rendered<Ordered> {
        let frozen = match rendered.stage.extent {
            Extent::Whole => self.states.frozen(&self.store).into_iter().map(ToString::to_string).collect(),
            Extent::Part => Vec::new(),
        };
        let settings = &self.context.settings;
        let is_named = self.context.standing.borrow().is_root_confirmed();
        let is_confirmed = judge::is_root_certain(self, is_named);
        let awaits_module = settings.awaits_module();
        let context = OrderContext { options: &settings.mesh, frozen, awaits_module, is_confirmed };
        order(rendered, &mut self.objects, &context)
    }

    /// Performs the operations, those of a class and a phase after those of the one before, and
    /// begins none when its share of time is over.
    async fn apply(&mut self, mut rendered: Rendered<Ordered>, share: Duration) -> Rendered<Applied> {
        // The plan doesn't change while its operations wait for requests.
        let options = self.context.settings.mesh.clone();
        let mut blocked = Blocked::new(&options.root_namespace);
        let operations = std::mem::take(&mut rendered.stage.operations);
        let refused = std::mem::take(&mut rendered.stage.refused);
        let mut failed = refused.len();
        for (key, planned) in refused {
            blocked.after(&key, Some(&planned));
        }
        let mut pending = Vec::new();
        let steps = urgency::arrange(operations, &mut self.objects, &self.urgent, &options.root_namespace);
        let end = Instant::now() + share;
        let mut rest = steps.into_iter().peekable();
        while let Some((urgency, phase)) = rest.peek().map(|step| (step.urgency, step.phase))
            && pending.is_empty()
        {
            let mut batch = Vec::new();
            while let Some(step) = rest.next_if(|next| (next.urgency, next.phase) == (urgency, phase)) {
                let operation = step.operation;
                let planned = operation.planned().map(AsRef::as_ref);
                let observed = self.objects.observed().get(operation.key()).map(AsRef::as_ref);
                if blocked.blocks(operation.key(), planned, observed) {
                    self.objects.failed(operation.key(), "waits for an object that could not be applied before it");
                    blocked.held(operation.key(), planned);
                    continue;
                }
                let unserved = planned
                    .zip(observed)
                    .map(|(planned, observed)| blocked.unserved(&operation.key().name.namespace, planned, observed));
                batch.push(match unserved {
                    Some(hosts) if !hosts.is_empty() => operation.keeping(hosts),
                    _ => operation,
                });
            }
            let mut waiting = batch.into_iter();
            for failure in self.perform(&mut waiting, &options, end).await {
                failed += usize::from(failure.may_pass);
                blocked.after(&failure.key, failure.planned.as_deref());
            }
            pending.extend(waiting);
        }
        pending.extend(rest.map(|step| step.operation));
        let waiting = pending.iter().flat_map(|operation| self.pending_subjects(operation, &options));
        let (is_finished, waiting) = (pending.is_empty(), waiting.collect());
        rendered.at(Applied { failed, is_finished, pending: waiting })
    }

    /// The objects that aren't yet in force as they are, since an operation has still to be performed.
    fn pending_subjects(&self, operation: &Operation, options: &MeshOptions) -> Vec<ObjectKey> {
        let Some(planned) = operation.planned() else { return Vec::new() };
        let mut subjects = planned.subjects();
        if let ObjectContent::Plugin { prepared_services, .. } = &planned.content {
            // Hosts that are in the WasmPlugin as planned don't wait for the others.
            let observed = self.objects.observed().get(operation.key());
            let hosts = || observed.into_iter().flat_map(|observed| &observed.plugin.hosts);
            let hosts: BTreeMap<&str, &wire::Host> = hosts().map(|host| (host.host.as_str(), host)).collect();
            let is_there = |prepared: &PreparedService| {
                hosts.get(prepared.service.address.to_string().as_str()) == Some(&&prepared.host(options))
            };
            let there = prepared_services.iter().filter(|prepared| is_there(prepared));
            let there: BTreeSet<&str> = there.map(|prepared| prepared.service.owner.name.as_str()).collect();
            subjects.retain(|subject| !there.contains(subject.name.as_str()));
        }
        subjects.into_iter().filter_map(ObjectKey::of).collect()
    }

    /// Performs operations, several at once, and begins none after `end`. Returns those that failed.
    async fn perform(
        &mut self,
        operations: &mut impl Iterator<Item = Operation>,
        options: &MeshOptions,
        end: Instant,
    ) -> Vec<FailedOperation> {
        let (standing, applier) = (self.context.standing.clone(), self.context.applier.clone());
        let requests = until(end, operations).map(|operation| {
            let (standing, applier) = (&standing, &applier);
            async move {
                let (key, repairs) = (operation.key().clone(), operation.repairs());
                let planned = operation.planned().cloned();
                // Another replica may have become the leader meanwhile.
                let may_write = standing.borrow().may_write(&options.root_namespace);
                let result = match may_write {
                    true => Some(with_timeout(applier.perform(operation, options)).await),
                    false => None,
                };
                (key, planned, repairs, result)
            }
        });
        let mut requests = stream::iter(requests).buffer_unordered(CONCURRENCY);
        let mut failed = Vec::new();
        while let Some((key, planned, repairs, result)) = requests.next().await {
            let Some(result) = result else {
                // What comes after it must not be done, even if this replica leads again by then.
                failed.push(FailedOperation { key, planned, may_pass: true });
                continue;
            };
            let subjects = planned.iter().flat_map(|planned| planned.subjects()).filter_map(ObjectKey::of);
            let subjects: Vec<ObjectKey> = subjects.collect();
            let is_performed = result.is_ok();
            let may_pass = !result.as_ref().is_err_and(RequestError::is_of_deleted_namespace);
            if is_performed && let Some(witness) = &mut self.witness {
                witness.touch(&key, &subjects);
            }
            self.performed(&key, repairs, result);
            if repairs
                && is_performed
                && let Some(subject) = subjects.first()
            {
                self.publish_repair(&key, subject).await;
            }
            self.statuses.status_dirty.extend(subjects);
            if !is_performed {
                failed.push(FailedOperation { key, planned, may_pass });
            }
        }
        failed
    }

    /// Records the result of an operation.
    fn performed(&mut self, key: &RenderedKey, repairs: bool, result: Result<Performed, RequestError>) {
        let metrics = &self.context.http.metrics;
        match result {
            Ok(performed) => {
                if let Performed::Deleted = performed {
                    info!(object = %key, "deleted");
                    metrics.deleted(key.kind);
                } else {
                    info!(object = %key, repairs, "applied");
                    metrics.applied(key.kind, OutcomeLabel::success);
                }
                self.objects.performed(key, performed);
            }
            // Whoever deletes a namespace knows that, and is told once.
            Err(error) if error.is_of_deleted_namespace() => {
                let reason = error.with_remedy();
                if self.objects.failed(key, &reason) {
                    info!(object = %key, reason, "the object is not applied");
                }
            }
            Err(error) => {
                warn!(object = %key, error = %error, "the object could not be applied");
                metrics.applied(key.kind, OutcomeLabel::error);
                self.objects.failed(key, &error.with_remedy());
            }
        }
    }

    /// Writes an Event that somebody's change of a rendered object was undone.
    async fn publish_repair(&self, key: &RenderedKey, subject: &ObjectKey) {
        let Some(object) = self.store.objects().get(subject) else { return };
        let event = Event {
            type_: EventType::Normal,
            reason: "Repaired".to_owned(),
            note: Some(format!("{key} was changed by somebody else and has been restored")),
            action: "Apply".to_owned(),
            secondary: None,
        };
        if let Err(error) = self.context.recorder.publish(&event, &subject.reference(object.uid.clone())).await {
            warn!(error = chain(&error), "an Event could not be written");
        }
    }

    fn set_gauges(&self) {
        let metrics = &self.context.http.metrics;
        for kind in [ObjectKind::Service, ObjectKind::Destination] {
            let (good, bad) = self.states.count(kind);
            metrics.set_resources(kind.name(), true, good);
            metrics.set_resources(kind.name(), false, bad);
        }
        for kind in [wasm_plugin::KIND, envoy_filter::KIND] {
            metrics.set_objects(kind, self.objects.own().filter(|(key, _)| key.kind == kind).count());
        }
    }

    /// Does the work of a leader that follows its first successful sync.
    async fn settle(&mut self) {
        let mesh = &self.context.settings.mesh;
        if std::mem::replace(&mut self.progress.is_settled, true) || mesh.filter_sha256.is_none() {
            return;
        }
        // While no replica served the filter, sidecars that started may have given up fetching it.
        let revision = self.objects.next_revision();
        if let Err(error) = self.context.applier.light_beacon(&mesh.root_namespace, revision).await {
            warn!(
                error = chain(&error),
                "istiod could not be made to send the filter again to sidecars that failed to fetch it"
            );
            self.progress.is_settled = false;
        }
        // This version's filter is in place, so those of older versions aren't needed any more.
        let named: BTreeSet<String> = mesh.filter_sha256.iter().cloned().collect();
        if let Err(error) = self.context.http.filters.prune(&named).await {
            warn!(error = chain(&error), "filters of older versions could not be deleted");
        }
    }
}
