//! Redis that doesn't answer, or not over the connections that there are.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use redis_mesh_core::wire::{KeyMatch, Upstream};
use redis_mesh_tests::client::Client;
use redis_mesh_tests::cluster::{Cluster, Shape};
use redis_mesh_tests::envoy::Envoy;
use redis_mesh_tests::listener::{self, Config, route};
use redis_mesh_tests::native;
use redis_mesh_tests::net::Subnet;
use redis_mesh_tests::process::wait_until;
use redis_mesh_tests::redis::Redis;
use redis_mesh_tests::relay::Relay;
use redis_mesh_tests::reply::Reply;

use crate::Scene;

/// The time by which a client has an answer, whatever it is: an `opTimeout` of five seconds, and
/// what a machine that is busy takes.
const ANSWERED: Duration = Duration::from_secs(9);

/// An Envoy with one worker whose only destination is at this address.
fn one(subnet: &Subnet, server: &Relay) -> Result<Envoy> {
    let document = listener::config("redis", 1, native::host(&["one"], vec![route(KeyMatch::Any, 0)]));
    let config = Config::new().listener("redis", subnet.redis(1), vec![native::proxy(&document)?]);
    native::start(&config.cluster("one.test:6379", &[server.addr()]), 1)
}

/// An Envoy with one worker before a Redis Cluster.
fn before(subnet: &Subnet, cluster: &Cluster) -> Result<Envoy> {
    let mut host = native::host(&["one"], vec![route(KeyMatch::Any, 0)]);
    host.targets[0].cluster = true;
    host.targets[0].upstream =
        Some(Upstream { cluster: "one.test:6379".into(), login: None, nodes: None, key_hash: None });
    let filters = vec![native::proxy(&listener::config("redis", 1, host))?];
    let config = Config::new().listener("redis", subnet.redis(1), filters);
    native::start(&config.clusters(&[native::redis_cluster("one.test:6379", &cluster.addrs())]), 1)
}

#[test]
fn a_connection_whose_bytes_get_lost_is_replaced() -> Result<()> {
    let subnet = Subnet::claim()?;
    let redis = Redis::start_at(subnet.redis(21))?;
    let relay = Relay::start(subnet.redis(22), redis.addr())?;
    let _envoy = one(&subnet, &relay)?;
    let mut client = Client::connect(subnet.redis(1))?;
    client.ok(&["SET", "k", "1"])?;
    relay.forget();
    let begin = Instant::now();
    let reply = client.line("INCR k")?;
    let lost = "(error) ERR redis-mesh: the connection to one.test:6379 was lost; the command may have been executed";
    ensure!(reply.tty() == lost, "{reply:?}");
    ensure!(begin.elapsed() < ANSWERED, "{:?}", begin.elapsed());
    let begin = Instant::now();
    ensure!(client.line("GET k")? == Reply::bulk("1"));
    ensure!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    Ok(())
}

#[test]
fn a_node_that_hangs_holds_up_its_own_keys_only_and_not_for_long() -> Result<()> {
    let cluster = Cluster::start_with(Shape { replicas: 0, ..Shape::default() })?;
    for node in &cluster.nodes {
        // Others go on to serve their slots.
        node.cmd(&["CONFIG", "SET", "cluster-require-full-coverage", "no"])?;
    }
    let subnet = Subnet::claim()?;
    let _envoy = before(&subnet, &cluster)?;
    let mut client = Client::connect(subnet.redis(1))?;
    let keys: Vec<String> = (0..30).map(|i| format!("key:{i}")).collect();
    for key in &keys {
        client.ok(&["SET", key, "1"])?;
    }
    let hung = cluster.master_of(&keys[0])?;
    let own: Vec<&String> = keys.iter().filter(|key| cluster.master_of(key).is_ok_and(|of| of == hung)).collect();
    let others: Vec<&String> = keys.iter().filter(|key| !own.contains(key)).collect();
    cluster.nodes[hung].pause()?;
    let mut other = Client::connect(subnet.redis(1))?;
    let begin = Instant::now();
    let ask_all = keys.iter().fold(vec!["MGET".to_owned()], |mut words, key| {
        words.push(key.clone());
        words
    });
    client.send(&["GET", own[0]])?;
    client.send(&ask_all)?;
    client.send(&["GET", others[0]])?;
    while begin.elapsed() < Duration::from_secs(4) {
        for key in &others {
            let reply = other.cmd(&["GET", key])?;
            ensure!(reply == Reply::bulk("1"), "{key}: {reply:?}");
        }
    }
    let replies = [client.read()?, client.read()?, client.read()?];
    ensure!(begin.elapsed() < ANSWERED, "{:?}", begin.elapsed());
    ensure!(replies[0].is_error() && replies[1].is_error() && replies[2] == Reply::bulk("1"), "{replies:?}");
    cluster.nodes[hung].resume()?;
    wait_until("the node serves again", Duration::from_secs(3), || {
        own.iter().all(|key| other.cmd(&["GET", key]).is_ok_and(|reply| reply == Reply::bulk("1")))
    })
}

#[test]
fn a_failover_that_a_quiet_worker_has_missed_costs_no_error() -> Result<()> {
    let mut cluster = Cluster::start()?;
    let subnet = Subnet::claim()?;
    let _envoy = before(&subnet, &cluster)?;
    let mut client = Client::connect(subnet.redis(1))?;
    client.ok(&["SET", "k", "v"])?;
    let master = cluster.master_of("k")?;
    let slot = cluster.slot_of("k")?;
    wait_until("a replica that has it", Duration::from_secs(10), || {
        cluster.nodes[master].cmd(&["WAIT", "1", "100"]).is_ok_and(|reply| reply == Reply::Integer(1))
    })?;
    cluster.nodes[master].kill();
    wait_until("the promotion", Duration::from_secs(60), || {
        cluster.master_of_slot(slot).is_ok_and(|now| now != master) && cluster.wait_ok(Duration::ZERO).is_ok()
    })?;
    ensure!(client.line("GET k")? == Reply::bulk("v"));
    Ok(())
}

#[test]
fn a_script_that_goes_on_can_be_ended() -> Result<()> {
    let scene = Scene::one()?;
    let (mut runner, mut other) = (scene.client()?, scene.client()?);
    other.ok(&["SELECT", "3"])?;
    scene.servers[0].client()?.ok(&["CONFIG", "SET", "busy-reply-threshold", "500"])?;
    runner.send(&["EVAL", "while true do end", "0"])?;
    wait_until("others hear that it is busy", ANSWERED, || {
        scene.client().and_then(|mut new| new.line("GET k")).is_ok_and(|reply| reply.text().starts_with("BUSY "))
    })?;
    // Longer than any other command may take.
    ensure!(runner.read_within(Duration::from_secs(8))?.is_none());
    other.ok(&["SCRIPT", "KILL"])?;
    let killed = runner.read()?;
    ensure!(killed.is_error() && killed.text().contains("SCRIPT KILL"), "{killed:?}");
    ensure!(runner.line("EXISTS k")? == Reply::Integer(0));
    ensure!(other.line("SCRIPT KILL")?.text().starts_with("NOTBUSY "));
    Ok(())
}
