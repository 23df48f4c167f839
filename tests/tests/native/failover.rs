//! A master of a Redis Cluster that goes away: clients' commands wait until its replica has taken its
//! place, or for as long as `opTimeout` says.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use redis_mesh_core::wire::ReadPolicy;
use redis_mesh_tests::client::Client;
use redis_mesh_tests::cluster::Shape;
use redis_mesh_tests::process::wait_until;
use redis_mesh_tests::reply::Reply;

use crate::cluster::Scene;

/// The time that a failover may take.
const PATIENCE: Duration = Duration::from_secs(20);

fn shape(replicas: usize) -> Shape {
    let config = vec!["cluster-require-full-coverage no".into()];
    Shape { replicas, node_timeout: Duration::from_secs(1), config, ..Shape::default() }
}

/// Waits until the replicas of this node have what it has confirmed.
fn wait_for_replicas(scene: &Scene, node: usize) -> Result<()> {
    wait_until("replication", PATIENCE, || {
        scene.cluster.nodes[node].cmd(&["WAIT", "1", "100"]).is_ok_and(|reply| reply == Reply::Integer(1))
    })
}

#[test]
fn clients_see_no_error_while_a_replica_takes_the_place_of_its_master() -> Result<()> {
    // More than a failover takes on a machine that is busy.
    let mut scene = Scene::with(shape(1), |host| host.op_timeout_ms = Some(20_000))?;
    let master = scene.cluster.master_of("key")?;
    let elsewhere = (0..).map(|i| format!("other{i}"));
    let is_elsewhere = |key: &String| scene.cluster.master_of(key).is_ok_and(|of| of != master);
    let elsewhere = elsewhere.take(100).find(is_elsewhere).unwrap_or_default();
    let mut clients: Vec<Client> = (0..6).map(|_| scene.client()).collect::<Result<_>>()?;
    for client in &mut clients {
        client.ok(&["SET", "key", "0"])?;
    }
    let mut other = scene.client()?;
    other.ok(&["SET", &elsewhere, "0"])?;
    wait_for_replicas(&scene, master)?;
    // A client that waits there loses its connection as soon as Envoy hears of the node's end: what is
    // sent from then on isn't under way.
    let mut waiting = scene.client()?;
    waiting.send(&["BLPOP", "{key}list", "0"])?;
    wait_until("a client that waits", PATIENCE, || {
        scene.cluster.nodes[master].info("clients").is_ok_and(|info| info.contains("blocked_clients:1"))
    })?;
    scene.cluster.nodes[master].kill();
    let begin = Instant::now();
    ensure!(waiting.read().is_err() && begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    std::thread::sleep(Duration::from_millis(100));
    // All that a worker of a job queue may say, while nobody serves the key.
    let pipelines: [&[&[&str]]; 6] = [
        &[&["INCR", "key"], &["INCR", "key"]],
        &[&["GET", "key"]],
        &[&["MULTI"], &["INCR", "key"], &["EXEC"]],
        &[&["EVAL", "return redis.call('exists', KEYS[1])", "1", "key"]],
        &[&["MGET", "key", &elsewhere], &["DBSIZE"]],
        &[&["DEL", "gone", "key2", &elsewhere]],
    ];
    for (client, pipeline) in clients.iter_mut().zip(pipelines) {
        for words in pipeline {
            client.send(words)?;
        }
    }
    // Commands without a key, and keys of other shards, are served all the time.
    let mut slowest = Duration::ZERO;
    while scene.cluster.master_of("key").is_ok_and(|now| now == master) && begin.elapsed() < PATIENCE {
        let asked = Instant::now();
        ensure!(other.line("PING")?.text() == "PONG");
        let reply = other.cmd(&["INCR", &elsewhere])?;
        ensure!(matches!(reply, Reply::Integer(_)), "{reply:?}");
        slowest = slowest.max(asked.elapsed());
        std::thread::sleep(Duration::from_millis(20));
    }
    ensure!(slowest < Duration::from_secs(2), "{slowest:?}");
    let promoted = Instant::now();
    for (client, pipeline) in clients.iter_mut().zip(pipelines) {
        for words in pipeline {
            let reply = client.read()?;
            ensure!(!reply.is_error(), "{words:?}: {reply:?} after {:?}", begin.elapsed());
        }
    }
    eprintln!("promoted after {:?}, served {:?} later", promoted - begin, promoted.elapsed());
    ensure!(promoted.elapsed() < Duration::from_secs(5), "{:?}", promoted.elapsed());
    // Nothing was executed twice: three INCRs.
    ensure!(other.line("GET key")? == Reply::bulk("3"));
    ensure!(scene.cluster.masters().len() == 3);
    Ok(())
}

#[test]
fn without_a_replica_the_error_comes_after_op_timeout() -> Result<()> {
    let limit = Duration::from_millis(1500);
    let mut scene = Scene::with(shape(0), |host| host.op_timeout_ms = Some(1500))?;
    let keys: Vec<String> = (0..30).map(|i| format!("k{i}")).collect();
    let mut client = scene.client()?;
    for key in &keys {
        client.ok(&["SET", key, "v"])?;
    }
    let lost = scene.cluster.master_of(&keys[0])?;
    let own = keys.iter().filter(|key| scene.cluster.master_of(key).is_ok_and(|of| of == lost));
    let own: BTreeSet<&String> = own.collect();
    scene.cluster.nodes[lost].kill();
    let mut blocked = scene.client()?;
    for words in [["GET", keys[0].as_str()], ["INCR", &keys[0]], ["GET", &keys[0]]] {
        let begin = Instant::now();
        blocked.send(&words)?;
        for key in keys.iter().filter(|key| !own.contains(key)) {
            ensure!(client.cmd(&["GET", key])? == Reply::bulk("v"), "{key}");
        }
        ensure!(begin.elapsed() < limit, "others took {:?}", begin.elapsed());
        let reply = blocked.read()?;
        let waited = begin.elapsed();
        ensure!(reply.tty() == "(error) ERR redis-mesh: one.test:6379 can't be reached", "{reply:?}");
        ensure!(waited >= limit && waited < limit * 2, "{waited:?}");
    }
    // What begins something at the lost node ends at once, as without a proxy.
    let begin = Instant::now();
    let said = blocked.cmd(&["BLPOP", &keys[0], "0"]);
    ensure!(said.is_err() && begin.elapsed() < limit, "{said:?} after {:?}", begin.elapsed());
    scene.cluster.nodes[lost].restart()?;
    wait_until("the node serves again", PATIENCE, || {
        client.cmd(&["EXISTS", &keys[0]]).is_ok_and(|reply| matches!(reply, Reply::Integer(_)))
    })
}

#[test]
fn a_read_that_a_replica_may_answer_does_not_wait() -> Result<()> {
    let mut scene = Scene::with(shape(1), |host| {
        (host.read_policy, host.op_timeout_ms) = (ReadPolicy::PreferMaster, Some(20_000));
    })?;
    let mut client = scene.client()?;
    client.ok(&["SET", "key", "v"])?;
    let master = scene.cluster.master_of("key")?;
    wait_for_replicas(&scene, master)?;
    scene.cluster.nodes[master].kill();
    let begin = Instant::now();
    ensure!(client.line("GET key")? == Reply::bulk("v"));
    ensure!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    ensure!(client.line("SET key w")? == Reply::ok());
    Ok(())
}
