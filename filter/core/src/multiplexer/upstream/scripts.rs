//! Scripts that clients have brought, so that EVALSHA finds them at servers that don't know them:
//! nodes that have come later, that were promoted or have been restarted. Functions are data,
//! which servers keep themselves; they are left alone.
//!
//! A connection's first EVALSHA of a script is preceded by SCRIPT LOAD. So nothing has to be put
//! in order again where commands follow it, and scripts in transactions are found, too. A server
//! that has lost its scripts since then, by a SCRIPT FLUSH that didn't come this way, says
//! NOSCRIPT, which the client gets, as from Redis: a script can answer that itself, so nothing may be
//! executed a second time because of it. The next EVALSHA is preceded by SCRIPT LOAD again
//! (<https://redis.io/docs/latest/develop/interact/programmability/eval-intro/>).

use super::endpoint::UpstreamEndpoint;
use super::pending::{Control, PendingReply};
use super::pool::Pool;
use super::retry::Retry;
use crate::command::script::{ScriptDigest, digest};
use crate::command::{Args, Command, each_command};
use crate::multiplexer::effects::Effects;
use crate::multiplexer::ids::ConnectionId;
use crate::resp::encode;
use sha1::{Digest as _, Sha1};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// Bytes of scripts that are kept for an upstream.
const MAX_BYTES: usize = 4 * 1024 * 1024;
/// Scripts that are kept for an upstream.
const MAX_SCRIPTS: usize = 10_000;
/// Scripts that a connection is known to have loaded; beyond, it loads them again.
const MAX_LOADED: usize = 4096;

/// The scripts of all upstreams, by the names of their clusters in Envoy.
#[derive(Debug, Default)]
pub struct Scripts {
    caches: HashMap<Arc<str>, ScriptCache>,
}

/// The scripts of an upstream: those that were brought last.
#[derive(Debug, Default)]
struct ScriptCache {
    bodies: HashMap<ScriptDigest, Arc<[u8]>>,
    /// The oldest first.
    order: VecDeque<ScriptDigest>,
    bytes: usize,
}

impl ScriptCache {
    fn add(&mut self, digest: ScriptDigest, body: &[u8], shared: &mut Option<Arc<[u8]>>) {
        if body.len() > MAX_BYTES || self.bodies.contains_key(&digest) {
            return;
        }
        self.bytes += body.len();
        self.order.push_back(digest);
        self.bodies.insert(digest, shared.get_or_insert_with(|| body.into()).clone());
        while self.bytes > MAX_BYTES || self.order.len() > MAX_SCRIPTS {
            let Some(oldest) = self.order.pop_front() else { return };
            self.bytes -= self.bodies.remove(&oldest).map_or(0, |body| body.len());
        }
    }
}

/// What a command has to do with scripts.
#[derive(Debug, PartialEq, Eq)]
enum Concern<'a> {
    /// It brings this one.
    Brings(&'a [u8]),
    /// Servers forget all.
    Flushes,
}

impl<'a> Concern<'a> {
    fn of(command: &Command, args: &Args<'a>) -> Option<Concern<'a>> {
        match command.name {
            "eval" | "eval_ro" => Some(Concern::Brings(args.get(1))),
            "script|load" => Some(Concern::Brings(args.get(2))),
            "script|flush" => Some(Concern::Flushes),
            _ => None,
        }
    }
}

impl Scripts {
    /// Takes in what a client's command says about scripts; it may be sent to any of these
    /// endpoints.
    pub fn note<'e>(
        &mut self,
        command: &Command,
        args: &Args<'_>,
        endpoints: impl Iterator<Item = &'e UpstreamEndpoint>,
        pool: &mut Pool,
    ) {
        let Some(concern) = Concern::of(command, args) else { return };
        let brought = match concern {
            Concern::Brings(body) => Some((ScriptDigest::from(Sha1::digest(body)), body)),
            Concern::Flushes => None,
        };
        let mut shared = None;
        for UpstreamEndpoint { cluster, .. } in endpoints {
            match brought {
                Some((digest, body)) => self.caches.entry(cluster.clone()).or_default().add(digest, body, &mut shared),
                None => self.forget(cluster, pool),
            }
        }
    }

    fn forget(&mut self, cluster: &Arc<str>, pool: &mut Pool) {
        self.caches.remove(cluster);
        for (_, connection) in pool.iter_mut().filter(|(_, connection)| connection.key.endpoint.cluster == *cluster) {
            connection.memory.scripts.clear();
        }
    }

    fn body(&self, cluster: &Arc<str>, digest: ScriptDigest) -> Option<Arc<[u8]>> {
        self.caches.get(cluster)?.bodies.get(&digest).cloned()
    }

    /// Sees to it that the server knows a script before it is named over the connection for the
    /// first time.
    pub fn ensure_loaded(
        &self,
        connection: ConnectionId,
        digest: ScriptDigest,
        pool: &mut Pool,
        effects: &mut Effects,
    ) {
        let Some(known) = pool.get_mut(connection).filter(|known| !known.memory.scripts.contains(&digest)) else {
            return;
        };
        let Some(body) = self.body(&known.key.endpoint.cluster, digest) else { return };
        if known.memory.scripts.len() >= MAX_LOADED {
            known.memory.scripts.clear();
        }
        known.memory.scripts.insert(digest);
        let load = PendingReply::Control(Control::LoadScript).into();
        pool.send(connection, load, effects, |out| {
            encode::command(out, &[b"SCRIPT", b"LOAD", &body]);
        });
    }

    /// The same for all scripts that a command, or a transaction, names that is sent again.
    pub fn ensure_all_loaded(&self, connection: ConnectionId, retry: &Retry, pool: &mut Pool, effects: &mut Effects) {
        if !retry.in_flight.names_scripts {
            return;
        }
        let mut scripts = Vec::new();
        each_command(&retry.bytes, |args| {
            let names_one = [&b"EVALSHA"[..], b"EVALSHA_RO"].iter().any(|name| args.get(0).eq_ignore_ascii_case(name));
            scripts.extend(digest(args.get(1)).filter(|_| names_one));
        });
        for script in scripts {
            self.ensure_loaded(connection, script, pool, effects);
        }
    }
}

/// Whether a server says that it doesn't know a script.
pub fn is_unknown(reply: &[u8]) -> bool {
    reply.starts_with(b"-NOSCRIPT No matching script.")
}

/// Whether one of the replies in that of EXEC says so.
pub fn is_unknown_in_transaction(reply: &[u8]) -> bool {
    memchr::memmem::find(reply, b"-NOSCRIPT ").is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn as_many_scripts_are_kept_as_there_is_room_for() {
        let mut scripts = ScriptCache::default();
        for number in 0..10u8 {
            let body = vec![number; MAX_BYTES / 4];
            scripts.add([number; 20], &body, &mut None);
            scripts.add([number; 20], &body, &mut None);
        }
        assert_eq!((scripts.bodies.len(), scripts.order.len(), scripts.bytes), (4, 4, MAX_BYTES));
        assert!((6..10u8).all(|number| scripts.bodies.contains_key(&[number; 20])));
        scripts.add([0; 20], &vec![0; MAX_BYTES + 1], &mut None);
        // Small ones are counted.
        let mut small = ScriptCache::default();
        for number in 0..2 * MAX_SCRIPTS as u64 {
            let mut digest = [0; 20];
            digest[..8].copy_from_slice(&number.to_le_bytes());
            small.add(digest, b"x", &mut None);
        }
        assert_eq!((small.bodies.len(), small.order.len(), small.bytes), (MAX_SCRIPTS, MAX_SCRIPTS, MAX_SCRIPTS));
        assert!(!scripts.bodies.contains_key(&[0; 20]));
    }
}
