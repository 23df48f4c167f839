//! What is to be, against what is: the objects that we render, as they are in the cluster.
//!
//! An object counts as it should be when what follows from it is what was meant, whoever wrote it last. Each push has a
//! number that is part of what it holds, so "the same" is always asked of the content without it.

use std::collections::BTreeMap;
use std::sync::Arc;

use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use redis_mesh_core::hex::to_hex;
use redis_mesh_core::wire;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::build::envoy::Use;
use crate::build::mesh::{Content, Group, Options, Piece, Planned};
use crate::build::native::Module;
use crate::build::overlay;
use crate::build::{envoy_filter, wasm_plugin};
use crate::inventory::Key;
use crate::validate::destination::Destination;

use super::watch;

/// Who we are to the API server.
pub const FIELD_MANAGER: &str = "redis-mesh";
/// What an object holds, without the number of the push.
const DIGEST: &str = "redis-mesh.io/digest";
/// The number of the push.
const REVISION: &str = "redis-mesh.io/revision";
/// Which controller it is that keeps an object: its namespace.
const CONTROLLER: &str = "redis-mesh.io/controller";
/// The object from which it follows.
const PURPOSE: &str = "redis-mesh.io/for";

/// How far ahead the clock of another replica may be. A number that is further ahead is none of ours: whoever may write an
/// object with our labels could use up all numbers, and no push would differ from the one before.
const SKEW: u64 = 24 * 60 * 60 * 1000;

/// Milliseconds since 1970, with which numbers of pushes begin.
fn now() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or_default()
}

/// SHA-256 of a document, whatever the order of its fields.
pub type Digest = [u8; 32];

/// The digest of a document.
pub fn digest(value: &Value) -> Digest {
    let mut hash = Sha256::new();
    feed(value, &mut hash);
    hash.finalize().into()
}

fn feed(value: &Value, hash: &mut Sha256) {
    match value {
        Value::Object(fields) => {
            let mut sorted: Vec<_> = fields.iter().collect();
            sorted.sort_by_key(|(name, _)| *name);
            hash.update([b'{']);
            hash.update((sorted.len() as u64).to_be_bytes());
            for (name, value) in sorted {
                hash.update((name.len() as u64).to_be_bytes());
                hash.update(name);
                feed(value, hash);
            }
        }
        Value::Array(items) => {
            hash.update([b'[']);
            hash.update((items.len() as u64).to_be_bytes());
            items.iter().for_each(|item| feed(item, hash));
        }
        scalar => {
            let text = scalar.to_string();
            hash.update([b'=']);
            hash.update((text.len() as u64).to_be_bytes());
            hash.update(text);
        }
    }
}

fn from_hex(text: &str) -> Option<Digest> {
    let mut digest = Digest::default();
    if text.len() != 2 * digest.len() || !text.is_ascii() {
        return None;
    }
    for (i, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * i..2 * i + 2)?, 16).ok()?;
    }
    Some(digest)
}

/// Names a rendered object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RenderedKey {
    /// `WasmPlugin` or `EnvoyFilter`.
    pub kind: &'static str,
    /// Its name.
    pub key: Key,
}

impl std::fmt::Display for RenderedKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.kind, self.key)
    }
}

impl RenderedKey {
    /// Of a plan.
    pub fn of(planned: &Planned) -> RenderedKey {
        RenderedKey { kind: planned.kind(), key: Key::new(&planned.namespace, &planned.name) }
    }
}

/// An object as it is in the cluster.
#[derive(Clone)]
pub struct Live {
    uid: Option<String>,
    generation: i64,
    spec: Digest,
    /// What it says that it holds.
    digest: Option<Digest>,
    revision: u64,
    /// It is kept by this controller.
    pub is_own: bool,
    /// The object from which it follows, `KIND NAMESPACE/NAME`.
    pub purpose: String,
    /// Hosts of a WasmPlugin.
    pub hosts: Vec<wire::Host>,
    /// It holds the configuration of a filter.
    pub is_per_host: bool,
    /// It is for sidecars that have the dynamic module.
    pub is_native: bool,
    /// What Istio says against it.
    pub rejected: Option<String>,
    /// The digest that was last settled, and the generation that it then had.
    settled: Option<(Digest, i64)>,
}

impl Live {
    /// Of an object.
    pub fn of(object: &DynamicObject, controller: &str) -> Live {
        let annotation = |name: &str| object.annotations().get(name).cloned();
        let spec = &object.data["spec"];
        let config = &spec["pluginConfig"];
        let hosts = serde_json::from_value::<wire::FilterConfig>(config.clone()).map(|config| config.hosts);
        let patches = spec["configPatches"].as_array().map(Vec::as_slice).unwrap_or_default();
        Live {
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
}

/// What Istio's analysis says against an object (`status.validationMessages`, `status.conditions`).
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

/// What a digest was made from. What is the same is the very same thing, which is quickly told.
enum Source {
    Listener(Arc<Piece>, bool),
    Plugin(Vec<Arc<Piece>>, Vec<wire::Host>),
    NativeListener(Arc<Piece>),
    Module(Module),
    /// The piece is that of which the object says that it follows from it, where there is no RedisDestination.
    Cluster(Arc<Destination>, Use, Option<String>, Option<Arc<Piece>>),
}

fn named(destination: &Destination, pieces: &[Arc<Piece>]) -> Option<Arc<Piece>> {
    pieces.first().filter(|_| destination.policy.object.is_none()).cloned()
}

impl Source {
    fn of(content: &Content) -> Source {
        match content {
            Content::Listener { piece, per_host } => Source::Listener(piece.clone(), *per_host),
            Content::Plugin { pieces, kept, .. } => Source::Plugin(pieces.clone(), kept.clone()),
            Content::NativeListener { piece } => Source::NativeListener(piece.clone()),
            Content::Module(module) => Source::Module(module.clone()),
            Content::Cluster { destination, usage, scope, pieces } => {
                Source::Cluster(destination.clone(), *usage, scope.clone(), named(destination, pieces))
            }
        }
    }

    fn is(&self, content: &Content) -> bool {
        let same =
            |a: &[Arc<Piece>], b: &[Arc<Piece>]| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| Arc::ptr_eq(a, b));
        match (self, content) {
            (Source::Listener(known, by_itself), Content::Listener { piece, per_host }) => {
                Arc::ptr_eq(known, piece) && by_itself == per_host
            }
            (Source::Plugin(known, held), Content::Plugin { pieces, kept, .. }) => same(known, pieces) && held == kept,
            (Source::Cluster(known, used, clients, first), Content::Cluster { destination, usage, scope, pieces }) => {
                Arc::ptr_eq(known, destination)
                    && used == usage
                    && clients == scope
                    && same(first.as_slice(), named(destination, pieces).as_slice())
            }
            (Source::NativeListener(known), Content::NativeListener { piece }) => Arc::ptr_eq(known, piece),
            (Source::Module(known), Content::Module(module)) => known == module,
            _ => false,
        }
    }
}

struct Remembered {
    source: Source,
    digest: Digest,
}

/// The objects in the cluster.
pub struct Objects {
    client: Client,
    controller: String,
    live: BTreeMap<RenderedKey, Box<Live>>,
    digests: BTreeMap<RenderedKey, Remembered>,
    revision: u64,
}

/// Something to do.
pub enum Operation<'a> {
    /// Write an object, which is built when its turn has come: of thousands, only a few at a time.
    Apply {
        /// Which.
        key: RenderedKey,
        /// What it is made from.
        planned: &'a Planned,
        /// The number of the push.
        revision: u64,
        /// The digest of its content.
        digest: Digest,
        /// It was as it should be, and somebody changed it.
        repairs: bool,
    },
    /// Delete one.
    Delete(RenderedKey),
}

impl Operation<'_> {
    /// The object.
    pub fn key(&self) -> &RenderedKey {
        match self {
            Operation::Apply { key, .. } | Operation::Delete(key) => key,
        }
    }
}

/// What became of it.
pub enum Done {
    /// It is there.
    Applied(Box<DynamicObject>, Digest),
    /// It is gone.
    Deleted,
}

impl Objects {
    /// None yet.
    pub fn new(client: Client, controller: String) -> Objects {
        Objects { client, controller, live: BTreeMap::new(), digests: BTreeMap::new(), revision: 0 }
    }

    /// As they are.
    pub fn live(&self) -> &BTreeMap<RenderedKey, Box<Live>> {
        &self.live
    }

    /// A watch shows one. True if that is news.
    pub fn saw(&mut self, key: RenderedKey, mut live: Box<Live>) -> bool {
        if live.revision <= now().saturating_add(SKEW) {
            self.revision = self.revision.max(live.revision);
        }
        if let Some(known) = self.live.get(&key).filter(|known| known.uid == live.uid) {
            if known.generation > live.generation {
                // From before what we have written since.
                return false;
            }
            live.settled = known.settled.filter(|(_, generation)| *generation == live.generation);
            let is_same = known.generation == live.generation
                && (known.digest == live.digest && known.is_own == live.is_own && known.rejected == live.rejected);
            if is_same {
                return false;
            }
        }
        self.live.insert(key, live);
        true
    }

    /// A watch shows that one is gone. True if that is news.
    pub fn gone(&mut self, key: &RenderedKey) -> bool {
        self.live.remove(key).is_some()
    }

    /// The number of the next push: never one that was used before, by whatever replica.
    fn next_revision(&mut self) -> u64 {
        self.revision = self.revision.saturating_add(1).max(now());
        self.revision
    }

    /// The digest of what is planned, which is made anew only if something has changed.
    fn digest_of(&mut self, key: &RenderedKey, planned: &Planned, options: &Options) -> Digest {
        if let Some(known) = self.digests.get(key).filter(|known| known.source.is(&planned.content)) {
            return known.digest;
        }
        let digest = digest(&planned.build(options, 0));
        self.digests.insert(key.clone(), Remembered { source: Source::of(&planned.content), digest });
        digest
    }

    /// What has to be done for one object to be as planned; none if it is so.
    pub fn compare<'a>(&mut self, key: &RenderedKey, planned: &'a Planned, options: &Options) -> Option<Operation<'a>> {
        let digest = self.digest_of(key, planned, options);
        let mut repairs = false;
        if let Some(live) = self.live.get_mut(key)
            && live.digest == Some(digest)
            && live.is_own
        {
            if live.settled == Some((digest, live.generation)) {
                return None;
            }
            let wanted = planned.build(options, live.revision);
            if self::digest(&wanted["spec"]) == live.spec {
                live.settled = Some((digest, live.generation));
                return None;
            }
            repairs = true;
        }
        let revision = self.next_revision();
        Some(Operation::Apply { key: key.clone(), planned, revision, digest, repairs })
    }

    /// Forgets what is no longer planned.
    pub fn retain(&mut self, planned: &BTreeMap<RenderedKey, &Planned>) {
        if self.digests.len() > planned.len() {
            self.digests.retain(|key, _| planned.contains_key(key));
        }
    }

    /// Groups whose hosts are configured each by itself, though none of them would have to be.
    pub fn large_groups<'a>(&self, pieces: impl Iterator<Item = &'a Arc<Piece>>) -> std::collections::BTreeSet<Group> {
        pieces
            .filter(|piece| !piece.is_per_host())
            .filter(|piece| {
                let key = Key::new(&piece.namespace, &piece.object_name());
                self.live.get(&RenderedKey { kind: envoy_filter::KIND, key }).is_some_and(|live| live.is_per_host)
            })
            .map(|piece| (piece.namespace.clone(), piece.service.address.port))
            .collect()
    }

    /// Has istiod send all configurations of filters again.
    pub async fn light_beacon(&mut self, options: &Options) -> Result<(), kube::Error> {
        let object = envoy_filter::beacon(&options.root_namespace, self.next_revision());
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let key = RenderedKey { kind: envoy_filter::KIND, key: Key::new(&options.root_namespace, name) };
        apply(self.client.clone(), &key, object).await.map(|_| ())
    }

    /// What does things for which nothing of ours has to be held.
    pub fn hands(&self, options: &Options) -> Hands {
        Hands { client: self.client.clone(), controller: self.controller.clone(), options: options.clone() }
    }

    /// Takes in what became of it.
    pub fn done(&mut self, key: &RenderedKey, done: Done) {
        match done {
            Done::Applied(object, digest) => {
                let mut live = Live::of(&object, &self.controller);
                live.settled = Some((digest, live.generation));
                self.live.insert(key.clone(), Box::new(live));
            }
            Done::Deleted => {
                self.live.remove(key);
            }
        }
    }
}

/// Writes and deletes.
pub struct Hands {
    client: Client,
    controller: String,
    options: Options,
}

impl Hands {
    /// Does something.
    pub async fn perform(&self, operation: Operation<'_>) -> Result<Done, kube::Error> {
        let client = self.client.clone();
        match operation {
            Operation::Apply { key, planned, revision, digest, .. } => {
                let mut object = planned.build(&self.options, revision);
                object["metadata"]["labels"][CONTROLLER] = self.controller.as_str().into();
                object["metadata"]["annotations"][DIGEST] = to_hex(&digest).into();
                object["metadata"]["annotations"][REVISION] = revision.to_string().into();
                let object = apply(client, &key, object).await?;
                Ok(Done::Applied(Box::new(object), digest))
            }
            Operation::Delete(key) => {
                let api = api(client, &key);
                match api.delete(&key.key.name, &DeleteParams::default()).await {
                    Ok(_) => Ok(Done::Deleted),
                    Err(kube::Error::Api(status)) if status.code == 404 => Ok(Done::Deleted),
                    Err(error) => Err(error),
                }
            }
        }
    }
}

fn api(client: Client, key: &RenderedKey) -> Api<DynamicObject> {
    Api::namespaced_with(client, &key.key.namespace, &watch::rendered(key.kind))
}

/// Server-side apply. What somebody else has added to what is ours is taken away.
async fn apply(client: Client, key: &RenderedKey, object: Value) -> Result<DynamicObject, kube::Error> {
    let api = api(client, key);
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    let applied = api.patch(&key.key.name, &parameters, &Patch::Apply(&object)).await?;
    if digest(&applied.data["spec"]) == digest(&object["spec"]) {
        return Ok(applied);
    }
    let mut replaced = applied.clone();
    replaced.data["spec"] = object["spec"].clone();
    let parameters = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
    api.replace(&key.key.name, &parameters, &replaced).await
}

/// The largest number of hosts that a message names.
const NAMED: usize = 5;

/// A few of many, for a message.
pub fn some_of(mut names: Vec<String>) -> String {
    let more = names.len().saturating_sub(NAMED);
    names.truncate(NAMED);
    let names = names.join(", ");
    if more > 0 { format!("{names} and {more} more") } else { names }
}

/// True for an object whose absence from a plan means that it has to go.
pub fn is_prunable(live: &Live, frozen: &[String]) -> bool {
    live.is_own && !frozen.contains(&live.purpose)
}

/// The hosts of a WasmPlugin that are to stay as they are.
pub fn kept_hosts(
    live: &BTreeMap<RenderedKey, Box<Live>>,
    is_kept: impl Fn(&str, &str) -> bool,
) -> BTreeMap<Group, Vec<wire::Host>> {
    let mut kept: BTreeMap<Group, Vec<wire::Host>> = BTreeMap::new();
    for (key, live) in live.iter().filter(|(key, live)| key.kind == wasm_plugin::KIND && live.is_own) {
        for host in &live.hosts {
            if let Some((name, port)) = host.host.rsplit_once(':')
                && let Ok(port) = port.parse::<u16>()
                && is_kept(&key.key.namespace, name)
            {
                kept.entry((key.key.namespace.clone(), port)).or_default().push(host.clone());
            }
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_digest_knows_no_order_of_fields() {
        assert_eq!(digest(&json!({"a": 1, "b": [1, 2]})), digest(&json!({"b": [1, 2], "a": 1})));
        for other in [json!({"a": 1, "b": [2, 1]}), json!({"a": "1", "b": [1, 2]}), json!({"a": 1}), json!([1, 2])] {
            assert_ne!(digest(&json!({"a": 1, "b": [1, 2]})), digest(&other), "{other}");
        }
    }

    #[test]
    fn a_digest_as_text_and_back() {
        let digest = digest(&json!({"a": 1}));
        assert_eq!(from_hex(&to_hex(&digest)), Some(digest));
        for other in ["", "ab", &"x".repeat(64), &"\u{e4}".repeat(32)] {
            assert_eq!(from_hex(other), None, "{other}");
        }
    }

    #[test]
    fn some_of_many() {
        assert_eq!(some_of(vec!["a".into(), "b".into()]), "a, b");
        assert_eq!(some_of((1..=7).map(|n| n.to_string()).collect()), "1, 2, 3, 4, 5 and 2 more");
    }
}
