//! The examples of the mission, with unchanged manifests and the client sessions that it shows.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};

use super::Test;
use crate::api::ObjectName;
use crate::mesh::{Mesh, PATIENCE, eventually};

/// The tests.
pub const TESTS: &[Test] = &[
    ("mission::server_auth", server_auth),
    ("mission::client_auth", client_auth),
    ("mission::cluster", cluster),
    ("mission::cluster_as_written", cluster_as_written),
    ("mission::prefix_routing", prefix_routing),
    ("mission::read_policy", read_policy),
    ("mission::mirroring", mirroring),
    ("mission::fault", fault),
    ("mission::external_redis", external_redis),
];

macro_rules! mission {
    ($name:literal) => {
        include_str!(concat!("../../manifests/mission/", $name, ".yaml"))
    };
}

pub(super) const SERVER_AUTH: &str = mission!("server-auth");
pub(super) const CLIENT_AUTH: &str = mission!("client-auth");
pub(super) const CLUSTER: &str = mission!("cluster");
pub(super) const PREFIX_ROUTING: &str = mission!("prefix-routing");
const READ_POLICY: &str = mission!("read-policy");
const MIRRORING: &str = mission!("mirroring");
pub(super) const FAULT: &str = mission!("fault");
const EXTERNAL_REDIS: &str = mission!("external-redis");

/// The manifest of the mission's section on clusters, for the host that its text means.
pub(super) fn redis_cluster() -> String {
    CLUSTER.replace("external-redis", "redis-cluster")
}

/// Sends lines over one connection and compares the answers, formatted as redis-cli does.
pub(super) fn session(mesh: &Mesh, host: &str, lines: &[(&str, &str)]) -> Result<()> {
    let mut client = mesh.client.client(host)?;
    for (line, answer) in lines {
        let reply = client.line(line)?.tty();
        ensure!(reply == *answer, "{host}:6379> {line}\n{reply}\ninstead of\n{answer}");
    }
    Ok(())
}

/// Repeats [`session`] until the change has reached the client.
pub(super) fn soon(mesh: &Mesh, host: &str, lines: &[(&str, &str)]) -> Result<()> {
    eventually(PATIENCE, || session(mesh, host, lines))
}

pub(super) const NOAUTH: &str = "(error) NOAUTH Authentication required.";

fn server_auth(mesh: &mut Mesh) -> Result<()> {
    session(mesh, "redis-single", &[("set a a", NOAUTH)])?;
    mesh.apply(SERVER_AUTH)?;
    soon(mesh, "redis-single", &[("set foo bar", "OK")])?;
    ensure!(mesh.single.cmd(&["GET", "foo"])?.text() == "bar");
    mesh.delete(&[ObjectName::new("RedisDestination", "redis", "redis-single")])?;
    soon(mesh, "redis-single", &[("set a a", NOAUTH)])
}

fn client_auth(mesh: &mut Mesh) -> Result<()> {
    mesh.apply(SERVER_AUTH)?;
    soon(mesh, "redis-single", &[("set foo bar", "OK")])?;
    mesh.apply(CLIENT_AUTH)?;
    soon(
        mesh,
        "redis-single",
        &[
            ("get foo", NOAUTH),
            ("AUTH testredis", "(error) ERR invalid password"),
            ("AUTH testredis123!", "OK"),
            ("get foo", "\"bar\""),
        ],
    )?;
    // Without the client's password, the server's is still nobody's business.
    mesh.delete(&[ObjectName::new("RedisService", "redis", "redis-single")])?;
    soon(mesh, "redis-single", &[("get foo", "\"bar\"")])
}

fn cluster(mesh: &mut Mesh) -> Result<()> {
    // Six nodes, of which one holds the slot: sooner or later a connection reaches another one.
    eventually(PATIENCE, || {
        let reply = mesh.client.client("redis-cluster")?.line("set foo bar")?.tty();
        ensure!(reply == "(error) MOVED 12182 10.244.0.23:6379", "{reply}");
        Ok(())
    })?;
    mesh.apply(&redis_cluster())?;
    // Of every shard, on every connection. A single key would be stored by chance where nothing
    // has arrived yet.
    eventually(PATIENCE, || {
        (0..30).try_for_each(|i| {
            let (key, value) = (format!("key-{i}"), format!("\"{i}\""));
            session(mesh, "redis-cluster", &[(&format!("set {key} {i}"), "OK"), (&format!("get {key}"), &value)])
        })
    })?;
    let masters = (0..30).map(|i| mesh.cluster.master_of(&format!("key-{i}"))).collect::<Result<BTreeSet<_>>>()?;
    ensure!(masters.len() == 3, "the keys lie on {masters:?} only");
    mesh.delete(&[ObjectName::new("RedisDestination", "redis", "redis-cluster")])?;
    mesh.wait_plain()
}

/// The manifest names external-redis: an external Redis that is a cluster, as the mission's last
/// section makes it known.
fn cluster_as_written(mesh: &mut Mesh) -> Result<()> {
    mesh.apply(EXTERNAL_REDIS)?;
    // What stands there is a replica.
    soon(mesh, "external-redis", &[("set foo bar", "(error) MOVED 12182 10.244.0.23:6379")])?;
    mesh.apply(CLUSTER)?;
    soon(mesh, "external-redis", &[("set foo bar", "OK"), ("set a a", "OK"), ("get b", "(nil)")])?;
    ensure!(mesh.cluster.get("foo")?.text() == "bar");
    mesh.delete(&[ObjectName::new("RedisDestination", "redis", "external-redis")])?;
    soon(mesh, "external-redis", &[("set foo bar", "(error) MOVED 12182 10.244.0.23:6379")])
}

fn prefix_routing(mesh: &mut Mesh) -> Result<()> {
    mesh.apply(SERVER_AUTH)?;
    mesh.apply(CLIENT_AUTH)?;
    mesh.apply(&redis_cluster())?;
    mesh.apply(PREFIX_ROUTING)?;
    // With the cluster's mode alone, the keys are set too, but elsewhere.
    eventually(PATIENCE, || ensure_routed(mesh))?;
    session(
        mesh,
        "redis-cluster",
        &[
            ("set test-route \"this key goes to redis-single\"", "OK"),
            ("set cluster-test-route \"this key goes to redis-cluster\"", "OK"),
            ("get test-route", "\"this key goes to redis-single\""),
            ("get cluster-test-route", "\"this key goes to redis-cluster\""),
        ],
    )?;
    session(
        mesh,
        "redis-single",
        &[
            ("AUTH testredis123!", "OK"),
            ("get test-route", "\"this key goes to redis-single\""),
            ("get cluster-test-route", "(nil)"),
        ],
    )?;
    ensure!(mesh.cluster.get("cluster-test-route")?.text() == "this key goes to redis-cluster");
    Ok(())
}

/// Whether a key outside of the cluster's prefix goes to redis-single, with the login.
pub(super) fn ensure_routed(mesh: &Mesh) -> Result<()> {
    session(mesh, "redis-cluster", &[("set elsewhere 1", "OK"), ("set cluster-here 1", "OK")])?;
    session(mesh, "redis-single", &[("AUTH testredis123!", "OK"), ("get elsewhere", "\"1\"")])?;
    ensure!(mesh.cluster.get("cluster-here")?.text() == "1");
    Ok(())
}

fn read_policy(mesh: &mut Mesh) -> Result<()> {
    mesh.apply(&redis_cluster())?;
    mesh.apply(READ_POLICY)?;
    soon(mesh, "redis-cluster", &[("set foo bar", "OK"), ("get foo", "\"bar\"")])?;
    // The update to the read policy may still be on its way while the cluster's mode is there.
    eventually(PATIENCE, || {
        mesh.cluster.nodes.iter().try_for_each(|node| node.cmd(&["CONFIG", "RESETSTAT"]).map(drop))?;
        for _ in 0..20 {
            session(mesh, "redis-cluster", &[("get foo", "\"bar\"")])?;
        }
        let (masters, calls) = (mesh.cluster.masters(), mesh.cluster.calls("get")?);
        let of_masters: u64 = masters.iter().map(|&i| calls[i]).sum();
        ensure!(of_masters == 0, "{of_masters} GETs went to masters {masters:?}: {calls:?}");
        ensure!(calls.iter().sum::<u64>() == 20, "not 20 GETs: {calls:?}");
        Ok(())
    })
}

fn mirroring(mesh: &mut Mesh) -> Result<()> {
    mesh.apply(SERVER_AUTH)?;
    mesh.apply(CLIENT_AUTH)?;
    mesh.apply(&redis_cluster())?;
    mesh.apply(MIRRORING)?;
    let value = "\"this key goes to both redis-cluster and redis-single\"";
    let set = format!("set test-traffic-mirroring {value}");
    eventually(PATIENCE, || {
        session(mesh, "redis-cluster", &[(&set, "OK"), ("get test-traffic-mirroring", value)])?;
        session(mesh, "redis-single", &[("AUTH testredis123!", "OK"), ("get test-traffic-mirroring", value)])
    })?;
    ensure!(mesh.cluster.get("test-traffic-mirroring")?.text() == value.trim_matches('"'));
    Ok(())
}

fn fault(mesh: &mut Mesh) -> Result<()> {
    mesh.apply(&redis_cluster())?;
    mesh.apply(FAULT)?;
    soon(mesh, "redis-cluster", &[("set a a", "OK")])?;
    eventually(PATIENCE, || {
        let mut client = mesh.client.client("redis-cluster")?;
        let (mut faults, mut values) = (0, 0);
        for _ in 0..200 {
            match client.line("get a")?.tty().as_str() {
                "(error) Fault Injected: Error" => faults += 1,
                "\"a\"" => values += 1,
                other => anyhow::bail!("get a: {other}"),
            }
            // Other commands are spared.
            ensure!(client.line("set a a")?.tty() == "OK");
        }
        // Of 200, 100 are expected with a deviation of 7.
        ensure!((60..=140).contains(&faults) && values == 200 - faults, "{faults} faults and {values} values");
        Ok(())
    })
}

fn external_redis(mesh: &mut Mesh) -> Result<()> {
    mesh.apply(EXTERNAL_REDIS)?;
    // Plain TCP, to the one address that the EndpointSlice names.
    soon(mesh, "external-redis", &[("ping", "PONG"), ("cluster keyslot foo", "(integer) 12182")])?;
    let rules = "
apiVersion: redis.aeraki.io/v1alpha1
kind: RedisService
metadata: {name: external-redis, namespace: redis}
spec:
  host: [external-redis.redis.svc.cluster.local]
  settings: {auth: {plain: {password: outside}}}
";
    mesh.apply(rules)?;
    soon(mesh, "external-redis", &[("ping", NOAUTH), ("auth outside", "OK"), ("ping", "PONG")])
}
