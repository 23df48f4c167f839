//! Commands that arrive at a mirror, and mirrors that fail without an effect on the client.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use redis_mesh_core::command::Known;
use redis_mesh_tests::line::words;
use redis_mesh_tests::process::wait_until;
use redis_mesh_tests::redis::Redis;
use redis_mesh_tests::reply::Reply;
use redis_mesh_tests::scene::Scene;

use crate::{mesh, plausible};

/// Hosts: name, address, and the rest of the mirror's spec.
const HOSTS: [(&str, u8, &str); 5] = [
    ("mirror-100", 140, "percentage: {value: 100}"),
    ("mirror-50", 141, "percentage: {value: 50}"),
    ("mirror-0", 142, "percentage: {value: 0}"),
    ("mirror-writes", 143, "excludeReadCommands: true"),
    ("mirror-lost", 144, "percentage: {value: 100}"),
];

/// Servers: of what is mirrored, its mirror; and the pair whose mirror gets lost.
const SERVERS: [(&str, u8); 4] = [("mirrored", 16), ("mirror", 17), ("mirrored-2", 18), ("mirror-2", 19)];

pub fn manifests(scene: &mut Scene<'_>) {
    for (i, (name, server)) in SERVERS.iter().enumerate() {
        scene.service(name, 210 + i as u8, &[*server]);
    }
    for (name, listens, mirror) in HOSTS {
        let (main, copy) = if name == "mirror-lost" { ("mirrored-2", "mirror-2") } else { ("mirrored", "mirror") };
        let rules = format!("redis: [{{route: {{host: {main}}}, mirror: [{{route: {{host: {copy}}}, {mirror}}}]}}]");
        scene.service(name, listens, &[16]).rules(name, "auto", &rules);
    }
}

/// Sends a write that is mirrored for certain, or again and again until it is, and waits for it:
/// on one connection what was sent before has arrived before. (Every host has its own connection
/// to the mirror.)
fn settle(client: &mut redis_mesh_tests::client::Client, mirror: &Redis) -> Result<()> {
    let mut asking = mirror.client()?;
    static SETTLED: AtomicU32 = AtomicU32::new(0);
    let name = format!("marker-{}", SETTLED.fetch_add(1, Ordering::Relaxed));
    for _ in 0..1000 {
        client.ok(&["HINCRBY", &name, "f", "1"])?;
        let end = Instant::now() + Duration::from_millis(20);
        while Instant::now() < end {
            if asking.ok(&["EXISTS", &name])? == Reply::Integer(1) {
                return Ok(());
            }
        }
    }
    anyhow::bail!("nothing arrives at the mirror")
}

#[test]
fn percentages_and_write_only_mirrors() -> Result<()> {
    let mesh = mesh()?;
    let (main, mirror) = (mesh.server(SERVERS[0].1)?, mesh.server(SERVERS[1].1)?);
    percentages(&main, &mirror)?;
    only_writes(&main, &mirror)
}

fn percentages(main: &Redis, mirror: &Redis) -> Result<()> {
    const COMMANDS: u64 = 4_000;
    for (name, listens, probability) in [("mirror-100", 140, 1.0), ("mirror-50", 141, 0.5), ("mirror-0", 142, 0.0)] {
        main.forget()?;
        mirror.forget()?;
        let mut client = mesh()?.client_at(listens)?;
        let commands: Vec<Vec<String>> = (0..COMMANDS)
            .map(|i| {
                let (key, value) = (format!("k{i}"), i.to_string());
                if i % 2 == 0 { vec!["SET".into(), key, value] } else { vec!["GET".into(), key] }
            })
            .collect();
        for batch in commands.chunks(500) {
            for (i, reply) in client.pipeline(batch)?.into_iter().enumerate() {
                ensure!(reply == if i % 2 == 0 { Reply::ok() } else { Reply::NullBulk }, "{name}: {reply:?}");
            }
        }
        if probability > 0.0 {
            settle(&mut client, mirror)?;
        } else {
            // Whatever the others of this Envoy send arrives.
            settle(&mut mesh()?.client_at(140)?, mirror)?;
        }
        ensure!(
            main.calls("set")? == COMMANDS / 2 && main.calls("get")? == COMMANDS / 2,
            "{name}: the main one differs"
        );
        let (sets, gets) = (mirror.calls("set")?, mirror.calls("get")?);
        println!("{name}: {sets} of {} SET, {gets} of {} GET mirrored", COMMANDS / 2, COMMANDS / 2);
        ensure!(plausible(sets, COMMANDS / 2, probability), "{name}: {sets} SET");
        ensure!(plausible(gets, COMMANDS / 2, probability), "{name}: {gets} GET");
        // What was mirrored is what was sent.
        let mut asking = mirror.client()?;
        let values =
            asking.pipeline(&(0..COMMANDS).map(|i| vec!["GET".into(), format!("k{i}")]).collect::<Vec<_>>())?;
        let there = values.iter().filter(|value| !value.is_null()).count() as u64;
        ensure!(there == sets, "{name}: {sets} SET, but {there} keys");
        ensure!(values.iter().enumerate().all(|(i, value)| value.is_null() || *value == Reply::bulk(i.to_string())));
    }
    Ok(())
}

/// Every command that `proxy` forwards, reads and writes: exactly what the command table doesn't
/// call a read arrives.
fn only_writes(main: &Redis, mirror: &Redis) -> Result<()> {
    main.forget()?;
    mirror.forget()?;
    let mut client = mesh()?.client_at(143)?;
    let (mut arriving, mut staying) = (Vec::new(), Vec::new());
    for line in COMMANDS.lines().filter(|line| !line.is_empty()) {
        let request = words(line)?;
        let Some(command) = Known::of(&request[..]).and_then(Known::row) else {
            anyhow::bail!("{line}: no such command")
        };
        let reply = client.cmd(&request)?;
        ensure!(!reply.is_error(), "{line}: {reply:?}");
        if command.is_read() { staying.push(command.name) } else { arriving.push(command.name) }
    }
    settle(&mut client, mirror)?;
    let calls = |server: &Redis, name: &str| server.calls(name);
    for name in &arriving {
        let sent = arriving.iter().filter(|other| *other == name).count() as u64;
        ensure!(calls(main, name)? == sent, "{name} was executed {} times", calls(main, name)?);
        ensure!(calls(mirror, name)? == sent, "{name} arrived {} times, sent {sent}", calls(mirror, name)?);
    }
    for name in &staying {
        // EXISTS is how the marker was looked for.
        ensure!(calls(mirror, name)? == 0 || *name == "exists", "{name} arrived though it is a read");
        ensure!(calls(main, name)? > 0, "{name} wasn't executed");
    }
    println!("write-only mirror: {} commands arrived, {} reads didn't", arriving.len(), staying.len());
    // redis_proxy makes SETs of this.
    client.ok(&["MSET", "p", "1", "q", "2"])?;
    settle(&mut client, mirror)?;
    // The mirror holds what the main one holds.
    let digest = |server: &Redis| -> Result<Vec<String>> {
        let mut client = server.client()?;
        let mut keys: Vec<String> = client.ok(&["KEYS", "*"])?.items().iter().map(Reply::text).collect();
        keys.retain(|key| !key.starts_with("marker"));
        keys.sort();
        keys.iter().map(|key| Ok(format!("{key}: {:?}", client.ok(&["DUMP", key])?))).collect()
    };
    ensure!(digest(main)? == digest(mirror)?, "the data differ:\n{:?}\n{:?}", digest(main)?, digest(mirror)?);
    Ok(())
}

const COMMANDS: &str = "
SET s v
GET s
GETSET s w
GETEX s PERSIST
GETEX s
APPEND s x
STRLEN s
GETRANGE s 0 1
SETRANGE s 0 z
INCR n
INCRBYFLOAT f 1.5
SETEX e 1000 v
SETNX nx v
SET a 1
SET b 1
DEL a
UNLINK b
TTL e
TYPE s
SETBIT bm 1 1
BITCOUNT bm
BITOP NOT bm2 bm
PFADD h a
PFMERGE h2 h
RPUSH l 1 2 3
LPOP l
LMOVE l l2 LEFT RIGHT
LRANGE l 0 -1
SORT l STORE l3
SORT_RO l3
HSET ha f v
HSETNX ha c 2
HGETALL ha
HSCAN ha 0
SADD st 1 2
SREM st 1
SMEMBERS st
SUNIONSTORE st2 st
ZADD z 1 a 2 b
ZINCRBY z 1 a
ZRANGE z 0 -1
ZRANGESTORE z2 z 0 -1
ZPOPMIN z
GEOADD g 13.361389 38.115556 Palermo
GEOPOS g Palermo
GEOSEARCH g FROMMEMBER Palermo BYRADIUS 1 km
XADD x 1-1 f v
XADD x 2-1 f v
XLEN x
XRANGE x - +
XTRIM x MAXLEN 1
XDEL x 1-1
GETDEL nx
EXPIRE s 100000
PERSIST s
RENAME s s2
COPY s2 s3
OBJECT ENCODING s2
DUMP s2
EVAL \"return redis.call('psetex', KEYS[1], 1000000, 'x')\" 1 ev
";

/// A mirror that is stopped, killed or answers errors has no effect on the client.
#[test]
fn a_mirror_that_fails_disturbs_nobody() -> Result<()> {
    let mesh = mesh()?;
    let (main, mut mirror) = (mesh.server(SERVERS[2].1)?, mesh.server(SERVERS[3].1)?);
    let mut client = mesh.client_at(144)?;
    let mut round = |what: &str| -> Result<Duration> {
        let mut slowest = Duration::ZERO;
        for i in 0..200 {
            let begun = Instant::now();
            let reply = client.cmd(&["SET", "k", &format!("{what}{i}")]).with_context(|| format!("mirror {what}"))?;
            ensure!(reply == Reply::ok(), "mirror {what}: {reply:?}");
            ensure!(client.cmd(&["GET", "k"])? == Reply::bulk(format!("{what}{i}")), "mirror {what}");
            ensure!(client.cmd(&["RPUSH", "l", "x"])?.integer().is_some(), "mirror {what}");
            slowest = slowest.max(begun.elapsed());
        }
        println!("mirror {what}: slowest of 200 rounds of three commands {slowest:?}");
        Ok(slowest)
    };
    round("well")?;
    wait_until("arrival at the mirror", Duration::from_secs(5), || mirror.calls("set").is_ok_and(|n| n == 200))?;
    // Every RPUSH is an error there.
    mirror.cmd(&["DEL", "l"])?;
    mirror.cmd(&["SET", "l", "no list"])?;
    round("of another type")?;
    mirror.pause()?;
    // The time after which redis_proxy gives a command up is 5 seconds.
    ensure!(round("frozen")? < Duration::from_secs(2), "a frozen mirror delays the client");
    mirror.resume()?;
    mirror.kill();
    round("dead")?;
    mirror.restart()?;
    round("back")?;
    mirror.forget()?;
    wait_until("arrival at the mirror that is back", Duration::from_secs(10), || {
        client.ok(&["SET", "again", "1"]).is_ok() && mirror.calls("set").is_ok_and(|n| n > 0)
    })?;
    ensure!(main.calls("rpush")? == 1000, "{} RPUSH on the main one", main.calls("rpush")?);
    Ok(())
}
