//! The store: every object that the watches have shown and that evaluation may need.
//!
//! Of 5,000 objects a change concerns a few. The store tells which ([`Affected`]); it decides
//! nothing itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::DynamicObject;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::crd::status::{self, ResourceStatus};
use crate::crd::{self, RedisDestination, RedisService};
use crate::destination_rule::RuleHosts;
use crate::diagnostic::{Diagnostics, Loaded};
use crate::inventory::{self, Inventory, NamespacedName, ServiceEntry};
use crate::manifest;
use crate::render::envoy_filter::LISTENER_PRIORITY;
use crate::validate::host::HostName;
use crate::validate::mentions::Mentions;
use crate::validate::options::ValidateOptions;

use super::change::StoreChange;
use super::digest::{ContentDigest, digest};
use super::index::{MentionIndex, Mentioned};
use super::names::{OWN_ANNOTATIONS, ObjectKey, ObjectKind};
use super::source::WatchSource;
use super::store_error::StoreError;

/// A RedisService or a RedisDestination, parsed.
#[derive(Clone)]
pub enum ParsedObject {
    /// A RedisService.
    Service(Arc<Loaded<RedisService>>),
    /// A RedisDestination.
    Destination(Arc<Loaded<RedisDestination>>),
}

/// A RedisService or a RedisDestination in the cluster.
pub struct StoredObject {
    /// `metadata.generation`.
    pub generation: i64,
    /// `metadata.uid`. An object that is deleted and created again has another one.
    pub uid: Option<String>,
    /// The status as the API server has it.
    pub status: ResourceStatus,
    /// The object without what its schema refuses; none if nothing can be read.
    pub parsed: Option<ParsedObject>,
    /// The mistakes in its shape.
    pub shape: Diagnostics,
    /// `metadata.resourceVersion` of this status, or of a later change of the object.
    version: u64,
    mentioned: Mentioned,
    /// The digest of the metadata that evaluation depends on.
    identity: ContentDigest,
}

/// The objects that a change concerns.
#[derive(Default)]
pub struct Affected {
    /// The objects that have to be evaluated again.
    pub evaluate: BTreeSet<ObjectKey>,
    /// An object whose status somebody else has changed.
    pub status: Option<ObjectKey>,
}

/// The objects of the cluster.
pub struct Store {
    /// The options of validation.
    pub options: ValidateOptions,
    definitions: [Value; 2],
    // A map allocates room for values to come, so large values are boxed.
    objects: BTreeMap<ObjectKey, Box<StoredObject>>,
    inventory: Inventory,
    /// The Service of each EndpointSlice.
    slices: BTreeMap<NamespacedName, NamespacedName>,
    index: MentionIndex,
}

impl Store {
    /// Creates an empty store.
    pub fn new(options: ValidateOptions) -> Store {
        Store {
            options,
            definitions: crd::definitions(),
            objects: BTreeMap::new(),
            inventory: Inventory::default(),
            slices: BTreeMap::new(),
            index: MentionIndex::default(),
        }
    }

    /// The options of validation.
    pub fn options(&self) -> &ValidateOptions {
        &self.options
    }

    /// All RedisServices and RedisDestinations.
    pub fn objects(&self) -> &BTreeMap<ObjectKey, Box<StoredObject>> {
        &self.objects
    }

    /// Everything that these objects may refer to.
    pub fn inventory(&self) -> &Inventory {
        &self.inventory
    }

    /// The index of what objects mention.
    pub fn index(&self) -> &MentionIndex {
        &self.index
    }

    /// The objects that have to be validated together with this one, itself among them.
    pub fn neighbours(&self, key: &ObjectKey) -> BTreeSet<ObjectKey> {
        match self.objects.get(key) {
            Some(object) => self.index.neighbours(key, &object.mentioned),
            None => BTreeSet::from([key.clone()]),
        }
    }

    /// The objects whose evaluation a change of this object concerns.
    pub fn affected_by(&self, key: &ObjectKey) -> Vec<ObjectKey> {
        self.objects.get(key).map(|object| self.index.affected_by(key, &object.mentioned)).unwrap_or_default()
    }

    /// The hosts that an object governs.
    pub fn hosts_of(&self, key: &ObjectKey) -> impl Iterator<Item = &HostName> {
        self.objects.get(key).into_iter().flat_map(|object| &object.mentioned.claims)
    }

    /// The Secrets that an object names.
    pub fn secrets_of(&self, key: &ObjectKey) -> impl Iterator<Item = &NamespacedName> {
        self.objects.get(key).into_iter().flat_map(|object| &object.mentioned.secrets)
    }

    /// The Secrets on which the evaluation of an object depends.
    pub fn secrets_around(&self, key: &ObjectKey) -> BTreeSet<&NamespacedName> {
        let objects = self.neighbours(key).into_iter().filter_map(|neighbour| self.objects.get(&neighbour));
        objects.flat_map(|object| &object.mentioned.secrets).collect()
    }

    /// True if the Secret exists.
    pub fn has_secret(&self, secret: &NamespacedName) -> bool {
        self.inventory.secret(secret).is_some()
    }

    /// The names of the objects of a source that the store keeps.
    pub fn names(&self, source: &WatchSource) -> Vec<NamespacedName> {
        match source {
            WatchSource::Objects(kind) => {
                self.objects.keys().filter(|known| known.kind == *kind).map(|known| known.name.clone()).collect()
            }
            WatchSource::Services => self.inventory.services().cloned().collect(),
            WatchSource::Slices => self.slices.keys().cloned().collect(),
            WatchSource::Entries => self.inventory.entries().cloned().collect(),
            WatchSource::Rules => self.inventory.rules.keys().cloned().collect(),
            WatchSource::UserFilters => self.inventory.user_filters.keys().cloned().collect(),
            WatchSource::Sidecars => self.inventory.sidecars.keys().cloned().collect(),
            WatchSource::Namespaces => {
                let names = self.inventory.discovery.namespaces();
                names.map(|name| NamespacedName { namespace: String::new(), name: name.to_owned() }).collect()
            }
            WatchSource::Secrets(scope) => {
                self.inventory.secrets().filter(|name| scope.covers(name)).cloned().collect()
            }
            WatchSource::Rendered(_) => Vec::new(),
        }
    }

    /// Drops the Secrets that no object names, except those for which `is_kept` is true.
    pub fn drop_unnamed_secrets(&mut self, is_kept: impl Fn(&NamespacedName) -> bool) {
        let is_named = |secret: &NamespacedName| self.index.users_of(secret).next().is_some();
        let unnamed = self.inventory.secrets().filter(|secret| !is_named(secret) && !is_kept(secret));
        let unnamed: Vec<NamespacedName> = unnamed.cloned().collect();
        unnamed.iter().for_each(|secret| self.inventory.remove_secret(secret));
    }

    /// Records a status that the controller has written, and the `resourceVersion` that the
    /// object has since.
    pub fn set_status(&mut self, key: &ObjectKey, status: ResourceStatus, version: Option<&str>) {
        if let Some(object) = self.objects.get_mut(key) {
            object.status = status;
            object.version = object.version.max(number(version));
        }
    }

    /// Takes in a change. Returns the objects that it concerns.
    pub fn apply(&mut self, change: StoreChange) -> Result<Affected, StoreError> {
        let evaluate = match change {
            StoreChange::Object(kind, object) => return Ok(self.object(kind, *object)),
            StoreChange::ObjectGone(key) => self.object_gone(&key),
            StoreChange::Service(service) => self.service(*service),
            StoreChange::ServiceGone(name) => self.around(&name, |inventory| inventory.remove_service(&name)),
            StoreChange::Slice(slice) => self.slice(*slice),
            StoreChange::SliceGone(name) => self.slice_gone(&name),
            StoreChange::Entry(entry) => self.entry(*entry)?,
            StoreChange::EntryGone(name) => {
                let hosts = self.inventory.remove_entry(&name);
                self.of_hosts(hosts.iter())
            }
            StoreChange::Rule(rule) => {
                let hosts = self.inventory.rules.add(read(*rule, "DestinationRule")?);
                ruled_by(&self.objects, &hosts)
            }
            StoreChange::RuleGone(name) => {
                let hosts = self.inventory.rules.remove(&name);
                ruled_by(&self.objects, hosts.as_slice())
            }
            StoreChange::Sidecar(object) => {
                let is_other = self.inventory.sidecars.add(&read(*object, "Sidecar")?);
                all_if(&self.objects, is_other)
            }
            StoreChange::SidecarGone(name) => {
                let is_other = self.inventory.sidecars.remove(&name);
                all_if(&self.objects, is_other)
            }
            StoreChange::UserFilter(object) => {
                let filter = read(*object, "EnvoyFilter")?;
                let is_other = self.inventory.user_filters.add(&filter, LISTENER_PRIORITY);
                all_if(&self.objects, is_other)
            }
            StoreChange::UserFilterGone(name) => {
                let is_other = self.inventory.user_filters.remove(&name);
                all_if(&self.objects, is_other)
            }
            StoreChange::DefaultExports(exports) => {
                self.inventory.default_exports = exports;
                all_if(&self.objects, true)
            }
            StoreChange::Discovery(change) => {
                let is_other = self.inventory.discovery.apply(change);
                all_if(&self.objects, is_other)
            }
            StoreChange::Secret(secret) => {
                let name = NamespacedName::of(&secret.metadata);
                self.inventory.add_secret(*secret);
                self.index.users_of(&name).cloned().collect()
            }
            StoreChange::SecretGone(name) => {
                self.inventory.remove_secret(&name);
                self.index.users_of(&name).cloned().collect()
            }
        };
        Ok(Affected { evaluate, status: None })
    }

    fn service(&mut self, mut service: Service) -> BTreeSet<ObjectKey> {
        let name = NamespacedName::of(&service.metadata);
        // Evaluation asks only whether the Service selects pods, not which.
        let selector = inventory::selects_pods(&service).then(|| [(String::new(), String::new())].into());
        if let Some(spec) = &mut service.spec {
            spec.selector = selector;
        }
        self.around(&name, |inventory| inventory.add_service(service))
    }

    fn slice(&mut self, slice: EndpointSlice) -> BTreeSet<ObjectKey> {
        let own = NamespacedName::of(&slice.metadata);
        let owner = inventory::owner_of(&slice);
        let mut affected = BTreeSet::new();
        if self.slices.get(&own) != owner.as_ref() {
            affected.extend(self.slice_gone(&own));
        }
        if let Some(owner) = owner {
            self.slices.insert(own, owner.clone());
            affected.extend(self.around(&owner, |inventory| {
                inventory.add_slice(slice);
            }));
        }
        affected
    }

    fn slice_gone(&mut self, own: &NamespacedName) -> BTreeSet<ObjectKey> {
        let Some(owner) = self.slices.remove(own) else { return BTreeSet::new() };
        self.around(&owner, |inventory| inventory.remove_slice(&owner, &own.name))
    }

    fn entry(&mut self, entry: DynamicObject) -> Result<BTreeSet<ObjectKey>, StoreError> {
        match read::<ServiceEntry>(entry, "ServiceEntry") {
            Ok(entry) => {
                let hosts = self.inventory.add_entry(&entry);
                Ok(self.of_hosts(hosts.iter()))
            }
            Err(error) => {
                self.inventory.remove_entry(&error.name);
                Err(error)
            }
        }
    }

    /// Changes a Service or its endpoints. Returns the objects that the Service concerns before
    /// or after.
    fn around(&mut self, service: &NamespacedName, change: impl FnOnce(&mut Inventory)) -> BTreeSet<ObjectKey> {
        let mut services = self.inventory.sharing_addresses(service);
        change(&mut self.inventory);
        services.extend(self.inventory.sharing_addresses(service));
        services.insert(service.clone());
        let domain = &self.options.cluster_domain;
        let host = |service: &NamespacedName| format!("{}.{}.svc.{domain}", service.name, service.namespace);
        let hosts: Vec<String> = services.iter().map(host).collect();
        self.of_hosts(hosts.iter())
    }

    fn of_hosts<'a>(&self, hosts: impl Iterator<Item = &'a String>) -> BTreeSet<ObjectKey> {
        hosts.flat_map(|host| self.index.of_host(host)).cloned().collect()
    }

    fn object(&mut self, kind: ObjectKind, object: DynamicObject) -> Affected {
        let key = ObjectKey { kind, name: NamespacedName::of(&object.metadata) };
        let version = number(object.metadata.resource_version.as_deref());
        let status = object.data.get("status").cloned().unwrap_or_default();
        let status = serde_json::from_value(status).unwrap_or_default();
        let identity = identity_of(&object);
        if let Some(known) = self.objects.get_mut(&key)
            && known.identity == identity
        {
            return Affected { status: known.update_status(version, status).then_some(key), ..Affected::default() };
        }
        let generation = object.metadata.generation.unwrap_or_default();
        let uid = object.metadata.uid.clone();
        let mut shape = Diagnostics::default();
        let parsed = self.parse(&key, object, &mut shape);
        let mentioned = match &parsed {
            Some(ParsedObject::Service(object)) => Mentions::of_service(&object.object, &self.options).into(),
            Some(ParsedObject::Destination(object)) => Mentions::of_destination(&object.object, &self.options).into(),
            // The object keeps the hosts that it governed: another object must not get them
            // because of a mistake in this one.
            None => self.objects.get(&key).map(|known| known.mentioned.clone()).unwrap_or_default(),
        };
        let mut evaluate = self.remove_from_index(&key);
        self.index.add(&key, &mentioned);
        let stored = StoredObject { generation, uid, status, parsed, shape, version, mentioned, identity };
        self.objects.insert(key.clone(), Box::new(stored));
        evaluate.extend(self.affected_by(&key));
        evaluate.insert(key);
        Affected { evaluate, status: None }
    }

    fn parse(&self, key: &ObjectKey, object: DynamicObject, shape: &mut Diagnostics) -> Option<ParsedObject> {
        let mut value = serde_json::to_value(&object).unwrap_or_default();
        // Managed fields and foreign annotations are most of what an object weighs.
        if let Some(metadata) = value["metadata"].as_object_mut() {
            metadata.retain(|field, _| {
                matches!(field.as_str(), "name" | "namespace" | "creationTimestamp" | "annotations")
            });
            if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
                annotations.retain(|name, _| name.starts_with(OWN_ANNOTATIONS));
            }
        }
        let subject = key.subject();
        match key.kind {
            ObjectKind::Service => {
                let parsed = manifest::ours_as(value, &self.definitions[0], &subject, shape);
                parsed.map(|object| ParsedObject::Service(Arc::new(object)))
            }
            ObjectKind::Destination => {
                let parsed = manifest::ours_as(value, &self.definitions[1], &subject, shape);
                parsed.map(|object| ParsedObject::Destination(Arc::new(object)))
            }
        }
    }

    fn object_gone(&mut self, key: &ObjectKey) -> BTreeSet<ObjectKey> {
        let mut affected = self.remove_from_index(key);
        self.objects.remove(key);
        affected.insert(key.clone());
        affected
    }

    /// Removes an object from the index. Returns the objects that it concerned.
    fn remove_from_index(&mut self, key: &ObjectKey) -> BTreeSet<ObjectKey> {
        let affected = self.affected_by(key).into_iter().collect();
        if let Some(object) = self.objects.get(key) {
            self.index.remove(key, &object.mentioned);
        }
        affected
    }
}

impl StoredObject {
    /// Takes in a status that a watch shows. True if somebody else has written it. It may also be
    /// an earlier one than the status that the controller has written since.
    fn update_status(&mut self, version: u64, status: ResourceStatus) -> bool {
        if version < self.version {
            return false;
        }
        self.version = version;
        let is_edited = !status::is_same(&self.status, &status);
        if is_edited {
            self.status = status;
        }
        is_edited
    }
}

/// Reads an object of Istio's, of this kind. Of a DestinationRule or a Sidecar that can't be read, what it said before
/// stays: the former may ask for TLS.
fn read<T: DeserializeOwned>(object: DynamicObject, kind: &'static str) -> Result<T, StoreError> {
    let name = NamespacedName::of(&object.metadata);
    let value = serde_json::to_value(object).unwrap_or_default();
    serde_json::from_value(value).map_err(|error| StoreError { kind, name, error })
}

/// All objects, if something has changed that may concern each of them.
fn all_if(objects: &BTreeMap<ObjectKey, Box<StoredObject>>, is_other: bool) -> BTreeSet<ObjectKey> {
    objects.keys().filter(|_| is_other).cloned().collect()
}

/// The objects that govern hosts of a DestinationRule, or lead there.
fn ruled_by(objects: &BTreeMap<ObjectKey, Box<StoredObject>>, hosts: &[RuleHosts]) -> BTreeSet<ObjectKey> {
    let is_ruled = |name: &HostName| hosts.iter().any(|hosts| hosts.hold(&name.host, name.service.as_ref()));
    let concerns = |object: &StoredObject| object.mentioned.claims.iter().chain(&object.mentioned.leads).any(is_ruled);
    let ruled = objects.iter().filter(|(_, object)| !hosts.is_empty() && concerns(object));
    ruled.map(|(key, _)| key.clone()).collect()
}

/// The digest of the metadata that evaluation depends on. The generation stands for the spec.
fn identity_of(object: &DynamicObject) -> ContentDigest {
    let metadata = &object.metadata;
    let annotations = metadata.annotations.as_ref();
    let own =
        annotations.map(|all| all.iter().filter(|(name, _)| name.starts_with(OWN_ANNOTATIONS)).collect::<Vec<_>>());
    digest(&serde_json::json!([metadata.uid, metadata.generation.unwrap_or_default(), own]))
}

/// A `resourceVersion` as a number, which is greater for a later version; 0 where it is no number.
fn number(version: Option<&str>) -> u64 {
    version.and_then(|version| version.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests;
