//! A Redis Cluster behind the native data path: clients see one Redis.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use redis_mesh_core::wire::{Host, KeyMatch, ReadPolicy};
use redis_mesh_tests::client::Client;
use redis_mesh_tests::cluster::{Cluster, Shape};
use redis_mesh_tests::envoy::Envoy;
use redis_mesh_tests::listener::{self, Config, route};
use redis_mesh_tests::native;
use redis_mesh_tests::net::Subnet;
use redis_mesh_tests::process::wait_until;
use redis_mesh_tests::reply::Reply;

pub struct Scene {
    pub envoy: Envoy,
    pub cluster: Cluster,
    subnet: Subnet,
}

impl Scene {
    pub fn start(replicas: usize, policy: ReadPolicy) -> Result<Scene> {
        Scene::of(Shape { replicas, node_timeout: Duration::from_millis(1000), ..Shape::default() }, policy)
    }

    pub fn of(shape: Shape, policy: ReadPolicy) -> Result<Scene> {
        Scene::with(shape, |host| host.read_policy = policy)
    }

    pub fn with(shape: Shape, change: impl FnOnce(&mut Host)) -> Result<Scene> {
        let cluster = Cluster::start_with(shape)?;
        let subnet = Subnet::claim()?;
        let mut host = native::host(&["one"], vec![route(KeyMatch::Any, 0)]);
        host.targets[0].cluster = true;
        change(&mut host);
        let filters = vec![native::proxy(&listener::config("redis", 1, host))?];
        let config = Config::new().listener("redis", subnet.redis(1), filters);
        let config = config.clusters(&[native::redis_cluster("one.test:6379", &cluster.addrs())]);
        Ok(Scene { envoy: native::start(&config, 1)?, cluster, subnet })
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.subnet.redis(1)
    }

    pub fn client(&self) -> Result<Client> {
        Client::connect(self.address())
    }
}

#[test]
fn keys_of_all_slots_are_served() -> Result<()> {
    let scene = Scene::start(0, ReadPolicy::Master)?;
    let mut client = scene.client()?;
    let sets: Vec<Vec<String>> = (0..300).map(|i| vec!["SET".into(), format!("k{i}"), format!("v{i}")]).collect();
    assert!(client.pipeline(&sets)?.iter().all(|reply| *reply == Reply::ok()));
    let mut mget = vec!["MGET".to_owned()];
    mget.extend((0..300).map(|i| format!("k{i}")));
    let values: Vec<String> = client.cmd(&mget)?.items().iter().map(Reply::text).collect();
    assert_eq!(values, (0..300).map(|i| format!("v{i}")).collect::<Vec<_>>());
    assert_eq!(client.line("DBSIZE")?, Reply::Integer(300));
    let (mut cursor, mut found) = ("0".to_owned(), 0);
    loop {
        let reply = client.cmd(&["SCAN", &cursor])?;
        cursor = reply.items()[0].text();
        found += reply.items()[1].items().len();
        if cursor == "0" {
            break;
        }
    }
    assert_eq!(found, 300);
    let replies = client.pipeline(&[vec!["MULTI"], vec!["INCR", "{t}a"], vec!["INCR", "{t}b"], vec!["EXEC"]])?;
    assert_eq!(replies[3], Reply::Array(vec![Reply::Integer(1), Reply::Integer(1)]));
    assert_eq!(client.line("WATCH {t}a")?, Reply::ok());
    scene.client()?.ok(&["INCR", "{t}a"])?;
    let replies = client.pipeline(&[vec!["MULTI"], vec!["INCR", "{t}a"], vec!["EXEC"]])?;
    assert_eq!(replies[2], Reply::NullArray);
    client.send(&["BLPOP", "{t}list", "0"])?;
    scene.client()?.ok(&["RPUSH", "{t}list", "x"])?;
    assert_eq!(client.read()?.items().len(), 2);
    client.send(&["SSUBSCRIBE", "shard"])?;
    client.read()?;
    assert_eq!(scene.client()?.line("SPUBLISH shard hello")?, Reply::Integer(1));
    assert_eq!(client.read()?.items().last(), Some(&Reply::bulk("hello")));
    let mut client = scene.client()?;
    assert_eq!(client.line("FLUSHALL")?, Reply::ok());
    assert_eq!(client.line("DBSIZE")?, Reply::Integer(0));
    let info = client.line("INFO")?.text();
    ensure!(info.contains("cluster_enabled:0") && info.contains("redis_mode:standalone"), "{info}");
    for master in 0..3 {
        let total = scene.cluster.nodes[master].cmd(&["CLUSTER", "INFO"])?.text();
        ensure!(total.contains("cluster_state:ok"), "{total}");
    }
    Ok(())
}

/// Appends to keys without pause until told to stop, and checks that each key holds exactly the
/// acknowledged appends, in order, except those with an error reply.
fn append(mut client: Client, number: usize, keys: &[String], ends: &AtomicBool) -> Result<(usize, usize)> {
    let (mut acknowledged, mut failed) = (0, 0);
    let mut said: Vec<Vec<(usize, bool)>> = vec![Vec::new(); keys.len()];
    let mut at = 0;
    while !ends.load(Ordering::Relaxed) {
        // A pipeline, so that commands under way meet the change.
        let round: Vec<(usize, usize)> = (0..16).map(|i| ((at + i) % keys.len(), at + i)).collect();
        let commands: Vec<Vec<String>> = round
            .iter()
            .map(|(key, value)| vec!["RPUSH".into(), format!("{}-{number}", keys[*key]), value.to_string()])
            .collect();
        let replies = client.pipeline(&commands)?;
        for ((key, value), reply) in round.into_iter().zip(replies) {
            let is_right = matches!(reply, Reply::Integer(_));
            said[key].push((value, is_right));
            acknowledged += usize::from(is_right);
            failed += usize::from(!is_right);
        }
        at += 16;
    }
    std::thread::sleep(Duration::from_millis(200));
    for (key, said) in keys.iter().zip(&said) {
        let list = client.cmd(&["LRANGE", &format!("{key}-{number}"), "0", "-1"])?;
        let stored: Vec<usize> = list.items().iter().filter_map(|item| item.text().parse().ok()).collect();
        ensure!(stored.windows(2).all(|pair| pair[0] < pair[1]), "{key}: out of order, or twice: {stored:?}");
        for (value, is_right) in said {
            ensure!(
                !is_right || stored.binary_search(value).is_ok(),
                "{key}: {value} was acknowledged, and isn't there"
            );
        }
    }
    Ok((acknowledged, failed))
}

#[test]
fn slots_move_under_traffic() -> Result<()> {
    let scene = Scene::start(0, ReadPolicy::Master)?;
    // Of one slot each.
    let keys: Vec<String> = (0..8).map(|i| format!("{{key{i}}}")).collect();
    let ends = AtomicBool::new(false);
    let totals = std::thread::scope(|scope| -> Result<Vec<(usize, usize)>> {
        let (keys, ends) = (&keys, &ends);
        let mut writers = Vec::new();
        for number in 0..4 {
            let client = scene.client()?;
            writers.push(scope.spawn(move || append(client, number, keys, ends)));
        }
        let moved = (|| {
            for key in keys {
                let slot = scene.cluster.slot_of(key)?;
                let from = scene.cluster.master_of_slot(slot)?;
                scene.cluster.move_slot(slot, from, (from + 1) % 3)?;
                std::thread::sleep(Duration::from_millis(100));
            }
            anyhow::Ok(())
        })();
        ends.store(true, Ordering::Relaxed);
        let totals =
            writers.into_iter().map(|writer| writer.join().unwrap_or_else(|_| anyhow::bail!("a writer panicked")));
        let totals = totals.collect();
        moved?;
        totals
    })?;
    let failed: usize = totals.iter().map(|(_, failed)| failed).sum();
    let all: usize = totals.iter().map(|(right, _)| right).sum();
    ensure!(failed == 0 && all > 1000, "{failed} of {all} failed");
    Ok(())
}

#[test]
fn replicas_answer_reads_where_they_are_to() -> Result<()> {
    let scene = Scene::start(1, ReadPolicy::Replica)?;
    let mut client = scene.client()?;
    for i in 0..30 {
        client.ok(&["SET", &format!("k{i}"), "v"])?;
    }
    wait_until("the replicas have them", Duration::from_secs(10), || {
        (0..30).all(|i| client.line(&format!("GET k{i}")).is_ok_and(|reply| reply == Reply::bulk("v")))
    })?;
    let (masters, replicas) = (scene.cluster.masters(), scene.cluster.replicas());
    let calls = scene.cluster.calls("get")?;
    assert!(masters.iter().all(|node| calls[*node] == 0), "{calls:?}");
    assert!(replicas.iter().all(|node| calls[*node] > 0), "{calls:?}");
    let sets = scene.cluster.calls("set")?;
    // Replicas execute what they are sent by their masters, too.
    assert!(masters.iter().all(|node| sets[*node] > 0), "{sets:?}");
    Ok(())
}

#[test]
fn a_node_that_envoy_does_not_know_is_not_reached() -> Result<()> {
    let cluster = Cluster::start_with(Shape { replicas: 0, ..Shape::default() })?;
    let subnet = Subnet::claim()?;
    let mut host = native::host(&["one"], vec![route(KeyMatch::Any, 0)]);
    host.targets[0].cluster = true;
    // For so long the others could name another master.
    host.op_timeout_ms = Some(200);
    let filters = vec![native::proxy(&listener::config("redis", 1, host))?];
    let config = Config::new().listener("redis", subnet.redis(1), filters);
    let config = config.clusters(&[native::redis_cluster("one.test:6379", &cluster.addrs()[..2])]);
    let _envoy = native::start(&config, 1)?;
    let mut client = Client::connect(subnet.redis(1))?;
    let (mut served, mut refused) = (0, 0);
    for i in 0..60 {
        let key = format!("k{i}");
        let is_known = cluster.master_of(&key)? < 2;
        let reply = client.cmd(&["SET", &key, "v"])?;
        ensure!((reply == Reply::ok()) == is_known, "{key}: {reply}");
        *(if is_known { &mut served } else { &mut refused }) += 1;
    }
    ensure!(served > 0 && refused > 0);
    Ok(())
}

#[test]
fn what_goes_over_the_clients_own_connection_and_to_all_nodes_keeps_its_order() -> Result<()> {
    let scene = Scene::start(0, ReadPolicy::Master)?;
    let mut client = scene.client()?;
    for round in 0..100 {
        let value = round.to_string();
        let commands: [&[&str]; 6] = [
            &["WATCH", "{x}k"],
            &["SET", "{x}k", &value],
            &["FLUSHALL"],
            &["GET", "{x}k"],
            &["SET", "{x}k", "after"],
            &["UNWATCH"],
        ];
        let replies = client.pipeline(&commands.map(<[&str]>::to_vec))?;
        ensure!(replies[3] == Reply::NullBulk, "round {round}: {replies:?}");
        ensure!(client.line("DBSIZE")? == Reply::Integer(1), "round {round}");
    }
    Ok(())
}
