//! A Redis Cluster: what its nodes know of it, whom they send clients to, slots that move, masters that fail.

use super::servers::Servers;
use super::store::{self, Args};
use redis_mesh_core::cluster::slot::{SLOTS, slot};
use redis_mesh_core::multiplexer::ConnectionId;
use redis_mesh_core::resp::encode;
use std::collections::{BTreeMap, BTreeSet};

/// A cluster as somebody sees it.
#[derive(Clone, Debug)]
pub struct View {
    pub epoch: u64,
    pub is_ok: bool,
    /// Indexes of shards, which have had equal parts of the slots.
    pub shards: Vec<usize>,
    /// Slots that have gone to another.
    pub moved: BTreeMap<u16, usize>,
    /// The master of each shard.
    pub masters: BTreeMap<usize, usize>,
    /// Nodes of each shard.
    pub members: BTreeMap<usize, Vec<usize>>,
    /// Nodes that have failed.
    pub failed: BTreeSet<usize>,
}

impl View {
    pub fn owner(&self, slot: u16) -> usize {
        let part = usize::from(slot) * self.shards.len() / usize::from(SLOTS);
        self.moved.get(&slot).copied().unwrap_or(self.shards[part])
    }

    /// Ranges of slots with the shard that has them.
    fn ranges(&self) -> Vec<(u16, u16, usize)> {
        let mut borders: BTreeSet<u16> = [0].into();
        for part in 1..self.shards.len() {
            borders.insert((part * usize::from(SLOTS)).div_ceil(self.shards.len()) as u16);
        }
        for slot in self.moved.keys() {
            borders.extend([*slot, slot + 1].into_iter().filter(|border| *border < SLOTS));
        }
        let borders: Vec<u16> = borders.into_iter().collect();
        let ends = borders.iter().skip(1).copied().chain([SLOTS]);
        borders.iter().zip(ends).map(|(from, end)| (*from, end - 1, self.owner(*from))).collect()
    }
}

fn bulk_text(out: &mut Vec<u8>, text: &str) {
    encode::bulk(out, text.as_bytes());
}

impl Servers {
    pub fn cluster_info(&self, node: usize) -> Vec<u8> {
        let view = self.nodes[node].view.as_ref().unwrap();
        let state = if view.is_ok { "ok" } else { "fail" };
        let mut out = Vec::new();
        bulk_text(&mut out, &format!("cluster_state:{state}\r\ncluster_current_epoch:{}\r\n", view.epoch));
        out
    }

    pub fn cluster_slots(&self, node: usize) -> Vec<u8> {
        let view = self.nodes[node].view.as_ref().unwrap();
        let (mut out, ranges) = (Vec::new(), view.ranges());
        encode::array(&mut out, ranges.len());
        for (first, last, shard) in ranges {
            let master = view.masters[&shard];
            let replicas = view.members[&shard].iter().filter(|node| **node != master && !view.failed.contains(node));
            let nodes: Vec<usize> = std::iter::once(master).chain(replicas.copied()).collect();
            encode::array(&mut out, 2 + nodes.len());
            encode::integer(&mut out, first.into());
            encode::integer(&mut out, last.into());
            for node in nodes {
                let address = self.nodes[node].address.unwrap();
                encode::array(&mut out, 3);
                bulk_text(&mut out, &address.ip().to_string());
                encode::integer(&mut out, address.port().into());
                bulk_text(&mut out, &format!("node-{node}"));
            }
        }
        out
    }

    fn told(&self, kind: &str, slot: u16, node: usize) -> Option<Vec<u8>> {
        let address = self.nodes[node].address.unwrap();
        Some(format!("-{kind} {slot} {address}\r\n").into_bytes())
    }

    /// What a node of a cluster says to a command that it doesn't execute.
    pub fn redirect(&self, id: ConnectionId, args: &Args) -> Option<Vec<u8>> {
        let connection = &self.connections[&id];
        let node = &self.nodes[connection.node];
        let view = node.view.as_ref()?;
        let keys: Vec<&Vec<u8>> = store::keys(args).into_iter().map(|index| &args[index]).collect();
        let slot = slot(keys.first()?);
        for key in &keys {
            assert_eq!(redis_mesh_core::cluster::slot::slot(key), slot, "keys of several slots came to a node");
        }
        if !view.is_ok {
            return Some(b"-CLUSTERDOWN The cluster is down\r\n".to_vec());
        }
        let owner = view.owner(slot);
        let has = |shard: usize| {
            let store = &self.shards[shard].store;
            keys.iter().filter(|key| store.keys.contains_key(&(connection.db, (**key).clone()))).count()
        };
        let is_master = view.masters[&node.shard] == connection.node;
        if let Some((from, to)) = self.moving.get(&slot).copied().filter(|_| is_master) {
            if node.shard == from && has(from) < keys.len() {
                return if has(from) > 0 {
                    Some(b"-TRYAGAIN Multiple keys request during rehashing of slot\r\n".to_vec())
                } else {
                    self.told("ASK", slot, view.masters[&to])
                };
            }
            if node.shard == to && connection.is_asking {
                let is_torn = keys.len() > 1 && has(to) < keys.len();
                return is_torn.then(|| b"-TRYAGAIN Multiple keys request during rehashing of slot\r\n".to_vec());
            }
        }
        let serves = node.shard == owner && (is_master || connection.is_readonly && store::is_read(args));
        if serves { None } else { self.told("MOVED", slot, view.masters[&owner]) }
    }

    /// Some keys of a slot that is on its way, or all of them, go to where it goes.
    pub fn carry(&mut self, slot_: u16, all: bool) {
        let Some((from, to)) = self.moving.get(&slot_).copied() else { return };
        let keys: Vec<store::Key> =
            self.shards[from].store.keys.keys().filter(|(_, key)| slot(key) == slot_).cloned().collect();
        for key in keys {
            if all || self.random.below(2) == 0 {
                let value = self.shards[from].store.keys.remove(&key).unwrap();
                self.shards[to].store.keys.insert(key.clone(), value);
                self.shards[from].touch(&key);
                self.shards[to].touch(&key);
            }
        }
        self.serve_those_who_wait(to);
    }

    /// A slot has arrived: both ends know it, the others hear of it later.
    pub fn arrive(&mut self, site: usize, slot_: u16) {
        self.carry(slot_, true);
        let Some((from, to)) = self.moving.remove(&slot_) else { return };
        let truth = self.sites[site].truth.as_mut().unwrap();
        truth.moved.insert(slot_, to);
        truth.epoch += 1;
        let truth = truth.clone();
        for shard in [from, to] {
            self.nodes[truth.masters[&shard]].view = Some(truth.clone());
        }
        // Those who wait for a key that has gone are told so.
        let master = truth.masters[&from];
        let gone: Vec<ConnectionId> = self
            .connections
            .iter()
            .filter(|(_, connection)| connection.node == master)
            .filter(|(_, connection)| {
                connection.blocked.as_ref().is_some_and(|blocked| slot(&blocked.args[1]) == slot_)
            })
            .map(|(id, _)| *id)
            .collect();
        for id in gone {
            let told = self.told("MOVED", slot_, truth.masters[&to]).unwrap();
            self.unblock(id, &told);
        }
    }

    /// A node hears what is true.
    pub fn hear(&mut self, node: usize) {
        self.nodes[node].view = self.sites[self.nodes[node].site].truth.clone();
    }
}
