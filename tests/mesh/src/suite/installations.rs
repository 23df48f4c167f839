//! Where a controller writes, and whether it may: Istio's root namespace, and other installations.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::Test;
use super::conditions::{single, wait_condition};
use super::mission::{CLIENT_AUTH, SERVER_AUTH, session, soon};
use super::outages::controller;
use super::refusal::while_refused;
use crate::api::ObjectName;
use crate::control_plane::ROOT_NAMESPACE;
use crate::mesh::{Mesh, PATIENCE, eventually};
use crate::operator::Controller;
use crate::operator::controller::Options;
use crate::traffic::Traffic;

/// The tests.
pub const TESTS: &[Test] = &[
    ("installations::wrong_root_namespace", wrong_root_namespace),
    ("installations::root_namespace_from_istio", root_namespace_from_istio),
    ("installations::root_namespace_moves", root_namespace_moves),
    ("installations::second_one_stands_by", second_one_stands_by),
];

const LOGIN: [(&str, &str); 2] = [("auth testredis123!", "OK"), ("get a", "\"a\"")];
/// The namespace of the second installation.
const OTHER: &str = "redis-mesh-other";

/// Names, versions and specs of the rendered objects.
fn rendered(mesh: &Mesh) -> Result<Vec<Value>> {
    let objects = [mesh.api().list("WasmPlugin")?, mesh.api().list("EnvoyFilter")?].concat();
    let of = |object: &Value| json!([object["metadata"]["namespace"], object["metadata"]["name"], object["spec"]]);
    let is_beacon = |object: &&Value| object["metadata"]["name"] == "redis-mesh-beacon";
    Ok(objects.iter().filter(|object| !is_beacon(object)).map(of).collect())
}

fn config_map() -> ObjectName {
    ObjectName::new("ConfigMap", ROOT_NAMESPACE, "istio")
}

fn governed(mesh: &mut Mesh) -> Result<()> {
    mesh.apply(&format!("{SERVER_AUTH}---\n{CLIENT_AUTH}"))?;
    wait_condition(mesh, &single("RedisService"), "Programmed", "True")?;
    soon(mesh, "redis-single", &[("auth testredis123!", "OK"), ("set a a", "OK")])
}

/// Waits until a replica says why it isn't ready.
pub(super) fn wait_unready(controller: &Controller, words: &[&str]) -> Result<()> {
    eventually(PATIENCE, || {
        let (status, text) = controller.readiness()?;
        let says = words.iter().all(|word| text.contains(word));
        ensure!(status == 503 && says, "/readyz: {status} {text}");
        Ok(())
    })
}

/// A namespace that doesn't exist, one that isn't Istio's, and none where Istio's configuration can't
/// be read: whatever was in force stays, and clients are asked for their password as before.
fn wrong_root_namespace(mesh: &mut Mesh) -> Result<()> {
    governed(mesh)?;
    let before = rendered(mesh)?;
    mesh.api().apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: web}\n")?;
    let traffic = Traffic::start(&mesh.client, "redis-single", Some("testredis123!"), &["k-"])?;
    let text = mesh.api().get(&config_map())?.context("no mesh configuration")?["data"]["mesh"].clone();
    for (given, configured, words) in [
        (Some("istio-sytsem"), true, ["--root-namespace is istio-sytsem", "names istio-system"]),
        (Some("web"), true, ["--root-namespace is web", "names istio-system"]),
        (Some("istio-sytsem"), false, ["istio-sytsem", "doesn't exist"]),
        (None, false, ["mesh configuration can't be read", "ConfigMap istio-system/istio"]),
    ] {
        if !configured {
            mesh.api().delete(&config_map())?;
        }
        let options = Options { root_namespace: given.map(str::to_owned), ..Options::default() };
        controller(mesh)?.begin_as(options)?;
        wait_unready(controller(mesh)?, &words)?;
        ensure!(controller(mesh)?.log().contains(words[0]), "the log doesn't say {:?}", words[0]);
        // As long as a leader needs to take the Lease and to write.
        std::thread::sleep(Duration::from_secs(3));
        ensure!(rendered(mesh)? == before, "objects were changed with --root-namespace {given:?}");
        ensure!(session(mesh, "redis-single", &[("get a", "\"a\"")]).is_err(), "answered without a password");
        session(mesh, "redis-single", &LOGIN)?;
        let events = mesh.api().list("Event")?;
        let told = events.iter().any(|event| {
            event["reason"] == "RootNamespaceUnknown"
                && event["message"].as_str().is_some_and(|note| note.contains(words[1]))
        });
        ensure!(told, "no Event says {:?}", words[1]);
        let metadata = json!({"name": "istio", "namespace": ROOT_NAMESPACE});
        let data = json!({"mesh": text});
        mesh.api()
            .apply_object(&json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}))?;
    }
    controller(mesh)?.restart_as(Options::default())?;
    traffic.wait_right(100)?;
    traffic.stop()?.ensure_calm()?;
    ensure!(rendered(mesh)?.len() == before.len(), "objects are missing");
    Ok(())
}

/// Without the argument, Istio's configuration says where to write. When it can't be read any more,
/// what it said holds.
fn root_namespace_from_istio(mesh: &mut Mesh) -> Result<()> {
    controller(mesh)?.restart_as(Options { root_namespace: None, ..Options::default() })?;
    governed(mesh)?;
    let objects = rendered(mesh)?;
    ensure!(!objects.is_empty() && objects.iter().all(|object| object[0] == ROOT_NAMESPACE), "{objects:?}");
    let log = controller(mesh)?.log();
    ensure!(log.contains("names its root namespace"), "the log doesn't say where the namespace is known from");
    let text = mesh.api().get(&config_map())?.context("no mesh configuration")?["data"].clone();
    mesh.api().delete(&config_map())?;
    mesh.delete(&[single("RedisService")])?;
    let result = soon(mesh, "redis-single", &[("get a", "\"a\"")]);
    let metadata = json!({"name": "istio", "namespace": ROOT_NAMESPACE});
    mesh.api().apply_object(&json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": text}))?;
    result
}

/// Rules move to another root namespace only as they have been written there: where they can't be,
/// they stay.
fn root_namespace_moves(mesh: &mut Mesh) -> Result<()> {
    governed(mesh)?;
    let before = rendered(mesh)?;
    // A namespace that exists and takes no objects of Istio's.
    mesh.api().apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: next-root}\n")?;
    let result = while_refused(mesh, "next-root", |mesh| {
        configure(mesh, "next-root")?;
        let options = Options { root_namespace: None, ..Options::default() };
        mesh.plane.kubectl(&["apply", "--server-side", "-f", "-"], &lease_role("next-root"))?;
        controller(mesh)?.restart_as(options)?;
        let (reason, message) = wait_condition(mesh, &single("RedisService"), "Programmed", "False")?;
        ensure!(reason == "ApplyFailed" && message.contains("next-root"), "{reason}: {message}");
        let after = rendered(mesh)?;
        for object in &before {
            ensure!(after.contains(object), "{} was deleted or changed", object[1]);
        }
        session(mesh, "redis-single", &LOGIN)
    });
    configure(mesh, ROOT_NAMESPACE)?;
    controller(mesh)?.restart_as(Options::default())?;
    result?;
    eventually(PATIENCE, || {
        let after = rendered(mesh)?;
        ensure!(after.iter().all(|object| object[0] == ROOT_NAMESPACE), "{after:?}");
        Ok(())
    })?;
    session(mesh, "redis-single", &LOGIN)
}

/// Permits the Lease of the mesh in another root namespace, and looking at it.
fn lease_role(namespace: &str) -> String {
    format!(
        "
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {{name: mesh-lease, namespace: {namespace}}}
rules:
  - {{apiGroups: [coordination.k8s.io], resources: [leases], verbs: [create, get, update]}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{name: mesh-lease, namespace: {namespace}}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: mesh-lease}}
subjects: [{{kind: ServiceAccount, name: redis-mesh, namespace: redis-mesh-system}}]
"
    )
}

/// Has Istio's mesh configuration name a root namespace.
fn configure(mesh: &Mesh, root: &str) -> Result<()> {
    let mesh_config = format!("rootNamespace: {root}\ntrustDomain: cluster.local\n");
    mesh.api().merge(&config_map(), &json!({"data": {"mesh": mesh_config}})).map(drop)
}

/// A second installation writes nothing until it is told to, and says so. Then it takes over what the
/// first one has written, and the first one stands by.
fn second_one_stands_by(mesh: &mut Mesh) -> Result<()> {
    governed(mesh)?;
    let traffic = Traffic::start(&mesh.client, "redis-single", Some("testredis123!"), &["k-"])?;
    let before = rendered(mesh)?;
    let options = Options { name: "redis-mesh-1".into(), namespace: OTHER.into(), port: 8081, ..Options::default() };
    let second = Controller::launch(&mesh.plane, options)?;
    wait_unready(&second, &["standing by", "redis-mesh-system/redis-mesh", "kubectl -n istio-system annotate lease"])?;
    std::thread::sleep(Duration::from_secs(10));
    ensure!(second.log().contains("standing by"), "the log doesn't say that it stands by");
    ensure!(second.metric("redis_mesh_controller_applies_total")? == 0.0, "the second one writes");
    ensure!(rendered(mesh)? == before, "objects were changed");

    let (_, text) = second.readiness()?;
    let command = text.split("kubectl ").nth(1).context("no command")?.trim().to_owned();
    mesh.plane.kubectl(&command.split(' ').collect::<Vec<_>>(), "")?;
    eventually(PATIENCE, || {
        let (status, text) = second.readiness()?;
        ensure!(status == 200, "{text}");
        let (_, text) = controller(mesh)?.readiness()?;
        ensure!(text.contains("standing by") && text.contains(OTHER), "the first one says {text}");
        let objects = [mesh.api().list("WasmPlugin")?, mesh.api().list("EnvoyFilter")?].concat();
        let labels = objects.iter().map(|object| &object["metadata"]["labels"]["redis-mesh.io/controller"]);
        let labels: Vec<&Value> = labels.filter(|label| !label.is_null()).collect();
        ensure!(labels.iter().all(|label| **label == OTHER), "{labels:?}");
        Ok(())
    })?;
    // A change is now the second one's to make, and a deletion too.
    mesh.delete(&[single("RedisService")])?;
    soon(mesh, "redis-single", &[("get a", "\"a\"")])?;
    mesh.apply(CLIENT_AUTH)?;
    soon(mesh, "redis-single", &LOGIN)?;

    // Gone without a word: it is still the second one's mesh, until somebody says otherwise.
    drop(second);
    let annotation = "redis-mesh.io/hand-over-to=redis-mesh-system/redis-mesh";
    let lease = ["-n", "istio-system", "annotate", "lease", "redis-mesh-installation", "--overwrite", annotation];
    mesh.plane.kubectl(&lease, "")?;
    eventually(Duration::from_secs(40), || {
        let metrics = controller(mesh)?.metrics()?;
        ensure!(metrics.contains("redis_mesh_controller_leader 1\n"), "the first one doesn't lead again");
        Ok(())
    })?;
    mesh.delete(&[single("RedisService")])?;
    soon(mesh, "redis-single", &[("get a", "\"a\"")])?;
    traffic.stop()?;
    Ok(())
}
