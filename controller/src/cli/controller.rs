//! `redis-mesh controller`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::quantity;
use crate::render::native::DynamicModule;
use crate::run::telemetry::{self, LogFormat};
use crate::run::{self, ControllerConfig, FilterSource, ModuleSource};

use super::artifacts::{FILTER, MODULE, candidates, module, sha256};
use super::delivery::RuleDelivery;

/// Arguments of `controller`.
#[derive(Args)]
pub struct Controller {
    /// The namespace of the controller itself
    #[arg(long, value_name = "NAME", env = "POD_NAMESPACE", default_value = "redis-mesh-system")]
    namespace: String,
    /// Istio's root namespace
    #[arg(long, value_name = "NAME", default_value = "istio-system")]
    root_namespace: String,
    /// The domain of the cluster: hosts under .svc.DOMAIN are Services
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local")]
    cluster_domain: String,
    /// How the filter gets the rules of a host
    #[arg(long, value_enum, default_value_t = RuleDelivery::Auto)]
    delivery: RuleDelivery,
    /// The wasm filter that is served to proxies [default: redis_mesh.wasm beside this program]
    #[arg(long, value_name = "PATH", conflicts_with = "filter_url")]
    filter: Option<PathBuf>,
    /// Where proxies fetch the wasm filter instead of from this controller: oci://, http(s):// or file:// (a file in the
    /// proxy's container)
    #[arg(long, value_name = "URL")]
    filter_url: Option<String>,
    /// The SHA-256 of the filter at --filter-url, against which proxies check what they fetch
    #[arg(long, value_name = "HEX", requires = "filter_url", value_parser = sha256)]
    filter_sha256: Option<String>,
    /// Where proxies reach this controller [default: http://redis-mesh.NAMESPACE.svc.DOMAIN:8080]
    #[arg(long, value_name = "URL")]
    advertise_url: Option<String>,
    /// A namespace whose pods may have the dynamic module for Envoy 1.40: it is kept there in the ConfigMap redis-mesh-module. Those
    /// with the label redis-mesh.io/native=true, which mount it, are then served by it; repeatable
    #[arg(long = "module-namespace", value_name = "NAME", conflicts_with = "module_path")]
    module_namespaces: Vec<String>,
    /// The dynamic module [default: libredis_mesh_native.so beside this program]
    #[arg(long, value_name = "PATH", requires = "module_namespaces")]
    module: Option<PathBuf>,
    /// Where pods mount it
    #[arg(long, value_name = "DIR", default_value = "/etc/redis-mesh")]
    module_directory: String,
    /// How long another version of the module is on its way into pods that run
    #[arg(long, value_name = "DURATION", default_value = "3m", value_parser = quantity::duration)]
    module_delay: Duration,
    /// Where pods with the label redis-mesh.io/native=true find the dynamic module, where it comes to them in another way. Another
    /// version of it must have another path
    #[arg(long, value_name = "PATH", value_parser = module)]
    module_path: Option<DynamicModule>,
    /// Where to serve /metrics, /healthz, /readyz and the filter
    #[arg(long, value_name = "ADDR:PORT", default_value = "0.0.0.0:8080")]
    listen: SocketAddr,
    /// The Lease that decides which replica writes
    #[arg(long, value_name = "NAME", default_value = "redis-mesh")]
    lease: String,
    /// How long nothing must have changed before changes are acted upon
    #[arg(long, value_name = "DURATION", default_value = "100ms", value_parser = quantity::duration)]
    debounce: Duration,
    /// How long changes wait at most while there are more of them
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = quantity::duration)]
    max_debounce: Duration,
    /// How the API server is reached [default: as a pod of the cluster, else KUBECONFIG]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// How logs are written [default: text on a terminal, else json]
    #[arg(long, value_enum)]
    log_format: Option<LogFormat>,
    /// What is logged: error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL", env = "REDIS_MESH_LOG", default_value = "info")]
    log_level: String,
}

impl Controller {
    /// Runs until the process is told to end. An error is what keeps it from starting.
    pub fn run(self) -> Result<(), String> {
        telemetry::log(self.log_format, &self.log_level)?;
        let filter = self.filter()?;
        let module = self.module()?;
        run::run(ControllerConfig {
            namespace: self.namespace,
            root_namespace: self.root_namespace,
            cluster_domain: self.cluster_domain,
            per_host: self.delivery == RuleDelivery::PerHost,
            filter,
            module,
            listen: self.listen,
            lease: self.lease,
            debounce: self.debounce,
            max_debounce: self.max_debounce,
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
