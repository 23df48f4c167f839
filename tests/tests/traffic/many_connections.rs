//! A thousand clients at once on each path.

use std::io::{BufReader, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use redis_mesh_tests::client::{PATIENCE, encode};
use redis_mesh_tests::reply::Reply;

use crate::{PATHS, mesh, mib};

const CLIENTS: usize = 1_000;
const THREADS: usize = 4;
const ROUNDS: usize = 5;

#[test]
fn a_thousand_connections_on_each_path() -> Result<()> {
    let mesh = mesh()?;
    let _server = mesh.server_of("many")?;
    let begun = Instant::now();
    // Everybody is connected before anybody leaves.
    let meeting = std::sync::Barrier::new(THREADS * PATHS.len() + 1);
    std::thread::scope(|scope| -> Result<()> {
        let mut threads = Vec::new();
        for path in PATHS {
            for thread in 0..THREADS {
                let meeting = &meeting;
                threads.push(scope.spawn(move || -> Result<()> {
                    let clients = connect(path, thread);
                    meeting.wait();
                    meeting.wait();
                    converse(path, clients?)
                }));
            }
        }
        meeting.wait();
        let counted = PATHS.map(|path| mesh.connected(mesh.address("many", path)?));
        meeting.wait();
        for thread in threads {
            thread.join().map_err(|_| anyhow!("a thread panicked"))??;
        }
        for (path, counted) in PATHS.iter().zip(counted) {
            let counted = counted?;
            ensure!(counted >= CLIENTS as u64, "{path}: {counted} connections");
        }
        Ok(())
    })?;
    println!(
        "{CLIENTS} connections on each path, {ROUNDS} rounds of 5 commands each: {:.2?}; Envoy's peak memory {}",
        begun.elapsed(),
        mib(mesh.envoy.process().peak_memory()?)
    );
    Ok(())
}

/// One socket each, so that a usual limit of open files is enough.
fn connect(path: &str, thread: usize) -> Result<Vec<(usize, BufReader<TcpStream>)>> {
    let address = mesh()?.address("many", path)?;
    (0..CLIENTS / THREADS)
        .map(|i| {
            let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(Duration::from_secs(60)))?;
            // The first reply shows that the connection is through.
            let mut client = BufReader::with_capacity(512, stream);
            client.get_mut().write_all(&encode(&["PING"]))?;
            let pong = Reply::read(&mut client)?;
            ensure!(pong == Reply::Status(b"PONG".to_vec()), "{path}: {pong:?}");
            Ok((thread * CLIENTS + i, client))
        })
        .collect::<Result<_>>()
        .with_context(|| format!("{path}: connecting"))
}

fn converse(path: &str, mut clients: Vec<(usize, BufReader<TcpStream>)>) -> Result<()> {
    for round in 0..ROUNDS {
        for (id, client) in &mut clients {
            let (key, value) = (format!("{path}:{id}"), format!("{id}-{round}"));
            let commands: [&[&str]; 5] =
                [&["SET", &key, &value], &["GET", &key], &["APPEND", &key, "+"], &["GET", &key], &["DEL", &key]];
            let bytes: Vec<u8> = commands.iter().flat_map(|command| encode(command)).collect();
            client.get_mut().write_all(&bytes)?;
        }
        for (id, client) in &mut clients {
            let value = format!("{id}-{round}");
            let expected = [
                Reply::ok(),
                Reply::bulk(&value),
                Reply::Integer(value.len() as i64 + 1),
                Reply::bulk(format!("{value}+")),
                Reply::Integer(1),
            ];
            for expected in expected {
                let reply = Reply::read(client).with_context(|| format!("{path}: client {id}"))?;
                ensure!(reply == expected, "{path}: client {id}: {reply:?}, not {expected:?}");
            }
        }
    }
    Ok(())
}
