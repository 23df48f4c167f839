//! Nodes of a Redis Cluster that announce no address, or a name.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use redis_mesh_core::wire::ReadPolicy;
use redis_mesh_tests::client::Client;
use redis_mesh_tests::cluster::{Shape, shard_slots};
use redis_mesh_tests::process::wait_until;
use redis_mesh_tests::reply::Reply;

use crate::PATIENCE;
use crate::cluster::Scene;

/// Nodes that announce no address, or names that nobody here can look up: each is found by the address
/// that it has beside its name.
fn nodes_without_an_address(config: &[&str]) -> Result<()> {
    let config = config.iter().map(ToString::to_string).collect();
    let shape = Shape { replicas: 0, node_timeout: Duration::from_secs(1), config, ..Shape::default() };
    let scene = Scene::of(shape, ReadPolicy::Master)?;
    let mut client = scene.client()?;
    let keys: Vec<String> = (0..60).map(|number| format!("k{number}")).collect();
    let all_are_served = |client: &mut Client, value: &str| -> Result<()> {
        client.set_patience(PATIENCE)?;
        for key in &keys {
            let reply = client.cmd(&["SET", key, value])?;
            ensure!(reply == Reply::ok(), "{key}: {reply:?}");
            ensure!(client.cmd(&["GET", key])? == Reply::bulk(value), "{key}");
        }
        Ok(())
    };
    all_are_served(&mut client, "1")?;
    for node in &scene.cluster.nodes {
        node.cmd(&["CLIENT", "KILL", "TYPE", "normal"])?;
        // What was under way over the connection is told.
        wait_until("an answer", PATIENCE, || {
            keys.iter().all(|key| client.cmd(&["GET", key]).is_ok_and(|reply| reply == Reply::bulk("1")))
        })?;
        all_are_served(&mut client, "1")?;
    }
    // A slot is on its way, with half of its keys at either node.
    let slot = scene.cluster.slot_of("{k0}")?;
    let serves = |node: &usize| {
        let (first, last) = shard_slots(*node, 3);
        (first..=last).contains(&slot)
    };
    let from = (0..3).find(serves).context("a node that serves the slot")?;
    let to = (from + 1) % 3;
    let [source, target] = [from, to].map(|node| &scene.cluster.nodes[node]);
    let ids = [source.cmd(&["CLUSTER", "MYID"])?.text(), target.cmd(&["CLUSTER", "MYID"])?.text()];
    let slot = slot.to_string();
    target.cmd(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &ids[0]])?;
    source.cmd(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &ids[1]])?;
    for number in 0..20 {
        client.ok(&["SET", &format!("{{k0}}new{number}"), "2"])?;
        ensure!(client.cmd(&["GET", &format!("{{k0}}new{number}")])? == Reply::bulk("2"));
    }
    all_are_served(&mut client, "1")?;
    Ok(())
}

#[test]
fn nodes_without_a_known_endpoint_are_found() -> Result<()> {
    nodes_without_an_address(&["cluster-preferred-endpoint-type unknown-endpoint"])
}

#[test]
fn nodes_with_names_are_found() -> Result<()> {
    nodes_without_an_address(&["cluster-preferred-endpoint-type hostname", "cluster-announce-hostname node.test"])
}

#[test]
fn nodes_whose_names_are_missing_are_found() -> Result<()> {
    nodes_without_an_address(&["cluster-preferred-endpoint-type hostname"])
}
