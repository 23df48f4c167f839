//! Workers of job queues and subscribers of client libraries that go on by themselves once a Redis
//! that was lost is back or another one is a shard's master. Each run is compared with one in which
//! the same programs talk to Redis itself, so that what a library can't do isn't taken for a fault
//! of a data path. And libraries that begin with HELLO, before a server that doesn't know it.

mod programs;
mod servers;

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use programs::{Outcome, PROGRAMS, Program, Running};
use redis_mesh_tests::client::Client;
use redis_mesh_tests::envoy::{Envoy, Options as EnvoyOptions};
use redis_mesh_tests::net::Subnet;
use redis_mesh_tests::process::wait_until;
use redis_mesh_tests::redis::{Options, Redis};
use redis_mesh_tests::scene::Scene;
use redis_mesh_tests::{cli, native, workspace};
use servers::{Disturbance, Servers};

/// The time that all programs together may take to do or to hear something, at the start and again.
/// They wait between attempts to connect, some of them for several seconds.
const PATIENCE: Duration = Duration::from_secs(75);

/// The time in which queues deliver again what a worker had when Redis was lost. It isn't waited
/// for longer where a library may lose a job.
const REDELIVERY: Duration = Duration::from_secs(30);

/// The number of jobs that are in a queue, confirmed and persisted, when Redis is lost, where workers
/// are to be busy then.
const JOBS: usize = 40;

/// Redis without a proxy: what the runs on the data paths are compared with.
const REFERENCE: &str = "no proxy";

/// Where clients find the servers on a data path, and what they come through.
struct Stage {
    at: SocketAddr,
    envoy: Option<Envoy>,
}

/// Serves these addresses of the subnet on a data path. `destination` is what the RedisDestination
/// says, if there is one.
fn stage(subnet: &Subnet, path: &str, servers: &[u8], destination: &str) -> Result<Stage> {
    if path == REFERENCE {
        let [server] = servers else { anyhow::bail!("nothing to compare a Redis Cluster with") };
        return Ok(Stage { at: subnet.redis(*server), envoy: None });
    }
    let mut scene = Scene::on(subnet);
    scene.service("redis", 100, servers).rules("redis", path, "");
    if !destination.is_empty() {
        scene.destination("redis", destination);
    }
    let module = native::build()?;
    let config = cli::render_envoy_text(scene.manifests(), &["--module", &module.to_string_lossy()])?;
    let envoy = Envoy::start_with(&config, &EnvoyOptions { concurrency: 2, ..EnvoyOptions::default() })?;
    envoy.wait_discovered(Duration::from_secs(20))?;
    Ok(Stage { at: subnet.redis(100), envoy: Some(envoy) })
}

/// Publishes until every subscriber has heard this, and waits until every worker has done all jobs
/// but those that its library may lose. Returns without an error when the time is over.
fn wait(text: &str, running: &mut [Running], servers: &Servers) -> Result<()> {
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        servers.publish(text)?;
        let settled = begun.elapsed() > REDELIVERY;
        // Not `all`, which stops at the first one: each notes when it is done.
        let busy = running.iter_mut().filter_map(|one| (!one.is_done(text, begun, settled)).then_some(())).count();
        if busy == 0 {
            break;
        }
        sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// Gives every worker jobs, all at once.
fn give(text: &str, count: usize, running: &mut [Running], at: SocketAddr) -> Result<()> {
    std::thread::scope(|scope| {
        let givers: Vec<_> = running
            .iter_mut()
            .filter(|one| one.works())
            .map(|one| scope.spawn(move || one.give(text, count, at)))
            .collect();
        givers.into_iter().try_for_each(|giver| giver.join().unwrap_or_else(|_| anyhow::bail!("a giver has panicked")))
    })
}

/// Runs programs while something happens to their servers, which keep what is in them. Workers have
/// this many jobs then.
fn run(
    programs: &[Program],
    stage: &Stage,
    servers: &mut Servers,
    what: Disturbance,
    jobs: usize,
) -> Result<Vec<Outcome>> {
    let mut running = Vec::new();
    for program in programs {
        running.extend(Running::start(program, stage.at)?);
    }
    give("before", 1, &mut running, stage.at)?;
    wait("before", &mut running, servers)?;
    for one in &mut running {
        ensure!(one.has_begun("before"), "{} doesn't begin:\n{}", one.name(), one.log_tail());
    }
    give("during", jobs, &mut running, stage.at)?;
    servers.disturb(what)?;
    // A data path may notice a moment later that Redis is back. The keys are of all three shards.
    wait_until("an answer", PATIENCE, || {
        let answer = Client::connect(stage.at).and_then(|mut client| client.cmd(&["EXISTS", "a", "b", "c"]));
        answer.is_ok_and(|reply| !reply.is_error())
    })?;
    give("after", 1, &mut running, stage.at)?;
    wait("after", &mut running, servers)?;
    if let Some(envoy) = &stage.envoy {
        let log = envoy.log();
        ensure!(!log.contains("panicked") && !log.contains("critical"), "Envoy's log:\n{log}");
    }
    Ok(running.iter_mut().map(|one| one.outcome("after")).collect())
}

/// Returns a line for each program and the faults: what is worse than in the reference.
fn report(title: &str, outcomes: &[Outcome], reference: &[Outcome]) -> (String, Vec<String>) {
    let (mut table, mut faults) = (format!("\n{title}\n"), Vec::new());
    for outcome in outcomes {
        let _ = writeln!(table, "  {outcome}");
        let peer = reference.iter().find(|one| one.name == outcome.name);
        if let Some(fault) = outcome.fault(peer) {
            faults.push(format!("{title}: {fault}\n{}", outcome.log));
        }
    }
    (table, faults)
}

fn persistent(addr: SocketAddr) -> Result<Redis> {
    let config = vec!["appendonly yes".into(), "appendfsync always".into()];
    Redis::start_with(Options { addr: Some(addr), config, ..Options::default() })
}

fn restart(path: &str, programs: &[Program], jobs: usize) -> Result<Vec<Outcome>> {
    let subnet = Subnet::claim()?;
    let mut servers = Servers::One(Box::new(persistent(subnet.redis(21))?));
    let stage = stage(&subnet, path, &[21], "")?;
    run(programs, &stage, &mut servers, Disturbance::Restart, jobs)
}

fn cluster(programs: &[Program], what: Disturbance) -> Result<Vec<Outcome>> {
    let subnet = Subnet::claim()?;
    let mut servers = servers::cluster(&subnet)?;
    let stage = stage(&subnet, "native", &[31, 32, 33, 34, 35, 36], "mode: CLUSTER")?;
    let programs: Vec<Program> = programs.iter().filter(|one| one.fits_a_cluster).copied().collect();
    run(&programs, &stage, &mut servers, what, JOBS)
}

/// Workers that wait for jobs, and a subscriber: those that ended, or never heard again, when a lost
/// Redis was told as an error.
#[test]
fn workers_and_a_subscriber_go_on_after_a_restart() -> Result<()> {
    let few: Vec<Program> =
        PROGRAMS.iter().filter(|one| ["celery", "rq", "redis-py"].contains(&one.name)).copied().collect();
    let (table, faults) = report("restart, native", &restart("native", &few, 0)?, &[]);
    println!("{table}");
    ensure!(faults.is_empty(), "{}", faults.join("\n"));
    Ok(())
}

/// Runs all programs, and prints and collects what came of it.
#[derive(Default)]
struct Report {
    tables: String,
    faults: Vec<String>,
}

impl Report {
    fn add(&mut self, title: &str, outcomes: &[Outcome], reference: &[Outcome]) {
        let (table, found) = report(title, outcomes, reference);
        // At once, too: the rest takes minutes.
        workspace::progress(&table);
        self.tables += &table;
        self.faults.extend(found);
    }

    fn finish(self) -> Result<()> {
        println!("{}", self.tables);
        ensure!(self.faults.is_empty(), "{}", self.faults.join("\n"));
        Ok(())
    }
}

#[test]
#[ignore = "takes minutes: the step `workers` of tests/scripts/nightly"]
fn all_workers_and_subscribers_go_on_after_a_restart_as_without_a_proxy() -> Result<()> {
    let mut report = Report::default();
    let reference = restart(REFERENCE, &PROGRAMS, JOBS)?;
    // What the reference does is no fault of ours.
    report.add("restart, no proxy", &reference, &reference);
    for path in ["direct", "native"] {
        report.add(&format!("restart, {path}"), &restart(path, &PROGRAMS, JOBS)?, &reference);
    }
    report.finish()
}

#[test]
#[ignore = "takes minutes: the step `workers` of tests/scripts/nightly"]
fn all_that_fit_a_cluster_go_on_while_its_masters_fail_over() -> Result<()> {
    let mut report = Report::default();
    for what in [Disturbance::Failover, Disturbance::RollingRestart] {
        report.add(&format!("{what:?} of a cluster, native"), &cluster(&PROGRAMS, what)?, &[]);
    }
    report.finish()
}

/// Each library sets, gets and pipelines before a server without HELLO as it does directly.
#[test]
#[ignore = "needs all libraries: the step `workers` of tests/scripts/nightly"]
fn libraries_begin_before_a_server_without_hello() -> Result<()> {
    let subnet = Subnet::claim()?;
    let config = vec!["rename-command HELLO \"\"".into()];
    let server = Redis::start_with(Options { addr: Some(subnet.redis(21)), config, ..Options::default() })?;
    let mut results = Vec::new();
    for path in [REFERENCE, "direct", "proxy", "native"] {
        let stage = stage(&subnet, path, &[21], "")?;
        for greeter in programs::GREETERS {
            server.forget()?;
            let Some(result) = greeter.greet(path, stage.at)? else { continue };
            results.push((path, greeter.name, result));
        }
    }
    let mut faults = Vec::new();
    for (path, name, result) in &results {
        let good = result.is_ok();
        println!("{path:10} {name:12} {}", if good { "works" } else { "fails" });
        let (_, _, reference) =
            results.iter().find(|(path, other, _)| *path == REFERENCE && other == name).context("no reference")?;
        match result {
            Err(error) if reference.is_ok() => faults.push(format!("{name} on {path}: {error:#}")),
            Err(error) if *path == REFERENCE => println!("{error:#}"),
            _ => {}
        }
    }
    ensure!(faults.is_empty(), "{}", faults.join("\n"));
    Ok(())
}
