//! The order in which a plan is applied. What is in force at any time must fit together, so
//! filters and clusters are written before the listeners that need them, and deleted after the
//! listeners that needed them.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use redis_mesh_core::wire;

use crate::render::envoy_filter;
use crate::render::mesh_options::MeshOptions;
use crate::render::object_meta::DESTINATION_SUFFIX;
use crate::render::plan::RenderPlan;
use crate::render::planned_object::{ObjectContent, PlannedObject};
use crate::validate::host_port::HostPort;
use crate::validate::scope::ClientScope;

use super::applier::Operation;
use super::names::RenderedKey;
use super::rendered::{Extent, Prepared, Rendered, RenderedObjects};

/// A phase of applying; operations of a phase are performed when those of the phases before have
/// ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ApplyPhase {
    /// Clusters, and the internal listeners of the dynamic module.
    Clusters,
    /// WasmPlugins.
    Plugins,
    /// Listeners.
    Listeners,
    /// WasmPlugins whose hosts get filters of their own.
    ShrinkingPlugins,
    /// Deletions.
    Deletions,
}

/// The operations that bring the cluster into the planned state are known and in order.
pub struct Ordered {
    /// The operations, sorted by phase.
    pub operations: Vec<(ApplyPhase, Operation)>,
}

/// The facts besides the plan on which the order depends.
pub struct OrderContext<'a> {
    /// The options of rendering.
    pub options: &'a MeshOptions,
    /// Objects whose rendered objects stay as they are, as
    /// [`super::observed::ObservedObject::purpose`] names them.
    pub frozen: Vec<String>,
    /// True while the dynamic module is on its way to the sidecars that load it.
    pub awaits_module: bool,
}

/// Compares a plan with the cluster and brings the operations into order.
pub fn order(
    rendered: Rendered<Prepared>,
    objects: &mut RenderedObjects,
    context: &OrderContext<'_>,
) -> Rendered<Ordered> {
    let planned = rendered.by_name();
    if rendered.stage.extent == Extent::Whole {
        objects.retain(&planned);
    }
    let mut operations: Vec<(ApplyPhase, Operation)> = Vec::new();
    let own_filters = OnceCell::new();
    let mut created = 0;
    for (key, object) in &planned {
        let Some(operation) = objects.compare(key, object, context.options) else { continue };
        let observed = objects.observed().get(key);
        created += usize::from(observed.is_none());
        let hosts = observed.map(|observed| observed.hosts.as_slice()).unwrap_or_default();
        let has_own_filter = |host: &wire::Host| {
            let own_filters = own_filters.get_or_init(|| hosts_with_own_filters(&rendered.plan));
            own_filters.contains(&(object.namespace.as_str(), host.host.clone()))
        };
        let phase = match &object.content {
            ObjectContent::Cluster { .. } | ObjectContent::Module(_) => ApplyPhase::Clusters,
            ObjectContent::Listener { .. } | ObjectContent::NativeListener { .. } => ApplyPhase::Listeners,
            ObjectContent::Plugin { .. } if hosts.iter().any(has_own_filter) => ApplyPhase::ShrinkingPlugins,
            ObjectContent::Plugin { .. } => ApplyPhase::Plugins,
        };
        operations.push((phase, operation));
    }
    // If as many objects exist as are planned and not created, there is no other one.
    if rendered.stage.extent == Extent::Whole && objects.observed().len() > planned.len() - created {
        let superfluous = superfluous(objects, &planned, context);
        operations.extend(superfluous.into_iter().map(|key| (ApplyPhase::Deletions, Operation::Delete(key))));
    }
    operations.sort_by_key(|(phase, _)| *phase);
    rendered.at(Ordered { operations })
}

/// Namespace and host of the listeners that get the configuration of a filter of their own.
fn hosts_with_own_filters(plan: &RenderPlan) -> BTreeSet<(&str, String)> {
    let alone = plan.objects.iter().filter_map(|planned| match &planned.content {
        ObjectContent::Listener { prepared, per_host: true } => {
            Some((planned.namespace.as_str(), prepared.service.address.to_string()))
        }
        _ => None,
    });
    alone.collect()
}

/// The objects that exist, are kept by this controller and follow from nothing.
fn superfluous(
    objects: &RenderedObjects,
    planned: &BTreeMap<RenderedKey, Arc<PlannedObject>>,
    context: &OrderContext<'_>,
) -> Vec<RenderedKey> {
    // Where an object stays as it is, the clusters to which it may lead stay, too.
    let frozen = objects.observed().iter().filter(|(_, object)| context.frozen.contains(&object.purpose));
    let mut needed: BTreeSet<&str> = frozen.map(|(key, _)| key.name.namespace.as_str()).collect();
    needed.extend(planned.values().filter_map(|planned| match &planned.content {
        ObjectContent::Plugin { kept, .. } if !kept.is_empty() => Some(planned.namespace.as_str()),
        _ => None,
    }));
    let unplanned = objects.observed().iter().filter(|(key, _)| !planned.contains_key(*key));
    let superfluous = unplanned.filter(|(key, object)| {
        let may_be_needed = is_cluster(key) && needed.contains(key.name.namespace.as_str());
        let waits_for_module = object.is_native && context.awaits_module;
        object.is_prunable(&context.frozen) && !may_be_needed && !waits_for_module
    });
    superfluous.map(|(key, _)| key.clone()).collect()
}

fn is_cluster(key: &RenderedKey) -> bool {
    key.kind == envoy_filter::KIND && key.name.name.contains(DESTINATION_SUFFIX)
}

/// The operations that have to wait because something that they depend on could not be applied.
/// Objects of others are not held up.
#[derive(Default)]
pub struct Blocked {
    /// Services whose listeners stay as they are.
    services: BTreeSet<(HostPort, ClientScope)>,
    /// Namespaces where a cluster is missing that WasmPlugins may need.
    clusters_of: BTreeSet<String>,
    /// True if the internal listeners and clusters of the dynamic module are missing.
    natives: bool,
    /// Namespaces where a WasmPlugin lacks hosts that still have filters of their own.
    everything_of: BTreeSet<String>,
}

impl Blocked {
    /// Takes in that an object could not be applied.
    pub fn after(&mut self, key: &RenderedKey, planned: Option<&PlannedObject>) {
        let Some(planned) = planned else { return };
        if let ObjectContent::Plugin { .. } = &planned.content {
            self.everything_of.insert(key.name.namespace.clone());
        }
        self.natives |= matches!(planned.content, ObjectContent::Module(_));
        self.clusters_of.insert(key.name.namespace.clone());
        for prepared in planned.content.prepared_services() {
            self.clusters_of.insert(prepared.namespace.clone());
            self.services.insert((prepared.service.address.clone(), prepared.service.scope.clone()));
        }
    }

    /// True if an operation has to wait.
    pub fn blocks(&self, key: &RenderedKey, planned: Option<&PlannedObject>, root_namespace: &str) -> bool {
        let namespace = &key.name.namespace;
        match planned.map(|planned| &planned.content) {
            None => self.everything_of.contains(namespace) || is_cluster(key) && self.clusters_of.contains(namespace),
            Some(ObjectContent::Cluster { .. } | ObjectContent::Module(_)) => false,
            // The WasmPlugin of the root namespace serves everybody. Where a cluster is missing,
            // its filter refuses commands rather than sending them elsewhere.
            Some(ObjectContent::Plugin { .. }) => namespace != root_namespace && self.clusters_of.contains(namespace),
            Some(content @ (ObjectContent::Listener { prepared, .. } | ObjectContent::NativeListener { prepared })) => {
                let is_native = matches!(content, ObjectContent::NativeListener { .. });
                is_native && self.natives
                    || self.services.contains(&(prepared.service.address.clone(), prepared.service.scope.clone()))
            }
        }
    }
}
