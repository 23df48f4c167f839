//! Headless services: a listener for each pod's address, and names that lead to pods. And hosts whose
//! cluster of Istio's follows the client, as that of a headless service does, as targets of others' rules.

use anyhow::{Result, ensure};

use super::Test;
use super::mission::{session, soon};
use crate::api::ObjectName;
use crate::mesh::{Mesh, PATIENCE, eventually};

/// The tests.
pub const TESTS: &[Test] = &[
    ("headless::direct", direct),
    ("headless::cluster", cluster),
    ("headless::new_pod", new_pod),
    ("headless::targets", targets),
    ("headless::native_targets", native_targets),
];

/// Returns a headless service of pods at these addresses.
pub(super) fn service(name: &str, app: &str, hosts: impl IntoIterator<Item = u8>) -> String {
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

pub(super) fn remove(mesh: &mut Mesh, name: &str) -> Result<()> {
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

/// A host that Istio knows by its name alone: its cluster leads to the address of the client's connection.
const UNRESOLVED: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: unresolved, namespace: redis}
spec:
  hosts: [unresolved.example.com]
  location: MESH_EXTERNAL
  addresses: [10.96.0.91]
  resolution: NONE
  ports: [{number: 6379, name: tcp-redis, protocol: TCP}]
";

const PASSTHROUGH: &str = "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: passthrough, namespace: redis}
spec:
  host: redis-single
  trafficPolicy: {loadBalancer: {simple: PASSTHROUGH}}
";

/// Rules of `redis-cluster` with these routes.
fn routes(path: &str, routes: &str) -> String {
    format!(
        "
apiVersion: redis.aeraki.io/v1alpha1
kind: RedisService
metadata: {{name: targets, namespace: redis, annotations: {{redis-mesh.io/data-path: {path}}}}}
spec:
  host: [redis-cluster]
  redis: {routes}
"
    )
}

/// Rules of `redis-cluster` that lead to this host alone.
pub(super) fn alone(path: &str, target: &str) -> String {
    routes(path, &format!("[{{route: {{host: {target}}}}}]"))
}

/// Rules of `redis-cluster` that lead to a host: everything on `direct` and on `proxy`, the keys with a
/// prefix, and copies.
fn rules(target: &str) -> [String; 4] {
    let to = |host: &str| format!("route: {{host: {host}}}");
    let (target, cluster) = (to(target), to("redis-cluster"));
    [
        routes("auto", &format!("[{{{target}}}]")),
        routes("proxy", &format!("[{{{target}}}]")),
        routes("auto", &format!("[{{match: {{key: {{prefix: t-}}}}, {target}}}, {{{cluster}}}]")),
        routes("auto", &format!("[{{{cluster}, mirror: [{{{target}}}]}}]")),
    ]
}

/// What is known of a target: how the mesh logs in there.
pub(super) fn login(target: &str) -> String {
    format!(
        "
apiVersion: redis.aeraki.io/v1alpha1
kind: RedisDestination
metadata: {{name: target, namespace: redis}}
spec:
  host: {target}
  trafficPolicy: {{connectionPool: {{redis: {{auth: {{plain: {{password: testredis}}}}}}}}}}
"
    )
}

/// Each such host, by each kind of rules, gets the commands; and Envoy takes every cluster, or the mesh
/// fails the test. All of them are the one Redis with the password.
fn targets(mesh: &mut Mesh) -> Result<()> {
    mesh.network.know("unresolved.example.com", &[mesh.servers[0].ip()]);
    mesh.apply(&format!(
        "{}---{UNRESOLVED}---{PASSTHROUGH}---{CLUSTER_OF_NODES}",
        service("headless", "redis-single", [20])
    ))?;
    for target in ["headless.redis.svc.cluster.local", "unresolved.example.com", "redis-single"] {
        mesh.apply(&login(target))?;
        for (number, rules) in rules(target).iter().enumerate() {
            mesh.apply(rules)?;
            let key = format!("t-{number}-{target}");
            eventually(PATIENCE, || {
                session(mesh, "redis-cluster", &[(&format!("set {key} 1"), "OK")])?;
                ensure!(mesh.single.cmd(&["GET", &key])?.text() == "1", "{key} isn't there");
                Ok(())
            })?;
        }
        mesh.delete(&[ObjectName::new("RedisService", "redis", "targets")])?;
    }
    mesh.delete(&[
        ObjectName::new("RedisDestination", "redis", "target"),
        ObjectName::new("RedisDestination", "redis", "nodes"),
        ObjectName::new("ServiceEntry", "redis", "unresolved"),
        ObjectName::new("DestinationRule", "redis", "passthrough"),
    ])?;
    remove(mesh, "headless")
}

/// The same for a sidecar with the dynamic module.
fn native_targets(mesh: &mut Mesh) -> Result<()> {
    mesh.natively(|mesh, _| targets(mesh))
}

const CLUSTER_OF_NODES: &str = "
apiVersion: redis.aeraki.io/v1alpha1
kind: RedisDestination
metadata: {name: nodes, namespace: redis}
spec:
  host: redis-cluster
  trafficPolicy: {connectionPool: {redis: {mode: CLUSTER}}}
";
