//! Read policies while a node of a Redis Cluster is dead and the cluster doesn't know it yet: those
//! that let other nodes answer find one.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use redis_mesh_tests::client::Client;
use redis_mesh_tests::cluster::{Cluster, Shape};
use redis_mesh_tests::net::Subnet;
use redis_mesh_tests::process::wait_until;
use redis_mesh_tests::reply::Reply;
use redis_mesh_tests::scene::Scene;

const KEYS: usize = 300;
/// The time for which reads go on after the node has died. The cluster finds out later.
const OUTAGE: Duration = Duration::from_secs(6);
const NODE_TIMEOUT: Duration = Duration::from_secs(30);

/// A policy, and the node that dies under it.
struct Case {
    policy: &'static str,
    listens: u8,
    victim: usize,
}

/// Node 3 is the replica of node 0.
const CASES: [Case; 3] = [
    Case { policy: "PREFER_REPLICA", listens: 101, victim: 3 },
    Case { policy: "ANY", listens: 102, victim: 3 },
    Case { policy: "PREFER_MASTER", listens: 103, victim: 0 },
];

#[test]
fn other_nodes_answer_for_a_dead_one() -> Result<()> {
    for case in CASES {
        let (reads, errors) = outage(&case)?;
        println!("{}: {errors} errors of {reads} reads", case.policy);
        // Three failures each time that the node is tried again. Without outlier detection a sixth
        // (ANY) or a third of the reads fail; were workers told late, for a second each time.
        ensure!(reads > 500, "{}: only {reads} reads", case.policy);
        ensure!(errors <= 30, "{}: {errors} of {reads} reads failed", case.policy);
    }
    Ok(())
}

/// Reads all keys in turn while the node is dead. Returns the numbers of reads and of errors.
fn outage(case: &Case) -> Result<(usize, usize)> {
    let subnet = Subnet::claim()?;
    let mut cluster = Cluster::start_with(Shape {
        addrs: Some((31..37).map(|node| subnet.redis(node)).collect()),
        node_timeout: NODE_TIMEOUT,
        ..Shape::default()
    })?;
    let mut scene = Scene::on(&subnet);
    let rules = format!("settings: {{readPolicy: {}}}", case.policy);
    scene.service("redis-cluster", case.listens, &[31, 32, 33, 34, 35, 36]);
    scene.destination("redis-cluster", "mode: CLUSTER").rules("redis-cluster", "proxy", &rules);
    let envoy = scene.start(1)?;
    envoy.wait_discovered(Duration::from_secs(20))?;
    let mut client = Client::connect(subnet.redis(case.listens))?;
    for key in 0..KEYS {
        client.ok(&["SET", &format!("k{key}"), "v"])?;
    }
    let mut read =
        |key: usize| Ok::<_, anyhow::Error>(client.cmd(&["GET", &format!("k{}", key % KEYS)])? == Reply::bulk("v"));
    wait_until("replication", Duration::from_secs(20), || (0..KEYS).all(|key| read(key).unwrap_or(false)))?;
    cluster.nodes[case.victim].kill();
    let killed = Instant::now();
    let (mut reads, mut errors) = (0, 0);
    while killed.elapsed() < OUTAGE {
        errors += usize::from(!read(reads)?);
        reads += 1;
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok((reads, errors))
}
