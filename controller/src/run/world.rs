//! Everything that the API server has told, and what has to be looked at again because of it. (The step that other
//! controllers call *dereference*.)
//!
//! Of 5,000 objects one change concerns a few. Which, follows from what objects mention: hosts that they claim, hosts where
//! they lead, Secrets. So each object is evaluated for itself, amid its neighbours only: those that claim the same hosts in
//! a namespace that counts, and those that say how the hosts where it leads are reached.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ObjectReference, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::DynamicObject;
use serde_json::Value;

use crate::build::mesh::{self, Piece};
use crate::crd::status::Status;
use crate::crd::{self, RedisDestination, RedisService};
use crate::diagnostic::{Diagnostic, Diagnostics, Loaded, Reason, Subject};
use crate::inventory::{self, Inventory, Key, ServiceEntry};
use crate::manifest;
use crate::validate::host::Name;
use crate::validate::mentions::Mentions;
use crate::validate::{self, Options};

use super::apply::{Digest, Objects, digest};
use super::update_status;
use super::watch::Source;

/// One of our two kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// RedisService.
    Service,
    /// RedisDestination.
    Destination,
}

impl Kind {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Service => "RedisService",
            Kind::Destination => "RedisDestination",
        }
    }
}

/// Names one of our objects.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObjectKey {
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub key: Key,
}

impl ObjectKey {
    /// The object that a message is about, if it is one of ours.
    pub fn of(subject: &Subject) -> Option<ObjectKey> {
        let kind = [Kind::Service, Kind::Destination].into_iter().find(|kind| kind.name() == subject.kind)?;
        let (namespace, name) = subject.name.split_once('/')?;
        Some(ObjectKey { kind, key: Key::new(namespace, name) })
    }

    fn subject(&self) -> Subject {
        Subject { kind: self.kind.name().to_owned(), name: self.key.to_string(), ..Subject::default() }
    }
}

/// Something that an API server tells.
pub enum Change {
    /// One of our objects.
    Object(Kind, Box<DynamicObject>),
    /// It is gone.
    ObjectGone(ObjectKey),
    /// A Service.
    Service(Box<Service>),
    /// It is gone.
    ServiceGone(Key),
    /// An EndpointSlice.
    Slice(Box<EndpointSlice>),
    /// It is gone: its own name.
    SliceGone(Key),
    /// A ServiceEntry.
    Entry(Box<DynamicObject>),
    /// It is gone.
    EntryGone(Key),
    /// A Secret.
    Secret(Box<Secret>),
    /// It is gone.
    SecretGone(Key),
}

#[derive(Clone)]
enum Parsed {
    Service(Arc<Loaded<RedisService>>),
    Destination(Arc<Loaded<RedisDestination>>),
}

/// One of our objects.
pub struct Object {
    /// Its generation.
    pub generation: i64,
    /// The object: another one of its name has another.
    pub uid: Option<String>,
    /// The status that it has.
    pub status: Status,
    /// What the API server numbers as this status, or a later change of the object.
    version: u64,
    parsed: Option<Parsed>,
    /// What its schema says against it.
    shape: Diagnostics,
    named: Named,
    /// Of what of its metadata matters.
    identity: Digest,
}

impl Object {
    /// How Events refer to it.
    pub fn reference(&self, key: &ObjectKey) -> ObjectReference {
        ObjectReference {
            api_version: Some(crd::API_VERSION.to_owned()),
            kind: Some(key.kind.name().to_owned()),
            name: Some(key.key.name.clone()),
            namespace: Some(key.key.namespace.clone()),
            uid: self.uid.clone(),
            ..ObjectReference::default()
        }
    }
}

/// [`Mentions`] to be kept. A set keeps room for eleven where most often there is one.
#[derive(Clone, Default)]
struct Named {
    claims: Box<[Name]>,
    leads: Box<[Name]>,
    secrets: Box<[Key]>,
}

impl From<Mentions> for Named {
    fn from(mentions: Mentions) -> Named {
        Named {
            claims: mentions.claims.into_iter().collect(),
            leads: mentions.leads.into_iter().collect(),
            secrets: mentions.secrets.into_iter().collect(),
        }
    }
}

/// What follows from one object.
#[derive(Default)]
pub struct Evaluation {
    /// Its generation.
    pub generation: i64,
    /// What it has rendered.
    pub pieces: Vec<Arc<Piece>>,
    /// What is to be said of it.
    pub messages: Vec<Diagnostic>,
    /// RedisDestinations that it builds on.
    pub uses: BTreeSet<ObjectKey>,
    /// Those of them that have errors.
    pub lacking: BTreeSet<ObjectKey>,
}

impl Evaluation {
    /// True if another object has precedence for some of it.
    pub fn has_conflict(&self) -> bool {
        self.messages_of(|reason| reason == Reason::Conflict).next().is_some()
    }

    /// True if nothing is wrong with it but conflicts, so that what follows from the rest of it holds.
    pub fn is_good_for_the_rest(&self) -> bool {
        let is_harmless = |message: &Diagnostic| message.reason.is_warning() || message.reason == Reason::Conflict;
        self.lacking.is_empty() && self.messages.iter().all(is_harmless)
    }

    /// True if nothing is wrong with it.
    pub fn is_good(&self) -> bool {
        self.lacking.is_empty() && self.messages.iter().all(|message| message.reason.is_warning())
    }
}

/// See the module.
pub struct World {
    options: Options,
    definitions: [Value; 2],
    // Where a map holds large values, most of it is room for values to come.
    objects: BTreeMap<ObjectKey, Box<Object>>,
    inventory: Inventory,
    slices: BTreeMap<Key, Key>,
    /// Host, namespace, object.
    claimers: BTreeSet<(String, String, ObjectKey)>,
    /// Host, namespace, object.
    leaders: BTreeSet<(String, String, ObjectKey)>,
    secret_users: BTreeSet<(Key, ObjectKey)>,
    /// How often that has changed.
    namings: u64,
    dirty: BTreeSet<ObjectKey>,
    /// Objects whose status somebody else has changed.
    edited: BTreeSet<ObjectKey>,
}

impl World {
    /// An empty one.
    pub fn new(options: Options) -> World {
        World {
            options,
            definitions: crd::definitions(),
            objects: BTreeMap::new(),
            inventory: Inventory::default(),
            slices: BTreeMap::new(),
            claimers: BTreeSet::new(),
            leaders: BTreeSet::new(),
            secret_users: BTreeSet::new(),
            namings: 0,
            dirty: BTreeSet::new(),
            edited: BTreeSet::new(),
        }
    }

    /// All our objects.
    pub fn objects(&self) -> &BTreeMap<ObjectKey, Box<Object>> {
        &self.objects
    }

    /// Remembers a status that was just written, and the version that the object has since.
    pub fn set_status(&mut self, key: &ObjectKey, status: Status, version: Option<&str>) {
        if let Some(object) = self.objects.get_mut(key) {
            object.status = status;
            object.version = object.version.max(number(version));
        }
    }

    /// The objects whose status isn't what it was when it was last seen or written; they are then forgotten.
    pub fn take_edited(&mut self) -> BTreeSet<ObjectKey> {
        std::mem::take(&mut self.edited)
    }

    /// A number that changes with [`World::named_secrets`].
    pub fn namings(&self) -> u64 {
        self.namings
    }

    /// The Secrets that objects name.
    pub fn named_secrets(&self) -> BTreeSet<Key> {
        self.secret_users.iter().map(|(key, _)| key.clone()).collect()
    }

    /// The Secrets that an object names.
    pub fn secrets_of(&self, key: &ObjectKey) -> impl Iterator<Item = &Key> {
        self.objects.get(key).into_iter().flat_map(|object| &object.named.secrets)
    }

    /// True if a Secret is there.
    pub fn has_secret(&self, key: &Key) -> bool {
        self.inventory.secret(key).is_some()
    }

    /// The Secrets on which it depends what follows from an object.
    pub fn secrets_around(&self, key: &ObjectKey) -> BTreeSet<&Key> {
        let objects = self.neighbours(key).into_iter().filter_map(|neighbour| self.objects.get(&neighbour));
        objects.flat_map(|object| &object.named.secrets).collect()
    }

    /// The keys of what is known from a source.
    pub fn known(&self, source: &Source, objects: &Objects) -> Vec<Key> {
        match source {
            Source::Objects(kind) => {
                self.objects.keys().filter(|known| known.kind == *kind).map(|known| known.key.clone()).collect()
            }
            Source::Services => self.inventory.services().cloned().collect(),
            Source::Slices => self.slices.keys().cloned().collect(),
            Source::Entries => self.inventory.entries().cloned().collect(),
            Source::Rendered(kind) => {
                objects.live().keys().filter(|known| known.kind == *kind).map(|known| known.key.clone()).collect()
            }
            Source::Secrets(scope) => self.inventory.secrets().filter(|key| scope.covers(key)).cloned().collect(),
        }
    }

    /// Forgets the Secrets that nobody names, but for those of watches that are still about to show what there is: they may
    /// be named by what comes meanwhile.
    pub fn forget_secrets(&mut self, is_kept: impl Fn(&Key) -> bool) {
        let is_named =
            |key: &Key| range(&self.secret_users, |(known, _)| known == key, (key.clone(), FIRST)).next().is_some();
        let unnamed = self.inventory.secrets().filter(|key| !is_named(key) && !is_kept(key));
        let unnamed: Vec<Key> = unnamed.cloned().collect();
        unnamed.iter().for_each(|key| self.inventory.remove_secret(key));
    }

    /// The names of the hosts that an object is about.
    pub fn names_of(&self, key: &ObjectKey) -> impl Iterator<Item = &Name> {
        self.objects.get(key).into_iter().flat_map(|object| &object.named.claims)
    }

    /// The hosts that an object is about.
    pub fn hosts_of(&self, key: &ObjectKey) -> impl Iterator<Item = &str> {
        self.names_of(key).map(|name| name.host.as_str())
    }

    /// The objects to look at again, which are then forgotten.
    pub fn take_dirty(&mut self) -> BTreeSet<ObjectKey> {
        // What a RedisDestination says is part of what follows from those that lead there.
        let destinations: Vec<_> = self.dirty.iter().filter(|key| key.kind == Kind::Destination).cloned().collect();
        for key in destinations {
            self.mark_neighbours(&key);
        }
        std::mem::take(&mut self.dirty)
    }

    /// Has objects looked at again.
    pub fn mark(&mut self, keys: impl IntoIterator<Item = ObjectKey>) {
        self.dirty.extend(keys);
    }

    /// Has all objects looked at again.
    pub fn mark_all(&mut self) {
        self.dirty.extend(self.objects.keys().cloned());
    }

    /// Has those looked at again that name a Secret.
    pub fn mark_users_of(&mut self, secret: &Key) {
        let users = range(&self.secret_users, |(key, _)| key == secret, (secret.clone(), FIRST));
        let users: Vec<_> = users.map(|(_, object)| object.clone()).collect();
        self.dirty.extend(users);
    }

    /// Takes in a change. What can't be read is told.
    pub fn apply(&mut self, change: Change) -> Result<(), String> {
        match change {
            Change::Object(kind, object) => self.object(kind, *object),
            Change::ObjectGone(key) => self.object_gone(&key),
            Change::Service(service) => {
                let key = Key::of(&service.metadata);
                let mut service = *service;
                // That it selects pods matters, not which.
                let selector = inventory::selects_pods(&service).then(|| [(String::new(), String::new())].into());
                if let Some(spec) = &mut service.spec {
                    spec.selector = selector;
                }
                self.around(&key, |inventory| inventory.add_service(service));
            }
            Change::ServiceGone(key) => self.around(&key, |inventory| inventory.remove_service(&key)),
            Change::Slice(slice) => {
                let own = Key::of(&slice.metadata);
                let owner = inventory::owner_of(&slice);
                if self.slices.get(&own) != owner.as_ref() {
                    self.slice_gone(&own);
                }
                if let Some(owner) = owner {
                    self.slices.insert(own, owner.clone());
                    self.around(&owner, |inventory| {
                        inventory.add_slice(*slice);
                    });
                }
            }
            Change::SliceGone(key) => self.slice_gone(&key),
            Change::Entry(entry) => {
                let key = Key::of(&entry.metadata);
                let value = serde_json::to_value(*entry).unwrap_or_default();
                let hosts = match serde_json::from_value::<ServiceEntry>(value) {
                    Ok(entry) => self.inventory.add_entry(&entry),
                    Err(error) => {
                        self.inventory.remove_entry(&key);
                        return Err(format!("ServiceEntry {key} can't be read: {error}"));
                    }
                };
                self.mark_hosts(hosts.iter());
            }
            Change::EntryGone(key) => {
                let hosts = self.inventory.remove_entry(&key);
                self.mark_hosts(hosts.iter());
            }
            Change::Secret(secret) => {
                let key = Key::of(&secret.metadata);
                self.inventory.add_secret(*secret);
                self.mark_users_of(&key);
            }
            Change::SecretGone(key) => {
                self.inventory.remove_secret(&key);
                self.mark_users_of(&key);
            }
        }
        Ok(())
    }

    fn slice_gone(&mut self, own: &Key) {
        if let Some(owner) = self.slices.remove(own) {
            self.around(&owner, |inventory| inventory.remove_slice(&owner, &own.name));
        }
    }

    /// Changes a Service, and has those looked at again whom it concerns, before or after.
    fn around(&mut self, key: &Key, change: impl FnOnce(&mut Inventory)) {
        let mut keys = self.inventory.sharing_addresses(key);
        change(&mut self.inventory);
        keys.extend(self.inventory.sharing_addresses(key));
        keys.insert(key.clone());
        let domain = &self.options.cluster_domain;
        let hosts: Vec<String> =
            keys.iter().map(|key| format!("{}.{}.svc.{domain}", key.name, key.namespace)).collect();
        self.mark_hosts(hosts.iter());
    }

    fn mark_hosts<'a>(&mut self, hosts: impl Iterator<Item = &'a String>) {
        for host in hosts {
            let found: Vec<_> = of_host(&self.claimers, host)
                .chain(of_host(&self.leaders, host))
                .map(|entry| entry.2.clone())
                .collect();
            self.dirty.extend(found);
        }
    }

    fn object(&mut self, kind: Kind, object: DynamicObject) {
        let key = ObjectKey { kind, key: Key::of(&object.metadata) };
        let metadata = &object.metadata;
        let generation = metadata.generation.unwrap_or_default();
        let version = number(metadata.resource_version.as_deref());
        let status = object.data.get("status").cloned().unwrap_or_default();
        let status = serde_json::from_value(status).unwrap_or_default();
        let identity = digest(&serde_json::json!([
            metadata.uid,
            generation,
            metadata
                .annotations
                .as_ref()
                .map(|all| all.iter().filter(|(name, _)| name.starts_with(OWN_ANNOTATIONS)).collect::<Vec<_>>()),
        ]));
        if let Some(known) = self.objects.get_mut(&key)
            && known.identity == identity
        {
            // Only the status, most often by ourselves, and then it may be an earlier one than the one that we know.
            if version >= known.version {
                known.version = version;
                if !update_status::is_same(&known.status, &status) {
                    known.status = status;
                    self.edited.insert(key);
                }
            }
            return;
        }
        let uid = metadata.uid.clone();
        let mut value = serde_json::to_value(&object).unwrap_or_default();
        // What is of no use here is much of what an object weighs.
        if let Some(metadata) = value["metadata"].as_object_mut() {
            metadata.retain(|field, _| {
                matches!(field.as_str(), "name" | "namespace" | "creationTimestamp" | "annotations")
            });
            if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
                annotations.retain(|name, _| name.starts_with(OWN_ANNOTATIONS));
            }
        }
        let (subject, mut shape) = (key.subject(), Diagnostics::default());
        let parsed = match kind {
            Kind::Service => {
                let parsed = manifest::ours_as(value, &self.definitions[0], &subject, &mut shape);
                parsed.map(|object| Parsed::Service(Arc::new(object)))
            }
            Kind::Destination => {
                let parsed = manifest::ours_as(value, &self.definitions[1], &subject, &mut shape);
                parsed.map(|object| Parsed::Destination(Arc::new(object)))
            }
        };
        let named = match &parsed {
            Some(Parsed::Service(object)) => Mentions::of_service(&object.object, &self.options).into(),
            Some(Parsed::Destination(object)) => Mentions::of_destination(&object.object, &self.options).into(),
            // It keeps what it claimed, so that nobody else takes a host because of a slip.
            None => self.objects.get(&key).map(|known| known.named.clone()).unwrap_or_default(),
        };
        self.forget(&key);
        for (index, names) in [(&mut self.claimers, &named.claims), (&mut self.leaders, &named.leads)] {
            let entries = names.iter().map(|name| (name.host.clone(), key.key.namespace.clone(), key.clone()));
            index.extend(entries);
        }
        self.namings += u64::from(!named.secrets.is_empty());
        self.secret_users.extend(named.secrets.iter().map(|secret| (secret.clone(), key.clone())));
        let known = Object { generation, uid, status, version, parsed, shape, named, identity };
        self.objects.insert(key.clone(), Box::new(known));
        self.mark_neighbours(&key);
        self.dirty.insert(key);
    }

    fn object_gone(&mut self, key: &ObjectKey) {
        self.forget(key);
        self.objects.remove(key);
        self.dirty.insert(key.clone());
    }

    /// Takes an object out of the indices, after having those looked at again whom it concerned.
    fn forget(&mut self, key: &ObjectKey) {
        self.mark_neighbours(key);
        let Some(object) = self.objects.get(key) else { return };
        for (index, names) in [(&mut self.claimers, &object.named.claims), (&mut self.leaders, &object.named.leads)] {
            for name in names {
                index.remove(&(name.host.clone(), key.key.namespace.clone(), key.clone()));
            }
        }
        for secret in &object.named.secrets {
            self.namings += 1;
            self.secret_users.remove(&(secret.clone(), key.clone()));
        }
    }

    /// Has those looked at again whom a change of this object concerns.
    fn mark_neighbours(&mut self, key: &ObjectKey) {
        let Some(object) = self.objects.get(key) else { return };
        let namespace = &key.key.namespace;
        let mut found: Vec<ObjectKey> = Vec::new();
        for name in &object.named.claims {
            // In the namespace that owns the host, it concerns everybody.
            let is_owner = name.namespace() == Some(namespace);
            let near = |entry: &&(String, String, ObjectKey)| is_owner || entry.1 == *namespace;
            found.extend(of_host(&self.claimers, &name.host).filter(near).map(|entry| entry.2.clone()));
            if key.kind == Kind::Destination || is_owner {
                found.extend(of_host(&self.leaders, &name.host).filter(near).map(|entry| entry.2.clone()));
            }
        }
        self.dirty.extend(found);
    }

    /// The objects that decide together with this one, itself among them.
    fn neighbours(&self, key: &ObjectKey) -> BTreeSet<ObjectKey> {
        let mut neighbours = BTreeSet::from([key.clone()]);
        let Some(object) = self.objects.get(key) else { return neighbours };
        let namespace = &key.key.namespace;
        for name in &object.named.claims {
            for namespace in std::iter::once(namespace.as_str()).chain(name.namespace()) {
                neighbours.extend(in_namespace(&self.claimers, &name.host, namespace).cloned());
            }
        }
        let is_other = |other: &ObjectKey| other.key.namespace != *namespace;
        for name in &object.named.leads {
            for namespace in std::iter::once(namespace.as_str()).chain(name.namespace()) {
                // RedisDestinations say how a host is reached; its owner's RedisService, whether anybody may lead there.
                let found = in_namespace(&self.claimers, &name.host, namespace);
                neighbours.extend(found.filter(|key| key.kind == Kind::Destination || is_other(key)).cloned());
            }
        }
        neighbours
    }

    /// What follows from an object; none if it is gone.
    pub fn evaluate(&self, key: &ObjectKey, options: &mesh::Options) -> Option<Evaluation> {
        let object = self.objects.get(key)?;
        let (mut services, mut destinations) = (Vec::new(), Vec::new());
        // In the order of their names, which decides between objects of the same second.
        let neighbours = self.neighbours(key);
        for known in neighbours.iter().filter_map(|neighbour| self.objects.get(neighbour)) {
            match &known.parsed {
                Some(Parsed::Service(object)) => services.push(object.clone()),
                Some(Parsed::Destination(object)) => destinations.push(object.clone()),
                None => {}
            }
        }
        let mut diagnostics = Diagnostics::default();
        let validated = validate::validate(&services, &destinations, &self.inventory, &self.options, &mut diagnostics);
        let is_own = |subject: &Subject| ObjectKey::of(subject).as_ref() == Some(key);
        // Other objects' mistakes are told where those are evaluated; here they'd hide what the filter says of this one.
        let mut own = Diagnostics::default();
        let mut pieces: Vec<Arc<Piece>> = validated
            .into_iter()
            .filter(|service| is_own(&service.owner))
            .map(|service| Arc::new(Piece::new(service, options, &mut own)))
            .collect();
        // They have been collected into the room of the services, which are much larger.
        pieces.shrink_to_fit();
        let mut evaluation = Evaluation { generation: object.generation, pieces, ..Evaluation::default() };
        let shapes = neighbours.iter().filter_map(|key| self.objects.get(key)).map(|object| &object.shape);
        let found: Vec<&Diagnostic> = shapes.chain([&diagnostics]).flat_map(Diagnostics::iter).collect();
        let is_wrong = found.iter().any(|message| is_own(&message.subject) && !message.reason.is_warning());
        // What a service built with defaults is blamed for would only be misleading.
        let own = own.iter().filter(|message| !is_wrong || message.reason.is_warning());
        let mut faulty = BTreeSet::new();
        for message in found.into_iter().chain(own) {
            if is_own(&message.subject) {
                if !evaluation.messages.contains(message) {
                    evaluation.messages.push(message.clone());
                }
            } else if !message.reason.is_warning() {
                faulty.extend(ObjectKey::of(&message.subject));
            }
        }
        let used = evaluation.pieces.iter().flat_map(|piece| piece.service.destinations());
        let used = used.filter_map(|destination| ObjectKey::of(destination.policy.object.as_ref()?));
        evaluation.uses = used.filter(|used| used != key).collect();
        evaluation.lacking = evaluation.uses.intersection(&faulty).cloned().collect();
        Some(evaluation)
    }
}

impl Evaluation {
    /// The messages with these reasons.
    pub fn messages_of(&self, wanted: impl Fn(Reason) -> bool) -> impl Iterator<Item = &Diagnostic> {
        self.messages.iter().filter(move |message| wanted(message.reason))
    }
}

/// A resource version, of which a later one is the greater number; 0 where it is none.
fn number(version: Option<&str>) -> u64 {
    version.and_then(|version| version.parse().ok()).unwrap_or_default()
}

/// How the names of annotations begin that say something to us.
pub const OWN_ANNOTATIONS: &str = "redis-mesh.io/";

/// The first of all keys of objects.
const FIRST: ObjectKey = ObjectKey { kind: Kind::Service, key: Key { namespace: String::new(), name: String::new() } };

fn range<T: Ord>(set: &BTreeSet<T>, within: impl Fn(&T) -> bool, from: T) -> impl Iterator<Item = &T> {
    set.range(from..).take_while(move |entry| within(entry))
}

fn of_host<'a>(
    set: &'a BTreeSet<(String, String, ObjectKey)>,
    host: &str,
) -> impl Iterator<Item = &'a (String, String, ObjectKey)> {
    let (from, host) = ((host.to_owned(), String::new(), FIRST), host.to_owned());
    range(set, move |entry| entry.0 == host, from)
}

fn in_namespace<'a>(
    set: &'a BTreeSet<(String, String, ObjectKey)>,
    host: &str,
    namespace: &str,
) -> impl Iterator<Item = &'a ObjectKey> {
    let from = (host.to_owned(), namespace.to_owned(), FIRST);
    let (host, namespace) = (host.to_owned(), namespace.to_owned());
    range(set, move |entry| entry.0 == host && entry.1 == namespace, from).map(|entry| &entry.2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    use crate::build::handshake::HandshakeKey;
    use crate::build::native::Module;

    fn service(version: &str, generation: u64, message: &str) -> Change {
        let condition = json!({
            "type": "Accepted", "status": "True", "reason": "Accepted", "message": message,
            "lastTransitionTime": format!("2026-01-01T00:00:{:02}Z", version.len()),
        });
        let object = json!({
            "apiVersion": crd::API_VERSION, "kind": "RedisService",
            "metadata": {"namespace": "a", "name": "r", "uid": "u", "generation": generation, "resourceVersion": version},
            "spec": {"host": ["r"]}, "status": {"conditions": [condition]},
        });
        Change::Object(Kind::Service, Box::new(serde_json::from_value(object).unwrap()))
    }

    /// A status that somebody edits is looked at again; one that we have written is not, nor one from before that.
    #[test]
    fn a_status_that_was_edited_is_noticed() {
        let mut world = World::new(Options::default());
        world.apply(service("7", 1, "ours")).unwrap();
        let key = world.take_dirty().pop_first().unwrap();
        assert!(world.take_edited().is_empty());
        let written = |world: &World, message: &str| {
            let mut status = world.objects()[&key].status.clone();
            status.conditions[0].message = message.to_owned();
            status
        };
        let status = written(&world, "newer");
        world.set_status(&key, status, Some("9"));
        for (version, said, is_edited) in [
            ("8", "ours", false),
            ("9", "newer", false),
            ("10", "newer", false),
            ("11", "edited", true),
            ("12", "edited", false),
        ] {
            world.apply(service(version, 1, said)).unwrap();
            assert_eq!(!world.take_edited().is_empty(), is_edited, "{version}");
            assert!(world.take_dirty().is_empty(), "{version}");
        }
        assert_eq!(world.objects()[&key].status.conditions[0].message, "edited");
        world.apply(service("13", 2, "edited")).unwrap();
        assert!(world.take_edited().is_empty() && !world.take_dirty().is_empty());
    }

    /// A small generator whose sequence is its seed's.
    struct Random(u64);

    impl Random {
        fn below(&mut self, bound: usize) -> usize {
            // xorshift64*, <https://en.wikipedia.org/wiki/Xorshift>
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % bound
        }

        fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
            of[self.below(of.len())]
        }
    }

    const NAMESPACES: &[&str] = &["a", "b"];
    const HOSTS: &[&str] =
        &["r.a.svc.cluster.local", "s.b.svc.cluster.local", "h.a.svc.cluster.local", "cache.example.com"];

    fn options() -> mesh::Options {
        mesh::Options {
            filter_url: "file:///filter.wasm".to_owned(),
            filter_sha256: None,
            root_namespace: "istio-system".to_owned(),
            per_host: false,
            listen: Vec::new(),
            handshake_key: HandshakeKey::given("key"),
            module: Some(Module::among_others("/module.so".to_owned())),
            other_modules: BTreeSet::new(),
        }
    }

    fn new_world() -> World {
        World::new(Options { module: validate::Module::Sidecars, ..Options::default() })
    }

    /// A change as JSON, so that it can be given to two worlds: what kind, and the object or its absence.
    fn random_change(random: &mut Random, clock: usize) -> Value {
        let (namespace, number) = (random.one(NAMESPACES), random.below(3));
        let metadata = json!({
            "namespace": namespace, "name": format!("o{number}"), "uid": format!("u{clock}"), "generation": clock,
            "creationTimestamp": format!("2026-01-01T00:00:{:02}Z", random.below(60)),
        });
        let auth = |random: &mut Random| match random.below(3) {
            0 => Value::Null,
            1 => json!({"plain": {"password": "p"}}),
            _ => json!({"secret": {"name": random.one(&["x", "y"])}}),
        };
        let gone = random.below(4) == 0;
        match random.below(6) {
            0 | 1 => {
                let routes: Vec<Value> = (0..random.below(3))
                    .map(|index| {
                        let key = json!({"key": {"prefix": format!("p{index}")}});
                        json!({"match": if index == 0 { Value::Null } else { key }, "route": {"host": random.one(HOSTS)}})
                    })
                    .collect();
                let hosts: Vec<&str> = (0..1 + random.below(2)).map(|_| random.one(HOSTS)).collect();
                let spec = json!({"host": hosts, "settings": {"auth": auth(random)}, "redis": routes});
                json!({"what": "RedisService", "gone": gone, "metadata": metadata, "spec": spec})
            }
            2 => {
                let pool =
                    json!({"redis": {"mode": random.one(&["PROXY", "CLUSTER", "NEITHER"]), "auth": auth(random)}});
                let spec = json!({"host": random.one(HOSTS), "trafficPolicy": {"connectionPool": pool}});
                json!({"what": "RedisDestination", "gone": gone, "metadata": metadata, "spec": spec})
            }
            3 => {
                let (namespace, name, address) =
                    [("a", "r", "10.0.0.1"), ("b", "s", "10.0.0.2"), ("a", "h", "None"), ("b", "t", "10.1.0.1")]
                        [random.below(4)];
                let ports = json!([{"name": "redis", "port": 6379}]);
                let metadata = json!({"namespace": namespace, "name": name});
                json!({"what": "Service", "gone": gone, "metadata": metadata, "spec": {"clusterIP": address, "ports": ports}})
            }
            4 => {
                let metadata = json!({
                    "namespace": "a", "name": random.one(&["h-1", "h-2"]), "labels": {"kubernetes.io/service-name": "h"},
                });
                let endpoints = json!([{"addresses": [random.one(&["10.1.0.1", "10.1.0.2"])]}]);
                json!({"what": "EndpointSlice", "gone": gone, "metadata": metadata, "addressType": "IPv4",
                    "ports": [{"name": "redis", "port": 6379}], "endpoints": endpoints})
            }
            _ => {
                let metadata = json!({"namespace": namespace, "name": random.one(&["x", "y"])});
                json!({"what": "Secret", "gone": gone, "metadata": metadata, "stringData": {"password": random.one(&["1", "2"])}})
            }
        }
    }

    fn told(change: &Value) -> Change {
        let mut object = change.clone();
        let what = change["what"].as_str().unwrap_or_default().to_owned();
        let fields = object.as_object_mut().unwrap();
        fields.shift_remove("what");
        let is_gone = fields.shift_remove("gone") == Some(Value::Bool(true));
        let text = |name: &str| change["metadata"][name].as_str().unwrap_or_default();
        let key = Key::new(text("namespace"), text("name"));
        let ours = |kind| {
            if is_gone {
                return Change::ObjectGone(ObjectKey { kind, key: key.clone() });
            }
            let mut object = object.clone();
            object["apiVersion"] = crd::API_VERSION.into();
            object["kind"] = kind.name().into();
            Change::Object(kind, Box::new(serde_json::from_value(object).unwrap()))
        };
        match (what.as_str(), is_gone) {
            ("RedisService", _) => ours(Kind::Service),
            ("RedisDestination", _) => ours(Kind::Destination),
            ("Service", true) => Change::ServiceGone(key),
            ("Service", false) => Change::Service(Box::new(serde_json::from_value(object).unwrap())),
            ("EndpointSlice", true) => Change::SliceGone(key),
            ("EndpointSlice", false) => Change::Slice(Box::new(serde_json::from_value(object).unwrap())),
            ("Secret", true) => Change::SecretGone(key),
            _ => Change::Secret(Box::new(serde_json::from_value(object).unwrap())),
        }
    }

    fn said(evaluation: &Evaluation) -> String {
        let services: Vec<_> = evaluation.pieces.iter().map(|piece| format!("{:?}", piece.service)).collect();
        let messages: Vec<_> = evaluation.messages.iter().map(ToString::to_string).collect();
        format!("{services:#?} {messages:#?} {:?}", evaluation.lacking)
    }

    /// What a world says that has been looked at after each change is what one says that is only shown the end: nothing that
    /// a change concerns was left out.
    #[test]
    fn what_a_change_concerns_is_looked_at_again() {
        let (mut with_services, mut with_messages) = (0, 0);
        for seed in 1..=40 {
            let mut random = Random(seed * 0x9e37_79b9);
            let options = options();
            let mut world = new_world();
            let mut evaluations: BTreeMap<ObjectKey, String> = BTreeMap::new();
            let mut present: BTreeMap<String, Value> = BTreeMap::new();
            for clock in 1..=60 {
                let change = random_change(&mut random, clock);
                world.apply(told(&change)).unwrap();
                present.insert(
                    format!("{}{}{}", change["what"], change["metadata"]["namespace"], change["metadata"]["name"]),
                    change,
                );
                for key in world.take_dirty() {
                    match world.evaluate(&key, &options) {
                        Some(evaluation) => evaluations.insert(key, said(&evaluation)),
                        None => evaluations.remove(&key),
                    };
                }
                if clock % 5 != 0 {
                    continue;
                }
                let mut fresh = new_world();
                for change in present.values().filter(|change| change["gone"] == false) {
                    fresh.apply(told(change)).unwrap();
                }
                let keys: Vec<_> = fresh.objects().keys().cloned().collect();
                let expected: BTreeMap<ObjectKey, String> = keys
                    .into_iter()
                    .map(|key| {
                        let evaluation = fresh.evaluate(&key, &options).unwrap();
                        with_services += usize::from(!evaluation.pieces.is_empty());
                        with_messages += usize::from(!evaluation.messages.is_empty());
                        (key, said(&evaluation))
                    })
                    .collect();
                assert_eq!(
                    evaluations,
                    expected,
                    "seed {seed}, after {clock} changes, the last {change}",
                    change = present.len()
                );
            }
        }
        // The changes are such that there is something to compare.
        assert!(with_services > 300 && with_messages > 300, "{with_services} {with_messages}");
    }

    /// A plan for one service alone holds all that differs between the plans for everything.
    #[test]
    fn what_is_planned_alone_is_all_that_differs() {
        let options = mesh::Options { per_host: true, ..options() };
        let root = options.root_namespace.as_str();
        let built = |pieces: &BTreeMap<ObjectKey, Vec<Arc<Piece>>>| -> BTreeMap<(String, String), String> {
            let pieces: Vec<_> = pieces.values().flatten().cloned().collect();
            let plan = mesh::plan(&pieces, &options, &mesh::Past::default());
            let build = |planned: &mesh::Planned| {
                ((planned.namespace.clone(), planned.name.clone()), planned.build(&options, 1).to_string())
            };
            plan.objects.iter().map(build).collect()
        };
        let mut alone = 0;
        for seed in 1..=40 {
            let mut random = Random(seed * 0x2545_f491);
            let mut world = new_world();
            let mut pieces: BTreeMap<ObjectKey, Vec<Arc<Piece>>> = BTreeMap::new();
            for clock in 1..=80 {
                world.apply(told(&random_change(&mut random, clock))).unwrap();
                let before = pieces.clone();
                for key in world.take_dirty() {
                    match world.evaluate(&key, &options) {
                        Some(evaluation) => pieces.insert(key, evaluation.pieces),
                        None => pieces.remove(&key),
                    };
                }
                let is_same_size = before.len() == pieces.len()
                    && before.iter().all(|(key, old)| pieces.get(key).is_some_and(|new| new.len() == old.len()));
                if !is_same_size {
                    continue;
                }
                let pairs = before.values().flatten().zip(pieces.values().flatten());
                let changed = pairs.filter(|(old, new)| !Arc::ptr_eq(old, new));
                let planned: Option<Vec<_>> =
                    changed.map(|(old, new)| mesh::plan_alone(old, new, &BTreeSet::new(), root)).collect();
                let Some(planned) = planned.filter(|planned| !planned.is_empty()) else { continue };
                alone += 1;
                let mut expected = built(&before);
                for planned in planned.into_iter().flatten() {
                    expected.insert(
                        (planned.namespace.clone(), planned.name.clone()),
                        planned.build(&options, 1).to_string(),
                    );
                }
                assert_eq!(expected, built(&pieces), "seed {seed}, change {clock}");
            }
        }
        assert!(alone > 50, "{alone}");
    }

    /// Each object evaluated amid its neighbours says what all say together.
    #[test]
    fn neighbours_are_all_that_matters() {
        for seed in 1..=60 {
            let mut random = Random(seed * 0x51_7cc1);
            let mut world = new_world();
            for clock in 1..=40 {
                world.apply(told(&random_change(&mut random, clock))).unwrap();
            }
            let (mut services, mut destinations) = (Vec::new(), Vec::new());
            for object in world.objects.values() {
                match &object.parsed {
                    Some(Parsed::Service(object)) => services.push(object.clone()),
                    Some(Parsed::Destination(object)) => destinations.push(object.clone()),
                    None => {}
                }
            }
            let mut diagnostics = Diagnostics::default();
            let all = validate::validate(&services, &destinations, &world.inventory, &world.options, &mut diagnostics);
            let together: BTreeSet<String> = all.iter().map(|service| format!("{service:?}")).collect();
            let each: BTreeSet<String> = world
                .objects
                .keys()
                .flat_map(|key| world.evaluate(key, &options()).unwrap().pieces)
                .map(|piece| format!("{:?}", piece.service))
                .collect();
            assert_eq!(each, together, "seed {seed}");
        }
    }
}
