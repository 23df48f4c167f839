//! A change of an object that the store keeps.

use k8s_openapi::api::core::v1::{Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::DynamicObject;

use crate::discovery::DiscoveryChange;
use crate::exports::DefaultExports;
use crate::inventory::NamespacedName;

use super::names::{ObjectKey, ObjectKind};

/// A change of an object in the cluster, as a watch reports it.
pub enum StoreChange {
    /// A RedisService or RedisDestination exists or has changed.
    Object(ObjectKind, Box<DynamicObject>),
    /// A RedisService or RedisDestination was deleted.
    ObjectGone(ObjectKey),
    /// A Service exists or has changed.
    Service(Box<Service>),
    /// A Service was deleted.
    ServiceGone(NamespacedName),
    /// An EndpointSlice exists or has changed.
    Slice(Box<EndpointSlice>),
    /// An EndpointSlice was deleted; the name is its own, not that of its Service.
    SliceGone(NamespacedName),
    /// A ServiceEntry exists or has changed.
    Entry(Box<DynamicObject>),
    /// A ServiceEntry was deleted.
    EntryGone(NamespacedName),
    /// A DestinationRule exists or has changed.
    Rule(Box<DynamicObject>),
    /// A DestinationRule was deleted.
    RuleGone(NamespacedName),
    /// A Sidecar exists or has changed.
    Sidecar(Box<DynamicObject>),
    /// A Sidecar was deleted.
    SidecarGone(NamespacedName),
    /// An EnvoyFilter of a user exists or has changed.
    UserFilter(Box<DynamicObject>),
    /// An EnvoyFilter of a user was deleted.
    UserFilterGone(NamespacedName),
    /// The mesh says to whom objects are exported that don't say it.
    DefaultExports(DefaultExports),
    /// Something has changed by which istiod looks at a namespace or not.
    Discovery(DiscoveryChange),
    /// A Secret exists or has changed.
    Secret(Box<Secret>),
    /// A Secret was deleted.
    SecretGone(NamespacedName),
}
