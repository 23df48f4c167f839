//! Namespaces that share a mesh and don't trust each other.

use anyhow::{Result, ensure};

use super::Test;
use super::conditions::{single, wait_condition};
use super::mission::{CLIENT_AUTH, SERVER_AUTH, session, soon};
use crate::api::ObjectName;
use crate::mesh::{Mesh, PASSWORD, PATIENCE, eventually};

/// The tests.
pub const TESTS: &[Test] = &[("tenants::credentials_of_the_owner", credentials_of_the_owner)];

/// A consumer's rules, whose clients reach the owner's Redis under another name, alone and among others.
const NAMESPACE: &str = "{apiVersion: v1, kind: Namespace, metadata: {name: web}}";
const RULES: &str = "
apiVersion: redis.aeraki.io/v1alpha1
kind: RedisService
metadata: {name: mine, namespace: web}
spec:
  host: [redis-cluster.redis.svc.cluster.local]
  redis:
    - match: {key: {prefix: 'here-'}}
      route: {host: redis-single.redis.svc.cluster.local}
";
const ALONE: &str = "
apiVersion: redis.aeraki.io/v1alpha1
kind: RedisService
metadata: {name: mine, namespace: web}
spec:
  host: [redis-cluster.redis.svc.cluster.local]
  redis: [{route: {host: redis-single.redis.svc.cluster.local}}]
";

/// They serve the consumer's clients only, are not to be read in the consumer's namespace, and end when the owner asks his
/// clients for a password.
fn credentials_of_the_owner(mesh: &mut Mesh) -> Result<()> {
    mesh.apply(SERVER_AUTH)?;
    soon(mesh, "redis-single", &[("set a a", "OK")])?;
    mesh.api().apply(NAMESPACE)?;
    let pod = mesh.pod("web-client", "web", "web-client", 63, true)?;
    let ask = |line: &str| -> Result<String> { Ok(pod.client("redis-cluster.redis")?.line(line)?.tty()) };
    let name = ObjectName::new("RedisService", "web", "mine");
    for (rules, line) in [(RULES, "set here-1 1"), (ALONE, "set everywhere 1")] {
        mesh.apply(rules)?;
        wait_condition(mesh, &name, "Programmed", "True")?;
        eventually(PATIENCE, || {
            let answer = ask(line)?;
            ensure!(answer == "OK", "{answer}");
            Ok(())
        })?;
        let key = line.split(' ').nth(1).unwrap_or_default();
        ensure!(mesh.single.cmd(&["GET", key])?.text() == "1", "{key} isn't in redis-single");
        let read = mesh.plane.kubectl(&["-n", "web", "get", "envoyfilters,wasmplugins", "-o", "yaml"], "")?;
        ensure!(!read.contains(PASSWORD), "the owner's password stands in the consumer's namespace");
        // Other namespaces' clients have nothing to do with it.
        session(mesh, "redis-cluster", &[("cluster countkeysinslot 0", "(integer) 0")])?;
    }
    mesh.apply(CLIENT_AUTH)?;
    let (reason, message) = wait_condition(mesh, &name, "Accepted", "False")?;
    ensure!(reason == "Conflict" && message.contains("RedisService redis/redis-single"), "{reason}: {message}");
    eventually(PATIENCE, || {
        let answer = ask("get everywhere");
        ensure!(!answer.as_ref().is_ok_and(|answer| answer == "\"1\""), "a way around the owner's password is left");
        Ok(())
    })?;
    soon(mesh, "redis-single", &[("auth testredis123!", "OK"), ("get everywhere", "\"1\"")])?;
    mesh.delete(&[single("RedisService")])?;
    wait_condition(mesh, &name, "Programmed", "True")?;
    eventually(PATIENCE, || {
        let answer = ask("get everywhere")?;
        ensure!(answer == "\"1\"", "{answer}");
        Ok(())
    })?;
    mesh.delete(&[name])?;
    pod.delete()
}
