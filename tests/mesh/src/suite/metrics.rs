//! Metrics of a sidecar with the settings in istio/README.md.

use anyhow::{Result, ensure};

use super::Test;
use super::mission::{PREFIX_ROUTING, SERVER_AUTH, redis_cluster, session};
use crate::mesh::{Mesh, PATIENCE, eventually};

/// The tests.
pub const TESTS: &[Test] = &[("metrics::sidecar", sidecar)];

/// Hosts and clusters are labels, as in an Envoy that runs by itself.
fn sidecar(mesh: &mut Mesh) -> Result<()> {
    let commands = PREFIX_ROUTING.replacen("spec:", "spec:\n  settings: {enableCommandStats: true}", 1);
    mesh.apply(&format!("{SERVER_AUTH}---\n{}---\n{commands}", redis_cluster()))?;
    let host = "redis_host=\"redis-cluster.redis.svc.cluster.local:6379\"";
    eventually(PATIENCE, || {
        session(
            mesh,
            "redis-cluster",
            &[("set cluster-a 1", "OK"), ("set other-a 1", "OK"), ("get other-a", "\"1\"")],
        )?;
        session(mesh, "redis-single", &[("get other-a", "\"1\"")])?;
        let metrics = mesh.client.sidecar()?.get("/stats/prometheus")?;
        let has = |name: &str, label: &str| {
            metrics.lines().any(|line| {
                line.strip_prefix(name).is_some_and(|rest| rest.starts_with('{') && rest.contains(label))
                    && !line.ends_with(" 0")
            })
        };
        for (name, label) in [
            ("redis_mesh_commands_total", host),
            ("redis_mesh_commands_total", "redis_host=\"redis-single.redis.svc.cluster.local:6379\""),
            ("envoy_redis_proxy_downstream_rq_total", host),
            ("envoy_redis_proxy_command_get_latency_bucket", host),
            ("envoy_cluster_upstream_cx_total", "cluster_name=\"outbound|6379||redis-single.redis.svc.cluster.local"),
            (
                "envoy_cluster_upstream_cx_total",
                "cluster_name=\"redis-mesh|6379||redis-cluster.redis.svc.cluster.local",
            ),
        ] {
            let like: Vec<&str> = metrics.lines().filter(|line| line.contains("redis")).take(40).collect();
            ensure!(has(name, label), "no {name} with {label} among\n{}", like.join("\n"));
        }
        Ok(())
    })
}
