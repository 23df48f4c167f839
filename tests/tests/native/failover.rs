//! A master of a Redis Cluster that goes away: clients' commands wait until its replica has taken its
//! place, or it is there again, or for as long as `opTimeout` says.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use redis_mesh_core::wire::ReadPolicy;
use redis_mesh_tests::client::{Client, encode};
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

/// Waits until the nodes that run say this of the cluster.
fn wait_for_state(scene: &Scene, but: usize, state: &str) -> Result<()> {
    let of_interest = (0..3).filter(|node| *node != but).collect::<Vec<_>>();
    wait_until("the state of the cluster", PATIENCE, || {
        of_interest.iter().all(|node| {
            let info = scene.cluster.nodes[*node].cmd(&["CLUSTER", "INFO"]);
            info.is_ok_and(|info| info.text().contains(&format!("cluster_state:{state}")))
        })
    })
}

/// A cluster that serves nothing when a node is away, one of its nodes, and a key of another one.
fn complete_cluster(op_timeout_ms: u64) -> Result<(Scene, usize, String)> {
    let shape = Shape { replicas: 0, node_timeout: Duration::from_secs(1), ..Shape::default() };
    let scene = Scene::with(shape, |host| host.op_timeout_ms = Some(op_timeout_ms))?;
    let lost = scene.cluster.master_of("key")?;
    let mut keys = (0..100).map(|i| format!("other{i}"));
    let elsewhere = keys.find(|key| scene.cluster.master_of(key).is_ok_and(|of| of != lost)).unwrap_or_default();
    scene.client()?.ok(&["SET", &elsewhere, "0"])?;
    Ok((scene, lost, elsewhere))
}

#[test]
fn clients_see_no_error_while_a_cluster_is_down_since_a_node_restarts() -> Result<()> {
    let (mut scene, lost, key) = complete_cluster(30_000)?;
    let (list, script) = (format!("{{{key}}}list"), "return redis.call('INCR', KEYS[1])");
    // No other client changes this key between WATCH and EXEC.
    let unchanged = format!("{{{key}}}unchanged");
    let serves = scene.cluster.master_of(&key)?;
    // A worker that waits for a job, which Redis answers with an error.
    let mut waiting = scene.client()?;
    waiting.send(&["BLPOP", &list, "0"])?;
    wait_until("a client that waits", PATIENCE, || {
        scene.cluster.nodes[serves].info("clients").is_ok_and(|info| info.contains("blocked_clients:1"))
    })?;
    let mut watching = scene.client()?;
    watching.ok(&["WATCH", &key])?;
    let mut always = scene.client()?;
    scene.cluster.nodes[lost].kill();
    let begin = Instant::now();
    let address = scene.address();
    let is_over = Arc::new(AtomicBool::new(false));
    let (ends, counter) = (is_over.clone(), format!("{{{key}}}always"));
    let (key, counts) = (key.as_str(), counter.clone());
    let counted = std::thread::spawn(move || -> Result<u32> {
        // Before, while, and after the cluster is down.
        let mut count = 0;
        while !ends.load(Ordering::Relaxed) {
            let reply = always.cmd(&["INCR", &counts])?;
            count += 1;
            ensure!(reply == Reply::Integer(count.into()), "{count}: {reply:?}");
        }
        Ok(count)
    });
    wait_for_state(&scene, lost, "fail")?;
    let refused = scene.cluster.nodes[serves].client()?.cmd(&["GET", key])?;
    ensure!(refused.tty() == "(error) CLUSTERDOWN The cluster is down", "{refused:?}");
    let pipelines: [&[&[&str]]; 9] = [
        &[&["INCR", key], &["INCR", key], &["INCR", key]],
        &[&["GET", key]],
        &[&["MULTI"], &["INCR", key], &["EXEC"]],
        &[&["EVAL", script, "1", key]],
        &[&["MGET", key, "key"], &["DBSIZE"]],
        &[&["BLPOP", &list, "0"]],
        &[&["WATCH", &unchanged], &["MULTI"], &["INCR", key], &["EXEC"]],
        &[&["SPUBLISH", &list, "x"], &["SSUBSCRIBE", &list]],
        &[&["HELLO", "3"], &["SSUBSCRIBE", &list, &counter], &["INCR", key]],
    ];
    let mut clients = pipelines.iter().map(|_| Client::connect(address)).collect::<Result<Vec<_>>>()?;
    for (client, pipeline) in clients.iter_mut().zip(pipelines) {
        pipeline.iter().try_for_each(|words| client.send(words))?;
    }
    // What was watched is as if it had changed.
    let transaction: [&[&str]; 3] = [&["MULTI"], &["INCR", key], &["EXEC"]];
    transaction.iter().try_for_each(|words| watching.send(words))?;
    std::thread::sleep(Duration::from_millis(500));
    scene.cluster.nodes[lost].restart()?;
    for (client, pipeline) in clients.iter_mut().zip(pipelines) {
        if pipeline[0][0] == "BLPOP" {
            continue;
        }
        for words in pipeline {
            let reply = client.read()?;
            ensure!(!reply.is_error(), "{words:?}: {reply:?} after {:?}", begin.elapsed());
        }
    }
    eprintln!("served after {:?}", begin.elapsed());
    for _ in transaction {
        let reply = watching.read()?;
        ensure!(!reply.is_error(), "{reply:?}");
    }
    let mut client = Client::connect(address)?;
    // Nothing was executed twice: three INCRs, one of EXEC, EVAL, one of WATCH, and one behind a
    // subscription; that of the client that watched before isn't.
    ensure!(client.cmd(&["GET", key])? == Reply::bulk("7"));
    // A message reaches all who have subscribed meanwhile.
    ensure!(client.cmd(&["SPUBLISH", &list, "hello"])? == Reply::Integer(2));
    // The second channel of the last one is confirmed, too.
    let confirmed = clients[8].read()?;
    ensure!(!confirmed.is_error(), "{confirmed:?}");
    for client in &mut clients[7..] {
        let message = client.read()?;
        ensure!(message.items().last() == Some(&Reply::bulk("hello")), "{message:?}");
    }
    client.ok(&["RPUSH", &list, "a", "b"])?;
    ensure!(waiting.read()?.items().len() == 2 && clients[5].read()?.items().len() == 2);
    is_over.store(true, Ordering::Relaxed);
    let counted = counted.join().unwrap_or_else(|_| anyhow::bail!("a panic"))?;
    ensure!(counted > 10, "{counted}");
    Ok(())
}

#[test]
fn a_cluster_that_stays_down_is_told_after_op_timeout_in_its_own_words() -> Result<()> {
    let (mut scene, lost, key) = complete_cluster(1500)?;
    scene.cluster.nodes[lost].kill();
    wait_for_state(&scene, lost, "fail")?;
    let mut client = scene.client()?;
    let transaction = [vec!["MULTI"], vec!["INCR", &key], vec!["EXEC"]];
    for command in [vec![vec!["GET", &key]], vec![vec!["BLPOP", &key, "0"]], transaction.to_vec()] {
        let begin = Instant::now();
        let replies = client.pipeline(&command)?;
        let (reply, waited) = (replies.last().map(Reply::tty).unwrap_or_default(), begin.elapsed());
        let is_its_own = ["(error) CLUSTERDOWN The cluster is down", "(error) EXECABORT Transaction discarded"];
        ensure!(is_its_own.iter().any(|words| reply.starts_with(words)), "{reply}");
        ensure!(waited >= Duration::from_millis(1500) && waited < Duration::from_secs(4), "{waited:?}");
    }
    // A pipeline waits once.
    let begin = Instant::now();
    let replies = client.pipeline(&vec![vec!["INCR", &key]; 10])?;
    ensure!(replies.iter().all(Reply::is_error) && begin.elapsed() < Duration::from_secs(4), "{:?}", begin.elapsed());
    Ok(())
}

#[test]
fn a_flood_of_clients_that_wait_and_vanish_leaves_nothing() -> Result<()> {
    let (mut scene, lost, key) = complete_cluster(30_000)?;
    let counter = format!("{{{key}}}counter");
    scene.cluster.nodes[lost].kill();
    wait_for_state(&scene, lost, "fail")?;
    let mut clients = (0..400).map(|_| scene.client()).collect::<Result<Vec<_>>>()?;
    let pipeline: Vec<u8> = (0..16).flat_map(|_| encode(&["INCR", &counter])).collect();
    clients.iter_mut().try_for_each(|client| client.write(&pipeline))?;
    std::thread::sleep(Duration::from_millis(700));
    // Half of them are gone before the cluster is there.
    clients.truncate(200);
    // Others aren't held up.
    let mut other = scene.client()?;
    for _ in 0..20 {
        let asked = Instant::now();
        ensure!(
            other.line("PING")?.text() == "PONG" && asked.elapsed() < Duration::from_secs(2),
            "{:?}",
            asked.elapsed()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    scene.cluster.nodes[lost].restart()?;
    for client in &mut clients {
        let mut last = 0;
        for _ in 0..16 {
            let reply = client.read()?;
            let Reply::Integer(count) = reply else { anyhow::bail!("{reply:?}") };
            ensure!(count > last, "{count} behind {last}");
            last = count;
        }
    }
    // Nothing is executed twice. What is gone may have been executed, as by Redis.
    let executed: usize = scene.client()?.cmd(&["GET", &counter])?.text().parse()?;
    ensure!((200 * 16..=400 * 16).contains(&executed), "{executed}");
    Ok(())
}
