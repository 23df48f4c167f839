//! Changes under load: the halves of an update in either order, policy, delivery.

use anyhow::{Context, Result, ensure};
use redis_mesh_tests::redis::Redis;
use serde_json::Value;

use super::Test;
use super::mission::{FAULT, PREFIX_ROUTING, SERVER_AUTH, redis_cluster, session, soon};
use crate::api::ObjectName;
use crate::mesh::{Mesh, PATIENCE, eventually};
use crate::operator::Rendered;
use crate::traffic::{Seen, Traffic};

/// The tests.
pub const TESTS: &[Test] = &[
    ("updates::envoy_filters_first", |mesh| mesh.by_hand(|mesh, person| halves(mesh, person, "EnvoyFilter"))),
    ("updates::wasm_plugin_first", |mesh| mesh.by_hand(|mesh, person| halves(mesh, person, "WasmPlugin"))),
    ("updates::policy", policy),
    ("updates::a_b_a", a_b_a),
    ("updates::delivery", delivery),
];

/// Keys of redis-cluster, and of redis-single where the mission's prefix routing holds.
pub(super) const PREFIXES: [&str; 2] = ["cluster-", "other-"];
pub(super) const LISTENER: &str = "10.96.0.22_6379";

/// Checks that no key is where no rules have ever routed it, and that no key contains a tag.
pub(super) fn ensure_routed(mesh: &Mesh, may_cluster_hold_others: bool) -> Result<()> {
    let keys = |redis: &Redis| -> Result<Vec<String>> {
        Ok(redis.cmd(&["KEYS", "*"])?.items().iter().map(|key| key.text()).collect())
    };
    let strange = |keys: Vec<String>, allowed: &[&str]| -> Vec<String> {
        keys.into_iter().filter(|key| !allowed.iter().any(|prefix| key.starts_with(prefix))).collect()
    };
    let of_cluster = if may_cluster_hold_others { &PREFIXES[..] } else { &PREFIXES[..1] };
    for node in &mesh.cluster.nodes {
        let strange = strange(keys(node)?, of_cluster);
        ensure!(strange.is_empty(), "redis-cluster holds {strange:?}");
    }
    let strange = strange(keys(&mesh.single)?, &PREFIXES[1..]);
    ensure!(strange.is_empty(), "redis-single holds {strange:?}");
    Ok(())
}

/// From one destination to several and back. The objects of one kind arrive first, the others when
/// Envoy has those.
fn halves(mesh: &mut Mesh, person: &mut Rendered, first: &str) -> Result<()> {
    mesh.plane.kubectl(&["apply", "-f", "-"], &format!("{SERVER_AUTH}---\n{}", redis_cluster()))?;
    person.sync(&mesh.plane)?;
    let lines =
        [("set cluster-0 0", "OK"), ("set other-0 0", "OK"), ("get cluster-0", "\"0\""), ("get other-0", "\"0\"")];
    eventually(PATIENCE, || (0..6).try_for_each(|_| session(mesh, "redis-cluster", &lines)))?;
    let traffic = Traffic::start(&mesh.client, "redis-cluster", None, &PREFIXES)?;

    mesh.plane.kubectl(&["apply", "-f", "-"], PREFIX_ROUTING)?;
    half_by_half(mesh, person, first)?;
    eventually(PATIENCE, || {
        session(mesh, "redis-cluster", &[("set other-last 1", "OK")])?;
        ensure!(mesh.single.cmd(&["GET", "other-last"])?.text() == "1", "other-last isn't in redis-single");
        Ok(())
    })?;
    traffic.wait_right(0)?;

    mesh.api().delete(&ObjectName::new("RedisService", "redis", "redis-cluster"))?;
    half_by_half(mesh, person, first)?;
    eventually(PATIENCE, || {
        session(mesh, "redis-cluster", &[("set other-back 1", "OK")])?;
        ensure!(mesh.cluster.get("other-back")?.text() == "1", "other-back isn't in redis-cluster");
        Ok(())
    })?;
    let seen = traffic.stop()?;
    ensure_closed_in_order(&seen)?;
    ensure_routed(mesh, true)
}

/// The error replies that clients may get between the halves of an update. A wrong value is never
/// allowed.
fn ensure_closed_in_order(seen: &Seen) -> Result<()> {
    ensure!(seen.wrong.is_empty(), "wrong values: {:?}", seen.wrong);
    let unexpected: Vec<&String> =
        seen.errors.keys().filter(|error| !REFUSALS.iter().any(|r| error.starts_with(r))).collect();
    ensure!(unexpected.is_empty(), "the clients saw {unexpected:?}");
    Ok(())
}

/// redis_proxy's answers to a tag that it doesn't know, and ours where no handshake succeeds.
pub(super) const REFUSALS: [&str; 3] = ["no upstream host", "ERR redis-mesh: ", "NOAUTH "];

fn half_by_half(mesh: &Mesh, person: &mut Rendered, first: &str) -> Result<()> {
    let objects = person.render(&mesh.plane)?;
    let (first, second): (Vec<Value>, Vec<Value>) = objects.iter().cloned().partition(|object| object["kind"] == first);
    ensure!(!first.is_empty() && !second.is_empty(), "there are no halves: {objects:?}");
    let sidecar = mesh.client.sidecar()?;
    for half in [first, second] {
        let before = configuration(mesh)?;
        for object in &half {
            mesh.api().apply_object(object)?;
        }
        eventually(PATIENCE, || {
            ensure!(configuration(mesh)? != before, "nothing has arrived");
            Ok(())
        })
        .with_context(|| {
            format!("applying {} objects; {} updates were rejected", half.len(), sidecar.rejected().unwrap_or(0))
        })?;
    }
    let names = objects.iter().map(ObjectName::of).collect::<Result<_>>()?;
    person.prune(&mesh.plane, names)
}

/// The listener of redis-cluster, and the filter's configurations.
fn configuration(mesh: &Mesh) -> Result<(Option<Value>, Value)> {
    let sidecar = mesh.client.sidecar()?;
    let dump: Value = serde_json::from_str(&sidecar.get("/config_dump?resource=ecds_filters")?)?;
    let filters =
        dump["configs"].as_array().into_iter().flatten().map(|filter| filter["ecds_filter"].clone()).collect();
    Ok((sidecar.listener(LISTENER)?, Value::Array(filters)))
}

fn faults(mesh: &mut Mesh, percentage: u32) -> Result<()> {
    mesh.apply(&FAULT.replace("value: 50", &format!("value: {percentage}")).replace("- GET", "- STRLEN"))
}

/// A change within the filter's configuration: no listener changes, no connection ends, no other
/// command is refused.
fn policy(mesh: &mut Mesh) -> Result<()> {
    mesh.apply(&redis_cluster())?;
    faults(mesh, 0)?;
    let lines = [("set cluster-0 0", "OK"), ("strlen cluster-0", "(integer) 1")];
    eventually(PATIENCE, || (0..6).try_for_each(|_| session(mesh, "redis-cluster", &lines)))?;
    let traffic = Traffic::start(&mesh.client, "redis-cluster", None, &PREFIXES)?;
    let mut client = mesh.client.client("redis-cluster")?;
    ensure!(client.line("strlen cluster-0")?.tty() == "(integer) 1");
    let listener = mesh.client.sidecar()?.listener(LISTENER)?;
    for percentage in [100, 0, 100, 0] {
        faults(mesh, percentage)?;
        let expected = if percentage == 100 { "(error) Fault Injected: Error" } else { "(integer) 1" };
        // On a connection that was open before.
        eventually(PATIENCE, || {
            let answer = client.line("strlen cluster-0")?.tty();
            ensure!(answer == expected, "{answer}");
            Ok(())
        })?;
        traffic.wait_right(100)?;
    }
    ensure!(mesh.client.sidecar()?.listener(LISTENER)? == listener, "the listener has changed");
    traffic.stop()?.ensure_calm()
}

/// From rules to others and back to the very same: Envoy doesn't configure a plugin again with
/// bytes that it still holds.
fn a_b_a(mesh: &mut Mesh) -> Result<()> {
    let rules = |password: &str| {
        format!(
            "
apiVersion: redis.aeraki.io/v1alpha1
kind: RedisService
metadata: {{name: redis-cluster, namespace: redis}}
spec:
  host: [redis-cluster.redis.svc.cluster.local]
  settings: {{auth: {{plain: {{password: {password}}}}}}}
"
        )
    };
    mesh.apply(&redis_cluster())?;
    let mut held = Vec::new();
    for (password, other) in [("first", "second"), ("second", "first"), ("first", "second")] {
        mesh.apply(&rules(password))?;
        let (right, wrong) = (format!("auth {password}"), format!("auth {other}"));
        soon(mesh, "redis-cluster", &[(&wrong, "(error) ERR invalid password"), (&right, "OK"), ("set a a", "OK")])?;
        // Connections that hold what they were begun with.
        let mut client = mesh.client.client("redis-cluster")?;
        client.ok(&["AUTH", password])?;
        held.push(client);
    }
    for client in &mut held {
        ensure!(client.line("get a")?.tty() == "\"a\"", "a connection that was logged in before the changes");
    }
    Ok(())
}

/// Puts the mission's prefix routing in force and empties every Redis.
pub(super) fn route_by_prefix(mesh: &mut Mesh) -> Result<()> {
    prefix_routing_in_force(mesh)?;
    mesh.cluster.forget()?;
    mesh.single.forget()
}

/// Applies the mission's prefix routing and waits until it is in force.
pub(super) fn prefix_routing_in_force(mesh: &mut Mesh) -> Result<()> {
    mesh.apply(&format!("{SERVER_AUTH}---\n{}---\n{PREFIX_ROUTING}", redis_cluster()))?;
    eventually(PATIENCE, || {
        session(mesh, "redis-cluster", &[("set cluster-0 0", "OK"), ("set other-0 0", "OK")])?;
        ensure!(mesh.single.cmd(&["GET", "other-0"])?.text() == "0");
        Ok(())
    })
}

/// From the WasmPlugin that serves every host of a port to per-host delivery and back.
fn delivery(mesh: &mut Mesh) -> Result<()> {
    route_by_prefix(mesh)?;
    let traffic = Traffic::start(&mesh.client, "redis-cluster", None, &PREFIXES)?;
    for per_host in [true, false] {
        mesh.deliver(per_host)?;
        eventually(PATIENCE, || {
            let listener = mesh.client.sidecar()?.listener(LISTENER)?.context("no listener")?.to_string();
            ensure!(listener.contains("redis-mesh-redis-cluster.redis.svc-6379") == per_host, "{listener}");
            Ok(())
        })?;
        eventually(PATIENCE, || session(mesh, "redis-cluster", &[("set cluster-1 1", "OK"), ("set other-1 1", "OK")]))?;
        traffic.wait_right(200)?;
    }
    let seen = traffic.stop()?;
    ensure_closed_in_order(&seen)?;
    ensure_routed(mesh, false)
}
