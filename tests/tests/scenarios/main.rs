//! Client libraries in their plain mode with the native data path before one Redis, several by key
//! prefix, or a Redis Cluster: a script prints word for word the same as with Redis itself.
//!
//! Each library has a script of its own (`tests/clients/*/scenario.*`), with the same contents:
//! values of all types, several hundred commands in a pipeline, transactions with WATCH, commands
//! that wait, subscribers that publish, Lua by EVALSHA, SCAN, values of 1 MB, errors. Queues of
//! jobs (BullMQ, RQ) check for themselves what they get. Keys begin with `p:`, `q:` or `n:`, which
//! lead to one destination each where there are several.

mod redis_rs;

use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, OnceLock};

use anyhow::{Context, Result, anyhow, ensure};
use redis_mesh_core::wire::{Host, KeyMatch};
use redis_mesh_tests::client_library::Library;
use redis_mesh_tests::cluster::{Cluster, Shape};
use redis_mesh_tests::envoy::Envoy;
use redis_mesh_tests::listener::{self, Config, route};
use redis_mesh_tests::net::Subnet;
use redis_mesh_tests::redis::Redis;
use redis_mesh_tests::{native, workspace};

/// The protocols that a library is told to use. With the first it chooses by itself.
const PROTOCOLS: [&str; 3] = ["default", "2", "3"];

/// The least number of lines that a script prints.
const LINES: usize = 80;

struct Scene {
    envoy: Envoy,
    /// Asked directly; behind the first way; behind the second.
    servers: Vec<Redis>,
    cluster: Cluster,
    subnet: Subnet,
}

impl Scene {
    fn start() -> Result<Scene> {
        let subnet = Subnet::claim()?;
        let servers = (0..5).map(|i| Redis::start_at(subnet.redis(20 + i))).collect::<Result<Vec<_>>>()?;
        let addrs = (0..6).map(|i| subnet.redis(30 + i)).collect();
        let cluster = Cluster::start_with(Shape { addrs: Some(addrs), ..Shape::default() })?;
        let one = native::host(&["one"], vec![route(KeyMatch::Any, 0)]);
        let removed = |prefix: &str, target: u32| {
            let mut route = route(KeyMatch::Prefix(prefix.into()), target);
            route.remove_prefix = true;
            route
        };
        let kept = route(KeyMatch::Prefix("j:".into()), 1);
        let routes = vec![removed("p:", 0), removed("q:", 1), kept, route(KeyMatch::Any, 2)];
        let several = native::host(&["p", "q", "others"], routes);
        let mut nodes = native::host(&["nodes"], vec![route(KeyMatch::Any, 0)]);
        nodes.targets[0].cluster = true;
        let mut config = Config::new().clusters(&[native::redis_cluster("nodes.test:6379", &cluster.addrs())]);
        for (name, server) in ["one", "p", "q", "others"].into_iter().zip(&servers[1..]) {
            config = config.cluster(&format!("{name}.test:6379"), &[server.addr()]);
        }
        let hosts: [(&str, Host); 3] = [("one", one), ("several", several), ("cluster", nodes)];
        for (i, (name, host)) in hosts.into_iter().enumerate() {
            let filters = vec![native::proxy(&listener::config(name, 1, host))?];
            config = config.listener(name, subnet.redis(1 + i as u8), filters);
        }
        let envoy = native::start(&config, 2)?;
        Ok(Scene { envoy, servers, cluster, subnet })
    }

    /// The addresses to which a script connects, with their names.
    fn ways(&self) -> [(&'static str, SocketAddr); 4] {
        let native = |number| self.subnet.redis(number);
        [
            ("Redis", self.servers[0].addr()),
            ("one", native(1)),
            ("several by prefix", native(2)),
            ("a Redis Cluster", native(3)),
        ]
    }

    fn forget(&self) -> Result<()> {
        for server in &self.servers {
            server.cmd(&["FLUSHALL"])?;
            server.cmd(&["SCRIPT", "FLUSH"])?;
        }
        self.cluster.forget()?;
        for master in self.cluster.masters() {
            self.cluster.nodes[master].cmd(&["SCRIPT", "FLUSH"])?;
        }
        Ok(())
    }
}

/// Returns the scene, which one library uses at a time.
fn scene() -> Result<MutexGuard<'static, Scene>> {
    static SCENE: OnceLock<Result<Mutex<Scene>, String>> = OnceLock::new();
    let scene = SCENE.get_or_init(|| Scene::start().map(Mutex::new).map_err(|error| format!("{error:#}")));
    let scene = scene.as_ref().map_err(|error| anyhow!("{error}"))?;
    Ok(scene.lock().unwrap_or_else(|poisoned| poisoned.into_inner()))
}

/// Runs a script at each address and compares its output with that for Redis itself. Its arguments
/// are the address, the port and the protocol.
fn same_everywhere(run: impl Fn(&[String]) -> Result<String>) -> Result<()> {
    let scene = scene()?;
    for protocol in PROTOCOLS {
        let mut expected = String::new();
        for (way, address) in scene.ways() {
            scene.forget()?;
            let begun = std::time::Instant::now();
            let args = [address.ip().to_string(), address.port().to_string(), protocol.to_owned()];
            let said = run(&args).with_context(|| format!("{way}, protocol {protocol}"))?;
            println!("{way}, protocol {protocol}: {} lines, {:.1?}", said.lines().count(), begun.elapsed());
            if expected.is_empty() {
                ensure!(said.lines().count() >= LINES && said.ends_with("\nend\n"), "too little:\n{said}");
                expected = said;
                continue;
            }
            let differ: Vec<String> = differences(&expected, &said);
            ensure!(differ.is_empty(), "{way}, protocol {protocol}:\n{}", differ.join("\n"));
        }
    }
    let log = scene.envoy.log();
    ensure!(!log.contains("panicked") && !log.contains("critical"), "Envoy's log:\n{log}");
    Ok(())
}

/// Runs a script that checks its results itself, through the module before the first `count`
/// topologies.
fn works(ways: usize, run: impl Fn(&[String]) -> Result<String>) -> Result<()> {
    let scene = scene()?;
    for (way, address) in scene.ways().into_iter().skip(1).take(ways) {
        scene.forget()?;
        let args = [address.ip().to_string(), address.port().to_string(), "native".to_owned()];
        let said = run(&args).with_context(|| way.to_owned())?;
        println!("{way}: {}", said.trim_end());
    }
    let log = scene.envoy.log();
    ensure!(!log.contains("panicked") && !log.contains("critical"), "Envoy's log:\n{log}");
    Ok(())
}

/// Returns the lines in which two texts differ.
fn differences(expected: &str, said: &str) -> Vec<String> {
    let (mut expected, mut said) = (expected.lines(), said.lines());
    let mut differ = Vec::new();
    loop {
        match (expected.next(), said.next()) {
            (None, None) => return differ,
            (a, b) if a == b => {}
            (a, b) => differ.push(format!("Redis:  {}\nnative: {}", a.unwrap_or("-"), b.unwrap_or("-"))),
        }
    }
}

#[test]
fn redis_py() -> Result<()> {
    let library = Library::python("scenario.py")?;
    same_everywhere(|args| library.run(args))
}

#[test]
fn node_redis() -> Result<()> {
    let library = Library::javascript("scenario_node_redis.js")?;
    same_everywhere(|args| library.run(args))
}

#[test]
fn ioredis() -> Result<()> {
    let library = Library::javascript("scenario_ioredis.js")?;
    same_everywhere(|args| library.run(args))
}

#[test]
fn go_redis() -> Result<()> {
    match Library::go("scenario")? {
        Some(library) => same_everywhere(|args| library.run(args)),
        None => {
            workspace::progress("there is no Go on this machine: go-redis is left out");
            Ok(())
        }
    }
}

#[test]
fn lettuce() -> Result<()> {
    match Library::java("Scenario.java")? {
        Some(library) => same_everywhere(|args| library.run(args)),
        None => {
            workspace::progress("there is no JDK on this machine: Lettuce is left out");
            Ok(())
        }
    }
}

#[test]
fn redis_rs() -> Result<()> {
    same_everywhere(|args| redis_rs::scenario(&args[0], &args[1], &args[2]))
}

#[test]
fn bullmq() -> Result<()> {
    let library = Library::javascript("jobs.js")?;
    works(3, |args| library.run(args))
}

/// Its transactions are about keys of many slots, so it can't be before a Redis Cluster, whoever
/// stands between.
#[test]
fn rq() -> Result<()> {
    let library = Library::python("jobs.py")?;
    works(2, |args| library.run(args))
}
