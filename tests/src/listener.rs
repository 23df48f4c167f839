//! Envoy configurations put together by hand, so that a test can place any filter configuration
//! before any listener; and those that `redis-mesh render envoy` writes, taken apart.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use redis_mesh_core::wire::{self, DataPath, FilterConfig, KeyMatch};
use serde_json::{Value, json};

use crate::envoy::Envoy;
use crate::process::wait_until;
use crate::{cli, filter, workspace};

const FILTERS: &str = "type.googleapis.com/envoy.extensions.filters.network";

/// A bootstrap configuration of Envoy, in JSON.
#[derive(Clone, Debug, Default)]
pub struct Config {
    listeners: Vec<Value>,
    clusters: Vec<Value>,
}

impl Config {
    /// Creates a configuration without listeners and clusters.
    pub fn new() -> Config {
        Config::default()
    }

    /// Adds a cluster of fixed addresses. With none, redis_proxy answers `no upstream host`.
    pub fn cluster(mut self, name: &str, addrs: &[SocketAddr]) -> Config {
        let endpoint = |addr: &SocketAddr| json!({"endpoint": {"address": {"socket_address": {"address": addr.ip().to_string(), "port_value": addr.port()}}}});
        let endpoints: Vec<Value> = addrs.iter().map(endpoint).collect();
        let many = json!({"max_connections": 1_000_000, "max_pending_requests": 1_000_000, "max_requests": 1_000_000});
        self.clusters.push(json!({
            "name": name,
            "type": "STATIC",
            "connect_timeout": "1s",
            "circuit_breakers": {"thresholds": [many]},
            "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]},
        }));
        self
    }

    /// Adds clusters of another configuration, except those whose names are taken.
    pub fn clusters(mut self, clusters: &[Value]) -> Config {
        for cluster in clusters {
            if self.clusters.iter().all(|known| known["name"] != cluster["name"]) {
                self.clusters.push(cluster.clone());
            }
        }
        self
    }

    /// Adds a listener with these network filters.
    pub fn listener(mut self, name: &str, addr: SocketAddr, filters: Vec<Value>) -> Config {
        let address = json!({"address": addr.ip().to_string(), "port_value": addr.port()});
        self.listeners.push(json!({
            "name": name,
            "address": {"socket_address": address},
            "filter_chains": [{"filters": filters}],
        }));
        self
    }

    /// Returns the configuration as text.
    pub fn text(&self) -> String {
        // Discovery asks for a node.
        let node = json!({"id": "testbed", "cluster": "testbed"});
        json!({"node": node, "static_resources": {"listeners": self.listeners, "clusters": self.clusters}}).to_string()
    }

    /// Starts an Envoy with this configuration.
    pub fn start(&self) -> Result<Envoy> {
        Envoy::start(&self.text())
    }

    /// Writes the listeners to a file that Envoy watches (LDS), replacing its content.
    pub fn write_listeners(&self, path: &Path) -> Result<()> {
        let resources = self.listeners.iter().map(|listener| {
            let mut listener = listener.clone();
            listener["@type"] = json!("type.googleapis.com/envoy.config.listener.v3.Listener");
            listener
        });
        let response = json!({"resources": resources.collect::<Vec<_>>()});
        let new = path.with_extension("new");
        std::fs::write(&new, response.to_string())?;
        std::fs::rename(&new, path).context("can't replace the file")
    }

    /// Returns the configuration as text, with the listeners discovered in a file (LDS).
    pub fn text_with_listeners_in(&self, path: &Path) -> String {
        let source = json!({"path_config_source": {"path": path}, "resource_api_version": "V3"});
        json!({
            "node": {"id": "testbed", "cluster": "testbed"},
            "dynamic_resources": {"lds_config": source},
            "static_resources": {"clusters": self.clusters},
        })
        .to_string()
    }
}

/// Returns the network filter tcp_proxy to a cluster.
pub fn tcp_proxy(cluster: &str) -> Value {
    json!({
        "name": "envoy.filters.network.tcp_proxy",
        "typed_config": {"@type": format!("{FILTERS}.tcp_proxy.v3.TcpProxy"), "stat_prefix": cluster, "cluster": cluster},
    })
}

/// The configuration of the network filter redis_proxy.
#[derive(Clone, Debug)]
pub struct RedisProxy(Value);

impl RedisProxy {
    /// Creates a configuration without routes.
    pub fn new(stat_prefix: &str) -> RedisProxy {
        RedisProxy(json!({
            "@type": format!("{FILTERS}.redis_proxy.v3.RedisProxy"),
            "stat_prefix": stat_prefix,
            "settings": {"op_timeout": "5s"},
            "prefix_routes": {"routes": []},
        }))
    }

    /// Sets the cluster of keys that no route takes.
    pub fn catch_all(self, cluster: &str) -> RedisProxy {
        self.catch_all_with(json!({"cluster": cluster}))
    }

    /// Sets the catch-all route with all of its fields.
    pub fn catch_all_with(mut self, route: Value) -> RedisProxy {
        self.0["prefix_routes"]["catch_all_route"] = route;
        self
    }

    /// Adds a route.
    pub fn route(mut self, prefix: &str, cluster: &str, remove_prefix: bool) -> RedisProxy {
        let route = json!({"prefix": prefix, "cluster": cluster, "remove_prefix": remove_prefix});
        if let Some(routes) = self.0["prefix_routes"]["routes"].as_array_mut() {
            routes.push(route);
        }
        self
    }

    /// Sets a field of `settings`.
    pub fn setting(mut self, name: &str, value: Value) -> RedisProxy {
        self.0["settings"][name] = value;
        self
    }

    /// Sets any other field.
    pub fn field(mut self, name: &str, value: Value) -> RedisProxy {
        self.0[name] = value;
        self
    }

    /// Sets the password that clients must present.
    pub fn password(self, password: &str) -> RedisProxy {
        self.field("downstream_auth_passwords", json!([{"inline_string": password}]))
    }

    /// Returns the network filter.
    pub fn filter(&self) -> Value {
        json!({"name": "envoy.filters.network.redis_proxy", "typed_config": self.0})
    }
}

fn wasm_config(name: &str, document: &str) -> Result<Value> {
    Ok(json!({
        "@type": format!("{FILTERS}.wasm.v3.Wasm"),
        "config": {
            "name": name,
            "vm_config": {
                "vm_id": "redis-mesh",
                "runtime": "envoy.wasm.runtime.v8",
                "code": {"local": {"filename": filter::build()?}},
            },
            "configuration": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.GenericSecret",
                "secret": {"inline_string": document},
            },
            "failure_policy": "FAIL_RELOAD",
        },
    }))
}

/// Returns the wasm filter with a fixed configuration.
pub fn wasm(config: &FilterConfig) -> Result<Value> {
    wasm_text(&config.name, &serde_json::to_string(config)?)
}

/// Returns the wasm filter with a fixed text as its configuration.
pub fn wasm_text(name: &str, document: &str) -> Result<Value> {
    Ok(json!({"name": "redis-mesh", "typed_config": wasm_config(name, document)?}))
}

/// A filter configuration that Envoy watches in a file (ECDS), replaced by renaming.
#[derive(Debug)]
pub struct Discovered {
    name: String,
    dir: PathBuf,
    version: u64,
}

impl Discovered {
    /// Creates the file with its first configuration.
    pub fn new(config: &FilterConfig) -> Result<Discovered> {
        let mut discovered = Discovered { name: config.name.clone(), dir: workspace::scratch("ecds")?, version: 0 };
        discovered.write(config)?;
        Ok(discovered)
    }

    /// Returns the network filter whose configuration is discovered from the file.
    pub fn filter(&self) -> Value {
        json!({
            "name": self.name,
            "config_discovery": {
                "config_source": {"path_config_source": {"path": self.path()}, "resource_api_version": "V3"},
                "type_urls": [format!("{FILTERS}.wasm.v3.Wasm")],
            },
        })
    }

    fn path(&self) -> PathBuf {
        self.dir.join("ecds.json")
    }

    /// Replaces the configuration without waiting for Envoy.
    pub fn write(&mut self, config: &FilterConfig) -> Result<()> {
        self.write_text(&serde_json::to_string(config)?)
    }

    /// Replaces the configuration by a text, which need not be valid.
    pub fn write_text(&mut self, document: &str) -> Result<()> {
        self.version += 1;
        let resource = json!({
            "@type": "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig",
            "name": self.name,
            "typed_config": wasm_config(&self.name, document)?,
        });
        let response = json!({"version_info": self.version.to_string(), "resources": [resource]});
        let new = self.dir.join("new");
        std::fs::write(&new, response.to_string())?;
        std::fs::rename(&new, self.path()).context("can't replace the file")
    }

    /// Replaces the configuration and waits until the workers have it.
    pub fn push(&mut self, envoy: &Envoy, config: &FilterConfig) -> Result<()> {
        self.write(config)?;
        self.wait_for(envoy, config.revision)
    }

    /// Waits until the workers have a revision. The filter logs it once in the main thread and
    /// once in each worker.
    pub fn wait_for(&self, envoy: &Envoy, revision: u64) -> Result<()> {
        let line = format!("redis-mesh: {} revision {revision},", self.name);
        wait_until(&line, Duration::from_secs(10), || envoy.log().matches(&line).count() >= 2)
    }
}

/// Returns a document with one host, which takes every connection.
pub fn config(name: &str, revision: u64, host: wire::Host) -> FilterConfig {
    FilterConfig {
        name: name.to_string(),
        revision,
        hosts: vec![host],
        refused: Vec::new(),
        limits: wire::Limits::default(),
    }
}

/// Returns a host on `direct` with one destination.
pub fn direct(destination: &str) -> wire::Host {
    wire::Host {
        host: format!("{destination}.test:6379"),
        selector: wire::Selector::default(),
        path: DataPath::Direct,
        client_auth: None,
        upstream_login: None,
        login_for: None,
        handshake: None,
        guard_credentials: false,
        allow_admin_commands: false,
        refuse_scripts: false,
        several_endpoints: false,
        case_insensitive: false,
        read_policy: wire::ReadPolicy::default(),
        command_stats: false,
        op_timeout_ms: None,
        targets: vec![target(destination, &[])],
        routes: vec![route(KeyMatch::Any, 0)],
        faults: Vec::new(),
    }
}

/// Returns a host on `proxy` with one destination, which is reached without a tag.
pub fn proxy(destination: &str, handshake: &str) -> wire::Host {
    wire::Host {
        path: DataPath::Proxy,
        handshake: Some(handshake.to_string()),
        targets: vec![target(destination, &[None])],
        ..direct(destination)
    }
}

/// Returns a host on `proxy` with several destinations and their tags. `routes` name them by
/// index.
pub fn several(destinations: &[(&str, &str)], handshake: &str, routes: Vec<wire::Route>) -> wire::Host {
    let targets = destinations.iter().map(|(destination, tag)| target(destination, &[Some(tag)])).collect();
    wire::Host { host: "several.test:6379".into(), targets, routes, ..proxy("several", handshake) }
}

/// Returns a target without mirrors.
pub fn target(destination: &str, tags: &[Option<&str>]) -> wire::Target {
    wire::Target {
        destination: format!("{destination}.test:6379"),
        cluster: false,
        mirrors: Vec::new(),
        tags: tags.iter().map(|tag| tag.map(str::to_string)).collect(),
        upstream: None,
    }
}

/// Returns a route without faults that leaves keys unchanged.
pub fn route(key: KeyMatch, target: u32) -> wire::Route {
    wire::Route { key, remove_prefix: false, target, read_policy: None, faults: Vec::new() }
}

/// Returns a fault that is injected into each of these commands.
pub fn fault(kind: wire::FaultKind, delay: Duration, commands: &[&str]) -> wire::Fault {
    wire::Fault {
        kind,
        per_million: 1_000_000,
        delay_ms: delay.as_millis() as u64,
        commands: commands.iter().map(ToString::to_string).collect(),
    }
}

/// A configuration that `redis-mesh render envoy` has written.
#[derive(Clone, Debug)]
pub struct Rendered {
    config: Value,
}

impl Rendered {
    /// Renders manifests given as text.
    pub fn new(manifests: &str, args: &[&str]) -> Result<Rendered> {
        Rendered::read(&cli::render_envoy_text(manifests, args)?)
    }

    /// Renders the manifests in files or directories.
    pub fn of<P: AsRef<Path>>(inputs: &[P], args: &[&str]) -> Result<Rendered> {
        Rendered::read(&cli::render_envoy(inputs, args)?)
    }

    fn read(text: &str) -> Result<Rendered> {
        Ok(Rendered { config: serde_saphyr::from_str(text).context("what was rendered isn't YAML")? })
    }

    /// Starts an Envoy with this configuration.
    pub fn start(&self) -> Result<Envoy> {
        Envoy::start(&self.config.to_string())
    }

    /// Returns the clusters.
    pub fn clusters(&self) -> &[Value] {
        self.config["static_resources"]["clusters"].as_array().map(Vec::as_slice).unwrap_or_default()
    }

    /// Returns the network filters of a listener.
    pub fn filters(&self, listener: &str) -> Result<&[Value]> {
        let listeners = self.config["static_resources"]["listeners"].as_array().context("no listeners")?;
        let found = listeners.iter().find(|one| one["name"] == listener);
        let found = found.with_context(|| format!("no listener {listener}"))?;
        found["filter_chains"][0]["filters"].as_array().map(Vec::as_slice).context("no filters")
    }

    /// Returns the document of the wasm filter on a listener.
    pub fn document(&self, listener: &str) -> Result<FilterConfig> {
        let document =
            &self.filters(listener)?[0]["typed_config"]["config"]["configuration"]["secret"]["inline_string"];
        Ok(serde_json::from_str(document.as_str().context("no document")?)?)
    }

    /// Returns the terminal filter of a listener.
    pub fn terminal(&self, listener: &str) -> Result<Value> {
        self.filters(listener)?.last().cloned().context("no filters")
    }
}

/// Returns the manifests of a Service at `addr` and of its EndpointSlice with one server.
pub fn service(name: &str, addr: SocketAddr, server: SocketAddr) -> String {
    format!(
        r#"---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: redis}}
spec:
  clusterIP: {}
  ports: [{{name: tcp-redis, protocol: TCP, port: {}, targetPort: {}}}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: {name}
  namespace: redis
  labels: {{kubernetes.io/service-name: {name}}}
addressType: IPv4
ports: [{{name: tcp-redis, port: {}, protocol: TCP}}]
endpoints: [{{addresses: [{}]}}]
"#,
        addr.ip(),
        addr.port(),
        server.port(),
        server.port(),
        server.ip(),
    )
}

/// The manifest of an object of ours in the namespace `redis`, for the host of the Service of the
/// same name; `spec` is YAML with an indentation of two.
pub fn object(kind: &str, name: &str, spec: &str) -> String {
    pinned(kind, name, "auto", spec)
}

/// Does what [`object`] does, with the data path pinned by the annotation.
pub fn pinned(kind: &str, name: &str, path: &str, spec: &str) -> String {
    let host = host(name);
    let host = if kind == "RedisService" { format!("[{host}]") } else { host };
    format!(
        "---\napiVersion: redis.aeraki.io/v1alpha1\nkind: {kind}\nmetadata:\n  name: {name}\n  namespace: redis\n  \
         annotations: {{redis-mesh.io/data-path: {path}}}\nspec:\n  host: {host}\n{spec}"
    )
}

/// Returns the host of a Service in the namespace `redis`.
pub fn host(name: &str) -> String {
    format!("{name}.redis.svc.cluster.local")
}

/// Returns the name of the listener of a Service.
pub fn listener_name(name: &str, port: u16) -> String {
    format!("{}:{port}", host(name))
}
