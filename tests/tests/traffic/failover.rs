//! A master of a Redis Cluster dies under load, and its replica takes over.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use redis_mesh_tests::client::Client;
use redis_mesh_tests::cluster::{Cluster, Shape};
use redis_mesh_tests::net::Subnet;
use redis_mesh_tests::process::wait_until;
use redis_mesh_tests::reply::Reply;
use redis_mesh_tests::scene::Scene;

const WRITERS: usize = 3;
const VICTIM: usize = 2;
const NODE_TIMEOUT: Duration = Duration::from_millis(1500);

/// One write: its key, when it was sent and answered, and the error if it is one.
struct Write {
    key: String,
    sent: Instant,
    answered: Instant,
    error: Option<String>,
}

#[test]
fn a_master_dies_under_load() -> Result<()> {
    let subnet = Subnet::claim()?;
    let mut cluster = Cluster::start_with(Shape {
        addrs: Some((31..37).map(|node| subnet.redis(node)).collect()),
        node_timeout: NODE_TIMEOUT,
        ..Shape::default()
    })?;
    let mut scene = Scene::on(&subnet);
    scene.service("redis-cluster", 100, &[31, 32, 33, 34, 35, 36]).destination("redis-cluster", "mode: CLUSTER");
    let envoy = scene.start(2)?;
    envoy.wait_discovered(Duration::from_secs(20))?;

    let over = AtomicBool::new(false);
    let (killed, promoted, replicated, writes) = std::thread::scope(|scope| -> Result<_> {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let (over, address) = (&over, subnet.redis(100));
                scope.spawn(move || -> Result<Vec<Write>> {
                    let mut client = Client::connect(address)?;
                    let mut writes = Vec::new();
                    while !over.load(Ordering::Relaxed) {
                        let key = format!("w{writer}-{}", writes.len());
                        let sent = Instant::now();
                        let reply = client.cmd(&["SET", &key, &key])?;
                        let error = (reply != Reply::ok()).then(|| reply.text());
                        // After an error a client takes a breath.
                        if error.is_some() {
                            std::thread::sleep(Duration::from_millis(2));
                        }
                        writes.push(Write { key, sent, answered: Instant::now(), error });
                    }
                    Ok(writes)
                })
            })
            .collect();
        let mut disturb = || -> Result<(Instant, Instant, Instant)> {
            wait_until("some load", Duration::from_secs(20), || {
                cluster.nodes[VICTIM].calls("set").is_ok_and(|calls| calls > 500)
            })?;
            // What was acknowledged until here is on the replica.
            let before = Instant::now();
            let mut client = cluster.nodes[VICTIM].client()?;
            let key = (0..).map(|i| format!("own{i}")).find(|key| cluster.master_of(key).is_ok_and(|n| n == VICTIM));
            client.ok(&["SET", &key.context("no key")?, "x"])?;
            ensure!(client.ok(&["WAIT", "1", "5000"])? == Reply::Integer(1), "the replica is not in step");
            let killed = Instant::now();
            cluster.nodes[VICTIM].kill();
            wait_until("promotion", Duration::from_secs(30), || {
                cluster.nodes[VICTIM + 3].info("replication").is_ok_and(|info| info.contains("role:master"))
            })?;
            let promoted = Instant::now();
            wait_until("agreement of those left", Duration::from_secs(20), || {
                [0, 1, 3, 4, 5].iter().all(|&node| {
                    cluster.nodes[node].cmd(&["CLUSTER", "INFO"]).is_ok_and(|i| i.text().contains("cluster_state:ok"))
                })
            })?;
            let calls = cluster.nodes[VICTIM + 3].calls("set")?;
            wait_until("load on the new master", Duration::from_secs(20), || {
                cluster.nodes[VICTIM + 3].calls("set").is_ok_and(|now| now > calls + 500)
            })?;
            Ok((killed, promoted, before))
        };
        let outcome = disturb();
        over.store(true, Ordering::Relaxed);
        let mut writes = Vec::new();
        for writer in writers {
            writes.extend(writer.join().map_err(|_| anyhow!("a writer panicked"))??);
        }
        let (killed, promoted, before) = outcome?;
        Ok((killed, promoted, before, writes))
    })?;

    let errors: Vec<&Write> = writes.iter().filter(|write| write.error.is_some()).collect();
    let texts: BTreeSet<&str> = errors.iter().filter_map(|write| write.error.as_deref()).collect();
    let first = errors.iter().map(|write| write.answered).min().context("no write failed")?;
    let last = errors.iter().map(|write| write.answered).max().context("no write failed")?;
    let slowest = writes.iter().map(|write| write.answered - write.sent).max().unwrap_or_default();
    println!(
        "{} writes, {} errors {texts:?}; killed at 0, first error {:.3?}, promoted {:.3?}, last error {:.3?}; slowest {slowest:.3?}",
        writes.len(),
        errors.len(),
        first.saturating_duration_since(killed),
        promoted - killed,
        last - killed
    );
    ensure!(first >= killed, "errors before the master died");
    let late = last.saturating_duration_since(promoted);
    ensure!(late < Duration::from_secs(2), "errors until {late:?} after the promotion");

    // What a client was told is kept: what the replica had, and what was written afterwards.
    let (mut checked, mut lost) = (0, 0);
    let mut client = Client::connect(subnet.redis(100))?;
    let acknowledged: Vec<&Write> = writes.iter().filter(|write| write.error.is_none()).collect();
    for part in acknowledged.chunks(1000) {
        let gets: Vec<Vec<&str>> = part.iter().map(|write| vec!["GET", write.key.as_str()]).collect();
        for (write, reply) in part.iter().zip(client.pipeline(&gets)?) {
            if reply == Reply::bulk(&write.key) {
                checked += 1;
                continue;
            }
            ensure!(
                reply.is_null() && write.answered > replicated && write.sent < promoted,
                "{} was acknowledged and is {reply:?}",
                write.key
            );
            lost += 1;
        }
    }
    println!("{checked} acknowledged writes are there; {lost} had not been replicated when the master died");
    Ok(())
}
