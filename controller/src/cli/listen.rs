//! The option `--listen`.

use std::collections::{BTreeMap, BTreeSet};

use crate::render::listen::ListenOverride;

/// Reads `HOST[:PORT]=ADDR:PORT`.
pub fn listen(text: &str) -> Result<ListenOverride, String> {
    let wrong = || "not HOST=ADDR:PORT, such as redis.example.com=127.0.0.1:6379".to_owned();
    let (host, address) = text.split_once('=').ok_or_else(wrong)?;
    let address = address.parse().map_err(|_| wrong())?;
    let (host, port) = match host.rsplit_once(':') {
        Some((host, port)) => (host, Some(port.parse::<u16>().map_err(|_| wrong())?)),
        None => (host, None),
    };
    if host.is_empty() {
        return Err(wrong());
    }
    Ok(ListenOverride { host: host.to_ascii_lowercase(), port, address })
}

/// The ports of hosts that are no Services, as the options name them.
pub fn ports(listen: &[ListenOverride]) -> BTreeMap<String, BTreeSet<u16>> {
    let mut ports: BTreeMap<String, BTreeSet<u16>> = BTreeMap::new();
    for listen in listen {
        if let Some(port) = listen.port {
            ports.entry(listen.host.clone()).or_default().insert(port);
        }
    }
    ports
}
