//! The journal: what rendered objects were before the batches that are on their way to the witness. It is kept
//! in a Secret of the controller's namespace from before a batch is written until the witness has taken it.
//!
//! A replica that takes over from one that has died in between finds what is in the cluster, and nothing
//! that says what was taken last. With the journal it can bring that back. What is in there has been in an
//! EnvoyFilter or a WasmPlugin and may hold logins.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{Read, Write};
use std::sync::Arc;

use flate2::Compression;
use flate2::read::ZlibDecoder;
use flate2::write::ZlibEncoder;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tracing::warn;

use crate::diagnostic::Subject;
use crate::inventory::NamespacedName;
use crate::render::{envoy_filter, wasm_plugin};
use crate::run::digest::{ContentDigest, digest};
use crate::run::names::{FIELD_MANAGER, ObjectKey, RenderedKey};
use crate::run::request::{RequestError, with_timeout};

/// The name of the Secret.
pub const NAME: &str = "redis-mesh-undo";
/// The key in the Secret.
const FIELD: &str = "journal";
/// The greatest size of what is stored, in bytes. The limit of a Secret is 1 MiB.
const MAX_SIZE: usize = 1_000_000;
/// The greatest size of it before it is compressed, in bytes.
const MAX_TEXT: u64 = 64 << 20;

/// Rendered objects as they were, as JSON; none of those that weren't there.
pub type FormerObjects = BTreeMap<RenderedKey, Option<Arc<str>>>;

/// What is stored.
#[derive(Default, Serialize, Deserialize)]
struct JournalDocument {
    objects: Vec<JournalEntry>,
    /// The RedisServices and RedisDestinations whose changes are on their way, as `KIND NAMESPACE/NAME`.
    changed: Vec<String>,
}

/// A rendered object as it was.
#[derive(Serialize, Deserialize)]
struct JournalEntry {
    kind: String,
    namespace: String,
    name: String,
    former: Option<String>,
}

/// The batches in the journal.
#[derive(Default)]
struct JournalBatches {
    /// Of operations that are about to be performed.
    begun: FormerObjects,
    /// Of those that were performed since the last marker.
    written: FormerObjects,
    /// Of batches on their way, with their numbers.
    on_their_way: VecDeque<(u64, FormerObjects)>,
    /// True if something of them is missing, since it couldn't be stored.
    is_lacking: bool,
}

impl JournalBatches {
    /// What was there before all of them.
    fn former(&self) -> FormerObjects {
        let mut former = FormerObjects::new();
        for objects in self.on_their_way.iter().map(|(_, objects)| objects).chain([&self.written, &self.begun]) {
            for (key, object) in objects {
                former.entry(key.clone()).or_insert_with(|| object.clone());
            }
        }
        former
    }

    fn performed(&mut self, key: &RenderedKey) {
        if let Some(former) = self.begun.remove(key) {
            self.written.entry(key.clone()).or_insert(former);
        }
    }

    fn marked(&mut self, number: u64) {
        let written = std::mem::take(&mut self.written);
        if !written.is_empty() {
            self.on_their_way.push_back((number, written));
        }
    }

    fn taken(&mut self, number: u64) {
        self.on_their_way.retain(|(of, _)| *of > number);
        self.is_lacking &= !(self.on_their_way.is_empty() && self.written.is_empty() && self.begun.is_empty());
    }
}

/// The journal.
pub struct UndoJournal {
    secrets: Api<Secret>,
    batches: JournalBatches,
    /// The digest of what was stored last; none if nothing is stored.
    stored: Option<ContentDigest>,
    /// True when this replica has read what its predecessor had stored.
    is_read: bool,
    /// True if it was told that nothing can be stored.
    is_told: bool,
}

impl UndoJournal {
    /// Has stored nothing.
    pub fn new(client: Client, namespace: &str) -> UndoJournal {
        UndoJournal {
            secrets: Api::namespaced(client, namespace),
            batches: JournalBatches::default(),
            stored: None,
            is_read: false,
            is_told: false,
        }
    }

    /// Forgets everything: another replica writes.
    pub fn rest(&mut self) {
        self.batches = JournalBatches::default();
        (self.stored, self.is_read) = (None, false);
    }

    /// Reads what the predecessor of this replica has stored. Returns the objects whose changes it hadn't
    /// seen taken; none if that was read before.
    pub async fn read(&mut self) -> Result<Option<BTreeSet<ObjectKey>>, RequestError> {
        if self.is_read {
            return Ok(None);
        }
        let secret = match with_timeout(self.secrets.get_opt(NAME)).await {
            Ok(secret) => secret,
            Err(error) if is_forbidden(&error) => {
                self.tell(&error.to_string());
                None
            }
            Err(error) => return Err(error),
        };
        self.is_read = true;
        let Some(secret) = secret else { return Ok(Some(BTreeSet::new())) };
        // Whatever it is, it is deleted or replaced.
        self.stored = Some(ContentDigest::default());
        let stored = secret.data.and_then(|mut data| data.remove(FIELD)).map(|ByteString(bytes)| bytes);
        match decode(&stored.unwrap_or_default()) {
            Ok((former, changed)) => {
                self.batches.on_their_way.push_back((0, former));
                Ok(Some(changed))
            }
            Err(reason) => {
                warn!(
                    secret = NAME,
                    reason, "what the last leader wrote last can't be taken back, since the Secret can't be read"
                );
                Ok(Some(BTreeSet::new()))
            }
        }
    }

    /// True if the journal needs to know what this object is before it is written.
    pub fn lacks(&self, key: &RenderedKey) -> bool {
        !self.batches.begun.contains_key(key)
    }

    /// Takes in what an object is that is about to be written.
    pub fn begin(&mut self, key: RenderedKey, former: Option<Arc<str>>) {
        self.batches.begun.insert(key, former);
    }

    /// Records that what objects were before isn't known.
    pub fn lack(&mut self, reason: &str) {
        if !std::mem::replace(&mut self.batches.is_lacking, true) {
            self.tell(reason);
        }
    }

    /// Records that an object was written or deleted.
    pub fn performed(&mut self, key: &RenderedKey) {
        self.batches.performed(key);
    }

    /// Records that nothing is about to be written any more.
    pub fn finished(&mut self) {
        self.batches.begun.clear();
    }

    /// Records that the marker with this number was written.
    pub fn marked(&mut self, number: u64) {
        self.batches.marked(number);
    }

    /// Records that the witness has taken the batches up to this number.
    pub fn taken(&mut self, number: u64) {
        self.batches.taken(number);
    }

    /// Records that there is nothing on its way.
    pub fn clear(&mut self) {
        self.batches = JournalBatches::default();
    }

    /// What was there before the batches on their way.
    pub fn former(&self) -> FormerObjects {
        self.batches.former()
    }

    /// True if all that was there before the batches on their way can be brought back.
    pub fn is_whole(&self) -> bool {
        !self.batches.is_lacking
    }

    /// Stores what is on its way, with these changes; or that nothing is.
    pub async fn store(&mut self, changed: impl Iterator<Item = &ObjectKey>) {
        let former = if self.is_whole() { self.former() } else { FormerObjects::new() };
        if let Err(reason) = self.replace(former, changed.map(ToString::to_string).collect()).await {
            self.lack(&reason);
            if let Err(reason) = self.replace(FormerObjects::new(), Vec::new()).await {
                self.tell(&reason);
            }
        }
    }

    async fn replace(&mut self, former: FormerObjects, changed: Vec<String>) -> Result<(), String> {
        if former.is_empty() {
            if self.stored.is_some() {
                with_timeout(delete(&self.secrets)).await.map_err(|error| error.to_string())?;
                self.stored = None;
            }
            return Ok(());
        }
        let text = Value::String(encode(former, changed));
        let digest = digest(&text);
        if self.stored == Some(digest) {
            return Ok(());
        }
        let bytes = compressed(text.as_str().unwrap_or_default());
        if bytes.len() > MAX_SIZE {
            return Err(format!("{} bytes are too many for a Secret", bytes.len()));
        }
        let secret = Secret {
            metadata: ObjectMeta {
                name: Some(NAME.to_owned()),
                labels: Some([("app.kubernetes.io/managed-by".to_owned(), "redis-mesh".to_owned())].into()),
                ..ObjectMeta::default()
            },
            data: Some([(FIELD.to_owned(), ByteString(bytes))].into()),
            ..Secret::default()
        };
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        let patched = with_timeout(self.secrets.patch(NAME, &parameters, &Patch::Apply(&secret))).await;
        patched.map_err(|error| error.with_remedy())?;
        self.stored = Some(digest);
        Ok(())
    }

    fn tell(&mut self, reason: &str) {
        if !std::mem::replace(&mut self.is_told, true) {
            warn!(
                secret = NAME,
                reason,
                "what was taken last isn't stored; if a proxy refuses the changes, and this replica ends before it has taken them back, the next one can't"
            );
        }
    }
}

fn is_forbidden(error: &RequestError) -> bool {
    matches!(error, RequestError::Failed(kube::Error::Api(status)) if status.code == 403)
}

async fn delete(secrets: &Api<Secret>) -> Result<(), kube::Error> {
    match secrets.delete(NAME, &DeleteParams::default()).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(error),
    }
}

fn encode(former: FormerObjects, changed: Vec<String>) -> String {
    let entry = |(key, former): (RenderedKey, Option<Arc<str>>)| JournalEntry {
        kind: key.kind.to_owned(),
        namespace: key.name.namespace,
        name: key.name.name,
        former: former.map(|former| former.as_ref().to_owned()),
    };
    let document = JournalDocument { objects: former.into_iter().map(entry).collect(), changed };
    serde_json::to_string(&document).unwrap_or_default()
}

fn compressed(text: &str) -> Vec<u8> {
    // Writing into memory doesn't fail.
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
    let _ = encoder.write_all(text.as_bytes());
    encoder.finish().unwrap_or_default()
}

fn decode(bytes: &[u8]) -> Result<(FormerObjects, BTreeSet<ObjectKey>), String> {
    let mut text = String::new();
    ZlibDecoder::new(bytes).take(MAX_TEXT).read_to_string(&mut text).map_err(|error| error.to_string())?;
    let document: JournalDocument = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    let mut former = FormerObjects::new();
    for entry in document.objects {
        let kinds = [wasm_plugin::KIND, envoy_filter::KIND];
        let kind = kinds.into_iter().find(|kind| *kind == entry.kind);
        let kind = kind.ok_or_else(|| format!("it has an object of the kind {}", entry.kind))?;
        let key = RenderedKey { kind, name: NamespacedName::new(&entry.namespace, &entry.name) };
        former.insert(key, entry.former.map(Arc::from));
    }
    let key = |text: &String| {
        let (kind, name) = text.split_once(' ')?;
        ObjectKey::of(&Subject { kind: kind.to_owned(), name: name.to_owned(), ..Subject::default() })
    };
    Ok((former, document.changed.iter().filter_map(key).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::names::ObjectKind;

    fn key(name: &str) -> RenderedKey {
        RenderedKey { kind: envoy_filter::KIND, name: NamespacedName::new("a", name) }
    }

    fn batches(steps: &[(&str, &str, u64)]) -> JournalBatches {
        let mut batches = JournalBatches::default();
        for (name, former, number) in steps {
            batches.begun.insert(key(name), Some((*former).into()));
            batches.performed(&key(name));
            batches.marked(*number);
        }
        batches
    }

    #[test]
    fn what_was_there_before_the_first_batch_on_its_way_comes_back() {
        let mut batches = batches(&[("x", "1", 1), ("x", "2", 2), ("y", "3", 2)]);
        batches.begun.insert(key("x"), Some("later".into()));
        batches.begun.insert(key("z"), None);
        let expected = [(key("x"), Some("1".into())), (key("y"), Some("3".into())), (key("z"), None)];
        assert_eq!(batches.former(), expected.into());
        batches.taken(1);
        assert_eq!(batches.former()[&key("x")], Some("2".into()));
        batches.taken(2);
        assert_eq!(batches.former()[&key("x")], Some("later".into()));
        batches.is_lacking = true;
        batches.taken(3);
        assert!(batches.is_lacking);
        batches.begun.clear();
        batches.taken(3);
        assert!(!batches.is_lacking);
    }

    #[test]
    fn what_is_stored_is_read_again() {
        let former: FormerObjects = [(key("x"), Some("{\"a\":1}".into())), (key("y"), None)].into();
        let changed = ObjectKey { kind: ObjectKind::Destination, name: NamespacedName::new("n", "d") };
        let stored = compressed(&encode(former.clone(), vec![changed.to_string(), "Pod n/p".to_owned()]));
        assert_eq!(decode(&stored), Ok((former, [changed].into())));
        for wrong in [
            &stored[..stored.len() / 2],
            b"",
            b"x",
            &compressed("[]"),
            &compressed("{\"objects\":[{\"kind\":\"Pod\",\"namespace\":\"\",\"name\":\"\"}],\"changed\":[]}"),
        ] {
            assert!(decode(wrong).is_err(), "{wrong:?}");
        }
    }
}
