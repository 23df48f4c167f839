//! An Envoy whose listeners and clusters come from files, so that they can be replaced under load.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use redis_mesh_core::wire::{Host, KeyMatch, ReadPolicy};
use redis_mesh_tests::envoy::{Envoy, Options};
use redis_mesh_tests::listener::{self, Config, route};
use redis_mesh_tests::native;
use redis_mesh_tests::net::Subnet;
use redis_mesh_tests::process::wait_until;
use redis_mesh_tests::workspace;
use serde_json::{Value, json};

use crate::PATIENCE;

pub struct Scene {
    pub envoy: Envoy,
    pub subnet: Subnet,
    pieces: Pieces,
}

/// The settings of the Envoy.
pub struct Setup {
    pub is_cluster: bool,
    pub read_policy: ReadPolicy,
    /// The time that a reply of Redis may take, in milliseconds; 0 for no limit.
    pub op_timeout: u64,
    /// The time that connections of a replaced listener may go on, in seconds.
    pub drain: u32,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup { is_cluster: false, read_policy: ReadPolicy::Master, op_timeout: 400, drain: 600 }
    }
}

impl Scene {
    /// Starts an Envoy with one destination, which is reached through this cluster.
    pub fn start(subnet: Subnet, upstream: Value, setup: &Setup) -> Result<Scene> {
        let mut host = native::host(&["one"], vec![route(KeyMatch::Any, 0)]);
        host.targets[0].cluster = setup.is_cluster;
        host.read_policy = setup.read_policy;
        host.op_timeout_ms = Some(setup.op_timeout);
        let dir = workspace::scratch("discovery")?;
        let source = |file: &str| json!({"path_config_source": {"path": dir.join(file)}, "resource_api_version": "V3"});
        let mut config: Value = serde_json::from_str(&native::text("{\"static_resources\": {}}")?)?;
        config["node"] = json!({"id": "testbed", "cluster": "testbed"});
        config["dynamic_resources"] = json!({"lds_config": source("listeners"), "cds_config": source("clusters")});
        // What the module hangs on comes from files, too.
        let mut internals = |kind: &str| match config["static_resources"][kind].take() {
            Value::Array(list) => list,
            _ => Vec::new(),
        };
        let internals = (internals("listeners"), internals("clusters"));
        let scene = Pieces { dir, host, upstream, internals, revision: 1 };
        scene.write_listeners(&subnet)?;
        scene.write_clusters()?;
        let args = ["--component-log-level", "dynamic_modules:info", "--drain-time-s", &setup.drain.to_string()];
        let options = Options {
            concurrency: 2,
            log_level: Some("warning".to_owned()),
            args: args.map(str::to_owned).to_vec(),
            ..Options::default()
        };
        let envoy = Envoy::start_with(&config.to_string(), &options)?;
        Ok(Scene { envoy, subnet, pieces: scene })
    }

    /// The address to which clients connect.
    pub fn addr(&self) -> SocketAddr {
        self.subnet.redis(1)
    }

    /// Replaces the listener by one with other rules of the same meaning.
    pub fn push_listener(&mut self) -> Result<()> {
        let number = self.pieces.next();
        let nobodys = route(KeyMatch::Prefix(format!("nobody's:{number}:")), 0);
        self.pieces.host.routes = vec![nobodys, route(KeyMatch::Any, 0)];
        self.pieces.write_listeners(&self.subnet)?;
        let line = format!("redis-mesh: redis revision {number}");
        wait_until(&line, PATIENCE, || self.envoy.log().contains(&line))
    }

    /// Replaces the cluster by one with another timeout.
    pub fn push_cluster(&mut self) -> Result<()> {
        let number = self.pieces.next();
        self.pieces.upstream["connect_timeout"] = format!("1.{number:03}s").into();
        self.push_clusters()
    }

    /// Replaces the cluster by one with other members.
    pub fn push_upstream(&mut self, upstream: Value) -> Result<()> {
        self.pieces.upstream = upstream;
        self.push_clusters()
    }

    /// Replaces the clusters of the module's internal listeners.
    pub fn push_internal_clusters(&mut self) -> Result<()> {
        let number = self.pieces.next();
        for cluster in &mut self.pieces.internals.1 {
            cluster["connect_timeout"] = format!("1.{number:03}s").into();
        }
        self.push_clusters()
    }

    /// Replaces the module's internal listeners.
    pub fn push_internal_listeners(&mut self) -> Result<()> {
        let modified = || self.envoy.stat("listener_manager.listener_modified").map(Option::unwrap_or_default);
        let before = modified()?;
        let number = self.pieces.next();
        for listener in &mut self.pieces.internals.0 {
            listener["per_connection_buffer_limit_bytes"] = (1024 * 1024 + number).into();
        }
        self.pieces.write_listeners(&self.subnet)?;
        // The revision has changed, too.
        wait_until("new listeners", PATIENCE, || modified().is_ok_and(|now| now >= before + 3))
    }

    fn push_clusters(&mut self) -> Result<()> {
        let before = self.updates()?;
        self.pieces.write_clusters()?;
        wait_until("a cluster's update", PATIENCE, || self.updates().is_ok_and(|now| now > before))
    }

    fn updates(&self) -> Result<u64> {
        self.envoy.stat("cluster_manager.cluster_modified")?.context("no such stat")
    }

    /// Returns a gauge or counter of the module.
    pub fn metric(&self, name: &str) -> Result<u64> {
        let stats =
            self.envoy.stats(&format!("^wasmcustom\\.redis_mesh\\.(redis_host=\\.=redis\\.test:6379;\\.;)?{name}$"))?;
        ensure!(stats.len() == 1, "{name}: {stats:?}");
        Ok(stats[0].1)
    }

    /// Checks that no state of a client is left and that the module has not panicked.
    pub fn check_is_empty(&self) -> Result<()> {
        wait_until("no clients", PATIENCE, || self.metric("clients_active").is_ok_and(|n| n == 0))?;
        ensure!(self.metric("module_panics_total")? == 0, "the module has panicked: {}", self.envoy.log());
        Ok(())
    }
}

/// The content of the files.
struct Pieces {
    dir: PathBuf,
    host: Host,
    upstream: Value,
    /// The module's internal listeners, and their clusters.
    internals: (Vec<Value>, Vec<Value>),
    revision: u64,
}

impl Pieces {
    fn next(&mut self) -> u64 {
        self.revision += 1;
        self.revision
    }

    fn write_listeners(&self, subnet: &Subnet) -> Result<()> {
        let filters = vec![native::proxy(&listener::config("redis", self.revision, self.host.clone()))?];
        let config: Value = serde_json::from_str(&Config::new().listener("redis", subnet.redis(1), filters).text())?;
        let listener = config["static_resources"]["listeners"][0].clone();
        self.write("listeners", "listener.v3.Listener", self.internals.0.iter().chain([&listener]))
    }

    fn write_clusters(&self) -> Result<()> {
        self.write("clusters", "cluster.v3.Cluster", self.internals.1.iter().chain([&self.upstream]))
    }

    fn write<'a>(&self, name: &str, kind: &str, resources: impl Iterator<Item = &'a Value>) -> Result<()> {
        let typed = |resource: &Value| {
            let mut resource = resource.clone();
            resource["@type"] = format!("type.googleapis.com/envoy.config.{kind}").into();
            resource
        };
        let new = self.dir.join("new");
        std::fs::write(&new, json!({"resources": resources.map(typed).collect::<Vec<_>>()}).to_string())?;
        std::fs::rename(&new, self.dir.join(name)).context("can't replace the file")
    }
}
