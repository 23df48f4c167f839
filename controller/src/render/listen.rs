//! Addresses that replace a Service's own.

use std::net::SocketAddr;

use crate::validate::host_port::HostPort;

/// `--listen HOST[:PORT]=ADDRESS:PORT`.
#[derive(Clone, Debug, PartialEq)]
pub struct ListenOverride {
    /// Host, in full or the beginning of its name up to a dot.
    pub host: String,
    /// Only this port of it.
    pub port: Option<u16>,
    /// The address to listen on.
    pub address: SocketAddr,
}

impl ListenOverride {
    /// True if it names this address, in full or by the beginning of its name.
    pub fn names(&self, address: &HostPort) -> bool {
        let rest = address.host.strip_prefix(&self.host);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            && self.port.is_none_or(|port| port == address.port)
    }
}
