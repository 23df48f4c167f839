//! Names of the objects that the controller reads and writes, and the API resources by which it
//! asks for them.

use std::fmt;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::api::{ApiResource, GroupVersionKind};

use crate::crd;
use crate::diagnostic::Subject;
use crate::inventory::NamespacedName;
use crate::render::planned_object::PlannedObject;
use crate::render::{envoy_filter, wasm_plugin};

/// The field manager under which the controller writes.
pub const FIELD_MANAGER: &str = "redis-mesh";
/// The prefix of the annotations and labels that redis-mesh reads and writes.
pub const OWN_ANNOTATIONS: &str = "redis-mesh.io/";
/// Annotation of a rendered object: the digest of its content without the revision.
pub const DIGEST: &str = "redis-mesh.io/digest";
/// Annotation of a rendered object: the revision of its content.
pub const REVISION: &str = "redis-mesh.io/revision";
/// Label of a rendered object: the namespace of the controller that keeps it.
pub const CONTROLLER: &str = "redis-mesh.io/controller";

/// A kind of object that the controller reconciles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKind {
    /// RedisService.
    Service,
    /// RedisDestination.
    Destination,
}

impl ObjectKind {
    /// The kind as Kubernetes names it.
    pub fn name(self) -> &'static str {
        match self {
            ObjectKind::Service => "RedisService",
            ObjectKind::Destination => "RedisDestination",
        }
    }

    /// The API resource of the kind.
    pub fn resource(self) -> ApiResource {
        let version = crd::API_VERSION.rsplit('/').next().unwrap_or_default();
        resource(crd::GROUP, version, self.name())
    }
}

/// The identity of a RedisService or a RedisDestination.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObjectKey {
    /// The kind.
    pub kind: ObjectKind,
    /// Namespace and name.
    pub name: NamespacedName,
}

impl ObjectKey {
    /// Smaller than the key of any object.
    pub const FIRST: ObjectKey =
        ObjectKey { kind: ObjectKind::Service, name: NamespacedName { namespace: String::new(), name: String::new() } };

    /// The RedisService or RedisDestination that a message is about; none for other subjects.
    pub fn of(subject: &Subject) -> Option<ObjectKey> {
        let kinds = [ObjectKind::Service, ObjectKind::Destination];
        let kind = kinds.into_iter().find(|kind| kind.name() == subject.kind)?;
        let (namespace, name) = subject.name.split_once('/')?;
        Some(ObjectKey { kind, name: NamespacedName::new(namespace, name) })
    }

    /// The object as the subject of messages.
    pub fn subject(&self) -> Subject {
        Subject { kind: self.kind.name().to_owned(), name: self.name.to_string(), ..Subject::default() }
    }

    /// The object as Events refer to it.
    pub fn reference(&self, uid: Option<String>) -> ObjectReference {
        ObjectReference {
            api_version: Some(crd::API_VERSION.to_owned()),
            kind: Some(self.kind.name().to_owned()),
            name: Some(self.name.name.clone()),
            namespace: Some(self.name.namespace.clone()),
            uid,
            ..ObjectReference::default()
        }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.name(), self.name)
    }
}

/// The identity of a rendered object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RenderedKey {
    /// `WasmPlugin` or `EnvoyFilter`.
    pub kind: &'static str,
    /// Namespace and name.
    pub name: NamespacedName,
}

impl RenderedKey {
    /// The identity of a planned object.
    pub fn of(planned: &PlannedObject) -> RenderedKey {
        RenderedKey { kind: planned.kind(), name: NamespacedName::new(&planned.namespace, &planned.name) }
    }
}

impl fmt::Display for RenderedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

/// The API resource of a kind for which the crate has no type.
pub fn resource(group: &str, version: &str, kind: &str) -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind))
}

/// The API resource of a kind that is rendered.
pub fn rendered_resource(kind: &str) -> ApiResource {
    match kind {
        wasm_plugin::KIND => resource("extensions.istio.io", "v1alpha1", wasm_plugin::KIND),
        _ => resource("networking.istio.io", "v1alpha3", envoy_filter::KIND),
    }
}
