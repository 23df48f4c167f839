//! The memory of idle connections.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use redis_mesh_tests::redis::Redis;

use crate::kind::{Artefacts, Behind, Kind};
use crate::options::Options;
use crate::running::Running;
use crate::socket::Socket;

const CONNECTIONS: usize = 10_000;
/// The number of file descriptors that are needed besides the connections.
const OTHERS: usize = 1_000;
/// The measured paths. The others are compared with the first, `redis_proxy`. `tcp_proxy` would
/// need a connection to Redis for each client.
const KINDS: [Kind; 5] = [Kind::RedisProxy, Kind::Native, Kind::Twemproxy, Kind::FilterRedis, Kind::FilterRedis3];

/// The results.
#[derive(Debug)]
pub struct Idle {
    /// The number of connections.
    pub connections: usize,
    /// The paths.
    pub rows: Vec<Row>,
}

/// The results of one path.
#[derive(Debug)]
pub struct Row {
    /// The path.
    pub kind: Kind,
    /// Bytes for each connection by Envoy's allocator (`/memory`, which doesn't count the memory
    /// of a wasm VM or a module).
    pub allocated: Option<f64>,
    /// Bytes for each connection by resident memory.
    pub resident: f64,
}

/// Opens connections, each of which sends one PING.
pub fn measure(options: &Options, redis: &Redis, file: &Path) -> Result<Idle> {
    let wanted = if options.quick { CONNECTIONS / 20 } else { CONNECTIONS };
    let connections = wanted.min(raise_descriptors()?.saturating_sub(OTHERS));
    let mut rows = Vec::new();
    for kind in KINDS.into_iter().filter(|kind| kind.is_there()) {
        options.progress(&format!("{connections} idle connections: {}", kind.name()));
        let running = kind.start(&Artefacts::of_filter(file), Behind::Server, &[redis.addr()])?;
        // What the first connections bring with them is no cost of the others.
        let first = open(running.addr, CONNECTIONS / 200, kind.resp3())?;
        let before = memory(options, &running)?;
        let idle = open(running.addr, connections, kind.resp3())?;
        let after = memory(options, &running)?;
        drop((first, idle));
        let each = |before: u64, after: u64| (after as f64 - before as f64) / connections as f64;
        let allocated = before.0.zip(after.0).map(|(before, after)| each(before, after));
        rows.push(Row { kind, allocated, resident: each(before.1, after.1) });
    }
    Ok(Idle { connections, rows })
}

impl Idle {
    /// Returns the row of a path.
    pub fn row(&self, kind: Kind) -> Option<&Row> {
        self.rows.iter().find(|row| row.kind == kind)
    }
}

fn open(at: SocketAddr, connections: usize, resp3: bool) -> Result<Vec<Socket>> {
    (0..connections).map(|i| Socket::connect(at, resp3).with_context(|| format!("idle connection {i}"))).collect()
}

/// Returns the allocated and resident bytes when the process is idle.
fn memory(options: &Options, running: &Running) -> Result<(Option<u64>, u64)> {
    std::thread::sleep(Duration::from_millis(if options.quick { 200 } else { 1000 }));
    Ok((running.allocated()?, running.resident()?))
}

/// Raises the limit of open files to the permitted maximum, for this process and its children.
/// Returns the limit.
pub fn raise_descriptors() -> Result<usize> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointers are valid for the calls.
    let done = unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) == 0 && {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &limit) == 0
        }
    };
    if !done {
        return Err(std::io::Error::last_os_error()).context("the limit of open files");
    }
    Ok(usize::try_from(limit.rlim_cur).unwrap_or(usize::MAX))
}
