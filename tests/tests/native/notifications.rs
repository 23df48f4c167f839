//! Notifications of changes of keys: each server tells of its own keys, and clients see one Redis.

use std::time::Duration;

use anyhow::{Result, ensure};
use redis_mesh_core::wire::{KeyMatch, ReadPolicy, Route};
use redis_mesh_tests::client::Client;
use redis_mesh_tests::cluster::Shape;
use redis_mesh_tests::listener::route;
use redis_mesh_tests::process::wait_until;
use redis_mesh_tests::redis::Redis;
use redis_mesh_tests::reply::Reply;

use crate::{PATIENCE, Scene, cluster};

/// How long nothing more comes when all has come.
const SILENCE: Duration = Duration::from_millis(300);

/// A cluster that notifies of everything.
fn notifying_cluster(replicas: usize) -> Result<cluster::Scene> {
    let config = vec!["notify-keyspace-events KEA".to_owned()];
    let node_timeout = Duration::from_millis(1000);
    cluster::Scene::of(Shape { replicas, node_timeout, config, ..Shape::default() }, ReadPolicy::Master)
}

fn notify(servers: &[Redis]) -> Result<()> {
    servers.iter().try_for_each(|server| server.cmd(&["CONFIG", "SET", "notify-keyspace-events", "KEA"]).map(drop))
}

/// Sends a command whose replies come one by one, and reads them as lines.
fn told(client: &mut Client, line: &str, replies: usize) -> Result<Vec<String>> {
    client.send(&redis_mesh_tests::line::words(line)?)?;
    (0..replies).map(|_| Ok(shown(&client.read()?))).collect()
}

fn shown(reply: &Reply) -> String {
    match reply.items() {
        [] => reply.text(),
        items => items
            .iter()
            .map(|item| item.integer().map_or_else(|| item.text(), |n| n.to_string()))
            .collect::<Vec<_>>()
            .join(" "),
    }
}

/// All that comes until nothing comes any more, in bytewise order.
fn heard(client: &mut Client) -> Result<Vec<String>> {
    let mut heard = Vec::new();
    while let Some(reply) = client.read_within(SILENCE)? {
        heard.push(shown(&reply));
    }
    heard.sort();
    Ok(heard)
}

/// The keys of a test, which are in slots of all masters.
fn keys() -> Vec<String> {
    (0..15).map(|number| format!("k{number}")).collect()
}

fn set_all(client: &mut Client) -> Result<()> {
    let sets: Vec<Vec<String>> = keys().into_iter().map(|key| vec!["SET".into(), key, "v".into()]).collect();
    ensure!(client.pipeline(&sets)?.iter().all(|reply| *reply == Reply::ok()));
    Ok(())
}

/// What is heard of all keys, each once.
fn of_all(what: impl Fn(&str) -> String) -> Vec<String> {
    let mut all: Vec<String> = keys().iter().map(|key| what(key)).collect();
    all.sort();
    all
}

#[test]
fn all_masters_tell_of_their_keys() -> Result<()> {
    let scene = notifying_cluster(0)?;
    let mut writer = scene.client()?;
    for hello in ["HELLO 2", "HELLO 3"] {
        let mut client = scene.client()?;
        client.line(hello)?;
        let told_first = told(&mut client, "PSUBSCRIBE __keyevent@0__:*", 1)?;
        ensure!(told_first == ["psubscribe __keyevent@0__:* 1"], "{told_first:?}");
        set_all(&mut writer)?;
        ensure!(heard(&mut client)? == of_all(|key| format!("pmessage __keyevent@0__:* __keyevent@0__:set {key}")));
        // Ordinary channels beside them, in the order of the command.
        let more = told(&mut client, "SUBSCRIBE news __keyevent@0__:del other", 3)?;
        ensure!(more == ["subscribe news 2", "subscribe __keyevent@0__:del 3", "subscribe other 4"], "{more:?}");
        ensure!(told(&mut client, "PUNSUBSCRIBE", 1)? == ["punsubscribe __keyevent@0__:* 3"]);
        ensure!(told(&mut client, "SUBSCRIBE __keyevent@0__:del", 1)? == ["subscribe __keyevent@0__:del 3"]);
        for key in keys() {
            writer.ok(&["DEL", &key])?;
        }
        writer.ok(&["PUBLISH", "news", "hello"])?;
        let mut expected = of_all(|key| format!("message __keyevent@0__:del {key}"));
        expected.push("message news hello".into());
        ensure!(heard(&mut client)? == expected);
        // In bytewise order, as the names are kept.
        let last = told(&mut client, "UNSUBSCRIBE", 3)?;
        ensure!(last == ["unsubscribe __keyevent@0__:del 2", "unsubscribe news 1", "unsubscribe other 0"], "{last:?}");
        ensure!(client.line("GET none")?.is_null(), "it is no subscriber any more");
    }
    wait_until("no subscription at any node", PATIENCE, || {
        let none = |node: &Redis| node.cmd(&["PUBSUB", "CHANNELS"]).is_ok_and(|reply| reply.items().is_empty());
        let no_pattern = |node: &Redis| node.cmd(&["PUBSUB", "NUMPAT"]).is_ok_and(|reply| reply == Reply::Integer(0));
        scene.cluster.nodes.iter().all(|node| none(node) && no_pattern(node))
    })
}

#[test]
fn a_pattern_for_everything_hears_each_message_once() -> Result<()> {
    let scene = notifying_cluster(0)?;
    let (mut client, mut writer) = (scene.client()?, scene.client()?);
    ensure!(told(&mut client, "PSUBSCRIBE * n*", 2)? == ["psubscribe * 1", "psubscribe n* 2"]);
    set_all(&mut writer)?;
    let mut expected = of_all(|key| format!("pmessage * __keyevent@0__:set {key}"));
    expected.extend(of_all(|key| format!("pmessage * __keyspace@0__:{key} set")));
    expected.sort();
    ensure!(heard(&mut client)? == expected);
    // A cluster passes these on to all of its nodes.
    for (channel, node) in [("news", 0), ("other", 1), ("third", 2)] {
        scene.cluster.nodes[node].cmd(&["PUBLISH", channel, "hello"])?;
    }
    writer.ok(&["PUBLISH", "fourth", "hello"])?;
    let messages = ["* fourth", "* news", "* other", "* third", "n* news"];
    ensure!(heard(&mut client)? == messages.map(|message| format!("pmessage {message} hello")));
    Ok(())
}

#[test]
fn subscriptions_follow_slots_and_masters() -> Result<()> {
    let scene = notifying_cluster(1)?;
    let (mut all, mut one, mut writer) = (scene.client()?, scene.client()?, scene.client()?);
    all.send(&["PSUBSCRIBE", "__keyevent@0__:set", "*"])?;
    one.send(&["SUBSCRIBE", "__keyspace@0__:k1"])?;
    for client in [&mut all, &mut one] {
        ensure!(client.read_within(PATIENCE)?.is_some());
    }
    all.read()?;
    let expected = || {
        let mut expected = of_all(|key| format!("pmessage * __keyevent@0__:set {key}"));
        expected.extend(of_all(|key| format!("pmessage * __keyspace@0__:{key} set")));
        expected.extend(of_all(|key| format!("pmessage __keyevent@0__:set __keyevent@0__:set {key}")));
        expected.sort();
        expected
    };
    let check = |all: &mut Client, one: &mut Client, writer: &mut Client| -> Result<()> {
        set_all(writer)?;
        let heard_by_all = heard(all)?;
        ensure!(heard_by_all == expected(), "{heard_by_all:?}");
        ensure!(heard(one)? == ["message __keyspace@0__:k1 set"]);
        writer.ok(&["PUBLISH", "news", "hello"])?;
        ensure!(heard(all)? == ["pmessage * news hello"]);
        Ok(())
    };
    check(&mut all, &mut one, &mut writer)?;
    let slot = scene.cluster.slot_of("k1")?;
    let from = scene.cluster.master_of_slot(slot)?;
    let to = scene.cluster.masters().into_iter().find(|node| *node != from).unwrap_or_default();
    scene.cluster.move_slot(slot, from, to)?;
    // The next command for the slot is redirected, which tells where it is.
    writer.ok(&["GET", "k1"])?;
    // What the move itself has changed.
    drop((heard(&mut all)?, heard(&mut one)?));
    check(&mut all, &mut one, &mut writer)?;
    // A replica takes the place of its master, which becomes a replica: both tell of all changes.
    let demoted = scene.cluster.master_of_slot(slot)?;
    let replicas = scene.cluster.nodes[demoted].info("replication")?;
    let port = replicas.split("port=").nth(1).and_then(|rest| rest.split(',').next()).unwrap_or_default().to_owned();
    let replica = scene.cluster.nodes.iter().find(|node| node.addr().port().to_string() == port);
    replica.map(|node| node.cmd(&["CLUSTER", "FAILOVER"])).transpose()?;
    wait_until("another master", PATIENCE, || {
        scene.cluster.master_of_slot(slot).is_ok_and(|now| now != demoted) && writer.ok(&["SET", "k1", "v"]).is_ok()
    })?;
    drop((heard(&mut all)?, heard(&mut one)?));
    check(&mut all, &mut one, &mut writer)
}

#[test]
fn keys_of_several_destinations_have_the_names_of_the_client() -> Result<()> {
    let stripped = Route { remove_prefix: true, ..route(KeyMatch::Prefix("b:".into()), 1) };
    let scene = Scene::start(&["one", "two"], vec![stripped, route(KeyMatch::Any, 0)], 1)?;
    notify(&scene.servers)?;
    let (mut client, mut writer) = (scene.client()?, scene.client()?);
    let set =
        |writer: &mut Client| ["a", "b:a", "b:k"].iter().try_for_each(|key| writer.ok(&["SET", key, "v"]).map(drop));
    told(&mut client, "PSUBSCRIBE __keyevent@0__:* __keyspace@0__:b:*", 2)?;
    set(&mut writer)?;
    let expected = [
        "pmessage __keyevent@0__:* __keyevent@0__:set a",
        "pmessage __keyevent@0__:* __keyevent@0__:set b:a",
        "pmessage __keyevent@0__:* __keyevent@0__:set b:k",
        "pmessage __keyspace@0__:b:* __keyspace@0__:b:a set",
        "pmessage __keyspace@0__:b:* __keyspace@0__:b:k set",
    ];
    let first = heard(&mut client)?;
    ensure!(first == expected, "{first:?}");
    // A key of the same name at the other destination is another one, and one that no route leads to
    // is nobody's.
    scene.servers[1].cmd(&["SET", "b:b:x", "v"])?;
    scene.servers[0].cmd(&["SET", "b:hidden", "v"])?;
    ensure!(heard(&mut client)?.iter().all(|line| line.ends_with("b:b:b:x set") || line.ends_with("b:b:b:x")));
    told(&mut client, "PUNSUBSCRIBE __keyspace@0__:b:*", 1)?;
    told(&mut client, "PSUBSCRIBE *", 1)?;
    told(&mut client, "PUNSUBSCRIBE __keyevent@0__:*", 1)?;
    set(&mut writer)?;
    writer.ok(&["PUBLISH", "news", "hello"])?;
    // It goes to the destination for all other keys, and this one tells the other's clients nothing.
    scene.servers[1].cmd(&["PUBLISH", "elsewhere", "hello"])?;
    let everything = heard(&mut client)?;
    ensure!(everything.len() == 7 && everything.contains(&"pmessage * news hello".to_owned()), "{everything:?}");
    told(&mut client, "PUNSUBSCRIBE", 1)?;
    let named = told(&mut client, "SUBSCRIBE __keyspace@0__:b:k __keyspace@0__:a", 2)?;
    ensure!(named == ["subscribe __keyspace@0__:b:k 1", "subscribe __keyspace@0__:a 2"]);
    set(&mut writer)?;
    scene.servers[0].cmd(&["SET", "k", "v"])?;
    let of_two = heard(&mut client)?;
    ensure!(of_two == ["message __keyspace@0__:a set", "message __keyspace@0__:b:k set"], "{of_two:?}");
    Ok(())
}

#[test]
fn a_client_that_may_not_hear_at_all_servers_hears_at_none() -> Result<()> {
    let scene =
        Scene::start(&["one", "two"], vec![route(KeyMatch::Prefix("b:".into()), 1), route(KeyMatch::Any, 0)], 1)?;
    notify(&scene.servers)?;
    scene.servers[1].cmd(&["ACL", "SETUSER", "default", "resetchannels", "&news"])?;
    let mut client = scene.client()?;
    client.ok(&["HELLO", "3"])?;
    let refused = client.line("PSUBSCRIBE __keyevent@0__:*")?;
    ensure!(refused.is_error() && refused.text().starts_with("NOPERM"), "{refused:?}");
    client.ok(&["SET", "a", "v"])?;
    ensure!(heard(&mut client)?.is_empty());
    wait_until("no subscription", PATIENCE, || {
        scene.servers[0].cmd(&["PUBSUB", "NUMPAT"]).is_ok_and(|reply| reply == Reply::Integer(0))
    })
}
