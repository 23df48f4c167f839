//! Traffic of many kinds through one Envoy, seen from the client and from the servers.

mod failover;
mod faults;
mod half_closed;
mod large_values;
mod many_connections;
mod mirror;
mod one_server;
mod read_policy;
mod read_policy_outage;
mod restart;
mod routes;
mod scripts;
mod transactions;

use std::net::SocketAddr;
use std::sync::OnceLock;

use anyhow::{Context, Result, anyhow};
use redis_mesh_tests::client::Client;
use redis_mesh_tests::cluster::{Cluster, Shape};
use redis_mesh_tests::envoy::Envoy;
use redis_mesh_tests::net::Subnet;
use redis_mesh_tests::redis::Redis;
use redis_mesh_tests::scene::Scene;

/// The scene that all tests share: one Envoy with all listeners, and a Redis Cluster. Plain
/// servers are each test's own, started at the addresses that the manifests name.
pub struct Mesh {
    subnet: Subnet,
    envoy: Envoy,
    cluster: Cluster,
}

/// Both paths that the manifests can pin.
pub const PATHS: [&str; 2] = ["direct", "proxy"];

/// Hosts with one server of their own, on each path: name, the server's address, the listeners'
/// addresses (`direct`, then `proxy`), and the rules.
const HOSTS: &[(&str, u8, u8, &str)] = &[
    ("many", 11, 112, "settings: {opTimeout: 60s}"),
    ("transactions", 12, 114, ""),
    ("half-closed", 13, 116, ""),
    ("restart", 14, 118, ""),
    ("faults", 15, 120, faults::RULES),
];

impl Mesh {
    fn start() -> Result<Mesh> {
        raise_file_limit()?;
        let subnet = Subnet::claim()?;
        let cluster = Cluster::start_with(Shape {
            addrs: Some((31..37).map(|node| subnet.redis(node)).collect()),
            ..Shape::default()
        })?;
        let mut scene = Scene::on(&subnet);
        for (name, server, listens, rules) in HOSTS {
            for (i, path) in PATHS.iter().enumerate() {
                let host = format!("{name}-{path}");
                scene.service(&host, listens + i as u8, &[*server]).rules(&host, path, rules);
            }
        }
        mirror::manifests(&mut scene);
        routes::manifests(&mut scene);
        read_policy::manifests(&mut scene);
        scripts::manifests(&mut scene);
        let envoy = scene.start(2)?;
        envoy.wait_discovered(std::time::Duration::from_secs(20))?;
        Ok(Mesh { subnet, envoy, cluster })
    }

    /// A server at one of the addresses that the manifests name.
    pub fn server(&self, at: u8) -> Result<Redis> {
        Redis::start_at(self.subnet.redis(at))
    }

    /// The server of a host of [`HOSTS`].
    pub fn server_of(&self, name: &str) -> Result<Redis> {
        self.server(host(name)?.1)
    }

    /// Where a host of [`HOSTS`] listens.
    pub fn address(&self, name: &str, path: &str) -> Result<SocketAddr> {
        Ok(self.subnet.redis(host(name)?.2 + u8::from(path == "proxy")))
    }

    /// A client of a host of [`HOSTS`].
    pub fn client(&self, name: &str, path: &str) -> Result<Client> {
        Client::connect(self.address(name, path)?)
    }

    /// A client of the host that listens at this address.
    pub fn client_at(&self, listens: u8) -> Result<Client> {
        Client::connect(self.subnet.redis(listens))
    }

    /// Returns the number of clients that are connected to a listener, as Envoy counts them.
    pub fn connected(&self, address: SocketAddr) -> Result<u64> {
        let name = format!("listener.{}_{}.downstream_cx_active", address.ip(), address.port());
        self.envoy.stat(&name)?.with_context(|| format!("Envoy has no statistic {name}"))
    }
}

fn host(name: &str) -> Result<&'static (&'static str, u8, u8, &'static str)> {
    HOSTS.iter().find(|host| host.0 == name).with_context(|| format!("no host {name}"))
}

/// The mesh, started by the first test that needs it.
pub fn mesh() -> Result<&'static Mesh> {
    static MESH: OnceLock<Result<Mesh, String>> = OnceLock::new();
    let mesh = MESH.get_or_init(|| Mesh::start().map_err(|error| format!("{error:#}")));
    mesh.as_ref().map_err(|error| anyhow!("{error}"))
}

/// Allows this process, and so its children, as many open files as the system lets it.
fn raise_file_limit() -> Result<()> {
    // SAFETY: both calls only read or write the structure that they are given.
    unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        anyhow::ensure!(libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) == 0, "can't read the limit of open files");
        limit.rlim_cur = limit.rlim_max;
        anyhow::ensure!(libc::setrlimit(libc::RLIMIT_NOFILE, &limit) == 0, "can't raise the limit of open files");
    }
    Ok(())
}

/// Whether `found` successes of `n` draws agree with a probability: within six standard
/// deviations, which a right implementation leaves once in half a billion runs.
pub fn plausible(found: u64, n: u64, probability: f64) -> bool {
    let (n, found) = (n as f64, found as f64);
    (found - n * probability).abs() <= 6.0 * (n * probability * (1.0 - probability)).sqrt()
}

/// Formats a number of bytes.
pub fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}
