//! What a sidecar costs the Redis servers while nobody uses them.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::Test;
use super::mission::{SERVER_AUTH, redis_cluster};
use crate::api::ObjectName;
use crate::mesh::{Mesh, PATIENCE, eventually};
use crate::pod::{Pod, Shape};

/// The tests.
pub const TESTS: &[Test] = &[("idle::connections", connections)];

/// Longer than a Redis Cluster's discovery takes, and than several of its refreshes.
const SETTLED: Duration = Duration::from_secs(25);

/// Starts a pod that connects to nothing, and counts its sidecar's connections to Redis after a while.
fn idle(mesh: &Mesh, namespace: &str, module: bool, wanted: &str) -> Result<u64> {
    let shape = Shape { name: "idle", namespace, app: "idle", host: 64, sidecar: true, module };
    let pod = Pod::start(&mesh.plane, &mesh.network, &shape)?;
    let counted = eventually(PATIENCE, || {
        let dump = pod.sidecar()?.get("/config_dump")?;
        ensure!(dump.contains(wanted), "no {wanted} in the sidecar");
        Ok(())
    });
    let counted = counted.and_then(|()| {
        std::thread::sleep(SETTLED);
        let stats = pod.sidecar()?.stats("^cluster\\..*upstream_cx_active$")?;
        let of_redis = stats.iter().filter(|(name, _)| name.contains("redis-single") || name.contains("redis-cluster"));
        Ok(of_redis.map(|(_, value)| value).sum())
    });
    pod.delete()?;
    counted
}

/// Envoy's Redis cluster asks and connects whether it is used or not, and sidecars with the module have it, too;
/// everywhere else the first client's command makes the first connection.
fn connections(mesh: &mut Mesh) -> Result<()> {
    let mut seen = Vec::new();
    mesh.apply(SERVER_AUTH)?;
    let single = "redis-mesh-redis-single.redis.svc-6379";
    seen.push(("direct", idle(mesh, "web", false, single)?, 0..=0));
    let rules = "
apiVersion: redis.aeraki.io/v1alpha1
kind: RedisService
metadata: {name: idle, namespace: redis, annotations: {redis-mesh.io/data-path: proxy}}
spec:
  host: [redis-single]
";
    mesh.apply(rules)?;
    seen.push(("proxy", idle(mesh, "web", false, "RedisProtocolOptions")?, 0..=0));
    mesh.apply(&redis_cluster())?;
    let cluster = "redis-mesh|6379||redis-cluster.redis.svc.cluster.local";
    seen.push(("proxy, mode CLUSTER", idle(mesh, "web", false, cluster)?, 1..=10));
    let limited = redis_cluster().replace("spec:", "spec:\n  exportTo: [.]");
    mesh.apply(&limited)?;
    let elsewhere = "outbound|6379||redis-cluster.redis.svc.cluster.local";
    seen.push(("proxy, mode CLUSTER, not exported there", idle(mesh, "web", false, elsewhere)?, 0..=0));
    mesh.apply(&redis_cluster())?;
    mesh.natively(|mesh, _| {
        seen.push(("native, mode CLUSTER", idle(mesh, "web", true, "redis-cluster.redis.svc-6379-native")?, 0..=10));
        Ok(())
    })?;
    let report: Vec<String> = seen.iter().map(|(path, number, _)| format!("{path}: {number}")).collect();
    eprintln!("connections of an idle sidecar to Redis: {}", report.join("; "));
    ensure!(seen.iter().all(|(_, number, expected)| expected.contains(number)), "{}", report.join("; "));
    mesh.delete(&[
        ObjectName::new("RedisService", "redis", "idle"),
        ObjectName::new("RedisDestination", "redis", "redis-single"),
        ObjectName::new("RedisDestination", "redis", "redis-cluster"),
    ])
}
