//! The servers: standalone ones and the nodes of a Redis Cluster, with their data and
//! connections.

use super::cluster::View;
use super::connection::Connection;
use super::journal::{Execution, Journal};
use super::store::{self, Args, Key, Popped, Store, WRONG_TYPE, null_array};
use redis_mesh_core::multiplexer::ConnectionId;
use redis_mesh_core::random::Random;
use redis_mesh_core::resp::encode;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

/// A standalone Redis or a Redis Cluster: a destination of the configuration.
pub struct Site {
    pub name: &'static str,
    pub password: Option<&'static str>,
    /// True if the site gets only copies, whose replies are ignored.
    pub is_mirror: bool,
    /// The present state of a Redis Cluster; absent for a standalone Redis.
    pub truth: Option<View>,
    /// The indexes of the shards. A standalone Redis is one shard.
    pub shards: Vec<usize>,
}

/// A server process.
pub struct Node {
    pub site: usize,
    pub shard: usize,
    /// The address of a node of a cluster; absent for a standalone Redis.
    pub address: Option<SocketAddr>,
    pub is_alive: bool,
    /// The state of the cluster as the node knows it.
    pub view: Option<View>,
}

/// The data of a master and its replicas.
#[derive(Default)]
pub struct Shard {
    pub store: Store,
    /// The data as the replicas have it, which may be older.
    pub copy: Store,
    versions: BTreeMap<Key, u64>,
    /// The keys that have changed since the replicas had all.
    pub ahead: Vec<Key>,
}

impl Shard {
    /// Returns the number of changes of a key.
    pub fn version(&self, key: &Key) -> u64 {
        self.versions.get(key).copied().unwrap_or(0)
    }

    /// Notes a change of a key.
    pub fn touch(&mut self, key: &Key) {
        *self.versions.entry(key.clone()).or_default() += 1;
        self.ahead.push(key.clone());
    }
}

/// All servers of a run, and what they have executed.
pub struct Servers {
    pub random: Random,
    pub now: Duration,
    pub sites: Vec<Site>,
    pub nodes: Vec<Node>,
    pub shards: Vec<Shard>,
    pub connections: BTreeMap<ConnectionId, Connection>,
    pub journal: Journal,
    /// The executions of mirrored commands.
    pub copies: Journal,
    /// The slots that are moving, with the shards that they move from and to.
    pub migrating: BTreeMap<u16, (usize, usize)>,
    /// The number of the last client that was blocked, since clients are served in that order.
    pub waiting: u64,
    /// The times at which the blocking of clients ends: connection, and number of the blocked
    /// client.
    pub alarms: Vec<(Duration, ConnectionId, u64)>,
}

impl Servers {
    pub fn new(random: Random) -> Servers {
        Servers {
            random,
            now: Duration::ZERO,
            sites: Vec::new(),
            nodes: Vec::new(),
            shards: Vec::new(),
            connections: BTreeMap::new(),
            journal: Journal::default(),
            copies: Journal::default(),
            migrating: BTreeMap::new(),
            waiting: 0,
            alarms: Vec::new(),
        }
    }

    /// Executes a command that isn't about the connection, and records the execution.
    pub fn execute(&mut self, id: ConnectionId, args: &Args, transaction: Option<u64>) -> Vec<u8> {
        let Some(connection) = self.connections.get(&id) else { return Vec::new() };
        let (node, db, resp3) = (connection.node, connection.db, connection.resp3);
        let (shard, by_master) = (self.nodes[node].shard, self.is_master(node));
        let number = self.next(node);
        let mut changed = Vec::new();
        if self.random.below(2) == 0 {
            self.replicate(shard);
        }
        self.remember(id, args);
        let data = &mut self.shards[shard];
        let name = args[0].to_ascii_lowercase();
        let store = if by_master { &mut data.store } else { &mut data.copy };
        let reply = match store.execute(db, resp3, args, &mut changed) {
            Some(reply) => reply,
            None => match name.as_slice() {
                b"ping" => b"+PONG\r\n".to_vec(),
                b"publish" => self.publish(node, args),
                b"blpop" => self.pop(node, db, args).unwrap_or_else(|| null_array(resp3).to_vec()),
                other => panic!("a Redis received {}", other.escape_ascii()),
            },
        };
        for key in changed {
            self.changed(node, (db, key));
        }
        self.note(number, id, args, &reply, transaction);
        reply
    }

    pub fn is_master(&self, node: usize) -> bool {
        let node_ = &self.nodes[node];
        self.sites[node_.site].truth.as_ref().is_none_or(|truth| truth.masters[&node_.shard] == node)
    }

    /// Returns the number of the next execution.
    pub fn next(&mut self, node: usize) -> u64 {
        self.journal_of(node).next()
    }

    fn journal_of(&mut self, node: usize) -> &mut Journal {
        if self.sites[self.nodes[node].site].is_mirror { &mut self.copies } else { &mut self.journal }
    }

    /// Records the execution of a command.
    pub fn note(&mut self, number: u64, id: ConnectionId, args: &Args, reply: &[u8], transaction: Option<u64>) {
        let Some(connection) = self.connections.get(&id) else { return };
        if connection.is_abandoned && store::is_read(args) {
            // Nobody gets the reply, and the read may have been sent again before.
            return;
        }
        let node = connection.node;
        let execution = Execution {
            number,
            at: self.now,
            site: self.nodes[node].site,
            by_master: self.is_master(node),
            db: connection.db,
            resp3: connection.resp3,
            args: args.clone(),
            reply: reply.to_vec(),
            transaction,
        };
        self.journal_of(node).add(execution);
    }

    /// Records that a node has changed a key.
    pub fn changed(&mut self, node: usize, key: Key) {
        let (site, shard) = (self.nodes[node].site, self.nodes[node].shard);
        self.shards[shard].touch(&key);
        self.invalidate(shard, &key, true);
        let now = self.now;
        self.journal_of(node).changed(site, key, now);
    }

    /// Executes PUBLISH: all nodes of a cluster send the message to their subscribers.
    fn publish(&mut self, node: usize, args: &Args) -> Vec<u8> {
        let (site, channel, payload) = (self.nodes[node].site, &args[1], &args[2]);
        let mut count = 0;
        for connection in self.connections.values_mut() {
            if self.nodes[connection.node].site != site || !connection.channels.contains(channel) {
                continue;
            }
            count += 1;
            let kind = if connection.resp3 { b'>' } else { b'*' };
            let out = &mut connection.output;
            encode::header(out, kind, 3);
            for word in [&b"message"[..], channel, payload] {
                encode::bulk(out, word);
            }
        }
        let mut out = Vec::new();
        encode::integer(&mut out, count);
        out
    }

    /// Executes BLPOP as far as it doesn't block.
    pub fn pop(&mut self, node: usize, db: u32, args: &Args) -> Option<Vec<u8>> {
        let shard = self.nodes[node].shard;
        let mut out = Vec::new();
        match self.shards[shard].store.pop(db, &args[1..args.len() - 1])? {
            Popped::Element(key, element) => {
                encode::array(&mut out, 2);
                encode::bulk(&mut out, &key);
                encode::bulk(&mut out, &element);
                self.changed(node, (db, key));
            }
            Popped::WrongType => out.extend_from_slice(WRONG_TYPE),
        }
        Some(out)
    }

    /// Serves the clients that are blocked on keys of a shard.
    pub fn serve_blocked(&mut self, shard: usize) {
        let mut waiting: Vec<(u64, ConnectionId)> = Vec::new();
        for (id, connection) in &self.connections {
            if let Some(blocked) = connection.blocked.as_ref().filter(|_| self.nodes[connection.node].shard == shard) {
                waiting.push((blocked.number, *id));
            }
        }
        waiting.sort_unstable();
        for (_, id) in waiting {
            let Some(connection) = self.connections.get(&id) else { continue };
            let Some(blocked) = &connection.blocked else { continue };
            let (node, db, args) = (connection.node, connection.db, blocked.args.clone());
            let number = self.next(node);
            if let Some(reply) = self.pop(node, db, &args).filter(|reply| reply != WRONG_TYPE) {
                self.note(number, id, &args, &reply, None);
                self.unblock(id, &reply);
            }
        }
    }

    /// Ends the blocking of a client whose time is over.
    pub fn time_out(&mut self, id: ConnectionId, number: u64) {
        let Some(connection) = self.connections.get(&id) else { return };
        let Some(blocked) = connection.blocked.as_ref().filter(|blocked| blocked.number == number) else { return };
        let (args, reply) = (blocked.args.clone(), null_array(connection.resp3));
        let number = self.next(connection.node);
        self.note(number, id, &args, reply, None);
        self.unblock(id, reply);
    }

    /// Ends the blocking of a client with this reply, and executes the commands that it has sent
    /// since.
    pub fn unblock(&mut self, id: ConnectionId, reply: &[u8]) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.blocked = None;
            connection.output.extend_from_slice(reply);
        }
        self.receive(id, b"");
    }
}
