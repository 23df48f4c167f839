//! Finding out who serves which slots of a Redis Cluster, and again when that changes.
//!
//! Nodes are asked CLUSTER INFO and CLUSTER SLOTS over a connection of its own: those that are
//! known, and at last whichever Envoy chooses, since all may have moved.

mod access;
pub mod away;
mod clusters;
mod nodes;
mod redis_cluster;
mod roles;
mod upkeep;

use super::availability::{Outage, Peer};
use super::connection::UpstreamConnection;
use super::endpoint::UpstreamEndpoint;
use super::events::Event;
use super::patience::Patience;
use super::pending::{InFlight, PendingReply};
use super::pool::Pool;
use super::pool_key::{PoolKey, Purpose};
use crate::cluster::topology::{self, Topology};
use crate::multiplexer::effects::Effects;
use crate::multiplexer::ids::{ClusterId, ConnectionId};
use crate::multiplexer::timers::Timer;
use crate::resp::encode;
pub use access::{Missing, NodeAccess};
use clusters::KnownClusters;
pub use redis_cluster::RedisCluster;
use redis_cluster::{GONE_AFTER, REFRESH_SOON, while_away};
use roles::Roles;
use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::Duration;

/// How soon nodes are asked again after an answer told of a change.
const REFRESH_AFTER_CHANGE: Duration = Duration::from_millis(250);
/// How soon they are asked again when all is well: replicas come and go without a word.
const REFRESH_INTERVAL: Duration = Duration::from_secs(10);
/// How long a node may take to answer.
const INQUIRY_TIMEOUT: Duration = Duration::from_secs(2);
/// How old what is known may be where it says that no node may answer a command. Where it is older,
/// nodes are asked before the client hears of it: one may have joined meanwhile.
const FRESH: Duration = Duration::from_secs(1);
/// How long a connection to a node that has lost its role may be silent, with replies to come.
const STALLED: Duration = Duration::from_millis(500);

/// The Redis Clusters of a worker.
#[derive(Default)]
pub struct ClusterDiscovery {
    /// The clusters. Whoever has the number of one that was removed has to ask for another.
    pub clusters: KnownClusters,
}

impl ClusterDiscovery {
    /// The cluster at an endpoint, which is added if it isn't known.
    pub fn cluster_of(&mut self, endpoint: &UpstreamEndpoint) -> ClusterId {
        let id = self.clusters.find(endpoint).unwrap_or_else(|| self.clusters.add(endpoint));
        if let Some(cluster) = self.clusters.get_mut(id) {
            cluster.is_wanted = true;
        }
        id
    }

    /// The shared connection to the master of a slot, if it was looked up.
    #[inline]
    pub fn cached(&self, cluster: ClusterId, slot: u16, resp3: bool) -> Option<ConnectionId> {
        self.clusters.get(cluster)?.cached(slot, resp3)
    }

    /// What is known of a cluster, without asking for it.
    pub fn known_topology(&self, cluster: ClusterId) -> Option<&Topology> {
        self.clusters.get(cluster)?.topology.as_ref()
    }

    /// A client waits for a cluster's topology.
    pub fn await_topology(&mut self, cluster: ClusterId) {
        if let Some(cluster) = self.clusters.get_mut(cluster) {
            cluster.is_awaited = true;
        }
    }

    /// What is known of a cluster. Where nothing is, nodes are asked.
    fn topology(&mut self, index: ClusterId, pool: &mut Pool, effects: &mut Effects) -> Result<&Topology, Missing> {
        let is_unknown = |all: &KnownClusters| all.get(index).is_some_and(|cluster| cluster.topology.is_none());
        if is_unknown(&self.clusters) {
            self.refresh(index, pool, effects);
            if self.clusters.get(index).is_some_and(|cluster| cluster.inquiry.connection.is_some()) {
                return Err(Missing::Topology(index));
            }
        }
        let Some(cluster) = self.clusters.get(index) else { return Err(Missing::Error(String::new())) };
        cluster.topology.as_ref().ok_or_else(|| cluster.outage().into())
    }

    /// The number of shards of a cluster.
    ///
    /// # Errors
    /// The topology isn't known.
    pub fn shard_count(&mut self, index: ClusterId, pool: &mut Pool, effects: &mut Effects) -> Result<usize, Missing> {
        self.topology(index, pool, effects).map(|topology| topology.shards().len())
    }

    /// The shard that serves a slot; without a slot, the first one whose master can be reached, as far
    /// as that is known.
    ///
    /// # Errors
    /// The topology isn't known, or no node serves the slot.
    pub fn shard(
        &mut self,
        index: ClusterId,
        slot: Option<u16>,
        pool: &mut Pool,
        effects: &mut Effects,
    ) -> Result<usize, Missing> {
        let Some(slot) = slot else {
            let masters: Vec<_> =
                self.topology(index, pool, effects)?.shards().iter().map(|shard| shard.master).collect();
            let Some(cluster) = self.clusters.get(index) else { return Ok(0) };
            let is_up = |master: &SocketAddr| {
                let (availability, peer) = (&pool.availability, Peer::new(&cluster.endpoint, Some(*master)));
                availability.is_up(&peer, effects.now) && availability.unreached(&peer).is_none()
            };
            return Ok(masters.iter().position(is_up).unwrap_or_default());
        };
        let topology = self.topology(index, pool, effects)?;
        if let Some(shard) = topology.owner(slot) {
            return Ok(shard);
        }
        Err(match self.unserved(index, "CLUSTERDOWN Hash slot not served".to_owned(), pool, effects) {
            Missing::Error(text) => Missing::Unserved(index, text),
            missing => missing,
        })
    }

    /// No node may answer a command, as far as it is known. Returns what the client waits for, or
    /// this error if nodes were asked just now or none can be asked.
    fn unserved(&mut self, index: ClusterId, error: String, pool: &mut Pool, effects: &mut Effects) -> Missing {
        let is_fresh = |cluster: &RedisCluster| effects.now.saturating_sub(cluster.learned) < FRESH;
        if !self.clusters.get(index).is_some_and(is_fresh) {
            self.refresh(index, pool, effects);
            if self.clusters.get(index).is_some_and(|cluster| cluster.inquiry.connection.is_some()) {
                return Missing::Topology(index);
            }
        }
        self.refresh_by(index, effects.now + REFRESH_SOON, effects);
        Missing::Error(error)
    }

    /// Nodes are to be asked at that time, or before.
    fn refresh_by(&mut self, index: ClusterId, time: Duration, effects: &mut Effects) {
        let Some(cluster) = self.clusters.get_mut(index) else { return };
        let inquiry = &mut cluster.inquiry;
        if inquiry.connection.is_none() && (inquiry.not_before > time || inquiry.not_before == Duration::ZERO) {
            inquiry.not_before = time;
        }
        effects.timers.add(time, Timer::Discovery(index));
    }

    /// Something is amiss with a node.
    pub fn suspect(&mut self, endpoint: &UpstreamEndpoint, effects: &mut Effects) {
        if let Some(index) = self.clusters.find(endpoint) {
            self.refresh_by(index, effects.now + REFRESH_SOON, effects);
        }
    }

    /// What is known of the Redis Cluster at an endpoint.
    pub fn known(&self, endpoint: &UpstreamEndpoint) -> Option<&RedisCluster> {
        self.clusters.get(self.clusters.find(endpoint)?)
    }

    /// Nodes are to be asked now, since a command waits for it; with `members`, for all nodes, since
    /// one was named that isn't known. Returns the cluster, whose answer is told as
    /// [`Event::ClusterAnswered`].
    pub fn ask(
        &mut self,
        endpoint: &UpstreamEndpoint,
        members: bool,
        pool: &mut Pool,
        effects: &mut Effects,
    ) -> Option<ClusterId> {
        let index = self.clusters.find(endpoint)?;
        let cluster = self.clusters.get_mut(index)?;
        cluster.wants_members |= members;
        cluster.is_awaited = true;
        self.refresh(index, pool, effects);
        self.refresh_by(index, effects.now + REFRESH_SOON, effects);
        Some(index)
    }

    /// A node has told that another one serves a slot.
    pub fn moved(
        &mut self,
        endpoint: &UpstreamEndpoint,
        slot: u16,
        to: SocketAddr,
        pool: &mut Pool,
        effects: &mut Effects,
    ) {
        let Some(index) = self.clusters.find(endpoint) else { return };
        if self.clusters.get_mut(index).is_some_and(|cluster| cluster.move_slot(slot, to)) {
            pool.events.push_back(Event::SlotsMoved(index));
        }
        self.refresh_by(index, effects.now + REFRESH_AFTER_CHANGE, effects);
    }

    /// Asks a node, unless one is being asked or it is too early.
    pub fn refresh(&mut self, index: ClusterId, pool: &mut Pool, effects: &mut Effects) {
        loop {
            let Some(cluster) = self.clusters.get_mut(index) else { return };
            let inquiry = &cluster.inquiry;
            if inquiry.connection.is_some() {
                return;
            }
            if !cluster.is_wanted && !cluster.is_failover_awaited(effects.now) {
                // Whoever waits for an answer has other rules by now.
                return self.wake_clients(index, pool);
            }
            if inquiry.not_before > effects.now {
                return;
            }
            let Some(node) = next_to_ask(cluster, pool, effects) else {
                return self.nobody_could_tell(index, pool, effects);
            };
            cluster.inquiry.tried.push(node);
            let key = PoolKey { node, ..PoolKey::new(cluster.endpoint.clone(), false) };
            match pool.open(key, Purpose::Discovery(index), effects) {
                Ok(connection) => {
                    cluster.inquiry.connection = Some(connection);
                    cluster.inquiry.answers.clear();
                    cluster.inquiry.questions = cluster.questions();
                    for question in cluster.inquiry.questions {
                        let patience = Patience::of(INQUIRY_TIMEOUT);
                        let in_flight = InFlight { patience, ..PendingReply::Topology.into() };
                        pool.send(connection, in_flight, effects, |out| {
                            encode::command(out, &[b"CLUSTER", question.as_bytes()]);
                        });
                    }
                    return;
                }
                Err(why) => cluster.inquiry.why = why,
            }
        }
    }

    fn nobody_could_tell(&mut self, index: ClusterId, pool: &mut Pool, effects: &mut Effects) {
        let Some(cluster) = self.clusters.get_mut(index) else { return };
        if cluster.is_temporary() && cluster.periodic_refresh.is_none() {
            cluster.look_again(index, REFRESH_INTERVAL, effects);
        }
        let mut wait = cluster.inquiry.failed();
        if cluster.is_failover_awaited(effects.now) {
            wait = wait.min(while_away(effects));
        }
        let next = effects.now + wait;
        cluster.inquiry.not_before = next;
        if cluster.topology.is_some() {
            effects.timers.add(next, Timer::Discovery(index));
        }
        self.wake_clients(index, pool);
    }

    fn wake_clients(&mut self, index: ClusterId, pool: &mut Pool) {
        if self.clusters.get_mut(index).is_some_and(|cluster| std::mem::take(&mut cluster.is_awaited)) {
            pool.events.push_back(Event::ClusterAnswered(index));
        }
    }

    /// The node at the other end of `connection` has answered a question.
    pub fn answered(
        &mut self,
        index: ClusterId,
        connection: ConnectionId,
        reply: Vec<u8>,
        pool: &mut Pool,
        effects: &mut Effects,
    ) {
        let from = pool.get(connection).and_then(|connection| connection.key.node);
        let is_asked = |cluster: &&mut RedisCluster| cluster.inquiry.connection == Some(connection);
        let Some(cluster) = self.clusters.get_mut(index).filter(is_asked) else { return };
        cluster.inquiry.answers.push(reply);
        if cluster.inquiry.answers.len() < cluster.inquiry.questions.len() {
            return;
        }
        let [info, slots, nodes @ ..] = cluster.inquiry.answers.as_slice() else { return };
        let found = Topology::parse(info, slots, from);
        let members = nodes.first().map(|nodes| topology::members(nodes, from));
        cluster.inquiry.connection = None;
        match found {
            Ok(topology) if cluster.believes(&topology, effects.now) => {
                return self.learn(index, (topology, members), pool, effects);
            }
            Ok(_) => {
                cluster.inquiry.why = Outage::Refuses("the node that answered doesn't see the whole cluster".to_owned())
            }
            Err(why) => cluster.inquiry.why = Outage::Refuses(why),
        }
        self.refresh(index, pool, effects);
    }

    /// A connection over which a node was asked is lost.
    pub fn connection_lost(
        &mut self,
        index: ClusterId,
        connection: ConnectionId,
        why: Outage,
        pool: &mut Pool,
        effects: &mut Effects,
    ) {
        let is_asked = |cluster: &&mut RedisCluster| cluster.inquiry.connection == Some(connection);
        let Some(cluster) = self.clusters.get_mut(index).filter(is_asked) else { return };
        cluster.inquiry.connection = None;
        cluster.inquiry.why = why;
        self.refresh(index, pool, effects);
    }

    fn learn(
        &mut self,
        index: ClusterId,
        (topology, members): (Topology, Option<HashSet<SocketAddr>>),
        pool: &mut Pool,
        effects: &mut Effects,
    ) {
        let Some(cluster) = self.clusters.get_mut(index) else { return };
        let roles = Roles::of(&topology);
        let is_ok = topology.is_ok;
        let leads_elsewhere = cluster.topology.as_ref().is_some_and(|before| before.leads_elsewhere(&topology));
        // The members were asked for when a node was being asked already.
        let is_incomplete = cluster.wants_members && members.is_none();
        cluster.wants_members = is_incomplete;
        cluster.learn(topology, members.unwrap_or_default(), effects.now);
        cluster.inquiry.succeeded();
        let endpoint = cluster.endpoint.clone();
        let now = effects.now;
        let is_awaited = cluster.is_failover_awaited(now);
        if leads_elsewhere {
            pool.events.push_back(Event::SlotsMoved(index));
        } else if is_awaited && is_ok {
            pool.events.push_back(Event::SlotsServed(index));
        }
        cluster.inquiry.not_before = now + REFRESH_SOON;
        cluster.look_again(index, REFRESH_INTERVAL, effects);
        let is_down = |node: &SocketAddr| !pool.availability.is_up(&Peer::new(&endpoint, Some(*node)), now);
        if is_incomplete || !is_ok {
            effects.timers.add(now + REFRESH_SOON, Timer::Discovery(index));
        } else if is_awaited || roles.masters.iter().any(is_down) {
            let next = now + while_away(effects);
            effects.timers.add(next, Timer::Discovery(index));
        }
        pool.availability.retain_nodes(&endpoint, |node| roles.nodes.contains(&node));
        self.retire_connections(&endpoint, &roles, pool, effects);
        if !is_incomplete {
            self.wake_clients(index, pool);
        }
    }

    /// Retires shared connections to nodes that have left or lost their role.
    fn retire_connections(
        &mut self,
        endpoint: &UpstreamEndpoint,
        roles: &Roles,
        pool: &mut Pool,
        effects: &mut Effects,
    ) {
        let is_of_no_use = |connection: &UpstreamConnection| {
            connection.purpose == Purpose::Shared
                && connection.key.endpoint == *endpoint
                && connection.key.node.is_some_and(|node| !roles.has(node, connection.key.readonly))
        };
        let all = pool.iter().filter(|(_, connection)| is_of_no_use(connection));
        let all = all.map(|(id, _)| id).collect::<Vec<_>>();
        // Clients that wait or have subscribed at a node that has left would hear nothing more.
        let absent = |connection: &UpstreamConnection| {
            let is_clients = connection.purpose.client().is_some() && connection.key.endpoint == *endpoint;
            connection.key.node.filter(|node| is_clients && !roles.nodes.contains(node))
        };
        let absent = pool.iter().filter_map(|(id, connection)| Some((id, absent(connection)?)));
        let absent = absent.collect::<Vec<_>>();
        if let Some(index) = self.clusters.find(endpoint)
            && let Some(cluster) = self.clusters.get_mut(index)
        {
            let may_come_back = cluster.note_absent(&absent.iter().map(|(_, node)| *node).collect(), effects.now);
            let gone = absent.iter().filter(|(_, node)| cluster.is_gone(node, effects.now));
            pool.replaced.extend(gone.map(|(id, _)| *id));
            if may_come_back {
                effects.timers.add(effects.now + GONE_AFTER, Timer::Discovery(index));
            }
        }
        for id in all {
            let is_stalled =
                pool.get(id).is_some_and(|connection| effects.now.saturating_sub(connection.last_activity) > STALLED);
            if pool.retire(id, None) {
                pool.close(id, effects);
            } else if is_stalled {
                pool.replaced.push(id);
            }
        }
    }
}

/// The node to ask next, by chance among those that are known and up; `Some(None)`: whichever
/// Envoy chooses. `None`: all were asked.
fn next_to_ask(cluster: &RedisCluster, pool: &Pool, effects: &mut Effects) -> Option<Option<SocketAddr>> {
    let tried = &cluster.inquiry.tried;
    let mut nodes: Vec<SocketAddr> = cluster.topology.iter().flat_map(Topology::nodes).collect();
    nodes.retain(|node| {
        let peer = Peer::new(&cluster.endpoint, Some(*node));
        !tried.contains(&Some(*node)) && pool.availability.is_up(&peer, effects.now)
    });
    match nodes.get(effects.random.below(nodes.len().max(1) as u32) as usize) {
        Some(node) => Some(Some(*node)),
        None if !tried.contains(&None) => Some(None),
        None => None,
    }
}
