//! Several servers behind one destination that are no Redis Cluster: each key is where Envoy's
//! `redis_proxy` with the load balancer MAGLEV puts it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use redis_mesh_core::maglev::key_hash::key_hash;
use redis_mesh_core::maglev::table::{MaglevTable, Member};
use redis_mesh_core::wire::KeyHash;
use redis_mesh_tests::client::Client;
use redis_mesh_tests::envoy::Envoy;
use redis_mesh_tests::listener::{Config, RedisProxy};
use redis_mesh_tests::native;
use redis_mesh_tests::net::Subnet;
use redis_mesh_tests::process::wait_until;
use redis_mesh_tests::redis::Redis;
use redis_mesh_tests::workspace;
use serde_json::{Value, json};

use super::PATIENCE;

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
    fn start() -> Result<Scene> {
        let subnet = Subnet::claim()?;
        let servers: Result<Vec<Redis>> = (21..24).map(|host| Redis::start_at(subnet.redis(host))).collect();
        let (servers, endpoints) = (servers?, workspace::scratch("placement")?.join("endpoints.json"));
        write(&endpoints, &servers, &[(0, 1, true), (1, 1, true), (2, 1, true)])?;
        let of_keys = RedisProxy::new("keys").catch_all("maglev");
        let of_tags = RedisProxy::new("tags").catch_all("maglev").setting("enable_hashtagging", true.into());
        let mut maglev = cluster("maglev", &endpoints);
        maglev["lb_policy"] = "MAGLEV".into();
        let config = Config::new()
            .listener("keys", subnet.redis(1), vec![of_keys.filter()])
            .listener("tags", subnet.redis(2), vec![of_tags.filter()])
            .clusters(&[maglev]);
        let envoy = native::start(&config, 2)?;
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
    let scene = Scene::start()?;
    for endpoints in [
        [(0, 1, true), (1, 1, true), (2, 1, true)],
        // One is ejected.
        [(0, 1, true), (1, 1, false), (2, 1, true)],
        [(0, 1, true), (1, 3, true), (2, 7, true)],
    ] {
        write(&scene.endpoints, &scene.servers, &endpoints)?;
        for (listener, what) in [(1, KeyHash::Key), (2, KeyHash::Tag)] {
            let expected = expected(&scene, &endpoints, what);
            wait_until("the keys' places", PATIENCE, || {
                scene.forget().and_then(|()| scene.set(listener)).is_ok()
                    && scene.found().is_ok_and(|found| found == expected)
            })?;
        }
    }
    Ok(())
}
