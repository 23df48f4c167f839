//! Clients that keep sending and never read.

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use redis_mesh_tests::client::encode;
use redis_mesh_tests::reply::Reply;

use crate::scene::*;

/// The number of bytes that a client tries to send.
const FLOOD: usize = 16 * 1024 * 1024;
/// The number of bytes that Envoy may hold for the client: besides socket buffers, the commands
/// with outstanding replies.
const MAY_HOLD: u64 = 8 * 1024 * 1024;

/// Sends whole commands until nothing is taken any more, for a second; returns how many were sent,
/// and what is left of the last.
fn flood(stream: &mut std::net::TcpStream, command: &[u8]) -> Result<(usize, Vec<u8>)> {
    let many = command.repeat(64 * 1024 / command.len() + 1);
    stream.set_nonblocking(true)?;
    let (mut sent, mut stuck) = (0, Instant::now());
    while sent < FLOOD && stuck.elapsed() < Duration::from_secs(1) {
        match stream.write(&many[sent % many.len()..]) {
            Ok(n) => {
                sent += n;
                stuck = Instant::now();
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                std::thread::sleep(Duration::from_millis(5))
            }
            Err(error) => return Err(error.into()),
        }
    }
    stream.set_nonblocking(false)?;
    let rest = (command.len() - sent % command.len()) % command.len();
    Ok(((sent + rest) / command.len(), command[command.len() - rest..].to_vec()))
}

#[test]
fn refusals_that_nobody_reads_cost_a_bounded_amount() -> Result<()> {
    let scene = scene()?;
    for (at, command, refusal) in [
        (LOGIN_DIRECT, vec!["CONFIG", "GET", "requirepass"], "NOPERM"),
        (ASK_DIRECT, vec!["GET", "k"], "NOAUTH"),
        (MIXED_DIRECT, vec!["STRLEN", "a:1"], "Fault Injected"),
    ] {
        let mut client = scene.client(at)?;
        ensure!(client.cmd(&command)?.text().starts_with(refusal), "{at}");
        let before = scene.envoy.allocated()?;
        let command = encode(&command);
        let (commands, rest) = flood(&mut client.stream().try_clone()?, &command)?;
        let grown = scene.envoy.allocated()?.saturating_sub(before);
        println!("{at}: {commands} commands, {grown} bytes more");
        ensure!(grown < MAY_HOLD, "{at}: {grown} bytes for {commands} commands");
        // Somebody else is served.
        ensure!(scene.client(DIRECT)?.line("set other 1")? == Reply::ok());
        // And when it reads at last, every answer is there.
        let mut writer = client.stream().try_clone()?;
        let finisher = std::thread::spawn(move || writer.write_all(&rest));
        for n in 0..commands {
            let reply = client.read()?;
            ensure!(reply.text().starts_with(refusal), "{at}: reply {n} of {commands}: {reply:?}");
        }
        ensure!(finisher.join().is_ok_and(|result| result.is_ok()));
        ensure!(client.cmd(&["ECHO", "x"])?.tty() != "", "{at}");
    }
    scene.check_alive()
}

#[test]
fn a_command_without_end_costs_a_bounded_amount() -> Result<()> {
    let scene = scene()?;
    // The head of a command whose every key decides where it goes, and an endless supply of keys.
    let mut client = scene.client(SEVERAL)?;
    let before = scene.envoy.allocated()?;
    client.write(b"*1000001\r\n$3\r\nDEL\r\n")?;
    let key = format!("$1000\r\n{}\r\n", "k".repeat(1000)).into_bytes();
    client.set_patience(Duration::from_secs(5))?;
    // Until it is cut off: the connection is closed, or nobody reads any more.
    let sent = (0..100_000).take_while(|_| client.write(&key).is_ok()).count();
    let error = client.read()?;
    assert_eq!(error.text(), "ERR Protocol error: too big a command whose keys decide where it goes");
    let grown = scene.envoy.allocated()?.saturating_sub(before);
    println!("{sent} keys taken, {grown} bytes more");
    ensure!(scene.client(SEVERAL)?.line("set other 1")? == Reply::ok());
    scene.check_alive()
}
