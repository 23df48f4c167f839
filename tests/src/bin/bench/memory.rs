//! How much a proxy keeps for others: for a client that doesn't read, and for a Redis that stands still.

use std::io::{ErrorKind, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use redis_mesh_tests::client::{Client, encode, info_field};
use redis_mesh_tests::redis::Redis;
use redis_mesh_tests::reply::Reply;

use crate::kind::{Behind, Kind};
use crate::options::Options;
use crate::running::Running;

/// Bytes of what is asked for and not read.
pub const LARGE: usize = 1 << 20;
/// Bytes of what is sent to a Redis that doesn't read.
pub const SENT: usize = 100 << 10;
/// The goal for both, in MB.
pub const GOAL: f64 = 30.0;

const KINDS: [Kind; 5] = [Kind::TcpProxy, Kind::RedisProxy, Kind::Native, Kind::Twemproxy, Kind::FilterRedis];
const TICK: Duration = Duration::from_millis(20);

/// What was measured.
#[derive(Debug)]
pub struct Memory {
    /// GETs of [`LARGE`] whose replies nobody read.
    pub gets: usize,
    /// SETs of [`SENT`] to the Redis that stood still.
    pub sets: usize,
    /// The ways.
    pub rows: Vec<Row>,
}

/// A way.
#[derive(Debug)]
pub struct Row {
    /// Which.
    pub kind: Kind,
    /// By how much resident memory grew at most while nobody read, in bytes.
    pub unread: u64,
    /// The same while Redis stood still.
    pub stopped: u64,
    /// How much it took of what was sent to the Redis that stood still, in bytes.
    pub taken: u64,
}

/// Measures each way with a proxy of its own and a Redis of this part's own, as it is stopped.
pub fn measure(options: &Options, filter_file: &Path) -> Result<Memory> {
    let (gets, sets) = if options.quick { (50, 500) } else { (1000, 10_486) };
    // Without progress for so long, nothing more comes.
    let still = Duration::from_millis(if options.quick { 300 } else { 1500 });
    let redis = Redis::start()?;
    redis.cmd(&[b"SET".as_slice(), b"large", &vec![b'x'; LARGE]])?;
    let mut rows = Vec::new();
    for kind in KINDS.into_iter().filter(|kind| kind.is_there()) {
        let start = || -> Result<Running> {
            let running = kind.start(filter_file, Behind::Server, &[redis.addr()])?;
            // What the first command and the first large value bring with them is no cost of the others.
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

/// The growth until Redis has nothing more to get rid of; then everything is read and must be right.
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

/// The growth until nothing more is taken; and how much was.
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

/// By how much resident memory has grown at most when what is told stays the same.
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
    /// A way's row.
    pub fn row(&self, kind: Kind) -> Option<&Row> {
        self.rows.iter().find(|row| row.kind == kind)
    }
}
