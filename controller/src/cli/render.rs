//! `redis-mesh render`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::Args;

use crate::build::handshake::HandshakeKey;
use crate::build::standalone::{self, Listen};
use crate::diagnostic::{Diagnostics, Reason, Subject};
use crate::yaml;

use super::{Input, input};

/// The name of the filter's file.
const FILTER: &str = "redis_mesh.wasm";

/// Arguments of `render envoy`.
#[derive(Args)]
#[command(
    long_about = "Write a complete configuration for an Envoy that runs by itself to stdout.\n\n\
        Each host that a RedisService or a RedisDestination names gets a listener: on the clusterIP and port of its Service, or \
        where --listen says. Upstream addresses are those of the EndpointSlices, else the host's name is resolved by DNS. The same \
        manifests therefore work in a mesh and on one machine.\n\n\
        The output holds the passwords of Redis in clear, because Envoy takes them no other way: keep it from being read by others.",
    after_help = "Example:\n  redis-mesh render envoy -f manifests/ > envoy.yaml && envoy -c envoy.yaml"
)]
pub struct Envoy {
    #[command(flatten)]
    input: Input,
    /// Where the clients of a host connect, instead of its Service's clusterIP; repeatable
    #[arg(long, value_name = "HOST[:PORT]=ADDR:PORT", value_parser = listen)]
    listen: Vec<Listen>,
    /// The wasm filter [default: redis_mesh.wasm beside this program, else the one built in the workspace]
    #[arg(long, value_name = "PATH")]
    filter: Option<PathBuf>,
    /// The secret by which the filter and redis_proxy recognise each other [default: made from the manifests]
    #[arg(long, value_name = "KEY", env = "REDIS_MESH_HANDSHAKE_KEY", hide_env_values = true)]
    handshake_key: Option<String>,
    /// Envoy's administration interface; none to leave it out
    #[arg(long, value_name = "ADDR:PORT|none", default_value = "127.0.0.1:9901", value_parser = admin)]
    admin: Admin,
    /// The number of worker threads, noted in the output's first lines (Envoy takes it as its own option --concurrency)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    concurrency: Option<u32>,
    /// The number of this configuration; raise it whenever the running one is replaced
    #[arg(long, value_name = "N", default_value_t = 1)]
    revision: u64,
    /// The namespace of the clients, where objects of several namespaces govern one host
    #[arg(long, value_name = "NAME")]
    client_namespace: Option<String>,
}

#[derive(Clone, Debug)]
struct Admin(Option<SocketAddr>);

fn admin(text: &str) -> Result<Admin, String> {
    if text == "none" {
        return Ok(Admin(None));
    }
    text.parse().map(|address| Admin(Some(address))).map_err(|_| "not ADDR:PORT, such as 127.0.0.1:9901".to_owned())
}

fn listen(text: &str) -> Result<Listen, String> {
    let wrong = || "not HOST=ADDR:PORT, such as redis.example.com=127.0.0.1:6379".to_owned();
    let (host, address) = text.split_once('=').ok_or_else(wrong)?;
    let address = address.parse().map_err(|_| wrong())?;
    let (host, port) = match host.rsplit_once(':') {
        Some((host, port)) => (host, Some(port.parse::<u16>().map_err(|_| wrong())?)),
        None => (host, None),
    };
    if host.is_empty() {
        return Err(wrong());
    }
    Ok(Listen { host: host.to_ascii_lowercase(), port, address })
}

impl Envoy {
    /// Renders.
    pub fn run(self, diagnostics: &mut Diagnostics) -> Option<String> {
        let mut ports: BTreeMap<String, BTreeSet<u16>> = BTreeMap::new();
        for listen in &self.listen {
            if let Some(port) = listen.port {
                ports.entry(listen.host.clone()).or_default().insert(port);
            }
        }
        let loaded = input::load(&self.input, ports, diagnostics);
        let filter = filter(self.filter.as_deref(), diagnostics);
        let key = match &self.handshake_key {
            Some(key) => HandshakeKey::given(key),
            None => HandshakeKey::derived(&loaded.services),
        };
        let options = standalone::Options {
            filter: filter.unwrap_or_default(),
            listen: self.listen,
            admin: self.admin.0,
            client_namespace: self.client_namespace,
            revision: self.revision,
            handshake_key: key,
        };
        let bootstrap = standalone::build(&loaded.services, &options, diagnostics);
        if diagnostics.has_errors() {
            return None;
        }
        let concurrency = self.concurrency.map(|count| format!(" --concurrency {count}")).unwrap_or_default();
        Some(format!(
            "# Written by redis-mesh {}. It holds the passwords of Redis in clear.\n# Run it with: envoy -c FILE{concurrency}\n{}",
            env!("CARGO_PKG_VERSION"),
            yaml::document(&bootstrap)
        ))
    }
}

/// The file of the filter: as given, else beside this program, else as built in the workspace.
fn filter(given: Option<&Path>, diagnostics: &mut Diagnostics) -> Option<String> {
    let mut report = |message: String| diagnostics.add(&Subject::default(), "", Reason::Unresolved, message);
    let candidates = match given {
        Some(path) => vec![path.to_owned()],
        None => candidates(),
    };
    let Some(found) = candidates.iter().find(|path| path.is_file()) else {
        match given {
            Some(path) => report(format!("--filter: there is no file {}", path.display())),
            None => report(format!(
                "the filter {FILTER} is neither beside this program nor built in the workspace; build it with `just filter`, or name it with --filter"
            )),
        }
        return None;
    };
    // Envoy may be started in another directory.
    match std::path::absolute(found).map(|path| path.into_os_string().into_string()) {
        Ok(Ok(path)) => Some(path),
        _ => {
            report(format!("the filter's path {} is not UTF-8 text", found.display()));
            None
        }
    }
}

fn candidates() -> Vec<PathBuf> {
    let mut candidates = Vec::new();
    if let Ok(program) = std::env::current_exe() {
        candidates.extend(program.parent().map(|directory| directory.join(FILTER)));
    }
    let built = Path::new("wasm32-wasip1/filter").join(FILTER);
    if let Some(target) = std::env::var_os("CARGO_TARGET_DIR") {
        candidates.push(Path::new(&target).join(&built));
    }
    // Where this program was built, as long as the workspace is still there.
    if let Some(workspace) = Path::new(env!("CARGO_MANIFEST_DIR")).parent() {
        candidates.push(workspace.join("target").join(&built));
    }
    candidates
}
