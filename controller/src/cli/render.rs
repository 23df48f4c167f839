//! `redis-mesh render`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use redis_mesh_core::wire::DataPath;

use crate::build::handshake::HandshakeKey;
use crate::build::mesh;
use crate::build::native;
use crate::build::redact;
use crate::build::standalone::{self, Listen};
use crate::diagnostic::{Diagnostics, Reason, Subject};
use crate::validate::Module;
use crate::yaml;

use super::{Input, input};

/// The name of the filter's file, and where the workspace builds it.
const FILTER: (&str, &str) = ("redis_mesh.wasm", "wasm32-wasip1/filter");
/// The same of the dynamic module.
const MODULE: (&str, &str) = ("libredis_mesh_native.so", "module");

/// Arguments of `render envoy`.
#[derive(Args)]
#[command(after_help = "Example:\n  redis-mesh render envoy -f manifests/ > envoy.yaml && envoy -c envoy.yaml")]
pub struct Envoy {
    #[command(flatten)]
    input: Input,
    /// Where the clients of a host connect, instead of its Service's clusterIP; repeatable
    #[arg(long, value_name = "HOST[:PORT]=ADDR:PORT", value_parser = listen)]
    listen: Vec<Listen>,
    /// The wasm filter [default: redis_mesh.wasm beside this program, else the one built in the workspace]
    #[arg(long, value_name = "PATH")]
    filter: Option<PathBuf>,
    /// The dynamic module for Envoy 1.40, which then serves every host that isn't pinned to another data path [default, for
    /// hosts that are pinned to native: libredis_mesh_native.so beside this program, else the one built in the workspace]
    #[arg(long, value_name = "PATH")]
    module: Option<PathBuf>,
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
        let has_module = if self.module.is_some() { Module::Envoy } else { Module::Unknown };
        let services = input::load(&self.input, ports(&self.listen), has_module, diagnostics);
        let needs_module = services.iter().any(|service| service.path == DataPath::Native);
        let needs_filter = services.iter().any(|service| service.path != DataPath::Native);
        let filter = file(self.filter.as_deref(), needs_filter, FILTER, "--filter", diagnostics);
        let module = file(self.module.as_deref(), needs_module, MODULE, "--module", diagnostics);
        let key = match &self.handshake_key {
            Some(key) => HandshakeKey::given(key),
            None => HandshakeKey::derived(&services),
        };
        let options = standalone::Options {
            filter: filter.unwrap_or_default(),
            module: native::Module::only(module.unwrap_or_default()),
            listen: self.listen,
            admin: self.admin.0,
            client_namespace: self.client_namespace,
            revision: self.revision,
            handshake_key: key,
        };
        let bootstrap = standalone::build(&services, &options, diagnostics);
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

/// Arguments of `render istio`.
#[derive(Args)]
#[command(
    after_help = "Example:\n  redis-mesh render istio -f manifests/ --filter-url oci://registry.example.com/redis-mesh:1.0 --show-secrets | kubectl apply -f -"
)]
pub struct Istio {
    #[command(flatten)]
    input: Input,
    /// Where proxies fetch the wasm filter: oci://, http(s):// or file:// (a file in the proxy's container)
    #[arg(long, value_name = "URL")]
    filter_url: String,
    /// The filter's SHA-256, against which proxies check what they fetch
    #[arg(long, value_name = "HEX", value_parser = sha256)]
    filter_sha256: Option<String>,
    /// Istio's root namespace
    #[arg(long, value_name = "NAME", default_value = "istio-system")]
    root_namespace: String,
    /// How the filter gets the rules of a host
    #[arg(long, value_enum, default_value_t = Delivery::Auto)]
    delivery: Delivery,
    /// The address of a host that is no Service, such as that of its ServiceEntry; repeatable
    #[arg(long, value_name = "HOST[:PORT]=ADDR:PORT", value_parser = listen)]
    listen: Vec<Listen>,
    /// The secret by which the filter and redis_proxy recognise each other [default: made from the manifests]
    #[arg(long, value_name = "KEY", env = "REDIS_MESH_HANDSHAKE_KEY", hide_env_values = true)]
    handshake_key: Option<String>,
    /// The dynamic module as proxies find it that have it: an absolute path in their containers, with a name that no other
    /// version of it has. Hosts are served by it where pods have the label redis-mesh.io/native=true
    #[arg(long, value_name = "PATH", value_parser = module)]
    module: Option<native::Module>,
    /// The number of this configuration; raise it with every one that is applied
    #[arg(long, value_name = "N", default_value_t = 1)]
    revision: u64,
    /// Write passwords and private keys in clear. Without it the output is only to be looked at
    #[arg(long)]
    show_secrets: bool,
}

/// How the filter gets the rules of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Delivery {
    /// In one WasmPlugin for each port; by itself where it holds the password of a Redis, or where that grows too large
    Auto,
    /// Each host by itself, in an EnvoyFilter
    PerHost,
}

/// Reads the path of the module in a container.
pub fn module(text: &str) -> Result<native::Module, String> {
    if !text.starts_with('/') {
        return Err("not an absolute path".to_owned());
    }
    Ok(native::Module::among_others(text.to_owned()))
}

/// Reads a checksum.
pub fn sha256(text: &str) -> Result<String, String> {
    let is_hex = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_hex { Ok(text.to_ascii_lowercase()) } else { Err("not 64 hexadecimal digits".to_owned()) }
}

impl Istio {
    /// Renders.
    pub fn run(self, diagnostics: &mut Diagnostics) -> Option<String> {
        let has_module = if self.module.is_some() { Module::Sidecars } else { Module::Nobody };
        let services = input::load(&self.input, ports(&self.listen), has_module, diagnostics);
        let (services, handshake_key) = match (self.show_secrets, &self.handshake_key) {
            (true, Some(key)) => (services, HandshakeKey::given(key)),
            (true, None) => {
                let key = HandshakeKey::derived(&services);
                (services, key)
            }
            (false, _) => (redact::services(&services), HandshakeKey::redacted()),
        };
        let options = mesh::Options {
            filter_url: self.filter_url,
            filter_sha256: self.filter_sha256,
            root_namespace: self.root_namespace,
            per_host: self.delivery == Delivery::PerHost,
            listen: self.listen,
            handshake_key,
            module: self.module,
            other_modules: BTreeSet::new(),
        };
        let objects = mesh::build(&services, &options, self.revision, diagnostics);
        if diagnostics.has_errors() {
            return None;
        }
        let text = yaml::stream(&objects);
        let is_redacted = text.contains(redact::REDACTED);
        let head = if self.show_secrets {
            "It may hold the passwords of Redis in clear."
        } else if is_redacted {
            eprintln!("note: passwords are written as {}; add --show-secrets for output to apply", redact::REDACTED);
            "Passwords are redacted: not to be applied. Add --show-secrets for that."
        } else {
            "It holds no secrets."
        };
        Some(format!("# Written by redis-mesh {}. {head}\n{text}", env!("CARGO_PKG_VERSION")))
    }
}

/// The ports of hosts that are no Services.
fn ports(listen: &[Listen]) -> BTreeMap<String, BTreeSet<u16>> {
    let mut ports: BTreeMap<String, BTreeSet<u16>> = BTreeMap::new();
    for listen in listen {
        if let Some(port) = listen.port {
            ports.entry(listen.host.clone()).or_default().insert(port);
        }
    }
    ports
}

/// The file of the filter or of the module: as given, else beside this program, else as built in the workspace.
fn file(
    given: Option<&Path>,
    is_needed: bool,
    (name, built): (&str, &str),
    option: &str,
    diagnostics: &mut Diagnostics,
) -> Option<String> {
    let mut report = |message: String| diagnostics.add(&Subject::default(), "", Reason::Unresolved, message);
    let candidates = match given {
        Some(path) => vec![path.to_owned()],
        None if is_needed => beside(name, built),
        None => return None,
    };
    let Some(found) = candidates.iter().find(|path| path.is_file()) else {
        match given {
            Some(path) => report(format!("{option}: there is no file {}", path.display())),
            None => report(format!(
                "{name} is neither beside this program nor built in the workspace; build it with `just {}`, or name it with {option}",
                option.trim_start_matches('-')
            )),
        }
        return None;
    };
    // Envoy may be started in another directory.
    match std::path::absolute(found).map(|path| path.into_os_string().into_string()) {
        Ok(Ok(path)) => Some(path),
        _ => {
            report(format!("{option}: the path {} is not UTF-8 text", found.display()));
            None
        }
    }
}

/// Where the filter may be.
pub fn candidates() -> Vec<PathBuf> {
    beside(FILTER.0, FILTER.1)
}

/// Where the dynamic module may be.
pub fn modules() -> Vec<PathBuf> {
    beside(MODULE.0, MODULE.1)
}

fn beside(name: &str, built: &str) -> Vec<PathBuf> {
    let mut candidates = Vec::new();
    if let Ok(program) = std::env::current_exe() {
        candidates.extend(program.parent().map(|directory| directory.join(name)));
    }
    let built = Path::new(built).join(name);
    if let Some(target) = std::env::var_os("CARGO_TARGET_DIR") {
        candidates.push(Path::new(&target).join(&built));
    }
    // Where this program was built, as long as the workspace is still there.
    if let Some(workspace) = Path::new(env!("CARGO_MANIFEST_DIR")).parent() {
        candidates.push(workspace.join("target").join(&built));
    }
    candidates
}
