//! One Redis Cluster: who serves which slots, as far as it is known, and how its nodes are asked
//! (<https://redis.io/docs/latest/commands/cluster-slots/>).

use crate::cluster::topology::Topology;
use crate::multiplexer::effects::Effects;
use crate::multiplexer::ids::{ClusterId, ConnectionId};
use crate::multiplexer::timers::Timer;
use crate::multiplexer::upstream::availability::Outage;
use crate::multiplexer::upstream::endpoint::UpstreamEndpoint;
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::time::Duration;

/// How soon nodes may be asked again while something is amiss.
pub const REFRESH_SOON: Duration = Duration::from_millis(50);
/// How long what is known is preferred to what all nodes say that answer, if that is older: by then a
/// node that was cut off says so itself (`cluster-node-timeout` is 15 seconds by default).
const EXPIRES: Duration = Duration::from_secs(20);
/// The same if none of the nodes is among those that are known: the cluster was made anew.
const REPLACED: Duration = Duration::from_secs(5);
/// The longest wait while no node can tell.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// How long a node that isn't told of any more may come back before it counts as gone: during a
/// failover, and while they find each other slow, nodes leave one another out for a moment.
pub const GONE_AFTER: Duration = Duration::from_secs(2);

/// How soon nodes are asked again while one can't be reached: another may be promoted at any moment. Up
/// to half of it is added by chance, so that many workers don't ask at once.
const REFRESH_WHILE_AWAY: Duration = Duration::from_millis(200);

/// A Redis Cluster.
pub struct RedisCluster {
    /// How its nodes are reached.
    pub endpoint: UpstreamEndpoint,
    /// What is known of it.
    pub topology: Option<Topology>,
    /// When a node told it.
    pub learned: Duration,
    /// Since when nodes say something else that isn't believed.
    pub doubted: Option<Duration>,
    /// The addresses of all its nodes, those without slots too, as far as they were asked for.
    pub members: HashSet<SocketAddr>,
    /// A node that isn't known was named: the members are asked for, too.
    pub wants_members: bool,
    /// Clients wait for its topology.
    pub is_awaited: bool,
    /// Some client's rules lead to it.
    pub is_wanted: bool,
    /// The question that is being asked.
    pub inquiry: Inquiry,
    /// The time of the periodic refresh, if one is due.
    pub periodic_refresh: Option<Duration>,
    /// Nodes at which clients have something of their own and that aren't told of any more, with when
    /// that was noticed.
    absent: HashMap<SocketAddr, Duration>,
    links: Links,
}

/// How far the nodes have been asked.
pub struct Inquiry {
    /// The connection over which a node is being asked.
    pub connection: Option<ConnectionId>,
    /// What that node is asked: subcommands of CLUSTER.
    pub questions: &'static [&'static str],
    /// What that node has answered.
    pub answers: Vec<Vec<u8>>,
    /// The nodes that were asked since the last success; `None`: whichever Envoy chooses.
    pub tried: Vec<Option<SocketAddr>>,
    /// No node is asked before this time.
    pub not_before: Duration,
    /// Until when commands wait for a node that takes the place of one that can't be reached.
    pub failover_awaited: Duration,
    /// How often in a row no node could tell.
    failures: u32,
    /// Why.
    pub why: Outage,
}

impl Default for Inquiry {
    fn default() -> Inquiry {
        Inquiry {
            connection: None,
            questions: &[],
            answers: Vec::new(),
            tried: Vec::new(),
            not_before: Duration::ZERO,
            failover_awaited: Duration::ZERO,
            failures: 0,
            why: Outage::Unreachable(String::new()),
        }
    }
}

impl Inquiry {
    /// No node could tell. Returns how long to wait before the next round.
    pub fn failed(&mut self) -> Duration {
        self.tried.clear();
        self.failures += 1;
        REFRESH_SOON.saturating_mul(1 << self.failures.min(6)).min(LONGEST_WAIT)
    }

    /// A node has told.
    pub fn succeeded(&mut self) {
        self.tried.clear();
        self.failures = 0;
    }
}

/// The shared connections to nodes, as far as they were looked up.
#[derive(Default)]
struct Links {
    /// To masters, by shard and protocol.
    masters: Vec<[Option<ConnectionId>; 2]>,
    /// To replicas, by shard; with each whether it speaks RESP3.
    replicas: Vec<Vec<(SocketAddr, bool, ConnectionId)>>,
}

impl RedisCluster {
    /// A cluster of which nothing is known.
    pub fn new(endpoint: UpstreamEndpoint) -> RedisCluster {
        RedisCluster {
            endpoint,
            topology: None,
            learned: Duration::ZERO,
            doubted: None,
            members: HashSet::new(),
            wants_members: false,
            is_awaited: false,
            is_wanted: true,
            inquiry: Inquiry::default(),
            periodic_refresh: None,
            absent: HashMap::new(),
            links: Links::default(),
        }
    }

    /// True if nobody may ever need it again: clients present any number of logins, and rules change.
    pub fn is_temporary(&self) -> bool {
        let is_clients = self.endpoint.is_clients() && self.endpoint.login_command().is_some();
        is_clients || !self.is_wanted
    }

    /// Has the cluster looked at in a while, and not before.
    pub fn look_again(&mut self, index: ClusterId, after: Duration, effects: &mut Effects) {
        let time = effects.now + after;
        if let Some(before) = self.periodic_refresh.replace(time) {
            effects.timers.cancel(before, Timer::PeriodicRefresh(index));
        }
        effects.timers.add(time, Timer::PeriodicRefresh(index));
    }

    /// True if commands wait for a node that takes the place of one that can't be reached.
    pub fn is_failover_awaited(&self, now: Duration) -> bool {
        self.inquiry.failover_awaited > now
    }

    /// The master of a slot, as far as it is known.
    pub fn master_of(&self, slot: u16) -> Option<SocketAddr> {
        self.topology.as_ref()?.master(slot)
    }

    /// The shared connection to the master of a slot, if it was looked up.
    #[inline]
    pub fn cached(&self, slot: u16, resp3: bool) -> Option<ConnectionId> {
        self.cached_master(self.topology.as_ref()?.owner(slot)?, resp3)
    }

    /// The shared connection to the master of a shard, if it was looked up.
    #[inline]
    pub fn cached_master(&self, shard: usize, resp3: bool) -> Option<ConnectionId> {
        *self.links.masters.get(shard)?.get(usize::from(resp3))?
    }

    /// The shared connection to a replica of a shard, if it was looked up.
    pub fn cached_replica(&self, shard: usize, node: SocketAddr, resp3: bool) -> Option<ConnectionId> {
        let known = self.links.replicas.get(shard)?.iter().find(|(of, speaks, _)| *of == node && *speaks == resp3);
        known.map(|(.., connection)| *connection)
    }

    /// Remembers the shared connection to the master of a shard.
    pub fn cache_master(&mut self, shard: usize, resp3: bool, connection: ConnectionId) {
        if let Some(known) = self.links.masters.get_mut(shard).and_then(|known| known.get_mut(usize::from(resp3))) {
            *known = Some(connection);
        }
    }

    /// Remembers the shared connection to a replica of a shard.
    pub fn cache_replica(&mut self, shard: usize, node: SocketAddr, resp3: bool, connection: ConnectionId) {
        if let Some(known) = self.links.replicas.get_mut(shard) {
            known.retain(|(of, speaks, _)| *of != node || *speaks != resp3);
            known.push((node, resp3, connection));
        }
    }

    /// The questions for the next node.
    pub fn questions(&self) -> &'static [&'static str] {
        if self.wants_members { &["INFO", "SLOTS", "NODES"] } else { &["INFO", "SLOTS"] }
    }

    /// True if this is the address of one of its nodes.
    pub fn names(&self, node: SocketAddr) -> bool {
        self.members.contains(&node) || self.topology.iter().flat_map(Topology::nodes).any(|known| known == node)
    }

    /// The node with this port, if it is the only one but for this one.
    pub fn only_other(&self, but: Option<SocketAddr>, port: u16) -> Option<SocketAddr> {
        let all: HashSet<SocketAddr> =
            self.members.iter().copied().chain(self.topology.iter().flat_map(Topology::nodes)).collect();
        let mut others = all.into_iter().filter(|node| node.port() == port && Some(*node) != but);
        others.next().filter(|_| others.next().is_none())
    }

    /// Replaces what is known by what a node has told now.
    pub fn learn(&mut self, topology: Topology, members: HashSet<SocketAddr>, now: Duration) {
        (self.learned, self.members, self.doubted) = (now, members, None);
        self.topology = Some(topology);
        self.forget_links();
    }

    /// Takes in that a node serves a slot. Returns false if that was known.
    pub fn move_slot(&mut self, slot: u16, to: SocketAddr) -> bool {
        let Some(topology) = self.topology.as_mut().filter(|topology| topology.master(slot) != Some(to)) else {
            return false;
        };
        topology.move_slot(slot, to);
        self.forget_links();
        true
    }

    /// Shards may have other numbers.
    fn forget_links(&mut self) {
        let shards = self.topology.as_ref().map_or(0, |topology| topology.shards().len());
        self.links = Links { masters: vec![[None; 2]; shards], replicas: vec![Vec::new(); shards] };
    }

    /// Whether what a node says replaces what is known. A node that has been cut off from the
    /// others goes on to tell what was true before: it doesn't see a majority, or its epoch is
    /// older. But a cluster that was made anew begins with a low epoch, too.
    pub fn believes(&mut self, told: &Topology, now: Duration) -> bool {
        let Some(known) = &self.topology else { return true };
        if told.epoch >= known.epoch && (told.is_ok || !known.is_ok) {
            return true;
        }
        let doubted = now.saturating_sub(*self.doubted.get_or_insert(now));
        told.is_ok && (doubted >= EXPIRES || doubted >= REPLACED && told.is_another(known))
    }

    /// Takes in which nodes aren't told of any more of those at which clients have something of their
    /// own. Returns true if any of them may come back.
    pub fn note_absent(&mut self, absent: &HashSet<SocketAddr>, now: Duration) -> bool {
        self.absent.retain(|node, _| absent.contains(node));
        for node in absent {
            self.absent.entry(*node).or_insert(now);
        }
        absent.iter().any(|node| !self.is_gone(node, now))
    }

    /// True if a node hasn't been told of for so long that it counts as gone.
    pub fn is_gone(&self, node: &SocketAddr, now: Duration) -> bool {
        self.absent.get(node).is_some_and(|since| now.saturating_sub(*since) >= GONE_AFTER)
    }

    /// What clients are told while nothing is known.
    pub fn outage(&self) -> Outage {
        let Inquiry { why, .. } = &self.inquiry;
        // Each of our errors begins with the same words.
        let said = why.text().trim_start_matches("ERR redis-mesh: ");
        let text = match self.endpoint.is_clients() && said.starts_with("NOAUTH") {
            true => said.to_owned(),
            false => format!("ERR redis-mesh: {}: {said}", self.endpoint.shown()),
        };
        match why {
            Outage::Unreachable(_) => Outage::Unreachable(text),
            Outage::Refuses(_) => Outage::Refuses(text),
        }
    }
}

/// How soon nodes are asked again while one can't be reached.
pub fn while_away(effects: &mut Effects) -> Duration {
    let more = effects.random.below(REFRESH_WHILE_AWAY.as_millis() as u32 / 2);
    REFRESH_WHILE_AWAY + Duration::from_millis(more.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn told(epoch: u64, state: &str, master: u16) -> Topology {
        let info = format!("cluster_state:{state}\r\ncluster_current_epoch:{epoch}\r\n");
        let info = format!("${}\r\n{info}\r\n", info.len());
        let slots = format!("*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n$8\r\n10.0.0.1\r\n:{master}\r\n");
        Topology::parse(info.as_bytes(), slots.as_bytes(), None).unwrap()
    }

    fn cluster() -> RedisCluster {
        RedisCluster::new(UpstreamEndpoint {
            cluster: "c".into(),
            login: None,
            nodes: None,
            member: Default::default(),
        })
    }

    #[test]
    fn a_node_that_was_cut_off_is_not_believed() {
        let (mut cluster, now) = (cluster(), Duration::ZERO);
        assert!(cluster.believes(&told(1, "fail", 1), now));
        cluster.learn(told(5, "ok", 1), HashSet::new(), now);
        assert!(cluster.believes(&told(5, "ok", 2), now) && cluster.believes(&told(6, "ok", 2), now));
        assert!(!cluster.believes(&told(4, "ok", 2), now) && !cluster.believes(&told(6, "fail", 2), now));
    }

    #[test]
    fn what_nobody_confirms_any_more_expires() {
        let (mut cluster, seconds) = (cluster(), Duration::from_secs);
        let learned = seconds(100);
        cluster.learn(told(5, "ok", 1), HashSet::new(), Duration::ZERO);
        for (after, is_believed) in [(0, false), (5, false), (19, false), (20, true)] {
            assert_eq!(cluster.believes(&told(1, "ok", 2), learned + seconds(after)), is_believed, "{after}");
        }
        assert!(!cluster.believes(&told(1, "fail", 2), learned + seconds(60)));
        cluster.learn(told(5, "ok", 1), HashSet::new(), learned + seconds(60));
        assert!(!cluster.believes(&told(1, "ok", 2), learned + seconds(60)));
        // None of the nodes is the same.
        let with = |epoch: u64, id: &str| {
            let info = format!("cluster_state:ok\r\ncluster_current_epoch:{epoch}\r\n");
            let info = format!("${}\r\n{info}\r\n", info.len());
            let node = format!("*3\r\n$8\r\n10.0.0.1\r\n:1\r\n$1\r\n{id}\r\n");
            let slots = format!("*1\r\n*3\r\n:0\r\n:16383\r\n{node}");
            Topology::parse(info.as_bytes(), slots.as_bytes(), None).unwrap()
        };
        cluster.learn(with(5, "a"), HashSet::new(), seconds(200));
        assert!(!cluster.believes(&with(1, "b"), seconds(210)));
        assert!(!cluster.believes(&with(1, "a"), seconds(215)));
        assert!(cluster.believes(&with(1, "b"), seconds(215)));
    }

    #[test]
    fn a_node_that_is_left_out_for_a_moment_is_not_gone() {
        let (mut cluster, at) = (cluster(), Duration::from_millis);
        let node = SocketAddr::from(([10, 0, 0, 1], 1));
        let (absent, none) = (HashSet::from([node]), HashSet::new());
        assert!(cluster.note_absent(&absent, at(5000)) && cluster.note_absent(&absent, at(6000)));
        assert!(!cluster.note_absent(&none, at(6500)) && cluster.note_absent(&absent, at(7000)));
        assert!(!cluster.is_gone(&node, at(8999)) && cluster.is_gone(&node, at(9000)));
        assert!(!cluster.note_absent(&absent, at(9000)));
    }

    #[test]
    fn connections_are_looked_up_anew_when_slots_move() {
        let (mut cluster, connection) = (cluster(), ConnectionId::of_number(9));
        cluster.learn(told(1, "ok", 1), HashSet::new(), Duration::ZERO);
        cluster.cache_master(0, true, connection);
        assert_eq!((cluster.cached(7, true), cluster.cached(7, false)), (Some(connection), None));
        let node = |port: u16| SocketAddr::from(([10, 0, 0, 1], port));
        assert!(!cluster.move_slot(7, node(1)));
        assert_eq!(cluster.cached(7, true), Some(connection));
        assert!(cluster.move_slot(7, node(2)));
        assert_eq!((cluster.cached(7, true), cluster.cached(8, true)), (None, None));
        let masters: Vec<_> = cluster.topology.iter().flat_map(Topology::shards).map(|shard| shard.master).collect();
        assert_eq!(masters.get(..2), Some(&[node(1), node(2)][..]));
    }

    #[test]
    fn the_wait_between_rounds_grows_up_to_a_second() {
        let mut inquiry = Inquiry::default();
        let waits: Vec<u128> = (0..6).map(|_| inquiry.failed().as_millis()).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1000, 1000]);
        inquiry.succeeded();
        assert_eq!(inquiry.failed().as_millis(), 100);
    }
}
