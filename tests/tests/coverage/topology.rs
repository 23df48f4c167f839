//! The topologies between a client and the servers.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use redis_mesh_core::cluster::slot::slot;
use redis_mesh_core::wire::{KeyMatch, Route};
use redis_mesh_tests::cluster::shard_slots;
use redis_mesh_tests::envoy::Envoy;
use redis_mesh_tests::listener::{self, Config, RedisProxy, route, tcp_proxy, wasm};
use redis_mesh_tests::native;
use serde_json::{Value, json};

/// The servers behind a topology.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behind {
    One,
    /// Three servers, by what keys begin with: `a:`, `b:`, or anything else.
    Several,
    /// A Redis Cluster of three masters.
    Cluster,
}

impl Behind {
    /// The number of servers.
    pub fn servers(self) -> usize {
        match self {
            Behind::One => 1,
            Behind::Several | Behind::Cluster => 3,
        }
    }

    /// How many there are with those that are only asked directly.
    pub fn all_servers(self) -> usize {
        self.servers() + usize::from(self == Behind::Cluster)
    }

    /// The server that is asked directly: with several, that of the keys that go one way; a Redis
    /// Cluster is held against one that is none.
    pub fn reference(self) -> usize {
        match self {
            Behind::One => 0,
            Behind::Several => 1,
            Behind::Cluster => 3,
        }
    }

    /// The server that holds a key.
    pub fn owner(self, key: &[u8]) -> usize {
        match (self, key) {
            (Behind::One, _) | (Behind::Several, [b'a', b':', ..]) => 0,
            (Behind::Several, [b'b', b':', ..]) => 1,
            (Behind::Several, _) => 2,
            (Behind::Cluster, _) => {
                let slot = usize::from(slot(key));
                (0..self.servers()).find(|shard| slot <= shard_slots(*shard, self.servers()).1).unwrap_or_default()
            }
        }
    }

    /// What a key begins with, so that all that begin so are at one server, but for the first
    /// where they aren't to be.
    fn beginning(self, number: &str, is_crossing: bool) -> &'static str {
        let is_apart = is_crossing && number == "1";
        match self {
            Behind::One => "",
            Behind::Several => {
                if is_apart {
                    "a:"
                } else {
                    "b:"
                }
            }
            Behind::Cluster => {
                if is_apart {
                    "{a}:"
                } else {
                    "{b}:"
                }
            }
        }
    }
}

/// A topology: the proxy before the servers, and its properties.
#[derive(Debug)]
pub struct Topology {
    pub name: &'static str,
    pub behind: Behind,
    /// The prefix of keys that is removed on the way to the server.
    pub removed: &'static str,
    /// Whether a client may send HELLO 3.
    pub has_resp3: bool,
    /// Whether dangerous commands are refused.
    pub refuses_harm: bool,
    /// Whether a client's changes of its connection never affect another client.
    pub keeps_clients_apart: bool,
    /// Whether everything is invoked in pipelines, too.
    pub is_pipelined: bool,
    /// The filters of a listener before these clusters.
    filters: fn(name: &str, clusters: &[String]) -> Result<Vec<Value>>,
    is_native: bool,
}

/// The wasm filter before tcp_proxy.
pub const DIRECT: Topology = Topology {
    name: "direct",
    behind: Behind::One,
    removed: "",
    has_resp3: true,
    refuses_harm: false,
    keeps_clients_apart: true,
    is_pipelined: true,
    filters: |name, clusters| {
        Ok(vec![wasm(&listener::config(name, 1, listener::direct(name)))?, tcp_proxy(&clusters[0])])
    },
    is_native: false,
};

/// The wasm filter before redis_proxy.
pub const PROXY: Topology = Topology {
    name: "proxy",
    behind: Behind::One,
    removed: "",
    has_resp3: true,
    refuses_harm: true,
    keeps_clients_apart: true,
    is_pipelined: true,
    filters: |name, clusters| {
        let redis_proxy = RedisProxy::new(name).password("handshake").catch_all(&clusters[0]);
        Ok(vec![wasm(&listener::config(name, 1, listener::proxy(name, "handshake")))?, redis_proxy.filter()])
    },
    is_native: false,
};

/// The wasm filter before redis_proxy, and that before a Redis Cluster.
pub const PROXY_CLUSTER: Topology = Topology {
    name: "proxy-cluster",
    behind: Behind::Cluster,
    filters: |name, clusters| {
        let redis_proxy = RedisProxy::new(name).password("handshake").catch_all(&clusters[0]);
        let redis_proxy = redis_proxy.setting("enable_redirection", json!(true));
        let mut host = listener::proxy(name, "handshake");
        host.targets[0].cluster = true;
        Ok(vec![wasm(&listener::config(name, 1, host))?, redis_proxy.filter()])
    },
    // Commands of a pipeline that go to several nodes overtake each other.
    is_pipelined: false,
    ..PROXY
};

/// Envoy's redis_proxy alone.
pub const REDIS_PROXY: Topology = Topology {
    name: "redis_proxy",
    behind: Behind::One,
    removed: "",
    has_resp3: false,
    refuses_harm: true,
    keeps_clients_apart: false,
    is_pipelined: false,
    filters: |name, clusters| Ok(vec![RedisProxy::new(name).catch_all(&clusters[0]).filter()]),
    is_native: false,
};

/// The module with one destination.
pub const NATIVE: Topology = Topology {
    name: "native",
    behind: Behind::One,
    removed: "",
    has_resp3: true,
    refuses_harm: false,
    keeps_clients_apart: true,
    is_pipelined: true,
    filters: |name, clusters| {
        let host = native::host(&[&clusters[0]], vec![route(KeyMatch::Any, 0)]);
        Ok(vec![native::proxy(&listener::config(name, 1, host))?])
    },
    is_native: true,
};

/// The module with several destinations: keys with `a:`, keys with `b:`, and all others.
pub const SEVERAL: Topology = Topology {
    name: "native-several",
    behind: Behind::Several,
    removed: "",
    has_resp3: true,
    refuses_harm: false,
    keeps_clients_apart: true,
    is_pipelined: false,
    filters: |name, clusters| {
        let destinations: Vec<&str> = clusters.iter().map(String::as_str).collect();
        let prefix = |prefix: &str, target| route(KeyMatch::Prefix(prefix.to_owned()), target);
        let host = native::host(&destinations, vec![prefix("a:", 0), prefix("b:", 1), route(KeyMatch::Any, 2)]);
        Ok(vec![native::proxy(&listener::config(name, 1, host))?])
    },
    is_native: true,
};

/// The module before a Redis Cluster.
pub const NATIVE_CLUSTER: Topology = Topology {
    name: "native-cluster",
    behind: Behind::Cluster,
    filters: |name, clusters| {
        let mut host = native::host(&[&clusters[0]], vec![route(KeyMatch::Any, 0)]);
        host.targets[0].cluster = true;
        Ok(vec![native::proxy(&listener::config(name, 1, host))?])
    },
    ..NATIVE
};

/// The module with one destination, and a prefix that it takes off.
pub const STRIP: Topology = Topology {
    name: "native-strip",
    behind: Behind::One,
    removed: "r:",
    has_resp3: true,
    refuses_harm: false,
    keeps_clients_apart: true,
    is_pipelined: false,
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
    /// The name of a key; `number` may be `*`.
    pub fn key(&self, number: &str, is_crossing: bool) -> String {
        format!("{}{}k{number}", self.removed, self.behind.beginning(number, is_crossing))
    }

    /// Starts an Envoy with all of these places.
    pub fn start(&self, places: &[Place]) -> Result<Envoy> {
        let mut config = Config::new();
        for place in places {
            let servers = &place.servers[..self.behind.servers()];
            let groups: Vec<&[SocketAddr]> = match self.behind {
                Behind::Cluster => vec![servers],
                Behind::One | Behind::Several => servers.chunks(1).collect(),
            };
            let names: Vec<String> = (0..groups.len()).map(|i| format!("{}-{i}", place.name)).collect();
            let clusters: Vec<String> = names.iter().map(|name| format!("{name}.test:6379")).collect();
            let given = if self.is_native { &names } else { &clusters };
            config = config.listener(&place.name, place.listens, (self.filters)(&place.name, given)?);
            for (cluster, servers) in clusters.iter().zip(groups) {
                config = match (self.behind, self.is_native) {
                    (Behind::Cluster, false) => config.clusters(&[redis_cluster(cluster, servers[0])]),
                    (Behind::Cluster, true) => config.clusters(&[native::redis_cluster(cluster, servers)]),
                    _ => config.cluster(cluster, servers),
                };
            }
        }
        let envoy = if self.is_native { native::start(&config, 1) } else { config.start() }?;
        envoy.wait_discovered(Duration::from_secs(10))?;
        Ok(envoy)
    }
}

/// The cluster in Envoy of a Redis Cluster, for redis_proxy.
fn redis_cluster(name: &str, node: SocketAddr) -> Value {
    let address = json!({"socket_address": {"address": node.ip().to_string(), "port_value": node.port()}});
    json!({
        "name": name,
        "connect_timeout": "1s",
        "lb_policy": "CLUSTER_PROVIDED",
        "cluster_type": {
            "name": "envoy.clusters.redis",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.clusters.redis.v3.RedisClusterConfig",
                "cluster_refresh_rate": "5s",
            },
        },
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}]},
    })
}
