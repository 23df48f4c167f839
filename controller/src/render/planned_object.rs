//! An object that is to be, with what it is made from. The object itself is built only when it is needed.

use std::sync::Arc;

use redis_mesh_core::wire;
use serde_json::{Value, json};

use crate::diagnostic::Subject;
use crate::validate::destination::ValidatedDestination;

use super::envoy::ClusterUse;
use super::mesh_options::MeshOptions;
use super::native::DynamicModule;
use super::prepared_service::PreparedService;
use super::{envoy_filter, filter_config, overlay, wasm_plugin};

/// One object that is to be.
pub struct PlannedObject {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Only for the clients of a namespace, where it stands in another one.
    pub clients: Option<String>,
    /// What it is, and what it is made from.
    pub content: ObjectContent,
}

/// What an object is made from.
pub enum ObjectContent {
    /// A WasmPlugin of a port: the services, and hosts that are kept as they are.
    Plugin {
        /// The port.
        port: u16,
        /// The services.
        prepared_services: Vec<Arc<PreparedService>>,
        /// Hosts whose services can't be told at the moment.
        kept: Vec<wire::Host>,
    },
    /// The EnvoyFilter of a host.
    Listener {
        /// The service.
        prepared: Arc<PreparedService>,
        /// With the filter's configuration.
        per_host: bool,
    },
    /// The EnvoyFilter of a host for sidecars that have the dynamic module.
    NativeListener {
        /// The service.
        prepared: Arc<PreparedService>,
    },
    /// What the dynamic module itself needs.
    Module(DynamicModule),
    /// The EnvoyFilter of a destination.
    Cluster {
        /// The destination.
        destination: Arc<ValidatedDestination>,
        /// What it has to serve; the dynamic module: in sidecars that have it.
        usage: ClusterUse,
        /// Only for the clients of a namespace.
        scope: Option<String>,
        /// The services that lead there.
        prepared_services: Vec<Arc<PreparedService>>,
    },
}

impl ObjectContent {
    /// The services for which it is.
    pub fn prepared_services(&self) -> &[Arc<PreparedService>] {
        match self {
            ObjectContent::Plugin { prepared_services, .. } | ObjectContent::Cluster { prepared_services, .. } => {
                prepared_services.as_slice()
            }
            ObjectContent::Listener { prepared, .. } | ObjectContent::NativeListener { prepared } => {
                std::slice::from_ref(prepared)
            }
            // It is everybody's.
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

    /// Our objects from which it follows: services, and the destinations where they lead.
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
        subjects
    }

    /// The object, as the push of this number.
    pub fn build(&self, options: &MeshOptions, revision: u64) -> Value {
        let mut object = self.build_for_all(options, revision);
        if let Some(clients) = &self.clients {
            for patch in object["spec"]["configPatches"].as_array_mut().into_iter().flatten() {
                patch["match"]["proxy"] = json!({"metadata": {"NAMESPACE": clients}});
            }
        }
        object
    }

    fn build_for_all(&self, options: &MeshOptions, revision: u64) -> Value {
        match &self.content {
            ObjectContent::Plugin { port, prepared_services, kept } => {
                let hosts = prepared_services
                    .iter()
                    .map(|prepared| prepared.host(options))
                    .chain(kept.iter().cloned())
                    .collect();
                let config = filter_config::document(format!("redis-mesh/{}/{port}", self.namespace), revision, hosts);
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
                envoy_filter::object(&self.namespace, &self.name, &purpose, patch.into_iter().collect())
            }
        }
    }
}

fn purpose_of(destination: &ValidatedDestination, prepared_services: &[Arc<PreparedService>]) -> String {
    let owner =
        destination.policy.object.as_ref().or(prepared_services.first().map(|prepared| &prepared.service.owner));
    owner.map(|owner| format!("{} {}", owner.kind, owner.name)).unwrap_or_default()
}
