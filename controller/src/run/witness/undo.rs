//! Takes back what the witness refuses, and finds out from which objects it came.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde_json::Value;
use tracing::{info, warn};

use crate::render::mesh_options::MeshOptions;
use crate::render::plan::RenderPlan;
use crate::run::names::ObjectKey;
use crate::run::sync_state::SyncState;

use super::admin::{TakenResources, WitnessAdmin};
use super::evidence::{self, ChangedPatch, PlannedPatches, Suspects};
use super::journal::FormerObjects;
use super::ledger::{Judgment, ResourceType, WitnessedType};
use super::state::{FormerState, Witness};

/// The time that clusters get to become ready, before those that don't count as refused.
const WARMING: Duration = Duration::from_millis(700);

/// The same for clusters of which another replica knows whether they were refused.
const LONG_WARMING: Duration = Duration::from_secs(2);

/// The greatest number of culprits each of which is looked at alone.
const FEW: usize = 16;

/// Objects of refused batches, and what they were before.
struct RefusedObjects {
    keys: BTreeSet<ObjectKey>,
    undo: BTreeMap<ObjectKey, FormerState>,
    /// Rendered objects that were there before and aren't planned, since it isn't known what was in force.
    former: Vec<Value>,
}

/// A witness, and what it had taken before.
struct WitnessPlace {
    admin: WitnessAdmin,
    namespace: String,
    /// When it had taken everything; none where that isn't known, since another replica has written what is
    /// refused.
    since: Option<u64>,
}

impl WitnessPlace {
    /// The objects from which something came that the witness lacks.
    fn culprits(&self, changed: &[ChangedPatch], taken: &TakenResources) -> BTreeMap<ObjectKey, String> {
        match self.since {
            Some(since) => evidence::culprits(changed, taken, since),
            None => evidence::stuck(changed, taken),
        }
    }
}

async fn places(witness: &Witness) -> Vec<WitnessPlace> {
    let mut places = Vec::new();
    let is_known = witness.inherited().is_empty();
    for (admin, since) in witness.admins.iter().zip(&witness.taken_at) {
        let namespace = admin.namespace().await.ok().flatten().unwrap_or_default();
        places.push(WitnessPlace { admin: admin.clone(), namespace, since: is_known.then_some(*since) });
    }
    places
}

/// Looks whether the witnesses have got to use what the predecessor of this replica had written, before that counts
/// as taken: the refusal may have been before this replica looked.
pub async fn verify(state: &mut SyncState, judgment: Judgment<FormerState>) -> Judgment<FormerState> {
    let Some(witness) = state.witness.as_ref().filter(|witness| !witness.inherited().is_empty()) else {
        return judgment;
    };
    if !matches!(judgment, Judgment::Taken(_) | Judgment::Unclear(_)) {
        return judgment;
    }
    let (keys, former) = (witness.inherited().clone(), parsed(&witness.journal.former()));
    let places = places(witness).await;
    let planned = plan(state);
    let mut types = BTreeSet::new();
    for (number, place) in places.iter().enumerate() {
        let options = &state.context.settings.mesh;
        let mut known = PlannedPatches::default();
        add(&mut known, &former, (&keys, &place.namespace), options);
        let changed = PlannedPatches::of(&planned, &keys, &place.namespace, options).without(&known);
        let end = Instant::now() + LONG_WARMING;
        while let Ok(taken) = resources(&place.admin, &changed).await
            && !evidence::stuck(&changed, &taken).is_empty()
        {
            if Instant::now() > end {
                types.insert((number, ResourceType::Clusters));
                break;
            }
        }
    }
    match &mut state.witness {
        Some(witness) if !types.is_empty() => {
            let undo = keys.into_iter().map(|key| (key, FormerState::InJournal)).collect();
            witness.ledger.refuse_after_all(undo, types, Instant::now())
        }
        _ => judgment,
    }
}

fn parsed(former: &FormerObjects) -> Vec<Value> {
    former.values().flatten().filter_map(|text| serde_json::from_str(text).ok()).collect()
}

/// Adds the patches of rendered objects, as far as a proxy in the namespace gets them.
fn add(
    patches: &mut PlannedPatches,
    objects: &[Value],
    (keys, namespace): (&BTreeSet<ObjectKey>, &str),
    options: &MeshOptions,
) {
    for object in objects {
        let of = object["metadata"]["namespace"].as_str().unwrap_or_default();
        if of == options.root_namespace || of == namespace {
            patches.add(object, keys, namespace);
        }
    }
}

/// Puts the objects of refused batches back into the state before those, and looks for what the witnesses
/// lack of them.
pub async fn take_back(state: &mut SyncState, undo: BTreeMap<ObjectKey, FormerState>, types: &BTreeSet<WitnessedType>) {
    let Some(witness) = &state.witness else { return };
    let places = places(witness).await;
    let is_in_journal = undo.values().any(|before| matches!(before, FormerState::InJournal));
    let restoring = if is_in_journal { witness.journal.former() } else { FormerObjects::new() };
    let former = parsed(&restoring);
    let objects = RefusedObjects { keys: undo.keys().cloned().collect(), undo, former };
    let refused = plan(state);
    for (key, before) in &objects.undo {
        put_back(state, key, before);
    }
    let before = plan(state);
    let mut culprits = BTreeMap::new();
    for place in places {
        for (key, words) in culprits_at(state, &place, &objects, (&refused, &before)).await {
            culprits.entry(key).or_insert(words);
        }
    }
    warn!(
        types = names(types),
        objects = objects.keys.len(),
        culprits = some(culprits.keys()),
        "the witness refuses what was written; it is taken back"
    );
    state.statuses.status_dirty.extend(objects.keys.iter().cloned());
    if let Some(witness) = &mut state.witness {
        let search = std::mem::take(&mut witness.suspects.search);
        witness.suspects = Suspects { all: objects.keys, culprits, restoring, search };
    }
}

/// The objects from which something came that a witness lacks.
async fn culprits_at(
    state: &mut SyncState,
    place: &WitnessPlace,
    objects: &RefusedObjects,
    (refused, before): (&RenderPlan, &RenderPlan),
) -> BTreeMap<ObjectKey, String> {
    let options = state.context.settings.mesh.clone();
    let (keys, namespace) = (&objects.keys, place.namespace.as_str());
    let mut known = PlannedPatches::of(before, keys, namespace, &options);
    add(&mut known, &objects.former, (keys, namespace), &options);
    let changed = PlannedPatches::of(refused, keys, namespace, &options).without(&known);
    let taken = match resources(&place.admin, &changed).await {
        Ok(taken) => taken,
        Err(reason) => {
            warn!(reason, witness = place.admin.url(), "the witness doesn't say what it lacks");
            return BTreeMap::new();
        }
    };
    let found = place.culprits(&changed, &taken);
    // An object that several follow from is changed by some of them only.
    let mut causes = found.clone();
    if (2..=FEW).contains(&found.len()) {
        causes.retain(|key, _| {
            state.states.release(key);
            let alone = PlannedPatches::of(&plan(state), keys, namespace, &options).without(&known);
            if let Some(before) = objects.undo.get(key) {
                put_back(state, key, before);
            }
            place.culprits(&alone, &taken).contains_key(key)
        });
    }
    if causes.is_empty() { found } else { causes }
}

/// Asks for the clusters that are changed, again after a while where some aren't ready.
async fn resources(admin: &WitnessAdmin, changed: &[ChangedPatch]) -> Result<TakenResources, String> {
    let clusters: Vec<&str> = changed.iter().filter_map(|patch| patch.target.cluster()).collect();
    let taken = admin.resources(&clusters).await?;
    if !evidence::is_any_warming(changed, &taken) {
        return Ok(taken);
    }
    tokio::time::sleep(WARMING).await;
    admin.resources(&clusters).await
}

fn put_back(state: &mut SyncState, key: &ObjectKey, before: &FormerState) {
    match before {
        FormerState::InForce(services) => state.states.withhold(key, services.clone()),
        FormerState::InJournal => {
            state.states.recall(key, None);
            state.witness.iter_mut().for_each(|witness| witness.doubt(key.clone()));
        }
    }
}

fn plan(state: &mut SyncState) -> RenderPlan {
    state.progress.is_stale = true;
    let rendered = state.render(&[]);
    state.progress.is_stale = true;
    rendered.plan
}

/// The names of types of resources.
pub fn names(types: &BTreeSet<WitnessedType>) -> String {
    let names: BTreeSet<&str> = types.iter().map(|(_, of)| of.name()).collect();
    names.into_iter().collect::<Vec<_>>().join(", ")
}

/// The names of some objects.
pub fn some<'a>(keys: impl Iterator<Item = &'a ObjectKey>) -> String {
    keys.take(10).map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Says of the culprits among the objects of refused batches that they are, and applies the others again;
/// where nothing tells which those are, half of them.
pub fn blame(state: &mut SyncState) {
    let Some(witness) = &mut state.witness else { return };
    witness.suspects.restoring.clear();
    let (all, mut culprits) =
        (std::mem::take(&mut witness.suspects.all), std::mem::take(&mut witness.suspects.culprits));
    let remedy = "the log of that proxy has Envoy's words; the configuration before this change stays in force until the object, or what it names, is changed";
    let mut except: BTreeSet<ObjectKey> = culprits.keys().cloned().collect();
    if culprits.is_empty() {
        let group = witness.suspects.search.refused(all.clone(), Instant::now());
        let others = match group.len() {
            0 | 1 => String::new(),
            count => format!(" (one of {count}: {})", some(group.iter())),
        };
        let words = format!("a proxy refuses what follows from this object{others}");
        if group.is_empty() {
            info!(objects = all.len(), "nothing tells which of the objects is refused; it is searched by halves");
            except.clone_from(&all);
        }
        culprits = group.into_iter().map(|key| (key, words.clone())).collect();
        except.extend(culprits.keys().cloned());
    }
    for (key, words) in &culprits {
        state.states.explain(key, format!("{words}; {remedy}"));
    }
    if !culprits.is_empty() {
        warn!(objects = some(culprits.keys()), "objects are held back, since a proxy refuses what follows from them");
    }
    state.statuses.status_dirty.extend(all.iter().chain(culprits.keys()).cloned());
    release(state, all.difference(&except).cloned().collect());
}

/// Applies all objects again that were taken back.
pub fn release_all(state: &mut SyncState) {
    let Some(witness) = &mut state.witness else { return };
    let mut suspects = std::mem::take(&mut witness.suspects);
    let untried = suspects.search.end();
    release(state, suspects.all.into_iter().chain(untried).collect());
}

/// Applies the next objects of a search again, as soon as nothing is on its way. True if there are any.
pub fn try_next(state: &mut SyncState) -> bool {
    let is_leader = state.context.is_leader();
    let Some(witness) = state.witness.as_mut().filter(|witness| is_leader && !witness.ledger.is_waiting()) else {
        return false;
    };
    if witness.judgment.is_some() {
        return false;
    }
    if !witness.suspects.search.is_going_on() {
        witness.suspects.search.end();
        return false;
    }
    let group = witness.suspects.search.next();
    release(state, group);
    // Should nothing have to be written for them, no look ends this.
    state.progress.look_again(Duration::from_millis(100));
    true
}

/// Puts objects in force again.
fn release(state: &mut SyncState, keys: BTreeSet<ObjectKey>) {
    let mut changes = Vec::new();
    for key in &keys {
        changes.extend(state.states.release(key).map(|change| (key.clone(), change)));
    }
    state.witness.iter_mut().for_each(|witness| witness.note(&changes));
    state.statuses.status_dirty.extend(keys);
    state.progress.is_stale = true;
}
