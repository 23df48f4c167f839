//! The output of `redis-mesh render envoy` for the native data path, on a real Envoy.

use std::time::Duration;

use anyhow::{Result, ensure};
use redis_mesh_tests::client::Client;
use redis_mesh_tests::cluster::{Cluster, Shape};
use redis_mesh_tests::envoy::{Envoy, Options};
use redis_mesh_tests::native;
use redis_mesh_tests::net::Subnet;
use redis_mesh_tests::redis::{self, Redis};
use redis_mesh_tests::reply::Reply;
use redis_mesh_tests::scene::Scene;
use redis_mesh_tests::{cli, process};

const UPSTREAM: &str = "upstream-Secret-1";
const CLIENT: &str = "client-Secret-2";
const PATIENCE: Duration = Duration::from_secs(10);

/// One host before a Redis that asks for a password, another one, and a Redis Cluster.
struct Servers {
    envoy: Envoy,
    single: Redis,
    other: Redis,
    cluster: Cluster,
    subnet: Subnet,
}

impl Servers {
    /// With the annotation, and by the option alone.
    fn start(data_path: &str, args: &[&str]) -> Result<Servers> {
        let subnet = Subnet::claim()?;
        let single = Redis::start_with(redis::Options {
            addr: Some(subnet.redis(21)),
            password: Some(UPSTREAM.into()),
            ..redis::Options::default()
        })?;
        let other = Redis::start_at(subnet.redis(22))?;
        let cluster = Cluster::start_with(Shape {
            addrs: Some((31..37).map(|host| subnet.redis(host)).collect()),
            ..Shape::default()
        })?;
        let mut scene = Scene::on(&subnet);
        scene.service("front", 1, &[21]).service("other", 2, &[22]).service("nodes", 3, &[31, 32, 33, 34, 35, 36]);
        scene.destination("front", &format!("auth: {{plain: {{password: {UPSTREAM}}}}}"));
        scene.destination("nodes", "mode: CLUSTER");
        scene.rules(
            "front",
            data_path,
            &format!(
                "settings: {{auth: {{plain: {{password: {CLIENT}}}}}, opTimeout: 300ms}}, redis: [
                  {{match: {{key: {{prefix: 'c:'}}}}, route: {{host: nodes}}, mirror: [{{route: {{host: other}}}}]}},
                  {{match: {{key: {{prefix: 'r:'}}}}, route: {{host: nodes}}, readPolicy: REPLICA}},
                  {{match: {{key: {{prefix: 'o:', removePrefix: true}}}}, route: {{host: other}}}},
                  {{route: {{host: front}}}}]"
            ),
        );
        let config = cli::render_envoy_text(scene.manifests(), args)?;
        let envoy = Envoy::start_with(&config, &Options { concurrency: 1, ..Options::default() })?;
        Ok(Servers { envoy, single, other, cluster, subnet })
    }

    fn client(&self) -> Result<Client> {
        Client::connect_with(self.subnet.redis(1), CLIENT)
    }
}

#[test]
fn several_destinations_and_all_of_redis() -> Result<()> {
    let module = native::build()?;
    let servers = Servers::start("auto", &["--module", &module.to_string_lossy()])?;
    let mut client = servers.client()?;
    assert_eq!(client.line("MSET c:1 a r:1 b o:1 c x d")?, Reply::ok());
    assert_eq!(client.line("MGET x o:1 r:1 c:1")?.tty(), "1) \"d\"\n2) \"c\"\n3) \"b\"\n4) \"a\"");
    assert_eq!(servers.cluster.get("c:1")?, Reply::bulk("a"));
    assert_eq!(servers.other.cmd(&["GET", "1"])?, Reply::bulk("c"));
    assert_eq!(servers.single.cmd(&["GET", "x"])?, Reply::bulk("d"));
    // A transaction on each of them, with WATCH.
    for key in ["c:n", "o:n", "n"] {
        for command in [format!("WATCH {key}"), "MULTI".to_owned(), format!("INCR {key}")] {
            ensure!(!client.line(&command)?.is_error(), "{command}");
        }
        servers.client()?.line(&format!("INCR {key}"))?;
        assert_eq!(client.line("EXEC")?, Reply::NullArray, "{key}");
    }
    // Blocking, and what is published.
    client.send(&["BLPOP", "list", "10"])?;
    assert_eq!(servers.client()?.line("RPUSH list 1")?, Reply::Integer(1));
    assert_eq!(client.read()?.tty(), "1) \"list\"\n2) \"1\"");
    // Copies go out on a connection of their own.
    process::wait_until("a copy", PATIENCE, || {
        servers.other.cmd(&["GET", "c:1"]).is_ok_and(|reply| reply == Reply::bulk("a"))
    })?;
    // A route has a read policy of its own.
    let gets = |servers: &Servers| -> Result<(u64, u64)> {
        let calls = servers.cluster.calls("get")?;
        let sum = |nodes: Vec<usize>| nodes.into_iter().map(|node| calls[node]).sum();
        Ok((sum(servers.cluster.masters()), sum(servers.cluster.replicas())))
    };
    let before = gets(&servers)?;
    for _ in 0..10 {
        assert_eq!(client.line("GET r:1")?, Reply::bulk("b"));
    }
    assert_eq!(gets(&servers)?, (before.0, before.1 + 10));
    Ok(())
}

#[test]
fn what_is_pinned_needs_no_option() -> Result<()> {
    // The module that stands beside the command line, or in the workspace.
    native::build()?;
    let servers = Servers::start("native", &[])?;
    let mut client = Client::connect(servers.subnet.redis(1))?;
    assert_eq!(client.line("GET x")?.tty(), "(error) NOAUTH Authentication required.");
    let mut client = servers.client()?;
    assert_eq!(client.line("SET x 1")?, Reply::ok());
    assert_eq!(client.line("SET c:1 1")?, Reply::ok());
    let dump = servers.envoy.get("/config_dump?include_eds")?;
    ensure!(dump.contains("[redacted]"), "nothing is redacted");
    for (what, text) in
        [("/config_dump", dump), ("/clusters", servers.envoy.get("/clusters")?), ("log", servers.envoy.log())]
    {
        ensure!(!text.contains(UPSTREAM) && !text.contains(CLIENT), "{what} shows a password");
    }
    Ok(())
}

#[test]
fn redis_may_take_as_long_as_is_said() -> Result<()> {
    let module = native::build()?;
    let servers = Servers::start("auto", &["--module", &module.to_string_lossy()])?;
    let mut client = servers.client()?;
    assert_eq!(client.line("SET o:x 1")?, Reply::ok());
    servers.other.pause()?;
    let reply = client.line("GET o:x")?;
    servers.other.resume()?;
    ensure!(reply.is_error(), "{reply:?}");
    Ok(())
}
