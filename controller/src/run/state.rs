//! The state of each object: its last evaluation, and its services in force.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::render::prepared_service::PreparedService;
use crate::validate::host_port::HostPort;
use crate::validate::scope::ClientScope;

use super::evaluation::Evaluation;
use super::names::{ObjectKey, ObjectKind};
use super::store::Store;

/// The state of one object.
#[derive(Default)]
pub struct ObjectState {
    /// The evaluation of the object as it is now.
    pub evaluation: Evaluation,
    /// The services in force: those of the last generation without errors.
    pub in_force: Vec<Arc<PreparedService>>,
    /// The last generation without errors; none if there was none since this replica started.
    pub good_generation: Option<i64>,
    uid: Option<String>,
    /// True if the object was deleted and created again since this replica started, so that
    /// nothing can have been rendered from it before.
    is_recreated: bool,
}

impl ObjectState {
    /// True if it is unknown what was rendered from the object before this replica started. What
    /// was rendered stays.
    pub fn is_frozen(&self) -> bool {
        let evaluation = &self.evaluation;
        !evaluation.is_good() && !evaluation.has_conflict() && self.good_generation.is_none() && !self.is_recreated
    }
}

/// The services in force of an object before and after an evaluation.
pub struct StateChange {
    /// Before.
    pub before: Vec<Arc<PreparedService>>,
    /// After.
    pub after: Vec<Arc<PreparedService>>,
    /// True if the evaluation found no errors.
    pub is_good: bool,
}

/// What an object says that isn't in force, since a proxy refuses it.
struct Withheld {
    refused: Vec<Arc<PreparedService>>,
    /// Why; none before it is known whether it is this object's fault.
    words: Option<String>,
    /// True if another replica has found that out, so that it is unknown what is in force instead.
    is_recalled: bool,
}

impl Withheld {
    /// True if an evaluation has found the same again.
    fn is_same(&self, prepared_services: &[Arc<PreparedService>]) -> bool {
        let are_equal = |(a, b): (&Arc<PreparedService>, &Arc<PreparedService>)| a.service == b.service;
        self.refused.len() == prepared_services.len() && self.refused.iter().zip(prepared_services).all(are_equal)
    }
}

/// The states of all objects.
#[derive(Default)]
pub struct ObjectStates {
    withheld: BTreeMap<ObjectKey, Withheld>,
    states: BTreeMap<ObjectKey, Box<ObjectState>>,
    /// The objects of which something is in force that they don't say any more: those with errors, and those
    /// that are withheld.
    kept: BTreeSet<ObjectKey>,
    /// The number of objects whose services depend on a RedisDestination.
    users: BTreeMap<ObjectKey, usize>,
}

impl ObjectStates {
    /// The state of an object.
    pub fn get(&self, key: &ObjectKey) -> Option<&ObjectState> {
        self.states.get(key).map(AsRef::as_ref)
    }

    /// Takes in the evaluation of an object with this `uid`, or that the object is gone. Returns
    /// the change, and the RedisDestinations on which the object began or ceased to depend.
    pub fn update(
        &mut self,
        key: &ObjectKey,
        evaluated: Option<(Evaluation, Option<String>)>,
    ) -> (StateChange, Vec<ObjectKey>) {
        let uses = evaluated.as_ref().map(|(evaluation, _)| evaluation.uses.clone()).unwrap_or_default();
        let used = self.use_instead(key, &uses);
        let Some((evaluation, uid)) = evaluated else {
            let was_withheld = self.withheld.remove(key).is_some();
            let was_kept = self.kept.remove(key) || was_withheld;
            let state = self.states.remove(key).unwrap_or_default();
            // What is in the cluster of an object with errors ends with it, also if this replica never had it in
            // force.
            let is_good = !was_kept && state.evaluation.is_good();
            return (StateChange { before: state.in_force, after: Vec::new(), is_good }, used);
        };
        let state = self.states.entry(key.clone()).or_default();
        let before = state.in_force.clone();
        if state.uid.is_some() && state.uid != uid {
            **state = ObjectState { is_recreated: true, ..ObjectState::default() };
        }
        state.uid = uid;
        if evaluation.is_good() {
            state.good_generation = Some(evaluation.generation);
        }
        let good = evaluation.is_good_for_the_rest().then_some(&evaluation.prepared_services);
        if good.is_some_and(|services| self.withheld.get(key).is_some_and(|withheld| !withheld.is_same(services))) {
            self.withheld.remove(key);
        }
        if self.withheld.contains_key(key) {
            // What a proxy refuses stays out of force.
        } else if evaluation.is_good_for_the_rest() {
            state.in_force = evaluation.prepared_services.clone();
        } else if evaluation.has_conflict() {
            // Errors leave in force what was in force, except where another object has precedence.
            let identity =
                |prepared: &PreparedService| (prepared.service.address.clone(), prepared.service.clients.scope.clone());
            let own: BTreeSet<_> = evaluation.prepared_services.iter().map(|prepared| identity(prepared)).collect();
            state.in_force.retain(|prepared| own.contains(&identity(prepared)));
        }
        let change = StateChange { before, after: state.in_force.clone(), is_good: evaluation.is_good() };
        let is_in_force = evaluation.is_good_for_the_rest() && !self.withheld.contains_key(key);
        match is_in_force || state.in_force.is_empty() {
            true => self.kept.remove(key),
            false => self.kept.insert(key.clone()),
        };
        state.evaluation = evaluation;
        (change, used)
    }

    /// The objects with errors of which the last good services are in force.
    pub fn kept(&self) -> Vec<ObjectKey> {
        self.kept.iter().cloned().collect()
    }

    /// Puts other services into the place of what is kept of an object.
    pub fn replace_kept(&mut self, key: &ObjectKey, services: Vec<Arc<PreparedService>>) -> Option<StateChange> {
        let state = self.states.get_mut(key)?;
        let before = std::mem::replace(&mut state.in_force, services);
        Some(StateChange { before, after: state.in_force.clone(), is_good: false })
    }

    /// Puts an object back into the state in which these services were in force, until it says something
    /// else.
    pub fn withhold(&mut self, key: &ObjectKey, before: Vec<Arc<PreparedService>>) {
        let Some(state) = self.states.get_mut(key) else { return };
        let refused = state.evaluation.prepared_services.clone();
        self.withheld.insert(key.clone(), Withheld { refused, words: None, is_recalled: false });
        // It follows its hosts as what is kept of objects with errors does.
        if !before.is_empty() {
            self.kept.insert(key.clone());
        }
        state.in_force = before;
    }

    /// Leaves what is in the cluster of an object as it is, since a proxy refuses what the object says, and what was
    /// in force before isn't known: a replica that led before has found that out, or has written it. The words
    /// say why; none before it is known whether it is this object's fault.
    pub fn recall(&mut self, key: &ObjectKey, words: Option<&str>) {
        let Some(state) = self.states.get_mut(key).filter(|_| !self.withheld.contains_key(key)) else { return };
        let refused = state.evaluation.prepared_services.clone();
        state.in_force = Vec::new();
        let withheld = Withheld { refused, words: words.map(str::to_owned), is_recalled: true };
        self.withheld.insert(key.clone(), withheld);
    }

    /// Says why an object is withheld.
    pub fn explain(&mut self, key: &ObjectKey, words: String) {
        if let Some(withheld) = self.withheld.get_mut(key) {
            withheld.words = Some(words);
        }
    }

    /// Puts what an object says in force, if it was withheld.
    pub fn release(&mut self, key: &ObjectKey) -> Option<StateChange> {
        self.withheld.remove(key)?;
        let state = self.states.get_mut(key)?;
        let before = state.in_force.clone();
        if state.evaluation.is_good_for_the_rest() {
            state.in_force = state.evaluation.prepared_services.clone();
            self.kept.remove(key);
        }
        Some(StateChange { before, after: state.in_force.clone(), is_good: state.evaluation.is_good() })
    }

    /// Why an object is withheld, if it is; empty before that is known.
    pub fn withheld(&self, key: &ObjectKey) -> Option<&str> {
        self.withheld.get(key).map(|withheld| withheld.words.as_deref().unwrap_or_default())
    }

    /// The number of objects that are withheld.
    pub fn count_withheld(&self) -> usize {
        self.withheld.len()
    }

    fn use_instead(&mut self, key: &ObjectKey, uses: &BTreeSet<ObjectKey>) -> Vec<ObjectKey> {
        let before = self.states.get(key).map(|state| state.evaluation.uses.clone()).unwrap_or_default();
        let changed: Vec<ObjectKey> = before.symmetric_difference(uses).cloned().collect();
        for destination in &changed {
            let count = self.users.entry(destination.clone()).or_default();
            *count = if uses.contains(destination) { *count + 1 } else { count.saturating_sub(1) };
            if *count == 0 {
                self.users.remove(destination);
            }
        }
        changed
    }

    /// True if the services of any object depend on this RedisDestination.
    pub fn is_used(&self, destination: &ObjectKey) -> bool {
        self.users.contains_key(destination)
    }

    /// The services in force of all objects: for each host one for the same clients.
    pub fn in_force(&self) -> Vec<Arc<PreparedService>> {
        let mut found: BTreeMap<(&HostPort, &ClientScope), (bool, &Arc<PreparedService>)> = BTreeMap::new();
        for state in self.states.values() {
            let is_fresh = state.evaluation.is_good();
            for prepared in &state.in_force {
                let identity = (&prepared.service.address, &prepared.service.clients.scope);
                // A service of an object with errors gives way to that of an object without.
                match found.get(&identity) {
                    Some((true, _)) => {}
                    Some((false, _)) if !is_fresh => {}
                    _ => {
                        found.insert(identity, (is_fresh, prepared));
                    }
                }
            }
        }
        let is_governed = |address| found.contains_key(&(address, &ClientScope::Mesh));
        let in_force = found.iter().filter(|((address, clients), (is_fresh, _))| {
            *is_fresh || **clients == ClientScope::Mesh || !is_governed(address)
        });
        in_force.map(|(_, (_, prepared))| (*prepared).clone()).collect()
    }

    /// The objects of which nothing is known but what was rendered from them, if anything was.
    pub fn frozen<'a>(&self, store: &'a Store) -> Vec<&'a ObjectKey> {
        let is_recalled = |key: &ObjectKey| self.withheld.get(key).is_some_and(|withheld| withheld.is_recalled);
        let is_any_frozen = || self.states.iter().any(|(key, state)| state.is_frozen() || is_recalled(key));
        if self.states.len() == store.objects().len() && !is_any_frozen() {
            return Vec::new();
        }
        let keys = store.objects().keys();
        keys.filter(|key| self.states.get(key).is_none_or(|state| state.is_frozen()) || is_recalled(key)).collect()
    }

    /// The numbers of objects of a kind without and with errors.
    pub fn count(&self, kind: ObjectKind) -> (usize, usize) {
        let of_kind = self.states.iter().filter(|(key, _)| key.kind == kind);
        let (good, bad): (Vec<_>, Vec<_>) = of_kind.partition(|(_, state)| state.evaluation.is_good());
        (good.len(), bad.len())
    }
}
