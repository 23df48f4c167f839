//! Commands for all servers where there is one: they are the server's own, and cost what a command
//! costs. Where there are several endpoints, and nobody has said what they are, they are refused.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use redis_mesh_tests::client::Client;
use redis_mesh_tests::net::Subnet;
use redis_mesh_tests::redis::Redis;
use redis_mesh_tests::reply::Reply;
use redis_mesh_tests::scene::Scene;

#[test]
fn commands_for_all_servers_go_to_the_only_one() -> Result<()> {
    let subnet = Subnet::claim()?;
    let _servers = [Redis::start_at(subnet.redis(11))?, Redis::start_at(subnet.redis(12))?];
    let mut scene = Scene::on(&subnet);
    scene.service("one", 101, &[11]).rules("one", "proxy", "");
    scene.service("several", 102, &[11, 12]).rules("several", "proxy", "");
    let _envoy = scene.start(1)?;

    let mut client = Client::connect(subnet.redis(101))?;
    for words in [&["INFO", "replication"][..], &["INFO"], &["INFO", "all"]] {
        let info = client.cmd(words)?.text();
        ensure!(info.contains("role:master"), "{words:?}: {info}");
    }
    // Without an argument: redis_proxy would crash if these were custom commands.
    for words in ["FLUSHALL", "FLUSHDB", "SCRIPT", "CONFIG", "KEYS", "SCAN", "SLOWLOG"] {
        let reply = client.cmd(&[words])?;
        ensure!(reply == Reply::ok() || reply.is_error(), "{words}: {reply:?}");
    }
    // One by one, the load balancer was asked 16,384 times for each: about 2 ms.
    let many: Vec<Vec<&str>> = (0..1000).map(|_| vec!["SCRIPT", "EXISTS", "a"]).collect();
    let began = Instant::now();
    let replies = client.pipeline(&many)?;
    let took = began.elapsed();
    ensure!(replies.iter().all(|reply| *reply == Reply::Array(vec![Reply::Integer(0)])), "{:?}", replies.first());
    ensure!(took < Duration::from_millis(800), "{took:?} for 1000 commands");

    let mut client = Client::connect(subnet.redis(102))?;
    client.ok(&["SET", "a", "b"])?;
    for words in [&["SCRIPT", "LOAD", "return 1"][..], &["FLUSHALL"], &["KEYS", "*"], &["CONFIG", "GET", "port"]] {
        let text = client.cmd(words)?.text();
        ensure!(text.contains("would reach some endpoints of several.redis.svc"), "{words:?}: {text}");
    }
    Ok(())
}
