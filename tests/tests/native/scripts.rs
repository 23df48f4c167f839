//! EVALSHA of scripts that a server doesn't have.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use redis_mesh_core::wire::ReadPolicy;
use redis_mesh_tests::client::Client;
use redis_mesh_tests::process::wait_until;
use redis_mesh_tests::reply::Reply;

use crate::{Scene, cluster};

const SCRIPT: &str = "return redis.call('RPUSH', KEYS[1], ARGV[1])";

fn call(sha: &str, key: &str, value: usize) -> Vec<String> {
    ["EVALSHA", sha, "1", key, &value.to_string()].map(str::to_owned).to_vec()
}

fn words(line: &str) -> Vec<String> {
    line.split(' ').map(str::to_owned).collect()
}

#[test]
fn a_server_that_has_lost_its_scripts_gets_them_again() -> Result<()> {
    let mut scene = Scene::one()?;
    let mut client = scene.client()?;
    let sha = client.cmd(&["SCRIPT", "LOAD", SCRIPT])?.text();
    // A flush that doesn't come this way.
    scene.servers[0].cmd(&["SCRIPT", "FLUSH"])?;
    assert_eq!(client.cmd(&call(&sha, "k", 1))?, Reply::Integer(1));
    assert_eq!(client.cmd(&call(&sha, "k", 2))?, Reply::Integer(2));
    // While the connection stays, the client is told, as by Redis; then it is there again.
    scene.servers[0].cmd(&["SCRIPT", "FLUSH"])?;
    assert!(client.cmd(&call(&sha, "k", 3))?.text().starts_with("NOSCRIPT"));
    assert_eq!(client.cmd(&call(&sha, "k", 3))?, Reply::Integer(3));
    // A server that begins anew.
    scene.servers[0].kill();
    scene.servers[0].restart()?;
    scene.wait_for("the server again", |_| Ok(client.line("GET x")?.is_null()))?;
    let mut commands: Vec<Vec<String>> = (1..=100).map(|value| call(&sha, "k", value)).collect();
    commands.push(words("LLEN k"));
    let replies = client.pipeline(&commands)?;
    assert_eq!(replies[..100], (1..=100).map(Reply::Integer).collect::<Vec<_>>());
    assert_eq!(replies[100], Reply::Integer(100));
    // In a transaction, also of a client that watches.
    scene.servers[0].kill();
    scene.servers[0].restart()?;
    scene.wait_for("the server again", |_| Ok(client.line("GET x")?.is_null()))?;
    let transaction = [words("MULTI"), call(&sha, "k", 1), words("LLEN k"), words("EXEC")];
    let both = Reply::Array(vec![Reply::Integer(1), Reply::Integer(1)]);
    assert_eq!(client.pipeline(&transaction)?[3], both);
    scene.servers[0].cmd(&["FLUSHALL"])?;
    client.ok(&["WATCH", "other"])?;
    assert_eq!(client.pipeline(&transaction)?[3], both);
    // What a client has flushed is forgotten.
    client.ok(&["SCRIPT", "FLUSH"])?;
    let (ours, server) = (client.cmd(&call(&sha, "k", 1))?, scene.servers[0].client()?.cmd(&call(&sha, "k", 1))?);
    assert!(ours.text().starts_with("NOSCRIPT") && ours == server, "{ours:?}");
    // It is known again by its text alone.
    client.ok(&["EVAL", SCRIPT, "1", "k", "2"])?;
    scene.servers[0].cmd(&["SCRIPT", "FLUSH"])?;
    assert_eq!(client.cmd(&call(&sha, "k", 3))?, Reply::Integer(3));
    Ok(())
}

#[test]
fn what_follows_in_a_pipeline_is_not_overtaken() -> Result<()> {
    let scene = Scene::one()?;
    let mut client = scene.client()?;
    let sha = client.cmd(&["SCRIPT", "LOAD", SCRIPT])?.text();
    let (mut healed, mut told) = (0, 0);
    for round in 0..200 {
        client.ok(&["DEL", "k"])?;
        if round % 3 == 0 {
            scene.servers[0].cmd(&["SCRIPT", "FLUSH"])?;
        }
        let replies = client.pipeline(&[call(&sha, "k", round), words("LLEN k")])?;
        match &replies[0] {
            Reply::Integer(1) => healed += 1,
            other => {
                ensure!(other.text().starts_with("NOSCRIPT"), "{other:?}");
                told += 1;
            }
        }
        let length = i64::from(!replies[0].is_error());
        ensure!(replies[1] == Reply::Integer(length), "round {round}: {replies:?}");
    }
    ensure!(healed > 100 && told <= 67, "{healed} {told}");
    Ok(())
}

fn append(mut client: Client, sha: &str, keys: &[String], ends: &AtomicBool) -> Result<Vec<usize>> {
    let mut counts = vec![0; keys.len()];
    while !ends.load(Ordering::Relaxed) {
        let commands: Vec<Vec<String>> = keys
            .iter()
            .zip(&counts)
            .flat_map(|(key, count)| [call(sha, key, *count), call(sha, key, *count + 1)])
            .collect();
        let replies = client.pipeline(&commands)?;
        for (pair, (key, count)) in replies.chunks(2).zip(keys.iter().zip(&mut counts)) {
            *count += 2;
            let expected = [*count as i64 - 1, *count as i64].map(Reply::Integer);
            ensure!(pair == expected, "{key}: {pair:?} instead of {expected:?}");
        }
    }
    Ok(counts)
}

#[test]
fn nodes_that_do_not_know_a_script_get_it_while_slots_move() -> Result<()> {
    let scene = cluster::Scene::start(0, ReadPolicy::Master)?;
    let mut client = scene.client()?;
    let sha = client.cmd(&["SCRIPT", "LOAD", SCRIPT])?.text();
    let keys: Vec<String> = (0..6).map(|i| format!("{{key{i}}}")).collect();
    for node in &scene.cluster.nodes {
        node.cmd(&["SCRIPT", "FLUSH"])?;
    }
    let ends = AtomicBool::new(false);
    let counts = std::thread::scope(|scope| -> Result<Vec<usize>> {
        let (writer, keys, sha, ends) = (scene.client()?, &keys, &sha, &ends);
        let writer = scope.spawn(move || append(writer, sha, keys, ends));
        let moved = keys.iter().try_for_each(|key| -> Result<()> {
            let slot = scene.cluster.slot_of(key)?;
            let from = scene.cluster.master_of_slot(slot)?;
            scene.cluster.move_slot(slot, from, (from + 1) % 3)?;
            std::thread::sleep(Duration::from_millis(100));
            Ok(())
        });
        ends.store(true, Ordering::Relaxed);
        let counts = writer.join().unwrap_or_else(|_| anyhow::bail!("the writer panicked"));
        moved?;
        counts
    })?;
    for (key, count) in keys.iter().zip(&counts) {
        ensure!(*count > 10, "{key}: {count}");
        ensure!(client.cmd(&["LLEN", key])? == Reply::Integer(*count as i64), "{key}");
    }
    // One without keys goes to any node.
    let sha = client.cmd(&["SCRIPT", "LOAD", "return 'none'"])?.text();
    for node in &scene.cluster.nodes {
        node.cmd(&["SCRIPT", "FLUSH"])?;
    }
    wait_until("an answer", Duration::from_secs(10), || {
        client.cmd(&["EVALSHA", &sha, "0"]).is_ok_and(|reply| reply == Reply::bulk("none"))
    })
}
