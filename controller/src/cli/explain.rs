//! `redis-mesh explain`.

use clap::Args;

use crate::diagnostic::{Code, Problem, Subject, nearest};
use crate::explain;
use crate::validate::service::ValidatedService;

use super::input::{self, Input};
use super::session::CliSession;

/// Arguments of `explain`.
#[derive(Args)]
#[command(
    after_help = "Example:\n  redis-mesh explain -f manifests/ --host redis-cluster.redis.svc.cluster.local -- MGET cluster-a b"
)]
pub struct Explain {
    #[command(flatten)]
    input: Input,
    /// The host that the client connects to, in full or the beginning of its name
    #[arg(long, value_name = "HOST[:PORT]")]
    host: String,
    /// The namespace of the client, where objects of several namespaces govern the host
    #[arg(long, value_name = "NAME")]
    client_namespace: Option<String>,
    /// The command with its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

impl Explain {
    /// Explains the command.
    pub fn run(self, session: &mut CliSession) -> Option<String> {
        let (host, port) = match self.host.rsplit_once(':') {
            Some((host, port)) if port.parse::<u16>().is_ok() => (host, port.parse::<u16>().ok()),
            _ => (self.host.as_str(), None),
        };
        let services = input::load(&self.input, &self.input.options(Default::default(), Default::default()), session);
        if session.diagnostics.has_errors() {
            return None;
        }
        // A short name suffices if it is the beginning of one host only.
        let is_meant = |service: &&ValidatedService| {
            let known = &service.address;
            let named = known.host == host || known.host.strip_prefix(host).is_some_and(|rest| rest.starts_with('.'));
            named && port.is_none_or(|port| known.port == port)
        };
        let mut found: Vec<&ValidatedService> = services.iter().filter(is_meant).collect();
        if let Some(namespace) = &self.client_namespace {
            found.retain(|service| service.clients.includes(namespace));
        }
        let problem = match found[..] {
            [service] => match explain::explain(service, &self.command) {
                Ok(text) => return Some(text),
                Err(message) => Problem::new(
                    Code::FilterRefuses,
                    format!("the filter would refuse this: {message}"),
                    "correct what the message names",
                ),
            },
            [] => self.unknown(host, &services),
            _ => {
                let several: Vec<String> =
                    found.iter().map(|service| format!("{} for {}", service.address, service.clients)).collect();
                let message = format!("--host: {} may be {}", self.host, several.join(", "));
                Problem::new(Code::UnknownHostOption, message, "say which, with a port or --client-namespace")
            }
        };
        session.diagnostics.add(&Subject::default(), "", problem);
        None
    }

    fn unknown(&self, host: &str, services: &[ValidatedService]) -> Problem {
        let known: Vec<String> = services.iter().map(|service| service.address.to_string()).collect();
        let full = services.iter().map(|service| service.address.host.as_str());
        let short = full.clone().filter_map(|host| host.split('.').next());
        let remedy = match nearest(host, full.chain(short)) {
            Some(host) => format!("did you mean {host}?"),
            None => format!("there are {}", known.join(", ")),
        };
        Problem::new(Code::UnknownHostOption, format!("--host: no object names {}", self.host), remedy)
    }
}
