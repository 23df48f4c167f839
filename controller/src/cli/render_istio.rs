//! `redis-mesh render istio`.

use std::collections::BTreeSet;

use clap::Args;

use crate::render::handshake::HandshakeKey;
use crate::render::listen::ListenOverride;
use crate::render::mesh;
use crate::render::mesh_options::MeshOptions;
use crate::render::native;
use crate::render::redact;
use crate::validate::options::{ModuleAvailability, ValidateOptions};
use crate::yaml;

use super::artifacts::{module, sha256};
use super::delivery::RuleDelivery;
use super::input::{self, Input};
use super::listen::{listen, ports};
use super::session::CliSession;
use super::stderr::tell;

/// Arguments of `render istio`.
#[derive(Args)]
#[command(
    after_help = "Example:\n  redis-mesh render istio -f manifests/ --filter-url oci://registry.example.com/redis-mesh:1.0 --show-secrets | kubectl apply -f -"
)]
pub struct Istio {
    #[command(flatten)]
    input: Input,
    /// The URL at which proxies fetch the wasm filter: oci://, http(s):// or file:// (a file in
    /// the proxy's container)
    #[arg(long, value_name = "URL")]
    filter_url: String,
    /// The filter's SHA-256, against which proxies check what they fetch
    #[arg(long, value_name = "HEX", value_parser = sha256)]
    filter_sha256: Option<String>,
    /// Istio's root namespace
    #[arg(long, value_name = "NAME", default_value = "istio-system")]
    root_namespace: String,
    /// The way in which the filter gets the rules of a host
    #[arg(long, value_enum, default_value_t = RuleDelivery::Auto)]
    delivery: RuleDelivery,
    /// The address of a host that is no Service, such as that of its ServiceEntry; repeatable
    #[arg(long, value_name = "HOST[:PORT]=ADDR:PORT", value_parser = listen)]
    listen: Vec<ListenOverride>,
    /// The secret by which the filter and redis_proxy recognise each other [default: made from
    /// the manifests]
    #[arg(long, value_name = "KEY", env = "REDIS_MESH_HANDSHAKE_KEY", hide_env_values = true)]
    handshake_key: Option<String>,
    /// The absolute path of the dynamic module in the proxies' containers; each version needs a
    /// path of its own. Pods with the label redis-mesh.io/native=true are served by it
    #[arg(long, value_name = "PATH", value_parser = module)]
    module: Option<native::DynamicModule>,
    /// The number of this configuration; raise it with every one that is applied
    #[arg(long, value_name = "N", default_value_t = 1)]
    revision: u64,
    /// Write passwords and private keys in clear. Without this option, the output is for reading
    /// and can't be applied
    #[arg(long)]
    show_secrets: bool,
}

impl Istio {
    /// Renders the objects.
    pub fn run(self, session: &mut CliSession) -> Option<String> {
        let has_module = if self.module.is_some() { ModuleAvailability::Sidecars } else { ModuleAvailability::Nobody };
        let validate = ValidateOptions {
            root_namespace: self.root_namespace.clone(),
            ..self.input.options(ports(&self.listen), has_module)
        };
        let services = input::load(&self.input, &validate, session);
        let diagnostics = &mut session.diagnostics;
        let (services, handshake_key) = match (self.show_secrets, &self.handshake_key) {
            (true, Some(key)) => (services, HandshakeKey::given(key)),
            (true, None) => {
                let key = HandshakeKey::derived(&services);
                (services, key)
            }
            (false, _) => (redact::services(&services), HandshakeKey::redacted()),
        };
        let options = MeshOptions {
            filter_url: self.filter_url,
            filter_sha256: self.filter_sha256,
            root_namespace: self.root_namespace,
            per_host: self.delivery == RuleDelivery::PerHost,
            ports: BTreeSet::new(),
            listen: self.listen,
            handshake_key,
            module: self.module,
            other_modules: BTreeSet::new(),
            is_dual_stack: false,
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
            tell(format_args!(
                "note: passwords are written as {}; add --show-secrets for output to apply",
                redact::REDACTED
            ));
            "Passwords are redacted: not to be applied. Add --show-secrets for that."
        } else {
            "It holds no secrets."
        };
        Some(format!("# Written by redis-mesh {}. {head}\n{text}", env!("CARGO_PKG_VERSION")))
    }
}
