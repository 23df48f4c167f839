//! The controller: keeps a mesh as its RedisServices and RedisDestinations say.
//!
//! Watches ([`watch`]) put what the API server shows into one channel. One task ([`reconcile`])
//! takes it into the [`store`] and, when nothing more comes for a moment, runs a sync ([`sync`]):
//! changed objects are evaluated, what follows from all of them is planned, compared with the
//! cluster, and applied in an order that keeps traffic going ([`order`]); the result is written
//! into statuses ([`report`]).

mod announcer;
mod applier;
mod backoff;
mod change;
mod digest;
mod digest_cache;
mod evaluation;
mod filter;
mod handshake;
mod http;
mod index;
mod installation;
mod kept;
mod lease;
mod listings;
pub mod module;
mod names;
mod observed;
mod order;
mod place;
mod ports;
mod queue;
mod readiness;
mod reconcile;
mod rendered;
mod report;
mod request;
pub mod root;
mod secrets;
mod source;
mod state;
mod store;
mod store_error;
mod sync;
mod sync_state;
pub mod telemetry;
mod update_status;
mod urgency;
mod watch;
pub mod witness;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use redis_mesh_core::hex::to_hex;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch as watch_channel;
use tracing::{error, info};

use crate::render::handshake::HandshakeKey;
use crate::render::mesh_options::MeshOptions;
use crate::render::native::DynamicModule;
use crate::validate::options::{ModuleAvailability, ValidateOptions, system_clock};

use announcer::Announcer;
use filter::Filters;
use http::HttpState;
use installation::{ElectionChannels, Installation, InstallationElection, Standing};
use module::{Delivered, ModuleDelivery};
use ports::DeclaredPorts;
use readiness::{Readiness, WriteObstacle};
use reconcile::Reconciler;
use request::chain;
use root::{RootFinding, RootReader, RootSettings};
use sync_state::{ReconcileSettings, SyncState};
use telemetry::ControllerMetrics;
use witness::admin::WitnessAdmin;
use witness::journal::UndoJournal;
use witness::settings::WitnessSettings;
use witness::state::Witness;

/// The time that the election gets to give the Lease back when the process ends.
const RELEASE: Duration = Duration::from_secs(3);

/// The configuration of the controller, as the command line gives it.
pub struct ControllerConfig {
    /// The namespace of the controller.
    pub namespace: String,
    /// The places where Istio's root namespace is named.
    pub root: RootSettings,
    /// The domain of the cluster.
    pub cluster_domain: String,
    /// True if each host is configured by itself.
    pub per_host: bool,
    /// The ports that have a WasmPlugin from the beginning.
    pub ports: BTreeSet<u16>,
    /// The place where proxies fetch the filter.
    pub filter: FilterSource,
    /// The way in which sidecars get the dynamic module.
    pub module: ModuleSource,
    /// The address at which `/metrics`, `/healthz`, `/readyz` and the filter are served.
    pub listen: SocketAddr,
    /// The name of the Lease that decides which replica writes.
    pub lease: String,
    /// How long changes wait for others.
    pub debounce: DebounceTimes,
    /// The proxies that are asked what they have taken.
    pub witness: WitnessSettings,
    /// The kubeconfig; none: as a pod of the cluster, else `KUBECONFIG`.
    pub kubeconfig: Option<PathBuf>,
}

/// How long changes wait for others, so that one sync takes in all of them.
pub struct DebounceTimes {
    /// The time without changes after which a sync begins.
    pub quiet: Duration,
    /// The longest time that a change waits for a sync.
    pub longest: Duration,
}

/// The place where proxies fetch the filter.
pub enum FilterSource {
    /// From this controller.
    Served {
        /// The filter's file.
        path: PathBuf,
        /// The URL at which proxies reach this controller.
        base_url: String,
    },
    /// From a URL.
    Url {
        /// The URL.
        url: String,
        /// The SHA-256 of the file or image there, in hexadecimal digits.
        sha256: Option<String>,
    },
}

/// The way in which sidecars get the dynamic module.
pub enum ModuleSource {
    /// No sidecar has it.
    None,
    /// The file is in the sidecars at this path.
    Present(DynamicModule),
    /// This controller keeps it in a ConfigMap of each namespace, which pods mount.
    ConfigMaps {
        /// The module's file.
        path: PathBuf,
        /// The namespaces.
        namespaces: BTreeSet<String>,
        /// The directory where pods mount the ConfigMap.
        directory: String,
        /// The time in which another version of the file reaches pods that run.
        delay: Duration,
    },
}

/// Runs the controller until the process is told to end. Returns an error if it can't start.
pub fn run(config: ControllerConfig) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        // One task decides, in the main thread. Each further thread for the rest would keep
        // memory of its own.
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|error| format!("no worker threads available: {error}"))?;
    runtime.block_on(serve(config))
}

async fn serve(config: ControllerConfig) -> Result<(), String> {
    let witnesses = config.witness.urls.iter().map(|url| WitnessAdmin::new(url));
    let witnesses: Vec<WitnessAdmin> = witnesses.collect::<Result<_, String>>()?;
    let client = client(config.kubeconfig.as_deref()).await?;
    let listener = http::bind(config.listen).await?;
    let (filters, filter_url, filter_sha256) = filters(&config, &client)?;
    let handshake_key = handshake::key(&client, &config.namespace).await?;
    if let Some(sha256) = &filter_sha256
        && let Err(error) = filters.publish(sha256).await
    {
        // Only replicas of other versions need it.
        error!(
            error = chain(&error),
            "the filter could not be put into a ConfigMap; during an upgrade, sidecars that start may not get it"
        );
    }
    let state = HttpState { filters, metrics: ControllerMetrics::default(), readiness: Readiness::default() };
    let http = Arc::new(state);
    let identity = identity()?;
    let (leads, leadership) = tokio::sync::watch::channel(lease::Leadership::default());
    let election = lease::Election::new(&client, &config.namespace, &config.lease, identity.clone());
    let election = tokio::spawn(election.run(leads));
    let standing = mesh_election(&config, &client, &identity, leadership, http.clone());
    let (delivers, delivered) = tokio::sync::watch::channel(Delivered::default());
    if let ModuleSource::ConfigMaps { path, namespaces, directory, delay } = &config.module {
        let file = module::read(path)?;
        match module::check_size(file.len()) {
            Ok(()) => {
                let delivery = ModuleDelivery::new(client.clone(), namespaces.clone(), directory, file, *delay);
                tokio::spawn(delivery.run(standing.clone(), delivers));
            }
            // Hosts are served without the module; the statuses of objects have the same message.
            Err(problem) => {
                error!(code = problem.code.text(), "{problem}");
                delivers.send_replace(Delivered::Refused(problem));
            }
        }
    }
    let shown = filter_url.clone();
    let settings = settings(&config, identity, (filter_url, filter_sha256), handshake_key);
    info!(version = env!("CARGO_PKG_VERSION"), listen = %config.listen, filter = shown, "starting");
    let journal = UndoJournal::new(client.clone(), &config.namespace);
    let mut state = SyncState::new(client, settings, http.clone(), standing);
    if !witnesses.is_empty() {
        state.witness = Some(Witness::start(witnesses, config.witness.policy, journal, http.clone()));
    }
    let reconciler = Reconciler::new(state, delivered);
    let result = tokio::select! {
        result = http::serve(listener, http) => result.map_err(|error| format!("--listen: {error}")),
        () = reconciler.run() => Ok(()),
        () = stopped() => Ok(()),
    };
    // The reconciler was dropped, and with it the last receiver of the standing, so that the election
    // gives the Lease of the replicas back and ends. That of the mesh stays with the installation.
    let _ = tokio::time::timeout(RELEASE, election).await;
    info!("stopped");
    result
}

/// Starts what finds out Istio's root namespace and whether this installation may write there.
fn mesh_election(
    config: &ControllerConfig,
    client: &Client,
    identity: &str,
    leads: watch_channel::Receiver<lease::Leadership>,
    http: Arc<HttpState>,
) -> watch_channel::Receiver<Standing> {
    let (finds, found) = watch_channel::channel(RootFinding::Pending);
    let reader = RootReader::new(client.clone(), config.root.clone());
    tokio::spawn(reader.run(finds));
    let announcer = Announcer::new(client.clone(), &config.namespace, identity);
    tokio::spawn(announcer.run(found.clone(), http.clone()));
    let (stands, standing) = watch_channel::channel(Standing::default());
    let us = Installation { namespace: config.namespace.clone(), lease: config.lease.clone() };
    let election = InstallationElection::new(client.clone(), us);
    let channels = ElectionChannels { leads, root: found, standing: stands };
    let tell = move |words| http.readiness.set(WriteObstacle::Installation, words);
    tokio::spawn(election.run(channels, tell));
    standing
}

/// The settings of the reconciler. The pair is the filter's URL and SHA-256.
fn settings(
    config: &ControllerConfig,
    identity: String,
    (filter_url, filter_sha256): (String, Option<String>),
    handshake_key: HandshakeKey,
) -> ReconcileSettings {
    let (module, availability) = match &config.module {
        ModuleSource::None => (None, ModuleAvailability::Nobody),
        ModuleSource::Present(module) => (Some(module.clone()), ModuleAvailability::Sidecars),
        ModuleSource::ConfigMaps { .. } => (None, ModuleAvailability::Sidecars),
    };
    ReconcileSettings {
        controller: config.namespace.clone(),
        identity,
        mesh: MeshOptions {
            filter_url,
            filter_sha256,
            // Nothing is evaluated before it is known.
            root_namespace: String::new(),
            per_host: config.per_host,
            // They are declared when sidecars can fetch the filter.
            ports: BTreeSet::new(),
            listen: Vec::new(),
            handshake_key,
            module,
            other_modules: BTreeSet::new(),
            is_dual_stack: false,
        },
        validate: ValidateOptions {
            cluster_domain: config.cluster_domain.clone(),
            module: availability,
            clock: Some(system_clock),
            ..ValidateOptions::default()
        },
        module_refusal: None,
        ports: DeclaredPorts::new(config.ports.clone(), matches!(config.filter, FilterSource::Served { .. })),
        debounce: config.debounce.quiet,
        max_debounce: config.debounce.longest,
    }
}

async fn client(kubeconfig: Option<&Path>) -> Result<Client, String> {
    let config = match kubeconfig {
        Some(path) => {
            let file = Kubeconfig::read_from(path).map_err(|error| format!("--kubeconfig: {}", chain(&error)))?;
            let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await;
            config.map_err(|error| format!("--kubeconfig {}: {}", path.display(), chain(&error)))?
        }
        None => Config::infer().await.map_err(|error| {
            format!("this is no pod, and there is no kubeconfig; name one with --kubeconfig: {}", chain(&error))
        })?,
    };
    Client::try_from(config).map_err(|error| chain(&error))
}

/// The filters to serve, and the URL and the SHA-256 by which proxies fetch theirs.
fn filters(config: &ControllerConfig, client: &Client) -> Result<(Filters, String, Option<String>), String> {
    match &config.filter {
        FilterSource::Url { url, sha256 } => Ok((Filters::none(), url.clone(), sha256.clone())),
        FilterSource::Served { path, base_url } => {
            let file = filter::read(path)?;
            let sha256 = filter::sha256(&file);
            let url = format!("{}/filter/{sha256}.wasm", base_url.trim_end_matches('/'));
            Ok((Filters::new(client, &config.namespace, file), url, Some(sha256)))
        }
    }
}

/// Returns when the process is told to end.
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

/// The name of this replica. The random part tells a process from one before it in a pod of the
/// same name.
fn identity() -> Result<String, String> {
    let name = std::env::var("POD_NAME").or_else(|_| std::env::var("HOSTNAME"));
    let mut random = [0u8; 4];
    getrandom::fill(&mut random).map_err(|error| format!("the system has no random numbers: {error}"))?;
    Ok(format!("{}_{}", name.unwrap_or_else(|_| "redis-mesh".to_owned()), to_hex(&random)))
}
