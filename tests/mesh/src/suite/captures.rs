//! Connections that don't lead where a host's rules think: a Service that is created again gets another
//! address, and tenants put servers of their own in the place of others' hosts.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use redis_mesh_tests::redis::Redis;

use super::Test;
use super::conditions::{single, wait_condition};
use super::mission::{NOAUTH, SERVER_AUTH, session, soon};
use super::outages::controller;
use super::strangers::{of_service, service};
use super::tenants::NAMESPACE;
use crate::api::ObjectName;
use crate::mesh::{Mesh, PASSWORD, PATIENCE, eventually};
use crate::pod::Pod;

/// The tests.
pub const TESTS: &[Test] =
    &[("captures::another_address", another_address), ("captures::login_stays_at_home", login_stays_at_home)];

/// The owner's host, and its address.
pub(super) const SINGLE: &str = "redis-single.redis.svc.cluster.local";
pub(super) const SINGLE_ADDRESS: &str = "10.96.0.21";
/// The address of the tenant's Redis.
const TENANTS: u8 = 29;

const REFUSED: &str =
    "(error) ERR redis-mesh: the configuration of moving.redis.svc.cluster.local:6379 is being replaced, try again";

/// Rules for `moving`, and what they say of its own Redis.
fn rules(route: &str) -> String {
    format!(
        "apiVersion: redis.aeraki.io/v1alpha1
kind: RedisService
metadata: {{name: moving, namespace: redis}}
spec:
  host: [moving]
  settings: {{auth: {{plain: {{password: of-clients}}}}}}
  redis: [{{route: {{host: {route}}}}}]
"
    )
}

const OWN_LOGIN: &str = "
apiVersion: redis.aeraki.io/v1alpha1
kind: RedisDestination
metadata: {name: moving, namespace: redis}
spec:
  host: moving
  trafficPolicy: {connectionPool: {redis: {auth: {plain: {password: of-moving}}}}}
";

/// While the controller is away, a Service is deleted and created again with another address. Its own Redis
/// asks for no password, and no client is answered by it.
fn another_address(mesh: &mut Mesh) -> Result<()> {
    const POD: u8 = 28;
    let pod = mesh.pod("moving", "redis", "moving", POD, false)?;
    let redis = pod.redis(None)?;
    redis.cmd(&["SET", "whose", "moving"])?;
    mesh.apply(SERVER_AUTH)?;
    soon(mesh, "redis-single", &[("set whose single", "OK")])?;
    // With the login of another host, with one of its own, and without any.
    let elsewhere = rules("redis-single");
    let itself = format!("{}---{OWN_LOGIN}", rules("moving"));
    for (number, (rules, whose)) in [(elsewhere, "\"single\""), (itself, "\"moving\"")].into_iter().enumerate() {
        let address = |n: usize| format!("10.96.0.{}", 100 + 2 * number + n);
        mesh.apply(&service("redis", "moving", &address(0), POD))?;
        mesh.apply(&rules)?;
        let served = [("get whose", NOAUTH), ("auth of-clients", "OK"), ("get whose", whose)];
        soon(mesh, "moving", &served)?;
        controller(mesh)?.kill();
        mesh.delete(&[ObjectName::new("Service", "redis", "moving")])?;
        mesh.apply(&service("redis", "moving", &address(1), POD))?;
        let refused = stays_refused(mesh, &address(1));
        controller(mesh)?.restart()?;
        refused?;
        soon(mesh, "moving", &served)?;
        mesh.delete(&[ObjectName::new("RedisService", "redis", "moving")])?;
        soon(mesh, "moving", &[("get whose", "\"moving\"")])?;
        mesh.delete(&of_service("redis", "moving"))?;
    }
    drop(redis);
    pod.delete()
}

/// Every connection to the new address is refused from the moment on at which Istio has a listener for it.
fn stays_refused(mesh: &Mesh, address: &str) -> Result<()> {
    let listener = format!("{address}_6379");
    eventually(PATIENCE, || {
        let dump = mesh.client.sidecar()?.get("/listeners")?;
        ensure!(dump.contains(&listener), "the sidecar has no listener for the new address");
        Ok(())
    })?;
    let end = Instant::now() + Duration::from_secs(2);
    while Instant::now() < end {
        for lines in [&[("get whose", REFUSED)], &[("auth of-clients", REFUSED)]] {
            session(mesh, "moving", lines)?;
        }
    }
    Ok(())
}

/// A tenant's ServiceEntry by which a host at an address is a Redis of his own, at the address of a pod.
pub(super) fn service_entry(host: &str, address: &str, pod: u8) -> String {
    format!(
        "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: mine, namespace: web}}
spec:
  hosts: [{host}]
  exportTo: ['.']
  addresses: [{address}]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{{number: 6379, name: tcp-redis, protocol: TCP}}]
  endpoints: [{{address: 10.244.0.{pod}}}]
"
    )
}

/// Leads the tenant's clients of `redis-single` to another host.
pub(super) const VIRTUAL_SERVICE: &str = "---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: mine, namespace: web}
spec:
  hosts: [redis-single.redis.svc.cluster.local]
  exportTo: ['.']
  tcp: [{route: [{destination: {host: mine.example.com, port: {number: 6379}}}]}]
";

/// The ways in which a tenant has his clients' connections to `redis-single` lead to a Redis of his own.
fn ways() -> [String; 2] {
    [
        service_entry(SINGLE, SINGLE_ADDRESS, TENANTS),
        service_entry("mine.example.com", "10.96.0.110", TENANTS) + VIRTUAL_SERVICE,
    ]
}

/// What a user may say of the owner's pods: the same servers by another cluster.
const SUBSET: &str = "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: single, namespace: redis}
spec:
  host: redis-single.redis.svc.cluster.local
  subsets: [{name: v1, labels: {app: redis-single}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: single, namespace: redis}
spec:
  hosts: [redis-single.redis.svc.cluster.local]
  tcp: [{route: [{destination: {host: redis-single.redis.svc.cluster.local, subset: v1, port: {number: 6379}}}]}]
";

/// The password of a Redis reaches no other server than that of its owner.
fn login_stays_at_home(mesh: &mut Mesh) -> Result<()> {
    mesh.api().apply(NAMESPACE)?;
    mesh.apply(SERVER_AUTH)?;
    wait_condition(mesh, &single("RedisDestination"), "Programmed", "True")?;
    let tenants = mesh.pod("web-redis", "web", "web-redis", TENANTS, false)?;
    let redis = tenants.redis(None)?;
    let pod = mesh.pod("web-client", "web", "web-client", 63, true)?;
    let result = captured(mesh, &pod, &redis);
    let log = pod.sidecar()?.log();
    result.with_context(|| format!("the tenant's sidecar said:\n{log}"))?;
    drop(redis);
    pod.delete()?;
    tenants.delete()?;

    mesh.apply(SUBSET)?;
    eventually(PATIENCE, || {
        let dump = mesh.client.sidecar()?.get("/config_dump?resource=dynamic_listeners")?;
        let leads = dump.contains("outbound|6379|v1|redis-single.redis.svc.cluster.local");
        ensure!(leads, "the listener doesn't lead to the subset");
        Ok(())
    })?;
    soon(mesh, "redis-single", &[("set of-the-subset 1", "OK")])
}

fn captured(mesh: &mut Mesh, pod: &Pod, redis: &Redis) -> Result<()> {
    let ask = |line: &str| -> Result<String> { Ok(pod.client("redis-single.redis")?.line(line)?.tty()) };
    let logs_in = || {
        let answer = ask("set at-home 1")?;
        ensure!(answer == "OK", "the sidecar doesn't log in: {answer}");
        ensure!(redis.cmd(&["DEL", "at-home"])?.tty() == "(integer) 0", "the tenant's Redis still answers");
        Ok(())
    };
    for way in ways() {
        eventually(PATIENCE, logs_in)?;
        redis.cmd(&["CONFIG", "RESETSTAT"])?;
        mesh.apply(&way)?;
        eventually(PATIENCE, || {
            let answer = ask("set captured 1")?;
            ensure!(
                answer == "OK" && redis.cmd(&["DEL", "captured"])?.tty() == "(integer) 1",
                "not captured: {answer}"
            );
            Ok(())
        })?;
        (0..20).try_for_each(|_| ask("get captured").map(drop))?;
        let calls = redis.cmd(&["INFO", "commandstats"])?.text();
        ensure!(calls.contains("cmdstat_get") && !calls.contains("cmdstat_auth"), "{PASSWORD} went out: {calls}");
        let names = ["VirtualService", "ServiceEntry"].map(|kind| ObjectName::new(kind, "web", "mine"));
        for name in names {
            if mesh.api().get(&name)?.is_some() {
                mesh.delete(&[name])?;
            }
        }
    }
    let log = pod.sidecar()?.log();
    ensure!(log.contains("no login: it is for redis/redis-single.redis.svc.cluster.local"), "nothing is said of it");
    Ok(())
}
