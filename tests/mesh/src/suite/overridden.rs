//! A ServiceEntry of a tenant by which a host of somebody else's is another Redis in the tenant's
//! namespace: the login at the host is not for that one.

use anyhow::{Context, Result, ensure};

use super::Test;
use super::captures::{SINGLE, SINGLE_ADDRESS, service_entry};
use super::mission::session;
use crate::api::ObjectName;
use crate::mesh::{Mesh, PASSWORD, PATIENCE, eventually};
use crate::pod::{Pod, Shape};

/// The tests.
pub const TESTS: &[Test] = &[("overridden::proxy", proxy), ("overridden::native", native)];

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
    let stats = thief.cmd(&["INFO", "commandstats"])?.text();
    ensure!(!stats.contains("cmdstat_auth") && !stats.contains("cmdstat_hello"), "the login went there: {stats}");
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
