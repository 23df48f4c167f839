//! Memory that a proxy uses for a client that doesn't read and for a Redis that is stopped.

use std::io::{ErrorKind, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use redis_mesh_tests::client::{Client, encode, info_field};
use redis_mesh_tests::redis::Redis;
use redis_mesh_tests::reply::Reply;

use crate::kind::{Artefacts, Behind, Kind};
use crate::options::Options;
use crate::running::Running;

/// The size in bytes of a reply that isn't read.
pub const LARGE: usize = 1 << 20;
/// The size in bytes of a value that is sent to a stopped Redis.
pub const SENT: usize = 100 << 10;
/// The goal for both, in MB.
pub const GOAL: f64 = 30.0;

const KINDS: [Kind; 5] = [Kind::TcpProxy, Kind::RedisProxy, Kind::Native, Kind::Twemproxy, Kind::FilterRedis];
const TICK: Duration = Duration::from_millis(20);

/// The results.
#[derive(Debug)]
pub struct Memory {
    /// The number of GETs of [`LARGE`] bytes whose replies weren't read.
    pub gets: usize,
    /// The number of SETs of [`SENT`] bytes to the stopped Redis.
    pub sets: usize,
    /// The paths.
    pub rows: Vec<Row>,
}

/// The results of one path.
#[derive(Debug)]
pub struct Row {
    /// The path.
    pub kind: Kind,
    /// The highest growth of resident memory in bytes while the client didn't read.
    pub unread: u64,
    /// The highest growth of resident memory in bytes while Redis was stopped.
    pub stopped: u64,
    /// The number of bytes that the proxy accepted for the stopped Redis.
    pub taken: u64,
}

/// Measures each path with a proxy of its own. The Redis is one of this part, because it is
/// stopped.
pub fn measure(options: &Options, filter_file: &Path) -> Result<Memory> {
    let (gets, sets) = if options.quick { (50, 500) } else { (1000, 10_486) };
    // Without progress for so long, nothing more comes.
    let still = Duration::from_millis(if options.quick { 300 } else { 1500 });
    let redis = Redis::start()?;
    redis.cmd(&[b"SET".as_slice(), b"large", &vec![b'x'; LARGE]])?;
    let mut rows = Vec::new();
    for kind in KINDS.into_iter().filter(|kind| kind.is_there()) {
        let start = || -> Result<Running> {
            let running = kind.start(&Artefacts::of_filter(filter_file), Behind::Server, &[redis.addr()])?;
            // What the first command and the first large value bring with them is no cost of the
            // others.
            ensure!(Client::connect(running.addr)?.ok(&["GET", "large"])?.text().len() == LARGE, "GET large");
            std::thread::sleep(Duration::from_millis(200));
            Ok(running)
        };
        options.progress(&format!("memory: {gets} unread replies: {}", kind.name()));
        let unread = unread(&start()?, &redis, gets, still).with_context(|| kind.name())?;
        options.progress(&format!("memory: {sets} SETs to a Redis that stands still: {}", kind.name()));
        let running = start()?;
        redis.pause()?;
        let found = stopped(&running, sets, still);
        drop(running);
        redis.resume()?;
        let (stopped, taken) = found.with_context(|| kind.name())?;
        rows.push(Row { kind, unread, stopped, taken });
    }
    Ok(Memory { gets, sets, rows })
}

/// Returns the growth of memory until Redis has sent everything; then all replies are read and
/// checked.
fn unread(running: &Running, redis: &Redis, gets: usize, still: Duration) -> Result<u64> {
    let mut client = Client::connect(running.addr)?;
    let idle = running.resident()?;
    client.write(&encode(&["GET", "large"]).repeat(gets))?;
    let grown = growth(running, idle, still, || {
        let stats = redis.info("stats")?;
        let sent = info_field(&stats, "total_net_output_bytes").and_then(|n| n.parse::<u64>().ok());
        // By megabytes: INFO's own reply counts too.
        Ok(sent.context("Redis doesn't count what it sends")? >> 20)
    })?;
    let value = Reply::bulk(vec![b'x'; LARGE]);
    for i in 0..gets {
        ensure!(client.read()? == value, "reply {i} is wrong");
    }
    Ok(grown)
}

/// Returns the growth of memory until the proxy accepts no more, and the number of bytes that it
/// has accepted.
fn stopped(running: &Running, sets: usize, still: Duration) -> Result<(u64, u64)> {
    let client = Client::connect(running.addr)?;
    let mut stream = client.stream();
    let idle = running.resident()?;
    stream.set_nonblocking(true)?;
    let command = encode(&[b"SET".as_slice(), b"stopped", &vec![b'x'; SENT]]);
    let total = command.len() * sets;
    let mut taken = 0;
    let grown = growth(running, idle, still, || {
        while taken < total {
            match stream.write(&command[taken % command.len()..]) {
                Ok(n) => taken += n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(taken as u64)
    })?;
    Ok((grown, taken as u64))
}

/// Returns the highest growth of resident memory until `progress` stays the same.
fn growth(running: &Running, idle: u64, still: Duration, mut progress: impl FnMut() -> Result<u64>) -> Result<u64> {
    let (mut most, mut last, mut since) = (0, 0, Instant::now());
    while since.elapsed() < still {
        let now = progress()?;
        if now != last {
            (last, since) = (now, Instant::now());
        }
        most = most.max(running.resident()?.saturating_sub(idle));
        std::thread::sleep(TICK);
    }
    Ok(most)
}

impl Memory {
    /// Returns the row of a path.
    pub fn row(&self, kind: Kind) -> Option<&Row> {
        self.rows.iter().find(|row| row.kind == kind)
    }
}
