//! The delivery of the dynamic module by ConfigMaps.
//!
//! Pods mount two ConfigMaps of their namespace as one volume: the module of this version,
//! without which they don't start, and the module of the version before. The kubelets of the
//! nodes need a while to bring a new file, so the EnvoyFilters that make sidecars load it are
//! written later. Until then those of the version before stay, since they are made for that
//! version's module.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::diagnostic::{Code, Problem};

use super::filter::sha256;
use super::installation::Standing;
use super::request::chain;
use crate::render::native::DynamicModule;

/// The ConfigMap with the module of this version.
const CURRENT: &str = "redis-mesh-module";
/// The ConfigMap with the module of the version before.
const PREVIOUS: &str = "redis-mesh-module-previous";
/// Annotation: when the file replaced another one in the ConfigMap, in seconds since 1970; 0 if
/// it was the first.
const SINCE: &str = "redis-mesh.io/since";
/// The time between two checks of the ConfigMaps.
const PERIOD: Duration = Duration::from_secs(10);

/// The largest module that a ConfigMap carries, in bytes. A ConfigMap takes 1 MiB with everything
/// that is in it (<https://kubernetes.io/docs/concepts/configuration/configmap/>).
pub const MAX_CONFIG_MAP: usize = 1_040_000;

/// The module that has reached the sidecars.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Delivered {
    /// The module of this version is still on its way.
    #[default]
    Awaited,
    /// No sidecar gets the module from this controller.
    Refused(Problem),
    /// The module of this version is where pods mount it. Older ones may still serve open
    /// connections.
    Present {
        /// The module of this version.
        module: DynamicModule,
        /// The files of older versions.
        others: BTreeSet<String>,
    },
}

/// The delivery of one file to the pods of some namespaces.
pub struct ModuleDelivery {
    client: Client,
    namespaces: BTreeSet<String>,
    directory: String,
    file: Vec<u8>,
    name: String,
    delay: Duration,
}

/// Reads the file, and checks that it is a shared object.
pub fn read(path: &Path) -> Result<Vec<u8>, String> {
    let bytes = std::fs::read(path).map_err(|error| format!("the module {} can't be read: {error}", path.display()))?;
    if !bytes.starts_with(b"\x7fELF") {
        return Err(format!("the module {} is no shared object (ELF)", path.display()));
    }
    Ok(bytes)
}

/// Refuses a module that is too large for a ConfigMap.
pub fn check_size(bytes: usize) -> Result<(), Problem> {
    if bytes <= MAX_CONFIG_MAP {
        return Ok(());
    }
    let message = format!(
        "the dynamic module has {bytes} bytes, and a ConfigMap carries {MAX_CONFIG_MAP}, so no sidecar gets it from the controller"
    );
    let remedy =
        "bring it to the pods by an image volume or an init container, and say where they find it by --module-path";
    Err(Problem::new(Code::ModuleTooLarge, message, remedy))
}

impl ModuleDelivery {
    /// Creates a delivery. Pods mount the file in `directory`; where it replaces another one, it
    /// is used after `delay`.
    pub fn new(
        client: Client,
        namespaces: BTreeSet<String>,
        directory: &str,
        file: Vec<u8>,
        delay: Duration,
    ) -> ModuleDelivery {
        let name = format!("redis_mesh-{}.so", &sha256(&file)[..12]);
        ModuleDelivery { client, namespaces, directory: directory.trim_end_matches('/').to_owned(), file, name, delay }
    }

    /// Runs until every receiver is dropped. Only the leader writes.
    pub async fn run(self, mut standing: watch::Receiver<Standing>, delivered: watch::Sender<Delivered>) {
        let mut said: BTreeMap<String, String> = BTreeMap::new();
        loop {
            if standing.borrow().holds() {
                let state = self.look_after(&mut said).await;
                delivered.send_if_modified(|known| {
                    // Once present, the module stays present: pods of a namespace that is added
                    // later don't start without it.
                    let is_news = *known != state && state != Delivered::Awaited;
                    if is_news {
                        *known = state;
                    }
                    is_news
                });
            }
            tokio::select! {
                () = tokio::time::sleep(PERIOD.min(self.delay.max(Duration::from_secs(1)))) => {}
                changed = standing.changed() => if changed.is_err() { return },
                () = delivered.closed() => return,
            }
        }
    }

    async fn look_after(&self, said: &mut BTreeMap<String, String>) -> Delivered {
        let mut since = 0;
        let mut others = BTreeSet::new();
        let mut is_everywhere = true;
        for namespace in &self.namespaces {
            match self.keep(namespace).await {
                Ok((arrived, other)) => {
                    said.remove(namespace);
                    since = since.max(arrived);
                    others.extend(other.map(|name| self.path(&name)));
                }
                Err(error) => {
                    // A namespace that doesn't exist has no pods.
                    is_everywhere &= matches!(&error, kube::Error::Api(status) if status.code == 404);
                    let error = chain(&error);
                    if said.insert(namespace.clone(), error.clone()).as_ref() != Some(&error) {
                        warn!(namespace, error, "the dynamic module could not be put into its ConfigMap");
                    }
                }
            }
        }
        if !is_everywhere || now() < since.saturating_add(self.delay.as_secs()) {
            return Delivered::Awaited;
        }
        Delivered::Present { module: DynamicModule::among_others(self.path(&self.name)), others }
    }

    fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.directory)
    }

    /// Writes the ConfigMaps of a namespace where they differ. Returns since when the file is
    /// there, and the name of the file of the version before.
    async fn keep(&self, namespace: &str) -> Result<(u64, Option<String>), kube::Error> {
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), namespace);
        let Some(mut current) = api.get_opt(CURRENT).await? else {
            // No pod has started without the ConfigMap, so there is nothing to wait for.
            api.create(&PostParams::default(), &self.map(CURRENT, 0)).await?;
            info!(namespace, module = self.name, "the dynamic module was put into its ConfigMap");
            return Ok((0, file_of(api.get_opt(PREVIOUS).await?)));
        };
        let held = current.binary_data.as_ref().and_then(|files| files.get(&self.name));
        if held.is_some_and(|held| held.0 == self.file) {
            let since =
                current.metadata.annotations.as_ref().and_then(|annotations| annotations.get(SINCE)?.parse().ok());
            return Ok((since.unwrap_or_default(), file_of(api.get_opt(PREVIOUS).await?)));
        }
        let before = file_of(Some(current.clone()));
        if before.is_some() {
            let mut previous = self.map(PREVIOUS, 0);
            previous.binary_data = current.binary_data.clone();
            match api.get_opt(PREVIOUS).await? {
                Some(present) => {
                    previous.metadata.resource_version = present.metadata.resource_version;
                    api.replace(PREVIOUS, &PostParams::default(), &previous).await?;
                }
                None => {
                    api.create(&PostParams::default(), &previous).await?;
                }
            }
        }
        let since = now();
        let wanted = self.map(CURRENT, since);
        (current.binary_data, current.data, current.immutable) = (wanted.binary_data, None, None);
        current.metadata.annotations = wanted.metadata.annotations;
        current.metadata.labels = wanted.metadata.labels;
        current.metadata.managed_fields = None;
        api.replace(CURRENT, &PostParams::default(), &current).await?;
        info!(namespace, module = self.name, before, delay = ?self.delay, "a new dynamic module is on its way to sidecars");
        Ok((since, before))
    }

    fn map(&self, name: &str, since: u64) -> ConfigMap {
        let labels = [("app.kubernetes.io/managed-by", "redis-mesh"), ("app.kubernetes.io/part-of", "redis-mesh")];
        ConfigMap {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                labels: Some(labels.map(|(name, value)| (name.to_owned(), value.to_owned())).into()),
                annotations: Some([(SINCE.to_owned(), since.to_string())].into()),
                ..ObjectMeta::default()
            },
            binary_data: Some([(self.name.clone(), ByteString(self.file.clone()))].into()),
            ..ConfigMap::default()
        }
    }
}

fn file_of(map: Option<ConfigMap>) -> Option<String> {
    map?.binary_data?.into_keys().next()
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map(|since| since.as_secs()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_that_no_config_map_carries_is_refused_in_words() {
        assert_eq!(check_size(MAX_CONFIG_MAP), Ok(()));
        let problem = check_size(MAX_CONFIG_MAP + 1).unwrap_err();
        let text = problem.to_string();
        assert_eq!(problem.code, Code::ModuleTooLarge);
        for word in ["1040001", "1040000", "image volume", "init container", "--module-path"] {
            assert!(text.contains(word), "{word} is missing in {text}");
        }
    }
}
