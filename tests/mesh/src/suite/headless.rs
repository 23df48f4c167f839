//! Headless services: a listener for each pod's address, and names that lead to pods.

use anyhow::{Result, ensure};

use super::Test;
use super::mission::{session, soon};
use crate::api::ObjectName;
use crate::mesh::{Mesh, PATIENCE, eventually};

/// The tests.
pub const TESTS: &[Test] =
    &[("headless::direct", direct), ("headless::cluster", cluster), ("headless::new_pod", new_pod)];

/// Returns a headless service of pods at these addresses.
fn service(name: &str, app: &str, hosts: impl IntoIterator<Item = u8>) -> String {
    let endpoints: String = hosts
        .into_iter()
        .map(|host| format!("  - {{addresses: [10.244.0.{host}], conditions: {{ready: true}}}}\n"))
        .collect();
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: redis}}
spec:
  clusterIP: None
  selector: {{app: {app}}}
  ports: [{{name: tcp-redis, port: 6379}}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}, namespace: redis, labels: {{kubernetes.io/service-name: {name}}}}}
addressType: IPv4
ports: [{{name: tcp-redis, port: 6379, protocol: TCP}}]
endpoints:
{endpoints}"
    )
}

fn remove(mesh: &mut Mesh, name: &str) -> Result<()> {
    mesh.delete(&[ObjectName::new("Service", "redis", name), ObjectName::new("EndpointSlice", "redis", name)])
}

const PASSWORD: &str = "
apiVersion: redis.aeraki.io/v1alpha1
kind: RedisService
metadata: {name: headless, namespace: redis}
spec:
  host: [headless]
  settings: {auth: {plain: {password: of-headless}}}
---
apiVersion: redis.aeraki.io/v1alpha1
kind: RedisDestination
metadata: {name: headless, namespace: redis}
spec:
  host: headless
  trafficPolicy: {connectionPool: {redis: {auth: {plain: {password: testredis}}}}}
";

fn direct(mesh: &mut Mesh) -> Result<()> {
    mesh.apply(&service("headless", "redis-single", [20]))?;
    soon(mesh, "headless", &[("set a a", "(error) NOAUTH Authentication required.")])?;
    mesh.apply(PASSWORD)?;
    soon(mesh, "headless", &[("auth of-headless", "OK"), ("set a a", "OK"), ("get a", "\"a\"")])?;
    // The same pod by another service's name is none of these rules' business.
    session(
        mesh,
        "redis-single",
        &[("auth of-headless", "(error) WRONGPASS invalid username-password pair or user is disabled.")],
    )?;
    mesh.delete(&[
        ObjectName::new("RedisService", "redis", "headless"),
        ObjectName::new("RedisDestination", "redis", "headless"),
    ])?;
    soon(mesh, "headless", &[("auth testredis", "OK"), ("get a", "\"a\"")])?;
    remove(mesh, "headless")
}

const CLUSTER: &str = "
apiVersion: redis.aeraki.io/v1alpha1
kind: RedisDestination
metadata: {name: nodes, namespace: redis}
spec:
  host: nodes
  trafficPolicy: {connectionPool: {redis: {mode: CLUSTER}}}
";

fn cluster(mesh: &mut Mesh) -> Result<()> {
    mesh.apply(&service("nodes", "redis-cluster", 21..27))?;
    mesh.apply(CLUSTER)?;
    // Whichever node's address the name led to, all keys are served.
    for host in 21..27 {
        let host = format!("10.244.0.{host}");
        eventually(PATIENCE, || {
            (0..20).try_for_each(|i| session(mesh, &host, &[(&format!("set key-{i} {i}"), "OK")]))
        })?;
    }
    for i in 0..20 {
        ensure!(mesh.cluster.get(&format!("key-{i}"))?.text() == i.to_string());
    }
    mesh.delete(&[ObjectName::new("RedisDestination", "redis", "nodes")])?;
    eventually(PATIENCE, || {
        let moved =
            (0..20).any(|i| session(mesh, "10.244.0.21", &[(&format!("get key-{i}"), &format!("\"{i}\""))]).is_err());
        ensure!(moved, "every key is still answered by one node");
        Ok(())
    })?;
    remove(mesh, "nodes")
}

/// A pod that joins a headless service gets a listener, which must get the rules.
fn new_pod(mesh: &mut Mesh) -> Result<()> {
    mesh.apply(&service("headless", "redis-single", [20]))?;
    mesh.apply(PASSWORD)?;
    soon(mesh, "10.244.0.20", &[("auth of-headless", "OK"), ("set a a", "OK")])?;
    let pod = mesh.pod("redis-single-new", "redis", "redis-single", 40, false)?;
    let redis = pod.redis(Some(crate::mesh::PASSWORD))?;
    mesh.apply(&service("headless", "redis-single", [20, 40]))?;
    soon(mesh, "10.244.0.40", &[("auth of-headless", "OK"), ("set b b", "OK")])?;
    ensure!(redis.cmd(&["GET", "b"])?.text() == "b");
    mesh.apply(&service("headless", "redis-single", [20]))?;
    drop(redis);
    pod.delete()?;
    session(mesh, "10.244.0.20", &[("auth of-headless", "OK"), ("get a", "\"a\"")])?;
    mesh.delete(&[
        ObjectName::new("RedisService", "redis", "headless"),
        ObjectName::new("RedisDestination", "redis", "headless"),
    ])?;
    remove(mesh, "headless")
}
