//! A Redis Cluster behind: finding out who has what, and again when that changes.

use crate::cluster::read_policy::{self, choose};
use crate::cluster::topology::Topology;
use crate::multiplexer::client::{Client, Link, Wait};
use crate::multiplexer::config::Endpoint;
use crate::multiplexer::upstream::connection::{PendingReply, PoolKey, Purpose, UpstreamConnection};
use crate::multiplexer::upstream::pool::{Access, Missing, peer};
use crate::multiplexer::{ConnectionId, Multiplexer, Output, Timer};
use crate::resp::encode;
use crate::wire::ReadPolicy;
use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::Duration;

/// A cluster.
pub(in crate::multiplexer) struct Cluster {
    upstream: Endpoint,
    topology: Option<Topology>,
    /// The shared connections to masters, by shard and protocol, as far as they are known.
    masters: Vec<[Option<ConnectionId>; 2]>,
    /// Those to replicas, by shard; with each whether it speaks RESP3.
    replicas: Vec<Vec<(SocketAddr, bool, ConnectionId)>>,
    /// The connection over which nodes are being asked.
    asking: Option<ConnectionId>,
    /// What has been answered.
    answers: Vec<Vec<u8>>,
    /// Who has been asked since the last success; none: any.
    tried: Vec<Option<SocketAddr>>,
    /// Nobody is asked before this time.
    next: Duration,
    /// RequestPolicy often nobody could tell.
    failures: u32,
    /// Why.
    why: String,
    /// Clients wait for it.
    pub(in crate::multiplexer) is_awaited: bool,
    /// When somebody is asked although all is well.
    calm: Option<Duration>,
    /// Somebody's rules lead to it.
    pub(in crate::multiplexer) is_wanted: bool,
}

/// RequestPolicy soon nodes may be asked again while something is amiss.
const SOON: Duration = Duration::from_millis(50);
/// RequestPolicy soon they are asked again after an answer told of a change.
const CHANGED: Duration = Duration::from_millis(250);
/// RequestPolicy soon they are asked again when all is well: replicas come and go without a word.
const CALM: Duration = Duration::from_secs(10);
/// The longest wait while nobody can tell.
const LONG: Duration = Duration::from_secs(1);
/// RequestPolicy long a connection to a node that has lost its role may be silent, with replies to come.
const STALLED: Duration = Duration::from_millis(500);

impl Cluster {
    /// A shard's master.
    pub(in crate::multiplexer) fn master(&self, shard: usize) -> Option<SocketAddr> {
        self.topology.as_ref()?.shards().get(shard).map(|shard| shard.master)
    }

    /// The shared connection to the master of a slot, if it is known.
    #[inline]
    pub(in crate::multiplexer) fn at_hand(&self, slot: u16, resp3: bool) -> Option<ConnectionId> {
        self.master_link(self.topology.as_ref()?.owner(slot)?, resp3)
    }

    /// The shared connection to the master of a shard, if it is known.
    #[inline]
    fn master_link(&self, shard: usize, resp3: bool) -> Option<ConnectionId> {
        *self.masters.get(shard)?.get(usize::from(resp3))?
    }

    /// Forgets connections: shards may be others.
    fn unlink(&mut self) {
        let shards = self.topology.as_ref().map_or(0, |topology| topology.shards().len());
        self.masters = vec![[None; 2]; shards];
        self.replicas = vec![Vec::new(); shards];
    }

    /// The shared connection to a replica, if it is known.
    fn replica_link(&self, shard: usize, node: SocketAddr, resp3: bool) -> Option<ConnectionId> {
        let known = self.replicas.get(shard)?.iter().find(|(of, speaks, _)| *of == node && *speaks == resp3);
        known.map(|(.., link)| *link)
    }

    /// Takes in that a node has a slot. False: that was known.
    fn move_slot(&mut self, slot: u16, to: SocketAddr) -> bool {
        let Some(topology) = self.topology.as_mut().filter(|topology| topology.master(slot) != Some(to)) else {
            return false;
        };
        topology.move_slot(slot, to);
        self.unlink();
        true
    }
}

impl Multiplexer {
    /// The number of a cluster.
    pub(in crate::multiplexer) fn cluster_of(&mut self, upstream: &Endpoint) -> usize {
        if let Some(known) = self.clusters.iter().position(|cluster| cluster.upstream == *upstream) {
            if let Some(cluster) = self.clusters.get_mut(known) {
                cluster.is_wanted = true;
            }
            return known;
        }
        self.clusters.push(Cluster {
            upstream: upstream.clone(),
            topology: None,
            masters: Vec::new(),
            replicas: Vec::new(),
            asking: None,
            answers: Vec::new(),
            tried: Vec::new(),
            next: Duration::ZERO,
            failures: 0,
            why: String::new(),
            is_awaited: false,
            calm: None,
            is_wanted: true,
        });
        self.clusters.len() - 1
    }

    /// What is known of a cluster; where nothing is, nodes are asked.
    fn topology(&mut self, index: usize, now: Duration) -> Result<&Topology, Missing> {
        if self.clusters.get(index).is_some_and(|cluster| cluster.topology.is_none()) {
            self.refresh(index, now);
            if self.clusters.get(index).is_some_and(|cluster| cluster.asking.is_some()) {
                return Err(Missing::Wait(Wait::Cluster(index)));
            }
        }
        let Some(cluster) = self.clusters.get(index) else { return Err(Missing::Error(String::new())) };
        let text = || match cluster.upstream.is_clients() && cluster.why.starts_with("NOAUTH") {
            true => cluster.why.clone(),
            false => format!("ERR redis-mesh: {}: {}", cluster.upstream.cluster, cluster.why),
        };
        cluster.topology.as_ref().ok_or_else(|| Missing::Error(text()))
    }

    /// RequestPolicy many shards there are.
    pub(in crate::multiplexer) fn shard_count(&mut self, index: usize, now: Duration) -> Result<usize, Missing> {
        self.topology(index, now).map(|topology| topology.shards().len())
    }

    /// The shard that has a slot; without a slot, the first one.
    pub(in crate::multiplexer) fn shard(
        &mut self,
        index: usize,
        slot: Option<u16>,
        now: Duration,
    ) -> Result<usize, Missing> {
        let topology = self.topology(index, now)?;
        let Some(slot) = slot else { return Ok(0) };
        topology.owner(slot).ok_or_else(|| {
            self.refresh_by(index, now + SOON);
            Missing::Error("CLUSTERDOWN Hash slot not served".to_owned())
        })
    }

    /// The shared connection to a node of a shard.
    pub(in crate::multiplexer) fn node(
        &mut self,
        index: usize,
        shard: usize,
        access: Access,
        resp3: bool,
        now: Duration,
    ) -> Result<ConnectionId, Missing> {
        let Some(cluster) = self.clusters.get(index) else { return Err(Missing::Error(String::new())) };
        let is_of_master = matches!(access, Access::Write | Access::Read(ReadPolicy::Master));
        let known = cluster.master_link(shard, resp3);
        if let Some(link) = known.filter(|link| is_of_master && self.is_usable(*link)) {
            return Ok(link);
        }
        let policy = match access {
            Access::Write => ReadPolicy::Master,
            Access::Read(policy) => policy,
        };
        let Some(nodes) = cluster.topology.as_ref().and_then(|topology| topology.shards().get(shard)) else {
            return Err(Missing::Wait(Wait::Cluster(index)));
        };
        let (upstream, down) = (&cluster.upstream, &self.down);
        let is_up = |node: SocketAddr| {
            down.is_empty() || down.get(&peer(upstream, Some(node))).is_none_or(|down| down.until <= now)
        };
        let Some((node, readonly)): Option<read_policy::Choice> = choose(policy, nodes, is_up, &mut self.random) else {
            let cluster = &upstream.cluster;
            return Err(Missing::Error(format!(
                "ERR redis-mesh: {cluster} has no replica for this key, and the read policy is REPLICA"
            )));
        };
        let known = cluster.replica_link(shard, node, resp3);
        if let Some(link) = known.filter(|link| readonly && self.is_usable(*link)) {
            return Ok(link);
        }
        let line = PoolKey { upstream: upstream.clone(), node: Some(node), resp3, database: 0, readonly };
        let link = self.line(line, now);
        match (&link, self.clusters.get_mut(index)) {
            (Ok(link), Some(cluster)) if readonly => {
                if let Some(known) = cluster.replicas.get_mut(shard) {
                    known.retain(|(of, speaks, _)| *of != node || *speaks != resp3);
                    known.push((node, resp3, *link));
                }
            }
            (Ok(link), Some(cluster)) => {
                let known = cluster.masters.get_mut(shard).and_then(|known| known.get_mut(usize::from(resp3)));
                if let Some(known) = known {
                    *known = Some(*link);
                }
            }
            // Perhaps another node has taken its place.
            (Err(_), _) => self.refresh_by(index, now + SOON),
            (Ok(_), None) => {}
        }
        link
    }

    /// The line to the master of the shard that a node belongs to.
    pub(in crate::multiplexer) fn sibling(&self, line: &PoolKey) -> Option<PoolKey> {
        let cluster = self.clusters.iter().find(|cluster| cluster.upstream == line.upstream)?;
        let node = line.node?;
        let shards = cluster.topology.as_ref()?.shards();
        let shard = shards.iter().find(|shard| shard.replicas.contains(&node))?;
        Some(PoolKey { node: Some(shard.master), readonly: false, ..line.clone() })
    }

    /// The master of a shard of a client's target.
    pub(in crate::multiplexer) fn master_of(&self, client: &Client, target: usize, shard: usize) -> Option<SocketAddr> {
        match client.links.get(target) {
            Some(Link::Cluster(cluster)) => self.clusters.get(*cluster)?.master(shard),
            _ => None,
        }
    }

    /// Nodes are to be asked at that time, or before.
    pub(in crate::multiplexer) fn refresh_by(&mut self, index: usize, time: Duration) {
        let Some(cluster) = self.clusters.get_mut(index) else { return };
        if cluster.asking.is_none() && (cluster.next > time || cluster.next == Duration::ZERO) {
            cluster.next = time;
        }
        self.alarms.insert((time, Timer::Cluster(index)));
    }

    /// Something is amiss with a node.
    pub(in crate::multiplexer) fn suspect(&mut self, upstream: &Endpoint, now: Duration) {
        if let Some(index) = self.clusters.iter().position(|cluster| cluster.upstream == *upstream) {
            self.refresh_by(index, now + SOON);
        }
    }

    /// A node has told of a change.
    pub(in crate::multiplexer) fn moved(&mut self, upstream: &Endpoint, slot: u16, to: SocketAddr, now: Duration) {
        if let Some(index) = self.clusters.iter().position(|cluster| cluster.upstream == *upstream) {
            if self.clusters.get_mut(index).is_some_and(|cluster| cluster.move_slot(slot, to)) {
                self.hold_all(index);
            }
            self.refresh_by(index, now + CHANGED);
        }
    }

    /// Commands lead elsewhere from now on. Those under way may have to follow there, and mustn't be overtaken.
    fn hold_all(&mut self, index: usize) {
        for id in self.clients.ids().collect::<Vec<_>>() {
            let Some(client) = self.clients.get_mut(id).filter(|client| !client.queue.is_empty()) else { continue };
            let leads_there =
                client.links.iter().any(|link| matches!(link, Link::Cluster(cluster) if *cluster == index));
            if leads_there && client.waits_for != Some(Wait::Answers) {
                client.waits_for = Some(Wait::AnswersBefore(client.queue.end()));
            }
        }
    }

    /// Asks a node, unless one is being asked or it is too early.
    pub(in crate::multiplexer) fn refresh(&mut self, index: usize, now: Duration) {
        loop {
            let Some(cluster) = self.clusters.get(index) else { return };
            if cluster.asking.is_some() || cluster.next > now || !cluster.is_wanted {
                return;
            }
            let upstream = cluster.upstream.clone();
            // Those that are known, and at last whoever else there is: all may have moved.
            let mut nodes: Vec<SocketAddr> = cluster.topology.iter().flat_map(Topology::nodes).collect();
            nodes.retain(|node| !cluster.tried.contains(&Some(*node)));
            let up: Vec<SocketAddr> =
                nodes.iter().copied().filter(|node| self.is_up(&peer(&upstream, Some(*node)), now)).collect();
            let node = match up.get(self.random.below(up.len().max(1) as u32) as usize) {
                Some(node) => Some(*node),
                None if !cluster.tried.contains(&None) => None,
                None => return self.unknown(index, now),
            };
            let line = PoolKey { upstream, node, resp3: false, database: 0, readonly: false };
            let opened = self.open_line(line, Purpose::Probe(index), now);
            let Some(cluster) = self.clusters.get_mut(index) else { return };
            cluster.tried.push(node);
            match opened {
                Ok(link) => {
                    cluster.asking = Some(link);
                    cluster.answers.clear();
                    for word in ["INFO", "SLOTS"] {
                        self.send(link, PendingReply::Topology.into(), Some(PROBE), now, |out| {
                            encode::command(out, &[b"CLUSTER", word.as_bytes()]);
                        });
                    }
                    return;
                }
                Err(Missing::Error(why)) => cluster.why = why.trim_start_matches("ERR redis-mesh: ").to_owned(),
                Err(Missing::Wait(_)) => {}
            }
        }
    }

    /// Asks a node although all is well, if the cluster is in use.
    pub(in crate::multiplexer) fn calm(&mut self, index: usize, now: Duration) {
        let Some(cluster) = self.clusters.get_mut(index) else { return };
        cluster.calm = None;
        let upstream = cluster.upstream.clone();
        let is_used = |carrier: &UpstreamConnection| {
            carrier.purpose == Purpose::Shared
                && carrier.line.upstream == upstream
                && now.saturating_sub(carrier.progress) <= CALM * 2
        };
        if self.carriers.ids().any(|id| self.carriers.get(id).is_some_and(is_used)) {
            self.refresh(index, now);
        }
    }

    /// What the rules don't lead to any more is asked nothing: it may refuse the login by now.
    pub(in crate::multiplexer) fn retire_clusters(&mut self, wanted: &HashSet<Endpoint>) {
        for cluster in &mut self.clusters {
            cluster.is_wanted = wanted.contains(&cluster.upstream.of_rules());
        }
    }

    /// Nobody could tell.
    fn unknown(&mut self, index: usize, now: Duration) {
        let Some(cluster) = self.clusters.get_mut(index) else { return };
        cluster.tried.clear();
        cluster.failures += 1;
        let wait = SOON.saturating_mul(1 << cluster.failures.min(6)).min(LONG);
        cluster.next = now + wait;
        if cluster.topology.is_some() {
            self.alarms.insert((now + wait, Timer::Cluster(index)));
        }
        self.wake_those_who_wait(index);
    }

    fn wake_those_who_wait(&mut self, index: usize) {
        if self.clusters.get_mut(index).is_some_and(|cluster| std::mem::take(&mut cluster.is_awaited)) {
            self.wake_those_who_wait_for(Wait::Cluster(index));
        }
    }

    /// A node has answered a question.
    pub(in crate::multiplexer) fn told(
        &mut self,
        index: usize,
        carrier: ConnectionId,
        from: Option<SocketAddr>,
        reply: Vec<u8>,
        now: Duration,
    ) -> bool {
        let Some(cluster) = self.clusters.get_mut(index).filter(|cluster| cluster.asking == Some(carrier)) else {
            return true;
        };
        cluster.answers.push(reply);
        let [info, slots] = cluster.answers.as_slice() else { return false };
        let found = Topology::parse(info, slots, from);
        cluster.asking = None;
        match found {
            Ok(topology) if is_believed(cluster.topology.as_ref(), &topology) => self.learn(index, topology, now),
            Ok(_) => {
                cluster.why = "the node that answered doesn't see the whole cluster".to_owned();
                self.refresh(index, now);
            }
            Err(why) => {
                cluster.why = why;
                self.refresh(index, now);
            }
        }
        true
    }

    /// A connection over which nodes were asked is gone.
    pub(in crate::multiplexer) fn probe_lost(&mut self, index: usize, carrier: ConnectionId, why: &str, now: Duration) {
        let Some(cluster) = self.clusters.get_mut(index).filter(|cluster| cluster.asking == Some(carrier)) else {
            return;
        };
        cluster.asking = None;
        cluster.why = why.to_owned();
        self.refresh(index, now);
    }

    fn learn(&mut self, index: usize, topology: Topology, now: Duration) {
        let Some(cluster) = self.clusters.get_mut(index) else { return };
        let masters: HashSet<SocketAddr> = topology.shards().iter().map(|shard| shard.master).collect();
        let nodes: HashSet<SocketAddr> = topology.nodes().collect();
        let is_ok = topology.is_ok;
        let leads_elsewhere = cluster.topology.as_ref().is_some_and(|before| before.leads_elsewhere(&topology));
        cluster.topology = Some(topology);
        cluster.unlink();
        cluster.tried.clear();
        cluster.failures = 0;
        let upstream = cluster.upstream.clone();
        if leads_elsewhere {
            self.hold_all(index);
        }
        // While a node is down, another may be promoted at any moment.
        let troubled = masters.iter().any(|node| !self.is_up(&peer(&upstream, Some(*node)), now));
        if let Some(cluster) = self.clusters.get_mut(index) {
            cluster.next = now + SOON;
            if let Some(before) = cluster.calm.replace(now + CALM) {
                self.alarms.remove(&(before, Timer::Calm(index)));
            }
        }
        self.alarms.insert((now + CALM, Timer::Calm(index)));
        if !is_ok || troubled {
            self.alarms.insert((now + SOON, Timer::Cluster(index)));
        }
        let known_as = upstream.of_any_login();
        self.down.retain(|(of, node), _| *of != known_as || node.is_none_or(|node| nodes.contains(&node)));
        for id in self.carriers.ids().collect::<Vec<_>>() {
            let Some(carrier) = self.carriers.get_mut(id) else { continue };
            let PoolKey { upstream: of, node: Some(node), readonly, .. } = &carrier.line else { continue };
            let is_of_use = if *readonly { nodes.contains(node) } else { masters.contains(node) };
            if *of != upstream || is_of_use || carrier.purpose != Purpose::Shared {
                continue;
            }
            carrier.is_retired = true;
            let (is_idle, line) = (carrier.expected.is_empty(), carrier.line.clone());
            let is_stalled = now.saturating_sub(carrier.progress) > STALLED;
            self.lines.remove(&line);
            if is_idle {
                self.drop_carrier(id);
            } else if is_stalled {
                self.outputs.push_back(Output::CloseUpstream(id));
                self.lost_because(id, crate::multiplexer::upstream::pool::Loss::Replaced, now);
            }
        }
        self.wake_those_who_wait(index);
    }
}

/// RequestPolicy long a node may take to tell.
const PROBE: Duration = Duration::from_secs(2);

/// Whether what a node says replaces what is known. A node that has been cut off from the others goes on to tell what was true
/// before: it doesn't see a majority, or its epoch is older.
fn is_believed(known: Option<&Topology>, told: &Topology) -> bool {
    match known {
        None => true,
        Some(known) => told.epoch >= known.epoch && (told.is_ok || !known.is_ok),
    }
}
