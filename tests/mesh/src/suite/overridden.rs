//! A ServiceEntry or a VirtualService of a tenant by which a host of somebody else's is another Redis in the
//! tenant's namespace: the login at the host is not for that one.

use anyhow::{Context, Result, ensure};
use redis_mesh_tests::redis::Redis;

use super::Test;
use super::captures::{SINGLE, SINGLE_ADDRESS, VIRTUAL_SERVICE, service_entry};
use super::headless;
use super::mission::session;
use crate::api::ObjectName;
use crate::mesh::{Mesh, PASSWORD, PATIENCE, eventually};
use crate::pod::{Pod, Shape};

/// The tests.
pub const TESTS: &[Test] = &[
    ("overridden::proxy", proxy),
    ("overridden::native", native),
    ("overridden::headless", headless),
    ("overridden::virtual_service", virtual_service),
    ("overridden::virtual_service_native", virtual_service_native),
];

fn owner(path: &str) -> String {
    format!(
        "
apiVersion: redis.aeraki.io/v1alpha1
kind: RedisService
metadata: {{name: overridden, namespace: redis, annotations: {{redis-mesh.io/data-path: {path}}}}}
spec:
  host: [redis-single]
---
apiVersion: redis.aeraki.io/v1alpha1
kind: RedisDestination
metadata: {{name: overridden, namespace: redis}}
spec:
  host: redis-single
  trafficPolicy: {{connectionPool: {{redis: {{auth: {{plain: {{password: {PASSWORD}}}}}}}}}}}
"
    )
}

fn proxy(mesh: &mut Mesh) -> Result<()> {
    kept(mesh, "proxy")
}

fn native(mesh: &mut Mesh) -> Result<()> {
    mesh.natively(|mesh, _| kept(mesh, "native"))
}

fn kept(mesh: &mut Mesh, path: &str) -> Result<()> {
    let module = path == "native";
    let shape = Shape { name: "tenant", namespace: "web", app: "tenant", host: 63, sidecar: true, module };
    let tenant = Pod::start(&mesh.plane, &mesh.network, &shape)?;
    let served = |pod: &Pod| -> Result<String> { Ok(pod.client("redis-single.redis")?.line("set a a")?.tty()) };
    mesh.apply(&owner(path))?;
    eventually(PATIENCE, || {
        let answer = served(&tenant)?;
        ensure!(answer == "OK", "{answer}");
        Ok(())
    })?;
    let pod = mesh.pod("thief", "web", "thief", 65, false)?;
    // Nobody has connected to it before the controller has seen the ServiceEntry.
    mesh.apply(&service_entry(SINGLE, SINGLE_ADDRESS, 65))?;
    let name = ObjectName::new("RedisService", "redis", "overridden");
    eventually(PATIENCE, || {
        let status = mesh.api().get(&name)?.context("no object")?["status"].to_string();
        ensure!(status.contains("ServiceEntry web/mine makes another Redis"), "{status}");
        Ok(())
    })?;
    let filter = mesh.plane.kubectl(&["-n", "istio-system", "get", "envoyfilters", "-o", "yaml"], "")?;
    ensure!(filter.contains("NAMESPACE: web"), "{filter}");
    // Until the proxy has got what the controller has written.
    std::thread::sleep(std::time::Duration::from_secs(3));
    let thief = pod.redis(None)?;
    eventually(PATIENCE, || {
        let answer = served(&tenant)?;
        ensure!(answer == "OK", "{answer}");
        ensure!(thief.cmd(&["GET", "a"])?.text() == "a", "the tenant's Redis hasn't got it");
        Ok(())
    })?;
    ensure_no_login(&thief)?;
    // The owner's own clients are served as before.
    session(mesh, "redis-single", &[("set b b", "OK")])?;
    ensure!(mesh.single.cmd(&["GET", "b"])?.text() == "b");
    mesh.delete(&[
        ObjectName::new("ServiceEntry", "web", "mine"),
        name,
        ObjectName::new("RedisDestination", "redis", "overridden"),
    ])?;
    drop(thief);
    pod.delete()?;
    tenant.delete()
}

/// Ensures that nobody has tried to log in at the tenant's Redis.
fn ensure_no_login(thief: &Redis) -> Result<()> {
    let stats = thief.cmd(&["INFO", "commandstats"])?.text();
    ensure!(!stats.contains("cmdstat_auth") && !stats.contains("cmdstat_hello"), "the login went there: {stats}");
    Ok(())
}

/// The owner's rules lead to a headless Service, whose cluster of Istio's can't be used by them. In the
/// tenant's sidecars, the one in its place leads to the tenant's endpoints, without the login.
fn headless(mesh: &mut Mesh) -> Result<()> {
    let tenant = mesh.pod("tenant", "web", "tenant", 63, true)?;
    let pod = mesh.pod("thief", "web", "thief", 65, false)?;
    let thief = pod.redis(None)?;
    let result = ["auto", "proxy"].iter().try_for_each(|path| {
        mesh.apply(&headless::service("headless", "redis-single", [20]))?;
        mesh.apply(&headless::login(HEADLESS))?;
        mesh.apply(&headless::alone(path, HEADLESS))?;
        let ask = || -> Result<String> { Ok(tenant.client("redis-cluster.redis")?.line("set a a")?.tty()) };
        eventually(PATIENCE, || {
            let answer = ask()?;
            ensure!(answer == "OK", "{answer}");
            ensure!(mesh.single.cmd(&["GET", "a"])?.text() == "a", "it isn't there");
            Ok(())
        })?;
        let status = |mesh: &Mesh| -> Result<String> {
            let name = ObjectName::new("RedisService", "redis", "targets");
            Ok(mesh.api().get(&name)?.context("no object")?["status"].to_string())
        };
        mesh.apply(&service_entry(HEADLESS, "10.96.0.111", 65))?;
        eventually(PATIENCE, || {
            let status = status(mesh)?;
            ensure!(status.contains("ServiceEntry web/mine makes another Redis"), "{status}");
            Ok(())
        })?;
        // Until the proxy has got what the controller has written.
        std::thread::sleep(std::time::Duration::from_secs(3));
        thief.cmd(&["CONFIG", "RESETSTAT"])?;
        eventually(PATIENCE, || {
            let answer = ask()?;
            ensure!(answer == "OK", "{answer}");
            ensure!(thief.cmd(&["DEL", "a"])?.tty() == "(integer) 1", "the tenant's Redis hasn't got it");
            Ok(())
        })?;
        ensure_no_login(&thief).with_context(|| path.to_string())?;
        session(mesh, "redis-cluster", &[("get a", "\"a\"")])?;
        mesh.delete(&[
            ObjectName::new("ServiceEntry", "web", "mine"),
            ObjectName::new("RedisService", "redis", "targets"),
            ObjectName::new("RedisDestination", "redis", "target"),
        ])?;
        headless::remove(mesh, "headless")
    });
    let said = tenant.sidecar()?.log();
    result.with_context(|| format!("the tenant's sidecar said:\n{said}"))?;
    drop(thief);
    pod.delete()?;
    tenant.delete()
}

const HEADLESS: &str = "headless.redis.svc.cluster.local";

fn virtual_service(mesh: &mut Mesh) -> Result<()> {
    not_obeyed(mesh, "proxy")
}

fn virtual_service_native(mesh: &mut Mesh) -> Result<()> {
    mesh.natively(|mesh, _| not_obeyed(mesh, "native"))
}

/// A tenant's VirtualService, which leads the host's connections to the tenant's Redis, finds nothing there
/// that would obey it.
fn not_obeyed(mesh: &mut Mesh, path: &str) -> Result<()> {
    let module = path == "native";
    let shape = Shape { name: "tenant", namespace: "web", app: "tenant", host: 63, sidecar: true, module };
    let tenant = Pod::start(&mesh.plane, &mesh.network, &shape)?;
    let pod = mesh.pod("thief", "web", "thief", 65, false)?;
    let thief = pod.redis(None)?;
    mesh.apply(&owner(path))?;
    let served = |mesh: &Mesh, key: &str| {
        let answer = tenant.client("redis-single.redis")?.line(&format!("set {key} 1"))?.tty();
        ensure!(answer == "OK", "{answer}");
        ensure!(mesh.single.cmd(&["GET", key])?.text() == "1", "{key} isn't in the owner's Redis");
        Ok(())
    };
    eventually(PATIENCE, || served(mesh, "before"))?;
    mesh.apply(&(service_entry("mine.example.com", "10.96.0.110", 65) + VIRTUAL_SERVICE))?;
    let other = "outbound|6379||mine.example.com";
    eventually(PATIENCE, || {
        ensure!(tenant.sidecar()?.cluster(other)?.is_some(), "the proxy doesn't know the tenant's host");
        Ok(())
    })?;
    for i in 0..20 {
        served(mesh, &format!("after-{i}"))?;
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    ensure!(thief.cmd(&["DBSIZE"])?.tty() == "(integer) 0", "the tenant's Redis answers");
    ensure_no_login(&thief)?;
    mesh.delete(&[
        ObjectName::new("VirtualService", "web", "mine"),
        ObjectName::new("ServiceEntry", "web", "mine"),
        ObjectName::new("RedisService", "redis", "overridden"),
        ObjectName::new("RedisDestination", "redis", "overridden"),
    ])?;
    drop(thief);
    pod.delete()?;
    tenant.delete()
}
