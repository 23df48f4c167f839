//! Failures of connections and servers, slots that move, and new configurations, at random times.

use super::setup::{CLUSTER, COPY};
use super::world::{Event, World, micros};
use redis_mesh_core::cluster::slot::slot;
use redis_mesh_core::multiplexer::ConnectionId;
use std::time::Duration;

/// A failure, or one of the steps that lead out of it.
pub enum Trouble {
    /// A random connection breaks.
    Break,
    /// A random connection delivers nothing for a while, and then breaks.
    Silence,
    /// A random node dies.
    Kill,
    /// A node that was dead is alive again.
    Revive(usize),
    /// The nodes of the cluster notice that the master of a shard has failed.
    Fail(usize),
    /// A replica becomes the master of a shard.
    Promote(usize),
    /// A node learns the present state of its cluster.
    Learn(usize),
    /// A random slot begins to move to another shard.
    MoveSlot,
    /// Some keys of a slot move.
    MigrateKeys(u16),
    /// The last keys of a slot move, and the slot belongs to the other shard.
    FinishMigration(u16),
    /// All replicas get all that their masters have.
    Replicate,
    /// The multiplexer gets the configuration anew.
    Update,
}

/// The longest time for which the multiplexer doesn't try a server again that it couldn't reach,
/// and a margin.
const BACK_OFF: Duration = Duration::from_millis(2_300);

impl World {
    /// Schedules the troubles of a run.
    pub fn plan(&mut self) {
        let span = 4_000_000;
        self.at(Duration::from_secs(59), Event::Trouble(Trouble::Replicate));
        if self.setup.moves_slots {
            for _ in 0..1 + self.random.below(4) {
                self.after(span, Event::Trouble(Trouble::MoveSlot));
            }
        }
        if self.random.below(4) == 0 {
            self.after(span, Event::Trouble(Trouble::Update));
        }
        if self.setup.is_trouble_free {
            return;
        }
        for _ in 0..self.random.below(8) {
            self.after(span, Event::Trouble(Trouble::Break));
        }
        for _ in 0..self.random.below(3) {
            self.after(span, Event::Trouble(Trouble::Silence));
        }
        for _ in 0..self.random.below(3) {
            self.after(span, Event::Trouble(Trouble::Kill));
        }
    }

    /// Lets a trouble happen.
    pub fn disrupt(&mut self, trouble: Trouble) {
        match trouble {
            Trouble::Break => self.break_one(),
            Trouble::Silence => self.silence_one(),
            Trouble::Kill => self.kill_one(),
            Trouble::Revive(node) => self.revive(node),
            Trouble::Fail(shard) => {
                let truth = self.servers.sites[CLUSTER].truth.as_mut().unwrap();
                truth.is_ok = false;
                truth.failed.insert(truth.masters[&shard]);
                self.all_nodes_learn(usize::MAX);
            }
            Trouble::Promote(shard) => self.promote(shard),
            Trouble::Learn(node) => self.servers.learn(node),
            Trouble::MoveSlot => self.move_slot(),
            Trouble::MigrateKeys(slot) => self.servers.migrate_keys(slot, false),
            Trouble::FinishMigration(slot) => {
                self.log(|| format!("slot {slot} has moved"));
                self.servers.finish_migration(CLUSTER, slot);
                self.all_nodes_learn(usize::MAX);
            }
            Trouble::Replicate => (0..self.servers.shards.len()).for_each(|shard| self.servers.replicate(shard)),
            Trouble::Update => {
                self.updates.push(self.now);
                self.config = self.setup.compiled();
                self.multiplexer.update(&self.config.clone());
            }
        }
    }

    fn random_transport(&mut self) -> Option<ConnectionId> {
        let all: Vec<ConnectionId> = self.transports.keys().copied().collect();
        all.get(self.random.below(all.len().max(1) as u32) as usize).copied()
    }

    /// Notes that errors of a site are no surprise until then.
    fn note_trouble(&mut self, site: usize, until: Duration) {
        self.troubles.push((site, self.now, until));
    }

    fn break_one(&mut self) {
        if let Some(id) = self.random_transport() {
            self.log(|| format!("{id:?} breaks"));
            let reported = self.now + micros(self.random.below(25_000));
            self.break_transport(id, reported);
        }
    }

    fn silence_one(&mut self) {
        if let Some(id) = self.random_transport() {
            self.log(|| format!("{id:?} falls silent"));
            let reported = self.now + Duration::from_millis(u64::from(self.random.below(3_000)));
            self.break_transport(id, reported);
            if let Some(transport) = self.transports.get_mut(&id) {
                transport.is_broken = true;
            }
        }
    }

    /// Ends a connection; `reported` is the time at which the multiplexer gets to know it. Some
    /// of the bytes under way may still arrive, at either end.
    fn break_transport(&mut self, id: ConnectionId, reported: Duration) {
        let Some(transport) = self.transports.get_mut(&id) else { return };
        transport.is_broken |= self.random.below(2) == 0;
        let end = self.now + micros(self.random.below(20_000));
        if let Some(node) = transport.node {
            let site = self.servers.nodes[node].site;
            self.note_trouble(site, reported + BACK_OFF);
        } else {
            (0..COPY).for_each(|site| self.note_trouble(site, reported + BACK_OFF));
        }
        self.at(end, Event::Ended(id));
        self.at(reported, Event::Lost(id));
    }

    fn node_connections(&self, node: usize) -> Vec<ConnectionId> {
        self.servers.connections.iter().filter(|(_, connection)| connection.node == node).map(|(id, _)| *id).collect()
    }

    /// Kills a node that the configuration leads to, but never the last one of a shard.
    fn kill_one(&mut self) {
        let sites = self.setup.sites();
        let nodes = &self.servers.nodes;
        let truth = self.servers.sites[CLUSTER].truth.as_ref().unwrap();
        let may_die = |node: &usize| {
            let of = &nodes[*node];
            of.is_alive
                && (of.site == COPY || sites.contains(&of.site))
                && (of.site != CLUSTER || truth.members[&of.shard].iter().all(|node| nodes[*node].is_alive))
        };
        let all: Vec<usize> = (0..nodes.len()).filter(may_die).collect();
        if let Some(node) = all.get(self.random.below(all.len().max(1) as u32) as usize) {
            self.kill(*node);
        }
    }

    fn kill(&mut self, node: usize) {
        self.log(|| format!("node {node} dies"));
        self.servers.nodes[node].is_alive = false;
        let site = self.servers.nodes[node].site;
        let (shard, is_master) = (self.servers.nodes[node].shard, self.servers.is_master(node));
        for id in self.node_connections(node) {
            // The node will never execute what it hasn't executed by now.
            self.servers.connections.remove(&id);
            let reported = self.now + micros(self.random.below(30_000));
            self.at(reported, Event::Lost(id));
        }
        let mut revived = self.now + Duration::from_millis(100 + u64::from(self.random.below(2_000)));
        if site == CLUSTER && is_master {
            let promoted = self.now + Duration::from_millis(200 + u64::from(self.random.below(800)));
            revived = revived.max(promoted + Duration::from_millis(100));
            if self.random.below(2) == 0 {
                let noticed = (promoted - self.now) / 2;
                self.at(self.now + noticed, Event::Trouble(Trouble::Fail(shard)));
            }
            self.at(promoted, Event::Trouble(Trouble::Promote(shard)));
        }
        self.note_trouble(site, revived + BACK_OFF + Duration::from_millis(500));
        self.at(revived, Event::Trouble(Trouble::Revive(node)));
    }

    fn revive(&mut self, node: usize) {
        self.log(|| format!("node {node} is alive again"));
        self.servers.nodes[node].is_alive = true;
        if let Some(truth) = &mut self.servers.sites[self.servers.nodes[node].site].truth {
            truth.failed.remove(&node);
            self.all_nodes_learn(node);
        }
        self.servers.learn(node);
    }

    fn promote(&mut self, shard: usize) {
        self.servers.replicate(shard);
        let truth = self.servers.sites[CLUSTER].truth.as_mut().unwrap();
        let before = truth.masters[&shard];
        let after = truth.members[&shard].iter().copied().find(|node| *node != before).unwrap();
        (truth.is_ok, truth.epoch) = (true, truth.epoch + 1);
        truth.failed.insert(before);
        truth.masters.insert(shard, after);
        self.servers.learn(after);
        self.all_nodes_learn(after);
        self.log(|| format!("node {after} is the master in place of {before}"));
    }

    /// All nodes of the cluster but one learn its state, sooner or later.
    fn all_nodes_learn(&mut self, except: usize) {
        let members: Vec<usize> = (0..self.servers.nodes.len())
            .filter(|node| *node != except && self.servers.nodes[*node].site == CLUSTER)
            .collect();
        for node in members {
            self.after(300_000, Event::Trouble(Trouble::Learn(node)));
        }
    }

    fn move_slot(&mut self) {
        let slot = slot(format!("{{{}}}", self.random.below(5)).as_bytes());
        let truth = self.servers.sites[CLUSTER].truth.as_ref().unwrap();
        let from = truth.owner(slot);
        let to = truth.shards[self.random.below(truth.shards.len() as u32) as usize];
        if from == to || self.servers.migrating.contains_key(&slot) {
            return;
        }
        self.log(|| format!("slot {slot} moves from shard {from} to {to}"));
        self.servers.migrating.insert(slot, (from, to));
        let length = 1_000 + self.random.below(800_000);
        for _ in 0..4 {
            self.after(length, Event::Trouble(Trouble::MigrateKeys(slot)));
        }
        let end = self.now + micros(length);
        self.moves.push((slot, self.now, end));
        self.at(end, Event::Trouble(Trouble::FinishMigration(slot)));
    }
}
