//! Redis behind sidecars that say who may connect (an AuthorizationPolicy), and clients' sidecars that
//! know who must answer.

use anyhow::{Context, Result, bail, ensure};
use redis_mesh_tests::redis::Redis;

use super::Test;
use super::mission::soon;
use super::mtls::{STRICT, ensure_strict, remove, service};
use super::tenants;
use crate::api::ObjectName;
use crate::mesh::{Mesh, PATIENCE, eventually};
use crate::pod::Pod;

/// The tests.
pub const TESTS: &[Test] = &[
    ("policies::denied", |mesh| denied(mesh, &["direct", "proxy"])),
    ("policies::impostor", |mesh| impostor(mesh, "proxy")),
];

/// The tests in a sidecar with the dynamic module.
pub const NATIVE_TESTS: &[Test] = &[
    ("policies::denied_natively", |mesh| mesh.natively(|mesh, _| denied(mesh, &["native"]))),
    ("policies::impostor_natively", |mesh| mesh.natively(|mesh, _| impostor(mesh, "native"))),
];

/// The host of the Redis with a policy, and the last number of the address of its pod.
const GUARDED: &str = "guarded.secure";
const GUARDED_POD: u8 = 54;
/// The same of the Redis in whose place another one comes.
const PINNED: &str = "pinned.secure";
const OWNERS_POD: u8 = 55;
const TENANTS_POD: u8 = 56;

const SESSION: [(&str, &str); 3] = [("auth of-clients", "OK"), ("set a 1", "OK"), ("get a", "\"1\"")];
/// How often clients try what mustn't succeed.
const ATTEMPTS: usize = 20;

/// Clients' password and a login.
fn rules(name: &str, path: &str) -> String {
    format!(
        "
apiVersion: redis.aeraki.io/v1alpha1
kind: RedisService
metadata: {{name: {name}, namespace: secure, annotations: {{redis-mesh.io/data-path: {path}}}}}
spec:
  host: [{name}.secure.svc.cluster.local]
  settings: {{auth: {{plain: {{password: of-clients}}}}}}
---
apiVersion: redis.aeraki.io/v1alpha1
kind: RedisDestination
metadata: {{name: {name}, namespace: secure}}
spec:
  host: {name}.secure.svc.cluster.local
  trafficPolicy: {{connectionPool: {{redis: {{auth: {{plain: {{password: secret-of-{name}}}}}}}}}}}
"
    )
}

/// Policies of the Redis's pods: the clients' identity is known, and may connect or not.
fn policy(name: &str, action: &str) -> String {
    format!(
        "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: {name}, namespace: secure}}
spec:
  selector: {{matchLabels: {{app: guarded}}}}
  action: {action}
  rules:
    - from: [{{source: {{principals: [cluster.local/ns/redis/sa/default]}}}}]
      to: [{{operation: {{ports: ['6379']}}}}]
"
    )
}

/// Who is allowed is served under STRICT mTLS. Who is denied gets no answer of Redis's, and Redis gets
/// nothing of his, whatever our rules do in the client's sidecar.
fn denied(mesh: &mut Mesh, paths: &[&str]) -> Result<()> {
    mesh.apply(&service("guarded", "10.96.0.34", [GUARDED_POD]))?;
    let pod = mesh.pod("guarded-0", "secure", "guarded", GUARDED_POD, true)?;
    let redis = pod.redis(Some("secret-of-guarded"))?;
    mesh.apply(&format!("{STRICT}---{}", policy("allow", "ALLOW")))?;
    ensure_strict(&pod)?;
    for path in paths {
        denied_on(mesh, &pod, &redis, path).with_context(|| format!("on the path {path}"))?;
    }
    mesh.delete(&["allow", "deny"].map(|name| ObjectName::new("AuthorizationPolicy", "secure", name)))?;
    remove(mesh, &["guarded"])?;
    drop(redis);
    pod.delete()
}

fn denied_on(mesh: &mut Mesh, pod: &Pod, redis: &Redis, path: &str) -> Result<()> {
    mesh.apply(&rules("guarded", path))?;
    soon(mesh, GUARDED, &SESSION)?;
    let denials = || -> Result<u64> {
        let stats = pod.sidecar()?.stats("rbac.*[.]denied$")?;
        Ok(stats.iter().map(|(_, value)| value).sum())
    };
    let denied_before = denials()?;
    mesh.apply(&policy("deny", "DENY"))?;
    eventually(PATIENCE, || {
        // Those of before were allowed, and stay until the listener has drained.
        redis.cmd(&["CLIENT", "KILL", "TYPE", "normal"])?;
        ensure_refused(mesh, GUARDED)?;
        ensure!(denials()? > denied_before, "the policy has denied nothing");
        Ok(())
    })
    .with_context(|| format!("{:?} denials, {:?}", denials(), redis.cmd(&["CLIENT", "LIST"])))?;
    let before = redis.cmd(&["DBSIZE"])?.text();
    for _ in 0..ATTEMPTS {
        ensure_refused(mesh, GUARDED)?;
    }
    ensure!(redis.cmd(&["DBSIZE"])?.text() == before, "Redis has executed a command of a denied client");
    let inbound = pod.sidecar()?.listener("virtualInbound")?.context("the sidecar takes no connections")?;
    ensure!(inbound.to_string().contains("envoy.filters.network.rbac"), "the policy's filter is gone");
    mesh.delete(&[ObjectName::new("AuthorizationPolicy", "secure", "deny")])?;
    soon(mesh, GUARDED, &SESSION)
}

/// Checks that a client sees an error or the end of the connection for each command, and no answer of
/// Redis's.
fn ensure_refused(mesh: &Mesh, host: &str) -> Result<()> {
    let mut client = mesh.client.client(host)?;
    for line in ["auth of-clients", "set b 1", "get a"] {
        match client.line(line) {
            Err(_) => return Ok(()),
            Ok(reply) if reply.is_error() => {}
            // The sidecar itself answers AUTH where it needs no connection to Redis for that.
            Ok(reply) if line.starts_with("auth") && reply.tty() == "OK" => {}
            Ok(reply) => bail!("{line} is answered with {}", reply.tty()),
        }
    }
    Ok(())
}

/// A host that `proxy` and `native` reach through a cluster of redis-mesh, with the certificates of the mesh.
const PASSTHROUGH: &str = "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: pinned, namespace: secure}
spec:
  host: pinned.secure.svc.cluster.local
  trafficPolicy: {loadBalancer: {simple: PASSTHROUGH}}
";

/// With a second destination, no data path uses Istio's own cluster, which follows the client without TLS.
const TWO_ROUTES: &str = "  redis:
    - {match: {key: {prefix: elsewhere-}}, route: {host: redis-single.redis.svc.cluster.local}}
    - {route: {host: pinned.secure.svc.cluster.local}}
";

/// A Redis of a tenant's that has come into the place of the owner's. Its certificate is one of the
/// mesh, and names the tenant's namespace: it gets no login and no command.
fn impostor(mesh: &mut Mesh, path: &str) -> Result<()> {
    mesh.api().apply(tenants::NAMESPACE)?;
    let endpoints = |host: u8| service("pinned", "10.96.0.35", [host]);
    mesh.apply(&format!("{}---{PASSTHROUGH}", endpoints(OWNERS_POD)))?;
    let pods = [
        mesh.pod("pinned-0", "secure", "pinned", OWNERS_POD, true)?,
        mesh.pod("impostor", "web", "impostor", TENANTS_POD, true)?,
    ];
    let owners = pods[0].redis(Some("secret-of-pinned"))?;
    // It would take whatever it is sent.
    let tenants = pods[1].redis(None)?;
    mesh.apply(STRICT)?;
    ensure_strict(&pods[0])?;
    mesh.apply(&rules("pinned", path).replacen("  settings:", &format!("{TWO_ROUTES}  settings:"), 1))?;
    soon(mesh, PINNED, &SESSION)?;

    let of_tenant = "name: impostor, namespace: web";
    mesh.apply(&endpoints(TENANTS_POD).replace("name: pinned-0, namespace: secure", of_tenant))?;
    wait_impostor(mesh, &owners).with_context(|| {
        let sent = tenants.cmd(&["INFO", "commandstats"]).map(|reply| reply.text());
        format!("the tenant's Redis was sent {sent:?}")
    })?;
    for _ in 0..ATTEMPTS {
        ensure_refused(mesh, PINNED)?;
    }
    let stats = tenants.cmd(&["INFO", "commandstats"])?.text();
    for command in ["auth", "hello", "set", "get"] {
        ensure!(!stats.contains(&format!("cmdstat_{command}:")), "the tenant's Redis was sent: {stats}");
    }
    mesh.apply(&endpoints(OWNERS_POD))?;
    soon(mesh, PINNED, &SESSION)?;
    mesh.delete(&[ObjectName::new("DestinationRule", "secure", "pinned")])?;
    remove(mesh, &["pinned"])?;
    drop((owners, tenants));
    pods.into_iter().try_for_each(Pod::delete)
}

/// Waits until the client's sidecar has refused a certificate of another name.
fn wait_impostor(mesh: &Mesh, owners: &Redis) -> Result<()> {
    let refused = || -> Result<u64> {
        let stats = mesh.client.sidecar()?.stats("^cluster.redis-mesh.*pinned.*ssl.fail_verify_san$")?;
        Ok(stats.iter().map(|(_, value)| value).sum())
    };
    let before = refused()?;
    eventually(PATIENCE, || {
        // The module keeps connections to a member that has gone for a minute: they lead to the owner's.
        owners.cmd(&["CLIENT", "KILL", "TYPE", "normal"])?;
        ensure_refused(mesh, PINNED)?;
        ensure!(refused()? > before, "no certificate was refused");
        Ok(())
    })
}
