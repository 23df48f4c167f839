//! Pods: a network namespace, the API objects for Istio, a sidecar, a Redis.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result};
use redis_mesh_tests::client::{Client, PATIENCE};
use redis_mesh_tests::netns::Namespace;
use redis_mesh_tests::redis::{Options, Redis};
use serde_json::{Value, json};

use crate::api::{Api, ObjectName};
use crate::control_plane::ControlPlane;
use crate::network::{Network, Wire};
use crate::revision::{DEFAULT, Revision};
use crate::sidecar::{ProxyRole, Sidecar};

/// The properties of a pod.
#[derive(Clone, Debug)]
pub struct Shape<'a> {
    /// The name.
    pub name: &'a str,
    /// The Kubernetes namespace.
    pub namespace: &'a str,
    /// The label `app`.
    pub app: &'a str,
    /// The last number of the address in 10.244.0.0/24.
    pub host: u8,
    /// Whether the pod has a sidecar.
    pub sidecar: bool,
    /// Whether the sidecar has the dynamic module.
    pub module: bool,
}

/// A pod. Dropping it ends its processes and removes its network namespace; [`Pod::delete`]
/// removes its objects too.
#[derive(Debug)]
pub struct Pod {
    // Processes end before the namespace goes.
    sidecar: Option<Sidecar>,
    wire: Wire,
    name: ObjectName,
    network: Arc<Network>,
    api: Api,
}

impl Pod {
    /// Creates a pod with its sidecar, if it has one, and without any other process.
    pub fn start(plane: &ControlPlane, network: &Arc<Network>, shape: &Shape<'_>) -> Result<Pod> {
        Pod::start_of(plane, network, shape, DEFAULT)
    }

    /// Creates a pod whose sidecar is configured by an istiod of this revision.
    pub fn start_of(
        plane: &ControlPlane,
        network: &Arc<Network>,
        shape: &Shape<'_>,
        revision: Revision,
    ) -> Result<Pod> {
        Pod::start_with(plane, network, shape, ProxyRole::Sidecar(revision))
    }

    /// Creates the pod of a gateway, whose proxy takes connections of its own.
    pub fn gateway(plane: &ControlPlane, network: &Arc<Network>, shape: &Shape<'_>) -> Result<Pod> {
        Pod::start_with(plane, network, shape, ProxyRole::Gateway)
    }

    fn start_with(plane: &ControlPlane, network: &Arc<Network>, shape: &Shape<'_>, role: ProxyRole) -> Result<Pod> {
        let api = plane.api();
        let ip = Ipv4Addr::new(10, 244, 0, shape.host);
        let mut labels = json!({ "app": shape.app });
        if shape.sidecar {
            // As the injector does; by it istiod knows that this pod speaks mTLS.
            labels["security.istio.io/tlsMode"] = "istio".into();
        }
        if shape.module {
            labels["redis-mesh.io/native"] = "true".into();
        }
        let name = create(api, shape, ip, &labels).with_context(|| format!("creating the pod {}", shape.name))?;
        let wire = network.attach(shape.name, shape.namespace, ip)?;
        let mut pod = Pod { sidecar: None, wire, name, network: network.clone(), api: api.clone() };
        if shape.sidecar {
            pod.sidecar = Some(Sidecar::start(plane, &pod.wire, &pod.name, &labels, role)?);
        }
        Ok(pod)
    }

    /// The IP address.
    pub fn ip(&self) -> Ipv4Addr {
        self.wire.ip
    }

    /// The network namespace.
    pub fn network_namespace(&self) -> &Namespace {
        &self.wire.namespace
    }

    /// The name of the Pod object.
    pub fn name(&self) -> &ObjectName {
        &self.name
    }

    /// The sidecar. Fails if the pod has none.
    pub fn sidecar(&self) -> Result<&Sidecar> {
        self.sidecar.as_ref().with_context(|| format!("{} has no sidecar", self.name.name))
    }

    /// Returns a command that runs in the pod.
    pub fn command(&self, program: &str) -> Command {
        self.wire.namespace.command(program)
    }

    /// Resolves a host as the pod does.
    pub fn resolve(&self, host: &str) -> Result<IpAddr> {
        self.network.resolve(host, &self.name.namespace)
    }

    /// Connects from the pod to port 6379 of a host.
    pub fn client(&self, host: &str) -> Result<Client> {
        self.client_at(host, 6379)
    }

    /// Connects from the pod to a port of a host.
    pub fn client_at(&self, host: &str, port: u16) -> Result<Client> {
        let addr = SocketAddr::new(self.resolve(host)?, port);
        Client::over(self.wire.namespace.connect(addr, PATIENCE)?)
    }

    /// Starts a Redis in the pod, on port 6379 of its address.
    pub fn redis(&self, password: Option<&str>) -> Result<Redis> {
        Redis::start_with(Options {
            addr: Some(SocketAddr::new(self.ip().into(), 6379)),
            password: password.map(str::to_string),
            namespace: Some(self.wire.namespace.clone()),
            ..Options::default()
        })
    }

    /// Deletes the pod's objects and ends its processes.
    pub fn delete(self) -> Result<()> {
        self.api.delete(&self.name)
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        self.sidecar = None;
        self.network.detach(&self.wire);
    }
}

/// Creates the objects that scheduler, kubelet and controller-manager would write.
fn create(api: &Api, shape: &Shape<'_>, ip: Ipv4Addr, labels: &Value) -> Result<ObjectName> {
    let metadata = json!({ "name": shape.name, "namespace": shape.namespace, "labels": labels });
    api.apply_object(&json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": shape.namespace } }))?;
    let account = json!({ "name": "default", "namespace": shape.namespace });
    api.apply_object(&json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": account }))?;
    let name = api.apply_object(&json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {
            "serviceAccountName": "default",
            "nodeName": "node",
            "terminationGracePeriodSeconds": 0,
            // As the namespace of the controller wants it of every pod.
            "securityContext": { "runAsNonRoot": true, "seccompProfile": { "type": "RuntimeDefault" } },
            "containers": [{
                "name": shape.app,
                "image": "none",
                "securityContext": { "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] } },
            }],
        },
    }))?;
    let status = json!({
        "phase": "Running",
        "podIP": ip,
        "podIPs": [{ "ip": ip }],
        "conditions": [{ "type": "Ready", "status": "True" }],
    });
    api.merge_status(&name, &status)?;
    Ok(name)
}
