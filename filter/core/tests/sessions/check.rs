//! The check of one client: for each command the client has received the reply of the server that
//! executed it, once and in order, or an error if there was trouble.

use super::caching::Caching;
use super::caller::{Caller, Frame, Sent};
use super::journal::Execution;
use super::keyless::{Interval, Scan};
use super::setup::{KeyTarget, PASSWORD};
use super::store::{self, Key};
use super::world::World;
use redis_mesh_core::resp::encode;
use redis_mesh_core::resp::framer::Framer;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The outcome of a check; the error says what is wrong.
pub type Checked = Result<(), String>;

/// The keys of a WATCH, with the number and the time of its execution.
pub struct Watched {
    pub target: KeyTarget,
    pub keys: Vec<Key>,
    pub number: u64,
    pub at: Duration,
}

/// A transaction that hasn't been executed yet.
pub struct Multi<'a> {
    pub queued: Vec<&'a Sent>,
    pub is_doomed: bool,
    pub target: Option<KeyTarget>,
    pub at: Duration,
}

/// The state that a client should have after each command, and the replies that are still to be
/// checked.
pub struct Checker<'a> {
    pub world: &'a World,
    pub caller: &'a Caller,
    replies: std::slice::Iter<'a, Frame>,
    pub is_authenticated: bool,
    pub resp3: bool,
    /// The index of the selected database.
    pub db: u32,
    pub multi: Option<Multi<'a>>,
    /// True after CLIENT REPLY OFF.
    pub is_off: bool,
    /// True if the next command has no reply, after CLIENT REPLY SKIP.
    pub skips: bool,
    pub name: String,
    pub channels: BTreeSet<Vec<u8>>,
    pub watched: Vec<Watched>,
    pub intervals: Vec<Interval>,
    pub scan: Scan,
    pub caching: Caching,
    /// True if CLIENT CACHING YES was about the present command.
    pub is_meant: bool,
    /// True between MULTI and EXEC while replies are turned off.
    pub is_silent: bool,
    /// The number of the last execution for each standalone Redis, and in the Redis Cluster for
    /// each key.
    order: BTreeMap<(usize, Vec<u8>), u64>,
    /// The number of error replies that trouble has caused.
    pub errors: usize,
}

/// The reason why a check ends.
pub enum Stop {
    /// The multiplexer or the client has closed the connection.
    Closed,
    /// The check has failed.
    Wrong(String),
}

impl From<String> for Stop {
    fn from(text: String) -> Stop {
        Stop::Wrong(text)
    }
}

/// Returns a command in a readable form.
pub fn shown(args: &[Vec<u8>]) -> String {
    args.iter().map(|arg| arg.escape_ascii().to_string()).collect::<Vec<_>>().join(" ")
}

/// Returns the elements of an array.
pub fn elements(reply: &[u8]) -> Vec<&[u8]> {
    let head = reply.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    let (mut rest, mut all) = (&reply[head..], Vec::new());
    while !rest.is_empty() {
        let (used, is_complete) = Framer::default().feed(rest).unwrap();
        assert!(is_complete);
        all.push(&rest[..used]);
        rest = &rest[used..];
    }
    all
}

/// Returns true for an error that trouble at a server or a connection can cause.
fn is_trouble(reply: &[u8]) -> bool {
    [&b"-ERR redis-mesh: "[..], b"-CLUSTERDOWN ", b"-TRYAGAIN "].iter().any(|beginning| reply.starts_with(beginning))
}

impl<'a> Checker<'a> {
    pub fn new(world: &'a World, caller: &'a Caller) -> Checker<'a> {
        Checker {
            world,
            caller,
            replies: caller.replies.iter(),
            is_authenticated: world.setup.host.client_auth.is_none(),
            resp3: false,
            db: 0,
            multi: None,
            is_off: false,
            skips: false,
            name: String::new(),
            channels: BTreeSet::new(),
            watched: Vec::new(),
            intervals: Vec::new(),
            scan: Scan::default(),
            caching: Caching::default(),
            is_meant: false,
            is_silent: false,
            order: BTreeMap::new(),
            errors: 0,
        }
    }

    /// Checks all commands of the client. Returns the number of errors that trouble has caused.
    pub fn check(mut self) -> Result<usize, String> {
        for sent in &self.caller.sent {
            match self.command(sent) {
                Ok(()) => {}
                Err(Stop::Closed) => break,
                Err(Stop::Wrong(text)) => return Err(format!("{} at {:?}: {text}", shown(&sent.args), sent.at)),
            }
        }
        if let Some(more) = self.replies.next() {
            return Err(format!("a reply without a command: {}", more.bytes.escape_ascii()));
        }
        if !self.caller.rest().is_empty() && self.caller.is_connected() {
            return Err(format!("an incomplete reply: {}", self.caller.rest().escape_ascii()));
        }
        for sent in &self.caller.sent {
            self.at_most_once(sent)?;
        }
        self.messages()?;
        self.invalidations()?;
        Ok(self.errors)
    }

    /// Returns true if one of the sites had trouble in this time.
    pub fn was_trouble(&self, sites: &BTreeSet<usize>, from: Duration, until: Duration) -> bool {
        let troubles = &self.world.troubles;
        troubles.iter().any(|(site, begin, end)| sites.contains(site) && *begin <= until && *end >= from)
    }

    /// Returns the next reply.
    pub fn reply(&mut self, sent: &Sent) -> Result<&'a Frame, Stop> {
        match self.replies.next() {
            Some(frame) => {
                for secret in
                    [&b"MOVED"[..], b"-ASK", b"10.9.0.", b"secret", b"EXECABORT Transaction discarded because of: "]
                {
                    if memchr::memmem::find(&frame.bytes, secret).is_some() {
                        return Err(format!("the client receives {}", frame.bytes.escape_ascii()).into());
                    }
                }
                Ok(frame)
            }
            None if !self.caller.is_connected() => {
                if let Some(closed) = self.caller.closed
                    && !self.was_trouble(&self.world.setup.sites(), Duration::ZERO, closed)
                {
                    return Err("the client was closed before it was answered".to_owned().into());
                }
                Err(Stop::Closed)
            }
            None => Err(format!("no reply to {}", shown(&sent.args)).into()),
        }
    }

    /// Checks that the next reply is exactly this one.
    pub fn exactly(&mut self, sent: &Sent, expected: &[u8]) -> Result<(), Stop> {
        let frame = self.reply(sent)?;
        if frame.bytes != expected {
            return Err(format!("{} instead of {}", frame.bytes.escape_ascii(), expected.escape_ascii()).into());
        }
        Ok(())
    }

    /// Checks that the next reply is an error that begins like this, and that the command wasn't
    /// executed.
    pub fn refused(&mut self, sent: &Sent, beginning: &str) -> Result<(), Stop> {
        let frame = self.reply(sent)?;
        if !frame.bytes.starts_with(beginning.as_bytes()) {
            return Err(format!("{} instead of {beginning}", frame.bytes.escape_ascii()).into());
        }
        Ok(self.nothing_executed(sent)?)
    }

    /// Returns true if the client had left before this command was sent to a server.
    pub fn left_before(&self, sent: &Sent) -> bool {
        self.caller.left.is_some() && self.replies.clone().next().is_none() && self.executions(sent).is_empty()
    }

    /// Returns the executions of a command, those of its parts included.
    pub fn executions(&self, sent: &Sent) -> Vec<&'a Execution> {
        if sent.token == 0 { Vec::new() } else { self.world.servers.journal.of(sent.token) }
    }

    /// Checks that a command wasn't executed.
    pub fn nothing_executed(&self, sent: &Sent) -> Checked {
        match self.executions(sent).first() {
            Some(_) => Err(format!("{} was executed all the same", shown(&sent.args))),
            None => Ok(()),
        }
    }

    /// Checks that a command that writes was executed and mirrored at most once for each of its
    /// keys.
    fn at_most_once(&self, sent: &Sent) -> Checked {
        let is_read = store::is_read(&sent.args)
            || matches!(sent.args[0].as_slice(), b"SUBSCRIBE" | b"WATCH" | b"PING" | b"ECHO");
        if is_read || sent.token == 0 {
            return Ok(());
        }
        let journals = [&self.world.servers.journal, &self.world.servers.copies];
        for executions in journals.map(|journal| journal.of(sent.token)) {
            let mut seen: BTreeMap<&[u8], usize> = BTreeMap::new();
            for execution in executions {
                for index in store::keys(&execution.args) {
                    *seen.entry(&execution.args[index]).or_default() += 1;
                }
            }
            let mut sent_for: BTreeMap<&[u8], usize> = BTreeMap::new();
            for index in store::keys(&sent.args) {
                *sent_for.entry(self.world.setup.target(&sent.args[index]).1).or_default() += 1;
            }
            // Keys of the same name at two destinations are two keys.
            if let Some((key, _)) = seen.iter().find(|(key, count)| sent_for.get(*key).is_none_or(|most| *count > most))
            {
                return Err(format!("{} was executed twice for {}", shown(&sent.args), key.escape_ascii()));
            }
        }
        Ok(())
    }

    /// Returns the targets of a command's keys.
    pub fn targets(&self, sent: &Sent) -> BTreeSet<KeyTarget> {
        store::keys(&sent.args).iter().map(|index| self.world.setup.target(&sent.args[*index]).0).collect()
    }

    /// Checks the executions of a command outside of a transaction, and the reply to it, unless
    /// replies are turned off.
    pub fn executed(&mut self, sent: &Sent, frame: Option<&Frame>) -> Checked {
        let targets = self.targets(sent);
        let sites: BTreeSet<usize> = targets.iter().map(|target| target.site).collect();
        let until = frame.map_or(self.world.now, |frame| frame.at);
        let had_trouble = self.was_trouble(&sites, sent.at, until);
        // The keys of a slot that is moving are on two nodes, and later commands may have been
        // sent already.
        let is_torn = targets.iter().any(|target| self.has_moved(&Some(target.clone()), sent.at, until));
        match frame {
            Some(frame) => {
                if let Some(verdict) = self.is_excused(sent, frame, had_trouble, is_torn) {
                    return verdict;
                }
            }
            None if had_trouble || is_torn || !self.world.setup.host.faults.is_empty() => return Ok(()),
            None => {}
        }
        let executions = self.executions(sent);
        let expected = self.replies_by_key(sent, &executions)?;
        // At each target, the executions come after those of the client's earlier commands.
        for (place, execution) in executions.iter().enumerate() {
            // Of a read that was sent again the last execution counts.
            let is_same = |other: &&Execution| other.site == execution.site && other.args == execution.args;
            if store::is_read(&execution.args) && executions.iter().skip(place + 1).any(is_same) {
                continue;
            }
            let Some(index) = store::keys(&execution.args).first().copied() else { continue };
            let slot = targets.iter().find(|target| target.site == execution.site).and_then(|target| target.slot);
            let slot = slot.map(|_| redis_mesh_core::cluster::slot::slot(&execution.args[index]));
            self.in_order(KeyTarget { site: execution.site, slot }, execution)?;
        }
        let Some(frame) = frame else { return Ok(()) };
        self.is_reply(sent, frame, &executions, &expected)?;
        self.note_read(sent, &executions, frame);
        Ok(())
    }

    /// Checks an error that doesn't come from the command itself: an injected fault, or the
    /// result of trouble. Returns `None` for another reply.
    fn is_excused(&mut self, sent: &Sent, frame: &Frame, had_trouble: bool, is_torn: bool) -> Option<Checked> {
        if frame.bytes.starts_with(b"-Fault Injected") {
            let may = self.world.setup.host.faults.iter().any(|fault| {
                fault.kind == redis_mesh_core::wire::FaultKind::Error
                    && fault.commands.iter().any(|name| name.as_bytes().eq_ignore_ascii_case(&sent.args[0]))
            });
            return Some(if may { self.nothing_executed(sent) } else { Err("a fault that isn't configured".into()) });
        }
        if frame.bytes.starts_with(b"-TRYAGAIN ") && is_torn {
            return Some(Ok(()));
        }
        if !is_trouble(&frame.bytes) {
            return None;
        }
        self.errors += 1;
        // A node to which a slot moves has no replica that could answer for it.
        if !is_torn && self.is_early(sent, frame) {
            return Some(Err("another node may still have taken the place".to_owned()));
        }
        let text = frame.bytes.escape_ascii();
        Some(if had_trouble { Ok(()) } else { Err(format!("there was no trouble, but {text}")) })
    }

    /// Returns true for the error that a node of the Redis Cluster can't be reached, if there was time
    /// left in which another one could have taken its place.
    fn is_early(&self, sent: &Sent, frame: &Frame) -> bool {
        let limit = match self.world.setup.host.op_timeout_ms {
            None | Some(0) => 5_000,
            Some(limit) => limit,
        };
        let error = b"-ERR redis-mesh: cluster can't be reached\r\n";
        // What comes within 20 ms counts as one piece, and times are kept in whole milliseconds.
        frame.bytes == error && frame.at - sent.at + Duration::from_millis(21) < Duration::from_millis(limit)
    }

    /// Returns the reply of a server for each key of a command, or the error of one server.
    fn replies_by_key(&self, sent: &Sent, executions: &[&Execution]) -> Result<Vec<Vec<u8>>, String> {
        let mut replies = Vec::new();
        for index in store::keys(&sent.args) {
            let (target, name) = self.world.setup.target(&sent.args[index]);
            // The last execution counts, since a read may be sent twice.
            let found = executions.iter().rev().find(|execution| {
                execution.site == target.site
                    && store::keys(&execution.args).iter().any(|at| execution.args[*at] == name)
            });
            let Some(execution) = found else {
                return Err(format!("it wasn't executed for {}", name.escape_ascii()));
            };
            self.is_as_the_client(execution, &target)?;
            if execution.reply.starts_with(b"-") {
                return Ok(vec![execution.reply.clone()]);
            }
            let at = store::keys(&execution.args).iter().position(|at| execution.args[*at] == name).unwrap();
            replies.push(match sent.args[0].as_slice() {
                b"MGET" => elements(&execution.reply)[at].to_vec(),
                _ => execution.reply.clone(),
            });
        }
        Ok(replies)
    }

    /// Checks the reply to a command with keys; `by_key` are the replies of
    /// [`Checker::replies_by_key`].
    fn is_reply(&self, sent: &Sent, frame: &Frame, executions: &[&Execution], by_key: &[Vec<u8>]) -> Checked {
        let reply = match sent.args[0].as_slice() {
            _ if by_key.first().is_some_and(|reply| reply.starts_with(b"-")) => {
                let is_one_of_them = executions.iter().any(|execution| execution.reply == frame.bytes);
                return if is_one_of_them { Ok(()) } else { Err(format!("{}", frame.bytes.escape_ascii())) };
            }
            b"MGET" => [format!("*{}\r\n", by_key.len()).into_bytes(), by_key.concat()].concat(),
            b"DEL" | b"EXISTS" => {
                let number = |reply: &[u8]| String::from_utf8_lossy(reply)[1..].trim().parse::<u64>().unwrap();
                // The last execution of each part counts here, too.
                let part =
                    |execution: &&Execution| ((execution.site, execution.args.clone()), number(&execution.reply));
                let parts: BTreeMap<(usize, store::Args), u64> = executions.iter().map(part).collect();
                format!(":{}\r\n", parts.values().sum::<u64>()).into_bytes()
            }
            b"BLPOP" => self.as_named(sent, &by_key[0], &frame.bytes),
            _ => by_key[0].clone(),
        };
        if reply != frame.bytes {
            return Err(format!("{} instead of {}", frame.bytes.escape_ascii(), reply.escape_ascii()));
        }
        Ok(())
    }

    /// Returns the reply to BLPOP with the name that the client has for the list.
    fn as_named(&self, sent: &Sent, reply: &[u8], received: &[u8]) -> Vec<u8> {
        let [name, element] = elements(reply)[..] else { return reply.to_vec() };
        let bulk = |text: &[u8]| {
            let mut out = Vec::new();
            encode::bulk(&mut out, text);
            out
        };
        let keys = store::keys(&sent.args).into_iter().map(|index| sent.args[index].as_slice());
        let named = keys.filter(|key| bulk(self.world.setup.target(key).1) == name);
        let mut replies = named.map(|key| [b"*2\r\n", bulk(key).as_slice(), element].concat());
        replies.find(|reply| reply == received).unwrap_or_default()
    }

    /// Checks that a server executed a command in the state that the client has.
    pub fn is_as_the_client(&self, execution: &Execution, target: &KeyTarget) -> Checked {
        if execution.site != target.site {
            return Err(format!("site {} instead of {}", execution.site, target.site));
        }
        if (execution.db, execution.resp3) != (self.db, self.resp3) {
            return Err(format!(
                "database {} and RESP3 {}, but executed with {} and {}",
                self.db, self.resp3, execution.db, execution.resp3
            ));
        }
        if !execution.by_master && !self.world.setup.reads_replicas {
            return Err("a replica answered".into());
        }
        Ok(())
    }

    /// Checks that no other command of the client has overtaken an execution by a master.
    pub fn in_order(&mut self, target: KeyTarget, execution: &Execution) -> Checked {
        if self.world.setup.reads_replicas && store::is_read(&execution.args) {
            return Ok(());
        }
        let all = || store::keys(&execution.args).into_iter().map(|index| execution.args[index].clone());
        // The keys of a slot that is moving are on two nodes.
        let keys: BTreeSet<Vec<u8>> = if target.slot.is_some() { all().collect() } else { [Vec::new()].into() };
        for key in keys {
            let last = self.order.entry((target.site, key)).or_default();
            if *last >= execution.number {
                return Err("a later command has overtaken it, or it an earlier one".into());
            }
            *last = execution.number;
        }
        Ok(())
    }

    /// Returns true for the password of the configuration.
    pub fn is_password(word: Option<&Vec<u8>>) -> bool {
        word.is_some_and(|word| word == PASSWORD.as_bytes())
    }
}
