//! A Redis that goes away and comes back: what a client has begun there, or waits for, ends with its
//! connection, as without a proxy; client libraries recover from that. They don't from an error.

use std::time::Duration;

use anyhow::{Result, ensure};
use redis_mesh_core::wire::KeyMatch;
use redis_mesh_tests::client::Client;
use redis_mesh_tests::listener::route;
use redis_mesh_tests::process::wait_until;
use redis_mesh_tests::reply::Reply;

use crate::Scene;

const SOON: Duration = Duration::from_secs(10);

/// Clients that have begun something, each by its last line.
fn begin(scene: &Scene) -> Result<Vec<(&'static str, Client)>> {
    let all: &[&[&str]] = &[
        &["SUBSCRIBE c"],
        &["PSUBSCRIBE c*"],
        &["HELLO 3", "SUBSCRIBE c"],
        &["MONITOR"],
        &["WATCH k"],
        &["WATCH k", "MULTI"],
        &["HELLO 3", "CLIENT TRACKING ON"],
        &["BLPOP list 0"],
        &["XREAD BLOCK 0 STREAMS s $"],
        &["WAIT 1 0"],
    ];
    let mut clients = Vec::new();
    for lines in all {
        let mut client = scene.client()?;
        let (last, before) = lines.split_last().unwrap_or((&"", &[]));
        for line in before {
            client.line(line)?;
        }
        let words: Vec<&str> = last.split(' ').collect();
        client.send(&words)?;
        if !["BLPOP", "XREAD", "WAIT"].contains(&words[0]) {
            let reply = client.read()?;
            ensure!(!reply.is_error(), "{last}: {reply:?}");
        }
        clients.push((*last, client));
    }
    Ok(clients)
}

#[test]
fn what_a_client_has_begun_at_a_lost_redis_ends_with_its_connection() -> Result<()> {
    let mut scene = Scene::start(&["one"], vec![route(KeyMatch::Any, 0)], 1)?;
    let mut plain = scene.client()?;
    plain.ok(&["SET", "k", "v"])?;
    let clients = begin(&scene)?;
    scene.wait_for("three that wait", |scene| Ok(scene.servers[0].info("clients")?.contains("blocked_clients:3")))?;
    scene.servers[0].kill();
    for (line, mut client) in clients {
        // Other clients' commands.
        let is_seen = |said: &Result<Option<Reply>>| matches!(said, Ok(Some(_))) && line == "MONITOR";
        let said = std::iter::repeat_with(|| client.read_within(SOON)).find(|said| !is_seen(said));
        ensure!(said.as_ref().is_some_and(Result::is_err), "{line}: {said:?} instead of the end");
    }
    // Who has asked for nothing keeps its connection, and hears why the next command fails.
    let reply = plain.line("GET k")?;
    ensure!(reply.tty() == "(error) ERR redis-mesh: one.test:6379 can't be reached", "{reply:?}");
    // Who comes, or would begin something, finds no Redis.
    for line in ["GET k", "SELECT 1", "SUBSCRIBE c", "BLPOP list 0", "WATCH k", "MONITOR"] {
        let said = scene.client()?.line(line);
        ensure!(said.is_err(), "{line}: {said:?} instead of the end");
    }
    let said = plain.line("BLPOP list 0");
    ensure!(said.is_err(), "{said:?} instead of the end");
    scene.servers[0].restart()?;
    wait_until("all is well", SOON, || scene.client().and_then(|mut new| new.line("EXISTS k")).is_ok())?;
    begin(&scene)?;
    Ok(())
}

#[test]
fn where_one_of_several_is_lost_clients_hear_of_it() -> Result<()> {
    let mut scene = Scene::two()?;
    scene.servers[1].kill();
    let mut client = scene.client()?;
    for _ in 0..3 {
        let reply = client.line("GET b:k")?;
        ensure!(reply.tty() == "(error) ERR redis-mesh: two.test:6379 can't be reached", "{reply:?}");
        ensure!(client.line("SET k v")? == Reply::ok());
    }
    Ok(())
}
