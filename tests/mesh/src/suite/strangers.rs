//! What is kept of a host, and an address that comes to belong to a Service of somebody else.

use anyhow::{Result, ensure};
use serde_json::json;

use super::Test;
use super::conditions::wait_condition;
use super::outages::controller;
use super::tenants::NAMESPACE;
use crate::api::ObjectName;
use crate::mesh::{Mesh, PASSWORD, PATIENCE, eventually};
use crate::pod::Pod;

/// The tests.
pub const TESTS: &[Test] =
    &[("strangers::same_cluster_ip", same_cluster_ip), ("strangers::under_a_new_leader", under_a_new_leader)];

const ADDRESS: &str = "10.96.0.51";
/// The address of the Redis of the other team.
const THEIRS: u8 = 41;

/// A Service with this address and one endpoint.
pub(super) fn service(namespace: &str, name: &str, address: &str, endpoint: u8) -> String {
    format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: {namespace}}}
spec: {{clusterIP: {address}, ports: [{{name: tcp-redis, port: 6379}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}-1, namespace: {namespace}, labels: {{kubernetes.io/service-name: {name}}}}}
addressType: IPv4
ports: [{{name: tcp-redis, port: 6379, protocol: TCP}}]
endpoints: [{{addresses: [10.244.0.{endpoint}], conditions: {{ready: true}}}}]
---
"
    )
}

/// Rules that ask the clients of `own` for a password, and log in at its Redis. On `direct` the host has a
/// filter of its own, on `proxy` a listener of its own and a host in the WasmPlugin.
fn rules(path: &str) -> String {
    format!(
        "
apiVersion: redis.aeraki.io/v1alpha1
kind: RedisService
metadata: {{name: own, namespace: redis, annotations: {{redis-mesh.io/data-path: {path}}}}}
spec:
  host: [own]
  settings: {{auth: {{plain: {{password: of-own}}}}}}
---
apiVersion: redis.aeraki.io/v1alpha1
kind: RedisDestination
metadata: {{name: own, namespace: redis}}
spec:
  host: own
  trafficPolicy: {{connectionPool: {{redis: {{auth: {{plain: {{password: {PASSWORD}}}}}}}}}}}
"
    )
}

fn names() -> [ObjectName; 2] {
    ["RedisService", "RedisDestination"].map(|kind| ObjectName::new(kind, "redis", "own"))
}

/// The Service itself and its endpoints.
pub(super) fn of_service(namespace: &str, name: &str) -> [ObjectName; 2] {
    [ObjectName::new("Service", namespace, name), ObjectName::new("EndpointSlice", namespace, &format!("{name}-1"))]
}

/// Replies to commands over one connection to a host.
fn ask(mesh: &Mesh, host: &str, lines: &[&str]) -> Result<Vec<String>> {
    let mut client = mesh.client.client(host)?;
    lines.iter().map(|line| Ok(client.line(line)?.tty())).collect()
}

fn asks_for_the_password(mesh: &Mesh) -> Result<()> {
    eventually(PATIENCE, || {
        let replies = ask(mesh, "own", &["get a", "auth of-own", "set a ours", "get a"])?;
        ensure!(replies[0].contains("NOAUTH") && replies[1..] == ["OK", "OK", "\"ours\""], "{replies:?}");
        Ok(())
    })
}

/// Runs a task with a Redis of another team's, which asks for no password.
fn beside_theirs(mesh: &mut Mesh, task: impl FnOnce(&mut Mesh) -> Result<()>) -> Result<()> {
    mesh.api().apply(NAMESPACE)?;
    let pod: Pod = mesh.pod("web-redis", "web", "web-redis", THEIRS, false)?;
    let redis = pod.redis(None)?;
    let result = task(mesh);
    drop(redis);
    pod.delete()?;
    result
}

/// The other team's Service gets the address. Its clients reach its own Redis, without rules.
fn give_away(mesh: &mut Mesh) -> Result<()> {
    mesh.delete(&of_service("redis", "own"))?;
    mesh.apply(&service("web", "theirs", ADDRESS, THEIRS))?;
    eventually(PATIENCE, || {
        let replies = ask(mesh, "theirs.web", &["set a theirs", "get a", "object freq a"])?;
        ensure!(replies[..2] == ["OK", "\"theirs\""], "{replies:?}");
        Ok(())
    })?;
    let ours = mesh.single.cmd(&["GET", "a"])?.text();
    ensure!(ours == "ours", "the other team's clients wrote {ours} into this Redis");
    Ok(())
}

/// A Service that is gone takes its rules with it, and brings them back under another address. `before` is
/// done while they are in force.
fn follow_their_host(mesh: &mut Mesh, before: fn(&mut Mesh) -> Result<()>) -> Result<()> {
    beside_theirs(mesh, |mesh| {
        for path in ["direct", "proxy"] {
            mesh.apply(&service("redis", "own", ADDRESS, 20))?;
            mesh.apply(&rules(path))?;
            asks_for_the_password(mesh)?;
            before(mesh)?;
            give_away(mesh)?;
            mesh.apply(&service("redis", "own", "10.96.0.52", 20))?;
            asks_for_the_password(mesh)?;
            mesh.delete(&names())?;
            mesh.delete(&[of_service("redis", "own"), of_service("web", "theirs")].concat())?;
        }
        Ok(())
    })
}

fn same_cluster_ip(mesh: &mut Mesh) -> Result<()> {
    follow_their_host(mesh, |_| Ok(()))
}

/// The same for what a controller keeps that never saw the object without errors.
fn under_a_new_leader(mesh: &mut Mesh) -> Result<()> {
    follow_their_host(mesh, |mesh| {
        for name in &names() {
            wait_condition(mesh, name, "Programmed", "True")?;
        }
        let wrong = json!({"metadata": {"annotations": {"redis-mesh.io/data-path": "sideways"}}});
        mesh.api().merge(&names()[0], &wrong)?;
        wait_condition(mesh, &names()[0], "Programmed", "False")?;
        controller(mesh)?.restart()?;
        asks_for_the_password(mesh)
    })
}
