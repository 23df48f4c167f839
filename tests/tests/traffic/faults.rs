//! Injected faults: their rate, the commands that they hit, and clients that don't wait for a
//! delayed reply.

use std::net::Shutdown;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use redis_mesh_tests::process::wait_until;
use redis_mesh_tests::reply::Reply;

use crate::{PATHS, mesh, plausible};

pub const RULES: &str = "faults: [{type: ERROR, percentage: {value: 50}, commands: [GET]}, \
                         {type: DELAY, delay: 700ms, commands: [INCR]}]";
const DELAY: Duration = Duration::from_millis(700);

#[test]
fn errors_come_as_often_as_asked_and_delays_hold_up_one_client() -> Result<()> {
    let server = mesh()?.server_of("faults")?;
    for path in PATHS {
        server.forget()?;
        errors(&server, path)?;
        delays(path)?;
        clients_that_leave(path)?;
    }
    Ok(())
}

fn errors(server: &redis_mesh_tests::redis::Redis, path: &str) -> Result<()> {
    const COMMANDS: u64 = 3_000;
    let mut client = mesh()?.client("faults", path)?;
    client.ok(&["SET", "k", "v"])?;
    let mut faults = 0;
    for _ in 0..COMMANDS / 100 {
        // Each GET is between two others that no fault is for.
        let batch: Vec<Vec<String>> = (0..100)
            .flat_map(|i| {
                [
                    vec!["GET".to_string(), "k".into()],
                    vec!["STRLEN".into(), "k".into()],
                    vec!["ECHO".into(), i.to_string()],
                ]
            })
            .collect();
        for (i, replies) in client.pipeline(&batch)?.chunks(3).enumerate() {
            let fault = replies[0] == Reply::error("Fault Injected: Error");
            faults += u64::from(fault);
            ensure!(fault || replies[0] == Reply::bulk("v"), "{path}: {replies:?}");
            ensure!(replies[1] == Reply::Integer(1) && replies[2] == Reply::bulk(i.to_string()), "{path}: {replies:?}");
        }
    }
    println!("{path}: {faults} errors in {COMMANDS} GETs of which half are to fail");
    ensure!(plausible(faults, COMMANDS, 0.5), "{path}: {faults} errors in {COMMANDS}");
    let executed = server.calls("get")?;
    ensure!(executed == COMMANDS - faults, "{path}: {executed} GETs executed, {faults} of {COMMANDS} failed");
    Ok(())
}

fn delays(path: &str) -> Result<()> {
    let mesh = mesh()?;
    let (mut slow, mut quick) = (mesh.client("faults", path)?, mesh.client("faults", path)?);
    let begun = Instant::now();
    slow.write(
        &[
            redis_mesh_tests::client::encode(&["SET", "n", "41"]),
            redis_mesh_tests::client::encode(&["INCR", "n"]),
            redis_mesh_tests::client::encode(&["STRLEN", "n"]),
            // The beginning of another command.
            b"*2\r\n$6\r\nSTRL".to_vec(),
        ]
        .concat(),
    )?;
    let mut slowest = Duration::ZERO;
    let mut rounds = 0;
    while begun.elapsed() < DELAY / 2 {
        let asked = Instant::now();
        ensure!(quick.cmd(&["STRLEN", "n"])?.integer().is_some());
        slowest = slowest.max(asked.elapsed());
        rounds += 1;
    }
    ensure!(slow.read()? == Reply::ok());
    // What came behind the delayed command waits as well.
    ensure!(begun.elapsed() > DELAY || slow.read_within(Duration::from_millis(1))?.is_none(), "{path}: no delay");
    slow.write(b"EN\r\n$1\r\nn\r\n")?;
    let replies = [slow.read()?, slow.read()?, slow.read()?];
    let took = begun.elapsed();
    ensure!(replies == [Reply::Integer(42), Reply::Integer(2), Reply::Integer(2)], "{path}: {replies:?}");
    ensure!(took >= DELAY, "{path}: the delayed reply came after {took:?}");
    println!(
        "{path}: a delay of {DELAY:?} took {took:?}; meanwhile {rounds} commands of another client, slowest {slowest:?}"
    );
    ensure!(slowest < DELAY / 2, "{path}: somebody else's delay held up a client for {slowest:?}");
    Ok(())
}

fn clients_that_leave(path: &str) -> Result<()> {
    let mesh = mesh()?;
    let address = mesh.address("faults", path)?;
    let mut witness = mesh.client("faults", path)?;
    witness.ok(&["SET", "n", "0"])?;
    // In the middle of a delay: a close, a reset, and a client that says it will send no more.
    let mut leaving = mesh.client("faults", path)?;
    leaving.send(&["INCR", "n"])?;
    drop(leaving);
    let mut resetting = mesh.client("faults", path)?;
    resetting.send(&["INCR", "n"])?;
    // Unread data makes the kernel answer a close with a reset.
    resetting.send(&["PING"])?;
    resetting.stream().shutdown(Shutdown::Both)?;
    drop(resetting);
    let mut finished = mesh.client("faults", path)?;
    finished.send(&["INCR", "m"])?;
    finished.finish()?;
    let reply = finished.read_until_silent(Duration::from_secs(5))?;
    // On `proxy`, Envoy closes a connection whose client has half-closed it.
    ensure!(reply == b":1\r\n" || path == "proxy" && reply.is_empty(), "{path}: {}", reply.escape_ascii());
    wait_until("departure of the clients", Duration::from_secs(10), || mesh.connected(address).is_ok_and(|n| n == 1))?;
    // The witness was connected all the time: a filter that fails takes all connections with it.
    let executed = witness.cmd(&["INCR", "n"])?.integer();
    ensure!(executed.is_some_and(|n| (1..=3).contains(&n)), "{path}: {executed:?} of three INCR");
    Ok(())
}
