//! What runs between clients and Redis: a proxy with a process of its own, or nothing.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use redis_mesh_tests::envoy::Envoy;
use redis_mesh_tests::process::Process;

/// The process.
#[derive(Debug)]
enum Proxy {
    Envoy(Box<Envoy>),
    Other(Process),
}

/// A running proxy; without one, clients speak to Redis itself.
#[derive(Debug)]
pub struct Running {
    /// Where clients connect.
    pub addr: SocketAddr,
    proxy: Option<Proxy>,
}

impl Running {
    /// An Envoy that listens here.
    pub fn envoy(addr: SocketAddr, envoy: Envoy) -> Running {
        Running { addr, proxy: Some(Proxy::Envoy(Box::new(envoy))) }
    }

    /// Another proxy that listens here.
    pub fn process(addr: SocketAddr, process: Process) -> Running {
        Running { addr, proxy: Some(Proxy::Other(process)) }
    }

    /// A server that is spoken to without a proxy.
    pub fn nothing(server: SocketAddr) -> Running {
        Running { addr: server, proxy: None }
    }

    /// The proxy's process.
    pub fn proxy(&self) -> Option<&Process> {
        match self.proxy.as_ref()? {
            Proxy::Envoy(envoy) => Some(envoy.process()),
            Proxy::Other(process) => Some(process),
        }
    }

    /// The CPU time of the proxy's process so far.
    pub fn cpu_time_at_rest(&self) -> Result<Option<Duration>> {
        // The kernel brings a thread's count up to date when it goes to sleep.
        std::thread::sleep(Duration::from_millis(3));
        self.proxy().map(Process::cpu_time_fine).transpose()
    }

    /// Resident memory of the proxy's process, in bytes; 0 without one.
    pub fn resident(&self) -> Result<u64> {
        self.proxy().map_or(Ok(0), Process::resident_memory)
    }

    /// Bytes that Envoy's allocator has given out; other proxies don't tell.
    pub fn allocated(&self) -> Result<Option<u64>> {
        match &self.proxy {
            Some(Proxy::Envoy(envoy)) => Ok(Some(envoy.allocated()?)),
            _ => Ok(None),
        }
    }
}
