//! Kubernetes manifests as they stand in files, sorted into what the rest of the crate works on.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::crd::{self, RedisDestination, RedisService};
use crate::diagnostic::{Code, Diagnostics, Loaded, Origin, Problem, Subject, nearest};
use crate::inventory::Inventory;
use crate::render::envoy_filter::LISTENER_PRIORITY;
use crate::{schema, spans, yaml};

/// A text with the name that messages give it.
pub struct ManifestSource {
    /// The file as the user named it.
    pub name: String,
    /// The content.
    pub text: String,
}

/// The objects of manifests.
#[derive(Default)]
pub struct Manifests {
    /// The RedisServices.
    pub services: Vec<Arc<Loaded<RedisService>>>,
    /// The RedisDestinations.
    pub destinations: Vec<Arc<Loaded<RedisDestination>>>,
    /// Everything that these objects may refer to.
    pub inventory: Inventory,
    /// The number of objects of each other kind, which were skipped.
    pub skipped: BTreeMap<String, usize>,
    seen: BTreeMap<(String, String), Origin>,
    count: usize,
}

/// Reads manifests. Objects without a namespace get `namespace`.
pub fn read(sources: &[ManifestSource], namespace: &str, diagnostics: &mut Diagnostics) -> Manifests {
    let mut manifests = Manifests::default();
    manifests.inventory.is_whole = true;
    let mut reader = Reader { manifests: &mut manifests, namespace, definitions: crd::definitions(), diagnostics };
    for source in sources {
        for document in yaml::documents(&source.text) {
            let origin = Origin { file: source.name.clone(), line: document.line, ..Origin::default() };
            reader.document(document.value, origin);
        }
    }
    manifests
}

/// Sets the place of each diagnostic's value, for the diagnostics about these manifests.
pub fn locate(sources: &[ManifestSource], diagnostics: &mut Diagnostics) {
    let mut trees: BTreeMap<(String, usize), Option<spans::SpanTree>> = BTreeMap::new();
    diagnostics.locate(|origin, field| {
        let tree = trees.entry((origin.file.clone(), origin.line)).or_insert_with(|| {
            let source = sources.iter().find(|source| source.name == origin.file)?;
            yaml::spans(&source.text, origin.line)
        });
        tree.as_ref()?.find(&[origin.path.as_str(), field].join("."))
    });
}

struct Reader<'a> {
    manifests: &'a mut Manifests,
    namespace: &'a str,
    definitions: [Value; 2],
    diagnostics: &'a mut Diagnostics,
}

impl Reader<'_> {
    fn document(&mut self, value: Result<Value, String>, origin: Origin) {
        match value {
            Ok(value) => self.object(value, origin),
            Err(reason) => {
                let origin = Origin { index: self.manifests.count, ..origin };
                self.manifests.count += 1;
                let subject = Subject { origin, ..Subject::default() };
                self.diagnostics.add(&subject, "", Problem::new(Code::InvalidYaml, reason, "correct the document"));
            }
        }
    }

    fn object(&mut self, value: Value, origin: Origin) {
        let origin = Origin { index: self.manifests.count, ..origin };
        self.manifests.count += 1;
        let (api, kind) = (text(&value["apiVersion"]), text(&value["kind"]));
        let subject = Subject { origin, kind, name: String::new() };
        if api.is_empty() || subject.kind.is_empty() {
            let message = "is not a Kubernetes object: apiVersion and kind are needed";
            return self.diagnostics.add(&subject, "", Problem::new(Code::NotAnObject, message, "add them"));
        }
        if subject.kind == "List" || subject.kind.ends_with("List") && value["items"].is_array() {
            return self.list(value, &subject.origin);
        }
        if self.is_known(&api, &subject) {
            self.known(value, subject);
        }
    }

    fn list(&mut self, mut value: Value, origin: &Origin) {
        let Value::Array(items) = value["items"].take() else { return };
        for (index, item) in items.into_iter().enumerate() {
            let path = [origin.path.as_str(), &format!("items[{index}]")].join(".");
            self.object(item, Origin { path, ..origin.clone() });
        }
    }

    /// True for the kinds that are read. Mistakes in the API group of redis-mesh are reported,
    /// other kinds counted.
    fn is_known(&mut self, api: &str, subject: &Subject) -> bool {
        let group = api.split('/').next().unwrap_or_default();
        let is_ours = group == crd::GROUP;
        if is_ours && api != crd::API_VERSION {
            let (message, remedy) =
                (format!("`{api}` is not known"), format!("the only version is {}", crd::API_VERSION));
            self.diagnostics.add(subject, "apiVersion", Problem::new(Code::UnknownVersion, message, remedy));
            return false;
        }
        match (api, subject.kind.as_str()) {
            (_, "RedisService" | "RedisDestination") if is_ours => true,
            ("v1", "Secret" | "Service") | ("discovery.k8s.io/v1", "EndpointSlice") => true,
            (_, "ServiceEntry" | "DestinationRule" | "Sidecar" | "EnvoyFilter") if group == "networking.istio.io" => {
                true
            }
            (_, kind) if is_ours => {
                let meant = nearest(kind, ["RedisService", "RedisDestination"]);
                let remedy = format!("did you mean {}?", meant.unwrap_or("RedisService or RedisDestination"));
                let message = format!("`{kind}` is not a kind of {}", crd::GROUP);
                self.diagnostics.add(subject, "kind", Problem::new(Code::UnknownKind, message, remedy));
                false
            }
            (_, kind) => {
                *self.manifests.skipped.entry(kind.to_owned()).or_default() += 1;
                false
            }
        }
    }

    fn known(&mut self, mut value: Value, mut subject: Subject) {
        // An object without a name doesn't deserialize, and its other mistakes would stay hidden.
        if !value["metadata"].is_object() {
            value["metadata"] = json!({});
        }
        let name = text(&value["metadata"]["name"]);
        if name.is_empty() {
            self.diagnostics.add(&subject, "metadata.name", Problem::new(Code::MissingField, "is missing", "add it"));
        }
        if value["metadata"]["namespace"].as_str().is_none_or(str::is_empty) {
            value["metadata"]["namespace"] = self.namespace.into();
        }
        subject.name = format!("{}/{name}", text(&value["metadata"]["namespace"]));
        let identity = (subject.kind.clone(), subject.name.clone());
        if let Some(first) = self.manifests.seen.get(&identity).filter(|_| !name.is_empty()) {
            let first = Subject { origin: first.clone(), ..Subject::default() };
            let message = format!("is given twice; the first is at {first}");
            return self.diagnostics.add(&subject, "", Problem::new(Code::DuplicateObject, message, "remove one"));
        }
        self.manifests.seen.insert(identity, subject.origin.clone());
        self.keep(value, &subject);
    }

    fn keep(&mut self, value: Value, subject: &Subject) {
        let (manifests, diagnostics) = (&mut *self.manifests, &mut *self.diagnostics);
        match subject.kind.as_str() {
            "RedisService" => {
                let service = ours_as(value, &self.definitions[0], subject, diagnostics);
                manifests.services.extend(service.map(Arc::new));
            }
            "RedisDestination" => {
                let destination = ours_as(value, &self.definitions[1], subject, diagnostics);
                manifests.destinations.extend(destination.map(Arc::new));
            }
            "Service" => {
                if let Some(service) = deserialize(value, subject, diagnostics) {
                    manifests.inventory.add_service(service);
                }
            }
            "Secret" => {
                if let Some(secret) = deserialize(value, subject, diagnostics) {
                    manifests.inventory.add_secret(secret);
                }
            }
            "DestinationRule" => {
                if let Some(rule) = deserialize(value, subject, diagnostics) {
                    manifests.inventory.rules.add(rule);
                }
            }
            "Sidecar" => {
                if let Some(sidecar) = deserialize(value, subject, diagnostics) {
                    manifests.inventory.sidecars.add(&sidecar);
                }
            }
            "EnvoyFilter" => {
                if let Some(filter) = deserialize(value, subject, diagnostics) {
                    manifests.inventory.user_filters.add(&filter, LISTENER_PRIORITY);
                }
            }
            "ServiceEntry" => {
                if let Some(entry) = deserialize(value, subject, diagnostics) {
                    manifests.inventory.add_entry(&entry);
                }
            }
            _ => {
                if let Some(slice) = deserialize(value, subject, diagnostics)
                    && manifests.inventory.add_slice(slice).is_none()
                {
                    let remedy = "set the label kubernetes.io/service-name";
                    let problem = Problem::new(Code::SliceWithoutService, "belongs to no Service", remedy);
                    diagnostics.add(subject, "metadata.labels", problem);
                }
            }
        }
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Reads a RedisService or RedisDestination, and reports everything that its schema forbids.
pub fn ours_as<K: DeserializeOwned>(
    mut value: Value,
    definition: &Value,
    subject: &Subject,
    diagnostics: &mut Diagnostics,
) -> Option<Loaded<K>> {
    // The API server checks the metadata and writes the status; the schema is about the rest.
    let root = crd::schema(definition);
    let fields = value.as_object_mut()?;
    let is_known = |name: &String| ["apiVersion", "kind", "metadata", "spec", "status"].contains(&name.as_str());
    let unknown: Vec<String> = fields.keys().filter(|name| !is_known(name)).cloned().collect();
    for name in unknown {
        fields.shift_remove(&name);
        let belongs_below_spec = !root["properties"]["spec"]["properties"][&name].is_null();
        let remedy = if belongs_below_spec { "it belongs under `spec`" } else { "remove it" };
        diagnostics.add(subject, name, Problem::new(Code::UnknownField, "unknown field", remedy));
    }
    fields.shift_remove("status");
    match fields.get_mut("spec") {
        Some(spec) => {
            schema::conform(spec, &root["properties"]["spec"], &mut diagnostics.at(subject, "spec"));
        }
        None => {
            diagnostics.add(subject, "spec", Problem::new(Code::MissingField, "is missing", "add it"));
            return None;
        }
    }
    let object = deserialize(value, subject, diagnostics)?;
    Some(Loaded { origin: subject.origin.clone(), object })
}

fn deserialize<T: DeserializeOwned>(value: Value, subject: &Subject, diagnostics: &mut Diagnostics) -> Option<T> {
    let error = match serde_json::from_value(value) {
        Ok(object) => return Some(object),
        Err(error) => error,
    };
    // serde quotes the value that it did not expect; that of a Secret must not be shown.
    let (message, remedy) = match subject.kind.as_str() {
        "Secret" => {
            let remedy = "write `data` as a mapping of names to base64, `stringData` as one of names to text";
            ("can't be read".to_owned(), remedy.to_owned())
        }
        kind => (format!("can't be read: {error}"), format!("correct it by `kubectl explain {}`", kind.to_lowercase())),
    };
    diagnostics.add(subject, "", Problem::new(Code::UnreadableObject, message, remedy));
    None
}
