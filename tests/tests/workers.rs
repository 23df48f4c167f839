//! Workers of job queues and subscribers of client libraries that go on by themselves, through
//! `native`, once a Redis that was lost is back or another one is a shard's master.

use std::net::SocketAddr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use redis_mesh_core::wire::KeyMatch;
use redis_mesh_tests::client_library::Library;
use redis_mesh_tests::cluster::{Cluster, Shape};
use redis_mesh_tests::listener::{self, Config, route};
use redis_mesh_tests::net::Subnet;
use redis_mesh_tests::process::{Process, wait_until};
use redis_mesh_tests::redis::Redis;
use redis_mesh_tests::{native, workspace};

/// The time that all of them together may take to hear or to work, at the start and again. They
/// wait between attempts to connect, some of them for several seconds.
const PATIENCE: Duration = Duration::from_secs(40);

/// The time that Redis is away.
const AWAY: Duration = Duration::from_millis(1500);

#[derive(Clone, Copy, PartialEq)]
enum Language {
    Python,
    JavaScript,
    Go,
    Java,
}

/// Where the keys of a job queue may be.
#[derive(Clone, Copy, PartialEq)]
enum Keys {
    /// Those of one command or transaction are of one slot.
    OfOneSlot,
    /// They are of any slots.
    Any,
}

use Keys::{Any, OfOneSlot};
use Language::{Go, Java, JavaScript, Python};

const WORKERS: [(&str, Language, Keys); 6] = [
    ("celery", Python, OfOneSlot),
    ("rq", Python, Any),
    ("dramatiq", Python, OfOneSlot),
    ("huey", Python, Any),
    ("bullmq", JavaScript, OfOneSlot),
    ("asynq", Go, OfOneSlot),
];

const SUBSCRIBERS: [(&str, Language); 5] =
    [("redis-py", Python), ("node-redis", JavaScript), ("ioredis", JavaScript), ("go-redis", Go), ("lettuce", Java)];

/// Returns the program for a language. `None` if this machine can't run it.
fn library(language: Language) -> Result<Option<Library>> {
    let library = match language {
        Python => Some(Library::python("worker.py")?),
        JavaScript => Some(Library::javascript("worker.js")?),
        Go => Library::go("worker")?,
        Java => Library::java("Subscriber.java")?,
    };
    if library.is_none() {
        workspace::progress("there is no Go or no JDK on this machine: what needs it is left out");
    }
    Ok(library)
}

/// A program that runs while Redis comes and goes.
struct Running {
    name: &'static str,
    library: Library,
    process: Process,
    /// Whether it is given jobs.
    works: bool,
}

impl Running {
    fn start(name: &'static str, language: Language, works: bool, at: SocketAddr) -> Result<Option<Running>> {
        let Some(library) = library(language)? else { return Ok(None) };
        let what = format!("{name}-{}", if works { "work" } else { "hear" });
        let process = library.start(&[what, at.ip().to_string(), at.port().to_string()])?;
        Ok(Some(Running { name, library, process, works }))
    }

    fn has_said(&self, text: &str) -> bool {
        self.process.log_text().contains(&format!("said {text}\n"))
    }

    /// Gives a worker a job, with a client of the same library.
    fn give(&self, text: &str, at: SocketAddr) -> Result<()> {
        let args = [format!("{}-give", self.name), at.ip().to_string(), at.port().to_string(), text.to_owned()];
        self.library.run(&args).map(drop)
    }
}

/// Waits until every worker has done a job that says this, and every subscriber has heard it.
fn all_say(text: &str, running: &mut [Running], at: SocketAddr, publish: impl Fn(&str) -> Result<()>) -> Result<()> {
    let begun = Instant::now();
    // A worker that isn't ready yet finds its job later.
    for worker in running.iter().filter(|one| one.works) {
        worker.give(text, at).with_context(|| format!("a job for {}", worker.name))?;
    }
    let mut waiting: Vec<&mut Running> = running.iter_mut().collect();
    while !waiting.is_empty() {
        publish(text)?;
        let mut silent = Vec::new();
        for one in waiting {
            let ended = one.process.exited();
            ensure!(ended.is_none(), "{} has ended ({ended:?}):\n{}", one.name, one.process.log_tail(30));
            if one.has_said(text) {
                println!("{text}: {} after {:.1?}", one.name, begun.elapsed());
            } else {
                silent.push(one);
            }
        }
        if begun.elapsed() > PATIENCE {
            let logs: Vec<String> =
                silent.iter().map(|one| format!("{}:\n{}", one.name, one.process.log_tail(30))).collect();
            ensure!(logs.is_empty(), "not {text:?} within {PATIENCE:?}:\n{}", logs.join("\n"));
        }
        waiting = silent;
        sleep(Duration::from_millis(100));
    }
    Ok(())
}

#[test]
fn workers_and_subscribers_go_on_after_a_restart_of_redis() -> Result<()> {
    let subnet = Subnet::claim()?;
    let at = subnet.redis(1);
    let mut redis = Redis::start_at(subnet.redis(21))?;
    let document = listener::config("redis", 1, native::host(&["one"], vec![route(KeyMatch::Any, 0)]));
    let config =
        Config::new().listener("redis", at, vec![native::proxy(&document)?]).cluster("one.test:6379", &[redis.addr()]);
    let envoy = native::start(&config, 2)?;
    let mut running = Vec::new();
    for (name, language, _) in WORKERS {
        running.extend(Running::start(name, language, true, at)?);
    }
    for (name, language) in SUBSCRIBERS {
        running.extend(Running::start(name, language, false, at)?);
    }
    let publish = |redis: &Redis, text: &str| redis.cmd(&["PUBLISH", "news", text]).map(drop);
    all_say("before", &mut running, at, |text| publish(&redis, text))?;
    redis.kill();
    sleep(AWAY);
    redis.restart()?;
    all_say("after", &mut running, at, |text| publish(&redis, text))?;
    let log = envoy.log();
    ensure!(!log.contains("panicked") && !log.contains("critical"), "Envoy's log:\n{log}");
    Ok(())
}

#[test]
fn workers_go_on_after_a_failover_of_each_master_of_a_cluster() -> Result<()> {
    let shape = Shape { masters: 3, replicas: 1, node_timeout: Duration::from_secs(1), ..Shape::default() };
    let mut cluster = Cluster::start_with(shape)?;
    let subnet = Subnet::claim()?;
    let at = subnet.redis(1);
    let mut host = native::host(&["one"], vec![route(KeyMatch::Any, 0)]);
    host.targets[0].cluster = true;
    let config = Config::new()
        .listener("redis", at, vec![native::proxy(&listener::config("redis", 1, host))?])
        .clusters(&[native::redis_cluster("one.test:6379", &cluster.addrs())]);
    let _envoy = native::start(&config, 2)?;
    let mut running = Vec::new();
    for (name, language, keys) in WORKERS {
        if keys == OfOneSlot {
            running.extend(Running::start(name, language, true, at)?);
        }
    }
    let nobody = |_: &str| Ok(());
    all_say("before", &mut running, at, nobody)?;
    // Master `i` has the replica `3 + i`. A failover that an administrator asks for is another
    // matter: Redis then answers who waits with an error, UNBLOCKED, which ends a Celery worker
    // without a proxy too.
    for master in 0..3 {
        cluster.nodes[master].kill();
        let replica = &cluster.nodes[3 + master];
        wait_until("failover", PATIENCE, || {
            replica.info("replication").is_ok_and(|role| role.contains("role:master"))
        })?;
    }
    all_say("after", &mut running, at, nobody)
}
