//! Keeps rendered objects as they are before a batch changes them, and writes them again as they were.

use std::sync::Arc;

use futures::{StreamExt, stream};
use kube::api::DynamicObject;
use serde_json::{Value, json};
use tracing::{info, warn};

use crate::render::wasm_plugin;
use crate::run::digest::digest;
use crate::run::names::{OWN_ANNOTATIONS, ObjectKey, REVISION, RenderedKey};
use crate::run::observed::ObservedObject;
use crate::run::order::Ordered;
use crate::run::request::{CONCURRENCY, RequestError, with_timeout};
use crate::run::sync_state::SyncState;

use super::state::Witness;

/// The greatest number of objects that are kept. More of them change at once only when a new version of the
/// controller writes all of them anew.
const MANY: usize = 2000;

/// Stores what is there before these operations.
pub async fn keep(state: &mut SyncState, ordered: &Ordered) {
    let Some(witness) = &mut state.witness else { return };
    let operations = ordered.operations.iter().map(|(_, operation)| operation);
    let subjects = operations.clone().flat_map(|operation| operation.planned()).flat_map(|planned| planned.subjects());
    witness.begin(subjects.filter_map(ObjectKey::of));
    let keys = operations.map(|operation| operation.key()).filter(|key| witness.journal.lacks(key));
    let keys: Vec<&RenderedKey> = keys.collect();
    let (there, missing): (Vec<_>, Vec<_>) =
        keys.into_iter().partition(|key| state.objects.observed().contains_key(*key));
    for key in missing {
        witness.journal.begin(key.clone(), None);
    }
    match there.len() {
        0..=MANY => {
            let applier = state.context.applier.clone();
            let reads = there.into_iter().map(|key| {
                let applier = &applier;
                async move { (key, with_timeout(applier.read(key)).await) }
            });
            let mut reads = stream::iter(reads).buffer_unordered(CONCURRENCY);
            while let Some((key, read)) = reads.next().await {
                take_in(witness, key, read);
            }
        }
        count => witness.journal.lack(&format!("{count} objects change at once")),
    }
    witness.store().await;
}

fn take_in(witness: &mut Witness, key: &RenderedKey, read: Result<Option<DynamicObject>, RequestError>) {
    match read {
        Ok(object) => witness.journal.begin(key.clone(), object.map(|object| former(&object))),
        Err(error) => witness.journal.lack(&format!("{key}: {error}")),
    }
}

/// What redis-mesh has written of an object, as JSON.
fn former(object: &DynamicObject) -> Arc<str> {
    let metadata = &object.metadata;
    let annotations = metadata.annotations.iter().flatten();
    let annotations: serde_json::Map<String, Value> = annotations
        .filter(|(name, _)| name.starts_with(OWN_ANNOTATIONS))
        .map(|(name, value)| (name.clone(), value.as_str().into()))
        .collect();
    let types = object.types.as_ref();
    let former = json!({
        "apiVersion": types.map(|types| &types.api_version),
        "kind": types.map(|types| &types.kind),
        "metadata": {
            "name": metadata.name,
            "namespace": metadata.namespace,
            "labels": metadata.labels,
            "annotations": annotations,
        },
        "spec": object.data["spec"],
    });
    former.to_string().into()
}

/// Writes objects of refused batches as they were. Returns how many couldn't be written; the next sync
/// tries again.
pub async fn restore(state: &mut SyncState) -> usize {
    let Some(witness) = &mut state.witness else { return 0 };
    if witness.suspects.restoring.is_empty() || !state.context.is_leader() {
        return 0;
    }
    let mut steps: Vec<(RenderedKey, Option<Arc<str>>)> =
        std::mem::take(&mut witness.suspects.restoring).into_iter().collect();
    // Clusters and filters come before listeners that need them, and go after them.
    steps.sort_by_key(|(key, former)| {
        let is_foundation = state.objects.observed().get(key).is_some_and(|object| object.is_foundation(key));
        let is_plugin = key.kind == wasm_plugin::KIND;
        let rank = if is_foundation || is_clusters(key) { 0 } else { 2 - u8::from(is_plugin) };
        if former.is_some() { rank } else { 5 - rank }
    });
    let mut failed = 0;
    for (key, former) in steps {
        let result = write(state, &key, former.as_deref()).await;
        if let Err(error) = result {
            warn!(object = %key, error, "the object could not be written as it was");
            state
                .witness
                .iter_mut()
                .for_each(|witness| drop(witness.suspects.restoring.insert(key.clone(), former.clone())));
            failed += 1;
        }
    }
    failed
}

fn is_clusters(key: &RenderedKey) -> bool {
    key.name.name.contains(crate::render::object_meta::DESTINATION_SUFFIX)
}

async fn write(state: &mut SyncState, key: &RenderedKey, former: Option<&str>) -> Result<(), String> {
    let observed = state.objects.observed().get(key);
    let Some(former) = former else {
        if observed.is_none() {
            return Ok(());
        }
        with_timeout(state.context.applier.delete(key)).await.map_err(|error| error.to_string())?;
        info!(object = %key, "deleted, as before the change");
        state.objects.remove(key);
        return Ok(());
    };
    let mut object: Value = serde_json::from_str(former).map_err(|error| error.to_string())?;
    if observed.is_some_and(|observed| observed.spec == digest(&object["spec"])) {
        return Ok(());
    }
    set_revision(&mut object, state.objects.next_revision());
    let applied = with_timeout(state.context.applier.apply(key, object)).await.map_err(|error| error.to_string())?;
    info!(object = %key, "written as before the change");
    state.objects.observe(key.clone(), Box::new(ObservedObject::of(&applied)));
    Ok(())
}

/// Gives an object another revision: Envoy doesn't take a configuration again that an open connection still
/// has.
fn set_revision(object: &mut Value, revision: u64) {
    let known = object["metadata"]["annotations"][REVISION].as_str().and_then(|text| text.parse::<u64>().ok());
    let Some(known) = known else { return };
    object["metadata"]["annotations"][REVISION] = revision.to_string().into();
    replace(&mut object["spec"], known, revision);
}

fn replace(value: &mut Value, known: u64, revision: u64) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                match field.as_u64() == Some(known) && name == "revision" {
                    true => *field = revision.into(),
                    false => replace(field, known, revision),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| replace(item, known, revision)),
        Value::String(text) => {
            // The configuration of a host's own filter is a text.
            let field = format!("\"revision\":{known},");
            if text.contains(&field) {
                *text = text.replace(&field, &format!("\"revision\":{revision},"));
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_is_replaced_wherever_it_is() {
        let object = |revision: u64| {
            json!({
                "metadata": {"annotations": {REVISION: revision.to_string()}},
                "spec": {
                    "pluginConfig": {"name": "a", "revision": revision, "hosts": []},
                    "configPatches": [{"inline_string": format!("{{\"name\":\"a\",\"revision\":{revision},\"hosts\":[]}}")}],
                    "other": 17,
                },
            })
        };
        let mut changed = object(17);
        set_revision(&mut changed, 18);
        assert_eq!(changed, object(18));
        let mut without = json!({"spec": {"revision": 17}});
        set_revision(&mut without, 18);
        assert_eq!(without, json!({"spec": {"revision": 17}}));
    }
}
