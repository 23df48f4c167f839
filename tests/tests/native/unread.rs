//! Clients that don't read their replies as fast as they ask for them.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use redis_mesh_core::wire::{KeyMatch, Upstream};
use redis_mesh_tests::client::{Client, encode};
use redis_mesh_tests::cluster::{Cluster, Shape};
use redis_mesh_tests::envoy::Envoy;
use redis_mesh_tests::listener::{self, Config, route};
use redis_mesh_tests::native;
use redis_mesh_tests::net::Subnet;
use redis_mesh_tests::process::wait_until;
use redis_mesh_tests::redis::Redis;
use redis_mesh_tests::reply::Reply;

/// How long a client may take to write all that it has, on a machine that is busy.
const WRITTEN: Duration = Duration::from_secs(60);

/// Bytes that Envoy may have beside what it has when it is idle: what is on its way to clients,
/// and what their commands under way cost.
const MEMORY: u64 = 100 * 1024 * 1024;

/// An Envoy with one worker before one Redis.
fn before_one(subnet: &Subnet, redis: &Redis) -> Result<Envoy> {
    let document = listener::config("redis", 1, native::host(&["one"], vec![route(KeyMatch::Any, 0)]));
    let config = Config::new().listener("redis", subnet.redis(1), vec![native::proxy(&document)?]);
    native::start(&config.cluster("one.test:6379", &[redis.addr()]), 1)
}

/// An Envoy with one worker before a Redis Cluster.
fn before_cluster(subnet: &Subnet, cluster: &Cluster) -> Result<Envoy> {
    let mut host = native::host(&["one"], vec![route(KeyMatch::Any, 0)]);
    host.targets[0].cluster = true;
    host.targets[0].upstream =
        Some(Upstream { cluster: "one.test:6379".into(), login: None, nodes: None, key_hash: None });
    let filters = vec![native::proxy(&listener::config("redis", 1, host))?];
    let config = Config::new().listener("redis", subnet.redis(1), filters);
    native::start(&config.clusters(&[native::redis_cluster("one.test:6379", &cluster.addrs())]), 1)
}

/// Writes everything from a thread of its own, which ends when all is written.
fn write_all(client: &Client, bytes: Vec<u8>) -> Result<thread::JoinHandle<std::io::Result<()>>> {
    let mut stream = client.stream().try_clone()?;
    stream.set_write_timeout(Some(WRITTEN))?;
    Ok(thread::spawn(move || std::io::Write::write_all(&mut stream, &bytes)))
}

/// A client writes 200,000 commands before it reads the first reply, and gets all replies in order.
fn all_before_the_first_reply(envoy: &Envoy, subnet: &Subnet) -> Result<()> {
    const COMMANDS: usize = 200_000;
    let mut client = Client::connect(subnet.redis(1))?;
    client.set_patience(WRITTEN)?;
    let value = "v".repeat(1000);
    for key in 0..10 {
        client.ok(&["SET", &format!("key:{key}"), &format!("{key}{value}")])?;
    }
    let idle = envoy.process().resident_memory()?;
    let commands: Vec<u8> = (0..COMMANDS).flat_map(|n| encode(&["GET", &format!("key:{}", n % 10)])).collect();
    let writer = write_all(&client, commands)?;
    wait_until("all commands are written", WRITTEN, || writer.is_finished())?;
    writer.join().expect("the thread doesn't panic")?;
    // Others go on meanwhile.
    let mut other = Client::connect(subnet.redis(1))?;
    let begin = Instant::now();
    other.ok(&["SET", "key:other", "1"])?;
    ensure!(other.line("GET key:other")? == Reply::bulk("1"));
    ensure!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    let unread = envoy.process().resident_memory()?.saturating_sub(idle);
    ensure!(unread < MEMORY, "{unread}");
    for n in 0..COMMANDS {
        let reply = client.read()?;
        ensure!(reply == Reply::bulk(format!("{}{value}", n % 10)), "reply {n}: {reply:?}");
    }
    ensure!(client.line("GET key:other")? == Reply::bulk("1"));
    Ok(())
}

#[test]
fn a_client_may_write_all_before_it_reads() -> Result<()> {
    let (subnet, redis) = (Subnet::claim()?, Redis::start()?);
    all_before_the_first_reply(&before_one(&subnet, &redis)?, &subnet)
}

#[test]
fn a_client_of_a_cluster_may_write_all_before_it_reads() -> Result<()> {
    let cluster = Cluster::start_with(Shape { replicas: 0, ..Shape::default() })?;
    let subnet = Subnet::claim()?;
    all_before_the_first_reply(&before_cluster(&subnet, &cluster)?, &subnet)
}

#[test]
fn large_replies_that_nobody_reads_stay_at_redis() -> Result<()> {
    let (subnet, redis) = (Subnet::claim()?, Redis::start()?);
    let envoy = before_one(&subnet, &redis)?;
    let value = "x".repeat(20 * 1024 * 1024);
    redis.cmd(&["SET", "large", &value])?;
    redis.cmd(&["SET", "small", "1"])?;
    let mut other = Client::connect(subnet.redis(1))?;
    ensure!(other.line("GET small")? == Reply::bulk("1"));
    let idle = envoy.process().resident_memory()?;
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = Client::connect(subnet.redis(1))?;
        client.set_patience(WRITTEN)?;
        client.write(&encode(&["GET", "large"]).repeat(16))?;
        // What one has asked for over a connection that clients share has to come while another
        // waits behind it, so the next one asks when the connection has become this one's own.
        client.stream().peek(&mut [0])?;
        thread::sleep(Duration::from_secs(1));
        clients.push(client);
    }
    let unread = envoy.process().peak_memory()?.saturating_sub(idle);
    ensure!(unread < MEMORY, "{unread}");
    ensure!(other.line("GET small")? == Reply::bulk("1"));
    for client in &mut clients {
        for n in 0..16 {
            ensure!(client.read()? == Reply::bulk(value.as_str()), "reply {n}");
        }
    }
    Ok(())
}
