//! The clients that an object governs.
//!
//! An object in the namespace of the Service that it names governs every client of it. An object
//! in another namespace governs the clients of that namespace.

use std::fmt;

use kube::Resource;

use crate::diagnostic::{Loaded, Subject};
use crate::exports::Exports;
use crate::inventory::{self, Inventory};

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

/// The clients of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceClients {
    /// The clients that the object may govern.
    pub scope: ClientScope,
    /// The namespaces of those whom it reaches.
    pub exports: Exports,
}

impl ServiceClients {
    /// The clients of a host, as the object in `namespace` and the host's own Service export it.
    pub fn of(name: &HostName, namespace: &str, object: &Exports, inventory: &Inventory) -> ServiceClients {
        let exports = object.and(&inventory::exports(inventory, name.service.as_ref()));
        ServiceClients { scope: ClientScope::of(name, namespace), exports: Exports::default() }.within(&exports)
    }

    /// Those of the clients who are in these namespaces.
    pub fn within(&self, exports: &Exports) -> ServiceClients {
        let exports = match &self.scope {
            ClientScope::Mesh => self.exports.and(exports),
            ClientScope::Namespace(own) if exports.includes(own) => self.exports.clone(),
            ClientScope::Namespace(_) => Exports::nobody(),
        };
        ServiceClients { scope: self.scope.clone(), exports }
    }

    /// True if clients in a namespace are among them.
    pub fn includes(&self, namespace: &str) -> bool {
        self.scope.includes(namespace) && self.exports.includes(namespace)
    }

    /// True if all of them are in these namespaces.
    pub fn are_within(&self, exports: &Exports) -> bool {
        self.within(exports) == *self
    }
}

impl fmt::Display for ServiceClients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.exports.namespaces() {
            None => self.scope.fmt(f),
            Some(_) => write!(f, "the clients in {}", self.exports),
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::exports::DefaultExports;
    use crate::inventory::NamespacedName;

    const HOST: &str = "redis.data.svc.cluster.local";

    /// The clients of a Service with this annotation, in a mesh with this default.
    fn clients(annotation: Option<&str>, default: &[&str]) -> String {
        let mut inventory = Inventory::default();
        let annotations = annotation.map(|words| json!({inventory::EXPORT_TO: words}));
        let metadata = json!({"namespace": "data", "name": "redis", "annotations": annotations});
        inventory.add_service(serde_json::from_value(json!({"metadata": metadata})).unwrap());
        let services = default.iter().map(|word| word.to_string()).collect();
        inventory.default_exports = DefaultExports { services, rules: vec!["web".to_owned()] };
        let name = HostName { host: HOST.to_owned(), service: Some(NamespacedName::new("data", "redis")) };
        ServiceClients::of(&name, "data", &Exports::default(), &inventory).exports.to_string()
    }

    #[test]
    fn a_service_that_says_nothing_is_exported_as_the_mesh_says() {
        assert_eq!(clients(None, &[]), "every namespace");
        assert_eq!(clients(None, &["."]), "namespace data");
        assert_eq!(clients(None, &[".", "shop"]), "namespaces data, shop");
        assert_eq!(clients(Some("*"), &["."]), "every namespace");
        assert_eq!(clients(Some("shop"), &["."]), "namespace shop");
        assert_eq!(clients(Some("shop"), &[]), "namespace shop");
    }

    /// A ServiceEntry that is no client's of its namespace makes another Redis of the host for nobody.
    #[test]
    fn so_is_a_service_entry() {
        let overriding = |exports: serde_json::Value, default: &str| {
            let mut inventory = Inventory::default();
            let spec = json!({"hosts": [HOST], "exportTo": exports});
            let entry = json!({"metadata": {"namespace": "shop", "name": "mine"}, "spec": spec});
            inventory.add_entry(&serde_json::from_value(entry).unwrap());
            inventory.default_exports.services = vec![default.to_owned()];
            inventory::overriding(&inventory, HOST, "data").count() > 0
        };
        assert!(overriding(json!([]), ".") && overriding(json!(["."]), "~") && overriding(json!([]), "*"));
        assert!(!overriding(json!([]), "~") && !overriding(json!([]), "web") && !overriding(json!(["web"]), "*"));
    }
}
