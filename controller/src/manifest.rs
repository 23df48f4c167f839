//! Kubernetes manifests as they stand in files, sorted into what the rest of the crate works on.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::crd::{self, RedisDestination, RedisService};
use crate::diagnostic::{Diagnostics, Loaded, Origin, Reason, Subject, nearest};
use crate::inventory::Inventory;
use crate::{schema, yaml};

/// A text with the name that messages give it.
pub struct ManifestSource {
    /// The file as the user named it.
    pub name: String,
    /// Its content.
    pub text: String,
}

/// What the manifests contain.
#[derive(Default)]
pub struct Manifests {
    /// Objects of kind RedisService.
    pub services: Vec<Arc<Loaded<RedisService>>>,
    /// Objects of kind RedisDestination.
    pub destinations: Vec<Arc<Loaded<RedisDestination>>>,
    /// What they may refer to.
    pub inventory: Inventory,
    /// How many objects of each other kind were skipped.
    pub skipped: BTreeMap<String, usize>,
    seen: BTreeMap<(String, String), Origin>,
    count: usize,
}

/// Reads manifests. Objects without a namespace get `namespace`.
pub fn read(sources: &[ManifestSource], namespace: &str, diagnostics: &mut Diagnostics) -> Manifests {
    let mut manifests = Manifests::default();
    manifests.inventory.is_whole = true;
    let definitions = crd::definitions();
    for source in sources {
        for document in yaml::documents(&source.text) {
            let origin = Origin { index: manifests.count, file: source.name.clone(), line: document.line };
            match document.value {
                Ok(value) => manifests.add(value, origin, namespace, &definitions, diagnostics),
                Err(reason) => {
                    manifests.count += 1;
                    diagnostics.add(&Subject { origin, ..Subject::default() }, "", Reason::Invalid, reason);
                }
            }
        }
    }
    manifests
}

impl Manifests {
    fn add(
        &mut self,
        mut value: Value,
        origin: Origin,
        namespace: &str,
        definitions: &[Value; 2],
        diagnostics: &mut Diagnostics,
    ) {
        let origin = Origin { index: self.count, ..origin };
        self.count += 1;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (api, kind) = (text(&value["apiVersion"]), text(&value["kind"]));
        let mut subject = Subject { origin: origin.clone(), kind: kind.clone(), name: String::new() };
        if api.is_empty() || kind.is_empty() {
            let message = "is not a Kubernetes object: apiVersion and kind are needed";
            return diagnostics.add(&subject, "", Reason::Invalid, message);
        }
        if kind == "List" || kind.ends_with("List") && value["items"].is_array() {
            if let Value::Array(items) = value["items"].take() {
                for item in items {
                    self.add(item, origin.clone(), namespace, definitions, diagnostics);
                }
            }
            return;
        }
        let group = api.split('/').next().unwrap_or_default();
        let ours = group == crd::GROUP;
        if ours && api != crd::API_VERSION {
            let message = format!("`{api}` is not known; the only version is {}", crd::API_VERSION);
            return diagnostics.add(&subject, "apiVersion", Reason::Invalid, message);
        }
        let known = match (api.as_str(), kind.as_str()) {
            (_, "RedisService" | "RedisDestination") if ours => true,
            ("v1", "Secret" | "Service") | ("discovery.k8s.io/v1", "EndpointSlice") => true,
            (_, "ServiceEntry") if group == "networking.istio.io" => true,
            _ if ours => {
                let hint =
                    nearest(&kind, ["RedisService", "RedisDestination"]).unwrap_or("RedisService or RedisDestination");
                let message = format!("`{kind}` is not a kind of {}; did you mean {hint}?", crd::GROUP);
                return diagnostics.add(&subject, "kind", Reason::Invalid, message);
            }
            _ => false,
        };
        if !known {
            *self.skipped.entry(kind).or_default() += 1;
            return;
        }
        // Without this, an object that has no name at all would not deserialize, and its other mistakes stay hidden.
        if !value["metadata"].is_object() {
            value["metadata"] = json!({});
        }
        let name = text(&value["metadata"]["name"]);
        if name.is_empty() {
            diagnostics.add(&subject, "metadata.name", Reason::Invalid, "is missing");
        }
        if value["metadata"]["namespace"].as_str().is_none_or(str::is_empty) {
            value["metadata"]["namespace"] = namespace.into();
        }
        subject.name = format!("{}/{name}", text(&value["metadata"]["namespace"]));
        let identity = (kind.clone(), subject.name.clone());
        if let Some(first) = self.seen.get(&identity).filter(|_| !name.is_empty()) {
            let first = Subject { origin: first.clone(), ..Subject::default() };
            let message = format!("is given twice; the first is at {first}: remove one");
            return diagnostics.add(&subject, "", Reason::Conflict, message);
        }
        self.seen.insert(identity, origin.clone());
        match kind.as_str() {
            "RedisService" => {
                self.services.extend(ours_as(value, &definitions[0], &subject, diagnostics).map(Arc::new))
            }
            "RedisDestination" => {
                self.destinations.extend(ours_as(value, &definitions[1], &subject, diagnostics).map(Arc::new))
            }
            "Service" => {
                if let Some(service) = deserialize(value, &subject, diagnostics) {
                    self.inventory.add_service(service);
                }
            }
            "Secret" => {
                if let Some(secret) = deserialize(value, &subject, diagnostics) {
                    self.inventory.add_secret(secret);
                }
            }
            "ServiceEntry" => {
                if let Some(entry) = deserialize(value, &subject, diagnostics) {
                    self.inventory.add_entry(&entry);
                }
            }
            _ => {
                if let Some(slice) = deserialize(value, &subject, diagnostics)
                    && self.inventory.add_slice(slice).is_none()
                {
                    let message = "belongs to no Service: set the label kubernetes.io/service-name";
                    diagnostics.add(&subject, "metadata.labels", Reason::NoEffect, message);
                }
            }
        }
    }
}

/// An object of ours from its document, with everything that its schema says against it.
pub fn ours_as<K: DeserializeOwned>(
    mut value: Value,
    definition: &Value,
    subject: &Subject,
    diagnostics: &mut Diagnostics,
) -> Option<Loaded<K>> {
    // What stands beside `spec` is the API server's business; what the schema says of the rest is checked here.
    let root = crd::schema(definition);
    let fields = value.as_object_mut()?;
    for unknown in ["apiVersion", "kind", "metadata", "spec", "status"].iter().fold(
        fields.keys().cloned().collect::<Vec<_>>(),
        |mut keys, known| {
            keys.retain(|key| key != known);
            keys
        },
    ) {
        fields.shift_remove(&unknown);
        let hint =
            if root["properties"]["spec"]["properties"][&unknown].is_null() { "" } else { "; it belongs under `spec`" };
        diagnostics.at(subject, unknown).invalid(format!("unknown field{hint}"));
    }
    fields.shift_remove("status");
    match fields.get_mut("spec") {
        Some(spec) => {
            schema::conform(spec, &root["properties"]["spec"], &mut diagnostics.at(subject, "spec"));
        }
        None => {
            diagnostics.at(subject, "spec").invalid("is missing");
            return None;
        }
    }
    let object = deserialize(value, subject, diagnostics)?;
    Some(Loaded { origin: subject.origin.clone(), object })
}

fn deserialize<T: DeserializeOwned>(value: Value, subject: &Subject, diagnostics: &mut Diagnostics) -> Option<T> {
    match serde_json::from_value(value) {
        Ok(object) => Some(object),
        Err(error) => {
            // serde quotes the value that it did not expect; a Secret's must not be shown.
            let message = if subject.kind == "Secret" {
                "can't be read: `data` is a mapping of names to base64, `stringData` of names to text".to_owned()
            } else {
                format!("can't be read: {error}")
            };
            diagnostics.add(subject, "", Reason::Invalid, message);
            None
        }
    }
}
