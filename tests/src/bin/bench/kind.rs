//! The paths from a client to Redis.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use redis_mesh_core::wire::{DataPath, KeyMatch};
use redis_mesh_tests::envoy::Envoy;
use redis_mesh_tests::listener::{self, route};
use redis_mesh_tests::{native, net};

use crate::envoy_config::{cluster, envoy, filter, filter_config, redis_cluster, redis_proxy, tcp_proxy};
use crate::running::Running;
use crate::twemproxy;

/// A path from a client to Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// No proxy.
    Direct,
    /// A filter of Envoy.
    TcpProxy,
    /// A filter of Envoy.
    RedisProxy,
    /// The wasm filter before `redis_proxy`.
    FilterRedis,
    /// The wasm filter before `redis_proxy`, with clients that send HELLO 3.
    FilterRedis3,
    /// The wasm filter before `tcp_proxy`.
    FilterTcp,
    /// The dynamic module.
    Native,
    /// twemproxy, for comparison with a proxy that isn't Envoy.
    Twemproxy,
}

/// The files of one version.
#[derive(Clone, Debug)]
pub struct Artefacts {
    /// The wasm filter.
    pub filter: PathBuf,
    /// The dynamic module; absent: that of this checkout.
    pub module: Option<PathBuf>,
}

impl Artefacts {
    /// This filter, with the module of this checkout.
    pub fn of_filter(file: &Path) -> Artefacts {
        Artefacts { filter: file.to_path_buf(), module: None }
    }
}

/// The Redis behind a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behind {
    /// A single server.
    Server,
    /// A Redis Cluster.
    Cluster,
}

impl Kind {
    /// All paths in the order of the report.
    pub const ALL: [Kind; 8] = [
        Kind::Direct,
        Kind::TcpProxy,
        Kind::RedisProxy,
        Kind::Native,
        Kind::Twemproxy,
        Kind::FilterRedis,
        Kind::FilterRedis3,
        Kind::FilterTcp,
    ];

    /// The name in the report.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Direct => "direct",
            Kind::TcpProxy => "tcp_proxy",
            Kind::RedisProxy => "redis_proxy",
            Kind::FilterRedis => "filter + redis_proxy, RESP2",
            Kind::FilterRedis3 => "filter + redis_proxy, RESP3",
            Kind::FilterTcp => "filter + tcp_proxy",
            Kind::Native => "native",
            Kind::Twemproxy => "twemproxy",
        }
    }

    /// The path with which this one is compared.
    pub fn peer(self) -> Option<Kind> {
        match self {
            Kind::Direct | Kind::TcpProxy | Kind::RedisProxy | Kind::Twemproxy => None,
            Kind::FilterRedis | Kind::FilterRedis3 | Kind::Native => Some(Kind::RedisProxy),
            Kind::FilterTcp => Some(Kind::TcpProxy),
        }
    }

    /// Whether the path has the wasm filter.
    pub fn has_filter(self) -> bool {
        matches!(self, Kind::FilterRedis | Kind::FilterRedis3 | Kind::FilterTcp)
    }

    /// Whether the path has the wasm filter or the module.
    pub fn is_ours(self) -> bool {
        self.has_filter() || self == Kind::Native
    }

    /// Whether clients send HELLO 3.
    pub fn resp3(self) -> bool {
        self == Kind::FilterRedis3
    }

    /// Whether the programs of the path are installed.
    pub fn is_there(self) -> bool {
        self != Kind::Twemproxy || twemproxy::program().is_some()
    }

    /// Starts the path before a server or the nodes of a Redis Cluster.
    pub fn start(self, artefacts: &Artefacts, behind: Behind, servers: &[SocketAddr]) -> Result<Running> {
        let server = *servers.first().context("nothing stands behind")?;
        let at = SocketAddr::new([127, 0, 0, 1].into(), net::free_port()?);
        let upstream = |name| match behind {
            Behind::Server => cluster(name, Some(server)),
            Behind::Cluster => redis_cluster(name, server),
        };
        let chain = |filters: &[_]| envoy(at, filters, &[upstream("redis")]);
        let before = |path| filter(&artefacts.filter, &filter_config(path, &[None], vec![(KeyMatch::Any, 0)]));
        let config = match self {
            Kind::Direct => return Ok(Running::nothing(server)),
            Kind::Twemproxy => {
                let program = twemproxy::program().unwrap_or_else(|| PathBuf::from("nutcracker"));
                return Ok(Running::process(at, twemproxy::start(program, at, server)?));
            }
            Kind::Native => {
                let mut host = native::host(&["redis"], vec![route(KeyMatch::Any, 0)]);
                host.targets[0].cluster = behind == Behind::Cluster;
                let name = host.targets[0].destination.clone();
                let document = listener::config("redis", 1, host);
                let upstream = match behind {
                    Behind::Server => upstream(&name),
                    Behind::Cluster => native::redis_cluster(&name, servers),
                };
                let config = envoy(at, &[native::proxy(&document)?], &[upstream]);
                return Ok(Running::envoy(at, native::start_version(&config, artefacts.module.as_deref())?));
            }
            Kind::TcpProxy => chain(&[tcp_proxy("redis")]),
            Kind::RedisProxy => chain(&[redis_proxy(&[], Some("redis"), false)]),
            Kind::FilterRedis | Kind::FilterRedis3 => {
                chain(&[before(DataPath::Proxy), redis_proxy(&[], Some("redis"), true)])
            }
            Kind::FilterTcp => chain(&[before(DataPath::Direct), tcp_proxy("redis")]),
        };
        let envoy = Envoy::start(&config)?;
        envoy.wait_discovered(std::time::Duration::from_secs(10))?;
        Ok(Running::envoy(at, envoy))
    }
}
