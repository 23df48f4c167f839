//! What comes first where much is to be done. A sync that has to write hundreds of objects takes
//! seconds, in which others would wait: those who change one object, and those who take something
//! away or ask for a password from now on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::render::planned_object::{ObjectContent, PlannedObject};
use crate::render::prepared_service::PreparedService;

use super::applier::Operation;
use super::names::{ObjectKey, RenderedKey};
use super::observed::ObservedObject;
use super::order::{ApplyPhase, Blocked};
use super::rendered::RenderedObjects;
use super::state::StateChange;

/// The greatest number of objects that change at once and are urgent for that reason alone.
const FEW: usize = 16;

/// When the operations of a sync are performed. Those of a class begin when the ones of the class
/// before have ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// Changes that somebody waits for.
    Urgent,
    /// All others.
    Usual,
    /// What has failed before, and what depends on it.
    Retried,
}

/// An operation with its place in the order.
pub struct RankedOperation {
    /// The class.
    pub urgency: Urgency,
    /// The phase within the class.
    pub phase: ApplyPhase,
    /// The operation.
    pub operation: Operation,
}

/// The objects whose changes are urgent and not yet applied.
#[derive(Default)]
pub struct UrgentChanges {
    /// The hosts of each object, before and after the change, as WasmPlugins name them.
    hosts: BTreeMap<ObjectKey, BTreeSet<String>>,
}

impl UrgentChanges {
    /// Takes in what has changed since the last sync.
    pub fn add(&mut self, changes: &[(ObjectKey, StateChange)]) {
        let are_few = changes.len() <= FEW;
        for (key, change) in changes.iter().filter(|(_, change)| are_few || tightens(change)) {
            let services = change.before.iter().chain(&change.after);
            let hosts = services.map(|prepared| prepared.service.address.to_string());
            self.hosts.entry(key.clone()).or_default().extend(hosts);
        }
    }

    /// Forgets the changes that have been applied.
    pub fn retain(&mut self, is_pending: impl Fn(&ObjectKey) -> bool) {
        self.hosts.retain(|key, _| is_pending(key));
    }

    fn concerns(&self, operation: &Operation, observed: Option<&ObservedObject>) -> bool {
        let is_about = |planned: &PlannedObject| {
            let mut subjects = planned.subjects().into_iter().filter_map(ObjectKey::of);
            // What all sidecars with the module need is one object, on which others wait.
            matches!(planned.content, ObjectContent::Module(_)) || subjects.any(|key| self.hosts.contains_key(&key))
        };
        let is_host = |host: &str| self.hosts.values().any(|hosts| hosts.contains(host));
        let has_host = || observed.is_some_and(|observed| observed.plugin.hosts.iter().any(|host| is_host(&host.host)));
        let is_remains = || {
            let purpose = observed.map(|observed| observed.purpose.as_str()).unwrap_or_default();
            self.hosts.keys().any(|key| key.to_string() == purpose)
        };
        match operation.planned() {
            Some(planned) => is_about(planned) || has_host(),
            None => is_remains() || has_host(),
        }
    }
}

/// True if something is taken away, reaches other clients, or leads elsewhere or asks for another password from now on.
fn tightens(change: &StateChange) -> bool {
    change.before.iter().any(|before| {
        let identity =
            |prepared: &PreparedService| (prepared.service.address.clone(), prepared.service.clients.scope.clone());
        let after = change.after.iter().find(|after| identity(after) == identity(before));
        after.is_none_or(|after| {
            let (before, after) = (&before.service, &after.service);
            before.client_auth != after.client_auth
                || before.clients != after.clients
                || before.destinations() != after.destinations()
        })
    })
}

/// Brings operations, sorted by phase, into the order in which they are performed.
///
/// An operation comes only before those that it doesn't depend on: whatever is left for later counts
/// for those before as what could not be applied ([`Blocked`]).
pub fn arrange(
    operations: Vec<(ApplyPhase, Operation)>,
    objects: &mut RenderedObjects,
    urgent: &UrgentChanges,
    root_namespace: &str,
) -> Vec<RankedOperation> {
    let classify = |(phase, operation): (ApplyPhase, Operation)| {
        let key = operation.key();
        let urgency = match objects.failure(key) {
            _ if urgent.concerns(&operation, observed(objects, key)) => Urgency::Urgent,
            Some(_) => Urgency::Retried,
            None => Urgency::Usual,
        };
        RankedOperation { urgency, phase, operation }
    };
    let mut steps: Vec<RankedOperation> = operations.into_iter().map(classify).collect();
    let rest = postpone(&mut steps, Urgency::Urgent, objects, root_namespace);
    let finals = narrow(&mut steps, &rest, objects, urgent);
    steps.extend(finals);
    postpone(&mut steps, Urgency::Usual, objects, root_namespace);
    let is_new = |step: &RankedOperation| objects.observed().get(step.operation.key()).is_none();
    steps.sort_by_key(|step| (step.urgency, step.phase, is_new(step)));
    steps
}

fn observed<'a>(objects: &'a RenderedObjects, key: &RenderedKey) -> Option<&'a ObservedObject> {
    objects.observed().get(key).map(AsRef::as_ref)
}

/// Moves what depends on operations of later classes out of a class. Returns what waits for those.
fn postpone(steps: &mut [RankedOperation], class: Urgency, objects: &RenderedObjects, root_namespace: &str) -> Blocked {
    let mut blocked = Blocked::new(root_namespace);
    if !steps.iter().any(|step| step.urgency == class) {
        return blocked;
    }
    for step in steps.iter().filter(|step| step.urgency > class) {
        blocked.after(step.operation.key(), step.operation.planned().map(AsRef::as_ref));
    }
    let later = match class {
        Urgency::Urgent => Urgency::Usual,
        Urgency::Usual | Urgency::Retried => Urgency::Retried,
    };
    for step in steps.iter_mut().filter(|step| step.urgency == class) {
        let (key, planned) = (step.operation.key(), step.operation.planned().map(AsRef::as_ref));
        if blocked.blocks(key, planned, observed(objects, key)) {
            blocked.after(key, planned);
            step.urgency = later;
        }
    }
    blocked
}

/// Replaces urgent WasmPlugins by ones that leave the hosts as they are of which other parts are still to
/// be applied. Returns the operations that bring in those hosts later.
fn narrow(
    steps: &mut [RankedOperation],
    rest: &Blocked,
    objects: &mut RenderedObjects,
    urgent: &UrgentChanges,
) -> Vec<RankedOperation> {
    let mut finals = Vec::new();
    for step in steps.iter_mut().filter(|step| step.urgency == Urgency::Urgent) {
        let Operation::Apply { key, planned, digest, repairs, .. } = &step.operation else { continue };
        let ObjectContent::Plugin { prepared_services, .. } = &planned.content else { continue };
        let (waiting, ready): (Vec<_>, Vec<_>) =
            prepared_services.iter().cloned().partition(|prepared| rest.holds(prepared));
        // Nor does it lose hosts whose own filters are still to come.
        let known = observed(objects, key);
        let unserved = known.map(|known| rest.unserved(&key.name.namespace, planned, known)).unwrap_or_default();
        if waiting.is_empty() && unserved.is_empty() {
            continue;
        }
        let owner = |prepared: &Arc<PreparedService>| ObjectKey::of(&prepared.service.owner);
        let is_urgent = |prepared| owner(prepared).is_some_and(|owner| urgent.hosts.contains_key(&owner));
        let (key, planned, digest, repairs) = (key.clone(), planned.clone(), *digest, *repairs);
        let revision = objects.next_revision();
        let whole = Operation::Apply { key: key.clone(), planned, revision, digest, repairs };
        // Nothing of what is urgent could be brought in yet.
        if waiting.iter().any(is_urgent) && !ready.iter().any(is_urgent) {
            (step.urgency, step.operation) = (Urgency::Usual, whole);
            continue;
        }
        let mut stays = observed(objects, &key).map(|observed| observed.plugin.hosts.clone()).unwrap_or_default();
        stays.retain(|host| waiting.iter().any(|prepared| prepared.service.address.to_string() == host.host));
        stays.extend(unserved);
        finals.push(RankedOperation { urgency: Urgency::Usual, phase: step.phase, operation: whole });
        let taken = std::mem::replace(&mut step.operation, Operation::Delete(key));
        step.operation = taken.with_only(ready, stays);
    }
    // What a host had before stays until the WasmPlugin has it.
    let is_incomplete = |namespace: &str| {
        finals.iter().any(|whole: &RankedOperation| whole.operation.key().name.namespace == namespace)
    };
    for step in steps.iter_mut().filter(|step| step.urgency == Urgency::Urgent) {
        let key = step.operation.key();
        if step.operation.planned().is_none() && is_incomplete(&key.name.namespace) {
            step.urgency = Urgency::Usual;
        }
    }
    finals
}

#[cfg(test)]
mod tests;
