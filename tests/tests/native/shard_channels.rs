//! Shard channels, and other subscriptions in a Redis Cluster, while slots move and nodes leave.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use redis_mesh_core::wire::ReadPolicy;
use redis_mesh_tests::client::Client;
use redis_mesh_tests::cluster::{Shape, shard_slots};
use redis_mesh_tests::process::wait_until;
use redis_mesh_tests::reply::Reply;

use crate::PATIENCE;
use crate::cluster::Scene;

/// Publishes until the subscriber hears it, and returns what it reads.
fn publish_until_heard(scene: &Scene, client: &mut Client, channel: &str, message: &str) -> Result<Reply> {
    let mut publisher = scene.client()?;
    let (mut heard, mut refused) = (None, None);
    let waited = wait_until("a message to the subscriber", PATIENCE, || {
        // Nobody counts subscribers of other nodes of the shard.
        refused = refused.take().or(publisher.ok(&["SPUBLISH", channel, message]).err());
        while let Ok(Some(reply)) = client.read_within(Duration::from_millis(100)) {
            heard = Some(reply);
        }
        heard.is_some()
    });
    refused.map_or(Ok(()), Err)?;
    waited?;
    heard.context("nothing was heard")
}

#[test]
fn shard_channels_follow_their_slots() -> Result<()> {
    let scene = Scene::start(1, ReadPolicy::Master)?;
    for hello in ["HELLO 2", "HELLO 3"] {
        let mut client = scene.client()?;
        client.line(hello)?;
        client.send(&["SSUBSCRIBE", "{a}one", "{a}two"])?;
        client.read()?;
        client.read()?;
        client.send(&["SSUBSCRIBE", "b"])?;
        client.read()?;
        let slot = scene.cluster.slot_of("a")?;
        for round in 0..4 {
            let masters = scene.cluster.masters();
            let from = scene.cluster.master_of_slot(slot)?;
            let to = masters.into_iter().find(|node| *node != from).unwrap_or_default();
            scene.cluster.move_slot(slot, from, to)?;
            for channel in ["{a}one", "{a}two", "b"] {
                let message = format!("{round}");
                let heard = publish_until_heard(&scene, &mut client, channel, &message)?;
                let expected = ["smessage", channel, &message].map(Reply::bulk);
                ensure!(heard.items() == expected, "{hello}, round {round}: {heard:?}");
            }
        }
        // A replica takes over.
        let master = scene.cluster.master_of_slot(slot)?;
        let replicas = scene.cluster.nodes[master].info("replication")?;
        let port = replicas.split("port=").nth(1).and_then(|rest| rest.split(',').next()).unwrap_or_default();
        let replica = scene.cluster.nodes.iter().find(|node| node.addr().port().to_string() == port);
        replica.map(|node| node.cmd(&["CLUSTER", "FAILOVER"])).transpose()?;
        wait_until("another master", PATIENCE, || scene.cluster.master_of_slot(slot).is_ok_and(|now| now != master))?;
        let heard = publish_until_heard(&scene, &mut client, "{a}one", "after")?;
        ensure!(heard.items().last() == Some(&Reply::bulk("after")), "{heard:?}");
        // What the client unsubscribes from is confirmed as by one Redis.
        client.send(&["SUNSUBSCRIBE", "{a}one", "{a}two"])?;
        for (channel, left) in [("{a}one", 2), ("{a}two", 1)] {
            let told = client.read()?;
            ensure!(told.items()[1..] == [Reply::bulk(channel), Reply::Integer(left)], "{told:?}");
        }
        scene.cluster.wait_ok(PATIENCE)?;
    }
    Ok(())
}

/// Takes the first of four masters out of the cluster.
fn remove_first(scene: &Scene) -> Result<()> {
    let nodes = &scene.cluster.nodes;
    let id = |node: usize| nodes[node].cmd(&["CLUSTER", "MYID"]).map(|id| id.text());
    let (leaving, heir) = (id(0)?, id(1)?);
    let (first, last) = shard_slots(0, 4);
    let set: Vec<Vec<String>> = (first..=last)
        .map(|slot| vec!["CLUSTER".into(), "SETSLOT".into(), slot.to_string(), "NODE".into(), heir.clone()])
        .collect();
    for node in [1, 0, 2, 3] {
        // A node that has heard of it by the bus may have become a replica, which refuses this.
        nodes[node].client()?.pipeline(&set)?;
    }
    wait_until("the heir of all slots", PATIENCE, || {
        let serves = |slot| scene.cluster.master_of_slot(slot).is_ok_and(|node| node == 1);
        serves(first) && serves(last)
    })?;
    for node in &nodes[1..] {
        node.cmd(&["CLUSTER", "FORGET", &leaving])?;
    }
    nodes[0].cmd(&["CLUSTER", "RESET", "HARD"])?;
    Ok(())
}

#[test]
fn subscribers_at_a_node_that_leaves_hear_again_or_are_closed() -> Result<()> {
    let node_timeout = Duration::from_millis(1000);
    let config = vec!["notify-keyspace-events KEA".to_owned()];
    let shape = Shape { masters: 4, replicas: 0, node_timeout, config, ..Shape::default() };
    let scene = Scene::of(shape, ReadPolicy::Master)?;
    let slot_of_first = |channel: &String| scene.cluster.slot_of(channel).is_ok_and(|slot| slot <= shard_slots(0, 4).1);
    let shard = (0..).map(|number| format!("s{number}")).find(slot_of_first).unwrap_or_default();
    let at_first = |counts: &str, channel: &str| -> Result<bool> {
        let counted = scene.cluster.nodes[0].cmd(&["PUBSUB", counts, channel])?;
        Ok(counted.items().get(1) == Some(&Reply::Integer(1)))
    };
    // One subscriber for each kind; which node has the channel is the module's choice.
    let mut subscribers = Vec::new();
    for words in [["SUBSCRIBE", "news"], ["SSUBSCRIBE", &shard], ["PSUBSCRIBE", "__keyevent@0__:set"]] {
        let mut client = scene.client()?;
        client.send(&words)?;
        client.read()?;
        subscribers.push(client);
    }
    ensure!(at_first("SHARDNUMSUB", &shard)?, "the shard channel is at the node that leaves");
    let was_at_first = at_first("NUMSUB", "news")?;
    eprintln!("the channel was at the node that leaves: {was_at_first}");
    remove_first(&scene)?;
    // Nobody sends a command, so nothing is redirected.
    let [news, sharded, notified] = subscribers.as_mut_slice() else { return Ok(()) };
    for client in [&mut *news, &mut *sharded, &mut *notified] {
        client.set_patience(Duration::from_secs(1))?;
    }
    let node = &scene.cluster.nodes[1];
    let publish = |words: &[&str]| node.cmd(words).map(drop);
    for (client, words) in [
        (news, ["PUBLISH", "news", "hello"]),
        (sharded, ["SPUBLISH", &*shard, "hello"]),
        (notified, ["SET", &*shard, "v"]),
    ] {
        wait_until(&format!("{} heard, or the end of the connection", words[1]), Duration::from_secs(30), || {
            publish(&words).is_ok()
                && match client.read_within(Duration::from_millis(300)) {
                    Ok(None) => false,
                    Ok(Some(reply)) => {
                        eprintln!("{}: {reply}", words[1]);
                        true
                    }
                    Err(error) => {
                        eprintln!("{}: {error}", words[1]);
                        true
                    }
                }
        })?;
    }
    Ok(())
}
