//! A rendered object as it is in the cluster.

use std::collections::BTreeMap;

use kube::ResourceExt;
use kube::api::DynamicObject;
use redis_mesh_core::wire;
use serde_json::Value;

use crate::render::object_meta::PURPOSE;
use crate::render::plan::PortGroup;
use crate::render::{overlay, wasm_plugin};

use super::digest::{ContentDigest, digest, from_hex};
use super::names::{CONTROLLER, DIGEST, REVISION, RenderedKey};

/// Rendered objects in the cluster, by name.
pub type ObservedObjects = BTreeMap<RenderedKey, Box<ObservedObject>>;

/// A rendered object in the cluster, reduced to what a comparison needs.
#[derive(Clone)]
pub struct ObservedObject {
    /// `metadata.uid`.
    pub uid: Option<String>,
    /// `metadata.generation`.
    pub generation: i64,
    /// The digest of the spec.
    pub spec: ContentDigest,
    /// The digest of the content, as the object's annotation says.
    pub digest: Option<ContentDigest>,
    /// The revision, as the object's annotation says.
    pub revision: u64,
    /// True if this controller keeps the object.
    pub is_own: bool,
    /// The object from which it follows, `KIND NAMESPACE/NAME`.
    pub purpose: String,
    /// The hosts in a WasmPlugin's configuration.
    pub hosts: Vec<wire::Host>,
    /// True for an EnvoyFilter that holds the configuration of a host's own filter.
    pub is_per_host: bool,
    /// True for an EnvoyFilter for the sidecars that have the dynamic module.
    pub is_native: bool,
    /// The errors that Istio's analysis reports.
    pub rejected: Option<String>,
    /// The planned digest and the generation for which the object was found to be as planned.
    pub settled: Option<(ContentDigest, i64)>,
}

impl ObservedObject {
    /// Reads an object, for the controller in this namespace.
    pub fn of(object: &DynamicObject, controller: &str) -> ObservedObject {
        let annotation = |name: &str| object.annotations().get(name).cloned();
        let spec = &object.data["spec"];
        let config = &spec["pluginConfig"];
        let hosts = serde_json::from_value::<wire::FilterConfig>(config.clone()).map(|config| config.hosts);
        let patches = spec["configPatches"].as_array().map(Vec::as_slice).unwrap_or_default();
        ObservedObject {
            uid: object.uid(),
            generation: object.metadata.generation.unwrap_or_default(),
            spec: digest(spec),
            digest: annotation(DIGEST).and_then(|text| from_hex(&text)),
            revision: annotation(REVISION).and_then(|text| text.parse().ok()).unwrap_or_default(),
            is_own: object.labels().get(CONTROLLER).is_some_and(|name| name == controller),
            purpose: annotation(PURPOSE).unwrap_or_default(),
            hosts: hosts.unwrap_or_default(),
            is_per_host: patches.iter().any(|patch| patch["applyTo"] == "EXTENSION_CONFIG"),
            is_native: spec["workloadSelector"]["labels"].get(overlay::LABEL).is_some(),
            rejected: rejected(&object.data["status"]),
            settled: None,
        }
    }

    /// True if the object has to be deleted when no plan has it. Objects that follow from a
    /// frozen object stay.
    pub fn is_prunable(&self, frozen: &[String]) -> bool {
        self.is_own && !frozen.contains(&self.purpose)
    }
}

/// The errors that Istio's analysis reports (`status.validationMessages`).
fn rejected(status: &Value) -> Option<String> {
    let messages = status["validationMessages"].as_array().map(Vec::as_slice).unwrap_or_default();
    let errors = messages.iter().filter(|message| message["level"] == "ERROR");
    let texts: Vec<String> = errors
        .map(|message| {
            let code = message["type"]["code"].as_str().unwrap_or_default();
            format!("{code} {}", message["type"]["name"].as_str().unwrap_or_default())
        })
        .collect();
    (!texts.is_empty()).then(|| format!("Istio says: {}", texts.join(", ")))
}

/// The hosts in WasmPlugins that have to stay as they are; `is_kept` is given the namespace of
/// the WasmPlugin and the host.
pub fn kept_hosts(
    observed: &ObservedObjects,
    is_kept: impl Fn(&str, &str) -> bool,
) -> BTreeMap<PortGroup, Vec<wire::Host>> {
    let mut kept: BTreeMap<PortGroup, Vec<wire::Host>> = BTreeMap::new();
    for (key, object) in observed.iter().filter(|(key, object)| key.kind == wasm_plugin::KIND && object.is_own) {
        for host in &object.hosts {
            if let Some((name, port)) = host.host.rsplit_once(':')
                && let Ok(port) = port.parse::<u16>()
                && is_kept(&key.name.namespace, name)
            {
                kept.entry((key.name.namespace.clone(), port)).or_default().push(host.clone());
            }
        }
    }
    kept
}
