//! Status conditions, and the precedence of objects.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Test;
use super::mission::{CLIENT_AUTH, NOAUTH, PREFIX_ROUTING, SERVER_AUTH, redis_cluster, session, soon};
use crate::api::{ObjectName, condition};
use crate::mesh::{Mesh, PATIENCE, eventually};

/// The tests.
pub const TESTS: &[Test] = &[
    ("conditions::conditions", conditions),
    ("conditions::columns", columns),
    ("conditions::mistakes", mistakes),
    ("conditions::conflict", conflict),
    ("conditions::consumer", consumer),
    ("conditions::settles", settles),
];

pub(super) fn single(kind: &str) -> ObjectName {
    ObjectName::new(kind, "redis", "redis-single")
}

/// Waits until a condition of an object's current generation has this status. Returns its reason
/// and message.
pub(super) fn wait_condition(mesh: &Mesh, name: &ObjectName, kind: &str, status: &str) -> Result<(String, String)> {
    let result = eventually(PATIENCE, || {
        let object = mesh.api().get(name)?.context("there is no such object")?;
        let condition = condition(&object, kind).with_context(|| format!("no condition {kind}"))?;
        ensure!(condition["status"] == status, "{kind} is {condition}");
        let generation = &object["metadata"]["generation"];
        ensure!(condition["observedGeneration"] == *generation, "{kind} is of {condition}, not of {generation}");
        let text = |field: &str| condition[field].as_str().unwrap_or_default().to_string();
        Ok((text("reason"), text("message")))
    });
    result.with_context(|| format!("waiting for {kind}={status} of {name:?}"))
}

fn conditions(mesh: &mut Mesh) -> Result<()> {
    mesh.apply(SERVER_AUTH)?;
    mesh.apply(CLIENT_AUTH)?;
    for kind in ["RedisService", "RedisDestination"] {
        for condition in ["Accepted", "ResolvedRefs", "Programmed"] {
            wait_condition(mesh, &single(kind), condition, "True")?;
        }
    }
    let object = mesh.api().get(&single("RedisService"))?.context("gone")?;
    ensure!(object["status"]["dataPath"] == "direct", "{}", object["status"]);
    // `Programmed` is no promise: soon is meant to be at once.
    soon(mesh, "redis-single", &[("auth testredis123!", "OK"), ("ping", "PONG")])
}

fn columns(mesh: &mut Mesh) -> Result<()> {
    mesh.apply(&format!("{SERVER_AUTH}---\n{CLIENT_AUTH}"))?;
    wait_condition(mesh, &single("RedisService"), "Programmed", "True")?;
    wait_condition(mesh, &single("RedisDestination"), "Programmed", "True")?;
    let table = mesh.plane.kubectl(&["-n", "redis", "get", "rsvc,rd"], "")?;
    for word in ["redis-single.redis.svc.cluster.local", "True", "direct", "PROGRAMMED"] {
        ensure!(table.contains(word), "no {word} in\n{table}");
    }
    Ok(())
}

/// Errors are reported with a remedy, don't affect other objects, and end with their correction.
/// The last good rules stay.
fn mistakes(mesh: &mut Mesh) -> Result<()> {
    mesh.apply(SERVER_AUTH)?;
    mesh.apply(CLIENT_AUTH)?;
    soon(mesh, "redis-single", &[("auth testredis123!", "OK"), ("set foo bar", "OK")])?;
    mesh.apply(&PREFIX_ROUTING.replace("redis-single.redis", "redis-singel.redis"))?;
    let broken = ObjectName::new("RedisService", "redis", "redis-cluster");
    let (reason, message) = wait_condition(mesh, &broken, "ResolvedRefs", "False")?;
    ensure!(reason == "RefNotFound" && message.contains("redis/redis-singel"), "{reason}: {message}");
    let (reason, _) = wait_condition(mesh, &broken, "Programmed", "False")?;
    ensure!(reason == "NotProgrammed", "{reason}");
    mesh.apply(&redis_cluster())?;
    // The others go on, and new ones are served.
    session(mesh, "redis-single", &[("auth testredis123!", "OK"), ("get foo", "\"bar\"")])?;
    mesh.apply(&CLIENT_AUTH.replace("testredis123!", "another"))?;
    soon(mesh, "redis-single", &[("auth another", "OK"), ("get foo", "\"bar\"")])?;

    mesh.apply(PREFIX_ROUTING)?;
    wait_condition(mesh, &broken, "Programmed", "True")?;
    let lines = [("set elsewhere 1", "OK"), ("set cluster-here 1", "OK")];
    eventually(PATIENCE, || {
        session(mesh, "redis-cluster", &lines)?;
        ensure!(mesh.single.cmd(&["GET", "elsewhere"])?.text() == "1");
        Ok(())
    })?;

    // A good one that is spoilt: the last good rendering stays.
    mesh.apply(&PREFIX_ROUTING.replace("redis-single.redis", "redis-singel.redis"))?;
    let (reason, message) = wait_condition(mesh, &broken, "Programmed", "False")?;
    ensure!(reason == "LastGoodKept", "{reason}: {message}");
    mesh.single.forget()?;
    session(mesh, "redis-cluster", &lines)?;
    ensure!(mesh.single.cmd(&["GET", "elsewhere"])?.text() == "1", "the last good rendering is gone");
    Ok(())
}

const YOUNGER: &str = "
apiVersion: redis.aeraki.io/v1alpha1
kind: RedisService
metadata: {name: a-younger, namespace: redis}
spec:
  host: [redis-single]
  settings: {auth: {plain: {password: of-the-younger}}}
";

/// Of two objects for one host the older governs, whatever their names. The other reports this,
/// and succeeds it.
fn conflict(mesh: &mut Mesh) -> Result<()> {
    mesh.apply(SERVER_AUTH)?;
    mesh.apply(CLIENT_AUTH)?;
    wait_condition(mesh, &single("RedisService"), "Programmed", "True")?;
    // Creation times are in seconds.
    eventually(PATIENCE, || {
        let probe = "{apiVersion: v1, kind: ConfigMap, metadata: {name: probe, namespace: redis}}";
        mesh.api().delete(&ObjectName::new("ConfigMap", "redis", "probe"))?;
        mesh.api().apply(probe)?;
        let time = |name: &ObjectName| -> Result<Value> {
            Ok(mesh.api().get(name)?.context("gone")?["metadata"]["creationTimestamp"].clone())
        };
        ensure!(time(&ObjectName::new("ConfigMap", "redis", "probe"))? != time(&single("RedisService"))?);
        Ok(())
    })?;
    mesh.api().delete(&ObjectName::new("ConfigMap", "redis", "probe"))?;
    mesh.apply(YOUNGER)?;
    let younger = ObjectName::new("RedisService", "redis", "a-younger");
    let (reason, message) = wait_condition(mesh, &younger, "Accepted", "False")?;
    ensure!(reason == "Conflict" && message.contains("redis/redis-single"), "{reason}: {message}");
    wait_condition(mesh, &single("RedisService"), "Programmed", "True")?;
    soon(
        mesh,
        "redis-single",
        &[("auth of-the-younger", "(error) ERR invalid password"), ("auth testredis123!", "OK")],
    )?;
    let events = mesh.plane.kubectl(&["-n", "redis", "describe", "rsvc", "a-younger"], "")?;
    ensure!(events.contains("Warning") && events.contains("redis/redis-single"), "no Event:\n{events}");

    mesh.delete(&[single("RedisService")])?;
    wait_condition(mesh, &younger, "Programmed", "True")?;
    soon(mesh, "redis-single", &[("auth testredis123!", "(error) ERR invalid password"), ("auth of-the-younger", "OK")])
}

const CONSUMER: &str = "
apiVersion: redis.aeraki.io/v1alpha1
kind: RedisService
metadata: {name: redis-single, namespace: consumer}
spec:
  host: [redis-single.redis.svc.cluster.local]
  settings: {auth: {plain: {password: of-the-consumer}}}
";

/// An object in a namespace other than the service's applies to the clients there, as long as the
/// owner has none.
fn consumer(mesh: &mut Mesh) -> Result<()> {
    const HOST: &str = "redis-single.redis";
    let pod = mesh.pod("consumer", "consumer", "consumer", 60, true)?;
    let there = |lines: &[(&str, &str)]| {
        eventually(PATIENCE, || {
            let mut client = pod.client(HOST)?;
            for (line, answer) in lines {
                let reply = client.line(line)?.tty();
                ensure!(reply == *answer, "a consumer: {line}: {reply} instead of {answer}");
            }
            Ok(())
        })
    };
    mesh.apply(CONSUMER)?;
    let object = ObjectName::new("RedisService", "consumer", "redis-single");
    wait_condition(mesh, &object, "Programmed", "True")?;
    there(&[("ping", NOAUTH), ("auth testredis", "(error) ERR invalid password"), ("auth of-the-consumer", "OK")])?;
    // Everybody else speaks with Redis itself.
    session(mesh, HOST, &[("auth testredis", "OK"), ("ping", "PONG")])?;

    mesh.apply(CLIENT_AUTH)?;
    let (reason, message) = wait_condition(mesh, &object, "Accepted", "False")?;
    ensure!(reason == "Conflict" && message.contains("redis/redis-single"), "{reason}: {message}");
    there(&[("auth of-the-consumer", "(error) ERR invalid password"), ("auth testredis123!", "OK")])?;
    soon(mesh, HOST, &[("auth of-the-consumer", "(error) ERR invalid password"), ("auth testredis123!", "OK")])?;

    mesh.delete(&[single("RedisService")])?;
    wait_condition(mesh, &object, "Programmed", "True")?;
    there(&[("auth of-the-consumer", "OK")])?;
    soon(mesh, HOST, &[("auth testredis", "OK"), ("ping", "PONG")])?;
    mesh.delete(&[object])?;
    there(&[("auth testredis", "OK"), ("ping", "PONG")])?;
    pod.delete()
}

/// Without changes the controller writes nothing.
fn settles(mesh: &mut Mesh) -> Result<()> {
    mesh.apply(&format!("{SERVER_AUTH}---\n{CLIENT_AUTH}---\n{}---\n{PREFIX_ROUTING}", redis_cluster()))?;
    for kind in ["RedisService", "RedisDestination"] {
        for name in ["redis-single", "redis-cluster"] {
            wait_condition(mesh, &ObjectName::new(kind, "redis", name), "Programmed", "True")?;
        }
    }
    let versions = || -> Result<Vec<Value>> {
        let mut all = Vec::new();
        for kind in ["RedisService", "RedisDestination", "WasmPlugin", "EnvoyFilter"] {
            all.extend(mesh.api().list(kind)?.iter().map(|object| object["metadata"]["resourceVersion"].clone()));
        }
        Ok(all)
    };
    // What is usual follows what was urgent, in a sync of its own.
    let mut before = versions()?;
    redis_mesh_tests::process::wait_until("end of all writes", PATIENCE, || {
        std::thread::sleep(std::time::Duration::from_secs(2));
        versions().is_ok_and(|now| std::mem::replace(&mut before, now.clone()) == now)
    })?;
    // What moves the watch, but none of the objects: a Secret that nobody names.
    for i in 0..20 {
        let secret = format!(
            "{{apiVersion: v1, kind: Secret, metadata: {{name: unnamed, namespace: redis}}, stringData: {{password: p{i}}}}}"
        );
        mesh.api().apply(&secret)?;
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    ensure!(versions()? == before, "objects were written again");
    Ok(())
}
