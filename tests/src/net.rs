//! Free ports and loopback subnets.

use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};

use anyhow::{Context, Result, bail};

/// A port on 127.0.0.1 that is free now. Somebody else may take it before it is used; where many addresses with a
/// fixed port are wanted, take a [`Subnet`].
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// Whether an address can be listened on.
pub fn is_free(addr: SocketAddr) -> bool {
    TcpListener::bind(addr).is_ok()
}

/// 256 loopback addresses, `127.A.B.0/24`, that no other test process of this machine uses. Linux answers on all of
/// 127/8, so every service and node of a test gets an address of its own and the port 6379, as in a mesh.
#[derive(Debug)]
pub struct Subnet {
    a: u8,
    b: u8,
    _lock: File,
}

impl Subnet {
    /// A subnet that nobody has claimed.
    pub fn claim() -> Result<Subnet> {
        for attempt in 0..1000u32 {
            let random = RandomState::new().hash_one((std::process::id(), attempt));
            // The first sixteen of each stay free for people: 127.0.0 and 127.0.1 are in the examples.
            let (a, b) = (16 + (random % 224) as u8, 16 + ((random >> 16) % 224) as u8);
            if let Some(subnet) = Subnet::try_claim(a, b)? {
                return Ok(subnet);
            }
        }
        bail!("no free loopback subnet")
    }

    /// The subnet `127.a.b.0/24`, if no other process has claimed it.
    pub fn try_claim(a: u8, b: u8) -> Result<Option<Subnet>> {
        // SAFETY: getuid has no preconditions and cannot fail.
        let uid = unsafe { libc::getuid() };
        let dir = std::env::temp_dir().join(format!("redis-mesh-testbed-{uid}"));
        std::fs::create_dir_all(&dir).with_context(|| format!("can't create {}", dir.display()))?;
        let file = File::create(dir.join(format!("127.{a}.{b}.lock")))?;
        let subnet = Subnet { a, b, _lock: file };
        let taken = subnet._lock.try_lock().is_err() || !is_free(SocketAddr::new(subnet.ip(1), 6379));
        Ok((!taken).then_some(subnet))
    }

    /// `127.A.B.`, as a prefix of addresses.
    pub fn prefix(&self) -> String {
        format!("127.{}.{}.", self.a, self.b)
    }

    /// The address with this last number.
    pub fn ip(&self, host: u8) -> IpAddr {
        Ipv4Addr::new(127, self.a, self.b, host).into()
    }

    /// The address with this last number and Redis's port.
    pub fn redis(&self, host: u8) -> SocketAddr {
        SocketAddr::new(self.ip(host), 6379)
    }
}
