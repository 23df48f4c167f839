//! Hosts whose rules don't hold, and what the status says of them.

use anyhow::{Context, Result, ensure};

use super::Test;
use super::conditions::wait_condition;
use super::mission::{session, soon};
use crate::api::{ObjectName, condition};
use crate::mesh::{Mesh, PATIENCE, eventually};

/// The tests.
pub const TESTS: &[Test] = &[("unserved::taken_for_http", taken_for_http), ("unserved::alias", alias)];

/// A Service of the pod of `redis-single` with one port of this name and `appProtocol`.
fn service(port: &str) -> String {
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: unserved, namespace: redis}}
spec:
  clusterIP: 10.96.0.33
  selector: {{app: redis-single}}
  ports: [{{port: 6379, {port}}}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: unserved, namespace: redis, labels: {{kubernetes.io/service-name: unserved}}}}
addressType: IPv4
ports: [{{name: http-redis, port: 6379, protocol: TCP}}]
endpoints: [{{addresses: [10.244.0.20], conditions: {{ready: true}}}}]
"
    )
}

const PASSWORD: &str = "
apiVersion: redis.aeraki.io/v1alpha1
kind: RedisService
metadata: {name: unserved, namespace: redis}
spec:
  host: [unserved]
  settings: {auth: {plain: {password: of-unserved}}}
---
apiVersion: redis.aeraki.io/v1alpha1
kind: RedisDestination
metadata: {name: unserved, namespace: redis}
spec:
  host: unserved
  trafficPolicy: {connectionPool: {redis: {auth: {plain: {password: testredis}}}}}
";

/// The rules of a port that Istio takes for HTTP don't hold, which the status says; what it names as
/// the remedy is one.
fn taken_for_http(mesh: &mut Mesh) -> Result<()> {
    mesh.apply(&service("name: http-redis"))?;
    mesh.apply(PASSWORD)?;
    let object = ObjectName::new("RedisService", "redis", "unserved");
    wait_condition(mesh, &object, "Programmed", "True")?;
    let (reason, message) = wait_condition(mesh, &object, "Warnings", "True")?;
    ensure!(reason.contains("PortTakenForHttp"), "{reason}: {message}");
    ensure!(message.contains("`http-redis`") && message.contains("appProtocol `redis`"), "{message}");
    let passed = session(mesh, "unserved", &[("auth of-unserved", "OK")]);
    ensure!(passed.is_err(), "the port serves Redis, and the status says that it doesn't");

    mesh.apply(&service("name: http-redis, appProtocol: redis"))?;
    soon(mesh, "unserved", &[("auth of-unserved", "OK"), ("set a a", "OK"), ("get a", "\"a\"")])?;
    eventually(PATIENCE, || {
        let object = mesh.api().get(&object)?.context("there is no such object")?;
        let warnings = condition(&object, "Warnings").map(|warnings| warnings["reason"].to_string());
        ensure!(!warnings.as_deref().unwrap_or_default().contains("PortTakenForHttp"), "{warnings:?}");
        Ok(())
    })?;
    mesh.delete(&[
        ObjectName::new("Service", "redis", "unserved"),
        ObjectName::new("EndpointSlice", "redis", "unserved"),
    ])
}

const ALIAS: &str = "
apiVersion: v1
kind: Service
metadata: {name: unserved, namespace: redis}
spec:
  type: ExternalName
  externalName: redis-single.redis.svc.cluster.local
  ports: [{name: redis, port: 6379}]
";

/// An ExternalName Service has no listener of its own: the status names the host that can have rules.
fn alias(mesh: &mut Mesh) -> Result<()> {
    mesh.apply(ALIAS)?;
    mesh.apply(PASSWORD)?;
    let object = ObjectName::new("RedisService", "redis", "unserved");
    let (_, message) = wait_condition(mesh, &object, "ResolvedRefs", "False")?;
    ensure!(message.contains("[aliased-host]") && message.contains("redis-single.redis.svc"), "{message}");
    wait_condition(mesh, &object, "Programmed", "False")?;
    mesh.delete(&[ObjectName::new("Service", "redis", "unserved")])
}
