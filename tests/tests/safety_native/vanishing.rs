//! Clients that come and go, in great numbers.

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::{Result, ensure};
use redis_mesh_tests::client::{Client, encode, info_field};
use redis_mesh_tests::listener::Config;
use redis_mesh_tests::net::Subnet;
use redis_mesh_tests::process::wait_until;
use redis_mesh_tests::redis::Redis;
use redis_mesh_tests::relay;
use redis_mesh_tests::reply::Reply;
use serde_json::Value;

use crate::PATIENCE;
use crate::load::Load;
use crate::scene::{Scene, Setup};

fn scene() -> Result<(Redis, Scene)> {
    let subnet = Subnet::claim()?;
    let redis = Redis::start_at(subnet.redis(21))?;
    let config: Value = serde_json::from_str(&Config::new().cluster("one.test:6379", &[redis.addr()]).text())?;
    let scene = Scene::start(
        subnet,
        config["static_resources"]["clusters"][0].clone(),
        &Setup { op_timeout: 0, ..Setup::default() },
    )?;
    Ok((redis, scene))
}

/// Runs the commands of a client before it vanishes, by its number.
fn begin(number: usize) -> Vec<u8> {
    let key = format!("k{}", number % 50);
    let commands: &[&[&str]] = match number % 8 {
        0 => &[&["SET", &key, "v"], &["GET", &key]],
        1 => &[&["SUBSCRIBE", &key], &["PSUBSCRIBE", "*"]],
        2 => &[&["BLPOP", "nothing", "0"]],
        3 => &[&["MULTI"], &["INCR", "n"]],
        4 => &[&["WATCH", &key], &["GET", &key]],
        5 => &[&["HELLO", "3"], &["CLIENT", "TRACKING", "ON"], &["GET", &key]],
        6 => &[&["SELECT", "3"], &["INCR", "n"], &["MONITOR"]],
        _ => &[],
    };
    let mut bytes: Vec<u8> = commands.iter().flat_map(|command| encode(command)).collect();
    if number.is_multiple_of(3) || commands.is_empty() {
        // In the middle of a command.
        bytes.extend_from_slice(b"*3\r\n$3\r\nSET\r\n$1000\r\nhalf");
    }
    bytes
}

#[test]
fn ten_thousand_clients_vanish_and_leave_nothing() -> Result<()> {
    let (redis, scene) = scene()?;
    let load = Load::run(scene.addr(), 4, |load| {
        std::thread::scope(|scope| -> Result<()> {
            let vanish = |thread: usize| {
                let mut open = VecDeque::new();
                for number in (thread * 2500)..(thread * 2500 + 2500) {
                    let mut client = Client::connect(load.addr)?;
                    client.write(&begin(number))?;
                    if number.is_multiple_of(4) {
                        // SET, or WATCH.
                        ensure!(client.read()? == Reply::ok());
                    }
                    if number % 5 > 0 {
                        relay::linger(client.stream());
                    }
                    open.push_back(client);
                    if open.len() > 60 {
                        open.pop_front();
                    }
                }
                anyhow::Ok(())
            };
            let threads: Vec<_> = (0..4).map(|thread| scope.spawn(move || vanish(thread))).collect();
            for thread in threads {
                thread.join().unwrap_or_else(|_| anyhow::bail!("a thread panicked"))?;
            }
            load.wait_served(500)
        })
    })?;
    ensure!(load.reconnected() == 0, "{} connections of clients ended", load.reconnected());
    load.history.check()?;
    scene.check_is_empty()?;
    // Nothing waits, listens or watches at Redis for those who are gone.
    wait_until("nobody who waits or listens", PATIENCE, || {
        let blocked = redis.info("clients").is_ok_and(|info| {
            info_field(&info, "blocked_clients") == Some("0") && info_field(&info, "tracking_clients") == Some("0")
        });
        let channels = redis.cmd(&["PUBSUB", "CHANNELS"]).is_ok_and(|reply| reply == Reply::Array(Vec::new()));
        let patterns = redis.cmd(&["PUBSUB", "NUMPAT"]).is_ok_and(|reply| reply == Reply::Integer(0));
        blocked && channels && patterns
    })?;
    let connections = scene.metric("upstream_connections_active")?;
    ensure!(connections < 100, "{connections} connections to Redis are left");
    assert_eq!(Client::connect(scene.addr())?.line("ECHO still")?, Reply::bulk("still"));
    Ok(())
}

/// Opens short connections with a few commands each, some of whose replies are never read.
fn short_connections(scene: &Scene, count: usize) -> Result<()> {
    std::thread::scope(|scope| -> Result<()> {
        let come_and_go = |thread: usize| {
            for number in 0..count / 4 {
                let mut client = Client::connect(scene.addr())?;
                // A reset leaves no port waiting.
                relay::linger(client.stream());
                let key = format!("k{}", (thread + number) % 100);
                match number % 4 {
                    0 => ensure!(client.cmd(&["SET", &key, "v"])? == Reply::ok()),
                    1 => client.write(&encode(&["GET", &key]).repeat(20))?,
                    2 => ensure!(client.pipeline(&[vec!["MULTI"], vec!["INCR", "n"], vec!["EXEC"]])?.len() == 3),
                    _ => client.write(&begin(number))?,
                }
            }
            anyhow::Ok(())
        };
        let threads: Vec<_> = (0..4).map(|thread| scope.spawn(move || come_and_go(thread))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|_| anyhow::bail!("a thread panicked")))
    })?;
    scene.check_is_empty()
}

#[test]
fn a_hundred_thousand_connections_leave_no_memory_behind() -> Result<()> {
    let (_redis, scene) = scene()?;
    short_connections(&scene, 20_000)?;
    let memory = || scene.envoy.process().resident_memory();
    let before = memory()?;
    short_connections(&scene, 80_000)?;
    // Allocators give back late.
    let mut grown = 0;
    let is_small = wait_until("memory that is no more than before", Duration::from_secs(10), || {
        grown = memory().unwrap_or(u64::MAX).saturating_sub(before);
        grown < 6_000_000
    });
    eprintln!("resident memory after 20,000 connections: {before}; 80,000 more: +{grown}");
    ensure!(is_small.is_ok(), "{grown} bytes more after 80,000 connections");
    Ok(())
}
