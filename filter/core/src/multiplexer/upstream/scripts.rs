//! Scripts that clients have brought, so that EVALSHA finds them at servers that don't know them: nodes that have come later, that
//! were promoted or have been started again. Functions are data, which servers keep themselves; they are left alone.
//!
//! A connection's first EVALSHA of a script is preceded by SCRIPT LOAD. So nothing has to be put in order again where commands follow
//! it, and scripts in transactions are found, too. A server that has lost its scripts since then, by a SCRIPT FLUSH that didn't come
//! this way, says NOSCRIPT: it has executed nothing, so EVAL takes the command's place, unless others of the client may have been
//! executed behind it.

use crate::command::Args;
use crate::command::Command;
use crate::command::each_command;
use crate::command::script::{ScriptDigest, digest};
use crate::multiplexer::ConnectionId;
use crate::multiplexer::Multiplexer;
use crate::multiplexer::client::Client;
use crate::multiplexer::config::Endpoint;
use crate::multiplexer::upstream::connection::{InFlight, PendingReply, UpstreamConnection};
use crate::resp::encode;
use sha1::{Digest as _, Sha1};
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// Bytes of scripts that are kept for an upstream.
const HELD: usize = 4 * 1024 * 1024;
/// Scripts that a connection is known to have brought; beyond, it brings them again.
const BROUGHT: usize = 4096;

/// The scripts of an upstream, those that were brought last.
#[derive(Debug, Default)]
pub struct Scripts {
    bodies: HashMap<ScriptDigest, Arc<[u8]>>,
    /// The oldest first.
    order: VecDeque<ScriptDigest>,
    held: usize,
}

impl Scripts {
    fn learn(&mut self, digest: ScriptDigest, body: &[u8], shared: &mut Option<Arc<[u8]>>) {
        if body.len() > HELD || self.bodies.contains_key(&digest) {
            return;
        }
        self.held += body.len();
        self.order.push_back(digest);
        self.bodies.insert(digest, shared.get_or_insert_with(|| body.into()).clone());
        while self.held > HELD {
            let Some(oldest) = self.order.pop_front() else { return };
            self.held -= self.bodies.remove(&oldest).map_or(0, |body| body.len());
        }
    }
}

/// What a command has to do with scripts.
#[derive(Debug, PartialEq, Eq)]
enum Concern<'a> {
    /// It brings this one.
    Brings(&'a [u8]),
    /// All are forgotten.
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

/// EVALSHA, or EVALSHA_RO, with the script in the place of its name.
fn in_full(command: &[u8], body: impl Fn(ScriptDigest) -> Option<Arc<[u8]>>) -> Option<Vec<u8>> {
    let mut full = None;
    each_command(command, |args| {
        let name: &[u8] = if args.get(0).eq_ignore_ascii_case(b"EVALSHA_RO") { b"EVAL_RO" } else { b"EVAL" };
        let Some(body) = digest(args.get(1)).and_then(&body) else { return };
        let out = full.insert(Vec::with_capacity(command.len() + body.len()));
        encode::array(out, args.count);
        encode::bulk(out, name);
        encode::bulk(out, &body);
        (2..args.count).for_each(|index| encode::bulk(out, args.get(index)));
    });
    full
}

/// Whether a server says that it doesn't know a script. A script could answer the same words, but no script has a reason to.
fn is_unknown(reply: &[u8]) -> bool {
    reply.starts_with(b"-NOSCRIPT No matching script.")
}

impl Multiplexer {
    /// Takes in what a client's command says about scripts.
    pub(in crate::multiplexer) fn note_scripts(&mut self, client: &Client, command: &Command, args: &Args<'_>) {
        let Some(concern) = Concern::of(command, args) else { return };
        let brought = match concern {
            Concern::Brings(body) => Some((ScriptDigest::from(Sha1::digest(body)), body)),
            Concern::Flushes => None,
        };
        let mut shared = None;
        for target in &client.config.targets {
            let mirrors = target.mirrors.iter().map(|mirror| &mirror.upstream);
            for Endpoint { cluster, .. } in mirrors.chain([&target.upstream]) {
                match brought {
                    Some((digest, body)) => {
                        self.scripts.entry(cluster.clone()).or_default().learn(digest, body, &mut shared)
                    }
                    None => self.forget_scripts(cluster),
                }
            }
        }
    }

    fn forget_scripts(&mut self, cluster: &Arc<str>) {
        self.scripts.remove(cluster);
        for id in self.carriers.ids().collect::<Vec<_>>() {
            if let Some(carrier) = self.carriers.get_mut(id).filter(|carrier| carrier.line.upstream.cluster == *cluster)
            {
                carrier.scripts.clear();
            }
        }
    }

    /// Sees to it that a server knows a script before it is named over a connection for the first time.
    pub(in crate::multiplexer) fn bring(
        &mut self,
        link: ConnectionId,
        digest: ScriptDigest,
        patience: Option<Duration>,
        now: Duration,
    ) {
        let Some(carrier) = self.carriers.get_mut(link) else { return };
        if carrier.scripts.contains(&digest) {
            return;
        }
        let Some(body) =
            self.scripts.get(&carrier.line.upstream.cluster).and_then(|all| all.bodies.get(&digest).cloned())
        else {
            return;
        };
        if carrier.scripts.len() >= BROUGHT {
            carrier.scripts.clear();
        }
        carrier.scripts.insert(digest);
        self.send(link, PendingReply::Nobody.into(), patience, now, |out| {
            encode::command(out, &[b"SCRIPT", b"LOAD", &body]);
        });
    }

    /// The same for what another node has to get.
    pub(in crate::multiplexer) fn bring_all(
        &mut self,
        link: ConnectionId,
        awaited: InFlight,
        commands: &[u8],
        patience: Option<Duration>,
        now: Duration,
    ) {
        if awaited.names_scripts {
            let mut scripts = Vec::new();
            each_command(commands, |args| {
                let is_one = [&b"EVALSHA"[..], b"EVALSHA_RO"].iter().any(|name| args.get(0).eq_ignore_ascii_case(name));
                scripts.extend(digest(args.get(1)).filter(|_| is_one));
            });
            scripts.into_iter().for_each(|script| self.bring(link, script, patience, now));
        }
    }

    /// Looks at the answer to a command, or a transaction, that names scripts. True: it is asked again in full.
    pub(in crate::multiplexer) fn is_asked_in_full(
        &mut self,
        carrier: &mut UpstreamConnection,
        expected: InFlight,
        reply: &[u8],
        now: Duration,
    ) -> bool {
        match expected.what {
            PendingReply::Client(client, sequence) | PendingReply::SubCommand(client, sequence, _)
                if is_unknown(reply) =>
            {
                carrier.scripts = HashSet::new();
                let is_last = self.clients.get(client).is_some_and(|client| client.queue.end() == sequence + 1);
                let scripts = self.scripts.get(&carrier.line.upstream.cluster).filter(|_| is_last);
                let kept = carrier.oldest_kept(expected);
                let full = scripts.and_then(|all| in_full(kept, |digest| all.bodies.get(&digest).cloned()));
                let Some(full) = full else { return false };
                carrier.drop_kept(expected);
                self.hold_behind(expected.what);
                let awaited = InFlight { names_scripts: false, ..expected };
                let keeps = carrier.line.node.is_some();
                carrier.send(awaited, keeps, now, |out| out.extend_from_slice(&full));
                true
            }
            // What it says is the client's to hear: other commands of the transaction have been executed.
            PendingReply::Exec(..) if memchr::memmem::find(reply, b"-NOSCRIPT ").is_some() => {
                carrier.scripts = HashSet::new();
                false
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const SHA: &str = "e0e1f9fabfc9d4800c877a703b823ac0578ff8db";

    #[test]
    fn a_command_is_said_in_full() {
        let full = |words: &[&str]| {
            let mut command = Vec::new();
            encode::command(&mut command, &words.iter().map(|word| word.as_bytes()).collect::<Vec<_>>());
            let body =
                |wanted: ScriptDigest| (digest(SHA.as_bytes()) == Some(wanted)).then(|| Arc::from(&b"return 1"[..]));
            in_full(&command, body).map(|out| String::from_utf8(out).unwrap().replace("\r\n", " "))
        };
        assert_eq!(full(&["evalsha", SHA, "1", "k"]).unwrap(), "*4 $4 EVAL $8 return 1 $1 1 $1 k ");
        assert_eq!(full(&["EVALSHA_RO", SHA, "0"]).unwrap(), "*3 $7 EVAL_RO $8 return 1 $1 0 ");
        assert_eq!(full(&["EVALSHA", &SHA.replace('e', "0"), "0"]), None);
        assert_eq!(full(&["EVALSHA"]), None);
    }

    #[test]
    fn as_many_scripts_are_kept_as_there_is_room_for() {
        let mut scripts = Scripts::default();
        for number in 0..10u8 {
            let body = vec![number; HELD / 4];
            scripts.learn([number; 20], &body, &mut None);
            scripts.learn([number; 20], &body, &mut None);
        }
        assert_eq!((scripts.bodies.len(), scripts.order.len(), scripts.held), (4, 4, HELD));
        assert!((6..10u8).all(|number| scripts.bodies.contains_key(&[number; 20])));
        scripts.learn([0; 20], &vec![0; HELD + 1], &mut None);
        assert!(!scripts.bodies.contains_key(&[0; 20]));
    }
}
