//! redis-py's own test suite: tests that pass with Redis pass through the native data path, in
//! RESP2 and RESP3, except those in `differences.txt`; and with a Redis Cluster, which the suite
//! sees as one Redis, except those that no Redis Cluster allows.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use redis_mesh_core::wire::KeyMatch;
use redis_mesh_tests::client_library::Library;
use redis_mesh_tests::cluster::{Cluster, Shape};
use redis_mesh_tests::listener::{self, Config, route};
use redis_mesh_tests::net::Subnet;
use redis_mesh_tests::redis::{Options, Redis};
use redis_mesh_tests::{native, workspace};

/// The time that a part of the suite may take.
const PATIENCE: Duration = Duration::from_secs(550);

/// The suite's directories, by what they test, and the files of each that talk to a server; the
/// others need modules, Sentinel, TLS, a proxy of their own or a client for Redis Cluster, or no
/// server at all.
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

/// The result of each test.
type Outcomes = BTreeMap<String, String>;

/// A topology behind the module.
struct Way {
    name: String,
    listener: SocketAddr,
    servers: Vec<SocketAddr>,
    /// They are a Redis Cluster, which the suite takes for one Redis: what such a one denies isn't
    /// asked for.
    is_cluster: bool,
}

/// The results of a topology.
struct Found {
    /// The tests that pass both directly and through the module.
    same: BTreeSet<String>,
    /// The tests that pass directly only.
    differ: BTreeSet<String>,
}

/// A part of the suite in one protocol, with a server that is asked directly.
struct Lane {
    tests: Vec<String>,
    protocol: &'static str,
    direct: Redis,
    ways: Vec<Way>,
}

impl Lane {
    fn run(&self, tests: &[String], address: SocketAddr, servers: &[SocketAddr]) -> Result<Outcomes> {
        let (pytest, suite) = Library::redis_py_suite()?;
        let outcomes = workspace::scratch("redis-py")?.join("outcomes");
        let servers: Vec<String> = servers.iter().map(SocketAddr::to_string).collect();
        let pytest = pytest.with("OUTCOMES", &outcomes).with("SERVERS", servers.join(","));
        let url = format!("--redis-url=redis://{address}/0");
        let protocol = format!("--protocol={}", self.protocol);
        let plugins =
            ["-p", "pytest_asyncio.plugin", "-p", "pytest_timeout", "-p", "outcomes", "-p", "no:cacheprovider"];
        // pytest's own form of tracebacks takes seconds for each.
        let mut args = vec!["-q", "-W", "ignore", "--tb=native", "-m", "not onlycluster and not ssl", "--timeout=60"];
        args.extend([url.as_str(), &protocol]);
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

    /// All tests, and what each way shows.
    fn compare(&self) -> Result<(Vec<String>, Vec<Found>)> {
        let address = self.direct.addr();
        let (direct, through): (Result<Outcomes>, Result<Vec<Outcomes>>) = std::thread::scope(|scope| {
            let runs: Vec<_> =
                self.ways.iter().map(|way| scope.spawn(|| self.run(&self.tests, way.listener, &way.servers))).collect();
            let direct = self.run(&self.tests, address, &[address]);
            let through = runs.into_iter().map(|run| run.join().unwrap_or_else(|_| bail!("a run panicked")));
            (direct, through.collect())
        });
        let direct = direct?;
        let passed: BTreeSet<&String> =
            direct.iter().filter(|(_, outcome)| *outcome == "passed").map(|(test, _)| test).collect();
        ensure!(passed.len() > 900, "only {} tests pass without the module", passed.len());
        let mut found = Vec::new();
        for (way, outcomes) in self.ways.iter().zip(through?) {
            let outcome = |test: &String| outcomes.get(test).map_or("missing", String::as_str);
            let all = passed.iter().copied().filter(|test| !way.is_cluster || outcome(test) != "denied").cloned();
            let (same, differ): (BTreeSet<String>, BTreeSet<String>) = all.partition(|test| outcome(test) == "passed");
            println!("{}: {} pass directly and through the module, {} don't", way.name, same.len(), differ.len());
            ensure!(same.len() > 850, "{}: only {} tests pass", way.name, same.len());
            found.push(Found { same, differ });
        }
        Ok((direct.into_keys().collect(), found))
    }
}

/// The tests that are listed as different, everywhere and before a Redis Cluster.
fn listed() -> Result<[BTreeSet<String>; 2]> {
    let text = include_str!("differences.txt");
    let (everywhere, cluster) = text.split_once("# Before a Redis Cluster only").context("no part about clusters")?;
    let tests = |text: &str| -> BTreeSet<String> {
        text.lines().filter(|line| line.contains("::")).map(|line| format!("tests/{line}")).collect()
    };
    let (everywhere, mut cluster) = (tests(everywhere), tests(cluster));
    ensure!(!everywhere.is_empty() && everywhere.is_disjoint(&cluster));
    cluster.extend(everywhere.iter().cloned());
    Ok([everywhere, cluster])
}

/// The name without parameters.
fn bare(test: &str) -> &str {
    test.split('[').next().unwrap_or(test)
}

#[test]
fn its_own_suite_passes() -> Result<()> {
    let subnet = Subnet::claim()?;
    let server = |number: u8| {
        // Some tests let a server answer with an error of their choice.
        let config = vec!["enable-debug-command yes".into()];
        Redis::start_with(Options { addr: Some(subnet.redis(number)), config, ..Options::default() })
    };
    let addrs = (0..3).map(|i| subnet.redis(200 + i)).collect();
    let config = vec!["enable-debug-command yes".into()];
    let shape = Shape { replicas: 0, addrs: Some(addrs), config, ..Shape::default() };
    let cluster = Cluster::start_with(shape)?;
    let mut nodes = native::host(&["nodes"], vec![route(KeyMatch::Any, 0)]);
    nodes.targets[0].cluster = true;
    let filters = vec![native::proxy(&listener::config("nodes", 1, nodes))?];
    let mut config = Config::new().listener("nodes", subnet.redis(20), filters);
    config = config.clusters(&[native::redis_cluster("nodes.test:6379", &cluster.addrs())]);
    let (mut lanes, mut servers) = (Vec::new(), Vec::new());
    for (part, (directory, files)) in PARTS.into_iter().enumerate() {
        for (i, protocol) in ["2", "3"].into_iter().enumerate() {
            let number = (2 * part + i) as u8;
            let name = format!("{directory}, RESP{protocol}");
            let (direct, behind) = (server(50 + number)?, server(100 + number)?);
            let (listener, host) = (subnet.redis(1 + number), format!("lane{number}"));
            let document = listener::config(&host, 1, native::host(&[&host], vec![route(KeyMatch::Any, 0)]));
            config = config.listener(&host, listener, vec![native::proxy(&document)?]);
            config = config.cluster(&format!("{host}.test:6379"), &[behind.addr()]);
            let tests = files.iter().map(|file| format!("{directory}/{file}")).collect();
            let mut ways = vec![Way { name, listener, servers: vec![behind.addr()], is_cluster: false }];
            servers.push(behind);
            // A suite at a time, as each empties all nodes.
            if (directory, protocol) == ("tests", "3") {
                let name = format!("{directory}, RESP{protocol}, a Redis Cluster");
                ways.push(Way { name, listener: subnet.redis(20), servers: cluster.addrs(), is_cluster: true });
            }
            lanes.push(Lane { tests, protocol, direct, ways });
        }
    }
    let envoy = native::start(&config, 2)?;
    Library::redis_py_suite()?;
    let found: Vec<_> = std::thread::scope(|scope| {
        let runs: Vec<_> = lanes.iter().map(|lane| scope.spawn(|| lane.compare())).collect();
        runs.into_iter().map(|run| run.join().unwrap_or_else(|_| bail!("a lane panicked"))).collect()
    });
    let [everywhere, of_cluster] = listed()?;
    let mut wrong = Vec::new();
    let mut unknown = of_cluster.clone();
    for (lane, found) in lanes.iter().zip(found) {
        let (all, found) = found?;
        unknown.retain(|listed| all.iter().all(|test| bare(test) != listed));
        for (way, Found { same, differ }) in lane.ways.iter().zip(found) {
            let listed = if way.is_cluster { &of_cluster } else { &everywhere };
            let unlisted: Vec<String> = differ.into_iter().filter(|test| !listed.contains(bare(test))).collect();
            if !unlisted.is_empty() {
                // Many of its tests wait for a fixed time, which may not be enough while
                // everything runs at once.
                let again = lane.run(&unlisted, way.listener, &way.servers)?;
                for test in unlisted {
                    let outcome = again.get(&test).map_or("missing", String::as_str);
                    println!("{}: {test} once more, alone: {outcome}", way.name);
                    if outcome != "passed" {
                        wrong.push(format!("{}: {test} passes directly only", way.name));
                    }
                }
            }
            let passing = same.iter().filter(|test| listed.contains(bare(test)));
            wrong.extend(passing.map(|test| format!("{}: {test} is listed as different and passes", way.name)));
        }
    }
    wrong.extend(unknown.into_iter().map(|test| format!("{test} is listed, and there is no such test")));
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    let log = envoy.log();
    ensure!(!log.contains("panicked") && !log.contains("critical"), "Envoy's log:\n{log}");
    drop(servers);
    Ok(())
}
