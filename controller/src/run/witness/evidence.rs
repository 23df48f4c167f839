//! What an Envoy lacks of a refused batch, and so from which objects the refusal came.
//!
//! Of an update that it refuses Envoy takes what is good. A cluster that the batch adds and that isn't
//! there, or that it changes and that hasn't changed, is a refused one; of listeners Envoy says itself
//! which it refuses, and why.

use std::collections::{BTreeMap, BTreeSet};

use redis_mesh_core::wire;
use serde_json::Value;

use crate::render::envoy_filter;
use crate::render::mesh_options::MeshOptions;
use crate::render::plan::RenderPlan;
use crate::run::digest::{ContentDigest, digest};
use crate::run::names::ObjectKey;

use super::admin::TakenResources;
use super::journal::FormerObjects;
use super::search::HalvesSearch;

/// The objects of refused batches.
#[derive(Default)]
pub struct Suspects {
    /// All of them.
    pub all: BTreeSet<ObjectKey>,
    /// Those from which something came that Envoy refuses, and what that is.
    pub culprits: BTreeMap<ObjectKey, String>,
    /// What is still to be written as it was.
    pub restoring: FormerObjects,
    /// The search for culprits of which nothing tells.
    pub search: HalvesSearch,
}

/// What a patch changes in a proxy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PatchTarget {
    /// It adds the cluster of this name.
    Added(String),
    /// It changes the cluster of this name, if there is one.
    Merged(String),
    /// It changes the listener of this name.
    Listener(String),
}

impl PatchTarget {
    /// What a patch of an EnvoyFilter changes; none where it can't be told.
    fn of(patch: &Value) -> Option<PatchTarget> {
        let matches = &patch["match"];
        match (patch["applyTo"].as_str()?, patch["patch"]["operation"].as_str()?) {
            ("CLUSTER", "ADD") => Some(PatchTarget::Added(patch["patch"]["value"]["name"].as_str()?.to_owned())),
            ("CLUSTER", _) => {
                let cluster = &matches["cluster"];
                let (host, port) = (cluster["service"].as_str()?, cluster["portNumber"].as_u64()?);
                Some(PatchTarget::Merged(wire::istio_cluster(host, port)))
            }
            ("LISTENER" | "FILTER_CHAIN" | "NETWORK_FILTER", _) => {
                Some(PatchTarget::Listener(matches["listener"]["name"].as_str()?.to_owned()))
            }
            _ => None,
        }
    }

    /// The name of the cluster.
    pub fn cluster(&self) -> Option<&str> {
        match self {
            PatchTarget::Added(name) | PatchTarget::Merged(name) => Some(name),
            PatchTarget::Listener(_) => None,
        }
    }
}

/// A patch that a batch has changed, and the objects of the batch from which it follows.
pub struct ChangedPatch {
    /// What it changes.
    pub target: PatchTarget,
    /// The objects.
    pub subjects: BTreeSet<ObjectKey>,
}

/// The patches of a plan for every sidecar of a namespace, by their contents.
#[derive(Default)]
pub struct PlannedPatches(BTreeMap<ContentDigest, ChangedPatch>);

impl PlannedPatches {
    /// The patches that follow from any of these objects, as far as a proxy in the namespace gets
    /// them.
    pub fn of(
        plan: &RenderPlan,
        subjects: &BTreeSet<ObjectKey>,
        namespace: &str,
        options: &MeshOptions,
    ) -> PlannedPatches {
        let mut patches = PlannedPatches::default();
        for planned in plan.objects.iter().filter(|planned| planned.kind() == envoy_filter::KIND) {
            let keys = planned.subjects().into_iter().filter_map(ObjectKey::of);
            let keys: BTreeSet<ObjectKey> = keys.filter(|key| subjects.contains(key)).collect();
            let is_for_all = planned.namespace == options.root_namespace || planned.namespace == namespace;
            if keys.is_empty() || !is_for_all {
                continue;
            }
            patches.add(&planned.build(options, 0), &keys, namespace);
        }
        patches
    }

    /// Adds the patches of an EnvoyFilter, as far as a proxy in the namespace gets them.
    pub fn add(&mut self, object: &Value, subjects: &BTreeSet<ObjectKey>, namespace: &str) {
        if !object["spec"]["workloadSelector"].is_null() {
            return;
        }
        for patch in object["spec"]["configPatches"].as_array().into_iter().flatten() {
            let clients = patch["match"]["proxy"]["metadata"]["NAMESPACE"].as_str();
            let is_for_it = clients.is_none_or(|clients| clients == namespace);
            let Some(target) = PatchTarget::of(patch).filter(|_| is_for_it) else { continue };
            let known = self.0.entry(digest(patch));
            let known = known.or_insert_with(|| ChangedPatch { target, subjects: BTreeSet::new() });
            known.subjects.extend(subjects.iter().cloned());
        }
    }

    /// The patches that another plan doesn't have.
    pub fn without(mut self, other: &PlannedPatches) -> Vec<ChangedPatch> {
        self.0.retain(|digest, _| !other.0.contains_key(digest));
        self.0.into_values().collect()
    }
}

/// True if any of these changes a cluster that isn't ready yet.
pub fn is_any_warming(changed: &[ChangedPatch], taken: &TakenResources) -> bool {
    changed.iter().filter_map(|patch| patch.target.cluster()).any(|name| taken.warming.contains(name))
}

/// The objects from which something came that an Envoy lacks, and what that is. `since` is when it had
/// taken everything, in milliseconds since 1970. Clusters that aren't ready count only where nothing else
/// is lacking: they may be about to be ready.
pub fn culprits(changed: &[ChangedPatch], taken: &TakenResources, since: u64) -> BTreeMap<ObjectKey, String> {
    let found = lacking(changed, taken, since, false);
    if found.is_empty() { lacking(changed, taken, since, true) } else { found }
}

/// The objects from which something came that an Envoy hasn't got to use, and what that is. It needs no time since
/// when. A cluster that is refused when its load is to be balanced stays among those that aren't ready, and counts as
/// unmodified from then on: Envoy refuses it once only.
pub fn stuck(changed: &[ChangedPatch], taken: &TakenResources) -> BTreeMap<ObjectKey, String> {
    let mut found: BTreeMap<ObjectKey, String> = BTreeMap::new();
    for patch in changed {
        let words = match &patch.target {
            PatchTarget::Listener(name) => {
                let details = taken.refused_listeners.get(name);
                details.map(|details| format!("Envoy refuses the listener {name}: {details}"))
            }
            PatchTarget::Added(name) if !taken.clusters.contains_key(name) && !taken.warming.contains(name) => {
                Some(format!("Envoy refuses the cluster {name}"))
            }
            PatchTarget::Added(name) | PatchTarget::Merged(name) => {
                taken.warming.contains(name).then(|| format!("the cluster {name} doesn't get ready in Envoy"))
            }
        };
        for key in words.iter().flat_map(|_| &patch.subjects) {
            found.entry(key.clone()).or_insert_with(|| words.clone().unwrap_or_default());
        }
    }
    found
}

fn lacking(
    changed: &[ChangedPatch],
    taken: &TakenResources,
    since: u64,
    is_warming: bool,
) -> BTreeMap<ObjectKey, String> {
    let mut culprits: BTreeMap<ObjectKey, String> = BTreeMap::new();
    let is_of_kind = |patch: &&ChangedPatch| match patch.target.cluster() {
        Some(name) => taken.warming.contains(name) == is_warming,
        None => true,
    };
    for patch in changed.iter().filter(is_of_kind) {
        let words = match &patch.target {
            PatchTarget::Listener(name) => {
                let details = taken.refused_listeners.get(name);
                details.map(|details| format!("Envoy refuses the listener {name}: {details}"))
            }
            PatchTarget::Added(name) => {
                let is_there = taken.clusters.get(name).is_some_and(|at| *at > since);
                (!is_there).then(|| format!("Envoy refuses the cluster {name}"))
            }
            PatchTarget::Merged(name) => {
                // A proxy may lack a cluster of Istio's for reasons of its own.
                let is_unchanged = taken.clusters.get(name).is_some_and(|at| *at <= since);
                is_unchanged.then(|| format!("Envoy refuses the cluster {name} as it is changed"))
            }
        };
        for key in words.iter().flat_map(|_| &patch.subjects) {
            culprits.entry(key.clone()).or_insert_with(|| words.clone().unwrap_or_default());
        }
    }
    culprits
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::inventory::NamespacedName;
    use crate::run::names::ObjectKind;

    fn key(name: &str) -> ObjectKey {
        ObjectKey { kind: ObjectKind::Service, name: NamespacedName::new("a", name) }
    }

    #[test]
    fn what_a_patch_changes_is_read() {
        let of = |patch: Value| PatchTarget::of(&patch);
        let added = json!({"applyTo": "CLUSTER", "match": {}, "patch": {"operation": "ADD", "value": {"name": "x"}}});
        assert_eq!(of(added), Some(PatchTarget::Added("x".to_owned())));
        let merged = json!({"applyTo": "CLUSTER", "match": {"cluster": {"service": "h", "portNumber": 1}}, "patch": {"operation": "MERGE"}});
        assert_eq!(of(merged), Some(PatchTarget::Merged("outbound|1||h".to_owned())));
        let listener = json!({"applyTo": "NETWORK_FILTER", "match": {"listener": {"name": "l"}}, "patch": {"operation": "REPLACE"}});
        assert_eq!(of(listener), Some(PatchTarget::Listener("l".to_owned())));
        assert_eq!(of(json!({"applyTo": "EXTENSION_CONFIG", "patch": {"operation": "ADD"}})), None);
    }

    #[test]
    fn what_an_envoy_lacks_tells_from_which_object_it_came() {
        let patch = |name: &str, target| ChangedPatch { target, subjects: [key(name)].into() };
        let changed = [
            patch("missing", PatchTarget::Added("missing".to_owned())),
            patch("old", PatchTarget::Added("old".to_owned())),
            patch("there", PatchTarget::Added("new".to_owned())),
            patch("merged", PatchTarget::Merged("new".to_owned())),
            patch("unmerged", PatchTarget::Merged("old".to_owned())),
            patch("unknown", PatchTarget::Merged("missing".to_owned())),
            patch("refused", PatchTarget::Listener("l".to_owned())),
            patch("accepted", PatchTarget::Listener("m".to_owned())),
        ];
        let taken = TakenResources {
            clusters: [("old".to_owned(), 5), ("new".to_owned(), 6)].into(),
            warming: BTreeSet::new(),
            refused_listeners: [("l".to_owned(), "bad".to_owned())].into(),
        };
        let found = culprits(&changed, &taken, 5);
        assert_eq!(
            found.keys().map(|key| key.name.name.as_str()).collect::<Vec<_>>(),
            ["missing", "old", "refused", "unmerged"]
        );
        assert!(found[&key("refused")].ends_with("the listener l: bad"));
    }

    #[test]
    fn what_an_envoy_does_not_get_to_use_tells_without_a_time() {
        let patch = |name: &str, target| ChangedPatch { target, subjects: [key(name)].into() };
        let changed = [
            patch("missing", PatchTarget::Added("missing".to_owned())),
            patch("there", PatchTarget::Added("there".to_owned())),
            patch("warming", PatchTarget::Merged("there and warming".to_owned())),
            patch("not of ours", PatchTarget::Merged("missing".to_owned())),
            patch("refused", PatchTarget::Listener("l".to_owned())),
        ];
        let taken = TakenResources {
            clusters: [("there".to_owned(), 5), ("there and warming".to_owned(), 5)].into(),
            warming: ["there and warming".to_owned()].into(),
            refused_listeners: [("l".to_owned(), "bad".to_owned())].into(),
        };
        let found = stuck(&changed, &taken);
        assert_eq!(
            found.keys().map(|key| key.name.name.as_str()).collect::<Vec<_>>(),
            ["missing", "refused", "warming"]
        );
    }

    #[test]
    fn clusters_that_are_not_ready_count_where_nothing_else_is_lacking() {
        let patch =
            |name: &str| ChangedPatch { target: PatchTarget::Merged(name.to_owned()), subjects: [key(name)].into() };
        let (old, warming) = ([("old".to_owned(), 5), ("warming".to_owned(), 5)], ["warming".to_owned()]);
        let taken =
            TakenResources { clusters: old.into(), warming: warming.into(), refused_listeners: BTreeMap::new() };
        let names = |changed: &[ChangedPatch]| {
            culprits(changed, &taken, 5).into_keys().map(|key| key.name.name).collect::<Vec<_>>()
        };
        assert_eq!(names(&[patch("old"), patch("warming")]), ["old"]);
        assert_eq!(names(&[patch("warming")]), ["warming"]);
    }
}
