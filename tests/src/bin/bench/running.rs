//! The process between clients and Redis: a proxy, or none.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use redis_mesh_tests::envoy::Envoy;
use redis_mesh_tests::process::Process;

/// The process of the proxy.
#[derive(Debug)]
enum Proxy {
    Envoy(Box<Envoy>),
    Other(Process),
}

/// A running proxy, or none, if clients connect to Redis itself.
#[derive(Debug)]
pub struct Running {
    /// The address to which clients connect.
    pub addr: SocketAddr,
    proxy: Option<Proxy>,
}

impl Running {
    /// Wraps an Envoy that listens at this address.
    pub fn envoy(addr: SocketAddr, envoy: Envoy) -> Running {
        Running { addr, proxy: Some(Proxy::Envoy(Box::new(envoy))) }
    }

    /// Wraps another proxy that listens at this address.
    pub fn process(addr: SocketAddr, process: Process) -> Running {
        Running { addr, proxy: Some(Proxy::Other(process)) }
    }

    /// Stands for a server that is reached without a proxy.
    pub fn nothing(server: SocketAddr) -> Running {
        Running { addr: server, proxy: None }
    }

    /// The process of the proxy, if there is one.
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

    /// The resident memory of the proxy's process in bytes, or 0 without a proxy.
    pub fn resident(&self) -> Result<u64> {
        self.proxy().map_or(Ok(0), Process::resident_memory)
    }

    /// The number of bytes that Envoy has allocated, or `None` for other proxies.
    pub fn allocated(&self) -> Result<Option<u64>> {
        match &self.proxy {
            Some(Proxy::Envoy(envoy)) => Ok(Some(envoy.allocated()?)),
            _ => Ok(None),
        }
    }
}
