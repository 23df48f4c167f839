//! What a connection costs that does nothing.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use redis_mesh_core::wire::{DataPath, KeyMatch};
use redis_mesh_tests::client::Client;
use redis_mesh_tests::envoy::Envoy;
use redis_mesh_tests::net;
use redis_mesh_tests::redis::Redis;

use crate::envoy_config::{cluster, envoy, filter, filter_config, redis_proxy};
use crate::options::Options;

const CONNECTIONS: usize = 10_000;
/// File descriptors that aren't connections of the measurement.
const OTHERS: usize = 1_000;

/// What was measured.
#[derive(Debug)]
pub struct Idle {
    /// Connections.
    pub connections: usize,
    /// The same without the filter, with it, and with it and HELLO 3.
    pub rows: Vec<Row>,
}

/// One Envoy.
#[derive(Debug)]
pub struct Row {
    /// Its name.
    pub name: &'static str,
    /// Bytes for each connection by Envoy's allocator (`/memory`, which doesn't know the memory of the filter's VM).
    pub allocated: f64,
    /// Bytes for each connection by resident memory.
    pub resident: f64,
}

/// Opens connections that each do one PING.
pub fn measure(options: &Options, redis: &Redis, file: &Path) -> Result<Idle> {
    let wanted = if options.quick { CONNECTIONS / 20 } else { CONNECTIONS };
    let connections = wanted.min(raise_descriptors()?.saturating_sub(OTHERS));
    let config = filter_config(DataPath::Proxy, &[None], vec![(KeyMatch::Any, 0)]);
    let clusters = [cluster("redis", Some(redis.addr()))];
    let alone = vec![redis_proxy(&[], Some("redis"), false)];
    let filtered = vec![filter(file, &config), redis_proxy(&[], Some("redis"), true)];
    let mut rows = Vec::new();
    for (name, resp3, chain) in [
        ("redis_proxy", false, &alone),
        ("filter + redis_proxy, RESP2", false, &filtered),
        ("filter + redis_proxy, RESP3", true, &filtered),
    ] {
        options.progress(&format!("{connections} idle connections: {name}"));
        let at = SocketAddr::new([127, 0, 0, 1].into(), net::free_port()?);
        let running = Envoy::start(&envoy(at, chain, &clusters))?;
        // What the first connections bring with them is no cost of the others.
        let first = open(at, CONNECTIONS / 200, resp3)?;
        let before = memory(&running)?;
        let idle = open(at, connections, resp3)?;
        let after = memory(&running)?;
        drop((first, idle));
        let each = |before: u64, after: u64| (after as f64 - before as f64) / connections as f64;
        rows.push(Row { name, allocated: each(before.0, after.0), resident: each(before.1, after.1) });
    }
    Ok(Idle { connections, rows })
}

fn open(at: SocketAddr, connections: usize, resp3: bool) -> Result<Vec<Idler>> {
    (0..connections).map(|i| Idler::open(at, resp3).with_context(|| format!("idle connection {i}"))).collect()
}

/// Allocated and resident bytes when all is quiet.
fn memory(envoy: &Envoy) -> Result<(u64, u64)> {
    std::thread::sleep(Duration::from_secs(1));
    Ok((envoy.allocated()?, envoy.process().resident_memory()?))
}

/// An open connection. A [`Client`] holds its socket twice.
#[derive(Debug)]
struct Idler {
    _stream: std::net::TcpStream,
}

impl Idler {
    fn open(at: SocketAddr, resp3: bool) -> Result<Idler> {
        let mut client = Client::connect(at)?;
        if resp3 {
            client.ok(&["HELLO", "3"])?;
        }
        client.ok(&["PING"])?;
        Ok(Idler { _stream: client.stream().try_clone()? })
    }
}

/// Raises the limit of open files to what is permitted, for this process and those that it starts; the limit.
fn raise_descriptors() -> Result<usize> {
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
