//! An Envoy whose listeners and clusters come from files, so that they can be replaced under load.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use redis_mesh_core::wire::{Host, KeyMatch};
use redis_mesh_tests::envoy::Envoy;
use redis_mesh_tests::listener::{self, Config, route};
use redis_mesh_tests::native;
use redis_mesh_tests::net::Subnet;
use redis_mesh_tests::process::wait_until;
use redis_mesh_tests::workspace;
use serde_json::{Value, json};

use crate::PATIENCE;

/// How long Redis may take for a reply.
const OP_TIMEOUT: u64 = 400;

pub struct Scene {
    pub envoy: Envoy,
    pub subnet: Subnet,
    dir: PathBuf,
    host: Host,
    upstream: Value,
    revision: u64,
}

impl Scene {
    /// One destination, which is reached through this cluster of Envoy's.
    pub fn start(subnet: Subnet, is_cluster: bool, upstream: Value, workers: u32) -> Result<Scene> {
        Scene::start_with(subnet, is_cluster, upstream, workers, |_| ())
    }

    /// [`Scene::start`] with other rules.
    pub fn start_with(
        subnet: Subnet,
        is_cluster: bool,
        upstream: Value,
        workers: u32,
        change: impl FnOnce(&mut Host),
    ) -> Result<Scene> {
        let mut host = native::host(&["one"], vec![route(KeyMatch::Any, 0)]);
        host.targets[0].cluster = is_cluster;
        host.op_timeout_ms = OP_TIMEOUT;
        change(&mut host);
        let dir = workspace::scratch("discovery")?;
        write(&dir, "listeners", vec![proxy_listener(&subnet, 1, &host)?])?;
        write(&dir, "clusters", vec![upstream.clone()])?;
        let source = |file: &str| json!({"path_config_source": {"path": dir.join(file)}, "resource_api_version": "V3"});
        let config = json!({
            "node": {"id": "testbed", "cluster": "testbed"},
            "dynamic_resources": {"lds_config": source("listeners"), "cds_config": source("clusters")},
            "static_resources": {},
        });
        let envoy = native::start_with(&config.to_string(), workers)?;
        Ok(Scene { envoy, subnet, dir, host, upstream, revision: 1 })
    }

    /// Where clients connect.
    pub fn addr(&self) -> SocketAddr {
        self.subnet.redis(1)
    }

    /// The listener comes anew, with rules that are written otherwise and mean the same.
    pub fn push_listener(&mut self) -> Result<()> {
        self.revision += 1;
        let mut host = self.host.clone();
        let number = self.revision;
        host.routes.insert(0, route(KeyMatch::Prefix(format!("nobody's:{number}:")), 0));
        write(&self.dir, "listeners", vec![proxy_listener(&self.subnet, number, &host)?])?;
        let line = format!("redis-mesh: redis revision {number}");
        wait_until(&line, PATIENCE, || self.envoy.log().contains(&line))
    }

    /// The cluster comes anew, with another timeout.
    pub fn push_cluster(&mut self) -> Result<()> {
        let before = self.updates()?;
        self.revision += 1;
        self.upstream["connect_timeout"] = format!("{}.{:03}s", 1, self.revision).into();
        write(&self.dir, "clusters", vec![self.upstream.clone()])?;
        wait_until("a cluster's update", PATIENCE, || self.updates().is_ok_and(|now| now > before))
    }

    fn updates(&self) -> Result<u64> {
        self.envoy.stat("cluster_manager.cluster_modified")?.context("no such stat")
    }

    /// A gauge or counter of the module.
    pub fn metric(&self, name: &str) -> Result<u64> {
        let stats =
            self.envoy.stats(&format!("^wasmcustom\\.redis_mesh\\.(redis_host=\\.=redis\\.test:6379;\\.;)?{name}$"))?;
        ensure!(stats.len() == 1, "{name}: {stats:?}");
        Ok(stats[0].1)
    }

    /// All is as it was before anybody came: no client is kept, nothing panicked.
    pub fn check_is_empty(&self) -> Result<()> {
        wait_until("no clients", PATIENCE, || self.metric("clients_active").is_ok_and(|n| n == 0))?;
        ensure!(self.metric("module_panics_total")? == 0, "the module has panicked: {}", self.envoy.log());
        Ok(())
    }
}

fn proxy_listener(subnet: &Subnet, revision: u64, host: &Host) -> Result<Value> {
    let filters = vec![native::proxy(&listener::config("redis", revision, host.clone()))?];
    let config: Value = serde_json::from_str(&Config::new().listener("redis", subnet.redis(1), filters).text())?;
    let mut listener = config["static_resources"]["listeners"][0].clone();
    listener["@type"] = json!("type.googleapis.com/envoy.config.listener.v3.Listener");
    Ok(listener)
}

fn write(dir: &std::path::Path, name: &str, mut resources: Vec<Value>) -> Result<()> {
    if name == "clusters" {
        for cluster in &mut resources {
            cluster["@type"] = json!("type.googleapis.com/envoy.config.cluster.v3.Cluster");
        }
    }
    let new = dir.join("new");
    std::fs::write(&new, json!({"resources": resources}).to_string())?;
    std::fs::rename(&new, dir.join(name)).context("can't replace the file")
}
