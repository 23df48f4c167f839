//! The filters that proxies fetch.
//!
//! While a new version of the controller replaces an old one, replicas of both versions serve,
//! and a proxy that starts then may ask any replica for the filter of either version. If it
//! doesn't get the filter, its agent refuses every connection. So each version keeps its filter
//! in a ConfigMap, from which all replicas serve it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, Client};
use redis_mesh_core::hex::to_hex;
use sha2::{Digest, Sha256};

/// The key of the filter in a ConfigMap.
const FILE: &str = "redis_mesh.wasm";
/// The label of ConfigMaps with filters.
const LABEL: &str = "redis-mesh.io/filter";

/// The filters of all versions that this replica has seen.
pub struct Filters {
    configmaps: Option<Api<ConfigMap>>,
    known: Mutex<BTreeMap<String, Arc<Vec<u8>>>>,
}

/// The SHA-256 of a file in lower-case hexadecimal digits.
pub fn sha256(bytes: &[u8]) -> String {
    to_hex(&Sha256::digest(bytes))
}

/// Reads the file, and checks that it is a WebAssembly module.
pub fn read(path: &Path) -> Result<Vec<u8>, String> {
    let bytes = std::fs::read(path).map_err(|error| format!("the filter {} can't be read: {error}", path.display()))?;
    if !bytes.starts_with(b"\0asm") {
        return Err(format!("the filter {} is not a WebAssembly module", path.display()));
    }
    Ok(bytes)
}

impl Filters {
    /// Creates a collection with this version's filter; others are looked up in ConfigMaps of the
    /// namespace.
    pub fn new(client: &Client, namespace: &str, own: Vec<u8>) -> Filters {
        let configmaps = Some(Api::namespaced(client.clone(), namespace));
        Filters { configmaps, known: Mutex::new(BTreeMap::from([(sha256(&own), Arc::new(own))])) }
    }

    /// Creates a collection without filters, where proxies fetch the filter elsewhere.
    pub fn none() -> Filters {
        Filters { configmaps: None, known: Mutex::default() }
    }

    fn held(&self, sha256: &str) -> Option<Arc<Vec<u8>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(sha256).cloned()
    }

    /// Returns the filter with this SHA-256; none if no version has it.
    pub async fn file(&self, sha256: &str) -> Result<Option<Arc<Vec<u8>>>, kube::Error> {
        if let Some(file) = self.held(sha256) {
            return Ok(Some(file));
        }
        let (Some(configmaps), Some(name)) = (&self.configmaps, name(sha256)) else { return Ok(None) };
        let data = configmaps.get_opt(&name).await?.and_then(|map| map.binary_data?.remove(FILE));
        // Everybody who may write ConfigMaps here could put any file there.
        let Some(file) = data.map(|ByteString(bytes)| bytes).filter(|bytes| self::sha256(bytes) == sha256) else {
            return Ok(None);
        };
        let file = Arc::new(file);
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(sha256.to_owned(), file.clone());
        Ok(Some(file))
    }

    /// Writes this version's filter into a ConfigMap, for replicas of other versions.
    pub async fn publish(&self, sha256: &str) -> Result<(), kube::Error> {
        let (Some(configmaps), Some(file), Some(name)) = (&self.configmaps, self.held(sha256), name(sha256)) else {
            return Ok(());
        };
        if configmaps.get_metadata_opt(&name).await?.is_some() {
            return Ok(());
        }
        let labels = [("app.kubernetes.io/managed-by", "redis-mesh"), (LABEL, "true")];
        let map = ConfigMap {
            metadata: ObjectMeta {
                name: Some(name),
                labels: Some(labels.map(|(name, value)| (name.to_owned(), value.to_owned())).into()),
                ..ObjectMeta::default()
            },
            immutable: Some(true),
            binary_data: Some([(FILE.to_owned(), ByteString(file.to_vec()))].into()),
            ..ConfigMap::default()
        };
        match configmaps.create(&PostParams::default(), &map).await {
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            result => result.map(|_| ()),
        }
    }

    /// Deletes the ConfigMaps of filters that nothing names, except the newest one: a proxy may
    /// still be about to ask for it.
    pub async fn prune(&self, named: &BTreeSet<String>) -> Result<(), kube::Error> {
        let Some(configmaps) = &self.configmaps else { return Ok(()) };
        let list = configmaps.list_metadata(&ListParams::default().labels(&format!("{LABEL}=true"))).await?;
        let keep: BTreeSet<String> = named.iter().filter_map(|sha256| name(sha256)).collect();
        let mut others: Vec<_> = list
            .items
            .into_iter()
            .filter(|map| !map.metadata.name.as_ref().is_none_or(|name| keep.contains(name)))
            .collect();
        others.sort_by(|a, b| b.metadata.creation_timestamp.cmp(&a.metadata.creation_timestamp));
        for name in others.into_iter().skip(1).filter_map(|map| map.metadata.name) {
            configmaps.delete(&name, &DeleteParams::default()).await?;
        }
        Ok(())
    }
}

/// The name of the ConfigMap of a filter; none if the text is no SHA-256.
fn name(sha256: &str) -> Option<String> {
    let is_checksum = sha256.len() == 64 && sha256.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    is_checksum.then(|| format!("redis-mesh-filter-{}", &sha256[..12]))
}
