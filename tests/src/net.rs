//! Free ports and loopback subnets.

use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use anyhow::{Context, Result, bail};

/// The ports that servers of the tests listen on. They and those ten thousand above, on which nodes
/// of a Redis Cluster speak to each other, lie below the ports that Linux gives to connections
/// (`net.ipv4.ip_local_port_range`): a connection can't take one before its server does.
const PORTS: Range<u16> = 10_000..20_000;

/// Claims a port of 127.0.0.1 for this process until it ends. No other test process of this machine
/// is given it, and no second server of this one.
pub fn free_port() -> Result<u16> {
    claim_port(|port| is_free(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port)))
}

/// Like [`free_port`], for a node of a Redis Cluster: the port ten thousand above is free as well.
pub fn free_port_with_bus() -> Result<u16> {
    let free = |port| is_free(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port));
    claim_port(|port| free(port) && free(port + 10_000))
}

fn claim_port(free: impl Fn(u16) -> bool) -> Result<u16> {
    // The locks last as long as the files are open.
    static CLAIMED: Mutex<Vec<File>> = Mutex::new(Vec::new());
    let dir = locks()?;
    let first = RandomState::new().hash_one(std::process::id()) as u16 % PORTS.len() as u16;
    for port in PORTS.skip(first.into()).chain(PORTS) {
        let file = lock(&dir, &format!("port-{port}"))?;
        if let Some(file) = file
            && free(port)
        {
            CLAIMED.lock().unwrap_or_else(PoisonError::into_inner).push(file);
            return Ok(port);
        }
    }
    bail!("no port from {} to {} is free", PORTS.start, PORTS.end - 1)
}

/// Returns the directory of the locks that say what a test process has claimed.
fn locks() -> Result<PathBuf> {
    // SAFETY: getuid has no preconditions and cannot fail.
    let uid = unsafe { libc::getuid() };
    let dir = std::env::temp_dir().join(format!("redis-mesh-testbed-{uid}"));
    std::fs::create_dir_all(&dir).with_context(|| format!("can't create {}", dir.display()))?;
    Ok(dir)
}

/// Takes a lock for as long as the file is open; `None` if another one has it.
fn lock(dir: &Path, name: &str) -> Result<Option<File>> {
    let file = File::create(dir.join(format!("{name}.lock"))).with_context(|| format!("can't lock {name}"))?;
    Ok(file.try_lock().is_ok().then_some(file))
}

/// Whether an address can be listened on.
pub fn is_free(addr: SocketAddr) -> bool {
    TcpListener::bind(addr).is_ok()
}

/// The port on which the servers of a [`Subnet`] listen: Redis's own, or another one where
/// something on this machine listens on that port of all addresses.
pub fn redis_port() -> Result<u16> {
    static PORT: OnceLock<Option<u16>> = OnceLock::new();
    let probe = |port: u16| is_free(SocketAddr::new(Ipv4Addr::new(127, 15, 255, 254).into(), port));
    // Ten thousand above is the port on which cluster nodes speak to each other.
    let port = *PORT.get_or_init(|| (6379..6579).find(|&port| probe(port) && probe(port + 10_000)));
    port.context("no port from 6379 to 6578 is free on the loopback addresses")
}

/// 256 loopback addresses, `127.A.B.0/24`, that no other test process of this machine uses. Linux
/// answers on all of 127/8, so every service and node of a test gets an address of its own and the
/// same port, as in a mesh.
#[derive(Debug)]
pub struct Subnet {
    a: u8,
    b: u8,
    port: u16,
    _lock: File,
}

impl Subnet {
    /// Claims a subnet that no other process has claimed.
    pub fn claim() -> Result<Subnet> {
        for attempt in 0..1000u32 {
            let random = RandomState::new().hash_one((std::process::id(), attempt));
            // The first sixteen of each stay free for people: 127.0.0 and 127.0.1 are in the
            // examples.
            let (a, b) = (16 + (random % 224) as u8, 16 + ((random >> 16) % 224) as u8);
            if let Some(subnet) = Subnet::try_claim(a, b, &[1])? {
                return Ok(subnet);
            }
        }
        bail!("no free loopback subnet")
    }

    /// Claims the subnet `127.a.b.0/24` if no other process has claimed it and these addresses in
    /// it are free.
    pub fn try_claim(a: u8, b: u8, hosts: &[u8]) -> Result<Option<Subnet>> {
        let Some(lock) = lock(&locks()?, &format!("127.{a}.{b}"))? else { return Ok(None) };
        let subnet = Subnet { a, b, port: redis_port()?, _lock: lock };
        let free = |&host: &u8| is_free(subnet.redis(host));
        Ok(hosts.iter().all(free).then_some(subnet))
    }

    /// Returns `127.A.B.`, the prefix of the addresses.
    pub fn prefix(&self) -> String {
        format!("127.{}.{}.", self.a, self.b)
    }

    /// Returns the port of all servers in the subnet.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns the IP address with this last number.
    pub fn ip(&self, host: u8) -> IpAddr {
        Ipv4Addr::new(127, self.a, self.b, host).into()
    }

    /// Returns the socket address with this last number and [`Subnet::port`].
    pub fn redis(&self, host: u8) -> SocketAddr {
        SocketAddr::new(self.ip(host), self.port)
    }
}
