//! Rendered objects: the stages that they pass in a sync, and how the planned ones differ from
//! those in the cluster.
//!
//! An object is as planned if it has the planned content, no matter who wrote it last. Each write
//! has a revision, which is a part of the content, so contents are compared without it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kube::api::DynamicObject;
use redis_mesh_core::hex::to_hex;
use serde_json::{Value, json};

use crate::inventory::NamespacedName;
use crate::render::marker;
use crate::render::mesh_options::MeshOptions;
use crate::render::plan::RenderPlan;
use crate::render::planned_object::PlannedObject;
use crate::render::prepared_service::PreparedService;
use crate::render::sharing::{HostsByNamespace, SharingHistory};
use crate::render::{envoy_filter, wasm_plugin};

use super::applier::{Operation, Performed};
use super::digest::{self, ContentDigest};
use super::digest_cache::DigestCache;
use super::names::{ObjectKey, RenderedKey};
use super::observed::{ObservedObject, ObservedObjects};

/// The objects of one sync, at the stage that the type parameter names: [`Prepared`],
/// [`super::order::Ordered`], [`Applied`].
pub struct Rendered<Stage> {
    /// The plan.
    pub plan: RenderPlan,
    /// The result of the stage.
    pub stage: Stage,
}

/// The objects are planned; nothing has been compared with the cluster.
pub struct Prepared {
    /// The part of the cluster that the plan covers.
    pub extent: Extent,
}

/// Every operation has been performed, refused or held back, or is left for the next sync.
pub struct Applied {
    /// True if no operation is left for the next sync.
    pub is_finished: bool,
    /// The objects that are not in force as they are, since an operation is left.
    pub pending: BTreeSet<ObjectKey>,
    /// The number of objects that are not as planned, and may be after another attempt.
    pub failed: usize,
}

/// The part of the cluster that a plan covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// All objects: those that are not in the plan are deleted.
    Whole,
    /// Only the objects in the plan: others are left alone.
    Part,
}

impl<Stage> Rendered<Stage> {
    /// The same objects at another stage.
    pub fn at<Next>(self, stage: Next) -> Rendered<Next> {
        Rendered { plan: self.plan, stage }
    }

    /// The planned objects by name.
    pub fn by_name(&self) -> BTreeMap<RenderedKey, Arc<PlannedObject>> {
        self.plan.objects.iter().map(|planned| (RenderedKey::of(planned), planned.clone())).collect()
    }
}

/// The greatest lead of another replica's clock, in milliseconds. Greater revisions are
/// ignored: a person who may write an object with redis-mesh's labels could otherwise use up all
/// revisions, and two writes would have the same one.
const MAX_SKEW: u64 = 24 * 60 * 60 * 1000;

/// Milliseconds since 1970, the least revision of a write.
fn now() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or_default()
}

/// The rendered objects in the cluster.
pub struct RenderedObjects {
    /// The namespace of the controller.
    controller: String,
    /// The namespaces of controllers whose objects this one has taken over.
    predecessors: Arc<BTreeSet<String>>,
    observed: ObservedObjects,
    digests: DigestCache,
    revision: u64,
    /// Why objects could not be written or deleted.
    failures: BTreeMap<RenderedKey, String>,
    /// The hosts that have filters of their own in the last plan only because a WasmPlugin would
    /// grow too large; none before the first plan.
    apart: Option<Arc<HostsByNamespace>>,
}

impl RenderedObjects {
    /// Knows no object yet.
    pub fn new(controller: String) -> RenderedObjects {
        RenderedObjects {
            controller,
            predecessors: Arc::default(),
            observed: ObservedObjects::new(),
            digests: DigestCache::default(),
            revision: 0,
            failures: BTreeMap::new(),
            apart: None,
        }
    }

    /// The objects in the cluster.
    pub fn observed(&self) -> &ObservedObjects {
        &self.observed
    }

    /// Treats the objects of these controllers as this controller's own.
    pub fn succeed(&mut self, predecessors: Arc<BTreeSet<String>>) {
        self.predecessors = predecessors;
    }

    /// The objects that this controller keeps, and those that it has taken over.
    pub fn own(&self) -> impl Iterator<Item = (&RenderedKey, &ObservedObject)> {
        self.observed.iter().map(|(key, object)| (key, object.as_ref())).filter(|(_, object)| self.owns(object))
    }

    fn owns(&self, object: &ObservedObject) -> bool {
        let of = object.controller.as_ref();
        of.is_some_and(|of| *of == self.controller || self.predecessors.contains(of))
    }

    /// The controller of another installation that keeps an object, which is therefore left alone.
    pub fn other_controller(&self, key: &RenderedKey) -> Option<&str> {
        let object = self.observed.get(key).filter(|object| !self.owns(object))?;
        object.controller.as_deref()
    }

    /// The names of the objects of a kind.
    pub fn names(&self, kind: &str) -> Vec<NamespacedName> {
        self.observed.keys().filter(|known| known.kind == kind).map(|known| known.name.clone()).collect()
    }

    /// Takes in an object that a watch shows. True if it differs from what is known.
    pub fn observe(&mut self, key: RenderedKey, mut object: Box<ObservedObject>) -> bool {
        if key.name.name == marker::NAME {
            return false;
        }
        if object.revision <= now().saturating_add(MAX_SKEW) {
            self.revision = self.revision.max(object.revision);
        }
        if let Some(known) = self.observed.get(&key).filter(|known| known.uid == object.uid) {
            if known.generation > object.generation {
                // The watch is behind what the controller has written since.
                return false;
            }
            // A change of metadata gives an object no other generation.
            let is_untouched = known.generation == object.generation && known.has_marks_of(&object);
            object.settled = known.settled.filter(|_| is_untouched);
            let is_same = is_untouched && known.rejected == object.rejected;
            if is_same {
                return false;
            }
        }
        self.observed.insert(key, object);
        true
    }

    /// Takes in that an object is gone. True if it was known.
    pub fn remove(&mut self, key: &RenderedKey) -> bool {
        self.observed.remove(key).is_some()
    }

    /// A revision that no replica has used before.
    pub fn next_revision(&mut self) -> u64 {
        self.revision = self.revision.saturating_add(1).max(now());
        self.revision
    }

    /// The operation that brings one object into the planned state; none if it is as planned.
    pub fn compare(
        &mut self,
        key: &RenderedKey,
        planned: &Arc<PlannedObject>,
        options: &MeshOptions,
    ) -> Option<Operation> {
        let digest = self.digests.digest_of(key, planned, options);
        let mut repairs = false;
        if let Some(object) = self.observed.get_mut(key)
            && object.digest == Some(digest)
            && object.controller.as_ref() == Some(&self.controller)
        {
            if object.settled == Some((digest, object.generation)) {
                // A write of which no answer has come can have been done all the same.
                self.failures.remove(key);
                return None;
            }
            let built = planned.build(options, object.revision);
            if digest::digest(&built["spec"]) == object.spec && object.is_for(&built) {
                object.settled = Some((digest, object.generation));
                self.failures.remove(key);
                return None;
            }
            repairs = true;
        }
        let revision = self.next_revision();
        Some(Operation::Apply { key: key.clone(), planned: planned.clone(), revision, digest, repairs })
    }

    /// Forgets failures and digests of objects that a plan of everything doesn't have.
    pub fn retain(&mut self, planned: &BTreeMap<RenderedKey, Arc<PlannedObject>>) {
        self.failures.retain(|key, _| planned.contains_key(key));
        self.digests.retain(planned);
    }

    /// The hosts that have filters of their own in the last plan only because a WasmPlugin would
    /// grow too large; none before the first plan.
    pub fn apart(&self) -> Option<&Arc<HostsByNamespace>> {
        self.apart.as_ref()
    }

    /// Remembers the hosts that have filters of their own in a plan.
    pub fn set_apart(&mut self, apart: Arc<HostsByNamespace>) {
        self.apart = Some(apart);
    }

    /// Where the hosts of these services are: in the last plan, or in the cluster before the
    /// first one.
    pub fn sharing(&self, prepared_services: &[Arc<PreparedService>]) -> SharingHistory {
        let apart = self.apart.clone().unwrap_or_else(|| Arc::new(self.apart_in_cluster(prepared_services)));
        let plugins = self.observed.iter().filter(|(key, _)| key.kind == wasm_plugin::KIND);
        let shared = plugins
            .flat_map(|(key, object)| object.plugin.hosts.iter().map(|host| (&*key.name.namespace, &*host.host)));
        let shared: BTreeSet<(&str, &str)> = shared.collect();
        let mut together = HostsByNamespace::default();
        for prepared in prepared_services.iter().filter(|prepared| !prepared.is_per_host()) {
            if shared.contains(&(prepared.namespace.as_str(), prepared.service.address.to_string().as_str())) {
                together.insert(prepared);
            }
        }
        SharingHistory { apart, together }
    }

    /// The hosts that have filters of their own in the cluster, though nothing of their own
    /// requires that.
    fn apart_in_cluster(&self, prepared_services: &[Arc<PreparedService>]) -> HostsByNamespace {
        let mut apart = HostsByNamespace::default();
        for prepared in prepared_services.iter().filter(|prepared| !prepared.is_per_host()) {
            let name = NamespacedName::new(&prepared.namespace, &prepared.object_name());
            let key = RenderedKey { kind: envoy_filter::KIND, name };
            if self.observed.get(&key).is_some_and(|object| object.is_per_host()) {
                apart.insert(prepared);
            }
        }
        apart
    }

    /// Records the result of an operation.
    pub fn performed(&mut self, key: &RenderedKey, performed: Performed) {
        self.failures.remove(key);
        match performed {
            Performed::Applied(object, digest) => self.written(key, &object, digest),
            Performed::Deleted => drop(self.observed.remove(key)),
        }
    }

    fn written(&mut self, key: &RenderedKey, object: &DynamicObject, digest: ContentDigest) {
        let mut observed = ObservedObject::of(object);
        observed.settled = Some((digest, observed.generation));
        self.observed.insert(key.clone(), Box::new(observed));
    }

    /// Records why an object could not be written or deleted. True if that is news.
    pub fn failed(&mut self, key: &RenderedKey, reason: &str) -> bool {
        let failure = format!("{key}: {reason}");
        self.failures.insert(key.clone(), failure.clone()).is_none_or(|known| known != failure)
    }

    /// Why an object could not be written or deleted.
    pub fn failure(&self, key: &RenderedKey) -> Option<&String> {
        self.failures.get(key)
    }

    /// True if any object could not be written or deleted.
    pub fn has_failures(&self) -> bool {
        !self.failures.is_empty()
    }

    /// The digest of what the objects say that this controller keeps, as hexadecimal digits.
    pub fn content(&self) -> String {
        let digests = self.own().map(|(key, object)| (key.to_string(), object.digest.unwrap_or_default()));
        let digests: Vec<Value> = digests.map(|(key, digest)| json!([key, digest])).collect();
        to_hex(&digest::digest(&Value::Array(digests)))[..16].to_owned()
    }

    /// True if any object could not be written, or Istio says something against one.
    pub fn has_complaints(&self) -> bool {
        self.has_failures() || self.observed.values().any(|object| object.rejected.is_some())
    }
}
