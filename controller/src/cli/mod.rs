//! The command line.

mod artifacts;
mod controller;
mod delivery;
mod explain;
mod input;
mod listen;
mod module;
mod render_envoy;
mod render_istio;
mod session;

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::{crd, render, yaml};

use input::Input;
use session::Session;

/// Everything went well.
const OK: u8 = 0;
/// Something is wrong with the input.
const WRONG: u8 = 1;

#[derive(Parser)]
#[command(
    name = "redis-mesh",
    version,
    about = "Redis traffic rules for Envoy and Istio",
    long_about = "Redis traffic rules for Envoy and Istio.\n\n\
        RedisService says what becomes of the commands that clients send to a Redis host (routes by key, mirrors, faults, \
        what clients must present); RedisDestination says how a Redis is reached (login, Redis Cluster, TLS). `redis-mesh crds` \
        describes every field.",
    after_help = "Exit codes: 0 all is well, 1 something is wrong with the input, 2 wrong usage."
)]
struct Cli {
    #[command(subcommand)]
    command: CliCommand,
}

#[derive(Subcommand)]
enum CliCommand {
    /// Keep a mesh as the RedisServices and RedisDestinations of a cluster say
    ///
    /// Watches both kinds and what they refer to, writes WasmPlugin and EnvoyFilter objects, and says in the status of each
    /// object what became of it. Of several replicas one writes; all serve the filter to the proxies.
    Controller(Box<controller::Controller>),
    /// Turn manifests into configuration for a data plane
    #[command(subcommand)]
    Render(RenderCommand),
    /// Say everything that is wrong with manifests, each with its file, object and field
    ///
    /// What is valid but without effect is a warning.
    #[command(
        after_help = "Prints errors and warnings to stderr, and nothing where all is well. Exit code 1 if there is any error."
    )]
    Check {
        #[command(flatten)]
        input: Input,
    },
    /// Say which route, destination, mirror, fault and read policy a command gets, and why
    ///
    /// The command is passed through the very code that decides it in the proxy, as that of a client that has logged in; what
    /// is left to chance there, such as mirrors and faults, is told with its odds. A refusal is shown with its text.
    Explain(explain::Explain),
    /// Copy the dynamic module to a file, for an init container that brings it to a sidecar
    Module(module::CopyModule),
    /// Print the CustomResourceDefinitions of both kinds, for `kubectl apply -f -`
    Crds,
}

#[derive(Subcommand)]
enum RenderCommand {
    /// A complete configuration for an Envoy that runs by itself, on stdout
    ///
    /// Each host that a RedisService or a RedisDestination names gets a listener: on the clusterIP and port of its Service,
    /// or where --listen says. Upstream addresses are those of the EndpointSlices; without any, the host's name is resolved
    /// by DNS. So the same manifests work in a mesh and on one machine.
    ///
    /// The output holds the passwords of Redis in clear, because Envoy takes them no other way: keep it from others.
    Envoy(render_envoy::Envoy),
    /// WasmPlugin and EnvoyFilter objects for Istio, on stdout
    ///
    /// Objects about every client of a Service go to Istio's root namespace. Those that follow from an object in another
    /// namespace than the Service's go to that namespace and concern the clients there.
    Istio(render_istio::Istio),
}

/// Runs the command line.
pub fn run() -> ExitCode {
    let mut session = Session::default();
    let output = match Cli::parse().command {
        CliCommand::Render(RenderCommand::Envoy(arguments)) => arguments.run(&mut session),
        CliCommand::Render(RenderCommand::Istio(arguments)) => arguments.run(&mut session),
        CliCommand::Check { input } => {
            let services = input::load(&input, Default::default(), Default::default(), &mut session);
            render::check(&services, &mut session.diagnostics);
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
            eprintln!("error: the output can't be written: {error}");
            WRONG.into()
        }
    }
}

/// The exit code of a command without diagnostics.
fn ended(result: Result<(), String>) -> ExitCode {
    match result {
        Ok(()) => OK.into(),
        Err(message) => {
            eprintln!("error: {message}");
            WRONG.into()
        }
    }
}
