//! Gateways, which pass connections to managed hosts on untouched.

use anyhow::{Result, ensure};
use redis_mesh_tests::client::{Client, PATIENCE as CONNECTING};

use super::Test;
use super::conditions::{single, wait_condition};
use super::mission::{CLIENT_AUTH, PREFIX_ROUTING, SERVER_AUTH, redis_cluster, session};
use crate::mesh::{Mesh, PASSWORD, PATIENCE, eventually};
use crate::pod::{Pod, Shape};

/// The tests.
pub const TESTS: &[Test] = &[("gateways::pass_through", pass_through)];

/// A Gateway on the managed port, and where it leads.
fn routed_to(host: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: redis, namespace: redis}}
spec:
  selector: {{app: gateway}}
  servers: [{{port: {{number: 6379, name: tcp-redis, protocol: TCP}}, hosts: ['*']}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: redis, namespace: redis}}
spec:
  hosts: ['*']
  gateways: [redis]
  tcp:
    - match: [{{port: 6379}}]
      route: [{{destination: {{host: {host}.redis.svc.cluster.local, port: {{number: 6379}}}}}}]
"
    )
}

fn pass_through(mesh: &mut Mesh) -> Result<()> {
    let shape = Shape { name: "gateway", namespace: "redis", app: "gateway", host: 64, sidecar: true, module: false };
    let pod = Pod::gateway(&mesh.plane, &mesh.network, &shape)?;
    let result = checked(mesh, &pod);
    let log = pod.sidecar()?.log();
    pod.delete()?;
    result.map_err(|error| error.context(format!("the gateway said:\n{log}")))
}

fn checked(mesh: &mut Mesh, gateway: &Pod) -> Result<()> {
    let through = |mesh: &Mesh, line: &str| -> Result<String> {
        let mut client = Client::over(mesh.node().connect((gateway.ip(), 6379).into(), CONNECTING)?)?;
        Ok(client.line(line)?.tty())
    };
    // On the data path `proxy`.
    mesh.apply(&format!("{SERVER_AUTH}---\n{}---\n{PREFIX_ROUTING}", redis_cluster()))?;
    mesh.apply(&routed_to("redis-cluster"))?;
    eventually(PATIENCE, || {
        session(mesh, "redis-cluster", &[("set other-0 0", "OK")])?;
        ensure!(mesh.single.cmd(&["GET", "other-0"])?.text() == "0", "the rules aren't in force in the sidecar");
        Ok(())
    })?;
    wait_filter(gateway)?;
    eventually(PATIENCE, || {
        let reply = through(mesh, "cluster myid")?;
        ensure!(!reply.starts_with("(error)"), "through the gateway: {reply}");
        Ok(())
    })?;
    // On `direct`, with a password that only rules ask for.
    mesh.apply(CLIENT_AUTH)?;
    wait_condition(mesh, &single("RedisService"), "Programmed", "True")?;
    mesh.apply(&routed_to("redis-single"))?;
    wait_filter(gateway)?;
    eventually(PATIENCE, || {
        let reply = through(mesh, &format!("auth {PASSWORD}"))?;
        ensure!(reply == "OK", "through the gateway: {reply}");
        Ok(())
    })?;
    let reply = through(mesh, "get a")?;
    ensure!(reply == "(error) NOAUTH Authentication required.", "through the gateway: {reply}");
    session(mesh, "redis-single", &[("auth testredis123!", "OK"), ("set a a", "OK")])
}

/// Waits until the gateway has the filter, which a WasmPlugin brings there too.
fn wait_filter(gateway: &Pod) -> Result<()> {
    eventually(PATIENCE, || {
        let dump = gateway.sidecar()?.get("/config_dump?resource=ecds_filters")?;
        ensure!(dump.contains("redis-mesh-6379") && dump.contains("Wasm"), "the gateway has no filter: {dump}");
        Ok(())
    })
}
