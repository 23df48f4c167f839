//! The servers behind the programs, and what happens to them.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result};
use redis_mesh_tests::client::info_field;
use redis_mesh_tests::cluster::{Cluster, Shape};
use redis_mesh_tests::net::Subnet;
use redis_mesh_tests::process::wait_until;
use redis_mesh_tests::redis::Redis;

/// The time that a failover may take.
const PATIENCE: Duration = Duration::from_secs(40);

/// The time that Redis is away.
const AWAY: Duration = Duration::from_millis(1500);

/// What happens to the servers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Disturbance {
    /// Redis is killed and comes back with what it had.
    Restart,
    /// Every master of a cluster is killed. Its replica becomes the master.
    Failover,
    /// Every node of a cluster is killed and comes back, one after the other.
    RollingRestart,
}

/// One Redis or a Redis Cluster of three shards with a replica each.
pub enum Servers {
    One(Box<Redis>),
    Cluster(Cluster),
}

/// Starts a cluster at the addresses 31 to 36 of the subnet.
pub fn cluster(subnet: &Subnet) -> Result<Servers> {
    Ok(Servers::Cluster(Cluster::start_with(Shape {
        addrs: Some((31..37).map(|node| subnet.redis(node)).collect()),
        node_timeout: Duration::from_secs(1),
        config: vec!["appendonly yes".into()],
        ..Shape::default()
    })?))
}

impl Servers {
    /// Publishes a message for the subscribers. Where a cluster has no such node at the moment,
    /// nobody hears.
    pub fn publish(&self, text: &str) -> Result<()> {
        match self {
            Servers::One(redis) => redis.cmd(&["PUBLISH", "news", text]).map(drop),
            Servers::Cluster(cluster) => {
                let sent = cluster.nodes.iter().any(|node| node.cmd(&["PUBLISH", "news", text]).is_ok());
                sent.then_some(()).context("no node of the cluster answers")
            }
        }
    }

    /// Lets it happen, and waits until all slots are served again.
    pub fn disturb(&mut self, what: Disturbance) -> Result<()> {
        match self {
            Servers::One(redis) => {
                redis.kill();
                sleep(AWAY);
                redis.restart()
            }
            Servers::Cluster(cluster) if what == Disturbance::Failover => {
                (0..3).try_for_each(|shard| lose_master(cluster, shard))
            }
            Servers::Cluster(cluster) => {
                // Replicas first, as an administrator does it.
                for node in (3..6).chain(0..3) {
                    if node < 3 {
                        lose_master(cluster, node)?;
                    } else {
                        cluster.nodes[node].kill();
                    }
                    sleep(AWAY);
                    cluster.nodes[node].restart()?;
                    cluster.wait_ok(PATIENCE)?;
                }
                Ok(())
            }
        }
    }
}

/// Kills the master of a shard and waits until its replica is the master. What the master has
/// confirmed is at the replica then.
fn lose_master(cluster: &mut Cluster, shard: usize) -> Result<()> {
    let offset =
        |node: &Redis, field: &str| -> Option<u64> { info_field(&node.info("replication").ok()?, field)?.parse().ok() };
    let written = offset(&cluster.nodes[shard], "master_repl_offset").context("no offset")?;
    let replica = &cluster.nodes[3 + shard];
    wait_until("replication", PATIENCE, || offset(replica, "slave_repl_offset").is_some_and(|has| has >= written))?;
    cluster.nodes[shard].kill();
    let replica = &cluster.nodes[3 + shard];
    wait_until("failover", PATIENCE, || replica.info("replication").is_ok_and(|role| role.contains("role:master")))
}
