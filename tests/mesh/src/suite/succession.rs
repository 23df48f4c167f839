//! The state that a starting controller takes over: invalid objects, objects that a person has
//! rendered, another version's filter, definitions of Aeraki Mesh.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::Test;
use super::conditions::{single, wait_condition};
use super::mission::{CLIENT_AUTH, PREFIX_ROUTING, SERVER_AUTH, redis_cluster, session, soon};
use super::outages::controller;
use crate::api::ObjectName;
use crate::mesh::{Mesh, PATIENCE, eventually};
use crate::operator::{self, Controller};
use crate::traffic::Traffic;

/// The tests.
pub const TESTS: &[Test] = &[
    ("succession::last_good", last_good),
    ("succession::secret_is_gone", secret_is_gone),
    ("succession::rendered_by_hand", rendered_by_hand),
    ("succession::new_filter", new_filter),
    ("succession::stored_objects", stored_objects),
];

/// The objects that the controller keeps in the cluster.
fn kept(mesh: &Mesh) -> Result<Vec<Value>> {
    let objects = [mesh.api().list("WasmPlugin")?, mesh.api().list("EnvoyFilter")?].concat();
    let is_kept = |object: &Value| !object["metadata"]["labels"]["redis-mesh.io/controller"].is_null();
    Ok(objects.into_iter().filter(is_kept).collect())
}

/// Returns names, generations and specs.
fn essence(objects: &[Value]) -> Vec<Value> {
    let of = |object: &Value| json!([object["metadata"]["name"], object["metadata"]["generation"], object["spec"]]);
    objects.iter().map(of).collect()
}

fn expect(mesh: &Mesh, name: &ObjectName, kind: &str, status: &str, reason: &str, part: &str) -> Result<()> {
    eventually(PATIENCE, || {
        let (found, message) = wait_condition(mesh, name, kind, status)?;
        ensure!(found == reason && message.contains(part), "{name:?}: {kind} {found}: {message}");
        Ok(())
    })
}

/// The last good rules of an object that is invalid now stay in force, also under a controller
/// that never saw them.
fn last_good(mesh: &mut Mesh) -> Result<()> {
    // One host in a WasmPlugin with others, one in an EnvoyFilter of its own.
    mesh.apply(&format!("{SERVER_AUTH}---\n{CLIENT_AUTH}---\n{}---\n{PREFIX_ROUTING}", redis_cluster()))?;
    let names = [single("RedisService"), ObjectName::new("RedisService", "redis", "redis-cluster")];
    let lines = [("auth testredis123!", "OK"), ("set a a", "OK")];
    soon(mesh, "redis-single", &lines)?;
    for name in &names {
        wait_condition(mesh, name, "Programmed", "True")?;
    }
    let before = essence(&kept(mesh)?);
    for name in &names {
        mesh.api().merge(name, &json!({"metadata": {"annotations": {"redis-mesh.io/data-path": "sideways"}}}))?;
        expect(mesh, name, "Accepted", "False", "Invalid", "metadata.annotations[redis-mesh.io/data-path]")?;
        expect(mesh, name, "Programmed", "False", "LastGoodKept", "stays in force")?;
    }
    controller(mesh)?.restart()?;
    // Something else changes, in the very object where what is kept stands.
    mesh.api().apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: web}\n")?;
    mesh.apply(&CLIENT_AUTH.replace("redis-single", "external-redis"))?;
    for name in &names {
        expect(mesh, name, "Programmed", "False", "LastGoodKept", "left as it is")?;
    }
    session(mesh, "redis-single", &lines)?;
    session(mesh, "redis-cluster", &[("set other-x x", "OK")])?;
    ensure!(mesh.single.cmd(&["GET", "other-x"])?.text() == "x", "prefix routing is no longer in force");
    let after = essence(&kept(mesh)?);
    for object in &before {
        ensure!(after.contains(object), "{} was changed", object[0]);
    }
    for name in &names {
        mesh.api().merge(name, &json!({"metadata": {"annotations": null}}))?;
        wait_condition(mesh, name, "Programmed", "True")?;
    }
    session(mesh, "redis-single", &lines)
}

/// Credentials survive a restart.
fn secret_is_gone(mesh: &mut Mesh) -> Result<()> {
    mesh.apply(SERVER_AUTH)?;
    soon(mesh, "redis-single", &[("set a a", "OK")])?;
    let secret = ObjectName::new("Secret", "redis", "redis-service-secret");
    let held = mesh.api().get(&secret)?.context("no Secret")?;
    mesh.api().delete(&secret)?;
    let destination = single("RedisDestination");
    expect(mesh, &destination, "Programmed", "False", "LastGoodKept", "credentials included")?;
    controller(mesh)?.restart()?;
    expect(mesh, &destination, "Programmed", "False", "LastGoodKept", "left as it is")?;
    session(mesh, "redis-single", &[("get a", "\"a\"")])?;
    let metadata = json!({"name": "redis-service-secret", "namespace": "redis"});
    let again = json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": held["data"]});
    mesh.api().apply_object(&again)?;
    wait_condition(mesh, &destination, "Programmed", "True")?;
    session(mesh, "redis-single", &[("get a", "\"a\"")])
}

/// The controller takes over objects that a person has rendered if they are equal to its own, and
/// leaves others alone.
fn rendered_by_hand(mesh: &mut Mesh) -> Result<()> {
    controller(mesh)?.terminate();
    let labels = json!({"app.kubernetes.io/managed-by": "redis-mesh", "app.kubernetes.io/part-of": "redis-mesh"});
    let names = ["redis-mesh-redis-single.redis.svc-6379", "redis-mesh-of-somebody-6379"];
    let [own, other] = names.map(|name| ObjectName::new("EnvoyFilter", "istio-system", name));
    for name in names {
        let metadata = json!({"name": name, "namespace": "istio-system", "labels": labels});
        let spec = json!({"configPatches": []});
        let api_version = "networking.istio.io/v1alpha3";
        mesh.api().apply_object(
            &json!({"apiVersion": api_version, "kind": "EnvoyFilter", "metadata": metadata, "spec": spec}),
        )?;
    }
    controller(mesh)?.restart()?;
    mesh.apply(SERVER_AUTH)?;
    soon(mesh, "redis-single", &[("set a a", "OK")])?;
    mesh.delete(&[single("RedisDestination")])?;
    eventually(PATIENCE, || {
        ensure!(mesh.api().get(&own)?.is_none(), "what follows from nothing is still there");
        Ok(())
    })?;
    ensure!(mesh.api().get(&other)?.is_some(), "somebody else's object was deleted");
    mesh.delete(&[other])
}

/// Another version of the filter reaches the sidecars under another URL. Open connections stay,
/// and replicas of either version serve both.
fn new_filter(mesh: &mut Mesh) -> Result<()> {
    mesh.apply(&format!("{SERVER_AUTH}---\n{CLIENT_AUTH}---\n{}", redis_cluster()))?;
    soon(mesh, "redis-single", &[("auth testredis123!", "OK"), ("set a a", "OK")])?;
    soon(mesh, "redis-cluster", &[("set a a", "OK"), ("set b b", "OK")])?;
    let of_single = Traffic::start(&mesh.client, "redis-single", Some("testredis123!"), &["k-"])?;
    let of_cluster = Traffic::start(&mesh.client, "redis-cluster", None, &["k-"])?;
    let old = controller(mesh)?.filter_path()?;
    let options = operator::controller::Options {
        name: "redis-mesh-1".into(),
        port: 8081,
        filter: Some(operator::controller::another_filter()?),
        ..Default::default()
    };
    let mut second = Controller::start(&mesh.plane, options)?;
    let new = second.filter_path()?;
    ensure!(old != new, "both have the same filter");
    for path in [&old, &new] {
        let statuses = [controller(mesh)?.status(path)?, second.status(path)?];
        ensure!(statuses == [200, 200], "{path} is answered with {statuses:?}");
    }
    controller(mesh)?.terminate();
    eventually(PATIENCE, || {
        let objects = Value::Array(kept(mesh)?).to_string();
        ensure!(objects.contains(&new) && !objects.contains(&old), "not all objects name the new filter");
        let dump = mesh.client.sidecar()?.get("/config_dump?resource=ecds_filters")?;
        let sha256 = new.trim_start_matches("/filter/").trim_end_matches(".wasm");
        ensure!(dump.contains(sha256), "the sidecar doesn't have the new filter");
        Ok(())
    })?;
    of_single.wait_right(200)?;
    of_cluster.wait_right(200)?;
    of_single.stop()?.ensure_calm()?;
    of_cluster.stop()?.ensure_calm()?;
    session(mesh, "redis-single", &[("auth testredis123!", "OK"), ("get a", "\"a\"")])?;
    second.terminate();
    controller(mesh)?.restart()
}

/// A CRD like that of Aeraki Mesh accepts any object. Objects that were stored under it are taken
/// over unchanged. One that can't be parsed reports it in its status and affects no other.
fn stored_objects(mesh: &mut Mesh) -> Result<()> {
    let definition = ObjectName::new("CustomResourceDefinition", "", "redisservices.redis.aeraki.io");
    let ours = mesh.api().get(&definition)?.context("no definition")?["spec"].clone();
    let mut open = ours.clone();
    open["versions"][0]["schema"]["openAPIV3Schema"] =
        json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    mesh.api().merge(&definition, &json!({"spec": open}))?;
    let metadata = json!({"name": "odd", "namespace": "redis"});
    let spec = json!({"host": "redis-cluster", "redis": [{"route": 7}]});
    let odd =
        json!({"apiVersion": "redis.aeraki.io/v1alpha1", "kind": "RedisService", "metadata": metadata, "spec": spec});
    let name = ObjectName::of(&odd)?;
    eventually(PATIENCE, || mesh.api().apply_object(&odd).map(drop))?;
    mesh.apply(&format!("{SERVER_AUTH}---\n{CLIENT_AUTH}"))?;
    mesh.api().merge(&definition, &json!({"spec": ours}))?;
    expect(mesh, &name, "Accepted", "False", "Invalid", "spec.host")?;
    soon(mesh, "redis-single", &[("auth testredis123!", "OK"), ("set a a", "OK")])?;
    controller(mesh)?.restart()?;
    mesh.apply(&redis_cluster())?;
    soon(mesh, "redis-cluster", &[("set a a", "OK"), ("set b b", "OK")])?;
    session(mesh, "redis-single", &[("auth testredis123!", "OK"), ("get a", "\"a\"")])?;
    mesh.delete(&[name])
}
