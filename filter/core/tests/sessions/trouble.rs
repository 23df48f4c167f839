//! What goes wrong, and right again.

use super::setup::{CLUSTER, COPY};
use super::world::{Event, World, micros};
use redis_mesh_core::cluster::slot::slot;
use redis_mesh_core::multiplexer::ConnectionId;
use std::sync::Arc;
use std::time::Duration;

pub enum Trouble {
    /// A connection breaks, whichever.
    Break,
    /// A connection goes silent for a while, and then breaks.
    Silence,
    /// A node dies, whichever.
    Kill,
    Revive(usize),
    /// The nodes of the cluster notice that a master is gone.
    Fail(usize),
    /// A replica takes its place.
    Promote(usize),
    /// A node hears what has become of its cluster.
    Hear(usize),
    /// A slot begins to move, whichever.
    Move,
    Carry(u16),
    Arrive(u16),
    /// The rules are told anew.
    Update,
}

/// How long a Redis that was gone may not be tried again, and a bit.
const BACK_OFF: Duration = Duration::from_millis(2_300);

impl World {
    /// What will go wrong.
    pub fn plan(&mut self) {
        let span = 4_000_000;
        if self.setup.moves_slots {
            for _ in 0..1 + self.random.below(4) {
                self.after(span, Event::Trouble(Trouble::Move));
            }
        }
        if self.random.below(4) == 0 {
            self.after(span, Event::Trouble(Trouble::Update));
        }
        if self.setup.is_calm {
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

    fn some_link(&mut self) -> Option<ConnectionId> {
        let all: Vec<ConnectionId> = self.links.keys().copied().collect();
        all.get(self.random.below(all.len().max(1) as u32) as usize).copied()
    }

    fn trouble(&mut self, site: usize, until: Duration) {
        self.troubles.push((site, self.now, until));
    }

    /// A connection ends. Something of what is under way may still arrive, at either end.
    fn break_link(&mut self, id: ConnectionId, told: Duration) {
        let Some(link) = self.links.get_mut(&id) else { return };
        link.is_broken = self.random.below(2) == 0;
        let end = self.now + micros(self.random.below(20_000));
        if let Some(node) = link.node {
            let site = self.servers.nodes[node].site;
            self.trouble(site, told + BACK_OFF);
        } else {
            (0..COPY).for_each(|site| self.trouble(site, told + BACK_OFF));
        }
        self.at(end, Event::Ended(id));
        self.at(told, Event::Lost(id));
    }

    fn node_connections(&self, node: usize) -> Vec<ConnectionId> {
        self.servers.connections.iter().filter(|(_, connection)| connection.node == node).map(|(id, _)| *id).collect()
    }

    fn kill(&mut self, node: usize) {
        self.tell(|| format!("node {node} dies"));
        self.servers.nodes[node].is_alive = false;
        let site = self.servers.nodes[node].site;
        let (shard, is_master) = (self.servers.nodes[node].shard, self.servers.is_master(node));
        for id in self.node_connections(node) {
            // What it hasn't executed by now it never will.
            self.servers.connections.remove(&id);
            let told = self.now + micros(self.random.below(30_000));
            self.at(told, Event::Lost(id));
        }
        let mut back = self.now + Duration::from_millis(100 + u64::from(self.random.below(2_000)));
        if site == CLUSTER && is_master {
            let promoted = self.now + Duration::from_millis(200 + u64::from(self.random.below(800)));
            back = back.max(promoted + Duration::from_millis(100));
            if self.random.below(2) == 0 {
                let noticed = (promoted - self.now) / 2;
                self.at(self.now + noticed, Event::Trouble(Trouble::Fail(shard)));
            }
            self.at(promoted, Event::Trouble(Trouble::Promote(shard)));
        }
        self.trouble(site, back + BACK_OFF + Duration::from_millis(500));
        self.at(back, Event::Trouble(Trouble::Revive(node)));
    }

    fn everybody_hears(&mut self, except: usize) {
        let members: Vec<usize> = (0..self.servers.nodes.len())
            .filter(|node| *node != except && self.servers.nodes[*node].site == CLUSTER)
            .collect();
        for node in members {
            self.after(300_000, Event::Trouble(Trouble::Hear(node)));
        }
    }

    pub fn befall(&mut self, trouble: Trouble) {
        match trouble {
            Trouble::Break => {
                if let Some(id) = self.some_link() {
                    self.tell(|| format!("{id:?} breaks"));
                    let told = self.now + micros(self.random.below(25_000));
                    self.break_link(id, told);
                }
            }
            Trouble::Silence => {
                if let Some(id) = self.some_link() {
                    self.tell(|| format!("{id:?} falls silent"));
                    let told = self.now + Duration::from_millis(u64::from(self.random.below(3_000)));
                    self.break_link(id, told);
                    if let Some(link) = self.links.get_mut(&id) {
                        link.is_broken = true;
                    }
                }
            }
            Trouble::Kill => {
                let sites = self.setup.sites();
                let nodes = &self.servers.nodes;
                let truth = self.servers.sites[CLUSTER].truth.as_ref().unwrap();
                let may_die = |node: &usize| {
                    let of = &nodes[*node];
                    // A shard has somebody left.
                    of.is_alive
                        && (of.site == COPY || sites.contains(&of.site))
                        && (of.site != CLUSTER || truth.members[&of.shard].iter().all(|node| nodes[*node].is_alive))
                };
                let all: Vec<usize> = (0..nodes.len()).filter(may_die).collect();
                if let Some(node) = all.get(self.random.below(all.len().max(1) as u32) as usize) {
                    self.kill(*node);
                }
            }
            Trouble::Revive(node) => {
                self.tell(|| format!("node {node} is back"));
                self.servers.nodes[node].is_alive = true;
                if let Some(truth) = &mut self.servers.sites[self.servers.nodes[node].site].truth {
                    truth.failed.remove(&node);
                }
                self.servers.hear(node);
            }
            Trouble::Fail(shard) => {
                let truth = self.servers.sites[CLUSTER].truth.as_mut().unwrap();
                truth.is_ok = false;
                truth.failed.insert(truth.masters[&shard]);
                self.everybody_hears(usize::MAX);
            }
            Trouble::Promote(shard) => {
                let truth = self.servers.sites[CLUSTER].truth.as_mut().unwrap();
                let before = truth.masters[&shard];
                let after = truth.members[&shard].iter().copied().find(|node| *node != before).unwrap();
                (truth.is_ok, truth.epoch) = (true, truth.epoch + 1);
                truth.failed.insert(before);
                truth.masters.insert(shard, after);
                self.servers.hear(after);
                self.everybody_hears(after);
                self.tell(|| format!("node {after} takes the place of {before}"));
            }
            Trouble::Hear(node) => self.servers.hear(node),
            Trouble::Move => {
                let slot = slot(format!("{{{}}}", self.random.below(5)).as_bytes());
                let truth = self.servers.sites[CLUSTER].truth.as_ref().unwrap();
                let from = truth.owner(slot);
                let to = truth.shards[self.random.below(truth.shards.len() as u32) as usize];
                if from == to || self.servers.moving.contains_key(&slot) {
                    return;
                }
                self.tell(|| format!("slot {slot} moves from shard {from} to {to}"));
                self.servers.moving.insert(slot, (from, to));
                let length = 1_000 + self.random.below(800_000);
                for _ in 0..4 {
                    self.after(length, Event::Trouble(Trouble::Carry(slot)));
                }
                let end = self.now + micros(length);
                self.moves.push((slot, self.now, end));
                self.at(end, Event::Trouble(Trouble::Arrive(slot)));
            }
            Trouble::Carry(slot) => self.servers.carry(slot, false),
            Trouble::Arrive(slot) => {
                self.tell(|| format!("slot {slot} has moved"));
                self.servers.arrive(CLUSTER, slot);
                self.everybody_hears(usize::MAX);
            }
            Trouble::Update => {
                self.updates.push(self.now);
                self.config = Arc::new(
                    redis_mesh_core::multiplexer::config::HostConfig::new(&self.setup.host, &Default::default())
                        .unwrap(),
                );
                self.proxy.update(&self.config.clone());
            }
        }
    }
}
