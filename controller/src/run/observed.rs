//! A rendered object as it is in the cluster.

use std::collections::BTreeMap;

use kube::ResourceExt;
use kube::api::DynamicObject;
use redis_mesh_core::wire;
use serde_json::Value;

use crate::render::object_meta::{DESTINATION_SUFFIX, PURPOSE, labels};
use crate::render::plan::PortGroup;
use crate::render::plugin_hosts::PluginHosts;
use crate::render::{envoy_filter, overlay, wasm_plugin};

use super::digest::{ContentDigest, digest, from_hex};
use super::names::{CONTROLLER, DIGEST, REVISION, RenderedKey};
use super::place::ListenerPlace;

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
    /// The digest of the content, as the object's annotation says; none where the object lacks the
    /// labels of every rendered object.
    pub digest: Option<ContentDigest>,
    /// The revision, as the object's annotation says.
    pub revision: u64,
    /// The namespace of the controller that keeps the object, as its label says.
    pub controller: Option<String>,
    /// The object from which it follows, `KIND NAMESPACE/NAME`.
    pub purpose: String,
    /// The hosts in a WasmPlugin's configuration.
    pub plugin: PluginHosts,
    /// The host and the listeners of an EnvoyFilter that patches listeners.
    pub place: Option<Box<ListenerPlace>>,
    /// True for an EnvoyFilter for the sidecars that have the dynamic module.
    pub is_native: bool,
    /// The errors that Istio's analysis reports.
    pub rejected: Option<String>,
    /// The planned digest and the generation for which the object was found to be as planned.
    pub settled: Option<(ContentDigest, i64)>,
}

impl ObservedObject {
    /// Reads an object.
    pub fn of(object: &DynamicObject) -> ObservedObject {
        let annotation = |name: &str| object.annotations().get(name).cloned();
        let spec = &object.data["spec"];
        let config = &spec["pluginConfig"];
        let plugin = serde_json::from_value::<wire::FilterConfig>(config.clone());
        let plugin = plugin.map(|config| PluginHosts { hosts: config.hosts, refused: config.refused });
        let patches = spec["configPatches"].as_array().map(Vec::as_slice).unwrap_or_default();
        ObservedObject {
            uid: object.uid(),
            generation: object.metadata.generation.unwrap_or_default(),
            spec: digest(spec),
            digest: annotation(DIGEST).filter(|_| is_labelled(object)).and_then(|text| from_hex(&text)),
            revision: annotation(REVISION).and_then(|text| text.parse().ok()).unwrap_or_default(),
            controller: object.labels().get(CONTROLLER).cloned(),
            purpose: annotation(PURPOSE).unwrap_or_default(),
            plugin: plugin.unwrap_or_default(),
            place: ListenerPlace::of(patches).map(Box::new),
            is_native: spec["workloadSelector"]["labels"].get(overlay::LABEL).is_some(),
            rejected: rejected(&object.data["status"]),
            settled: None,
        }
    }

    /// True if the metadata of two objects says the same, as far as redis-mesh writes it.
    pub fn has_marks_of(&self, other: &ObservedObject) -> bool {
        (self.digest, self.revision) == (other.digest, other.revision)
            && (&self.controller, &self.purpose) == (&other.controller, &other.purpose)
    }

    /// True for an EnvoyFilter that holds the configuration of a host's own filter.
    pub fn is_per_host(&self) -> bool {
        self.place.as_ref().is_some_and(|place| place.has_own_filter)
    }

    /// True if it follows from what a built object follows from, if that says so.
    pub fn is_for(&self, built: &Value) -> bool {
        let purpose = built["metadata"]["annotations"][PURPOSE].as_str();
        purpose.is_none_or(|purpose| purpose == self.purpose)
    }

    /// True if sidecars have listeners that may need this object as long as they are there.
    pub fn is_foundation(&self, key: &RenderedKey) -> bool {
        let is_cluster = key.kind == envoy_filter::KIND && key.name.name.contains(DESTINATION_SUFFIX);
        is_cluster || self.purpose == overlay::PURPOSE
    }
}

fn is_labelled(object: &DynamicObject) -> bool {
    let has = |(name, value): (&String, &Value)| object.labels().get(name).map(String::as_str) == value.as_str();
    labels().as_object().is_some_and(|labels| labels.iter().all(has))
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

/// The hosts in these WasmPlugins that have to stay as they are; `is_kept` is given the namespace of
/// the WasmPlugin and the host.
pub fn kept_hosts<'a>(
    own: impl Iterator<Item = (&'a RenderedKey, &'a ObservedObject)>,
    is_kept: impl Fn(&str, &str) -> bool,
) -> BTreeMap<PortGroup, PluginHosts> {
    let mut kept: BTreeMap<PortGroup, PluginHosts> = BTreeMap::new();
    for (key, object) in own.filter(|(key, _)| key.kind == wasm_plugin::KIND) {
        let namespace = &key.name.namespace;
        let group = |address: &str| {
            let (name, port) = address.rsplit_once(':')?;
            Some((namespace.clone(), port.parse().ok()?)).filter(|_| is_kept(namespace, name))
        };
        for host in &object.plugin.hosts {
            if let Some(group) = group(&host.host) {
                kept.entry(group).or_default().hosts.push(host.clone());
            }
        }
        for name in &object.plugin.refused {
            if let Some(group) = group(wire::address_in(name)) {
                kept.entry(group).or_default().refused.push(name.clone());
            }
        }
    }
    kept
}
