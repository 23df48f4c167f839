//! One pass over what has changed: evaluate, plan, apply, and say what became of it.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, stream};
use kube::runtime::events::{Event, EventType};
use redis_mesh_core::wire;
use tracing::{info, warn};

use crate::build::mesh::{self, Content, Past, Piece, Plan, Planned};
use crate::build::{envoy_filter, wasm_plugin};
use crate::validate::HostPort;
use crate::validate::destination::unused;
use crate::validate::scope::Scope as Clients;

use super::apply::{self, Operation, RenderedKey};
use super::reconcile::{Known, Reconciler};
use super::telemetry::Outcome;
use super::update_status::{self, Facts};
use super::world::{Kind, ObjectKey};

/// How many requests are under way at once.
const CONCURRENCY: usize = 16;
/// How long a request may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// When an operation has its turn. Whatever is in force at any time must be of one piece, so filters and clusters come before
/// the listeners that need them, and go after those that needed them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Turn {
    Clusters,
    Plugins,
    Listeners,
    /// WasmPlugins that give hosts away to filters of their own.
    PluginsThatShrink,
    Deletions,
}

/// What has to wait since something that it needs could not be applied. No more than that: whoever has an object of his own
/// refused must not hold up others.
#[derive(Default)]
struct Held {
    /// The services whose listeners stay as they are.
    services: BTreeSet<(HostPort, Clients)>,
    /// Namespaces where listeners stay that may need clusters there.
    clusters_of: BTreeSet<String>,
    /// The module's own internal listeners and clusters are missing.
    natives: bool,
    /// Namespaces where a WasmPlugin lacks hosts that are still configured by themselves.
    everything_of: BTreeSet<String>,
}

impl Held {
    /// Something was not applied.
    fn after(&mut self, key: &RenderedKey, planned: Option<&Planned>) {
        let Some(planned) = planned else { return };
        if let Content::Plugin { .. } = &planned.content {
            self.everything_of.insert(key.key.namespace.clone());
        }
        self.natives |= matches!(planned.content, Content::Module(_));
        let pieces = planned.content.pieces();
        self.clusters_of.insert(key.key.namespace.clone());
        for piece in pieces {
            self.clusters_of.insert(piece.namespace.clone());
            self.services.insert((piece.service.address.clone(), piece.service.scope.clone()));
        }
    }

    /// True if this has to wait.
    fn holds(&self, key: &RenderedKey, planned: Option<&Planned>, root_namespace: &str) -> bool {
        let namespace = &key.key.namespace;
        match planned.map(|planned| &planned.content) {
            None => {
                let is_cluster = key.kind == envoy_filter::KIND && key.key.name.contains(mesh::DESTINATION);
                self.everything_of.contains(namespace) || is_cluster && self.clusters_of.contains(namespace)
            }
            Some(Content::Cluster { .. } | Content::Module(_)) => false,
            // That of the whole mesh is everybody's. Without a cluster, its filter refuses rather than misroutes.
            Some(Content::Plugin { .. }) => namespace != root_namespace && self.clusters_of.contains(namespace),
            Some(content @ (Content::Listener { piece, .. } | Content::NativeListener { piece })) => {
                let is_native = matches!(content, Content::NativeListener { .. });
                is_native && self.natives
                    || self.services.contains(&(piece.service.address.clone(), piece.service.scope.clone()))
            }
        }
    }
}

/// What was in force of an object before it was looked at again, and what is now.
pub(super) struct Change {
    before: Vec<Arc<Piece>>,
    after: Vec<Arc<Piece>>,
    is_good: bool,
}

impl Reconciler {
    /// Looks again at everything that a change concerns. Returns what it has led to, for each object that was looked at.
    pub(super) fn evaluate(&mut self) -> Vec<Change> {
        self.world.mark(std::mem::take(&mut self.waiting));
        self.unsaid.extend(self.world.take_edited());
        let mut changes = Vec::new();
        for key in self.world.take_dirty() {
            if self.world.secrets_around(&key).into_iter().any(|secret| self.is_unread(secret)) {
                self.waiting.insert(key);
                continue;
            }
            self.unsaid.insert(key.clone());
            let Some(evaluation) = self.world.evaluate(&key, &self.settings.mesh) else {
                self.use_instead(&key, BTreeSet::new());
                let before = self.known.remove(&key).map(|known| known.good).unwrap_or_default();
                changes.push(Change { before, after: Vec::new(), is_good: true });
                continue;
            };
            self.use_instead(&key, evaluation.uses.clone());
            let uid = self.world.objects().get(&key).and_then(|object| object.uid.clone());
            let known = self.known.entry(key).or_default();
            let before = known.good.clone();
            if known.uid.is_some() && known.uid != uid {
                **known = Known { is_recreated: true, ..Known::default() };
            }
            known.uid = uid;
            if evaluation.is_good() {
                known.good_generation = Some(evaluation.generation);
            }
            if evaluation.is_good_for_the_rest() {
                known.good = evaluation.pieces.clone();
            } else if evaluation.has_conflict() {
                // What is wrong leaves in force what was; where somebody else has precedence, that ends.
                let place = |piece: &Piece| (piece.service.address.clone(), piece.service.scope.clone());
                let own: BTreeSet<_> = evaluation.pieces.iter().map(|piece| place(piece)).collect();
                known.good.retain(|piece| own.contains(&place(piece)));
            }
            changes.push(Change { before, after: known.good.clone(), is_good: evaluation.is_good() });
            known.evaluation = evaluation;
        }
        let unread = &self.unread;
        self.world.forget_secrets(|secret| unread.iter().any(|scope| scope.covers(secret)));
        changes
    }

    /// The plan for changes from which nothing can follow for others, so that of thousands only they have to be looked at. None
    /// where that isn't so, or where anything else is left to be done.
    pub(super) fn plan_alone(&self, changes: &[Change]) -> Option<Plan> {
        let large =
            self.large.as_ref().filter(|_| !self.is_stale && self.failures.is_empty() && self.judged.is_empty())?;
        let mut objects = Vec::new();
        for change in changes {
            if change.before.len() != change.after.len() || !change.is_good {
                return None;
            }
            for (old, new) in change.before.iter().zip(&change.after).filter(|(old, new)| !Arc::ptr_eq(old, new)) {
                objects.extend(mesh::plan_alone(old, new, large, &self.settings.mesh.root_namespace)?);
            }
        }
        Some(Plan { objects, large: large.clone() })
    }

    /// Does what has to be done for a part of the cluster to be as planned.
    pub(super) async fn apply_alone(&mut self, plan: &Plan) -> Result<(), ()> {
        let planned: BTreeMap<RenderedKey, &Planned> =
            plan.objects.iter().map(|planned| (RenderedKey::of(planned), planned)).collect();
        let mut operations = Vec::new();
        for (key, planned) in &planned {
            operations.extend(self.objects.compare(key, planned, &self.settings.mesh));
        }
        self.perform(operations, &planned).await
    }

    /// Remembers which RedisDestinations an object builds on.
    fn use_instead(&mut self, key: &ObjectKey, uses: BTreeSet<ObjectKey>) {
        let before = self.known.get(key).map(|known| known.evaluation.uses.clone()).unwrap_or_default();
        for destination in before.symmetric_difference(&uses) {
            let count = self.users.entry(destination.clone()).or_default();
            *count = if uses.contains(destination) { *count + 1 } else { count.saturating_sub(1) };
            if *count == 0 {
                self.users.remove(destination);
            }
            self.unsaid.insert(destination.clone());
        }
    }

    /// What to say of a RedisDestination that nothing follows from.
    fn unused(&self, key: &ObjectKey, known: &Known) -> Option<String> {
        let is_used = !known.evaluation.pieces.is_empty() || self.users.contains_key(key);
        let host = self.world.hosts_of(key).next().filter(|_| key.kind == Kind::Destination && !is_used)?;
        Some(format!("spec.host: {}", unused(host)))
    }

    /// What is in force of all objects, each host once for the same clients.
    pub(super) fn in_force(&self) -> Vec<Arc<Piece>> {
        let mut found: BTreeMap<(&HostPort, &Clients), (bool, &Arc<Piece>)> = BTreeMap::new();
        for known in self.known.values() {
            let is_fresh = known.evaluation.is_good();
            for piece in &known.good {
                let place = (&piece.service.address, &piece.service.scope);
                // What is kept of an object that isn't in order gives way to one that is.
                match found.get(&place) {
                    Some((true, _)) => {}
                    Some((false, _)) if !is_fresh => {}
                    _ => {
                        found.insert(place, (is_fresh, piece));
                    }
                }
            }
        }
        let is_governed = |address| found.contains_key(&(address, &Clients::Mesh));
        let in_force = found.iter().filter(|((address, clients), (is_fresh, _))| {
            *is_fresh || **clients == Clients::Mesh || !is_governed(address)
        });
        in_force.map(|(_, (_, piece))| (*piece).clone()).collect()
    }

    /// Objects of which nothing is known but what they rendered once, if they did.
    fn frozen(&self) -> Vec<&ObjectKey> {
        if self.known.len() == self.world.objects().len() && !self.known.values().any(|known| known.is_frozen()) {
            return Vec::new();
        }
        let keys = self.world.objects().keys();
        keys.filter(|key| self.known.get(key).is_none_or(|known| known.is_frozen())).collect()
    }

    pub(super) fn plan(&mut self, pieces: &[Arc<Piece>]) -> Plan {
        let large = match self.large.take() {
            Some(large) => large,
            None => self.objects.large_groups(pieces.iter()),
        };
        let frozen = self.frozen();
        let mut kept = BTreeMap::new();
        if !frozen.is_empty() {
            let root = &self.settings.mesh.root_namespace;
            let mut hosts: BTreeSet<(&str, &str)> = BTreeSet::new();
            for key in &frozen {
                for name in self.world.names_of(key) {
                    // What stands in the root namespace follows from objects of the host's own namespace.
                    let namespace = match Clients::of(name, &key.key.namespace) {
                        Clients::Mesh => root,
                        Clients::Namespace(_) => &key.key.namespace,
                    };
                    hosts.insert((namespace, &name.host));
                }
            }
            for piece in pieces {
                hosts.remove(&(piece.namespace.as_str(), piece.service.address.host.as_str()));
            }
            kept = apply::kept_hosts(self.objects.live(), |namespace, host| hosts.contains(&(namespace, host)));
        }
        let plan = mesh::plan(pieces, &self.settings.mesh, &Past { large, kept });
        self.large = Some(plan.large.clone());
        plan
    }

    /// Does what has to be done for the cluster to be as planned.
    pub(super) async fn apply(&mut self, plan: &Plan) -> Result<(), ()> {
        let planned: BTreeMap<RenderedKey, &Planned> =
            plan.objects.iter().map(|planned| (RenderedKey::of(planned), planned)).collect();
        self.failures.retain(|key, _| planned.contains_key(key));
        self.objects.retain(&planned);
        let mut operations: Vec<(Turn, Operation<'_>)> = Vec::new();
        let by_themselves = OnceCell::new();
        let find = || -> BTreeSet<(&str, String)> {
            let alone = plan.objects.iter().filter_map(|planned| match &planned.content {
                Content::Listener { piece, per_host: true } => {
                    Some((planned.namespace.as_str(), piece.service.address.to_string()))
                }
                _ => None,
            });
            alone.collect()
        };
        let mut created = 0;
        for (key, planned) in &planned {
            let Some(operation) = self.objects.compare(key, planned, &self.settings.mesh) else { continue };
            created += usize::from(!self.objects.live().contains_key(key));
            let turn = match &planned.content {
                Content::Cluster { .. } | Content::Module(_) => Turn::Clusters,
                Content::Listener { .. } | Content::NativeListener { .. } => Turn::Listeners,
                Content::Plugin { .. } => {
                    let hosts = self.objects.live().get(key).map(|live| live.hosts.as_slice()).unwrap_or_default();
                    let is_alone = |host: &wire::Host| {
                        by_themselves.get_or_init(find).contains(&(planned.namespace.as_str(), host.host.clone()))
                    };
                    let gives_away = hosts.iter().any(is_alone);
                    if gives_away { Turn::PluginsThatShrink } else { Turn::Plugins }
                }
            };
            operations.push((turn, operation));
        }
        // As many as are planned and there already: then there is no other.
        if self.objects.live().len() > planned.len() - created {
            let superfluous = self.superfluous(&planned);
            operations.extend(superfluous.into_iter().map(|key| (Turn::Deletions, Operation::Delete(key))));
        }
        operations.sort_by_key(|(turn, _)| *turn);
        let mut result = Ok(());
        let mut held = Held::default();
        let mut rest = operations.into_iter().peekable();
        while let Some(turn) = rest.peek().map(|(turn, _)| *turn) {
            let mut batch = Vec::new();
            while let Some((_, operation)) = rest.next_if(|(next, _)| *next == turn) {
                let key = operation.key();
                if held.holds(key, planned.get(key).copied(), &self.settings.mesh.root_namespace) {
                    self.failures.insert(key.clone(), format!("{key}: waits for what could not be applied before it"));
                } else {
                    batch.push(operation);
                }
            }
            let keys: Vec<RenderedKey> = batch.iter().map(|operation| operation.key().clone()).collect();
            if self.perform(batch, &planned).await.is_err() {
                for key in keys.iter().filter(|key| self.failures.contains_key(*key)) {
                    held.after(key, planned.get(key).copied());
                }
                result = Err(());
            }
        }
        result
    }

    /// What is there, is ours, and follows from nothing.
    fn superfluous(&self, planned: &BTreeMap<RenderedKey, &Planned>) -> Vec<RenderedKey> {
        let frozen: Vec<String> =
            self.frozen().into_iter().map(|key| format!("{} {}", key.kind.name(), key.key)).collect();
        // Where anything is left as it is, so are the clusters to which it may lead.
        let left = self.objects.live().iter().filter(|(_, live)| frozen.contains(&live.purpose));
        let mut needed: BTreeSet<&str> = left.map(|(key, _)| key.key.namespace.as_str()).collect();
        needed.extend(planned.values().filter_map(|planned| match &planned.content {
            Content::Plugin { kept, .. } if !kept.is_empty() => Some(planned.namespace.as_str()),
            _ => None,
        }));
        let live = self.objects.live().iter().filter(|(key, _)| !planned.contains_key(*key));
        let gone = live.filter(|(key, live)| {
            let may_be_needed = key.kind == envoy_filter::KIND
                && key.key.name.contains(mesh::DESTINATION)
                && needed.contains(key.key.namespace.as_str());
            let is_left = live.is_native && self.settings.awaits_module();
            apply::is_prunable(live, &frozen) && !may_be_needed && !is_left
        });
        gone.map(|(key, _)| key.clone()).collect()
    }

    async fn perform(
        &mut self,
        operations: Vec<Operation<'_>>,
        planned: &BTreeMap<RenderedKey, &Planned>,
    ) -> Result<(), ()> {
        let (is_leader, hands) = (self.is_leader.clone(), self.objects.hands(&self.settings.mesh));
        let requests = operations.into_iter().map(|operation| {
            let (is_leader, hands) = (&is_leader, &hands);
            async move {
                let key = operation.key().clone();
                let repairs = matches!(&operation, Operation::Apply { repairs: true, .. });
                if !is_leader.borrow().holds() {
                    return (key, repairs, None);
                }
                (key, repairs, Some(patiently(hands.perform(operation)).await))
            }
        });
        let mut requests = stream::iter(requests).buffer_unordered(CONCURRENCY);
        let mut outcome = Ok(());
        while let Some((key, repairs, result)) = requests.next().await {
            // Somebody else leads now.
            let Some(result) = result else { continue };
            let subjects: Vec<ObjectKey> = planned
                .get(&key)
                .map(|planned| planned.subjects().into_iter().filter_map(ObjectKey::of).collect())
                .unwrap_or_default();
            match result {
                Ok(done) => {
                    if let apply::Done::Deleted = done {
                        info!(object = %key, "deleted");
                        self.served.metrics.deleted(key.kind);
                    } else {
                        info!(object = %key, repairs, "applied");
                        self.served.metrics.applied(key.kind, Outcome::success);
                    }
                    self.objects.done(&key, done);
                    self.failures.remove(&key);
                    if repairs && let Some(subject) = subjects.first() {
                        self.tell_of_repair(&key, subject).await;
                    }
                }
                Err(error) => {
                    let reason = match &error {
                        kube::Error::Api(status) => status.message.clone(),
                        other => super::chain(other),
                    };
                    warn!(object = %key, error = reason, "not applied");
                    self.served.metrics.applied(key.kind, Outcome::error);
                    self.failures.insert(key.clone(), format!("{key}: {}", hint(&error, reason)));
                    outcome = Err(());
                }
            }
            self.unsaid.extend(subjects);
        }
        outcome
    }

    /// Somebody has edited or deleted what follows from an object, and should know that it doesn't last.
    async fn tell_of_repair(&self, key: &RenderedKey, subject: &ObjectKey) {
        let Some(object) = self.world.objects().get(subject) else { return };
        let event = Event {
            type_: EventType::Normal,
            reason: "Repaired".to_owned(),
            note: Some(format!("{key} was changed by somebody else, and is as it should be again")),
            action: "Apply".to_owned(),
            secondary: None,
        };
        if let Err(error) = self.recorder.publish(&event, &object.reference(subject)).await {
            warn!(error = super::chain(&error), "an Event can't be written");
        }
    }

    /// Has the statuses looked at of those against which something is said that has nothing to do with themselves.
    pub(super) fn judgements(&mut self, plan: &Plan) -> BTreeMap<ObjectKey, (Vec<String>, Vec<String>)> {
        let mut judgements: BTreeMap<ObjectKey, (Vec<String>, Vec<String>)> = BTreeMap::new();
        let is_anything_wrong =
            !self.failures.is_empty() || self.objects.live().values().any(|live| live.rejected.is_some());
        for planned in plan.objects.iter().filter(|_| is_anything_wrong) {
            let key = RenderedKey::of(planned);
            let failure = self.failures.get(&key);
            let rejection = self.objects.live().get(&key).and_then(|live| live.rejected.as_ref());
            if failure.is_none() && rejection.is_none() {
                continue;
            }
            for subject in planned.subjects().into_iter().filter_map(ObjectKey::of) {
                let judged = judgements.entry(subject).or_default();
                judged.0.extend(failure.cloned());
                judged.1.extend(rejection.map(|said| format!("{key}: {said}")));
            }
        }
        let before = std::mem::replace(&mut self.judged, judgements.keys().cloned().collect());
        self.unsaid.extend(before);
        self.unsaid.extend(judgements.keys().cloned());
        judgements
    }

    /// Writes the statuses of those of which there is something new to say.
    pub(super) async fn update_status(
        &mut self,
        judgements: &BTreeMap<ObjectKey, (Vec<String>, Vec<String>)>,
    ) -> Result<(), ()> {
        let mut requests = Vec::new();
        if !self.is_leader.borrow().holds() {
            return Err(());
        }
        for key in std::mem::take(&mut self.unsaid) {
            let (Some(object), Some(known)) = (self.world.objects().get(&key), self.known.get(&key)) else { continue };
            let (failures, rejections) = judgements.get(&key).cloned().unwrap_or_default();
            let facts = Facts {
                evaluation: &known.evaluation,
                in_force: known.good.iter().map(AsRef::as_ref).collect(),
                good_generation: known.good_generation,
                unused: self.unused(&key, known),
                has_remains: known.is_frozen() && self.has_remains(&key),
                unreadable: self.unreadable_of(&key),
                failures,
                rejections,
            };
            let status = update_status::status(&facts, &object.status);
            if update_status::is_same(&status, &object.status) {
                continue;
            }
            let client = self.client.clone();
            requests.push(async move {
                let result = patiently(update_status::write(client, key.clone(), status.clone())).await;
                (key, status, result)
            });
        }
        let mut outcome = Ok(());
        let mut requests = stream::iter(requests).buffer_unordered(CONCURRENCY);
        while let Some((key, status, result)) = requests.next().await {
            self.served.metrics.status_written(Outcome::of(&result));
            match result {
                Ok(version) => {
                    if let Some(object) = self.world.objects().get(&key) {
                        let told =
                            update_status::publish(&self.recorder, &object.reference(&key), &object.status, &status)
                                .await;
                        if let Err(error) = told {
                            warn!(error = super::chain(&error), "an Event can't be written");
                        }
                    }
                    self.world.set_status(&key, status, version.as_deref());
                }
                Err(error) => {
                    warn!(object = %key.key, kind = key.kind.name(), error = super::chain(&error), "its status can't be written");
                    self.unsaid.insert(key);
                    outcome = Err(());
                }
            }
        }
        outcome
    }

    /// True if something was rendered from an object, by whichever replica.
    fn has_remains(&self, key: &ObjectKey) -> bool {
        let purpose = format!("{} {}", key.kind.name(), key.key);
        let root = self.settings.mesh.root_namespace.as_str();
        let names: Vec<_> = self.world.names_of(key).collect();
        let is_about = |namespace: &str, host: &str| {
            names.iter().any(|name| {
                let is_place = match Clients::of(name, &key.key.namespace) {
                    Clients::Mesh => namespace == root,
                    Clients::Namespace(own) => namespace == own,
                };
                is_place && host.strip_prefix(&name.host).is_some_and(|rest| rest.starts_with(':'))
            })
        };
        let mut live = self.objects.live().iter().filter(|(_, live)| live.is_own);
        live.any(|(at, live)| {
            live.purpose == purpose || live.hosts.iter().any(|host| is_about(&at.key.namespace, &host.host))
        })
    }

    /// Why Secrets that an object names can't be read.
    fn unreadable_of(&self, key: &ObjectKey) -> Vec<String> {
        let secrets = self.world.secrets_of(key).filter(|secret| !self.world.has_secret(secret));
        let reason = |secret: &crate::inventory::Key| {
            let reason = self.unreadable.iter().find(|(scope, _)| scope.covers(secret)).map(|(_, reason)| reason)?;
            Some(format!("Secret {secret} can't be read by the controller: {reason}"))
        };
        secrets.filter_map(reason).collect()
    }

    /// Sets the gauges.
    pub(super) fn count(&self) {
        for kind in [Kind::Service, Kind::Destination] {
            let of_kind = self.known.iter().filter(|(key, _)| key.kind == kind);
            let (good, bad): (Vec<_>, Vec<_>) = of_kind.partition(|(_, known)| known.evaluation.is_good());
            self.served.metrics.set_resources(kind.name(), true, good.len());
            self.served.metrics.set_resources(kind.name(), false, bad.len());
        }
        for kind in [wasm_plugin::KIND, envoy_filter::KIND] {
            let live = self.objects.live().iter().filter(|(key, live)| key.kind == kind && live.is_own);
            self.served.metrics.set_objects(kind, live.count());
        }
    }

    /// What a leader does once it has everything in order for the first time.
    pub(super) async fn settle(&mut self) {
        if std::mem::replace(&mut self.is_settled, true) || self.settings.mesh.filter_sha256.is_none() {
            return;
        }
        // Nobody may have been there to serve the filter to those that have begun meanwhile.
        if let Err(error) = self.objects.light_beacon(&self.settings.mesh).await {
            warn!(error = super::chain(&error), "sidecars that could not fetch the filter are not told to try again");
            self.is_settled = false;
        }
        // With this version's filter in place, those of older versions are of no use.
        let named: BTreeSet<String> = self.settings.mesh.filter_sha256.iter().cloned().collect();
        if let Err(error) = self.served.filters.prune(&named).await {
            warn!(error = super::chain(&error), "filters of older versions can't be deleted");
        }
    }
}

/// A request, which fails when it takes too long.
async fn patiently<T>(request: impl Future<Output = Result<T, kube::Error>>) -> Result<T, kube::Error> {
    let result = tokio::time::timeout(PATIENCE, request).await;
    result.unwrap_or_else(|_| Err(kube::Error::Service("the API server doesn't answer".into())))
}

/// What a person can do about a failure.
fn hint(error: &kube::Error, reason: String) -> String {
    match error {
        kube::Error::Api(status) if status.code == 404 => {
            format!("{reason}; is Istio installed, and does the namespace exist?")
        }
        kube::Error::Api(status) if status.code == 403 => format!("{reason}; grant it to the controller"),
        kube::Error::Api(status) if status.code == 413 => format!("{reason}; use fewer routes"),
        _ => reason,
    }
}
