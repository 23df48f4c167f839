//! `redis-mesh render envoy`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use redis_mesh_core::wire::DataPath;

use crate::render::handshake::HandshakeKey;
use crate::render::listen::ListenOverride;
use crate::render::native;
use crate::render::standalone;
use crate::validate::options::ModuleAvailability;
use crate::yaml;

use super::artifacts::{self, FILTER, MODULE};
use super::input::{self, Input};
use super::listen::{listen, ports};
use super::session::CliSession;

/// Arguments of `render envoy`.
#[derive(Args)]
#[command(after_help = "Example:\n  redis-mesh render envoy -f manifests/ > envoy.yaml && envoy -c envoy.yaml")]
pub struct Envoy {
    #[command(flatten)]
    input: Input,
    /// The address to which the clients of a host connect, instead of its Service's clusterIP;
    /// repeatable
    #[arg(long, value_name = "HOST[:PORT]=ADDR:PORT", value_parser = listen)]
    listen: Vec<ListenOverride>,
    /// The wasm filter [default: redis_mesh.wasm beside this program, else the one built in the
    /// workspace]
    #[arg(long, value_name = "PATH")]
    filter: Option<PathBuf>,
    /// The dynamic module for Envoy 1.40, which then serves every host that isn't pinned to
    /// another data path [default for hosts that are pinned to native: libredis_mesh_native.so
    /// beside this program, else the one built in the workspace]
    #[arg(long, value_name = "PATH")]
    module: Option<PathBuf>,
    /// The secret by which the filter and redis_proxy recognise each other [default: made from
    /// the manifests]
    #[arg(long, value_name = "KEY", env = "REDIS_MESH_HANDSHAKE_KEY", hide_env_values = true)]
    handshake_key: Option<String>,
    /// Envoy's administration interface; none to leave it out
    #[arg(long, value_name = "ADDR:PORT|none", default_value = "127.0.0.1:9901", value_parser = admin)]
    admin: Admin,
    /// The number of worker threads, noted in the output's first lines (Envoy takes it as its own
    /// option --concurrency)
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

impl Envoy {
    /// Renders the bootstrap document.
    pub fn run(self, session: &mut CliSession) -> Option<String> {
        let has_module = if self.module.is_some() { ModuleAvailability::Envoy } else { ModuleAvailability::Unknown };
        let services = input::load(&self.input, &self.input.options(ports(&self.listen), has_module), session);
        let diagnostics = &mut session.diagnostics;
        let needs_module = services.iter().any(|service| service.path == DataPath::Native);
        let needs_filter = services.iter().any(|service| service.path != DataPath::Native);
        let filter = artifacts::file(self.filter.as_deref(), needs_filter, FILTER, "--filter", diagnostics);
        let module = artifacts::file(self.module.as_deref(), needs_module, MODULE, "--module", diagnostics);
        let key = match &self.handshake_key {
            Some(key) => HandshakeKey::given(key),
            None => HandshakeKey::derived(&services),
        };
        let options = standalone::StandaloneOptions {
            filter: filter.unwrap_or_default(),
            module: native::DynamicModule::only(module.unwrap_or_default()),
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
