//! CLIENT TRACKING at the servers: which keys a connection has read, and what it is told of changes.

use super::connection::Connection;
use super::servers::Servers;
use super::store::{self, Args, Key};
use redis_mesh_core::multiplexer::ConnectionId;
use redis_mesh_core::resp::encode;
use std::collections::BTreeSet;

/// How a connection tracks.
#[derive(Default)]
pub struct Tracker {
    /// The prefixes of the keys of all changes of which it is told; absent without BCAST.
    prefixes: Option<Vec<Vec<u8>>>,
    opts_in: bool,
    /// The next command is to be tracked, after CLIENT CACHING YES.
    pub is_caching: bool,
    /// The keys that were read since they last changed.
    keys: BTreeSet<Vec<u8>>,
}

/// Returns the prefixes that CLIENT TRACKING names; the empty one if it names none.
pub fn prefixes(args: &Args) -> Vec<Vec<u8>> {
    let named = args.windows(2).filter(|pair| pair[0] == b"PREFIX").map(|pair| pair[1].clone());
    let named: Vec<Vec<u8>> = named.collect();
    if named.is_empty() { vec![Vec::new()] } else { named }
}

impl Servers {
    /// Executes CLIENT TRACKING and CLIENT CACHING.
    pub fn track(&mut self, id: ConnectionId, args: &Args) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let has = |word: &[u8]| args.iter().any(|arg| arg == word);
        if args[1] == b"CACHING" {
            let tracker = connection.tracker.as_mut().filter(|tracker| tracker.opts_in);
            tracker.expect("CLIENT CACHING came over a connection that doesn't track").is_caching = true;
        } else if has(b"OFF") {
            connection.tracker = None;
        } else {
            let tracker = connection.tracker.get_or_insert_default();
            tracker.opts_in = has(b"OPTIN");
            if has(b"BCAST") {
                tracker.prefixes.get_or_insert_default().extend(prefixes(args));
            }
        }
        connection.output.extend_from_slice(b"+OK\r\n");
    }

    /// Remembers the keys that a connection has read, if it tracks.
    pub fn remember(&mut self, id: ConnectionId, args: &Args) {
        let Some(tracker) = self.connections.get_mut(&id).and_then(|connection| connection.tracker.as_mut()) else {
            return;
        };
        if store::is_read(args) && tracker.prefixes.is_none() && (!tracker.opts_in || tracker.is_caching) {
            tracker.keys.extend(store::keys(args).into_iter().map(|index| args[index].clone()));
        }
    }

    /// Tells the connections to the master of a shard, or to its replicas, that a key has changed.
    pub fn invalidate(&mut self, shard: usize, (_, key): &Key, by_master: bool) {
        let nodes: Vec<usize> = (0..self.nodes.len()).filter(|node| self.nodes[*node].shard == shard).collect();
        let nodes: Vec<usize> = nodes.into_iter().filter(|node| self.is_master(*node) == by_master).collect();
        for connection in self.connections.values_mut().filter(|connection| nodes.contains(&connection.node)) {
            let Some(tracker) = &mut connection.tracker else { continue };
            let is_told = match &tracker.prefixes {
                Some(prefixes) => prefixes.iter().any(|prefix| key.starts_with(prefix)),
                None => tracker.keys.remove(key),
            };
            if is_told && connection.resp3 {
                encode::header(&mut connection.pushes, b'>', 2);
                encode::bulk(&mut connection.pushes, b"invalidate");
                encode::array(&mut connection.pushes, 1);
                encode::bulk(&mut connection.pushes, key);
            }
        }
    }

    /// Lets the replicas of a shard have all that its master has.
    pub fn replicate(&mut self, shard: usize) {
        let data = &mut self.shards[shard];
        data.copy = data.store.clone();
        for key in std::mem::take(&mut data.ahead) {
            self.invalidate(shard, &key, false);
        }
    }

    /// Writes what connections are told behind the replies to the commands that were executed.
    pub fn push_all(&mut self) {
        for connection in self.connections.values_mut() {
            let Connection { output, pushes, .. } = connection;
            output.append(pushes);
        }
    }
}
