//! Namespaces that share a mesh and don't trust each other.

use anyhow::{Result, ensure};

use super::Test;
use super::conditions::{single, wait_condition};
use super::mission::{CLIENT_AUTH, SERVER_AUTH, session, soon};
use super::refusal::{REFUSED, while_refused};
use crate::api::ObjectName;
use crate::mesh::{Mesh, PASSWORD, PATIENCE, eventually};

/// The tests.
pub const TESTS: &[Test] = &[
    ("tenants::credentials_of_the_owner", credentials_of_the_owner),
    ("tenants::refused_objects", refused_objects),
    ("tenants::mistakes_of_strangers", mistakes_of_strangers),
];

/// The namespace of somebody else.
pub(super) const NAMESPACE: &str = "{apiVersion: v1, kind: Namespace, metadata: {name: web}}";
/// A consumer's rules, whose clients reach the owner's Redis under another name, alone and among
/// others.
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
pub(super) const ALONE: &str = "
apiVersion: redis.aeraki.io/v1alpha1
kind: RedisService
metadata: {name: mine, namespace: web}
spec:
  host: [redis-cluster.redis.svc.cluster.local]
  redis: [{route: {host: redis-single.redis.svc.cluster.local}}]
";

/// The rules serve the consumer's clients only, can't be read in the consumer's namespace, and end
/// when the owner requires a password.
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
        let key = line.split(' ').nth(1).unwrap_or_default();
        // Before the rules have arrived, the node of redis-cluster that is asked may take the key.
        eventually(PATIENCE, || {
            let answer = ask(line)?;
            ensure!(answer == "OK", "{answer}");
            ensure!(mesh.single.cmd(&["GET", key])?.text() == "1", "{key} isn't in redis-single");
            Ok(())
        })?;
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

const CLUSTER: &str = "
apiVersion: redis.aeraki.io/v1alpha1
kind: RedisDestination
metadata: {name: mine, namespace: web}
spec:
  host: redis-cluster.redis.svc.cluster.local
  trafficPolicy: {connectionPool: {redis: {mode: CLUSTER}}}
";

/// A rejection by the API server in one namespace doesn't delay the others.
fn refused_objects(mesh: &mut Mesh) -> Result<()> {
    mesh.api().apply(NAMESPACE)?;
    while_refused(mesh, "web", others_go_on)
}

fn others_go_on(mesh: &mut Mesh) -> Result<()> {
    mesh.api().apply(CLUSTER)?;
    let name = ObjectName::new("RedisDestination", "web", "mine");
    let (reason, message) = wait_condition(mesh, &name, "Programmed", "False")?;
    ensure!(reason == "ApplyFailed" && message.contains(REFUSED), "{reason}: {message}");
    mesh.api().apply(SERVER_AUTH)?;
    soon(mesh, "redis-single", &[("set a a", "OK")])?;
    wait_condition(mesh, &single("RedisDestination"), "Programmed", "True")?;
    mesh.delete(&[single("RedisDestination")])?;
    soon(mesh, "redis-single", &[("get a", "(error) NOAUTH Authentication required.")])?;
    mesh.delete(&[name])
}

/// An object about another owner's host that was never valid.
const MISTAKE: &str = "
apiVersion: redis.aeraki.io/v1alpha1
kind: RedisService
metadata: {name: mistake, namespace: web}
spec:
  host: [redis-single.redis.svc.cluster.local]
  settings: {auth: {secret: {name: no-such-secret}}}
";
const OWN: &str = "
apiVersion: redis.aeraki.io/v1alpha1
kind: RedisService
metadata: {name: redis-single, namespace: redis}
spec:
  host: [redis-single.redis.svc.cluster.local]
  settings: {auth: {plain: {password: one}}}
---
apiVersion: redis.aeraki.io/v1alpha1
kind: RedisDestination
metadata: {name: redis-cluster, namespace: redis}
spec:
  host: redis-cluster.redis.svc.cluster.local
  trafficPolicy: {connectionPool: {redis: {mode: CLUSTER, auth: {plain: {password: of-the-cluster}}}}}
";
/// Returns an EnvoyFilter of a tenant, who can claim any revision.
const FORGED: &str = "
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata:
  name: forged
  namespace: web
  labels: {app.kubernetes.io/managed-by: redis-mesh}
  annotations: {redis-mesh.io/revision: '18446744073709551615'}
spec: {configPatches: []}
";

/// Foreign objects neither keep rules in force that their owner has removed nor block new ones.
fn mistakes_of_strangers(mesh: &mut Mesh) -> Result<()> {
    mesh.api().apply(NAMESPACE)?;
    mesh.plane.kubectl(&["apply", "--server-side", "-f", "-"], FORGED)?;
    mesh.api().apply(OWN)?;
    soon(mesh, "redis-single", &[("auth one", "OK")])?;
    mesh.api().apply(&OWN.replace("password: one", "password: two"))?;
    soon(mesh, "redis-single", &[("auth two", "OK")])?;
    let plugin =
        mesh.plane.kubectl(&["-n", "istio-system", "get", "wasmplugin", "redis-mesh-6379", "-o", "yaml"], "")?;
    ensure!(!plugin.contains("18446744073709551615"), "every push has the same number");
    mesh.api().apply(MISTAKE)?;
    let mistake = ObjectName::new("RedisService", "web", "mistake");
    wait_condition(mesh, &mistake, "Programmed", "False")?;
    let cluster = ObjectName::new("RedisDestination", "redis", "redis-cluster");
    mesh.delete(&[single("RedisService"), cluster])?;
    eventually(PATIENCE, || {
        let left = mesh.plane.kubectl(&["get", "wasmplugins,envoyfilters", "-A", "-o", "yaml"], "")?;
        for ended in ["of-the-cluster", "redis-single.redis.svc.cluster.local:6379"] {
            ensure!(!left.contains(ended), "{ended} stays in force");
        }
        Ok(())
    })?;
    let (reason, message) = wait_condition(mesh, &mistake, "Programmed", "False")?;
    ensure!(reason == "NotProgrammed", "{reason}: {message}");
    mesh.plane.kubectl(&["-n", "web", "delete", "envoyfilter", "forged"], "")?;
    mesh.delete(&[mistake])
}
