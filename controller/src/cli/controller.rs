//! `redis-mesh controller`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::quantity;
use crate::render::native::DynamicModule;
use crate::run::root::RootSettings;
use crate::run::telemetry::{self, LogFormat};
use crate::run::witness::settings::{WitnessPolicy, WitnessSettings};
use crate::run::{self, ControllerConfig, DebounceTimes, FilterSource, ModuleSource};

use super::artifacts::{FILTER, MODULE, candidates, module, sha256};
use super::delivery::RuleDelivery;

/// Arguments of `controller`.
#[derive(Args)]
pub struct Controller {
    /// The namespace of the controller itself
    #[arg(long, value_name = "NAME", env = "POD_NAMESPACE", default_value = "redis-mesh-system")]
    namespace: String,
    /// The namespace of istiod, where Istio's mesh configuration is
    #[arg(long, value_name = "NAME", default_value = "istio-system")]
    istio_namespace: String,
    /// The revision of istiod (istio.io/rev), whose mesh configuration is read [default: the
    /// default revision]
    #[arg(long, value_name = "NAME")]
    revision: Option<String>,
    /// A further revision of istiod that serves sidecars of this mesh, as during an upgrade of Istio. Nothing is
    /// written where its mesh configuration names another root namespace. Repeatable, or separated by commas
    #[arg(long = "other-revision", value_name = "NAME", value_delimiter = ',')]
    other_revisions: Vec<String>,
    /// Istio's root namespace. Where the mesh configuration names another one, nothing is written
    /// [default: as Istio's mesh configuration says]
    #[arg(long, value_name = "NAME")]
    root_namespace: Option<String>,
    /// The domain of the cluster: hosts under .svc.DOMAIN are Services
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local")]
    cluster_domain: String,
    /// The way in which the filter gets the rules of a host
    #[arg(long, value_enum, default_value_t = RuleDelivery::Auto)]
    delivery: RuleDelivery,
    /// A port whose WasmPlugin stands as soon as sidecars can fetch the filter, so that the first object for a host of
    /// this port closes no connections of other hosts; without effect with --delivery per-host.
    /// Repeatable, or separated by commas
    #[arg(long = "port", value_name = "PORT", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..))]
    ports: Vec<u16>,
    /// The wasm filter that is served to proxies [default: redis_mesh.wasm beside this program]
    #[arg(long, value_name = "PATH", conflicts_with = "filter_url")]
    filter: Option<PathBuf>,
    /// The URL at which proxies fetch the wasm filter instead of from this controller: oci://,
    /// http(s):// or file:// (a file in the proxy's container)
    #[arg(long, value_name = "URL")]
    filter_url: Option<String>,
    /// The SHA-256 of the filter at --filter-url, against which proxies check what they fetch
    #[arg(long, value_name = "HEX", requires = "filter_url", value_parser = sha256)]
    filter_sha256: Option<String>,
    /// The URL at which proxies reach this controller [default: http, port 8080 of its Service]
    #[arg(long, value_name = "URL")]
    advertise_url: Option<String>,
    /// A namespace in which the dynamic module for Envoy 1.40, of at most 1,040,000 bytes, is
    /// kept in the ConfigMap redis-mesh-module. Pods with the label redis-mesh.io/native=true
    /// mount it and are served natively; repeatable
    #[arg(long = "module-namespace", value_name = "NAME", conflicts_with = "module_path")]
    module_namespaces: Vec<String>,
    /// The dynamic module [default: libredis_mesh_native.so beside this program]
    #[arg(long, value_name = "PATH", requires = "module_namespaces")]
    module: Option<PathBuf>,
    /// With --module-namespace: the directory where pods mount the ConfigMap
    #[arg(long, value_name = "DIR", default_value = "/etc/redis-mesh")]
    module_directory: String,
    /// With --module-namespace: the time in which another version of the module reaches pods that
    /// run
    #[arg(long, value_name = "DURATION", default_value = "3m", value_parser = quantity::duration)]
    module_delay: Duration,
    /// The path of the dynamic module in pods with the label redis-mesh.io/native=true, to which
    /// an image volume or an init container brings it. Each version of the module needs a path of
    /// its own
    #[arg(long, value_name = "PATH", value_parser = module)]
    module_path: Option<DynamicModule>,
    /// The address at which /metrics, /healthz, /readyz and the filter are served
    #[arg(long, value_name = "ADDR:PORT", default_value = "0.0.0.0:8080")]
    listen: SocketAddr,
    /// The Lease that decides which replica writes
    #[arg(long, value_name = "NAME", default_value = "redis-mesh")]
    lease: String,
    /// The time without further changes after which changes are applied
    #[arg(long, value_name = "DURATION", default_value = "100ms", value_parser = quantity::duration)]
    debounce: Duration,
    /// The longest time that a change waits while more changes come
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = quantity::duration)]
    max_debounce: Duration,
    /// The admin interface of an Envoy of the mesh, which is asked what it has taken, such as
    /// http://127.0.0.1:15000. What it refuses is taken back. Repeatable, for one of each revision of Istio:
    /// what one refuses is refused
    #[arg(long, value_name = "URL")]
    witness: Vec<String>,
    /// What happens while the witness doesn't answer: nothing is applied, or changes are applied and
    /// their status says no more than that
    #[arg(long, value_enum, default_value_t = WitnessPolicy::Prefer, ignore_case = true, requires = "witness")]
    witness_policy: WitnessPolicy,
    /// The kubeconfig with the API server [default: as a pod of the cluster, else KUBECONFIG]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The format of logs [default: text on a terminal, else json]
    #[arg(long, value_enum)]
    log_format: Option<LogFormat>,
    /// The level of logs: error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL", env = "REDIS_MESH_LOG", default_value = "info")]
    log_level: String,
}

impl Controller {
    /// Runs until the process is told to end. Returns an error if it can't start.
    pub fn run(self) -> Result<(), String> {
        telemetry::log(self.log_format, &self.log_level)?;
        let filter = self.filter()?;
        let module = self.module()?;
        run::run(ControllerConfig {
            namespace: self.namespace,
            root: RootSettings {
                istio_namespace: self.istio_namespace,
                revision: self.revision,
                other_revisions: self.other_revisions,
                given: self.root_namespace,
            },
            cluster_domain: self.cluster_domain,
            per_host: self.delivery == RuleDelivery::PerHost,
            ports: self.ports.into_iter().collect(),
            filter,
            module,
            listen: self.listen,
            lease: self.lease,
            debounce: DebounceTimes { quiet: self.debounce, longest: self.max_debounce },
            witness: WitnessSettings { urls: self.witness, policy: self.witness_policy },
            kubeconfig: self.kubeconfig,
        })
    }

    fn filter(&self) -> Result<FilterSource, String> {
        if let Some(url) = &self.filter_url {
            return Ok(FilterSource::Url { url: url.clone(), sha256: self.filter_sha256.clone() });
        }
        let path = match &self.filter {
            Some(path) => path.clone(),
            None => candidates(FILTER).into_iter().find(|path| path.is_file()).ok_or(
                "there is no redis_mesh.wasm beside this program; name the filter with --filter, or --filter-url",
            )?,
        };
        let base_url = self.advertise_url.clone();
        let base_url = base_url
            .unwrap_or_else(|| format!("http://redis-mesh.{}.svc.{}:8080", self.namespace, self.cluster_domain));
        Ok(FilterSource::Served { path, base_url })
    }

    fn module(&self) -> Result<ModuleSource, String> {
        if let Some(module) = &self.module_path {
            return Ok(ModuleSource::Present(module.clone()));
        }
        if self.module_namespaces.is_empty() {
            return Ok(ModuleSource::None);
        }
        let path = match &self.module {
            Some(path) => path.clone(),
            None => candidates(MODULE).into_iter().find(|path| path.is_file()).ok_or(
                "there is no libredis_mesh_native.so beside this program; name the module with --module, or --module-path",
            )?,
        };
        if !self.module_directory.starts_with('/') {
            return Err("--module-directory: not an absolute path".to_owned());
        }
        Ok(ModuleSource::ConfigMaps {
            path,
            namespaces: self.module_namespaces.iter().cloned().collect(),
            directory: self.module_directory.clone(),
            delay: self.module_delay,
        })
    }
}
