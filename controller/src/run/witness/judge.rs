//! Carries out, in a sync, what follows from the answers of the witness.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tracing::{debug, error, info, warn};

use crate::crd::status::ResourceStatus;
use crate::render::plan::RenderPlan;
use crate::run::names::ObjectKey;
use crate::run::order::Ordered;
use crate::run::rendered::{Applied, Rendered};
use crate::run::request::{RequestError, SHARE};
use crate::run::state::StateChange;
use crate::run::sync_state::SyncState;
use crate::run::telemetry::JudgmentLabel;
use crate::run::update_status::{PENDING, REJECTED};

use super::evidence::{self, PlannedPatches, Suspects};
use super::ledger::{Claim, Judgment, ResourceType};
use super::state::{ServicesInForce, Witness};

/// The time that clusters get to become ready, before those that don't count as refused.
const WARMING: Duration = Duration::from_millis(700);

/// The greatest number of culprits each of which is looked at alone.
const FEW: usize = 16;

/// What can be said of an object whose configuration was written.
pub fn claim(state: &SyncState, key: &ObjectKey) -> Claim {
    state.witness.as_ref().map_or(Claim::NoWitness, |witness| witness.claim(key))
}

/// True if refused batches are being taken back, so that nothing else may be written.
pub fn is_returning(state: &SyncState) -> bool {
    state.witness.as_ref().is_some_and(|witness| witness.ledger.is_returning())
}

/// True if nothing may be applied, since there is a witness that doesn't answer.
fn forbids_writing(state: &SyncState) -> bool {
    let forbids = |witness: &Witness| witness.ledger.forbids_writing() && !witness.ledger.is_returning();
    state.witness.as_ref().is_some_and(forbids)
}

/// True if there is something to be done because of the witness.
fn is_due(state: &SyncState) -> bool {
    let Some(witness) = &state.witness else { return false };
    witness.judgment.is_some() || witness.is_marker_due(true)
}

/// True if it is certain that what was written in this root namespace is in force, so that what is left
/// in another one isn't needed. `is_named` is true if Istio names the namespace.
pub fn is_root_certain(state: &SyncState, is_named: bool) -> bool {
    let root = &state.context.settings.mesh.root_namespace;
    match &state.witness {
        None => is_named,
        Some(witness) => {
            witness.proven_root.as_ref() == Some(root) || is_named && witness.is_silent() && !forbids_writing(state)
        }
    }
}

/// True if a status isn't to be written yet, since the witness is about to be seen with the object.
pub fn is_too_early(claim: Claim, after: &ResourceStatus) -> bool {
    let is_pending = after.conditions.iter().any(|condition| condition.reason == PENDING);
    claim == Claim::Awaited && is_pending
}

/// Takes over from the statuses, when this replica begins to lead, what proxies have refused.
fn recall(state: &mut SyncState) {
    if !state.witness.as_ref().is_some_and(Witness::is_beginning) {
        return;
    }
    for (key, object) in state.store.objects() {
        let rejected = object.status.conditions.iter().find(|condition| condition.reason == REJECTED);
        if let Some(rejected) = rejected.filter(|rejected| rejected.observed_generation == Some(object.generation)) {
            state.states.recall(key, &rejected.message);
        }
    }
}

/// Carries out the judgment on the last look, if this replica leads. True if there is something to be done
/// because of the witness.
pub async fn carry_out(state: &mut SyncState) -> bool {
    let is_due = state.context.is_leader() && is_due(state);
    if is_due {
        carry_out_judgment(state).await;
    }
    is_due
}

/// Records changes that are about to be written. False if nothing may be written, which statuses then say.
pub async fn may_begin(state: &mut SyncState, changes: &[(ObjectKey, StateChange)]) -> bool {
    recall(state);
    state.witness.iter_mut().for_each(|witness| witness.note(changes));
    if !forbids_writing(state) {
        return true;
    }
    state.progress.is_stale = true;
    state.progress.is_unfinished = false;
    let stage = Applied { is_finished: true, pending: BTreeSet::new(), failed: 0 };
    let rendered = Rendered { plan: RenderPlan::default(), stage };
    if let Err(error) = state.update_statuses(&rendered, SHARE).await {
        debug!(%error, "statuses could not be written");
    }
    set_gauges(state);
    false
}

/// Looks at the witness before a batch is written.
pub async fn look(state: &mut SyncState, ordered: &Ordered) {
    if !ordered.operations.is_empty()
        && let Some(witness) = &mut state.witness
    {
        witness.look().await;
    }
}

/// Carries out the judgment on the last look.
async fn carry_out_judgment(state: &mut SyncState) {
    let Some(witness) = &mut state.witness else { return };
    let Some(judgment) = witness.judgment.take() else { return };
    let label = match &judgment {
        Judgment::Taken(number) => {
            debug!(batch = number, "the witness has taken what was written");
            let root = state.context.settings.mesh.root_namespace.clone();
            if witness.proven_root.as_ref() != Some(&root) {
                info!(namespace = root, "the witness shows what was written into the root namespace");
                witness.proven_root = Some(root);
                state.progress.is_stale = true;
            }
            Some(JudgmentLabel::taken)
        }
        Judgment::Unclear(number) => {
            warn!(
                batch = number,
                types = names(witness.ledger.others_refused()),
                "the witness refuses what others have written, so whether it has taken this batch can't be told"
            );
            Some(JudgmentLabel::unclear)
        }
        Judgment::Refused { .. } => Some(JudgmentLabel::refused),
        Judgment::StaysRefused => {
            error!(
                types = names(witness.ledger.others_refused()),
                "the witness refuses what others have written; until that is corrected, new proxies of the mesh don't get ready"
            );
            None
        }
        Judgment::Returned => None,
        Judgment::Later => {
            match witness.silence() {
                Some(reason) => warn!(%reason, "the witness doesn't answer"),
                None if witness.ledger.is_waiting() => warn!(
                    root = state.context.settings.mesh.root_namespace,
                    "the witness answers, but hasn't been seen with what was written; istiod doesn't push, or the root namespace isn't its own"
                ),
                None => {}
            }
            None
        }
    };
    if let Some(label) = label {
        state.context.http.metrics.judged(label);
    }
    match judgment {
        Judgment::Refused { undo, types } => take_back(state, undo, &types).await,
        Judgment::Returned => blame(state),
        Judgment::StaysRefused => release(state, &BTreeSet::new()),
        Judgment::Taken(_) | Judgment::Unclear(_) | Judgment::Later => {}
    }
    state.statuses.status_dirty.append(&mut state.statuses.unsettled);
    set_gauges(state);
}

fn names(types: &BTreeSet<ResourceType>) -> String {
    types.iter().map(|of| of.name()).collect::<Vec<_>>().join(", ")
}

/// Sets the gauges about the witness.
pub fn set_gauges(state: &SyncState) {
    let Some(witness) = &state.witness else { return };
    let metrics = &state.context.http.metrics;
    metrics.set_others_refused(!witness.ledger.others_refused().is_empty());
    metrics.set_withheld(state.states.count_withheld());
}

/// Puts the objects of refused batches back into the state before those, and looks for what the witness
/// lacks of them.
async fn take_back(state: &mut SyncState, undo: BTreeMap<ObjectKey, ServicesInForce>, types: &BTreeSet<ResourceType>) {
    let keys: BTreeSet<ObjectKey> = undo.keys().cloned().collect();
    let Some((admin, since)) = state.witness.as_ref().map(|witness| (witness.admin.clone(), witness.taken_at)) else {
        return;
    };
    let namespace = admin.namespace().await.ok().flatten().unwrap_or_default();
    let refused = patches(state, &keys, &namespace);
    for (key, before) in &undo {
        state.states.withhold(key, before.clone());
    }
    let before = patches(state, &keys, &namespace);
    let changed = refused.without(&before);
    let clusters: Vec<&str> = changed.iter().filter_map(|patch| patch.target.cluster()).collect();
    let mut taken = admin.resources(&clusters).await;
    if taken.as_ref().is_ok_and(|taken| evidence::is_any_warming(&changed, taken)) {
        tokio::time::sleep(WARMING).await;
        taken = admin.resources(&clusters).await;
    }
    let culprits = match taken {
        Ok(taken) => {
            let found = evidence::culprits(&changed, &taken, since);
            // An object that several follow from is changed by some of them only.
            let mut causes = found.clone();
            if (2..=FEW).contains(&found.len()) {
                causes.retain(|key, _| {
                    state.states.release(key);
                    let alone = patches(state, &keys, &namespace).without(&before);
                    state.states.withhold(key, undo.get(key).cloned().unwrap_or_default());
                    evidence::culprits(&alone, &taken, since).contains_key(key)
                });
            }
            if causes.is_empty() { found } else { causes }
        }
        Err(reason) => {
            warn!(reason, "the witness doesn't say what it lacks");
            BTreeMap::new()
        }
    };
    warn!(
        types = names(types),
        objects = keys.len(),
        culprits = some(culprits.keys()),
        "the witness refuses what was written; it is taken back"
    );
    state.statuses.status_dirty.extend(keys.iter().cloned());
    if let Some(witness) = &mut state.witness {
        witness.suspects = Suspects { all: keys, culprits };
    }
}

fn patches(state: &mut SyncState, keys: &BTreeSet<ObjectKey>, namespace: &str) -> PlannedPatches {
    state.progress.is_stale = true;
    let rendered = state.render(&[]);
    state.progress.is_stale = true;
    PlannedPatches::of(&rendered.plan, keys, namespace, &state.context.settings.mesh)
}

fn some<'a>(keys: impl Iterator<Item = &'a ObjectKey>) -> String {
    keys.take(10).map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Says of the culprits among the objects of refused batches that they are, and applies the others again.
fn blame(state: &mut SyncState) {
    let Some(witness) = &mut state.witness else { return };
    let Suspects { all, culprits } = std::mem::take(&mut witness.suspects);
    let remedy = "the log of that proxy has Envoy's words; the configuration before this change stays in force until the object, or what it names, is changed";
    if culprits.is_empty() {
        let others =
            if all.len() > 1 { format!(" (one of {}: {})", all.len(), some(all.iter())) } else { String::new() };
        let words = format!("a proxy refuses what follows from this object{others}; {remedy}");
        all.iter().for_each(|key| state.states.explain(key, words.clone()));
    }
    for (key, words) in &culprits {
        state.states.explain(key, format!("{words}; {remedy}"));
    }
    let blamed: BTreeSet<ObjectKey> = if culprits.is_empty() { all.clone() } else { culprits.into_keys().collect() };
    warn!(objects = some(blamed.iter()), "objects are held back, since a proxy refuses what follows from them");
    state.statuses.status_dirty.extend(all.iter().cloned());
    if let Some(witness) = &mut state.witness {
        witness.suspects.all = all;
    }
    release(state, &blamed);
}

/// Puts the objects of refused batches in force again, except for these.
fn release(state: &mut SyncState, except: &BTreeSet<ObjectKey>) {
    let Some(witness) = &mut state.witness else { return };
    let suspects = std::mem::take(&mut witness.suspects);
    let mut changes = Vec::new();
    for key in suspects.all.iter().filter(|key| !except.contains(*key)) {
        changes.extend(state.states.release(key).map(|change| (key.clone(), change)));
    }
    witness.note(&changes);
    state.statuses.status_dirty.extend(suspects.all);
    state.progress.is_stale = true;
}

/// Writes the marker of a batch, if anything was written.
pub async fn mark(state: &mut SyncState, applied: &Applied) -> Result<(), RequestError> {
    let root = state.context.settings.mesh.root_namespace.clone();
    let is_clean = applied.is_finished && applied.failed == 0;
    let Some(witness) = &mut state.witness else { return Ok(()) };
    if !witness.is_marker_due(applied.is_finished) {
        if applied.is_finished && !witness.ledger.is_returning() {
            witness.finished(is_clean);
        }
        return Ok(());
    }
    let number = state.objects.next_revision();
    let content = state.objects.content();
    crate::run::request::with_timeout(state.context.applier.mark(&root, number, &content)).await?;
    witness.marked(number);
    if applied.is_finished {
        witness.finished(is_clean);
    }
    Ok(())
}
