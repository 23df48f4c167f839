//! The command line.

mod artifacts;
mod check;
mod controller;
mod delivery;
mod explain;
mod input;
mod listen;
mod module;
mod render_envoy;
mod render_istio;
mod session;
mod stderr;

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::{crd, yaml};

use session::CliSession;
use stderr::tell;

/// The exit code of success.
const OK: u8 = 0;
/// The exit code where the input has errors.
const WRONG: u8 = 1;

#[derive(Parser)]
#[command(
    name = "redis-mesh",
    version,
    about = "Redis traffic rules for Envoy and Istio",
    long_about = "Redis traffic rules for Envoy and Istio.\n\n\
        RedisService holds rules for the commands that clients send to a Redis host: routes by key, mirrors, faults, and \
        the login that clients must present. RedisDestination describes the way to a Redis: login, Redis Cluster, TLS. `redis-mesh crds` \
        describes every field.",
    after_help = "Exit codes: 0 success, 1 errors in the input, 2 wrong usage."
)]
struct Cli {
    #[command(subcommand)]
    command: CliCommand,
}

#[derive(Subcommand)]
enum CliCommand {
    /// Run the controller, which keeps a mesh as the RedisServices and RedisDestinations of a
    /// cluster say
    ///
    /// It watches both kinds and the objects to which they refer, writes WasmPlugins and
    /// EnvoyFilters, and reports the result in the status of each object. Of several replicas,
    /// one writes; all serve the filter to the proxies.
    Controller(Box<controller::Controller>),
    /// Render configuration for a data plane from manifests
    #[command(subcommand)]
    Render(RenderCommand),
    /// Report all mistakes in manifests, each with its place and its remedy
    ///
    /// It does what `render` does, for every target that the manifests allow, and fails where
    /// `render` would. A target that they don't allow is a warning: a standalone Envoy can't serve a
    /// headless Service, say. So is a field that is valid but has no effect, and what puts data or
    /// protection at risk.
    Check(check::Check),
    /// Explain the route, destination, mirrors, faults and read policy of a command
    ///
    /// The code that decides commands in the proxy decides this one, too, for a client that has
    /// logged in. Mirrors and faults are shown with their probabilities, and a refusal with its
    /// text.
    Explain(explain::Explain),
    /// Copy the dynamic module to a file, for an init container that brings it to a sidecar
    Module(module::CopyModule),
    /// Print the CustomResourceDefinitions of both kinds, for `kubectl apply -f -`
    Crds,
}

#[derive(Subcommand)]
enum RenderCommand {
    /// Write a complete configuration for a standalone Envoy to stdout
    ///
    /// Each host that a RedisService or a RedisDestination names gets a listener: on the
    /// clusterIP and port of its Service, or on the address of --listen. Upstream addresses are
    /// those of the EndpointSlices; without any, the host's name is resolved by DNS. So the same
    /// manifests work in a mesh and on one machine.
    ///
    /// The output has the passwords of Redis in clear, because Envoy takes them no other way.
    /// Protect it.
    Envoy(render_envoy::Envoy),
    /// Write WasmPlugins and EnvoyFilters for Istio to stdout
    ///
    /// Objects for all clients of a Service go to Istio's root namespace. Objects that follow
    /// from a RedisService or RedisDestination in another namespace than the Service's go to that
    /// namespace, and apply to the clients there.
    Istio(render_istio::Istio),
}

/// Runs the command line.
pub fn run() -> ExitCode {
    let mut session = CliSession::default();
    let output = match Cli::parse().command {
        CliCommand::Render(RenderCommand::Envoy(arguments)) => arguments.run(&mut session),
        CliCommand::Render(RenderCommand::Istio(arguments)) => arguments.run(&mut session),
        CliCommand::Check(arguments) => {
            arguments.run(&mut session);
            None
        }
        CliCommand::Controller(arguments) => return ended(arguments.run()),
        CliCommand::Module(arguments) => return ended(arguments.run()),
        CliCommand::Explain(arguments) => arguments.run(&mut session),
        CliCommand::Crds => Some(yaml::stream(&crd::definitions())),
    };
    session.report();
    if session.diagnostics.has_errors() {
        return WRONG.into();
    }
    match output.map(|text| std::io::stdout().lock().write_all(text.as_bytes())) {
        None | Some(Ok(())) => OK.into(),
        Some(Err(error)) => {
            tell(format_args!("error: the output could not be written: {error}"));
            WRONG.into()
        }
    }
}

/// The exit code of a command without diagnostics.
fn ended(result: Result<(), String>) -> ExitCode {
    match result {
        Ok(()) => OK.into(),
        Err(message) => {
            tell(format_args!("error: {message}"));
            WRONG.into()
        }
    }
}
