//! Writes that redis_proxy treats as reads: the server that executes them, and whether mirrors
//! receive them.

use std::time::Duration;

use anyhow::Result;
use redis_mesh_tests::client::Client;
use redis_mesh_tests::cluster::Cluster;
use redis_mesh_tests::listener::{Rendered, host, object, service};
use redis_mesh_tests::net::Subnet;
use redis_mesh_tests::redis::Redis;
use redis_mesh_tests::reply::Reply;

use crate::scene::*;

/// Writes that redis_proxy treats as reads, each with the commands that prepare it.
const TAKEN_FOR_READS: &[(&str, &[&str])] = &[
    ("xadd", &["xadd s 5-5 f v"]),
    ("getset", &["set g old", "getset g new"]),
    ("getex", &["set g v", "getex g ex 1000"]),
    ("xdel", &["xadd s 5-5 f v", "xdel s 5-5"]),
    ("xtrim", &["xadd s 5-5 f v", "xtrim s maxlen 0"]),
];

/// Returns a state that shows whether a server has executed the last of the commands above.
fn state(redis: &Redis) -> Result<String> {
    let mut client = redis.client()?;
    let length = client.cmd(&["XLEN", "s"])?.tty();
    let value = client.cmd(&["GET", "g"])?.tty();
    let expires = client.cmd(&["TTL", "g"])?.integer().unwrap_or(-3) > 0;
    Ok(format!("stream {length}, value {value}, expires {expires}"))
}

#[test]
fn e1_writes_taken_for_reads_go_to_the_read_cluster() -> Result<()> {
    let scene = scene()?;
    let mut alone = scene.client(ALONE_READS)?;
    assert_eq!(alone.line("set k v")?, Reply::ok());
    assert_eq!(scene.x.cmd(&["GET", "k"])?, Reply::bulk("v"));
    // A write, and it is where no write should be.
    alone.ok(&["XADD", "s", "*", "f", "v"])?;
    alone.ok(&["FLUSHALL"])?;
    alone.ok(&["XADD", "s", "*", "f", "v"])?;
    assert_eq!((scene.x.cmd(&["XLEN", "s"])?, scene.y.cmd(&["XLEN", "s"])?), (Reply::Integer(0), Reply::Integer(1)));
    assert_eq!(scene.x.cmd(&["GET", "k"])?, Reply::bulk("v"), "FLUSHALL went elsewhere");

    // Through us every one of them is executed where the route leads, and nowhere else.
    scene.x.forget()?;
    scene.y.forget()?;
    for (_, commands) in TAKEN_FOR_READS {
        for at in [SINGLE, PREFIX] {
            let mut ours = scene.client(at)?;
            for line in *commands {
                assert!(!ours.line(line)?.is_error(), "{line}");
            }
            ours.ok(&["DEL", "s", "g"])?;
        }
    }
    let mut group = scene.client(SINGLE)?;
    scene.x.cmd(&["XGROUP", "CREATE", "q", "group", "$", "MKSTREAM"])?;
    let id = group.ok(&["XADD", "q", "*", "f", "v"])?.text();
    scene.x.cmd(&["XREADGROUP", "GROUP", "group", "one", "STREAMS", "q", ">"])?;
    assert_eq!(group.ok(&["XCLAIM", "q", "group", "two", "0", &id])?.items().len(), 1);
    assert_eq!(group.ok(&["XAUTOCLAIM", "q", "group", "three", "0", "0"])?.items().len(), 3);
    assert_eq!(group.ok(&["XACK", "q", "group", &id])?, Reply::Integer(1));
    let sha = group.ok(&["SCRIPT", "LOAD", "return 5"])?.text();
    assert_eq!(group.ok(&["EVALSHA", &sha, "1", "k"])?, Reply::Integer(5));
    group.ok(&["FLUSHALL"])?;
    assert_eq!(scene.x.cmd(&["DBSIZE"])?, Reply::Integer(0));
    for command in ["xadd", "getset", "getex", "xdel", "xtrim", "xclaim", "xautoclaim", "xack", "evalsha"] {
        assert_eq!(scene.y.calls(command)?, 0, "{command}");
    }
    Ok(())
}

#[test]
fn e1_read_policy_replica_leaves_writes_with_the_masters() -> Result<()> {
    let cluster = Cluster::start()?;
    let subnet = Subnet::claim()?;
    let mut manifests = service("many", subnet.redis(1), cluster.nodes[0].addr());
    manifests += &object(
        "RedisService",
        "many",
        &format!("  settings: {{readPolicy: REPLICA}}\n  redis: [{{route: {{host: {}}}}}]\n", host("many")),
    );
    manifests += &object("RedisDestination", "many", "  trafficPolicy: {connectionPool: {redis: {mode: CLUSTER}}}\n");
    let envoy = Rendered::new(&manifests, &[])?.start()?;
    envoy.wait_discovered(Duration::from_secs(10))?;
    let mut ours = Client::connect(subnet.redis(1))?;
    // Envoy learns of the replicas a moment after the masters.
    redis_mesh_tests::process::wait_until("replicas that serve reads", Duration::from_secs(10), || {
        ours.cmd(&["GET", "none"]).is_ok_and(|reply| !reply.is_error())
    })?;
    for i in 0..20 {
        let (s, g) = (format!("s{i}"), format!("g{i}"));
        ours.ok(&["XADD", &s, "5-5", "f", "v"])?;
        ours.ok(&["SET", &g, "old"])?;
        assert_eq!(ours.ok(&["GETSET", &g, "new"])?, Reply::bulk("old"));
        assert_eq!(ours.ok(&["GETEX", &g, "EX", "1000"])?, Reply::bulk("new"));
        assert_eq!(ours.ok(&["XDEL", &s, "5-5"])?, Reply::Integer(1));
        assert_eq!(ours.ok(&["XTRIM", &s, "MAXLEN", "0"])?, Reply::Integer(0));
    }
    Ok(())
}

#[test]
fn e2_a_mirror_of_writes_takes_every_write() -> Result<()> {
    let scene = scene()?;
    for (command, commands) in TAKEN_FOR_READS {
        for (at, mirrored) in [(ALONE_MIRROR, false), (MIRROR, true)] {
            scene.x.forget()?;
            scene.y.forget()?;
            let mut client = scene.client(at)?;
            for line in *commands {
                assert!(!client.line(line)?.is_error(), "{line}");
            }
            let expected = state(&scene.x)?;
            if mirrored {
                wait_for(&format!("{command} at the mirror"), || Ok(state(&scene.y)? == expected))?;
            } else {
                // The mirror has had everything before the last command, and that not.
                assert_eq!(scene.y.calls(command)?, 0, "{command}: redis_proxy alone now does better");
            }
            let reads = scene.y.calls("get")?;
            assert_eq!(client.line("get none")?, Reply::NullBulk);
            assert_eq!(client.line("set marker 1")?, Reply::ok());
            wait_for("the next write at the mirror", || Ok(scene.y.cmd(&["EXISTS", "marker"])? == Reply::Integer(1)))?;
            assert_eq!(scene.y.calls("get")?, reads, "a read was mirrored");
        }
    }
    Ok(())
}

#[test]
fn e2_commands_without_a_key_are_mirrored_by_the_argument_that_they_are_routed_by() -> Result<()> {
    let scene = scene()?;
    let mut ours = scene.client(MIRROR)?;
    assert_eq!(ours.line("publish channel text")?, Reply::Integer(0));
    wait_for("PUBLISH at the mirror", || Ok(scene.y.calls("publish")? == 1))?;
    assert_eq!(ours.line("eval \"return redis.call('set', 'e', ARGV[1])\" 0 value")?, Reply::ok());
    wait_for("EVAL at the mirror", || Ok(scene.y.cmd(&["GET", "e"])? == Reply::bulk("value")))?;
    assert_eq!(scene.x.cmd(&["GET", "e"])?, Reply::bulk("value"));
    Ok(())
}
