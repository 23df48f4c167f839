//! CLIENT TRACKING over a Redis Cluster and over several destinations: clients that keep what they have
//! read are told of every change.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use redis_mesh_core::wire::{KeyMatch, ReadPolicy, Route};
use redis_mesh_tests::client::{Client, encode, info_field};
use redis_mesh_tests::client_library::Library;
use redis_mesh_tests::envoy::Envoy;
use redis_mesh_tests::listener::route;
use redis_mesh_tests::process::wait_until;
use redis_mesh_tests::redis::Redis;
use redis_mesh_tests::reply::Reply;
use redis_mesh_tests::workspace;

use crate::{PATIENCE, Scene, cluster};

/// How long nothing more comes when all has come.
const SILENCE: Duration = Duration::from_millis(300);

/// Keys in slots of all masters.
pub fn keys() -> Vec<String> {
    (0..12).map(|number| format!("k{number}")).collect()
}

/// The keys that a client is told to forget, until nothing comes any more; `*` stands for all.
pub fn forgotten(client: &mut Client) -> Result<BTreeSet<String>> {
    let mut keys = BTreeSet::new();
    while let Some(push) = client.read_within(SILENCE)? {
        let [kind, names] = push.items() else { anyhow::bail!("{push:?}") };
        ensure!(*kind == Reply::bulk("invalidate"), "{push:?}");
        match names {
            Reply::Null => drop(keys.insert("*".to_owned())),
            names => keys.extend(names.items().iter().map(Reply::text)),
        }
    }
    Ok(keys)
}

fn set_of<T: AsRef<str>>(keys: &[T]) -> BTreeSet<String> {
    keys.iter().map(|key| key.as_ref().to_owned()).collect()
}

fn set_all(writer: &mut Client, keys: &[String]) -> Result<()> {
    keys.iter().try_for_each(|key| writer.ok(&["SET", key, "v"]).map(drop))
}

/// A client in RESP3 that has sent these commands, each answered with OK.
pub fn tracker(mut client: Client, lines: &[&str]) -> Result<Client> {
    client.line("HELLO 3")?;
    for line in lines {
        let reply = client.line(line)?;
        ensure!(reply == Reply::ok(), "{line}: {reply:?}");
    }
    Ok(client)
}

/// What is read is told of once, whatever master has it, in every mode.
pub fn every_mode_tells(connect: &dyn Fn() -> Result<Client>, keys: &[String]) -> Result<()> {
    let mut writer = connect()?;
    set_all(&mut writer, keys)?;

    // All that was read, by commands for one key and for several.
    let mut client = tracker(connect()?, &["CLIENT TRACKING ON"])?;
    let (one, several) = keys.split_at(keys.len() / 2);
    one.iter().try_for_each(|key| client.line(&format!("GET {key}")).map(drop))?;
    client.line(&format!("MGET {}", several.join(" ")))?;
    set_all(&mut writer, keys)?;
    ensure!(forgotten(&mut client)? == set_of(keys));
    set_all(&mut writer, keys)?;
    ensure!(forgotten(&mut client)?.is_empty(), "what was forgotten isn't told of again");
    // Its own changes count, too.
    client.line(&format!("GET {}", keys[0]))?;
    client.send(&["SET", &keys[0], "own"])?;
    let (first, second) = (client.read()?, client.read()?);
    ensure!([&first, &second].contains(&&Reply::ok()), "{first:?} {second:?}");
    ensure!([&first, &second].iter().any(|reply| reply.items().first() == Some(&Reply::bulk("invalidate"))));
    // Everything is forgotten when everything is deleted.
    client.line(&format!("GET {}", keys[1]))?;
    writer.ok(&["FLUSHALL"])?;
    ensure!(forgotten(&mut client)?.contains("*"));
    set_all(&mut writer, keys)?;
    ensure!(client.line("CLIENT TRACKING OFF")? == Reply::ok());
    client.line(&format!("GET {}", keys[1]))?;
    set_all(&mut writer, keys)?;
    ensure!(forgotten(&mut client)?.is_empty(), "it doesn't track any more");

    // What is asked for, alone and in transactions.
    let mut client = tracker(connect()?, &["CLIENT TRACKING ON OPTIN NOLOOP"])?;
    for (number, key) in keys.iter().enumerate() {
        match number % 3 {
            0 => drop(client.line(&format!("GET {key}"))?),
            1 => {
                client.ok(&["CLIENT", "CACHING", "YES"])?;
                client.line(&format!("GET {key}"))?;
            }
            _ => {
                let lines = ["CLIENT CACHING YES", "MULTI", &format!("PTTL {key}"), &format!("GET {key}"), "EXEC"];
                let commands: Vec<Vec<String>> =
                    lines.iter().map(|line| line.split(' ').map(str::to_owned).collect()).collect();
                let replies = client.pipeline(&commands)?;
                ensure!(replies[4].items().last() == Some(&Reply::bulk("v")), "{replies:?}");
            }
        }
    }
    client.ok(&["SET", &keys[1], "own"])?;
    ensure!(forgotten(&mut client)?.is_empty(), "it isn't told of its own changes");
    client.ok(&["CLIENT", "CACHING", "YES"])?;
    client.line(&format!("GET {}", keys[1]))?;
    set_all(&mut writer, keys)?;
    let wanted = keys.iter().enumerate().filter(|(number, _)| number % 3 != 0);
    ensure!(forgotten(&mut client)? == wanted.map(|(_, key)| key.clone()).collect());
    // Commands that wait are read by, too.
    writer.cmd(&["XADD", "k-stream", "1-1", "f", "v"])?;
    client.ok(&["CLIENT", "CACHING", "YES"])?;
    client.line("XREAD BLOCK 100 STREAMS k-stream 0")?;
    writer.cmd(&["XADD", "k-stream", "1-2", "f", "v"])?;
    ensure!(forgotten(&mut client)? == set_of(&["k-stream"]));
    // The flag holds for one command: what may run code is followed by an end of all that is known.
    client.ok(&["CLIENT", "CACHING", "YES"])?;
    client.line(&format!("EVAL \"return redis.call('GET',KEYS[1])\" 1 {}", keys[0]))?;
    ensure!(forgotten(&mut client)? == set_of(&["*"]));

    // All but what is excepted, and more may be told.
    let mut client = tracker(connect()?, &["CLIENT TRACKING ON OPTOUT"])?;
    keys.iter().try_for_each(|key| client.line(&format!("GET {key}")).map(drop))?;
    set_all(&mut writer, keys)?;
    ensure!(forgotten(&mut client)? == set_of(keys));

    // All keys with a prefix, read or not.
    let mut client = tracker(connect()?, &["CLIENT TRACKING ON BCAST PREFIX k1 PREFIX k2"])?;
    set_all(&mut writer, keys)?;
    let with = |key: &&String| key.starts_with("k1") || key.starts_with("k2");
    ensure!(forgotten(&mut client)? == keys.iter().filter(with).cloned().collect());
    ensure!(client.line("CLIENT TRACKING ON BCAST PREFIX k3")? == Reply::ok(), "one more prefix");
    set_all(&mut writer, keys)?;
    let with = |key: &&String| with(key) || key.starts_with("k3");
    ensure!(forgotten(&mut client)? == keys.iter().filter(with).cloned().collect());
    Ok(())
}

#[test]
fn a_cluster_tells_of_all_changes() -> Result<()> {
    let scene = cluster::Scene::start(0, ReadPolicy::Master)?;
    every_mode_tells(&|| scene.client(), &keys())?;
    // Nothing is left of the clients that are gone.
    for node in &scene.cluster.nodes {
        wait_until("no client that tracks", PATIENCE, || {
            node.info("clients").is_ok_and(|info| info_field(&info, "tracking_clients") == Some("0"))
        })?;
    }
    Ok(())
}

#[test]
fn several_destinations_tell_of_all_changes() -> Result<()> {
    let removed = Route { remove_prefix: true, ..route(KeyMatch::Prefix("k1".into()), 1) };
    let routes = vec![route(KeyMatch::Prefix("k2".into()), 2), removed, route(KeyMatch::Any, 0)];
    let scene = Scene::start(&["one", "two", "three"], routes, 1)?;
    every_mode_tells(&|| scene.client(), &keys())?;
    // A server's key that no route leads to is nobody's.
    let mut client = tracker(scene.client()?, &["CLIENT TRACKING ON BCAST"])?;
    scene.servers[2].cmd(&["SET", "unreachable", "1"])?;
    scene.servers[1].cmd(&["SET", "0", "1"])?;
    ensure!(forgotten(&mut client)? == set_of(&["k10"]));
    Ok(())
}

#[test]
fn what_clients_are_answered_is_what_redis_answers() -> Result<()> {
    let alone = Redis::start()?;
    let (one, cluster) =
        (Scene::start(&["one"], vec![route(KeyMatch::Any, 0)], 1)?, cluster::Scene::start(0, ReadPolicy::Master)?);
    let lines = [
        "CLIENT TRACKINGINFO",
        "CLIENT GETREDIR",
        "CLIENT CACHING YES",
        "CLIENT TRACKING OFF",
        "CLIENT TRACKING maybe",
        "CLIENT TRACKING ON FOO",
        "CLIENT TRACKING OFF FOO",
        "CLIENT TRACKING ON PREFIX a",
        "CLIENT TRACKING ON PREFIX",
        "CLIENT TRACKING ON BCAST OPTIN",
        "CLIENT TRACKING ON OPTIN OPTOUT",
        "CLIENT TRACKING ON BCAST PREFIX a PREFIX b PREFIX ab",
        "CLIENT TRACKING ON BCAST PREFIX b PREFIX a",
        "CLIENT TRACKINGINFO",
        "CLIENT TRACKING ON BCAST PREFIX abc",
        "CLIENT TRACKING ON BCAST PREFIX c NOLOOP",
        "CLIENT TRACKINGINFO",
        "CLIENT TRACKING ON",
        "CLIENT CACHING YES",
        "CLIENT TRACKING OFF",
        "CLIENT TRACKINGINFO",
        "CLIENT TRACKING ON OPTIN",
        "CLIENT TRACKING ON OPTOUT",
        "CLIENT CACHING NO",
        "CLIENT CACHING maybe",
        "CLIENT CACHING YES",
        "CLIENT TRACKINGINFO",
        "GET nothing",
        "CLIENT TRACKINGINFO",
        "CLIENT CACHING YES",
        "MULTI",
        "GET nothing",
        "EXEC",
        "CLIENT TRACKINGINFO",
        "CLIENT TRACKING ON",
        "CLIENT TRACKINGINFO",
        "CLIENT GETREDIR",
        "WATCH nothing",
        "MULTI",
        "GET nothing",
        "EXEC",
        "BLPOP nothing 0.01",
        "CLIENT NO-EVICT maybe",
        "CLIENT NO-EVICT ON",
        "CLIENT NO-TOUCH ON",
        "CLIENT TRACKING OFF",
        "GET nothing",
        "CLIENT NO-EVICT OFF",
        "CLIENT TRACKING ON",
        "RESET",
        "CLIENT TRACKINGINFO",
    ];
    for hello in ["HELLO 2", "HELLO 3"] {
        let mut expected = alone.client()?;
        for mut ours in [one.client()?, cluster.client()?] {
            ours.line(hello)?;
            expected.line(hello)?;
            for line in lines {
                let (ours, expected) = (ours.line(line)?, expected.line(line)?);
                ensure!(ours == expected, "{hello}, {line}: {ours:?}, by the server {expected:?}");
            }
        }
    }
    let refused = one.client()?.line("CLIENT TRACKING ON REDIRECT 1")?;
    ensure!(refused.text().contains("use RESP3"), "{refused:?}");
    Ok(())
}

#[test]
fn a_server_that_refuses_is_heard() -> Result<()> {
    let scene =
        Scene::start(&["one", "two"], vec![route(KeyMatch::Prefix("t".into()), 1), route(KeyMatch::Any, 0)], 1)?;
    for mode in ["ON", "ON BCAST"] {
        scene.servers[1].cmd(&["ACL", "SETUSER", "default", "+@all"])?;
        let at = usize::from(mode == "ON BCAST");
        scene.servers[at].cmd(&["ACL", "SETUSER", "default", "-client|tracking"])?;
        let mut client = tracker(scene.client()?, &[])?;
        let refused = client.line(&format!("CLIENT TRACKING {mode}"))?;
        ensure!(refused.text().starts_with("NOPERM"), "{mode}: {refused:?}");
        ensure!(client.line("CLIENT GETREDIR")? == Reply::Integer(-1), "it doesn't track");
        ensure!(client.line("SET k v")? == Reply::ok(), "and goes on");
        scene.servers[at].cmd(&["ACL", "SETUSER", "default", "+@all"])?;
    }
    // Where it is refused later, the client can't be told of changes, and is told so by the end.
    scene.servers[1].cmd(&["ACL", "SETUSER", "default", "-client|tracking"])?;
    let mut client = tracker(scene.client()?, &["CLIENT TRACKING ON"])?;
    client.send(&["GET", "t"])?;
    ensure!(client.is_closed_within(PATIENCE));
    Ok(())
}

#[test]
fn what_a_client_says_of_its_connection_holds_for_all_servers() -> Result<()> {
    let scene = cluster::Scene::start(0, ReadPolicy::Master)?;
    let exempt = |node: &Redis| -> Result<usize> {
        let clients = node.cmd(&["CLIENT", "LIST"])?.text();
        let flags = clients.lines().filter_map(|line| line.split("flags=").nth(1)?.split(' ').next());
        Ok(flags.filter(|flags| flags.contains('e')).count())
    };
    let mut client = scene.client()?;
    client.ok(&["CLIENT", "NO-EVICT", "ON"])?;
    keys().iter().try_for_each(|key| client.line(&format!("GET {key}")).map(drop))?;
    for node in &scene.cluster.nodes {
        ensure!(exempt(node)? == 1);
    }
    client.ok(&["CLIENT", "NO-EVICT", "OFF"])?;
    keys().iter().try_for_each(|key| client.line(&format!("GET {key}")).map(drop))?;
    for node in &scene.cluster.nodes {
        ensure!(exempt(node)? == 0);
    }
    ensure!(client.line("CLIENT HELP")?.items().len() > 10);
    Ok(())
}

#[test]
fn what_is_watched_before_is_tracked_too() -> Result<()> {
    let scene = cluster::Scene::start(0, ReadPolicy::Master)?;
    let mut client = scene.client()?;
    client.ok(&["WATCH", "k"])?;
    client.line("HELLO 3")?;
    client.ok(&["CLIENT", "TRACKING", "ON"])?;
    client.line("GET k")?;
    scene.client()?.ok(&["SET", "k", "new"])?;
    ensure!(forgotten(&mut client)? == set_of(&["k"]));
    Ok(())
}

/// After whatever moves, either the client was told to forget, or it is told of the next change.
fn is_told_of_the_next_change(scene: &cluster::Scene, client: &mut Client, mode: &str, key: &str) -> Result<()> {
    drop(forgotten(client)?);
    if mode.contains("OPTIN") {
        client.ok(&["CLIENT", "CACHING", "YES"])?;
    }
    client.send(&["GET", key])?;
    // Of what was read elsewhere the client is told to forget all.
    let mut told = BTreeSet::new();
    loop {
        let next = client.read()?;
        match next.items().last() {
            None => break,
            Some(Reply::Null) => drop(told.insert("*".to_owned())),
            Some(names) => told.extend(names.items().iter().map(Reply::text)),
        }
    }
    scene.client()?.ok(&["SET", key, "new"])?;
    told.append(&mut forgotten(client)?);
    ensure!(told.contains(key) || told.contains("*"), "{mode}: {told:?}");
    Ok(())
}

#[test]
fn tracking_follows_slots_and_masters() -> Result<()> {
    let scene = cluster::Scene::start(1, ReadPolicy::Master)?;
    let slot = scene.cluster.slot_of("k")?;
    for mode in ["ON", "ON OPTIN", "ON BCAST"] {
        let mut client = tracker(scene.client()?, &[&format!("CLIENT TRACKING {mode}")])?;
        scene.client()?.ok(&["SET", "k", "v"])?;
        is_told_of_the_next_change(&scene, &mut client, mode, "k")?;
        for _ in 0..2 {
            let masters = scene.cluster.masters();
            let from = scene.cluster.master_of_slot(slot)?;
            let to = masters.into_iter().find(|node| *node != from).unwrap_or_default();
            scene.cluster.move_slot(slot, from, to)?;
            is_told_of_the_next_change(&scene, &mut client, mode, "k")?;
        }
        // A replica takes over.
        let master = scene.cluster.master_of_slot(slot)?;
        let replicas = scene.cluster.nodes[master].info("replication")?;
        let port = replicas.split("port=").nth(1).and_then(|rest| rest.split(',').next()).unwrap_or_default();
        let replica = scene.cluster.nodes.iter().find(|node| node.addr().port().to_string() == port);
        replica.context("a replica")?.cmd(&["CLUSTER", "FAILOVER"])?;
        wait_until("another master", PATIENCE, || scene.cluster.master_of_slot(slot).is_ok_and(|now| now != master))?;
        wait_until("the client follows", PATIENCE, || {
            scene.client().is_ok_and(|mut any| any.ok(&["SET", "k", "1"]).is_ok())
        })?;
        is_told_of_the_next_change(&scene, &mut client, mode, "k")?;
        scene.cluster.wait_ok(PATIENCE)?;
    }
    Ok(())
}

#[test]
fn a_key_on_its_way_is_forgotten_when_it_was_read() -> Result<()> {
    let scene = cluster::Scene::start(0, ReadPolicy::Master)?;
    let slot = scene.cluster.slot_of("k")?.to_string();
    let from = scene.cluster.master_of_slot(scene.cluster.slot_of("k")?)?;
    let to = usize::from(from == 0);
    let nodes = &scene.cluster.nodes;
    let id = |node: usize| nodes[node].cmd(&["CLUSTER", "MYID"]).map(|id| id.text());
    nodes[to].cmd(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &id(from)?])?;
    nodes[from].cmd(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &id(to)?])?;
    for mode in ["ON", "ON OPTIN"] {
        // It isn't at the node of the slot any more.
        scene.client()?.ok(&["SET", "k", "v"])?;
        let mut client = tracker(scene.client()?, &[&format!("CLIENT TRACKING {mode}")])?;
        is_told_of_the_next_change(&scene, &mut client, mode, "k")?;
    }
    Ok(())
}

#[test]
fn a_transaction_of_a_client_that_tracks_goes_where_its_slot_is() -> Result<()> {
    let scene = cluster::Scene::start(0, ReadPolicy::Master)?;
    let slot = scene.cluster.slot_of("k")?;
    let from = scene.cluster.master_of_slot(slot)?;
    let mut client = tracker(scene.client()?, &["CLIENT TRACKING ON"])?;
    client.line("GET k")?;
    scene.cluster.move_slot(slot, from, usize::from(from == 0))?;
    // It watches nothing, so nil would be no answer.
    for words in ["MULTI", "INCR k", "EXEC"] {
        client.send(&words.split(' ').collect::<Vec<_>>())?;
    }
    let last = std::iter::repeat_with(|| client.read()).take(12).find(|reply| match reply {
        Ok(reply) => matches!(reply, Reply::Array(_) | Reply::Null | Reply::NullArray) || reply.is_error(),
        Err(_) => true,
    });
    let last = last.unwrap_or_else(|| anyhow::bail!("EXEC isn't answered"))?;
    ensure!(last == Reply::Array(vec![Reply::Integer(1)]), "{last:?}");
    Ok(())
}

#[test]
fn a_client_whose_server_is_lost_is_closed() -> Result<()> {
    let mut scene = cluster::Scene::start(0, ReadPolicy::Master)?;
    let mut client = tracker(scene.client()?, &["CLIENT TRACKING ON"])?;
    keys().iter().try_for_each(|key| client.line(&format!("GET {key}")).map(drop))?;
    scene.cluster.nodes.truncate(2);
    ensure!(client.is_closed_within(PATIENCE), "what it has read there may change unseen");
    Ok(())
}

/// A client library that keeps what it has read by default.
#[test]
fn rueidis_caches_before_a_cluster_and_several_destinations() -> Result<()> {
    let cluster = cluster::Scene::start(0, ReadPolicy::Master)?;
    let routes = vec![route(KeyMatch::Prefix("k1".into()), 1), route(KeyMatch::Any, 0)];
    let several = Scene::start(&["one", "two"], routes, 2)?;
    let Some(library) = Library::go("caching")? else {
        workspace::progress("there is no Go on this machine: rueidis is left out");
        return Ok(());
    };
    for address in [cluster.address(), several.address()] {
        let said = library.run(&[address.ip().to_string(), address.port().to_string()])?;
        ensure!(said.contains("all right"), "{said}");
    }
    Ok(())
}

/// Keys that are written while clients track all of them.
const FLOOD: usize = 1_000_000;
/// Bytes that Envoy may have beside what it has when it is idle.
const MEMORY: u64 = 100 * 1024 * 1024;

/// Clients that track all keys and read nothing are cut off, as by Redis (`client-output-buffer-limit
/// pubsub`), and others don't notice.
fn a_flood_that_nobody_reads(envoy: &Envoy, connect: &(dyn Fn() -> Result<Client> + Sync)) -> Result<()> {
    let (mut other, mut writer) = (connect()?, connect()?);
    other.ok(&["SET", "mine", "v"])?;
    let idle = envoy.process().resident_memory()?;
    let mut deaf = (0..3).map(|_| tracker(connect()?, &["CLIENT TRACKING ON BCAST"])).collect::<Result<Vec<_>>>()?;
    let mut hears = tracker(connect()?, &["CLIENT TRACKING ON BCAST PREFIX key:99999"])?;
    let is_over = AtomicBool::new(false);
    let slowest = std::thread::scope(|scope| -> Result<Duration> {
        let asks = scope.spawn(|| -> Result<Duration> {
            let mut slowest = Duration::ZERO;
            while !is_over.load(Ordering::Relaxed) {
                let begin = Instant::now();
                ensure!(other.line("GET mine")? == Reply::bulk("v"));
                slowest = slowest.max(begin.elapsed());
                std::thread::sleep(Duration::from_millis(5));
            }
            Ok(slowest)
        });
        for begin in (0..FLOOD).step_by(1000) {
            let written: Vec<u8> =
                (begin..begin + 1000).flat_map(|number| encode(&["SET", &format!("key:{number}"), "v"])).collect();
            writer.write(&written)?;
            for _ in 0..1000 {
                ensure!(writer.read()? == Reply::ok());
            }
        }
        is_over.store(true, Ordering::Relaxed);
        asks.join().unwrap_or_else(|_| anyhow::bail!("a panic"))
    })?;
    let peak = envoy.process().peak_memory()?.saturating_sub(idle);
    eprintln!("slowest {slowest:?}, {peak} bytes");
    ensure!(peak < MEMORY, "{peak} bytes");
    ensure!(slowest < Duration::from_secs(2), "{slowest:?}");
    let expected: BTreeSet<String> =
        (99999..1_000_000).filter(|n| n.to_string().starts_with("99999")).map(|n| format!("key:{n}")).collect();
    ensure!(forgotten(&mut hears)? == expected);
    for client in &mut deaf {
        client.set_patience(PATIENCE)?;
        let end = std::iter::repeat_with(|| client.read()).take(FLOOD).find(Result::is_err);
        ensure!(end.is_some_and(|end| !format!("{end:?}").contains("in time")), "it is told all, or not cut off");
    }
    Ok(())
}

#[test]
fn clients_of_one_server_that_read_no_invalidations_are_cut_off() -> Result<()> {
    let scene = Scene::one()?;
    a_flood_that_nobody_reads(&scene.envoy, &|| scene.client())
}

#[test]
fn clients_of_a_cluster_that_read_no_invalidations_are_cut_off() -> Result<()> {
    let scene = cluster::Scene::start(0, ReadPolicy::Master)?;
    a_flood_that_nobody_reads(&scene.envoy, &|| scene.client())
}
