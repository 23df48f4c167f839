//! The order in which a plan is applied. What is in force at any time must fit together, so
//! filters and clusters are written before the listeners that need them, and deleted after the
//! listeners that needed them.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use redis_mesh_core::wire;

use crate::render::envoy_filter;
use crate::render::mesh_options::MeshOptions;
use crate::render::plan::RenderPlan;
use crate::render::planned_object::{ObjectContent, PlannedObject};
use crate::render::prepared_service::PreparedService;
use crate::validate::host_port::HostPort;
use crate::validate::scope::ClientScope;

use super::applier::Operation;
use super::names::{CONTROLLER, RenderedKey};
use super::observed::ObservedObject;
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
    /// Deletions of WasmPlugins and listeners.
    Deletions,
    /// Deletions of what listeners need as long as they are there.
    FoundationDeletions,
}

/// The operations that bring the cluster into the planned state are known and in order.
pub struct Ordered {
    /// The operations, sorted by phase.
    pub operations: Vec<(ApplyPhase, Operation)>,
    /// Objects that another installation keeps, and which stay as they are.
    pub refused: Vec<(RenderedKey, Arc<PlannedObject>)>,
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
    /// True if Istio itself names the root namespace.
    pub is_confirmed: bool,
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
    let mut refused = Vec::new();
    let own_filters = OnceCell::new();
    let mut created = 0;
    for (key, object) in &planned {
        if let Some(controller) = objects.other_controller(key) {
            let reason = kept_by(controller);
            objects.failed(key, &reason);
            refused.push((key.clone(), object.clone()));
            continue;
        }
        let Some(operation) = objects.compare(key, object, context.options) else { continue };
        let observed = objects.observed().get(key);
        created += usize::from(observed.is_none());
        let hosts = observed.map(|observed| observed.plugin.hosts.as_slice()).unwrap_or_default();
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
        operations.extend(superfluous.into_iter().map(|(phase, key)| (phase, Operation::Delete(key))));
    }
    operations.sort_by_key(|(phase, _)| *phase);
    rendered.at(Ordered { operations, refused })
}

fn kept_by(controller: &str) -> String {
    format!(
        "it is kept by another installation of redis-mesh, whose controller is in the namespace {controller} (label {CONTROLLER}), and stays as it is; delete it if that controller is gone"
    )
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
) -> Vec<(ApplyPhase, RenderedKey)> {
    // Where an object stays as it is, the clusters to which it may lead stay, too.
    let frozen = objects.observed().iter().filter(|(_, object)| context.frozen.contains(&object.purpose));
    let mut needed: BTreeSet<&str> = frozen.map(|(key, _)| key.name.namespace.as_str()).collect();
    needed.extend(planned.values().filter_map(|planned| match &planned.content {
        ObjectContent::Plugin { kept, .. } if !kept.is_empty() => Some(planned.namespace.as_str()),
        _ => None,
    }));
    let roots = if context.is_confirmed { BTreeSet::new() } else { other_roots(objects, context.options) };
    let unplanned = objects.own().filter(|(key, _)| !planned.contains_key(*key));
    let superfluous = unplanned.filter(|(key, object)| {
        let namespace = key.name.namespace.as_str();
        let may_be_needed = object.is_foundation(key) && needed.contains(namespace);
        let waits_for_module = object.is_native && context.awaits_module;
        let is_frozen = context.frozen.contains(&object.purpose);
        !is_frozen && !may_be_needed && !waits_for_module && !roots.contains(namespace)
    });
    let phase = |key: &RenderedKey, object: &ObservedObject| match object.is_foundation(key) {
        true => ApplyPhase::FoundationDeletions,
        false => ApplyPhase::Deletions,
    };
    superfluous.map(|(key, object)| (phase(key, object), key.clone())).collect()
}

/// The namespaces that redis-mesh has used as root namespaces, besides the present one. Each of them
/// has a beacon, and what is there may be what the mesh obeys.
fn other_roots<'a>(objects: &'a RenderedObjects, options: &MeshOptions) -> BTreeSet<&'a str> {
    let beacons = objects.observed().keys().filter(|key| key.name.name == envoy_filter::BEACON);
    let namespaces = beacons.map(|key| key.name.namespace.as_str());
    namespaces.filter(|namespace| *namespace != options.root_namespace).collect()
}

/// The operations that have to wait because something that they depend on could not be applied.
/// Objects of others are not held up.
///
/// What is in force stays until its successor has been applied, and the successor may be in
/// another namespace than what it succeeds: so hosts and owners count, and not only namespaces.
#[derive(Default)]
pub struct Blocked {
    root_namespace: String,
    /// Services whose listeners stay as they are.
    services: BTreeSet<(HostPort, ClientScope)>,
    /// The same hosts as WasmPlugins name them, with the namespace of the clients; none: the mesh.
    hosts: BTreeSet<(String, Option<String>)>,
    /// The RedisServices and RedisDestinations from which the services follow, as
    /// [`ObservedObject::purpose`] names them.
    owners: BTreeSet<String>,
    /// The names of EnvoyFilters that are missing in the root namespace.
    names: BTreeSet<String>,
    /// Namespaces where a cluster is missing that WasmPlugins may need, or where listeners are left.
    clusters_of: BTreeSet<String>,
    /// True if the internal listeners and clusters of the dynamic module are missing.
    natives: bool,
    /// Namespaces where a WasmPlugin lacks hosts that still have filters of their own.
    everything_of: BTreeSet<String>,
}

impl Blocked {
    /// Nothing has failed yet.
    pub fn new(root_namespace: &str) -> Blocked {
        Blocked { root_namespace: root_namespace.to_owned(), ..Blocked::default() }
    }

    /// Takes in that an object could not be applied, or not be deleted.
    pub fn after(&mut self, key: &RenderedKey, planned: Option<&PlannedObject>) {
        let Some(planned) = planned else { return self.held(key, None) };
        if let ObjectContent::Plugin { refused, .. } = &planned.content {
            self.everything_of.insert(key.name.namespace.clone());
            let host = |name: &String| (wire::address_in(name).to_owned(), wire::clients_in(name).map(str::to_owned));
            self.hosts.extend(refused.iter().map(host));
        }
        if key.kind == envoy_filter::KIND && key.name.namespace == self.root_namespace {
            self.names.insert(key.name.name.clone());
        }
        self.natives |= matches!(planned.content, ObjectContent::Module(_));
        self.clusters_of.insert(key.name.namespace.clone());
        for prepared in planned.content.prepared_services() {
            self.clusters_of.insert(prepared.namespace.clone());
            let (address, scope) = (&prepared.service.address, &prepared.service.clients.scope);
            self.services.insert((address.clone(), scope.clone()));
            let clients = match scope {
                ClientScope::Mesh => None,
                ClientScope::Namespace(namespace) => Some(namespace.clone()),
            };
            self.hosts.insert((address.to_string(), clients));
            self.owners.insert(format!("{} {}", prepared.service.owner.kind, prepared.service.owner.name));
        }
    }

    /// Takes in that an operation waits. Where what was to be deleted stays, so do the clusters to
    /// which it leads.
    pub fn held(&mut self, key: &RenderedKey, planned: Option<&PlannedObject>) {
        if planned.is_none() {
            self.clusters_of.insert(key.name.namespace.clone());
        }
    }

    /// True if an operation has to wait; `observed` is the object as it is.
    pub fn blocks(
        &self,
        key: &RenderedKey,
        planned: Option<&PlannedObject>,
        observed: Option<&ObservedObject>,
    ) -> bool {
        let namespace = &key.name.namespace;
        match planned.map(|planned| &planned.content) {
            None => {
                self.everything_of.contains(namespace)
                    || observed.is_some_and(|observed| self.blocks_deletion(key, observed))
            }
            Some(ObjectContent::Cluster { .. } | ObjectContent::Module(_)) => false,
            // The WasmPlugin of the root namespace serves everybody. Where a cluster is missing,
            // its filter refuses commands rather than sending them elsewhere.
            Some(ObjectContent::Plugin { .. }) => {
                *namespace != self.root_namespace && self.clusters_of.contains(namespace)
            }
            Some(content @ (ObjectContent::Listener { prepared, .. } | ObjectContent::NativeListener { prepared })) => {
                let is_native = matches!(content, ObjectContent::NativeListener { .. });
                is_native && self.natives
                    || self
                        .services
                        .contains(&(prepared.service.address.clone(), prepared.service.clients.scope.clone()))
            }
        }
    }

    /// The hosts that a WasmPlugin has and is to lose, though the filters of their own that are to
    /// serve them could not be applied.
    pub fn unserved(&self, namespace: &str, planned: &PlannedObject, observed: &ObservedObject) -> Vec<wire::Host> {
        let ObjectContent::Plugin { prepared_services, kept, .. } = &planned.content else { return Vec::new() };
        let stays = |host: &str| {
            let mut served = prepared_services.iter().map(|prepared| prepared.service.address.to_string());
            served.any(|address| address == host) || kept.iter().any(|kept| kept.host == host)
        };
        let unserved =
            observed.plugin.hosts.iter().filter(|host| self.lacks(namespace, &host.host) && !stays(&host.host));
        unserved.cloned().collect()
    }

    /// True if something of a service could not be applied.
    pub fn holds(&self, prepared: &PreparedService) -> bool {
        self.services.contains(&(prepared.service.address.clone(), prepared.service.clients.scope.clone()))
    }

    fn blocks_deletion(&self, key: &RenderedKey, observed: &ObservedObject) -> bool {
        let namespace = &key.name.namespace;
        observed.is_foundation(key) && self.clusters_of.contains(namespace)
            || key.kind == envoy_filter::KIND && self.names.contains(&key.name.name)
            || self.owners.contains(&observed.purpose)
            || observed.plugin.addresses().any(|host| self.lacks(namespace, host))
    }

    /// True if what serves a host for the clients of an object in this namespace could not be
    /// applied.
    fn lacks(&self, namespace: &str, host: &str) -> bool {
        let of = |clients: Option<&str>| self.hosts.contains(&(host.to_owned(), clients.map(str::to_owned)));
        of(None) || of(Some(namespace))
    }
}

#[cfg(test)]
mod tests;
