//! redis-py's own test suite: what passes before Redis passes through the native data path, in RESP2 and RESP3, but for what
//! `differences.txt` lists.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use redis_mesh_core::wire::KeyMatch;
use redis_mesh_tests::client_library::Library;
use redis_mesh_tests::listener::{self, Config, route};
use redis_mesh_tests::net::Subnet;
use redis_mesh_tests::redis::{Options, Redis};
use redis_mesh_tests::{native, workspace};

/// How long a part of the suite may take.
const PATIENCE: Duration = Duration::from_secs(550);

/// The suite's directories, by what they test, and the files of each that talk to a server; the others need modules, Sentinel, TLS,
/// a proxy of their own or a client for Redis Cluster, or no server at all.
const PARTS: [(&str, &[&str]); 2] = [
    (
        "tests",
        &[
            "test_cache.py",
            "test_client.py",
            "test_commands.py",
            "test_connection.py",
            "test_connection_pool.py",
            "test_encoding.py",
            "test_function.py",
            "test_hash.py",
            "test_keyspace_notifications.py",
            "test_lock.py",
            "test_monitor.py",
            "test_multiprocessing.py",
            "test_pipeline.py",
            "test_pubsub.py",
            "test_scripting.py",
        ],
    ),
    (
        "tests/test_asyncio",
        &[
            "test_client.py",
            "test_commands.py",
            "test_connection.py",
            "test_connection_pool.py",
            "test_encoding.py",
            "test_hash.py",
            "test_keyspace_notifications.py",
            "test_lock.py",
            "test_monitor.py",
            "test_pipeline.py",
            "test_pubsub.py",
            "test_scripting.py",
        ],
    ),
];

/// What became of each test.
type Outcomes = BTreeMap<String, String>;

/// What a lane shows.
struct Found {
    all: Vec<String>,
    /// What passes directly and through the module.
    same: BTreeSet<String>,
    /// What passes directly only.
    differ: BTreeSet<String>,
}

/// A part of the suite in one protocol, with servers of its own: one that is asked directly, one through the module.
struct Lane {
    name: String,
    tests: Vec<String>,
    protocol: &'static str,
    direct: Redis,
    behind: Redis,
    listener: SocketAddr,
}

impl Lane {
    fn run(&self, tests: &[String], address: SocketAddr, server: &Redis) -> Result<Outcomes> {
        let (pytest, suite) = Library::redis_py_suite()?;
        let outcomes = workspace::scratch("redis-py")?.join("outcomes");
        let pytest = pytest.with("OUTCOMES", &outcomes).with("SERVER", server.addr().to_string());
        let url = format!("--redis-url=redis://{address}/0");
        let protocol = format!("--protocol={}", self.protocol);
        let plugins =
            ["-p", "pytest_asyncio.plugin", "-p", "pytest_timeout", "-p", "outcomes", "-p", "no:cacheprovider"];
        let mut args = vec!["-q", "-W", "ignore", "-m", "not onlycluster and not ssl", "--timeout=60", &url, &protocol];
        args.extend(plugins);
        let root = format!("--rootdir={}", suite.display());
        args.push(&root);
        let tests: Vec<String> = tests.iter().map(|test| suite.join(test).display().to_string()).collect();
        args.extend(tests.iter().map(String::as_str));
        let (_, said) = pytest.run_for(&args, PATIENCE)?;
        let written = std::fs::read_to_string(&outcomes).with_context(|| format!("pytest has not ended:\n{said}"))?;
        let outcome = |line: &str| line.split_once(' ').map(|(outcome, test)| (test.to_owned(), outcome.to_owned()));
        Ok(written.lines().filter_map(outcome).collect())
    }

    fn compare(&self) -> Result<Found> {
        let (direct, native) = std::thread::scope(|scope| {
            let direct = scope.spawn(|| self.run(&self.tests, self.direct.addr(), &self.direct));
            let native = self.run(&self.tests, self.listener, &self.behind);
            (direct.join(), native)
        });
        let direct = direct.map_err(|_| anyhow::anyhow!("a run panicked"))??;
        let native = native?;
        let passes = |outcomes: &Outcomes, test: &String| outcomes.get(test).is_some_and(|outcome| outcome == "passed");
        let passed: BTreeSet<String> = direct.keys().filter(|test| passes(&direct, test)).cloned().collect();
        ensure!(passed.len() > 900, "{}: only {} tests pass without the module", self.name, passed.len());
        let (same, differ): (BTreeSet<String>, BTreeSet<String>) =
            passed.into_iter().partition(|test| passes(&native, test));
        println!("{}: {} pass directly and through the module, {} don't", self.name, same.len(), differ.len());
        Ok(Found { all: direct.into_keys().collect(), same, differ })
    }
}

/// The listed tests.
fn listed() -> Result<BTreeSet<String>> {
    let text = include_str!("differences.txt");
    let tests: BTreeSet<String> =
        text.lines().filter(|line| line.contains("::")).map(|line| format!("tests/{line}")).collect();
    ensure!(!tests.is_empty());
    Ok(tests)
}

/// The name without parameters.
fn bare(test: &str) -> &str {
    test.split('[').next().unwrap_or(test)
}

#[test]
fn its_own_suite_passes() -> Result<()> {
    let subnet = Subnet::claim()?;
    let server = |number: usize| {
        // Some tests let a server answer with an error of their choice.
        let config = vec!["enable-debug-command yes".into()];
        Redis::start_with(Options { addr: Some(subnet.redis(number as u8)), config, ..Options::default() })
    };
    let (mut config, mut lanes) = (Config::new(), Vec::new());
    for (part, (directory, files)) in PARTS.into_iter().enumerate() {
        for (i, protocol) in ["2", "3"].into_iter().enumerate() {
            let number = 2 * part + i;
            let name = format!("{directory}, RESP{protocol}");
            let (direct, behind) = (server(50 + number)?, server(100 + number)?);
            let (listener, host) = (subnet.redis(1 + number as u8), format!("lane{number}"));
            let document = listener::config(&host, 1, native::host(&[&host], vec![route(KeyMatch::Any, 0)]));
            config = config.listener(&host, listener, vec![native::proxy(&document)?]);
            config = config.cluster(&format!("{host}.test:6379"), &[behind.addr()]);
            let tests = files.iter().map(|file| format!("{directory}/{file}")).collect();
            lanes.push(Lane { name, tests, protocol, direct, behind, listener });
        }
    }
    let envoy = native::start(&config, 2)?;
    Library::redis_py_suite()?;
    let found: Vec<_> = std::thread::scope(|scope| {
        let runs: Vec<_> = lanes.iter().map(|lane| scope.spawn(|| lane.compare())).collect();
        runs.into_iter().map(|run| run.join().unwrap_or_else(|_| anyhow::bail!("a lane panicked"))).collect()
    });
    let listed = listed()?;
    let mut wrong = Vec::new();
    let mut unknown = listed.clone();
    for (lane, found) in lanes.iter().zip(found) {
        let Found { all, same, differ } = found.with_context(|| lane.name.clone())?;
        unknown.retain(|listed| all.iter().all(|test| bare(test) != listed));
        let unlisted: Vec<String> = differ.into_iter().filter(|test| !listed.contains(bare(test))).collect();
        if !unlisted.is_empty() {
            // Many of its tests wait for a fixed time, which may not be enough while everything runs at once.
            let again = lane.run(&unlisted, lane.listener, &lane.behind)?;
            for test in unlisted {
                let outcome = again.get(&test).map_or("missing", String::as_str);
                println!("{}: {test} once more, alone: {outcome}", lane.name);
                if outcome != "passed" {
                    wrong.push(format!("{}: {test} passes directly only", lane.name));
                }
            }
        }
        let passing = same.iter().filter(|test| listed.contains(bare(test)));
        wrong.extend(passing.map(|test| format!("{}: {test} is listed as different and passes", lane.name)));
    }
    wrong.extend(unknown.into_iter().map(|test| format!("{test} is listed, and there is no such test")));
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    let log = envoy.log();
    ensure!(!log.contains("panicked") && !log.contains("critical"), "Envoy's log:\n{log}");
    Ok(())
}
