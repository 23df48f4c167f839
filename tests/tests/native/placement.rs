//! Several servers behind one destination that are no Redis Cluster: each key is where Envoy's
//! `redis_proxy` with the load balancer MAGLEV puts it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use redis_mesh_core::maglev::key_hash::key_hash;
use redis_mesh_core::maglev::table::{MaglevTable, Member};
use redis_mesh_core::wire::{KeyHash, KeyMatch};
use redis_mesh_tests::client::Client;
use redis_mesh_tests::envoy::Envoy;
use redis_mesh_tests::listener::{self, Config, RedisProxy, route};
use redis_mesh_tests::native;
use redis_mesh_tests::net::Subnet;
use redis_mesh_tests::process::wait_until;
use redis_mesh_tests::redis::Redis;
use redis_mesh_tests::reply::Reply;
use redis_mesh_tests::workspace;
use serde_json::{Value, json};

use super::{PATIENCE, tracking};

/// The keys of a test.
const KEYS: usize = 10_000;

/// Three servers behind one name, by which redis_proxy and the module reach them.
struct Scene {
    servers: Vec<Redis>,
    subnet: Subnet,
    endpoints: PathBuf,
    _envoy: Envoy,
}

/// A server in the file of endpoints: its index, its weight, and whether it is healthy.
type Endpoint = (usize, u32, bool);

impl Scene {
    /// `is_deferred`: Envoy makes clusters when they are used first, as Istio's sidecars do.
    fn start(is_deferred: bool) -> Result<Scene> {
        let subnet = Subnet::claim()?;
        let servers: Result<Vec<Redis>> = (21..24).map(|host| Redis::start_at(subnet.redis(host))).collect();
        let (servers, endpoints) = (servers?, workspace::scratch("placement")?.join("endpoints.json"));
        write(&endpoints, &servers, &[(0, 1, true), (1, 1, true), (2, 1, true)])?;
        let of_keys = RedisProxy::new("keys").catch_all("maglev");
        let of_tags = RedisProxy::new("tags").catch_all("maglev").setting("enable_hashtagging", true.into());
        let mut maglev = cluster("maglev", &endpoints);
        maglev["lb_policy"] = "MAGLEV".into();
        let module = |what| -> Result<Vec<Value>> {
            let mut host = native::host(&["one"], vec![route(KeyMatch::Any, 0)]);
            for upstream in host.targets.iter_mut().filter_map(|target| target.upstream.as_mut()) {
                upstream.key_hash = Some(what);
            }
            Ok(vec![native::proxy(&listener::config(what.name(), 1, host))?])
        };
        let mut policed = cluster("one.test:6379", &endpoints);
        policed["load_balancing_policy"] = native::load_balancing_policy();
        let config = Config::new()
            .listener("redis_proxy by keys", subnet.redis(1), vec![of_keys.filter()])
            .listener("redis_proxy by tags", subnet.redis(2), vec![of_tags.filter()])
            .listener("native by keys", subnet.redis(3), module(KeyHash::Key)?)
            .listener("native by tags", subnet.redis(4), module(KeyHash::Tag)?)
            .clusters(&[maglev, policed]);
        let mut config: Value = serde_json::from_str(&config.text())?;
        if is_deferred {
            config["cluster_manager"] = json!({"enable_deferred_cluster_creation": true});
        }
        let envoy = native::start_with(&config.to_string(), 2)?;
        Ok(Scene { servers, subnet, endpoints, _envoy: envoy })
    }

    fn client(&self, listener: u8) -> Result<Client> {
        Client::connect(self.subnet.redis(listener))
    }

    /// The servers on which keys are, by key.
    fn found(&self) -> Result<BTreeMap<String, usize>> {
        let mut found = BTreeMap::new();
        for (index, server) in self.servers.iter().enumerate() {
            let keys = server.cmd(&["KEYS", "*"])?;
            found.extend(keys.items().iter().map(|key| (key.text(), index)));
        }
        Ok(found)
    }

    fn forget(&self) -> Result<()> {
        self.servers.iter().try_for_each(|server| server.cmd(&["FLUSHALL"]).map(drop))
    }

    /// Sets all keys, through one listener.
    fn set(&self, listener: u8) -> Result<()> {
        let sets: Vec<Vec<String>> = keys().map(|key| vec!["SET".into(), key.clone(), key]).collect();
        for some in sets.chunks(1000) {
            ensure!(self.client(listener)?.pipeline(some)?.iter().all(|reply| !reply.is_error()));
        }
        Ok(())
    }
}

/// A cluster whose endpoints Envoy reads from a file that it watches.
fn cluster(name: &str, endpoints: &Path) -> Value {
    let source = json!({"path_config_source": {"path": endpoints}, "resource_api_version": "V3"});
    json!({
        "name": name,
        "type": "EDS",
        "connect_timeout": "1s",
        "eds_cluster_config": {"service_name": "three", "eds_config": source},
    })
}

fn write(file: &Path, servers: &[Redis], endpoints: &[Endpoint]) -> Result<()> {
    let endpoint = |(index, weight, is_healthy): &Endpoint| {
        let address: SocketAddr = servers[*index].addr();
        json!({
            "endpoint": {"address": {"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}}},
            "load_balancing_weight": weight,
            "health_status": if *is_healthy { "HEALTHY" } else { "UNHEALTHY" },
        })
    };
    let resource = json!({
        "@type": "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
        "cluster_name": "three",
        "endpoints": [{"lb_endpoints": endpoints.iter().map(endpoint).collect::<Vec<_>>()}],
    });
    let new = file.with_extension("new");
    std::fs::write(&new, json!({"resources": [resource]}).to_string())?;
    Ok(std::fs::rename(&new, file)?)
}

/// Keys of many lengths, some of which have tags.
fn keys() -> impl Iterator<Item = String> {
    (0..KEYS).map(|number| match number % 4 {
        0 => number.to_string(),
        1 => format!("user:{number}:{}", "x".repeat(number % 61)),
        2 => format!("{{tag{}}}:{number}", number % 97),
        _ => format!("ключ:{number}"),
    })
}

/// Where the keys belong.
fn expected(scene: &Scene, endpoints: &[Endpoint], what: KeyHash) -> BTreeMap<String, usize> {
    let healthy: Vec<&Endpoint> = endpoints.iter().filter(|(_, _, is_healthy)| *is_healthy).collect();
    let member = |(index, weight, _): &&Endpoint| Member { address: scene.servers[*index].addr(), weight: *weight };
    let table = MaglevTable::new(&healthy.iter().map(member).collect::<Vec<_>>()).unwrap();
    keys().map(|key| (key.clone(), healthy[table.member(key_hash(what, key.as_bytes()))].0)).collect()
}

#[test]
fn keys_are_where_redis_proxy_puts_them() -> Result<()> {
    let scene = Scene::start(false)?;
    for endpoints in [
        [(0, 1, true), (1, 1, true), (2, 1, true)],
        // One is ejected.
        [(0, 1, true), (1, 1, false), (2, 1, true)],
        [(0, 1, true), (1, 3, true), (2, 7, true)],
    ] {
        write(&scene.endpoints, &scene.servers, &endpoints)?;
        for (listener, what) in [(1, KeyHash::Key), (2, KeyHash::Tag), (3, KeyHash::Key), (4, KeyHash::Tag)] {
            let expected = expected(&scene, &endpoints, what);
            wait_until("the keys' places", PATIENCE, || {
                scene.forget().and_then(|()| scene.set(listener)).is_ok()
                    && scene.found().is_ok_and(|found| found == expected)
            })?;
        }
    }
    Ok(())
}

/// Gets all keys through one listener, in pieces of the server's own splitting.
fn get(scene: &Scene, listener: u8) -> Result<Vec<Reply>> {
    let mut values = Vec::new();
    for some in keys().collect::<Vec<_>>().chunks(500) {
        let mget: Vec<String> = std::iter::once("MGET".to_owned()).chain(some.iter().cloned()).collect();
        values.extend(scene.client(listener)?.ok(&mget)?.items().to_vec());
    }
    Ok(values)
}

#[test]
fn redis_proxy_and_the_module_see_the_same_data() -> Result<()> {
    let scene = Scene::start(true)?;
    let values: Vec<Reply> = keys().map(Reply::bulk).collect();
    for (writer, reader) in [(1, 3), (3, 1), (2, 4), (4, 2)] {
        scene.forget()?;
        scene.set(writer)?;
        ensure!(get(&scene, reader)? == values, "written by {writer}, read by {reader}");
    }
    let mut client = scene.client(3)?;
    ensure!(client.line("DBSIZE")? == Reply::Integer(KEYS as i64));
    ensure!(client.line("MULTI")? == Reply::ok() && client.line("SET 4 x")?.text() == "QUEUED");
    ensure!(client.line("EXEC")? == Reply::Array(vec![Reply::ok()]));
    ensure!(scene.client(1)?.line("GET 4")? == Reply::bulk("x"));
    // Channels are where keys of their names would be.
    for channel in 0..20 {
        client.send(&["SUBSCRIBE".to_owned(), format!("channel:{channel}"), format!("other:{channel}")])?;
        ensure!(client.read()?.items().len() == 3 && client.read()?.items().len() == 3);
    }
    for channel in 0..20 {
        for listener in [1, 3] {
            let heard = scene.client(listener)?.cmd(&["PUBLISH", &format!("channel:{channel}"), "hello"])?;
            ensure!(heard == Reply::Integer(1), "{heard:?}");
            ensure!(client.read()?.items().last() == Some(&Reply::bulk("hello")));
        }
    }
    // Patterns are at all servers.
    let mut listener = scene.client(3)?;
    listener.send(&["PSUBSCRIBE", "channel:*", "*"])?;
    ensure!(listener.read()?.items().len() == 3 && listener.read()?.items().last() == Some(&Reply::Integer(2)));
    for channel in (0..20).map(|channel| format!("channel:{channel}")) {
        scene.client(1)?.cmd(&["PUBLISH", &channel, "hello"])?;
        // A server tells its patterns in no order.
        let mut heard: Vec<Vec<String>> = Vec::new();
        for _ in 0..2 {
            heard.push(listener.read()?.items()[1..3].iter().map(Reply::text).collect());
        }
        heard.sort();
        ensure!(heard == [["*", &*channel], ["channel:*", &*channel]], "{heard:?}");
    }
    // So are notifications of keys.
    for server in &scene.servers {
        server.cmd(&["CONFIG", "SET", "notify-keyspace-events", "KEA"])?;
    }
    let mut listener = scene.client(3)?;
    listener.send(&["SUBSCRIBE", "__keyevent@0__:set"])?;
    listener.read()?;
    for key in (0..20).map(|key| format!("key:{key}")) {
        scene.client(1)?.ok(&["SET", &key, "v"])?;
        ensure!(listener.read()?.items().last() == Some(&Reply::bulk(&key)));
    }
    Ok(())
}

#[test]
fn clients_track_what_they_read_from_all_servers() -> Result<()> {
    let scene = Scene::start(false)?;
    let keys = tracking::keys();
    tracking::every_mode_tells(&|| scene.client(3), &keys)?;
    ensure!(scene.found()?.values().collect::<BTreeSet<_>>().len() > 1, "the keys are at several servers");
    // Where there are other servers, keys are at others by now.
    let mut client = tracking::tracker(scene.client(3)?, &["CLIENT TRACKING ON"])?;
    write(&scene.endpoints, &scene.servers, &[(0, 1, true), (1, 1, true)])?;
    wait_until("the end of all that is known", PATIENCE, || {
        tracking::forgotten(&mut client).is_ok_and(|keys| keys.contains("*"))
    })?;
    Ok(())
}
