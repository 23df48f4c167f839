//! Writes and deletes rendered objects.

use std::sync::Arc;

use kube::Client;
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use redis_mesh_core::hex::to_hex;
use redis_mesh_core::wire;
use serde_json::Value;

use crate::inventory::NamespacedName;
use crate::render::envoy_filter;
use crate::render::marker;
use crate::render::mesh_options::MeshOptions;
use crate::render::planned_object::{ObjectContent, PlannedObject};
use crate::render::prepared_service::PreparedService;

use super::digest::{ContentDigest, digest};
use super::names::{CONTROLLER, DIGEST, FIELD_MANAGER, REVISION, RenderedKey, rendered_resource};
use super::place::move_to;

/// A request that brings one object into the planned state.
pub enum Operation {
    /// Writes an object. It is built when its turn has come: of thousands, only a few at a time.
    Apply {
        /// The object.
        key: RenderedKey,
        /// The plan of it.
        planned: Arc<PlannedObject>,
        /// The revision of its content.
        revision: u64,
        /// The digest of its content without the revision.
        digest: ContentDigest,
        /// True if the object was as planned and somebody has changed it.
        repairs: bool,
    },
    /// Deletes an object.
    Delete(RenderedKey),
}

impl Operation {
    /// The object.
    pub fn key(&self) -> &RenderedKey {
        match self {
            Operation::Apply { key, .. } | Operation::Delete(key) => key,
        }
    }

    /// The plan of the object; none if it is deleted.
    pub fn planned(&self) -> Option<&Arc<PlannedObject>> {
        match self {
            Operation::Apply { planned, .. } => Some(planned),
            Operation::Delete(_) => None,
        }
    }

    /// The same operation for a WasmPlugin that keeps these hosts for now.
    pub fn keeping(self, hosts: Vec<wire::Host>) -> Operation {
        let services = match self.planned().map(|planned| &planned.content) {
            Some(ObjectContent::Plugin { prepared_services, .. }) => prepared_services.clone(),
            _ => return self,
        };
        self.with_only(services, hosts)
    }

    /// The same operation for a WasmPlugin that has only these services, and keeps these hosts for
    /// now. Its digest is not the planned one, so that it doesn't count as being as planned.
    pub fn with_only(self, prepared_services: Vec<Arc<PreparedService>>, hosts: Vec<wire::Host>) -> Operation {
        let Operation::Apply { key, planned, revision, digest, repairs } = self else { return self };
        let ObjectContent::Plugin { port, refused, kept, .. } = &planned.content else {
            return Operation::Apply { key, planned, revision, digest, repairs };
        };
        let kept = [kept.as_slice(), hosts.as_slice()].concat();
        let content = ObjectContent::Plugin { port: *port, prepared_services, refused: refused.clone(), kept };
        let (namespace, name, clients) = (planned.namespace.clone(), planned.name.clone(), planned.clients.clone());
        let planned = Arc::new(PlannedObject { namespace, name, clients, content });
        Operation::Apply { key, planned, revision, digest: ContentDigest::default(), repairs }
    }

    /// True if the object was as planned and somebody has changed it.
    pub fn repairs(&self) -> bool {
        matches!(self, Operation::Apply { repairs: true, .. })
    }
}

/// A built object with the marks by which controllers know it.
pub(super) fn marked(mut object: Value, controller: &str, digest: ContentDigest, revision: u64) -> Value {
    object["metadata"]["labels"][CONTROLLER] = controller.into();
    object["metadata"]["annotations"][DIGEST] = to_hex(&digest).into();
    object["metadata"]["annotations"][REVISION] = revision.to_string().into();
    object
}

/// The result of an operation.
pub enum Performed {
    /// The object was written, with content of this digest.
    Applied(Box<DynamicObject>, ContentDigest),
    /// The object doesn't exist any more.
    Deleted,
}

/// Performs operations.
#[derive(Clone)]
pub struct Applier {
    client: Client,
    /// The namespace of the controller, by which it marks its objects.
    controller: String,
}

impl Applier {
    /// Creates an applier for the controller in this namespace.
    pub fn new(client: Client, controller: String) -> Applier {
        Applier { client, controller }
    }

    /// Performs an operation.
    pub async fn perform(&self, operation: Operation, options: &MeshOptions) -> Result<Performed, kube::Error> {
        match operation {
            Operation::Apply { key, planned, revision, digest, .. } => {
                let object = marked(planned.build(options, revision), &self.controller, digest, revision);
                let object = self.apply(&key, object).await?;
                Ok(Performed::Applied(Box::new(object), digest))
            }
            Operation::Delete(key) => self.delete(&key).await.map(|()| Performed::Deleted),
        }
    }

    /// Deletes an object, if there is one.
    pub async fn delete(&self, key: &RenderedKey) -> Result<(), kube::Error> {
        match self.api(key).delete(&key.name.name, &DeleteParams::default()).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Reads an object; none if there is none.
    pub async fn read(&self, key: &RenderedKey) -> Result<Option<DynamicObject>, kube::Error> {
        self.api(key).get_opt(&key.name.name).await
    }

    /// Has an EnvoyFilter patch these listeners instead of the ones that it patches, and leaves it as it is
    /// otherwise. It doesn't count as being as planned afterwards.
    pub async fn relocate(&self, key: &RenderedKey, listeners: &[String]) -> Result<DynamicObject, kube::Error> {
        let api = self.api(key);
        let mut object = api.get(&key.name.name).await?;
        if let Some(Value::Array(patches)) = object.data.pointer_mut("/spec/configPatches") {
            move_to(patches, listeners);
        }
        object.metadata.annotations.get_or_insert_default().remove(DIGEST);
        // The replacement names the version that it follows, so it undoes no other write.
        let parameters = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        api.replace(&key.name.name, &parameters, &object).await
    }

    /// Has istiod send all filter configurations again.
    pub async fn light_beacon(&self, root_namespace: &str, revision: u64) -> Result<(), kube::Error> {
        let object = envoy_filter::beacon(root_namespace, revision);
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let key = RenderedKey { kind: envoy_filter::KIND, name: NamespacedName::new(root_namespace, name) };
        self.apply(&key, object).await.map(drop)
    }

    /// Writes the marker of a batch.
    pub async fn mark(&self, root_namespace: &str, number: u64, content: &str) -> Result<(), kube::Error> {
        let name = NamespacedName::new(root_namespace, marker::NAME);
        let key = RenderedKey { kind: envoy_filter::KIND, name };
        self.apply(&key, marker::envoy_filter(root_namespace, number, content)).await.map(drop)
    }

    fn api(&self, key: &RenderedKey) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &key.name.namespace, &rendered_resource(key.kind))
    }

    /// Writes by server-side apply. Fields that somebody else has added to the spec are removed.
    pub async fn apply(&self, key: &RenderedKey, object: Value) -> Result<DynamicObject, kube::Error> {
        let api = self.api(key);
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        let applied = api.patch(&key.name.name, &parameters, &Patch::Apply(&object)).await?;
        if digest(&applied.data["spec"]) == digest(&object["spec"]) {
            return Ok(applied);
        }
        let mut replaced = applied.clone();
        replaced.data["spec"] = object["spec"].clone();
        let parameters = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        api.replace(&key.name.name, &parameters, &replaced).await
    }
}
