//! The clients that an object governs.
//!
//! An object in the namespace of the Service that it names governs every client of it. An object
//! in another namespace governs the clients of that namespace.

use std::fmt;

use kube::Resource;

use crate::diagnostic::{Loaded, Subject};

use super::host::HostName;

/// The clients that an object governs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ClientScope {
    /// All clients in the mesh.
    Mesh,
    /// The clients in one namespace.
    Namespace(String),
}

impl ClientScope {
    /// The clients that an object in `namespace` governs for a host.
    pub fn of(name: &HostName, namespace: &str) -> ClientScope {
        match name.namespace() {
            Some(owner) if owner == namespace => ClientScope::Mesh,
            // A host outside of the cluster belongs to no namespace.
            _ => ClientScope::Namespace(namespace.to_owned()),
        }
    }

    /// True if clients in a namespace are among them.
    pub fn includes(&self, namespace: &str) -> bool {
        match self {
            ClientScope::Mesh => true,
            ClientScope::Namespace(own) => own == namespace,
        }
    }
}

impl fmt::Display for ClientScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClientScope::Mesh => f.write_str("every client"),
            ClientScope::Namespace(namespace) => write!(f, "the clients in namespace {namespace}"),
        }
    }
}

/// An object as the subject of messages.
pub fn subject<K: Resource<DynamicType = ()>>(loaded: &Loaded<K>) -> Subject {
    let meta = loaded.object.meta();
    let name =
        format!("{}/{}", meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default());
    Subject { origin: loaded.origin.clone(), kind: K::kind(&()).into_owned(), name }
}

/// The namespace of an object.
pub fn namespace<K: Resource<DynamicType = ()>>(loaded: &Loaded<K>) -> String {
    loaded.object.meta().namespace.clone().unwrap_or_default()
}

/// Another object as messages name it, with its place in the input.
pub fn described(other: &Subject) -> String {
    match other.origin.file.as_str() {
        "" => format!("{} {}", other.kind, other.name),
        file => format!("{} {} ({file}:{})", other.kind, other.name, other.origin.line),
    }
}
