//! A planned object with what it is built from. The object itself is built only when it is needed.

use std::collections::BTreeSet;
use std::sync::Arc;

use redis_mesh_core::wire;
use serde_json::{Value, json};

use crate::diagnostic::Subject;
use crate::exports::Exports;
use crate::validate::destination::ValidatedDestination;

use super::envoy::ClusterUse;
use super::mesh_options::MeshOptions;
use super::native::DynamicModule;
use super::prepared_service::PreparedService;
use super::{envoy_filter, filter_config, overlay, wasm_plugin};

/// The place of the patches in an EnvoyFilter.
const PATCHES: &str = "/spec/configPatches";

/// An object that is to be.
pub struct PlannedObject {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// The namespaces of the clients for whom it is, where its own namespace doesn't say so.
    pub clients: Exports,
    /// The input of the object.
    pub content: ObjectContent,
}

/// The input from which an object is built.
pub enum ObjectContent {
    /// The WasmPlugin of a port.
    Plugin {
        /// The port.
        port: u16,
        /// The services.
        prepared_services: Vec<Arc<PreparedService>>,
        /// The hosts whose connections are refused, unless they come through listeners that the rules have
        /// changed.
        refused: Vec<String>,
        /// Hosts that stay as they are, since their objects have errors.
        kept: Vec<wire::Host>,
    },
    /// The EnvoyFilter of a host.
    Listener {
        /// The service.
        prepared: Arc<PreparedService>,
        /// True if it holds a filter of the host's own.
        per_host: bool,
    },
    /// The EnvoyFilter of a host for sidecars with the dynamic module.
    NativeListener {
        /// The service.
        prepared: Arc<PreparedService>,
    },
    /// The EnvoyFilter with the internal listeners and clusters of the dynamic module.
    Module(DynamicModule),
    /// The EnvoyFilter of a destination.
    Cluster {
        /// The destination.
        destination: Arc<ValidatedDestination>,
        /// The use of its cluster; for the dynamic module, it is for sidecars with the module.
        usage: ClusterUse,
        /// The scope of the cluster, where it is not for everybody.
        scope: Option<String>,
        /// The services that lead there.
        prepared_services: Vec<Arc<PreparedService>>,
    },
}

impl ObjectContent {
    /// The services from which the object follows; none for the module's own, which is for all of
    /// them.
    pub fn prepared_services(&self) -> &[Arc<PreparedService>] {
        match self {
            ObjectContent::Plugin { prepared_services, .. } | ObjectContent::Cluster { prepared_services, .. } => {
                prepared_services.as_slice()
            }
            ObjectContent::Listener { prepared, .. } | ObjectContent::NativeListener { prepared } => {
                std::slice::from_ref(prepared)
            }
            ObjectContent::Module(_) => &[],
        }
    }
}

impl PlannedObject {
    /// `WasmPlugin` or `EnvoyFilter`.
    pub fn kind(&self) -> &'static str {
        match self.content {
            ObjectContent::Plugin { .. } => wasm_plugin::KIND,
            ObjectContent::Listener { .. }
            | ObjectContent::Cluster { .. }
            | ObjectContent::NativeListener { .. }
            | ObjectContent::Module(_) => envoy_filter::KIND,
        }
    }

    /// The RedisServices and RedisDestinations from which it follows, each once: several services
    /// may have one owner, and lead to one destination.
    pub fn subjects(&self) -> Vec<&Subject> {
        let prepared_services = self.content.prepared_services();
        let mut subjects: Vec<&Subject> = Vec::new();
        match &self.content {
            ObjectContent::Cluster { destination, .. } => subjects.extend(destination.policy.object.as_ref()),
            ObjectContent::Plugin { .. }
            | ObjectContent::Listener { .. }
            | ObjectContent::NativeListener { .. }
            | ObjectContent::Module(_) => {
                let destinations = prepared_services.iter().flat_map(|prepared| prepared.service.destinations());
                subjects.extend(destinations.filter_map(|destination| destination.policy.object.as_ref()));
            }
        }
        subjects.extend(prepared_services.iter().map(|prepared| &prepared.service.owner));
        let mut known = BTreeSet::new();
        subjects.retain(|subject| known.insert((subject.kind.as_str(), subject.name.as_str())));
        subjects
    }

    /// Builds the object with this revision.
    pub fn build(&self, options: &MeshOptions, revision: u64) -> Value {
        let mut object = self.build_for_all(options, revision);
        // A patch matches one namespace.
        if let Some(clients) = self.clients.namespaces()
            && let Some(patches) = object.pointer_mut(PATCHES).and_then(Value::as_array_mut)
        {
            let all = std::mem::take(patches);
            *patches =
                clients.iter().flat_map(|clients| all.iter().map(move |patch| of(clients, patch.clone()))).collect();
        }
        // Of merged patches the last one counts, and a proxy that obeys these has obeyed the others before; of
        // added clusters the first.
        if let Some(patches) = object.pointer_mut(PATCHES).and_then(Value::as_array_mut) {
            patches.splice(0..0, self.added_without_logins());
            patches.extend(self.without_logins(options, revision));
        }
        object
    }

    /// The patches for namespaces whose ServiceEntries make another Redis of a destination: none of the
    /// logins is for that.
    fn without_logins(&self, options: &MeshOptions, revision: u64) -> Vec<Value> {
        match &self.content {
            ObjectContent::Cluster { destination, usage: ClusterUse::Proxy, .. } => {
                let Some(patch) = envoy_filter::without_login(destination) else { return Vec::new() };
                let namespaces: BTreeSet<&str> =
                    destination.policy.overriding.iter().map(|entry| entry.namespace.as_str()).collect();
                let reached = namespaces.into_iter().filter(|clients| self.clients.includes(clients));
                reached.map(|clients| of(clients, patch.clone())).collect()
            }
            ObjectContent::NativeListener { prepared } => {
                let namespaces = prepared.service.overriding_namespaces().into_iter();
                let reached = namespaces.filter(|clients| self.clients.includes(clients));
                let patches = reached.flat_map(|clients| {
                    let patches = prepared.native_without_logins((&self.name, clients), options, revision);
                    patches.into_iter().map(|patch| of(clients, patch))
                });
                patches.collect()
            }
            ObjectContent::Cluster { .. }
            | ObjectContent::Listener { .. }
            | ObjectContent::Plugin { .. }
            | ObjectContent::Module(_) => Vec::new(),
        }
    }

    /// The same for the clusters that are added where Istio's own can't serve.
    fn added_without_logins(&self) -> Vec<Value> {
        let ObjectContent::Cluster { destination, usage, scope, .. } = &self.content else { return Vec::new() };
        if *usage == ClusterUse::Native {
            return Vec::new();
        }
        let Some(patch) = envoy_filter::added_without_login(destination, *usage, scope.as_deref()) else {
            return Vec::new();
        };
        let namespaces: BTreeSet<&str> =
            destination.policy.overriding.iter().map(|entry| entry.namespace.as_str()).collect();
        let reached = namespaces.into_iter().filter(|clients| self.clients.includes(clients));
        reached.map(|clients| of(clients, patch.clone())).collect()
    }

    fn build_for_all(&self, options: &MeshOptions, revision: u64) -> Value {
        match &self.content {
            ObjectContent::Plugin { port, prepared_services, refused, kept } => {
                let hosts = prepared_services
                    .iter()
                    .map(|prepared| prepared.host(options))
                    .chain(kept.iter().cloned())
                    .collect();
                let config = filter_config::document(format!("redis-mesh/{}/{port}", self.namespace), revision, hosts);
                let config = wire::FilterConfig { refused: refused.clone(), ..config };
                wasm_plugin::object(&self.namespace, *port, &config, options)
            }
            ObjectContent::Listener { prepared, per_host } => {
                prepared.listener(&self.namespace, &self.name, *per_host, options, revision)
            }
            ObjectContent::NativeListener { prepared } => {
                prepared.native_listener(&self.namespace, &self.name, options, revision)
            }
            ObjectContent::Module(module) => {
                overlay::object(&self.namespace, &self.name, overlay::PURPOSE, overlay::module(module))
            }
            ObjectContent::Cluster { destination, usage, scope, prepared_services } => {
                let purpose = purpose_of(destination, prepared_services);
                if *usage == ClusterUse::Native {
                    let module = options.module.clone().unwrap_or_default();
                    let patches = overlay::cluster(destination, scope.as_deref(), &module);
                    return overlay::object(&self.namespace, &self.name, &purpose, patches);
                }
                let patch = envoy_filter::cluster(destination, *usage, scope.as_deref());
                // Where some lead there through a cluster of ours, Istio's still serves the others.
                let is_direct = |prepared: &Arc<PreparedService>| {
                    ClusterUse::by(&prepared.service, destination) == ClusterUse::Direct
                };
                let others = *usage != ClusterUse::Direct && prepared_services.iter().any(is_direct);
                let others = others.then(|| envoy_filter::following(destination)).flatten();
                envoy_filter::object(&self.namespace, &self.name, &purpose, patch.into_iter().chain(others).collect())
            }
        }
    }
}

/// A patch for the proxies in one namespace.
fn of(clients: &str, mut patch: Value) -> Value {
    patch["match"]["proxy"] = json!({"metadata": {"NAMESPACE": clients}});
    patch
}

fn purpose_of(destination: &ValidatedDestination, prepared_services: &[Arc<PreparedService>]) -> String {
    let owner =
        destination.policy.object.as_ref().or(prepared_services.first().map(|prepared| &prepared.service.owner));
    owner.map(|owner| format!("{} {}", owner.kind, owner.name)).unwrap_or_default()
}
