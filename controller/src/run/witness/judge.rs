//! Carries out, in a sync, what follows from the answers of the witness.

use std::collections::BTreeSet;

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

use super::ledger::{Claim, Judgment};
use super::state::{FormerState, Witness};
use super::{restore, undo};

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
    witness.judgment.is_some() || witness.is_marker_due(true) || !witness.suspects.restoring.is_empty()
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

/// Takes over, when this replica begins to lead, from the statuses what proxies have refused, and from the journal
/// what its predecessor hadn't seen taken.
async fn recall(state: &mut SyncState) -> Result<(), RequestError> {
    let Some(witness) = state.witness.as_mut().filter(|witness| witness.is_beginning()) else { return Ok(()) };
    if let Some(changed) = witness.journal.read().await? {
        if !changed.is_empty() {
            info!(
                objects = undo::some(changed.iter()),
                "the last leader had written these objects, and hadn't seen them taken"
            );
        }
        witness.inherit(changed);
    }
    for (key, object) in state.store.objects() {
        let rejected = object.status.conditions.iter().find(|condition| condition.reason == REJECTED);
        if let Some(rejected) = rejected.filter(|rejected| rejected.observed_generation == Some(object.generation)) {
            state.states.recall(key, Some(&rejected.message));
            state.witness.iter_mut().for_each(|witness| witness.doubt(key.clone()));
        }
    }
    Ok(())
}

/// Carries out the judgment on the last look, if this replica leads. True if there is something to be done
/// because of the witness.
pub async fn carry_out(state: &mut SyncState) -> bool {
    let is_due = state.context.is_leader() && is_due(state);
    if is_due {
        carry_out_judgment(state).await;
    }
    is_due | undo::try_next(state)
}

/// Records changes that are about to be written. False if nothing may be written, which statuses then say.
pub async fn may_begin(state: &mut SyncState, changes: &[(ObjectKey, StateChange)]) -> bool {
    if let Err(error) = recall(state).await {
        warn!(%error, "nothing is written before it is known what the last leader had written");
        state.progress.is_stale = true;
        state.progress.failed();
        return false;
    }
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

/// Looks at the witness before a batch is written, and stores what is there before it.
pub async fn look(state: &mut SyncState, ordered: &Ordered) {
    if !ordered.operations.is_empty()
        && let Some(witness) = &mut state.witness
    {
        witness.look().await;
        restore::keep(state, ordered).await;
    }
}

/// Carries out the judgment on the last look.
async fn carry_out_judgment(state: &mut SyncState) {
    let Some(witness) = &mut state.witness else { return };
    let Some(judgment) = witness.judgment.take() else { return };
    let judgment = undo::verify(state, judgment).await;
    if let Some(label) = tell(state, &judgment) {
        state.context.http.metrics.judged(label);
    }
    match judgment {
        Judgment::Refused { undo, types } => undo::take_back(state, undo, &types).await,
        Judgment::Returned => {
            settle(state, None).await;
            undo::blame(state);
        }
        Judgment::StaysRefused => {
            settle(state, None).await;
            undo::release_all(state);
        }
        Judgment::Taken(number) | Judgment::Unclear(number) => settle(state, Some(number)).await,
        Judgment::Later => {}
    }
    state.statuses.status_dirty.append(&mut state.statuses.unsettled);
    set_gauges(state);
}

/// Says what a judgment is in the log. Returns as what it is counted.
fn tell(state: &mut SyncState, judgment: &Judgment<FormerState>) -> Option<JudgmentLabel> {
    let witness = state.witness.as_mut()?;
    match judgment {
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
                types = undo::names(witness.ledger.others_refused()),
                "the witness refuses what others have written, so whether it has taken this batch can't be told"
            );
            Some(JudgmentLabel::unclear)
        }
        Judgment::Refused { .. } => Some(JudgmentLabel::refused),
        Judgment::StaysRefused => {
            error!(
                types = undo::names(witness.ledger.others_refused()),
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
    }
}

/// Writes what a refused batch has changed as it was, where that isn't known otherwise. Returns how many objects
/// are left.
pub async fn restore(state: &mut SyncState) -> usize {
    restore::restore(state).await
}

/// Drops from the journal what isn't needed any more.
async fn settle(state: &mut SyncState, number: Option<u64>) {
    let states = &state.states;
    if let Some(witness) = &mut state.witness {
        witness.settle(number, |key| states.withheld(key).is_some()).await;
    }
}

/// Sets the gauges about the witness.
pub fn set_gauges(state: &SyncState) {
    let Some(witness) = &state.witness else { return };
    let metrics = &state.context.http.metrics;
    metrics.set_others_refused(!witness.ledger.others_refused().is_empty());
    metrics.set_withheld(state.states.count_withheld());
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
