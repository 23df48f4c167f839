//! Updates under load, of the filter alone and of filter and listener one after the other.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use redis_mesh_core::wire::{self, FaultKind, KeyMatch};
use redis_mesh_tests::client::{Client, encode};
use redis_mesh_tests::envoy::{self, Envoy};
use redis_mesh_tests::listener::{Discovered, config, direct, fault, proxy, route, tcp_proxy};
use redis_mesh_tests::process::wait_until;
use redis_mesh_tests::reply::Reply;
use redis_mesh_tests::workspace;
use serde_json::Value;

use crate::scene::*;

/// Runs a writer of the test below: pipelines over one connection until told to stop. Every
/// command's reply is the same whatever configuration is in force.
fn write_until(stop: &AtomicBool, addr: SocketAddr, writer: usize, count: &AtomicU64) -> Result<()> {
    let mut client = Client::connect(addr)?;
    let mut n = 0;
    while !stop.load(Ordering::Relaxed) {
        let mut commands: Vec<Vec<String>> = Vec::new();
        let mut expected = Vec::new();
        for _ in 0..40 {
            n += 1;
            let id = format!("{writer}-{n}");
            let mut send = |command: &[&str], reply: Reply| {
                commands.push(command.iter().map(ToString::to_string).collect());
                expected.push(reply);
            };
            send(&["SET", &format!("a:{id}"), &id], Reply::ok());
            send(&["SET", &format!("b:{id}"), &id], Reply::ok());
            send(&["GET", &format!("a:{id}")], Reply::bulk(&id));
            send(&["MGET", &format!("a:{id}"), &format!("b:{id}")], Reply::bulks(&[&id, &id]));
            send(&["PING", &id], Reply::bulk(&id));
            send(&["SELECT", "0"], Reply::ok());
            send(&["MSET", &format!("a:m{id}"), "1", &format!("b:m{id}"), "1"], Reply::ok());
            send(&["SET", &format!("c:{id}"), &id], Reply::ok());
            send(&["SET", &format!("r:{id}"), &id], Reply::ok());
            send(&["SET", "a:nested"], Reply::error("ERR wrong number of arguments for 'set' command"));
            send(&["SINTER", "a:s", "b:s"], Reply::error("CROSSSLOT redis-mesh: keys route to different destinations"));
        }
        let replies = client.pipeline(&commands).with_context(|| format!("writer {writer} at {n}"))?;
        for ((command, got), want) in commands.iter().zip(&replies).zip(&expected) {
            ensure!(got == want, "{}: {got:?} instead of {want:?}", command.join(" "));
        }
        count.fetch_add(replies.len() as u64, Ordering::Relaxed);
    }
    Ok(())
}

#[test]
fn under_load_no_connection_is_closed_and_no_key_misrouted() -> Result<()> {
    let scene = Scene::new()?;
    // `a:` and `b:` stay where they are; `c:` moves to and fro, `r:` keeps and loses its prefix,
    // faults of a command that nobody sends come and go, a password that nobody is asked for is
    // set and reset, regexes and exact keys are added.
    let of = |revision: u64| {
        let odd = revision % 2 == 1;
        let mut more = vec![route(KeyMatch::Prefix("c:".into()), u32::from(odd))];
        let strip = wire::Route { remove_prefix: odd, ..route(KeyMatch::Prefix("r:".into()), 1) };
        more.push(strip);
        if revision.is_multiple_of(3) {
            more.push(route(KeyMatch::Regex("^never$".into()), 0));
            more.push(route(KeyMatch::Exact(format!("exact-{revision}")), 1));
        }
        let mut host = several_hosts(more);
        if revision.is_multiple_of(5) {
            host.faults = vec![fault(FaultKind::Delay, Duration::from_millis(50), &["getdel"])];
        }
        config("load", revision, host)
    };
    let mut discovered = Discovered::new(&of(1))?;
    let envoy = scene
        .config()
        .listener("several", scene.subnet.redis(SEVERAL), vec![discovered.filter(), several_proxy()])
        .text();
    let envoy = Envoy::start_with(&envoy, &envoy::Options { concurrency: 2, ..envoy::Options::default() })?;
    let (stop, count) = (AtomicBool::new(false), AtomicU64::new(0));
    let started = Instant::now();
    let changes = std::thread::scope(|scope| -> Result<u64> {
        let writers: Vec<_> = (0..4)
            .map(|writer| {
                let (stop, count, addr) = (&stop, &count, scene.subnet.redis(SEVERAL));
                scope.spawn(move || write_until(stop, addr, writer, count))
            })
            .collect();
        let mut revision = 1;
        while started.elapsed() < Duration::from_secs(4) && !writers.iter().any(|writer| writer.is_finished()) {
            revision += 1;
            discovered.write(&of(revision))?;
            std::thread::sleep(Duration::from_micros(500));
        }
        let took = started.elapsed();
        let last = discovered.wait_for(&envoy, revision);
        stop.store(true, Ordering::Relaxed);
        for writer in writers {
            match writer.join() {
                Ok(result) => result?,
                Err(_) => bail!("a writer panicked"),
            }
        }
        last?;
        println!("{:.0} changes a second", revision as f64 / took.as_secs_f64());
        Ok(revision)
    })?;
    let taken = envoy.log().matches("redis-mesh: load revision ").count();
    println!("{changes} changes written, {taken} taken, {} commands", count.load(Ordering::Relaxed));
    assert!(count.load(Ordering::Relaxed) > 2000, "hardly any load");
    assert!(taken > 100, "only {taken} configurations were taken");
    let mut seen = [0; 5];
    for (letter, redis) in [('x', &scene.x), ('y', &scene.y)] {
        for key in redis.cmd(&["KEYS", "*"])?.items() {
            let key = key.text();
            let (kind, right) = match key.split_once(':').map(|(prefix, _)| prefix) {
                Some("a") => (0, letter == 'x'),
                Some("b") => (1, letter == 'y'),
                Some("c") => (2, true),
                Some("r") => (3, letter == 'y'),
                None => (4, letter == 'y'),
                _ => (0, false),
            };
            ensure!(right && !key.contains('\u{1}'), "the key {key:?} is in {letter}");
            seen[kind] += 1;
        }
    }
    assert!(seen.iter().all(|&n| n > 0), "{seen:?}");
    assert_eq!(seen[0], seen[1]);
    assert_eq!(seen[3] + seen[4], seen[2]);
    assert_eq!(envoy.stat("listener_manager.listener_in_place_updated")?, Some(0));
    check_sandbox(&envoy)
}

/// Runs a writer of the test below: keys that name the phase in which they are sent, over
/// connections that are reopened whenever they are closed. Every reply is an OK, or an error that
/// reports a replacement in progress.
fn write_through(stop: &AtomicBool, phase: &AtomicUsize, addr: SocketAddr, writer: usize) -> Result<(u64, u64)> {
    let (mut good, mut bad, mut n) = (0, 0, 0);
    'connections: while !stop.load(Ordering::Relaxed) {
        let Ok(mut client) = Client::connect(addr) else { continue };
        client.set_patience(Duration::from_secs(5))?;
        while !stop.load(Ordering::Relaxed) {
            n += 1;
            let phase = phase.load(Ordering::SeqCst);
            let key = |prefix: &str| format!("{prefix}{phase}-{writer}-{n}");
            let commands = [
                vec!["SET".to_string(), key("a:"), "1".into()],
                vec!["SET".to_string(), key("b:"), "1".into()],
                vec!["RPUSH".to_string(), key("b:l"), "1".into()],
                vec!["SET".to_string(), key("none"), "1".into()],
            ];
            let bytes: Vec<u8> = commands.iter().flat_map(|command| encode(command)).collect();
            if client.write(&bytes).is_err() {
                continue 'connections;
            }
            for _ in &commands {
                match client.read() {
                    Ok(reply) if !reply.is_error() => good += 1,
                    Ok(reply) => {
                        let text = reply.text();
                        let known =
                            ["is being replaced, try again", "NOAUTH Authentication required.", "no upstream host"];
                        let known = known.iter().any(|known| text.contains(known));
                        ensure!(known, "{text}");
                        bad += 1;
                    }
                    Err(error) if error.to_string().contains("no reply in time") => bail!("a reply never came"),
                    Err(_) => continue 'connections,
                }
            }
        }
    }
    Ok((good, bad))
}

#[test]
fn filter_and_listener_arrive_one_after_the_other_under_load() -> Result<()> {
    let scene = Scene::new()?;
    type Route = fn(&str) -> char;
    let kinds: [(&str, wire::Host, Value, Route); 5] = [
        ("several", several_hosts(vec![route(KeyMatch::Any, 0)]), several_proxy(), |key| {
            if key.starts_with("b:") { 'y' } else { 'x' }
        }),
        ("single x", proxy("x", "for x"), single_proxy_with("x", "for x"), |_| 'x'),
        ("single y", proxy("y", "for y"), single_proxy_with("y", "for y"), |_| 'y'),
        ("direct x", direct("x"), tcp_proxy("x"), |_| 'x'),
        ("direct y", direct("y"), tcp_proxy("y"), |_| 'y'),
    ];
    // Every kind becomes every other, in both orders.
    let mut path = vec![(0, false)];
    for from in 0..kinds.len() {
        for to in 0..from {
            path.extend([(from, true), (to, false), (from, false), (to, true)]);
        }
    }
    path.dedup_by_key(|(kind, _)| *kind);
    let addr = scene.subnet.redis(SEVERAL);
    let mut discovered = Discovered::new(&config("changing", 1, kinds[0].1.clone()))?;
    let listeners = workspace::scratch("lds")?.join("lds.json");
    let with =
        |terminal: &Value, filter: Value| scene.config().listener("changing", addr, vec![filter, terminal.clone()]);
    let first = with(&kinds[0].2, discovered.filter());
    first.write_listeners(&listeners)?;
    let options = envoy::Options {
        args: ["--drain-time-s", "1", "--drain-strategy", "immediate"].map(str::to_string).to_vec(),
        ..envoy::Options::default()
    };
    let envoy = Envoy::start_with(&first.text_with_listeners_in(&listeners), &options)?;
    let (stop, phase) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| -> Result<()> {
        let writers: Vec<_> = (0..3)
            .map(|writer| {
                let (stop, phase) = (&stop, &phase);
                scope.spawn(move || write_through(stop, phase, addr, writer))
            })
            .collect();
        let mut walk = || -> Result<()> {
            for (n, (kind, filter_first)) in path.iter().enumerate().skip(1) {
                let (name, host, terminal, _) = &kinds[*kind];
                let next = config("changing", n as u64 + 1, host.clone());
                phase.store(n, Ordering::SeqCst);
                let updates = envoy.stat("listener_manager.lds.update_success")?.unwrap_or(0);
                if *filter_first {
                    discovered.push(&envoy, &next)?;
                }
                with(terminal, discovered.filter()).write_listeners(&listeners)?;
                wait_until("the listener", Duration::from_secs(10), || {
                    envoy.stat("listener_manager.lds.update_success").is_ok_and(|now| now > Some(updates))
                })?;
                if !filter_first {
                    discovered.push(&envoy, &next)?;
                }
                // The whole update is there: it serves before long.
                wait_until(&format!("service by {name}"), Duration::from_secs(10), || {
                    let reply = Client::connect(addr).and_then(|mut client| client.line(&format!("set a:probe-{n} 1")));
                    reply.is_ok_and(|reply| reply == Reply::ok())
                })?;
            }
            Ok(())
        };
        let walked = walk();
        stop.store(true, Ordering::Relaxed);
        let mut total = (0, 0);
        for writer in writers {
            let Ok(counts) = writer.join() else { bail!("a writer panicked") };
            let (good, bad) = counts?;
            total = (total.0 + good, total.1 + bad);
        }
        println!("{} changes, {} commands served, {} refused", path.len() - 1, total.0, total.1);
        ensure!(total.0 > 1000, "hardly any load");
        walked
    })?;
    for (letter, redis) in [('x', &scene.x), ('y', &scene.y)] {
        for key in redis.cmd(&["KEYS", "*"])?.items() {
            let key = key.text();
            ensure!(!key.contains('\u{1}'), "the key {key:?} is in {letter}");
            let number: String =
                key.chars().skip_while(|c| !c.is_ascii_digit()).take_while(char::is_ascii_digit).collect();
            let n: usize = number.parse().with_context(|| format!("the key {key:?}"))?;
            // Sent in this phase, it may have been executed in the next.
            let from = n.saturating_sub(1);
            let allowed: Vec<char> =
                path[from..(n + 2).min(path.len())].iter().map(|(kind, _)| (kinds[*kind].3)(&key)).collect();
            ensure!(allowed.contains(&letter), "the key {key:?} is in {letter}");
        }
    }
    check_sandbox(&envoy)
}
