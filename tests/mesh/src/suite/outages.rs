//! The controller under failures: killed, restarted, with objects to repair, under a burst of
//! changes.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::Test;
use super::conditions::{single, wait_condition};
use super::mission::{CLIENT_AUTH, PREFIX_ROUTING, SERVER_AUTH, redis_cluster, session, soon};
use super::updates::prefix_routing_in_force;
use crate::api::ObjectName;
use crate::control_plane::ROOT_NAMESPACE;
use crate::mesh::{Mesh, PATIENCE, eventually};
use crate::operator::Operator;
use crate::operator::controller::{Controller, NAMESPACE, Options};
use crate::traffic::Traffic;

/// The tests.
pub const TESTS: &[Test] = &[
    ("outages::killed_in_the_middle", killed),
    ("outages::api_server_restarts", api_server_restarts),
    ("outages::istiod_restarts", istiod_restarts),
    ("outages::repairs", repairs),
    ("outages::burst", burst),
    ("outages::namespace_that_is_being_deleted", deleted_namespace),
    ("outages::second_replica", second_replica),
    ("outages::away_while_a_pod_starts", away),
];

/// The controller.
pub(super) fn controller(mesh: &mut Mesh) -> Result<&mut Controller> {
    match &mut mesh.operator {
        Operator::Controller(controller) => Ok(controller),
        Operator::Rendered(_) => bail!("there is no controller"),
    }
}

/// Applies the mission's prefix routing and starts traffic.
fn routed(mesh: &mut Mesh) -> Result<Traffic> {
    prefix_routing_in_force(mesh)?;
    Traffic::start(&mesh.client, "redis-cluster", None, &["cluster-", "other-"])
}

/// Clients aren't affected, and changes during the outage are applied after the restart.
fn killed(mesh: &mut Mesh) -> Result<()> {
    let traffic = routed(mesh)?;
    controller(mesh)?.kill();
    mesh.apply(CLIENT_AUTH)?;
    mesh.delete(&[single("RedisDestination")])?;
    traffic.wait_right(100)?;
    mesh.apply(SERVER_AUTH)?;
    controller(mesh)?.restart()?;
    wait_condition(mesh, &single("RedisService"), "Programmed", "True")?;
    soon(mesh, "redis-single", &[("auth testredis123!", "OK"), ("set a a", "OK")])?;
    // What was removed while it was away is taken out too.
    controller(mesh)?.kill();
    mesh.delete(&[single("RedisService")])?;
    controller(mesh)?.restart()?;
    soon(mesh, "redis-single", &[("get a", "\"a\"")])?;
    traffic.wait_right(100)?;
    traffic.stop()?.ensure_calm()
}

fn api_server_restarts(mesh: &mut Mesh) -> Result<()> {
    let traffic = routed(mesh)?;
    mesh.plane.restart_api_server()?;
    mesh.apply(CLIENT_AUTH)?;
    wait_condition(mesh, &single("RedisService"), "Programmed", "True")?;
    soon(mesh, "redis-single", &[("auth testredis123!", "OK"), ("set a a", "OK")])?;
    traffic.wait_right(100)?;
    traffic.stop()?.ensure_calm()
}

fn istiod_restarts(mesh: &mut Mesh) -> Result<()> {
    let traffic = routed(mesh)?;
    mesh.plane.restart_istiod()?;
    mesh.apply(CLIENT_AUTH)?;
    soon(mesh, "redis-single", &[("auth testredis123!", "OK"), ("set a a", "OK")])?;
    traffic.wait_right(100)?;
    traffic.stop()?.ensure_calm()
}

/// Objects that were deleted or edited are repaired.
fn repairs(mesh: &mut Mesh) -> Result<()> {
    routed(mesh)?.stop()?;
    let ours = |kind: &str| -> Result<Vec<ObjectName>> { mesh.api().list(kind)?.iter().map(ObjectName::of).collect() };
    let mut names: Vec<ObjectName> = [ours("WasmPlugin")?, ours("EnvoyFilter")?].concat();
    // Says nothing: it is touched to make Istio push again.
    names.retain(|name| name.name != "redis-mesh-beacon");
    ensure!(names.len() > 2, "{names:?}");
    for name in &names {
        let spec = mesh.api().get(name)?.context("gone")?["spec"].clone();
        mesh.api().delete(name)?;
        let is_back = || {
            let object = mesh.api().get(name)?.with_context(|| format!("{name:?} isn't back"))?;
            ensure!(same(&object["spec"], &spec), "{name:?} is {}\ninstead of {spec}", object["spec"]);
            Ok(())
        };
        eventually(PATIENCE, is_back)?;
        let edit = if name.kind == "WasmPlugin" {
            json!({ "failStrategy": "FAIL_OPEN" })
        } else {
            json!({ "configPatches": [] })
        };
        mesh.api().merge(name, &json!({ "spec": edit }))?;
        eventually(PATIENCE, is_back)?;
        // Metadata counts, too, though a change of it gives an object no other generation.
        let purpose = |object: &Value| object["metadata"]["annotations"]["redis-mesh.io/for"].clone();
        let before = purpose(&mesh.api().get(name)?.context("gone")?);
        if !before.is_null() {
            mesh.api().merge(name, &json!({ "metadata": { "annotations": { "redis-mesh.io/for": null } } }))?;
            eventually(PATIENCE, || {
                let now = purpose(&mesh.api().get(name)?.context("gone")?);
                ensure!(now == before, "{name:?} is for {now} instead of {before}");
                Ok(())
            })?;
        }
    }
    soon(mesh, "redis-cluster", &[("set cluster-0 0", "OK"), ("set other-0 0", "OK")])
}

const LEAVING: &str = "
apiVersion: redis.aeraki.io/v1alpha1
kind: RedisService
metadata: {name: redis-single, namespace: leaving}
spec:
  host: [redis-single.redis.svc.cluster.local]
  settings: {auth: {plain: {password: of-the-leaving}}}
";

/// In a namespace that is being deleted nothing can be created. That is said once, asks nobody for a
/// permission, and holds up nobody else.
fn deleted_namespace(mesh: &mut Mesh) -> Result<()> {
    let name = ObjectName::new("RedisService", "leaving", "redis-single");
    let namespace = ObjectName::new("Namespace", "", "leaving");
    mesh.api().apply("{apiVersion: v1, kind: Namespace, metadata: {name: leaving}}")?;
    controller(mesh)?.kill();
    mesh.apply(LEAVING)?;
    // No controller of namespaces runs here, so it stays as it is while it is being deleted.
    mesh.api().delete(&namespace)?;
    let result = said_once(mesh, &name);
    mesh.delete(&[name])?;
    let finalized = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "leaving"}, "spec": {}});
    let path = "/api/v1/namespaces/leaving/finalize";
    mesh.plane.kubectl(&["replace", "--raw", path, "-f", "-"], &finalized.to_string())?;
    result
}

fn said_once(mesh: &mut Mesh, name: &ObjectName) -> Result<()> {
    controller(mesh)?.restart()?;
    let (reason, message) = wait_condition(mesh, name, "Programmed", "False")?;
    ensure!(reason == "ApplyFailed" && message.matches("is being deleted").count() == 1, "{reason}: {message}");
    ensure!(!message.contains("grant"), "{message}");
    for password in ["testredis123!", "another"] {
        mesh.apply(&CLIENT_AUTH.replace("testredis123!", password))?;
        wait_condition(mesh, &single("RedisService"), "Programmed", "True")?;
    }
    let log = controller(mesh)?.log();
    let told = log.lines().filter(|line| line.contains("the object is not applied")).count();
    ensure!(told == 1, "told {told} times:\n{log}");
    Ok(())
}

/// Whether two objects are equal except for their revision.
fn same(one: &Value, other: &Value) -> bool {
    fn without_revision(value: &Value) -> Value {
        match value {
            Value::Object(map) => map
                .iter()
                .filter(|(key, _)| *key != "revision")
                .map(|(k, v)| (k.clone(), without_revision(v)))
                .collect(),
            Value::Array(items) => items.iter().map(without_revision).collect(),
            Value::String(text) => match serde_json::from_str::<Value>(text) {
                Ok(inner @ Value::Object(_)) => without_revision(&inner),
                _ => value.clone(),
            },
            _ => value.clone(),
        }
    }
    without_revision(one) == without_revision(other)
}

/// A thousand changes cause few pushes.
fn burst(mesh: &mut Mesh) -> Result<()> {
    mesh.apply(&redis_cluster())?;
    mesh.apply(PREFIX_ROUTING)?;
    mesh.apply(&format!("{SERVER_AUTH}---\n{CLIENT_AUTH}"))?;
    wait_condition(mesh, &single("RedisService"), "Programmed", "True")?;
    let cluster = ObjectName::new("RedisService", "redis", "redis-cluster");
    wait_condition(mesh, &cluster, "Programmed", "True")?;
    let plugin = ObjectName::new("WasmPlugin", ROOT_NAMESPACE, "redis-mesh-6379");
    let generation = || -> Result<i64> {
        mesh.api().get(&plugin)?.and_then(|object| object["metadata"]["generation"].as_i64()).context("no WasmPlugin")
    };
    let before = generation()?;
    let begin = Instant::now();
    for i in 0..1000 {
        let fault =
            json!({ "type": "ERROR", "percentage": { "value": f64::from(i % 100) / 2.0 }, "commands": ["GET"] });
        mesh.api().merge(&cluster, &json!({ "spec": { "faults": [fault] } }))?;
    }
    let took = begin.elapsed();
    wait_condition(mesh, &cluster, "Programmed", "True")?;
    let pushes = generation()? - before;
    // One for each second that the debounce holds them back at most, and one at the end.
    let most = took.as_secs() as i64 + 3;
    ensure!(pushes >= 1 && pushes <= most, "{pushes} pushes of at most {most}");
    Ok(())
}

const BOTH: &str = "10.96.0.80";

/// Returns the Service of the controller with these ports of the node as endpoints.
fn service(ports: &[u16]) -> String {
    let mut out = format!(
        "apiVersion: v1
kind: Service
metadata: {{name: redis-mesh, namespace: {NAMESPACE}}}
spec:
  clusterIP: {BOTH}
  ports: [{{name: http, port: 8080}}]
"
    );
    for replica in [8080, 8081] {
        let ready = ports.contains(&replica);
        out += &format!(
            "---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: redis-mesh-{replica}, namespace: {NAMESPACE}, labels: {{kubernetes.io/service-name: redis-mesh}}}}
addressType: IPv4
ports: [{{name: http, port: {replica}, protocol: TCP}}]
endpoints: [{{addresses: [10.244.0.1], conditions: {{ready: {ready}}}}}]
"
        );
    }
    out
}

/// Two replicas behind one Service: one is killed, the other takes over, and a pod that starts
/// then gets the filter.
fn second_replica(mesh: &mut Mesh) -> Result<()> {
    let url = format!("http://{BOTH}:8080");
    controller(mesh)?.restart_as(Options { advertise: Some(url.clone()), ..Options::default() })?;
    let options = Options { name: "redis-mesh-1".into(), port: 8081, advertise: Some(url), ..Options::default() };
    let second = Controller::start(&mesh.plane, options)?;
    mesh.apply(&service(&[8080, 8081]))?;
    let traffic = routed(mesh)?;
    ensure!(second.metrics()?.contains("redis_mesh_controller_leader 0\n"), "both lead");

    controller(mesh)?.kill();
    mesh.apply(&service(&[8081]))?;
    let pod = mesh.pod("late", "redis", "redis-client", 61, true)?;
    eventually(PATIENCE, || {
        let reply = pod.client("redis-cluster")?.line("set other-late 1")?;
        ensure!(reply.tty() == "OK" && mesh.single.cmd(&["GET", "other-late"])?.text() == "1", "{}", reply.tty());
        Ok(())
    })?;
    mesh.apply(CLIENT_AUTH)?;
    eventually(Duration::from_secs(40), || {
        session(mesh, "redis-single", &[("auth testredis123!", "OK"), ("set a a", "OK")])
    })?;
    ensure!(second.metrics()?.contains("redis_mesh_controller_leader 1\n"), "it writes, but says that it doesn't lead");
    traffic.wait_right(100)?;
    traffic.stop()?.ensure_calm()?;
    pod.delete()?;
    drop(second);
    controller(mesh)?.restart_as(Options::default())
}

/// Without a replica at the start of a pod, its connections to managed ports are refused rather
/// than served without rules.
fn away(mesh: &mut Mesh) -> Result<()> {
    mesh.apply(&format!("{SERVER_AUTH}---\n{CLIENT_AUTH}"))?;
    soon(mesh, "redis-single", &[("auth testredis123!", "OK"), ("set a a", "OK")])?;
    controller(mesh)?.kill();
    let pod = mesh.pod("early", "redis", "redis-client", 62, true)?;
    // Never past the filter: the upstream login isn't to be had that way, nor Redis itself.
    for _ in 0..20 {
        let reply = pod.client("redis-single").and_then(|mut client| client.line("ping"));
        ensure!(reply.is_err(), "answered without a filter: {reply:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
    controller(mesh)?.restart()?;
    eventually(Duration::from_secs(60), || {
        let mut client = pod.client("redis-single")?;
        ensure!(client.line("auth testredis123!")?.tty() == "OK");
        ensure!(client.line("get a")?.tty() == "\"a\"");
        Ok(())
    })?;
    pod.delete()
}
