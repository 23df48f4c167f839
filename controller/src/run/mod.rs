//! `redis-mesh controller`: keeps a mesh as RedisServices and RedisDestinations say.
//!
//! What is watched goes into the [`world`], objects that a change concerns are validated and prepared as
//! `redis-mesh render istio` does it, what follows from all of them together is compared with what is there ([`apply`]), and what became of
//! it is written into statuses ([`update_status`]). One task does all of that in turn ([`reconcile`], [`pass`]); whatever talks to the API
//! server does so beside it.

mod apply;
mod filter;
mod handshake;
mod http;
mod lease;
mod module;
mod pass;
mod reconcile;
mod telemetry;
mod update_status;
mod watch;
mod world;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clap::Args;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use redis_mesh_core::hex::to_hex;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info};

use crate::build::mesh;
use crate::build::native::Module;
use crate::quantity;
use crate::validate;

use filter::Filters;
use module::{Delivered, Delivery};
use reconcile::Reconciler;
use telemetry::{LogFormat, Metrics};

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
    #[arg(long, value_enum, default_value_t = crate::cli::render::Delivery::Auto)]
    delivery: crate::cli::render::Delivery,
    /// The wasm filter that is served to proxies [default: redis_mesh.wasm beside this program]
    #[arg(long, value_name = "PATH", conflicts_with = "filter_url")]
    filter: Option<PathBuf>,
    /// Where proxies fetch the wasm filter instead of from this controller: oci://, http(s):// or file:// (a file in the
    /// proxy's container)
    #[arg(long, value_name = "URL")]
    filter_url: Option<String>,
    /// The SHA-256 of the filter at --filter-url, against which proxies check what they fetch
    #[arg(long, value_name = "HEX", requires = "filter_url", value_parser = crate::cli::render::sha256)]
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
    #[arg(long, value_name = "PATH", value_parser = crate::cli::render::module)]
    module_path: Option<Module>,
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
    /// Runs until it is told to stop. What keeps it from beginning is an error.
    pub fn run(self) -> Result<(), String> {
        telemetry::log(self.log_format, &self.log_level)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            // One task decides, in the main thread. More threads for what is beside it would each keep memory of their own.
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(|error| format!("no threads are to be had: {error}"))?;
        runtime.block_on(self.serve())
    }

    async fn serve(self) -> Result<(), String> {
        let client = self.client().await?;
        let listener = http::bind(self.listen).await?;
        let (filters, filter_url, filter_sha256) = self.filters(&client)?;
        let handshake_key = handshake::key(&client, &self.namespace).await?;
        if let Some(sha256) = &filter_sha256
            && let Err(error) = filters.publish(sha256).await
        {
            // Only replicas of other versions would need it.
            error!(
                error = chain(&error),
                "the filter can't be put into a ConfigMap; an upgrade may refuse new proxies"
            );
        }
        let served = Arc::new(http::Served { filters, metrics: Metrics::default(), ready: AtomicBool::new(false) });
        let identity = std::env::var("POD_NAME").or_else(|_| std::env::var("HOSTNAME"));
        let identity = format!("{}_{}", identity.unwrap_or_else(|_| "redis-mesh".to_owned()), nonce()?);
        let (leads, is_leader) = tokio::sync::watch::channel(lease::Leadership::default());
        let election = lease::Election::new(&client, &self.namespace, &self.lease, identity.clone());
        let election = tokio::spawn(election.run(leads));
        let delivery = self.delivery(&client)?;
        let has_module = delivery.is_some() || self.module_path.is_some();
        let (delivers, delivered) = tokio::sync::watch::channel(Delivered::default());
        if let Some(delivery) = delivery {
            tokio::spawn(delivery.run(is_leader.clone(), delivers));
        }
        let settings = reconcile::Settings {
            controller: self.namespace.clone(),
            identity,
            mesh: mesh::Options {
                filter_url: filter_url.clone(),
                filter_sha256,
                root_namespace: self.root_namespace,
                per_host: self.delivery == crate::cli::render::Delivery::PerHost,
                listen: Vec::new(),
                handshake_key,
                module: self.module_path,
                other_modules: BTreeSet::new(),
            },
            validate: validate::Options {
                cluster_domain: self.cluster_domain,
                module: if has_module { validate::Module::Sidecars } else { validate::Module::Nobody },
                ..validate::Options::default()
            },
            debounce: self.debounce,
            max_debounce: self.max_debounce,
        };
        info!(version = env!("CARGO_PKG_VERSION"), listen = %self.listen, filter = filter_url, "begins");
        let reconciler = Reconciler::new(client, settings, served.clone(), is_leader, delivered);
        let result = tokio::select! {
            result = http::serve(listener, served) => result.map_err(|error| format!("--listen: {error}")),
            () = reconciler.run() => Ok(()),
            () = stopped() => Ok(()),
        };
        // The reconciler is gone, and with it whoever wants to know who leads: the Lease is given back.
        let _ = tokio::time::timeout(Duration::from_secs(3), election).await;
        info!("ends");
        result
    }

    async fn client(&self) -> Result<Client, String> {
        let config = match &self.kubeconfig {
            Some(path) => {
                let file = Kubeconfig::read_from(path).map_err(|error| format!("--kubeconfig: {}", chain(&error)))?;
                let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await;
                config.map_err(|error| format!("--kubeconfig {}: {}", path.display(), chain(&error)))?
            }
            None => Config::infer().await.map_err(|error| {
                format!("not in a pod, and no kubeconfig is to be had (--kubeconfig): {}", chain(&error))
            })?,
        };
        Client::try_from(config).map_err(|error| chain(&error))
    }

    /// How the dynamic module gets to sidecars, where this controller does that.
    fn delivery(&self, client: &Client) -> Result<Option<Delivery>, String> {
        if self.module_namespaces.is_empty() {
            return Ok(None);
        }
        let path = match &self.module {
            Some(path) => path.clone(),
            None => crate::cli::render::modules().into_iter().find(|path| path.is_file()).ok_or(
                "there is no libredis_mesh_native.so beside this program; name the module with --module, or --module-path",
            )?,
        };
        if !self.module_directory.starts_with('/') {
            return Err("--module-directory: not an absolute path".to_owned());
        }
        let namespaces = self.module_namespaces.iter().cloned().collect();
        let file = module::read(&path)?;
        Ok(Some(Delivery::new(client.clone(), namespaces, &self.module_directory, file, self.module_delay)))
    }

    /// The filters to serve, and where proxies are told to fetch theirs.
    fn filters(&self, client: &Client) -> Result<(Filters, String, Option<String>), String> {
        if let Some(url) = &self.filter_url {
            return Ok((Filters::none(), url.clone(), self.filter_sha256.clone()));
        }
        let path = match &self.filter {
            Some(path) => path.clone(),
            None => crate::cli::render::candidates().into_iter().find(|path| path.is_file()).ok_or(
                "there is no redis_mesh.wasm beside this program; name the filter with --filter, or --filter-url",
            )?,
        };
        let file = filter::read(&path)?;
        let sha256 = filter::sha256(&file);
        let base = self
            .advertise_url
            .clone()
            .unwrap_or_else(|| format!("http://redis-mesh.{}.svc.{}:8080", self.namespace, self.cluster_domain));
        let url = format!("{}/filter/{sha256}.wasm", base.trim_end_matches('/'));
        Ok((Filters::new(client, &self.namespace, file), url, Some(sha256)))
    }
}

/// Until the process is told to end.
async fn stopped() {
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// Tells replicas of one name apart.
fn nonce() -> Result<String, String> {
    let mut random = [0u8; 4];
    getrandom::fill(&mut random).map_err(|error| format!("no randomness is to be had: {error}"))?;
    Ok(to_hex(&random))
}

/// An error with everything that caused it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let message = error.to_string();
        if !text.contains(&message) {
            text = format!("{text}: {message}");
        }
        cause = error.source();
    }
    text
}
