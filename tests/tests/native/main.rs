//! The native data path on a real Envoy.

mod clients;
mod cluster;
mod failover;
mod half_closed;
mod hello;
mod hostile;
mod logins;
mod members;
mod mirrors;
mod names;
mod nodes;
mod notifications;
mod outages;
mod placement;
mod redirections;
mod rendered;
mod scripted;
mod scripts;
mod sessions;
mod shard_channels;
mod silence;
mod stats;
mod tracking;
mod unread;

use std::io::Write;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use redis_mesh_core::wire::{FaultKind, KeyMatch, Route};
use redis_mesh_tests::client::{Client, encode};
use redis_mesh_tests::envoy::{self, Envoy};
use redis_mesh_tests::listener::{self, Config, route};
use redis_mesh_tests::native;
use redis_mesh_tests::net::Subnet;
use redis_mesh_tests::process::wait_until;
use redis_mesh_tests::redis::Redis;
use redis_mesh_tests::relay;
use redis_mesh_tests::reply::Reply;
use redis_mesh_tests::workspace;

/// The time that a condition may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Redis servers behind one listener.
struct Scene {
    envoy: Envoy,
    servers: Vec<Redis>,
    subnet: Subnet,
}

impl Scene {
    fn start(destinations: &[&str], routes: Vec<Route>, workers: u32) -> Result<Scene> {
        let subnet = Subnet::claim()?;
        let document = listener::config("redis", 1, native::host(destinations, routes));
        let filters = vec![native::proxy(&document)?];
        let mut config = Config::new().listener("redis", subnet.redis(1), filters);
        let mut servers = Vec::new();
        for (i, destination) in destinations.iter().enumerate() {
            let redis = Redis::start_at(subnet.redis(21 + i as u8))?;
            config = config.cluster(&format!("{destination}.test:6379"), &[redis.addr()]);
            servers.push(redis);
        }
        let envoy = native::start(&config, workers)?;
        Ok(Scene { envoy, servers, subnet })
    }

    /// Starts an Envoy with one destination and one worker.
    fn one() -> Result<Scene> {
        Scene::start(&["one"], vec![route(KeyMatch::Any, 0)], 1)
    }

    /// Two destinations: keys that begin with `b:` are at the second one.
    fn two() -> Result<Scene> {
        Scene::start(&["one", "two"], vec![route(KeyMatch::Prefix("b:".into()), 1), route(KeyMatch::Any, 0)], 1)
    }

    /// Where clients connect.
    fn address(&self) -> SocketAddr {
        self.subnet.redis(1)
    }

    fn client(&self) -> Result<Client> {
        Client::connect(self.address())
    }

    /// Returns a stat of a destination's cluster.
    fn upstream(&self, destination: &str, stat: &str) -> Result<u64> {
        let name = envoy::stat_name("cluster", &format!("{destination}.test:6379"), stat);
        Ok(self.envoy.stat(&name)?.unwrap_or(0))
    }

    /// Returns the number of Envoy's downstream connections.
    fn clients(&self) -> Result<u64> {
        let stats = self.envoy.stats("^listener\\.127.*\\.worker_.*downstream_cx_active$")?;
        Ok(stats.iter().map(|(_, value)| value).sum())
    }

    fn wait_for(&self, what: &str, mut is_so: impl FnMut(&Scene) -> Result<bool>) -> Result<()> {
        wait_until(what, PATIENCE, || is_so(self).unwrap_or(false))
    }
}

fn get(key: &str) -> Vec<String> {
    vec!["GET".into(), key.into()]
}

fn set(key: &str, value: &str) -> Vec<String> {
    vec!["SET".into(), key.into(), value.into()]
}

#[test]
fn clients_share_a_connection_that_outlives_them() -> Result<()> {
    let scene = Scene::one()?;
    let (mut a, mut b) = (scene.client()?, scene.client()?);
    assert_eq!(a.line("set a 1")?, Reply::ok());
    assert_eq!(b.line("set b 2")?, Reply::ok());
    for _ in 0..100 {
        a.send(&get("a"))?;
        b.send(&get("b"))?;
        assert_eq!((a.read()?, b.read()?), (Reply::bulk("1"), Reply::bulk("2")));
    }
    drop((a, b));
    scene.wait_for("clients gone", |scene| Ok(scene.clients()? == 0))?;
    assert_eq!(scene.client()?.line("get b")?, Reply::bulk("2"));
    assert_eq!(scene.upstream("one", "upstream_cx_total")?, 1);
    let anchors = scene.envoy.stat("cluster.redis_anchor.upstream_cx_total")?;
    assert_eq!(anchors, Some(1));
    Ok(())
}

#[test]
fn pipelines_keep_their_order() -> Result<()> {
    let scene = Scene::one()?;
    let mut clients = [scene.client()?, scene.client()?, scene.client()?];
    let keys: Vec<String> = (0..3000).map(|i| format!("key:{i}")).collect();
    for (c, client) in clients.iter_mut().enumerate() {
        let commands: Vec<_> = keys.iter().map(|key| set(&format!("{c}:{key}"), &format!("{c}:{key}"))).collect();
        assert!(client.pipeline(&commands)?.iter().all(|reply| *reply == Reply::ok()));
    }
    // All at once, and in pieces that cut commands apart.
    for (c, client) in clients.iter_mut().enumerate() {
        let bytes: Vec<u8> = keys.iter().flat_map(|key| encode(&get(&format!("{c}:{key}")))).collect();
        for piece in bytes.chunks(1009) {
            client.write(piece)?;
        }
    }
    for (c, client) in clients.iter_mut().enumerate() {
        for key in &keys {
            assert_eq!(client.read()?, Reply::bulk(format!("{c}:{key}")));
        }
    }
    // More than Envoy's buffers hold.
    let value = "x".repeat(3_000_000);
    assert_eq!(clients[0].cmd(&set("large", &value))?, Reply::ok());
    assert_eq!(clients[1].cmd(&get("large"))?, Reply::bulk(&value));
    Ok(())
}

#[test]
fn commands_go_where_their_keys_lead() -> Result<()> {
    let routes =
        vec![route(KeyMatch::Prefix("a:".into()), 0), route(KeyMatch::Prefix("b:".into()), 1), route(KeyMatch::Any, 2)];
    let scene = Scene::start(&["one", "two", "three"], routes, 1)?;
    let mut client = scene.client()?;
    let names = ["a:x", "b:x", "x", "b:y", "a:y", "y"];
    let commands: Vec<_> = names.iter().flat_map(|name| [set(name, name), get(name)]).collect();
    for _ in 0..50 {
        for (name, replies) in names.iter().zip(client.pipeline(&commands)?.chunks(2)) {
            assert_eq!(replies, [Reply::ok(), Reply::bulk(name)]);
        }
    }
    for (server, keys) in scene.servers.iter().zip([["a:x", "a:y"], ["b:x", "b:y"], ["x", "y"]]) {
        assert_eq!(server.cmd(&["DBSIZE"])?, Reply::Integer(2));
        for key in keys {
            assert_eq!(server.cmd(&get(key))?, Reply::bulk(key));
        }
    }
    Ok(())
}

#[test]
fn what_a_vanished_client_has_asked_reaches_nobody() -> Result<()> {
    let scene = Scene::one()?;
    let (redis, mut stays) = (&scene.servers[0], scene.client()?);
    redis.cmd(&set("mine", "mine"))?;
    redis.cmd(&set("theirs", "theirs"))?;
    for round in 0..20 {
        let mut goes = scene.client()?;
        assert_eq!(goes.cmd(&get("theirs"))?, Reply::bulk("theirs"));
        let sent = scene.upstream("one", "upstream_cx_tx_bytes_total")?;
        redis.pause()?;
        let asked = encode(&get("theirs")).repeat(10);
        goes.write(&asked)?;
        scene.wait_for("commands in flight", |scene| {
            Ok(scene.upstream("one", "upstream_cx_tx_bytes_total")? >= sent + asked.len() as u64)
        })?;
        stays.send(&get("mine"))?;
        // By a reset; one that only says nothing more might still read.
        relay::linger(goes.stream());
        drop(goes);
        scene.wait_for("one client gone", |scene| Ok(scene.clients()? == 1))?;
        redis.resume()?;
        assert_eq!(stays.read()?, Reply::bulk("mine"), "round {round}");
        assert_eq!(stays.cmd(&get("none"))?, Reply::NullBulk, "round {round}");
    }
    assert_eq!(scene.upstream("one", "upstream_cx_total")?, 1);
    Ok(())
}

#[test]
fn a_redis_that_dies_is_answered_for_and_found_again() -> Result<()> {
    let mut scene = Scene::one()?;
    let mut client = scene.client()?;
    assert_eq!(client.line("set a 1")?, Reply::ok());

    // What is in flight when it dies.
    let sent = scene.upstream("one", "upstream_cx_tx_bytes_total")?;
    scene.servers[0].pause()?;
    let asked = encode(&get("a")).repeat(10);
    client.write(&asked)?;
    scene.wait_for("commands in flight", |scene| {
        Ok(scene.upstream("one", "upstream_cx_tx_bytes_total")? >= sent + asked.len() as u64)
    })?;
    scene.servers[0].kill();
    for _ in 0..10 {
        let reply = client.read()?;
        assert!(reply.is_error(), "{reply:?}");
    }

    // What is asked while it is dead, of which most doesn't try to connect.
    for _ in 0..500 {
        let reply = client.line("get a")?;
        assert!(reply.is_error(), "{reply:?}");
    }
    let tries = scene.upstream("one", "upstream_cx_connect_fail")?;
    assert!((1..100).contains(&tries), "{tries}");

    scene.servers[0].restart()?;
    let mut last = Reply::NullBulk;
    let found = wait_until("answer of Redis", PATIENCE, || {
        last = client.line("set a 2").unwrap_or(Reply::NullBulk);
        last == Reply::ok()
    });
    if found.is_err() {
        bail!("Redis isn't found again: {last:?}");
    }
    assert_eq!(scene.client()?.line("get a")?, Reply::bulk("2"));
    assert_eq!(scene.envoy.stat("cluster.redis_anchor.upstream_cx_total")?, Some(1));
    Ok(())
}

#[test]
fn workers_have_connections_of_their_own() -> Result<()> {
    let scene = Scene::start(&["one"], vec![route(KeyMatch::Any, 0)], 2)?;
    // The kernel gives connections to either worker.
    let mut clients = Vec::new();
    scene.wait_for("clients of both workers", |scene| {
        clients.push(scene.client()?);
        let stats = scene.envoy.stats("^listener\\.127.*\\.worker_.*downstream_cx_total$")?;
        Ok(stats.len() == 2 && stats.iter().all(|(_, value)| *value > 0))
    })?;
    for (i, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.cmd(&set(&format!("k{i}"), &i.to_string()))?, Reply::ok());
    }
    for (i, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.cmd(&get(&format!("k{i}")))?, Reply::bulk(i.to_string()));
    }
    assert_eq!(scene.upstream("one", "upstream_cx_total")?, 2);
    assert_eq!(scene.envoy.stat("cluster.redis_anchor.upstream_cx_total")?, Some(2));
    Ok(())
}

#[test]
fn thousands_of_short_connections_leave_nothing_behind() -> Result<()> {
    let scene = Scene::one()?;
    let mut stays = scene.client()?;
    assert_eq!(stays.line("set a 1")?, Reply::ok());
    for i in 0..2000 {
        let mut goes = scene.client()?;
        match i % 3 {
            0 => assert_eq!(goes.line("get a")?, Reply::bulk("1")),
            // In flight, or not even read.
            1 => goes.write(&encode(&get("a")).repeat(20))?,
            _ => goes.write(b"*2\r\n$3\r\nGET\r\n$1000\r\nhalf")?,
        }
        if i % 100 == 0 {
            assert_eq!(stays.line("get a")?, Reply::bulk("1"));
        }
    }
    scene.wait_for("one client left", |scene| Ok(scene.clients()? == 1))?;
    assert_eq!(stays.line("get a")?, Reply::bulk("1"));
    assert_eq!(scene.upstream("one", "upstream_cx_total")?, 1);
    Ok(())
}

#[test]
fn what_cannot_be_compiled_is_refused_with_a_reason() -> Result<()> {
    let subnet = Subnet::claim()?;
    let refused = |filter: serde_json::Value| -> Result<String> {
        let config = Config::new().listener("redis", subnet.redis(1), vec![filter]);
        match envoy::validate(&native::text(&config.text())?) {
            Ok(()) => bail!("Envoy takes it"),
            Err(error) => Ok(error.to_string()),
        }
    };
    let document = listener::config("redis", 1, native::host(&["one"], vec![route(KeyMatch::Any, 7)]));
    let error = refused(native::proxy(&document)?)?;
    assert!(error.contains("configuration refused") && error.contains("there is no target 7"), "{error}");
    let error = refused(native::filter("proxies", true, None)?)?;
    assert!(error.contains("the module has no filter \"proxies\""), "{error}");
    let text = serde_json::json!({"@type": "type.googleapis.com/google.protobuf.StringValue", "value": "{"});
    let error = refused(native::filter("proxy", true, Some(text))?)?;
    assert!(error.contains("configuration refused: EOF"), "{error}");
    Ok(())
}

#[test]
fn a_document_comes_in_any_form_that_envoy_hands_on() -> Result<()> {
    let subnet = Subnet::claim()?;
    let redis = Redis::start_at(subnet.redis(21))?;
    let document = listener::config("redis", 1, native::host(&["one"], vec![route(KeyMatch::Any, 0)]));
    let types = "type.googleapis.com/google.protobuf";
    let forms = [
        serde_json::json!({"@type": format!("{types}.StringValue"), "value": serde_json::to_string(&document)?}),
        serde_json::json!({"@type": format!("{types}.Struct"), "value": document}),
    ];
    let mut config = Config::new().cluster("one.test:6379", &[redis.addr()]);
    for (i, form) in forms.into_iter().enumerate() {
        let filter = native::filter("proxy", true, Some(form))?;
        config = config.listener(&format!("form{i}"), subnet.redis(1 + i as u8), vec![filter]);
    }
    let _envoy = native::start(&config, 1)?;
    for i in 0..2 {
        let mut client = Client::connect(subnet.redis(1 + i))?;
        assert_eq!(client.line("ping")?.tty(), "PONG");
    }
    Ok(())
}

#[test]
fn a_new_configuration_reaches_open_connections() -> Result<()> {
    let subnet = Subnet::claim()?;
    let servers = [Redis::start_at(subnet.redis(21))?, Redis::start_at(subnet.redis(22))?];
    let listeners = |revision: u64, target: u32| -> Result<Config> {
        let host = native::host(&["one", "two"], vec![route(KeyMatch::Any, target)]);
        let filters = vec![native::proxy(&listener::config("redis", revision, host))?];
        Ok(Config::new().listener("redis", subnet.redis(1), filters))
    };
    let mut clusters = Config::new();
    for (name, redis) in ["one", "two"].iter().zip(&servers) {
        redis.cmd(&set("where", name))?;
        clusters = clusters.cluster(&format!("{name}.test:6379"), &[redis.addr()]);
    }
    let file = workspace::scratch("listeners")?.join("listeners.json");
    listeners(1, 0)?.write_listeners(&file)?;
    let envoy = native::start_with(&clusters.text_with_listeners_in(&file), 1)?;
    let mut client = Client::connect(subnet.redis(1))?;
    assert_eq!(client.line("get where")?, Reply::bulk("one"));
    listeners(2, 1)?.write_listeners(&file)?;
    wait_until("revision 2", PATIENCE, || envoy.log().contains("redis-mesh: redis revision 2"))?;
    assert_eq!(client.line("get where")?, Reply::bulk("two"));
    assert_eq!(Client::connect(subnet.redis(1))?.line("get where")?, Reply::bulk("two"));
    Ok(())
}

#[test]
fn what_is_delayed_is_sent_when_its_time_has_come() -> Result<()> {
    let subnet = Subnet::claim()?;
    let redis = Redis::start_at(subnet.redis(21))?;
    let delay = Duration::from_millis(100);
    let mut host = native::host(&["one"], vec![route(KeyMatch::Any, 0)]);
    host.faults = vec![listener::fault(FaultKind::Delay, delay, &["get"])];
    let filters = vec![native::proxy(&listener::config("redis", 1, host))?];
    let config = Config::new().cluster("one.test:6379", &[redis.addr()]).listener("redis", subnet.redis(1), filters);
    let _envoy = native::start(&config, 1)?;
    // The first client goes, and with it whatever woke it.
    for _ in 0..3 {
        let (mut delayed, mut other) = (Client::connect(subnet.redis(1))?, Client::connect(subnet.redis(1))?);
        let begin = Instant::now();
        delayed.send(&get("a"))?;
        assert_eq!(other.line("set b 1")?, Reply::ok());
        assert_eq!(delayed.read()?, Reply::NullBulk);
        assert!(begin.elapsed() >= delay, "{:?}", begin.elapsed());
    }
    Ok(())
}

#[test]
fn envoy_ends_in_order_under_load() -> Result<()> {
    let mut scene = Scene::start(&["one"], vec![route(KeyMatch::Any, 0)], 2)?;
    let mut clients = Vec::new();
    for _ in 0..20 {
        let mut client = scene.client()?;
        assert_eq!(client.line("set a 1")?, Reply::ok());
        client.write(&encode(&get("a")).repeat(500))?;
        clients.push(client);
    }
    scene.envoy.process().signal(libc::SIGTERM)?;
    wait_until("end of Envoy", PATIENCE, || scene.envoy.has_ended())?;
    let log = scene.envoy.log();
    assert!(!log.contains("panicked") && !log.contains("Caught") && !log.contains("assert"), "{log}");
    Ok(())
}

#[test]
fn a_redis_that_stops_stops_its_clients() -> Result<()> {
    let scene = Scene::one()?;
    let mut client = scene.client()?;
    assert_eq!(client.line("set a 1")?, Reply::ok());
    let idle = scene.envoy.process().resident_memory()?;
    scene.servers[0].pause()?;
    let (command, commands) = (encode(&set("large", &"x".repeat(100_000))), 2000);
    let stream = client.stream().try_clone()?;
    let writer = std::thread::spawn(move || -> std::io::Result<()> {
        let mut stream = stream;
        stream.set_write_timeout(Some(PATIENCE))?;
        (0..commands).try_for_each(|_| stream.write_all(&command))
    });
    // It is stopped when nothing more goes into Envoy.
    let received = |scene: &Scene| scene.upstream("one", "upstream_cx_tx_bytes_total");
    let mut before = 0;
    scene.wait_for("end of what Envoy takes", |scene| {
        std::thread::sleep(Duration::from_millis(200));
        let now = received(scene)? + scene.envoy.process().resident_memory()?;
        Ok(std::mem::replace(&mut before, now) == now)
    })?;
    let grown = scene.envoy.process().peak_memory()?.saturating_sub(idle);
    scene.servers[0].resume()?;
    for i in 0..commands {
        assert_eq!(client.read()?, Reply::ok(), "{i}");
    }
    writer.join().unwrap()?;
    assert!(grown < 60_000_000, "{grown}");
    Ok(())
}

#[test]
fn a_client_that_reads_nothing_costs_little() -> Result<()> {
    let scene = Scene::one()?;
    let (mut slow, mut quick) = (scene.client()?, scene.client()?);
    let (value, commands) = ("x".repeat(1_000_000), 300);
    assert_eq!(quick.cmd(&set("large", &value))?, Reply::ok());
    let idle = scene.envoy.process().resident_memory()?;
    slow.write(&encode(&get("large")).repeat(commands))?;
    let mut before = 0;
    scene.wait_for("end of what Envoy takes", |scene| {
        std::thread::sleep(Duration::from_millis(200));
        let now = scene.upstream("one", "upstream_cx_rx_bytes_total")?;
        Ok(now > 0 && std::mem::replace(&mut before, now) == now)
    })?;
    let grown = scene.envoy.process().peak_memory()?.saturating_sub(idle);
    assert_eq!(quick.line("get none")?, Reply::NullBulk);
    for i in 0..commands {
        assert_eq!(slow.read()?, Reply::bulk(&value), "{i}");
    }
    assert!(grown < 60_000_000, "{grown}");
    Ok(())
}
