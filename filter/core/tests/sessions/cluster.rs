//! A Redis Cluster: the state as each node knows it, redirections, and slots that move.

use super::servers::Servers;
use super::store::{self, Args};
use redis_mesh_core::cluster::slot::{SLOTS, slot};
use redis_mesh_core::multiplexer::ConnectionId;
use redis_mesh_core::resp::encode;
use std::collections::{BTreeMap, BTreeSet};

/// The state of a cluster, as it is or as a node knows it.
#[derive(Clone, Debug)]
pub struct View {
    pub epoch: u64,
    pub is_ok: bool,
    /// The indexes of the shards. Each of them had an equal part of the slots at first.
    pub shards: Vec<usize>,
    /// The slots that have moved, with their shards.
    pub moved: BTreeMap<u16, usize>,
    /// The masters of the shards.
    pub masters: BTreeMap<usize, usize>,
    /// The nodes of the shards.
    pub members: BTreeMap<usize, Vec<usize>>,
    /// The nodes that have failed.
    pub failed: BTreeSet<usize>,
}

impl View {
    /// Returns the shard of a slot.
    pub fn owner(&self, slot: u16) -> usize {
        let part = usize::from(slot) * self.shards.len() / usize::from(SLOTS);
        self.moved.get(&slot).copied().unwrap_or(self.shards[part])
    }

    /// Returns the ranges of slots, each with its shard.
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
    /// Returns the reply of a node to CLUSTER INFO.
    pub fn cluster_info(&self, node: usize) -> Vec<u8> {
        let view = self.nodes[node].view.as_ref().unwrap();
        let state = if view.is_ok { "ok" } else { "fail" };
        let mut out = Vec::new();
        bulk_text(&mut out, &format!("cluster_state:{state}\r\ncluster_current_epoch:{}\r\n", view.epoch));
        out
    }

    /// Returns the reply of a node to CLUSTER SLOTS.
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

    /// Returns a MOVED or ASK that points at a node.
    fn redirection(&self, kind: &str, slot: u16, node: usize) -> Option<Vec<u8>> {
        let address = self.nodes[node].address.unwrap();
        Some(format!("-{kind} {slot} {address}\r\n").into_bytes())
    }

    /// Returns the error of a node for a command, or for all commands of a transaction, which it
    /// doesn't execute.
    pub fn redirect(&self, id: ConnectionId, commands: &[Args]) -> Option<Vec<u8>> {
        let connection = &self.connections[&id];
        let node = &self.nodes[connection.node];
        let view = node.view.as_ref()?;
        let keys_of =
            |args: &'_ Args| store::keys(args).into_iter().map(|index| args[index].clone()).collect::<Vec<_>>();
        let keys: Vec<Vec<u8>> = commands.iter().flat_map(keys_of).collect();
        let is_read = commands.iter().all(store::is_read);
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
            keys.iter().filter(|key| store.keys.contains_key(&(connection.db, (*key).clone()))).count()
        };
        let is_master = view.masters[&node.shard] == connection.node;
        if let Some((from, to)) = self.migrating.get(&slot).copied().filter(|_| is_master) {
            if node.shard == from && has(from) < keys.len() {
                return if has(from) > 0 {
                    Some(b"-TRYAGAIN Multiple keys request during rehashing of slot\r\n".to_vec())
                } else {
                    self.redirection("ASK", slot, view.masters[&to])
                };
            }
            if node.shard == to && connection.is_asking {
                let is_torn = keys.len() > 1 && has(to) < keys.len();
                return is_torn.then(|| b"-TRYAGAIN Multiple keys request during rehashing of slot\r\n".to_vec());
            }
        }
        let serves = node.shard == owner && (is_master || connection.is_readonly && is_read);
        if serves { None } else { self.redirection("MOVED", slot, view.masters[&owner]) }
    }

    /// Moves some or all keys of a slot that is moving.
    pub fn migrate_keys(&mut self, slot_: u16, all: bool) {
        let Some((from, to)) = self.migrating.get(&slot_).copied() else { return };
        let keys: Vec<store::Key> =
            self.shards[from].store.keys.keys().filter(|(_, key)| slot(key) == slot_).cloned().collect();
        for key in keys {
            if all || self.random.below(2) == 0 {
                let value = self.shards[from].store.keys.remove(&key).unwrap();
                self.shards[to].store.keys.insert(key.clone(), value);
                for shard in [from, to] {
                    self.shards[shard].touch(&key);
                    self.invalidate(shard, &key, true);
                }
            }
        }
        self.serve_blocked(to);
    }

    /// Ends the move of a slot. The two masters know it at once, other nodes later.
    pub fn finish_migration(&mut self, site: usize, slot_: u16) {
        self.migrate_keys(slot_, true);
        let Some((from, to)) = self.migrating.remove(&slot_) else { return };
        let truth = self.sites[site].truth.as_mut().unwrap();
        truth.moved.insert(slot_, to);
        truth.epoch += 1;
        let truth = truth.clone();
        for shard in [from, to] {
            self.nodes[truth.masters[&shard]].view = Some(truth.clone());
        }
        // Clients that are blocked on a key of the slot are redirected.
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
            let error = self.redirection("MOVED", slot_, truth.masters[&to]).unwrap();
            self.unblock(id, &error);
        }
    }

    /// Lets a node learn the present state of its cluster.
    pub fn learn(&mut self, node: usize) {
        self.nodes[node].view = self.sites[self.nodes[node].site].truth.clone();
    }
}
