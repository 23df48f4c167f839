//! The plan: which objects there are to be, and from which services each follows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::exports::Exports;
use crate::validate::destination::ValidatedDestination;
use crate::validate::host_port::HostPort;

use super::cluster_scope::{WITHHELD, cluster_scope, kept_from};
use super::envoy::ClusterUse;
use super::envoy_filter;
use super::mesh_options::MeshOptions;
use super::native::DynamicModule;
use super::object_meta::{DESTINATION_SUFFIX, object_name, placed};
use super::overlay;
use super::planned_object::{ObjectContent, PlannedObject};
use super::plugin_hosts::PluginHosts;
use super::prepared_service::{PreparedService, changes_listener};
use super::refused;
use super::sharing::{self, HostsByNamespace, SharingHistory};
use super::wasm_plugin;

/// The hosts that may share a WasmPlugin: the namespace of their objects, and their port.
pub type PortGroup = (String, u16);

/// The results of earlier plans on which a plan depends.
#[derive(Default)]
pub struct PlanHistory {
    /// Where the hosts were.
    pub sharing: SharingHistory,
    /// Hosts in WasmPlugins that have to stay as they are.
    pub kept: BTreeMap<PortGroup, PluginHosts>,
}

/// The plan: all objects that are to be, in a fixed order.
#[derive(Default)]
pub struct RenderPlan {
    /// The objects.
    pub objects: Vec<Arc<PlannedObject>>,
    /// Hosts that have filters of their own only because a WasmPlugin would grow too large.
    pub apart: Arc<HostsByNamespace>,
}

/// Plans all objects.
pub fn plan(prepared_services: &[Arc<PreparedService>], options: &MeshOptions, past: &PlanHistory) -> RenderPlan {
    let root_namespace = options.root_namespace.as_str();
    let mut groups: BTreeMap<PortGroup, Vec<&Arc<PreparedService>>> = BTreeMap::new();
    for prepared in prepared_services {
        groups.entry((prepared.namespace.clone(), prepared.service.address.port)).or_default().push(prepared);
    }
    for group in past.kept.keys().cloned().chain(declared(options)) {
        groups.entry(group).or_default();
    }
    let mut planned = Vec::new();
    let mut apart = HostsByNamespace::default();
    for (group, all) in groups {
        let members: Vec<_> = all.iter().copied().filter(|prepared| !prepared.per_host).collect();
        let kept = past.kept.get(&group).cloned().unwrap_or_default();
        let kept_size = |host| serde_json::to_string(host).unwrap_or_default().len();
        let kept_size = kept.hosts.iter().map(kept_size).sum();
        let (prepared_services, moved) = sharing::divide(&members, kept_size, &past.sharing);
        moved.into_iter().for_each(|prepared| apart.insert(prepared));
        let has_own_filter = |prepared: &PreparedService| prepared.per_host || apart.contains(prepared);
        let refused = refused::names(all.iter().map(|prepared| &***prepared), has_own_filter, &kept, options);
        let kept = kept.hosts;
        let is_declared = declared(options).any(|declared| declared == group);
        if members.is_empty() && refused.is_empty() && kept.is_empty() && !is_declared {
            continue;
        }
        let (namespace, port) = group;
        let content = ObjectContent::Plugin { port, prepared_services, refused, kept };
        planned.push(PlannedObject { namespace, name: wasm_plugin::name(port), clients: Exports::default(), content });
    }
    for prepared in prepared_services {
        planned.extend(listener(prepared, apart.contains(prepared), root_namespace));
    }
    planned.extend(clusters(prepared_services, root_namespace));
    planned.extend(native(prepared_services, options));
    RenderPlan { objects: planned.into_iter().map(Arc::new).collect(), apart: Arc::new(apart) }
}

/// The groups whose WasmPlugins are there whether or not any host needs them. A WasmPlugin that comes or goes
/// changes the listeners of all hosts of its port, those of others included.
fn declared(options: &MeshOptions) -> impl Iterator<Item = PortGroup> {
    let ports = options.ports.iter().filter(|_| !options.per_host);
    ports.map(|port| (options.root_namespace.clone(), *port))
}

/// Plans the objects for sidecars with the dynamic module.
fn native(prepared_services: &[Arc<PreparedService>], options: &MeshOptions) -> Vec<PlannedObject> {
    let root_namespace = options.root_namespace.as_str();
    let mut planned: Vec<PlannedObject> =
        prepared_services.iter().filter_map(|prepared| native_listener(prepared, root_namespace)).collect();
    let natively = || prepared_services.iter().filter(|prepared| prepared.is_native);
    planned.extend(clusters_of(natively(), root_namespace, true));
    if natively().next().is_some() {
        let others = options.other_modules.iter().map(|filename| DynamicModule::among_others(filename.clone()));
        let modules: BTreeSet<DynamicModule> = options.module.iter().cloned().chain(others).collect();
        planned.extend(modules.into_iter().map(|module| PlannedObject {
            namespace: root_namespace.to_owned(),
            name: overlay::module_name(&module),
            clients: Exports::default(),
            content: ObjectContent::Module(module),
        }));
    }
    planned
}

/// The EnvoyFilter of a host for sidecars with the dynamic module.
fn native_listener(prepared: &Arc<PreparedService>, root_namespace: &str) -> Option<PlannedObject> {
    if !prepared.is_native {
        return None;
    }
    let destinations = prepared.service.destinations();
    let kept = destinations.iter().find_map(|destination| kept_from(&prepared.service, destination, root_namespace));
    let name = object_name(&prepared.service.address, overlay::SUFFIX);
    let (namespace, name) = placed(&prepared.namespace, name, kept, root_namespace);
    let (clients, content) = (prepared.exports(kept), ObjectContent::NativeListener { prepared: prepared.clone() });
    Some(PlannedObject { namespace, name, clients, content })
}

/// The EnvoyFilter of a host, if it needs one.
fn listener(prepared: &Arc<PreparedService>, is_apart: bool, root_namespace: &str) -> Option<PlannedObject> {
    let per_host = prepared.per_host || is_apart;
    if prepared.listeners.is_empty() || !per_host && !changes_listener(&prepared.service) {
        return None;
    }
    let (clients, namespace, name) = prepared.listener_place(root_namespace);
    let content = ObjectContent::Listener { prepared: prepared.clone(), per_host };
    Some(PlannedObject { namespace, name, clients, content })
}

/// The plan for a service that takes the place of another where no other object changes: both
/// have filters of their own and lead to the same clusters. None if other objects may change.
pub fn plan_alone(
    old: &PreparedService,
    new: &Arc<PreparedService>,
    apart: &HostsByNamespace,
    root_namespace: &str,
) -> Option<Vec<PlannedObject>> {
    let (before, after) = (&old.service, &new.service);
    let is_same_place =
        before.address == after.address && before.clients == after.clients && old.namespace == new.namespace;
    let has_own = |prepared: &PreparedService| prepared.per_host || apart.contains(prepared);
    let is_alone = has_own(old) && has_own(new) && old.per_host == new.per_host;
    let is_same_way = before.path == after.path
        && before.destinations() == after.destinations()
        && before.client_auth.is_some() == after.client_auth.is_some()
        && old.is_native == new.is_native
        && old.listeners.is_empty() == new.listeners.is_empty();
    if !(is_same_place && is_alone && is_same_way) {
        return None;
    }
    let alone = listener(new, !new.per_host, root_namespace)?;
    Some([alone].into_iter().chain(native_listener(new, root_namespace)).collect())
}

/// The EnvoyFilters of the destinations, each once for each namespace.
///
/// The cluster for unknown tags is not among them: redis_proxy answers the same where the cluster
/// doesn't exist.
fn clusters(prepared_services: &[Arc<PreparedService>], root_namespace: &str) -> Vec<PlannedObject> {
    clusters_of(prepared_services.iter(), root_namespace, false)
}

/// A cluster that services need.
struct WantedCluster<'a> {
    destination: &'a Arc<ValidatedDestination>,
    usage: ClusterUse,
    scope: Option<String>,
    kept_from: Option<&'a str>,
    clients: Exports,
    prepared_services: Vec<Arc<PreparedService>>,
}

/// The EnvoyFilters of the destinations, for all sidecars or for those with the dynamic module.
fn clusters_of<'a>(
    prepared_services: impl Iterator<Item = &'a Arc<PreparedService>>,
    root_namespace: &str,
    is_native: bool,
) -> Vec<PlannedObject> {
    let mut found: BTreeMap<(&str, &HostPort, Option<String>), WantedCluster<'_>> = BTreeMap::new();
    for prepared in prepared_services {
        for destination in prepared.service.destinations() {
            let usage = if is_native { ClusterUse::Native } else { ClusterUse::by(&prepared.service, destination) };
            let scope = cluster_scope(&prepared.service, destination);
            let place = (prepared.namespace.as_str(), &destination.address, scope.clone());
            let kept = kept_from(&prepared.service, destination, root_namespace);
            let wanted = found.entry(place).or_insert_with(|| WantedCluster {
                destination,
                usage,
                scope,
                kept_from: kept,
                clients: Exports::nobody(),
                prepared_services: Vec::new(),
            });
            // What is said of the destination is the same in all of these, and reaches them all.
            wanted.clients = wanted.clients.or(&prepared.exports(kept));
            wanted.prepared_services.push(prepared.clone());
            // The settings for `redis_proxy` do no harm to `tcp_proxy`, and the host's own clients need none.
            if usage == ClusterUse::Proxy || wanted.usage == ClusterUse::Direct {
                wanted.usage = usage;
            }
        }
    }
    let planned = found.into_iter().filter_map(|((namespace, ..), wanted)| wanted.planned(namespace, root_namespace));
    planned.collect()
}

impl WantedCluster<'_> {
    /// The EnvoyFilter of the cluster; none if Istio's own cluster serves as it is.
    fn planned(self, namespace: &str, root_namespace: &str) -> Option<PlannedObject> {
        let is_native = self.usage == ClusterUse::Native;
        let is_wanted = match self.usage {
            ClusterUse::Native => overlay::needs_cluster(self.destination),
            usage => envoy_filter::changes_cluster(self.destination, usage),
        };
        if !is_wanted {
            return None;
        }
        let mut name = object_name(&self.destination.address, DESTINATION_SUFFIX);
        match self.scope.as_deref().map(|scope| (scope, scope.strip_prefix("*/"))) {
            Some((WITHHELD, _)) => name += "-withheld",
            Some((_, Some(says))) => name = format!("{name}-of-{says}"),
            _ => {}
        }
        if is_native {
            name += overlay::SUFFIX;
        }
        let (namespace, name) = placed(namespace, name, self.kept_from, root_namespace);
        let content = ObjectContent::Cluster {
            destination: self.destination.clone(),
            usage: self.usage,
            scope: self.scope,
            prepared_services: self.prepared_services,
        };
        Some(PlannedObject { namespace, name, clients: self.clients, content })
    }
}
