//! Two revisions of istiod that serve the sidecars of one mesh.

use anyhow::{Context, Result, ensure};

use super::Test;
use super::conditions::{single, wait_condition};
use super::installations::wait_unready;
use super::mission::{CLIENT_AUTH, PREFIX_ROUTING, SERVER_AUTH, ensure_routed, redis_cluster, soon};
use super::outages::controller;
use crate::control_plane::{MESH, publish_mesh_config};
use crate::mesh::{Mesh, PATIENCE, eventually};
use crate::operator::controller::{NAMESPACE, Options};
use crate::pod::{Pod, Shape};
use crate::revision::CANARY;

/// The tests.
pub const TESTS: &[Test] = &[("revisions::both_follow", both_follow)];

/// Permits the controller to read the mesh configuration of the other revision, as the chart does for
/// `istio.otherRevisions`.
const PERMISSION: &str = "
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: other-revision, namespace: istio-system}
rules:
  - {apiGroups: [''], resources: [configmaps], resourceNames: [istio-canary], verbs: [get]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: other-revision, namespace: istio-system}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: other-revision}
subjects: [{kind: ServiceAccount, name: redis-mesh, namespace: redis-mesh-system}]
";

/// The sidecars of both follow the same objects, on `direct` and on `proxy`, also a change. A revision with
/// another root namespace is told, and what is in force stays.
fn both_follow(mesh: &mut Mesh) -> Result<()> {
    mesh.plane.kubectl(&["apply", "-f", "-"], PERMISSION)?;
    let istiod = mesh.plane.start_revision(&CANARY)?;
    let shape =
        Shape { name: "canary-client", namespace: "redis", app: "client", host: 64, sidecar: true, module: false };
    let canary = Pod::start_of(&mesh.plane, &mesh.network, &shape, CANARY)?;
    let options =
        || Options { arguments: ["--other-revision", "canary"].map(str::to_owned).into(), ..Options::default() };
    controller(mesh)?.restart_as(options())?;
    let stable = std::mem::replace(&mut mesh.client, canary);
    let result = (|| {
        mesh.apply(&format!("{SERVER_AUTH}---\n{CLIENT_AUTH}---\n{}---\n{PREFIX_ROUTING}", redis_cluster()))?;
        for object in [mesh.api().list("WasmPlugin")?, mesh.api().list("EnvoyFilter")?].concat() {
            let label = &object["metadata"]["labels"]["istio.io/rev"];
            ensure!(label.is_null(), "{} is for the revision {label} only", object["metadata"]["name"]);
        }
        Ok(())
    })();
    let result = result.and_then(|()| followed(mesh, "testredis123!")).context("in the canary's sidecar");
    let canary = std::mem::replace(&mut mesh.client, stable);
    let result = result.and_then(|()| followed(mesh, "testredis123!")).and_then(|()| differs(mesh, options()));
    mesh.plane.kubectl(&["-n", "istio-system", "delete", "configmap", "istio-canary"], "")?;
    mesh.plane.kubectl(&["-n", "istio-system", "delete", "role,rolebinding", "other-revision"], "")?;
    let said = canary.sidecar()?.log();
    canary.delete()?;
    drop(istiod);
    controller(mesh)?.restart_as(Options::default())?;
    result.with_context(|| format!("the canary's sidecar said:\n{said}"))
}

fn followed(mesh: &Mesh, password: &str) -> Result<()> {
    soon(
        mesh,
        "redis-single",
        &[("get a", "(error) NOAUTH Authentication required."), (&format!("auth {password}"), "OK"), ("set a a", "OK")],
    )?;
    eventually(PATIENCE, || ensure_routed(mesh))
}

/// A revision whose mesh configuration names another root namespace.
fn differs(mesh: &mut Mesh, options: Options) -> Result<()> {
    wait_condition(mesh, &single("RedisService"), "Programmed", "True")?;
    let other = MESH.replace("rootNamespace: istio-system", &format!("rootNamespace: {NAMESPACE}"));
    publish_mesh_config(mesh.api(), &CANARY.config_map(), &other)?;
    controller(mesh)?.begin_as(options)?;
    wait_unready(controller(mesh)?, &["different root namespaces", "istio-canary names redis-mesh-system"])?;
    followed(mesh, "testredis123!")
}
