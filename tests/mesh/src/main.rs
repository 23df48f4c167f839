//! `cargo mesh`: the suite on a real Istio, or that Istio for interactive use.

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use libtest_mimic::Arguments;
use redis_mesh_mesh::mesh::{By, Mesh};
use redis_mesh_mesh::network::{self, Network};
use redis_mesh_mesh::{interrupt, keep, requirements, scale, suite};
use redis_mesh_tests::command_line;

const HELP: &str = "\
Runs the tests of redis-mesh in a real Istio on this machine, or keeps that Istio for interactive use.
There are no containers: kube-apiserver, istiod, sidecars and Redis are processes, pods are network
namespaces.

Usage: cargo mesh [OPTIONS] [FILTER]...
       cargo mesh scale [--quick] [--out DIR]    Measure the cost of thousands of RedisServices; see scale --help

Arguments:
  [FILTER]...  Run only tests whose names contain one of these (some tests run only so)

Options:
  --keep       Run no test: keep the mesh until Ctrl-C, and print how to use it
  --by <WHO>   The operator, which turns RedisServices into Istio's objects: `controller` (redis-mesh
               controller), or `render` (redis-mesh render istio, applied after each change)
               [default: controller]
  --list       Print the names of the tests
  --exact      Match FILTER against whole names
  --skip <FILTER>  Leave out tests whose names contain this; repeatable
  -h, --help   Print this

The mesh needs root, Go, iproute2 and iptables. The first run builds the control plane, which takes about
10 minutes on two cores, and keeps it in .cache ($REDIS_MESH_CACHE). The mesh runs in network namespaces
of its own, named redis-mesh-PID-…, which are removed at the end, or by the next run if this one is killed.
";

struct Command {
    keep: bool,
    by: By,
    tests: Arguments,
}

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("scale") {
        return scale::main(std::env::args().skip(2));
    }
    command_line::main(HELP, command(), run)
}

fn command() -> Result<Option<Command>> {
    let (mut keep, mut by, mut filters, mut skip) = (false, By::Controller, Vec::new(), Vec::new());
    let (mut list, mut exact) = (false, false);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "-h" | "--help" => return Ok(None),
            "--keep" => keep = true,
            "--list" => list = true,
            "--exact" => exact = true,
            "--skip" => skip.push(arguments.next().context("--skip needs a FILTER")?),
            "--by" => {
                by = match arguments.next().as_deref() {
                    Some("render") => By::Render,
                    Some("controller") => By::Controller,
                    _ => bail!("--by needs `render` or `controller`"),
                }
            }
            flag if flag.starts_with('-') => bail!("there is no option {flag}"),
            filter => filters.push(filter.to_string()),
        }
    }
    if keep && (list || exact || !filters.is_empty() || !skip.is_empty()) {
        bail!("--keep runs no tests: it takes no FILTER, --list, --exact or --skip");
    }
    Ok(Some(Command { keep, by, tests: suite::arguments(by, list, exact, &filters, skip) }))
}

fn run(command: Command) -> Result<ExitCode> {
    if command.tests.list {
        return Ok(suite::list(command.by, &command.tests));
    }
    requirements::check()?;
    let programs = Mesh::prepare()?;
    suite::prepare(command.by, &command.tests)?;
    interrupt::hold();
    let network = Network::start()?;
    if !command.keep {
        interrupt::end_after(network::abandon);
    }
    let mesh = Mesh::start(&programs, network, command.by)?;
    if command.keep {
        keep::keep(mesh)?;
        return Ok(ExitCode::SUCCESS);
    }
    Ok(suite::run(command.by, &command.tests, mesh))
}
