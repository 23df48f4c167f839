//! `cargo mesh scale`: the cost of the controller with thousands of RedisServices, on a real API
//! server, a real istiod and a real sidecar.

mod cluster;
mod population;
mod report;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use redis_mesh_tests::{command_line, workspace};
use serde_json::{Value, json};

use crate::api::ObjectName;
use crate::network::{self, Network};
use crate::{interrupt, requirements};
use cluster::{Cluster, Counters};

/// The text of `--help`.
const HELP: &str = "\
Measures the controller with thousands of RedisServices, on a real kube-apiserver, a real istiod and a
real sidecar: the time until objects are programmed, the time of one change, memory, writes, pushes.

Usage: cargo mesh scale [OPTIONS]

Options:
  --quick     Measure 1, 10 and 100 RedisServices instead of 1, 10, 100, 1,000 and 5,000
  --out DIR   Write the report to DIR/scale.md, too
  -h, --help  Print this

The requirements are those of `cargo mesh`. The run fails if one change among 5,000 objects takes the
controller more than three times as long as one among 10, if the controller uses more than 150 MB of
memory, if many simultaneous changes are pushed one by one, or if a starting controller writes objects
that are up to date.
";

const SIZES: [usize; 5] = [1, 10, 100, 1_000, 5_000];
const QUICK: usize = 3;
/// The number of objects that are changed at once.
const BURST: usize = 1_000;
/// The number of objects to which the others are compared.
const BASE: usize = 10;
/// The limit of the time for one change among the most objects, relative to one among [`BASE`].
const MAX_RATIO: f64 = 3.0;
/// The limit of the controller's resident memory, in bytes.
const MAX_MEMORY: f64 = 150e6;

/// The options of the command; [`HELP`] describes them.
#[derive(Clone, Debug, Default)]
struct Options {
    /// Whether the run ends at 100 objects.
    quick: bool,
    /// The directory of the report.
    out: Option<PathBuf>,
}

impl Options {
    /// Parses the command line. `None` if it asks for help.
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Option<Options>> {
        let mut options = Options::default();
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "-h" | "--help" => return Ok(None),
                "--quick" => options.quick = true,
                "--out" => options.out = Some(arguments.next().context("--out needs a DIR")?.into()),
                other => bail!("there is no argument {other}"),
            }
        }
        Ok(Some(options))
    }
}

/// The results with one number of objects.
#[derive(Debug, Default)]
struct Stage {
    /// The number of RedisServices.
    services: usize,
    /// The number of RedisServices and RedisDestinations that were added.
    added: usize,
    /// The time that writing them took.
    written: Duration,
    /// The time from the first write until the last status reported `Programmed`.
    programmed: Duration,
    growth: Counters,
    changes: Vec<Change>,
    /// Number, total size and largest size of rendered objects.
    wasm_plugins: (usize, usize, usize),
    envoy_filters: (usize, usize, usize),
    config_dump: usize,
    /// Resident memory in bytes: by the controller's metric, by /proc, and the highest.
    memory: (f64, f64, f64),
    burst: Option<Burst>,
}

/// Changes of one object at a time.
#[derive(Debug)]
struct Change {
    what: &'static str,
    /// The median of the time that the controller has spent on a change, in seconds.
    reconcile: f64,
    /// The median of the time until `Programmed`.
    programmed: Duration,
    /// The counters of all changes.
    total: Counters,
    count: usize,
    /// The counters of one change, until the sidecar had received it.
    push: Counters,
}

/// Many changes at once.
#[derive(Debug)]
struct Burst {
    count: usize,
    written: Duration,
    programmed: Duration,
    counters: Counters,
}

/// The start of a controller in a cluster with all objects.
#[derive(Debug)]
struct Restart {
    /// The time until the first pass over all objects is done.
    took: Duration,
    cpu: f64,
    applies: f64,
    statuses: f64,
    memory: (f64, f64, f64),
}

#[derive(Debug)]
struct Results {
    /// Whether all of [`SIZES`] were measured.
    is_complete: bool,
    stages: Vec<Stage>,
    restart: Restart,
}

/// Runs the command with what follows its name.
pub fn main(arguments: impl Iterator<Item = String>) -> ExitCode {
    command_line::main(HELP, Options::parse(arguments), |options| run(&options).map(|()| ExitCode::SUCCESS))
}

/// Measures and prints the report.
fn run(options: &Options) -> Result<()> {
    requirements::check()?;
    // Before anything is started: that needs the machine's own network.
    let programs = cluster::prepare()?;
    interrupt::hold();
    let network = Network::start()?;
    interrupt::end_after(network::abandon);
    let (quiet, count) = if options.quick { (700, 5) } else { (1_500, 9) };
    let mut cluster = Cluster::start(&programs, network, Duration::from_millis(quiet))?;
    let sizes = if options.quick { &SIZES[..QUICK] } else { &SIZES[..] };
    let mut stages: Vec<Stage> = Vec::new();
    for &size in sizes {
        let before = stages.last().map_or(0, |stage| stage.services);
        stages.push(stage(&cluster, before, size, count)?);
    }
    workspace::progress("restarting the controller");
    let restart = restart(&mut cluster)?;
    let rejected = cluster.rejected()?;
    ensure!(rejected == 0, "Envoy has refused {rejected} updates");
    let results = Results { is_complete: !options.quick, stages, restart };
    let text = report::text(&results);
    println!("{text}");
    if let Some(dir) = &options.out {
        std::fs::create_dir_all(dir)?;
        std::fs::write(dir.join("scale.md"), &text).with_context(|| format!("can't write to {}", dir.display()))?;
    }
    results.check()
}

/// Adds objects up to this size, then makes each kind of change `count` times.
fn stage(cluster: &Cluster, before: usize, size: usize, count: usize) -> Result<Stage> {
    workspace::progress(&format!("{size} RedisServices: their Services and Secrets"));
    let surroundings: Vec<Value> = (before..size).flat_map(population::surroundings).collect();
    cluster.each(&surroundings, |api, object| api.apply_object(object).map(drop))?;
    cluster.settle()?;

    workspace::progress(&format!("{size} RedisServices: the {} new ones", size - before));
    let ours: Vec<Value> = (before..size).flat_map(population::ours).collect();
    let (start, begin) = (cluster.counters()?, Instant::now());
    cluster.each(&ours, |api, object| api.apply_object(object).map(drop))?;
    let written = begin.elapsed();
    let programmed = cluster.wait_programmed(begin)?;
    cluster.settle()?;
    let growth = cluster.counters()?.since(start);
    let mut stage = Stage {
        services: size,
        added: ours.len(),
        written,
        programmed,
        growth,
        wasm_plugins: cluster.rendered("WasmPlugin")?,
        envoy_filters: cluster.rendered("EnvoyFilter")?,
        config_dump: cluster.config_dump()?,
        ..Stage::default()
    };
    workspace::progress(&format!("{size} RedisServices: single changes"));
    stage.changes.push(changes(cluster, "faults", count, 0, |i| json!({"faults": population::faults(2 + i)}))?);
    if size >= BASE {
        let routes = |i| json!({"redis": population::routes(6, 3 + i % 2)});
        stage.changes.push(changes(cluster, "routes", count, 6, routes)?);
    }
    if size >= BURST || size == SIZES[QUICK - 1] {
        stage.burst = Some(burst(cluster, size)?);
    }
    stage.memory = cluster.memory()?;
    Ok(stage)
}

fn changes(
    cluster: &Cluster,
    what: &'static str,
    count: usize,
    number: usize,
    spec: impl Fn(usize) -> Value,
) -> Result<Change> {
    let first = cluster.counters()?;
    let (mut reconciles, mut times) = (Vec::new(), Vec::new());
    for i in 0..count {
        let before = cluster.counters()?;
        times.push(cluster.change(number, &spec(i))?);
        // What it may have caused besides.
        std::thread::sleep(Duration::from_millis(250));
        reconciles.push(cluster.counters()?.since(before).reconcile_seconds);
    }
    let total = cluster.counters()?.since(first);
    cluster.settle()?;
    let before = cluster.counters()?;
    cluster.change(number, &spec(count))?;
    cluster.settle()?;
    let push = cluster.counters()?.since(before);
    reconciles.sort_by(f64::total_cmp);
    times.sort();
    Ok(Change { what, reconcile: reconciles[count / 2], programmed: times[count / 2], total, count, push })
}

fn burst(cluster: &Cluster, size: usize) -> Result<Burst> {
    let count = BURST.min(size);
    workspace::progress(&format!("{size} RedisServices: {count} changes at once"));
    let numbers: Vec<usize> = (0..count).map(|i| i * (size / count)).collect();
    let (start, begin) = (cluster.counters()?, Instant::now());
    cluster.each(&numbers, |api, &number| {
        let name = ObjectName::new("RedisService", &population::namespace(number), &population::name(number));
        api.merge(&name, &json!({"spec": {"faults": population::faults(90)}})).map(drop)
    })?;
    let written = begin.elapsed();
    let programmed = cluster.wait_programmed(begin)?;
    cluster.settle()?;
    Ok(Burst { count, written, programmed, counters: cluster.counters()?.since(start) })
}

fn restart(cluster: &mut Cluster) -> Result<Restart> {
    cluster.controller.terminate();
    let begin = Instant::now();
    cluster.controller.restart()?;
    let reconciled = || cluster.controller.metric("redis_mesh_controller_reconcile_duration_seconds_count");
    while reconciled()? < 1.0 {
        ensure!(begin.elapsed() < Duration::from_secs(120), "no pass after a restart");
        std::thread::sleep(Duration::from_millis(20));
    }
    let took = begin.elapsed();
    std::thread::sleep(Duration::from_secs(2));
    let counters = cluster.counters()?;
    Ok(Restart {
        took,
        cpu: counters.cpu,
        applies: counters.applies,
        statuses: counters.statuses,
        memory: cluster.memory()?,
    })
}

impl Results {
    /// For each kind of change, its time among the most objects relative to that among [`BASE`].
    fn ratios(&self) -> Vec<(&'static str, f64)> {
        let at = |size: usize| self.stages.iter().find(|stage| stage.services == size);
        let (Some(base), Some(most)) = (at(BASE), self.stages.last()) else { return Vec::new() };
        let pairs = base.changes.iter().zip(&most.changes);
        pairs.map(|(base, most)| (most.what, most.reconcile / base.reconcile)).collect()
    }

    fn check(&self) -> Result<()> {
        let ratios = self.ratios();
        ensure!(!ratios.is_empty(), "nothing to compare");
        // With few objects, it is the size of the one WasmPlugin that they share what a change
        // costs.
        for (what, ratio) in ratios.into_iter().filter(|_| self.is_complete) {
            ensure!(ratio <= MAX_RATIO, "a change of {what} takes {ratio:.2} times as long as among {BASE} objects");
        }
        let memory = self.stages.iter().map(|stage| stage.memory.1).chain([self.restart.memory.1]).fold(0.0, f64::max);
        ensure!(memory <= MAX_MEMORY, "the controller uses {:.0} MB of memory", memory / 1e6);
        ensure!(self.restart.applies == 0.0, "a starting controller has written {} objects", self.restart.applies);
        for burst in self.stages.iter().filter_map(|stage| stage.burst.as_ref()) {
            let pushes = burst.counters.pushes;
            ensure!(pushes < burst.count as f64 / 2.0, "{} changes at once have made {pushes} pushes", burst.count);
        }
        Ok(())
    }
}
