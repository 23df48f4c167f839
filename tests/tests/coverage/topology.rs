//! What stands between a client and the servers.

use std::net::SocketAddr;

use anyhow::Result;
use redis_mesh_core::wire::{KeyMatch, Route};
use redis_mesh_tests::envoy::Envoy;
use redis_mesh_tests::listener::{self, Config, RedisProxy, route, tcp_proxy, wasm};
use redis_mesh_tests::native;
use serde_json::Value;

/// A way to servers.
#[derive(Debug)]
pub struct Topology {
    pub name: &'static str,
    /// How many servers are behind it.
    pub servers: usize,
    /// What keys begin with at a client, and not at a server.
    pub removed: &'static str,
    /// Whether a client may say HELLO 3.
    pub has_resp3: bool,
    /// Whether what would do harm is refused.
    pub refuses_harm: bool,
    /// Whether what a client does to its connection is never seen by another.
    pub keeps_clients_apart: bool,
    /// The filters of a listener before these clusters.
    filters: fn(name: &str, clusters: &[String]) -> Result<Vec<Value>>,
    is_native: bool,
}

/// The wasm filter before tcp_proxy.
pub const DIRECT: Topology = Topology {
    name: "direct",
    servers: 1,
    removed: "",
    has_resp3: true,
    refuses_harm: false,
    keeps_clients_apart: true,
    filters: |name, clusters| {
        Ok(vec![wasm(&listener::config(name, 1, listener::direct(name)))?, tcp_proxy(&clusters[0])])
    },
    is_native: false,
};

/// The wasm filter before redis_proxy.
pub const PROXY: Topology = Topology {
    name: "proxy",
    servers: 1,
    removed: "",
    has_resp3: true,
    refuses_harm: true,
    keeps_clients_apart: true,
    filters: |name, clusters| {
        let redis_proxy = RedisProxy::new(name).password("handshake").catch_all(&clusters[0]);
        Ok(vec![wasm(&listener::config(name, 1, listener::proxy(name, "handshake")))?, redis_proxy.filter()])
    },
    is_native: false,
};

/// Envoy's redis_proxy alone.
pub const REDIS_PROXY: Topology = Topology {
    name: "redis_proxy",
    servers: 1,
    removed: "",
    has_resp3: false,
    refuses_harm: true,
    keeps_clients_apart: false,
    filters: |name, clusters| Ok(vec![RedisProxy::new(name).catch_all(&clusters[0]).filter()]),
    is_native: false,
};

/// The module with one destination.
pub const NATIVE: Topology = Topology {
    name: "native",
    servers: 1,
    removed: "",
    has_resp3: true,
    refuses_harm: true,
    keeps_clients_apart: true,
    filters: |name, clusters| {
        let host = native::host(&[&clusters[0]], vec![route(KeyMatch::Any, 0)]);
        Ok(vec![native::proxy(&listener::config(name, 1, host))?])
    },
    is_native: true,
};

/// The module with several destinations: keys with `a:`, keys with `b:`, and all others.
pub const SEVERAL: Topology = Topology {
    name: "native-several",
    servers: 3,
    removed: "",
    has_resp3: true,
    refuses_harm: true,
    keeps_clients_apart: true,
    filters: |name, clusters| {
        let destinations: Vec<&str> = clusters.iter().map(String::as_str).collect();
        let prefix = |prefix: &str, target| route(KeyMatch::Prefix(prefix.to_owned()), target);
        let host = native::host(&destinations, vec![prefix("a:", 0), prefix("b:", 1), route(KeyMatch::Any, 2)]);
        Ok(vec![native::proxy(&listener::config(name, 1, host))?])
    },
    is_native: true,
};

/// The module with one destination, and a prefix that it takes off.
pub const STRIP: Topology = Topology {
    name: "native-strip",
    servers: 1,
    removed: "r:",
    has_resp3: true,
    refuses_harm: true,
    keeps_clients_apart: true,
    filters: |name, clusters| {
        let stripped = Route { remove_prefix: true, ..route(KeyMatch::Prefix("r:".into()), 0) };
        let host = native::host(&[&clusters[0]], vec![stripped, route(KeyMatch::Any, 0)]);
        Ok(vec![native::proxy(&listener::config(name, 1, host))?])
    },
    is_native: true,
};

/// Those with one destination, in the order of the page.
pub const ONE: [&Topology; 4] = [&DIRECT, &PROXY, &NATIVE, &REDIS_PROXY];

/// The servers of a lane and where clients reach them.
#[derive(Debug)]
pub struct Place {
    pub name: String,
    pub listens: SocketAddr,
    pub servers: Vec<SocketAddr>,
}

impl Topology {
    /// The server that has a key.
    pub fn owner(&self, key: &[u8]) -> usize {
        match key {
            _ if self.servers == 1 => 0,
            [b'a', b':', ..] => 0,
            [b'b', b':', ..] => 1,
            _ => 2,
        }
    }

    /// The server that is asked directly: with several, that of the keys that go one way.
    pub fn reference(&self) -> usize {
        usize::from(self.servers > 1)
    }

    /// The name of a key; `number` may be `*`.
    pub fn key(&self, number: &str, is_crossing: bool) -> String {
        match (self.servers, number) {
            (1, _) => format!("{}k{number}", self.removed),
            (_, "1") if is_crossing => "a:k1".to_owned(),
            _ => format!("b:k{number}"),
        }
    }

    /// Starts an Envoy that has all these places.
    pub fn start(&self, places: &[Place]) -> Result<Envoy> {
        let mut config = Config::new();
        for place in places {
            let names: Vec<String> = (0..place.servers.len()).map(|i| format!("{}-{i}", place.name)).collect();
            let clusters: Vec<String> = names.iter().map(|name| format!("{name}.test:6379")).collect();
            let given = if self.is_native { &names } else { &clusters };
            config = config.listener(&place.name, place.listens, (self.filters)(&place.name, given)?);
            for (cluster, server) in clusters.iter().zip(&place.servers) {
                config = config.cluster(cluster, &[*server]);
            }
        }
        if self.is_native { native::start(&config, 1) } else { config.start() }
    }
}
