//! The filter's file, as proxies fetch it.
//!
//! While a new version of the controller replaces an old one, replicas of both serve, and a proxy that starts then may ask
//! any of them for either version's filter. A filter that can't be had makes the agent of a proxy refuse every connection. So
//! every version keeps its filter in a ConfigMap, from which all can serve it.

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

/// The key in a ConfigMap, and the end of a URL.
const FILE: &str = "redis_mesh.wasm";
const LABEL: &str = "redis-mesh.io/filter";

/// All versions of the filter that are known.
pub struct Filters {
    configmaps: Option<Api<ConfigMap>>,
    known: Mutex<BTreeMap<String, Arc<Vec<u8>>>>,
}

/// Lower-case hex of a file's SHA-256.
pub fn sha256(bytes: &[u8]) -> String {
    to_hex(&Sha256::digest(bytes))
}

/// Reads the file, and makes sure that it is one.
pub fn read(path: &Path) -> Result<Vec<u8>, String> {
    let bytes = std::fs::read(path).map_err(|error| format!("the filter {} can't be read: {error}", path.display()))?;
    if !bytes.starts_with(b"\0asm") {
        return Err(format!("the filter {} is not a WebAssembly module", path.display()));
    }
    Ok(bytes)
}

impl Filters {
    /// Knows one; others may be in ConfigMaps of this namespace.
    pub fn new(client: &Client, namespace: &str, own: Vec<u8>) -> Filters {
        let configmaps = Some(Api::namespaced(client.clone(), namespace));
        Filters { configmaps, known: Mutex::new(BTreeMap::from([(sha256(&own), Arc::new(own))])) }
    }

    /// Knows none, where proxies fetch the filter elsewhere.
    pub fn none() -> Filters {
        Filters { configmaps: None, known: Mutex::default() }
    }

    fn held(&self, sha256: &str) -> Option<Arc<Vec<u8>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(sha256).cloned()
    }

    /// The filter with this checksum.
    pub async fn file(&self, sha256: &str) -> Result<Option<Arc<Vec<u8>>>, kube::Error> {
        if let Some(file) = self.held(sha256) {
            return Ok(Some(file));
        }
        let (Some(configmaps), Some(name)) = (&self.configmaps, name(sha256)) else { return Ok(None) };
        let data = configmaps.get_opt(&name).await?.and_then(|map| map.binary_data?.remove(FILE));
        // Who may write ConfigMaps here could put anything there.
        let Some(file) = data.map(|ByteString(bytes)| bytes).filter(|bytes| self::sha256(bytes) == sha256) else {
            return Ok(None);
        };
        let file = Arc::new(file);
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(sha256.to_owned(), file.clone());
        Ok(Some(file))
    }

    /// Makes a filter that this version brought known to the others.
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

    /// Deletes the filters that nothing names, but for the newest other one: a proxy may still be about to ask for it.
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

/// The name of the ConfigMap of a filter; none if that is no checksum.
fn name(sha256: &str) -> Option<String> {
    let is_checksum = sha256.len() == 64 && sha256.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    is_checksum.then(|| format!("redis-mesh-filter-{}", &sha256[..12]))
}
