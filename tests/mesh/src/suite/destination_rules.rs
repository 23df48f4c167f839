//! Users' DestinationRules of hosts that sidecars reach through a cluster of redis-mesh.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Test;
use super::conditions::wait_condition;
use super::mission::{session, soon};
use crate::api::ObjectName;
use crate::mesh::{Mesh, PATIENCE, eventually};

/// The tests.
pub const TESTS: &[Test] = &[("destination_rules::cluster", cluster), ("destination_rules::passthrough", passthrough)];

/// A DestinationRule in the namespace of the host, with this policy.
fn rule(host: &str, policy: &str) -> String {
    format!(
        "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: of-users, namespace: redis}}
spec:
  host: {host}
  trafficPolicy: {policy}
"
    )
}

/// A RedisDestination for the Redis Cluster, with these settings beside the mode.
fn destination(more: &str) -> String {
    format!(
        "
apiVersion: redis.aeraki.io/v1alpha1
kind: RedisDestination
metadata: {{name: of-rules, namespace: redis}}
spec:
  host: redis-cluster
  trafficPolicy: {{connectionPool: {{redis: {{mode: CLUSTER{more}}}}}}}
"
    )
}

/// Waits until the client's sidecar has the cluster of a host as it should be.
fn wait_cluster(mesh: &Mesh, host: &str, is_it: impl Fn(&Value) -> bool) -> Result<()> {
    let name = format!("redis-mesh|6379||{host}.redis.svc.cluster.local");
    eventually(PATIENCE, || {
        let cluster = mesh.client.sidecar()?.cluster(&name)?.with_context(|| format!("no cluster {name}"))?;
        ensure!(is_it(&cluster), "{cluster}");
        Ok(())
    })
}

/// The sidecar's cluster has the connection pool and the TLS of the rule, for as long as there is one.
/// TLS that can't be carried over keeps a login from being sent.
fn cluster(mesh: &mut Mesh) -> Result<()> {
    let served = [("set a a", "OK"), ("get a", "\"a\"")];
    mesh.apply(&destination(""))?;
    mesh.apply(&rule("redis-cluster", "{connectionPool: {tcp: {maxConnections: 77}}}"))?;
    let connections = |cluster: &Value| cluster["circuit_breakers"]["thresholds"][0]["max_connections"].clone();
    wait_cluster(mesh, "redis-cluster", |cluster| connections(cluster) == 77)?;
    soon(mesh, "redis-cluster", &served)?;

    mesh.apply(&rule("redis-cluster", "{tls: {mode: SIMPLE, sni: redis.example.com}}"))?;
    let socket = |cluster: &Value| cluster["transport_socket"]["typed_config"].to_string();
    wait_cluster(mesh, "redis-cluster", |cluster| {
        connections(cluster) == u32::MAX
            && ["redis.example.com", "file-root:system"].iter().all(|text| socket(cluster).contains(text))
    })?;
    ensure!(session(mesh, "redis-cluster", &served).is_err(), "a Redis without TLS answers");

    mesh.apply(&rule("redis-cluster", "{tls: {mode: SIMPLE, credentialName: redis}}"))?;
    mesh.apply(&destination(", auth: {plain: {username: mesh, password: testredis}}"))?;
    let object = ObjectName::new("RedisDestination", "redis", "of-rules");
    let (reason, message) = wait_condition(mesh, &object, "Accepted", "False")?;
    ensure!(reason == "Unsupported" && message.contains("DestinationRule redis/of-users"), "{reason}: {message}");

    mesh.delete(&[ObjectName::new("DestinationRule", "redis", "of-users")])?;
    mesh.apply(&destination(""))?;
    wait_cluster(mesh, "redis-cluster", |cluster| cluster["transport_socket"].is_null())?;
    soon(mesh, "redis-cluster", &served)?;
    mesh.delete(&[object])
}

const PROXY: &str = "
apiVersion: redis.aeraki.io/v1alpha1
kind: RedisService
metadata: {name: of-rules, namespace: redis, annotations: {redis-mesh.io/data-path: proxy}}
spec:
  host: [redis-single]
---
apiVersion: redis.aeraki.io/v1alpha1
kind: RedisDestination
metadata: {name: of-rules, namespace: redis}
spec:
  host: redis-single
  trafficPolicy: {connectionPool: {redis: {auth: {plain: {password: testredis}}}}}
";

/// A host whose Istio cluster leads to the address that the client has connected to, which takes no
/// load-balancing policy, is served through another cluster, and Envoy takes everything.
fn passthrough(mesh: &mut Mesh) -> Result<()> {
    mesh.apply(&rule("redis-single", "{loadBalancer: {simple: PASSTHROUGH}}"))?;
    eventually(PATIENCE, || {
        let name = "outbound|6379||redis-single.redis.svc.cluster.local";
        let cluster = mesh.client.sidecar()?.cluster(name)?.context("no cluster of Istio's")?;
        ensure!(cluster["type"] == "ORIGINAL_DST", "{}", cluster["type"]);
        Ok(())
    })?;
    mesh.apply(PROXY)?;
    wait_cluster(mesh, "redis-single", |cluster| cluster["type"] == "EDS" && cluster["lb_policy"] == "MAGLEV")?;
    soon(mesh, "redis-single", &[("set a a", "OK"), ("get a", "\"a\"")])?;
    // The mesh fails a test after which Envoy has rejected anything.
    mesh.delete(&[
        ObjectName::new("RedisService", "redis", "of-rules"),
        ObjectName::new("RedisDestination", "redis", "of-rules"),
        ObjectName::new("DestinationRule", "redis", "of-users"),
    ])
}
