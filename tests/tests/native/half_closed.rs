//! Clients that half-close the connection after their last command and read afterwards, as `nc`
//! does.

use std::time::Duration;

use anyhow::{Result, ensure};
use redis_mesh_tests::client::{Client, encode, info_field};
use redis_mesh_tests::reply::Reply;

use crate::Scene;

/// Sends the bytes, half-closes the connection, and returns all bytes until the other side closes.
fn say(mut client: Client, bytes: &[u8]) -> Result<Vec<Reply>> {
    let mut writer = client.stream().try_clone()?;
    let bytes = bytes.to_vec();
    let thread = std::thread::spawn(move || -> std::io::Result<()> {
        std::io::Write::write_all(&mut writer, &bytes)?;
        writer.shutdown(std::net::Shutdown::Write)
    });
    let mut replies = Vec::new();
    while let Ok(reply) = client.read() {
        replies.push(reply);
    }
    thread.join().unwrap()?;
    ensure!(client.is_closed_within(Duration::from_secs(10)), "the connection stays open");
    Ok(replies)
}

#[test]
fn a_half_closed_client_gets_its_replies() -> Result<()> {
    let scene = Scene::two()?;
    for count in [1, 100, 30_000] {
        for server in &scene.servers {
            server.forget()?;
        }
        let commands: Vec<u8> =
            (0..count).flat_map(|i| encode(&["INCR", if i % 2 == 0 { "n" } else { "b:n" }])).collect();
        let replies = say(scene.client()?, &commands)?;
        ensure!(replies.len() == count, "{} replies to {count} commands", replies.len());
        for (i, reply) in replies.iter().enumerate() {
            ensure!(*reply == Reply::Integer(i as i64 / 2 + 1), "reply {i} is {reply:?}");
        }
    }
    // More than fits anywhere, and half a command at the end.
    let value = "x".repeat(1_000_000);
    scene.client()?.ok(&["SET", "large", &value])?;
    let commands = [encode(&["GET", "large"]).repeat(50), b"*2\r\n$3\r\nGET\r\n".to_vec()].concat();
    ensure!(say(scene.client()?, &commands)? == vec![Reply::bulk(&value); 50]);
    let lines = b"PING\r\nMULTI\r\nINCR x\r\nEXEC\r\nRPUSH l a\r\nBLPOP l 0\r\nSUBSCRIBE c\r\n";
    let replies = say(scene.client()?, lines)?;
    ensure!(replies.len() == 7 && replies[5] == Reply::bulks(&["l", "a"]), "{replies:?}");
    ensure!(say(scene.client()?, b"")?.is_empty());
    scene.wait_for("end of all connections", |scene| Ok(scene.clients()? == 0))
}

#[test]
fn who_waits_and_has_said_its_last_takes_nothing() -> Result<()> {
    let scene = Scene::one()?;
    let blocked = || anyhow::Ok(info_field(&scene.servers[0].info("clients")?, "blocked_clients") == Some("1"));
    let mut client = scene.client()?;
    client.write(b"BLPOP list 0\r\nGET k\r\n")?;
    scene.wait_for("one that waits", |_| blocked())?;
    client.finish()?;
    scene.wait_for("nobody waits", |_| Ok(!blocked()?))?;
    ensure!(client.is_closed_within(Duration::from_secs(10)));
    let mut other = scene.client()?;
    other.ok(&["RPUSH", "list", "x"])?;
    ensure!(other.line("LLEN list")? == Reply::Integer(1));
    Ok(())
}

/// A client that waits has sent more than Envoy reads of it, and goes. What somebody pushes then is
/// for others.
fn who_waits_behind_much_that_it_has_sent_takes_nothing(go: impl Fn(&Client) -> Result<()>) -> Result<()> {
    let scene = Scene::one()?;
    let blocked = || anyhow::Ok(info_field(&scene.servers[0].info("clients")?, "blocked_clients") == Some("1"));
    let mut client = scene.client()?;
    client.write(b"BLPOP list 0\r\n")?;
    client.write(&encode(&["SET", "k", &"v".repeat(1000)]).repeat(200))?;
    scene.wait_for("one that waits", |_| blocked())?;
    go(&client)?;
    drop(client);
    scene.wait_for("nobody waits", |_| Ok(!blocked()?))?;
    let mut other = scene.client()?;
    other.ok(&["RPUSH", "list", "x"])?;
    ensure!(other.line("LLEN list")? == Reply::Integer(1));
    Ok(())
}

#[test]
fn who_waits_behind_much_that_it_has_sent_and_closes_takes_nothing() -> Result<()> {
    who_waits_behind_much_that_it_has_sent_takes_nothing(Client::finish)
}

#[test]
fn who_waits_behind_much_that_it_has_sent_and_is_reset_takes_nothing() -> Result<()> {
    who_waits_behind_much_that_it_has_sent_takes_nothing(|client| {
        redis_mesh_tests::relay::linger(client.stream());
        Ok(())
    })
}

#[test]
fn what_a_client_has_sent_behind_a_command_that_waits_is_executed_when_that_ends() -> Result<()> {
    let scene = Scene::one()?;
    let mut client = scene.client()?;
    client.write(b"BLPOP list 0\r\n")?;
    client.write(&encode(&["APPEND", "k", &"v".repeat(1000)]).repeat(200))?;
    // Meanwhile it is looked several times whether the client is still there.
    std::thread::sleep(Duration::from_secs(4));
    let mut other = scene.client()?;
    other.ok(&["RPUSH", "list", "x"])?;
    ensure!(client.read()? == Reply::Array(vec![Reply::bulk("list"), Reply::bulk("x")]));
    for n in 1..=200 {
        ensure!(client.read()? == Reply::Integer(n * 1000), "{n}");
    }
    client.finish()?;
    ensure!(client.is_closed_within(Duration::from_secs(10)));
    Ok(())
}
