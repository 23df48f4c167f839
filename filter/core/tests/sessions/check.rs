//! Whether a client heard what it should have: what servers have executed for it, once and in order, or an error where something
//! went wrong.

use super::caller::{Caller, Frame, Sent};
use super::journal::Execution;
use super::keyless::{Interval, Scan};
use super::setup::{PASSWORD, Place};
use super::store::{self, Key};
use super::world::World;
use redis_mesh_core::resp::encode;
use redis_mesh_core::resp::framer::Framer;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

pub type Checked = Result<(), String>;

/// What a client has watched: where, which keys, and when.
pub struct Watched {
    pub place: Place,
    pub keys: Vec<Key>,
    pub number: u64,
    pub at: Duration,
}

pub struct Multi<'a> {
    pub queued: Vec<&'a Sent>,
    pub is_doomed: bool,
    pub place: Option<Place>,
    pub at: Duration,
}

/// A client as it should be, command by command.
pub struct Checker<'a> {
    pub world: &'a World,
    pub caller: &'a Caller,
    replies: std::slice::Iter<'a, Frame>,
    pub is_in: bool,
    pub resp3: bool,
    pub db: u32,
    pub multi: Option<Multi<'a>>,
    pub is_off: bool,
    pub skips: bool,
    pub name: String,
    pub channels: BTreeSet<Vec<u8>>,
    pub watched: Vec<Watched>,
    pub intervals: Vec<Interval>,
    pub scan: Scan,
    /// Between MULTI and EXEC, unheard.
    pub is_silent: bool,
    /// The last execution at each Redis, and in a Redis Cluster of each key.
    order: BTreeMap<(usize, Vec<u8>), u64>,
    /// How many replies were errors because something went wrong.
    pub errors: usize,
}

/// Why there is no more to check.
pub enum Stop {
    /// The client has been closed, or has left.
    Closed,
    Wrong(String),
}

impl From<String> for Stop {
    fn from(text: String) -> Stop {
        Stop::Wrong(text)
    }
}

pub fn shown(args: &[Vec<u8>]) -> String {
    args.iter().map(|arg| arg.escape_ascii().to_string()).collect::<Vec<_>>().join(" ")
}

/// The elements of an array.
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

/// True for an error that tells of something that went wrong behind.
fn is_trouble(reply: &[u8]) -> bool {
    [&b"-ERR redis-mesh: "[..], b"-CLUSTERDOWN ", b"-TRYAGAIN "].iter().any(|beginning| reply.starts_with(beginning))
}

impl<'a> Checker<'a> {
    pub fn new(world: &'a World, caller: &'a Caller) -> Checker<'a> {
        Checker {
            world,
            caller,
            replies: caller.replies.iter(),
            is_in: world.setup.host.client_auth.is_none(),
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
            is_silent: false,
            order: BTreeMap::new(),
            errors: 0,
        }
    }

    pub fn check(mut self) -> Result<usize, String> {
        for sent in &self.caller.sent {
            match self.command(sent) {
                Ok(()) => {}
                Err(Stop::Closed) => break,
                Err(Stop::Wrong(text)) => return Err(format!("{} at {:?}: {text}", shown(&sent.args), sent.at)),
            }
        }
        if let Some(more) = self.replies.next() {
            return Err(format!("a reply to nothing: {}", more.bytes.escape_ascii()));
        }
        if !self.caller.rest().is_empty() && self.caller.is_there() {
            return Err(format!("half a reply: {}", self.caller.rest().escape_ascii()));
        }
        for sent in &self.caller.sent {
            self.at_most_once(sent)?;
        }
        self.messages()?;
        Ok(self.errors)
    }

    /// True if something was wrong with one of the sites meanwhile.
    pub fn was_trouble(&self, sites: &BTreeSet<usize>, from: Duration, until: Duration) -> bool {
        let troubles = &self.world.troubles;
        troubles.iter().any(|(site, begin, end)| sites.contains(site) && *begin <= until && *end >= from)
    }

    /// The next reply.
    pub fn reply(&mut self, sent: &Sent) -> Result<&'a Frame, Stop> {
        match self.replies.next() {
            Some(frame) => {
                for secret in
                    [&b"MOVED"[..], b"-ASK", b"10.9.0.", b"secret", b"EXECABORT Transaction discarded because of: "]
                {
                    if memchr::memmem::find(&frame.bytes, secret).is_some() {
                        return Err(format!("it hears {}", frame.bytes.escape_ascii()).into());
                    }
                }
                Ok(frame)
            }
            None if !self.caller.is_there() => {
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

    /// A reply that is exactly this.
    pub fn exactly(&mut self, sent: &Sent, expected: &[u8]) -> Result<(), Stop> {
        let frame = self.reply(sent)?;
        if frame.bytes != expected {
            return Err(format!("{} instead of {}", frame.bytes.escape_ascii(), expected.escape_ascii()).into());
        }
        Ok(())
    }

    /// An error that begins like this, and nothing was executed.
    pub fn refused(&mut self, sent: &Sent, beginning: &str) -> Result<(), Stop> {
        let frame = self.reply(sent)?;
        if !frame.bytes.starts_with(beginning.as_bytes()) {
            return Err(format!("{} instead of {beginning}", frame.bytes.escape_ascii()).into());
        }
        Ok(self.nothing_executed(sent)?)
    }

    pub fn executions(&self, sent: &Sent) -> Vec<&'a Execution> {
        if sent.token == 0 { Vec::new() } else { self.world.servers.journal.of(sent.token) }
    }

    pub fn nothing_executed(&self, sent: &Sent) -> Checked {
        match self.executions(sent).first() {
            Some(_) => Err(format!("{} was executed all the same", shown(&sent.args))),
            None => Ok(()),
        }
    }

    /// Nothing that writes is executed twice, whatever becomes of it, nor copied twice.
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
            let mut said: BTreeMap<&[u8], usize> = BTreeMap::new();
            for index in store::keys(&sent.args) {
                *said.entry(self.world.setup.place(&sent.args[index]).1).or_default() += 1;
            }
            // A key of the same name at another destination is another key.
            if let Some((key, _)) = seen.iter().find(|(key, count)| said.get(*key).is_none_or(|said| *count > said)) {
                return Err(format!("{} was executed twice for {}", shown(&sent.args), key.escape_ascii()));
            }
        }
        Ok(())
    }

    /// What was executed for a command outside of a transaction, and the reply to it.
    pub fn executed(&mut self, sent: &Sent, frame: Option<&Frame>) -> Checked {
        let places: BTreeSet<Place> =
            store::keys(&sent.args).iter().map(|index| self.world.setup.place(&sent.args[*index]).0).collect();
        let sites: BTreeSet<usize> = places.iter().map(|place| place.site).collect();
        let until = frame.map_or(self.world.now, |frame| frame.at);
        let had_trouble = self.was_trouble(&sites, sent.at, until);
        // Keys of a slot on its way are in two places until it has arrived, and what follows may have been sent already.
        let is_torn = places.iter().any(|place| self.has_moved(&Some(place.clone()), sent.at, until));
        if let Some(frame) = frame {
            if frame.bytes.starts_with(b"-Fault Injected") {
                let may = self.world.setup.host.faults.iter().any(|fault| {
                    fault.kind == redis_mesh_core::wire::FaultKind::Error
                        && fault.commands.iter().any(|name| name.as_bytes().eq_ignore_ascii_case(&sent.args[0]))
                });
                return if may { self.nothing_executed(sent) } else { Err("a fault that isn't configured".into()) };
            }
            if frame.bytes.starts_with(b"-TRYAGAIN ") && is_torn {
                return Ok(());
            }
            if is_trouble(&frame.bytes) {
                self.errors += 1;
                let text = frame.bytes.escape_ascii();
                return if had_trouble { Ok(()) } else { Err(format!("nothing was wrong, but {text}")) };
            }
        } else if had_trouble || is_torn || !self.world.setup.host.faults.is_empty() {
            return Ok(());
        }
        let executions = self.executions(sent);
        let mut expected = Vec::new();
        for index in store::keys(&sent.args) {
            let (place, name) = self.world.setup.place(&sent.args[index]);
            // The last time: a read may be asked twice.
            let found = executions.iter().rev().find(|execution| {
                execution.site == place.site
                    && store::keys(&execution.args).iter().any(|at| execution.args[*at] == name)
            });
            let Some(execution) = found else {
                return Err(format!("it wasn't executed for {}", name.escape_ascii()));
            };
            self.is_as_the_client(execution, &place)?;
            if execution.reply.starts_with(b"-") {
                expected = vec![execution.reply.clone()];
                break;
            }
            let at = store::keys(&execution.args).iter().position(|at| execution.args[*at] == name).unwrap();
            expected.push(match sent.args[0].as_slice() {
                b"MGET" => elements(&execution.reply)[at].to_vec(),
                _ => execution.reply.clone(),
            });
        }
        // Each place comes after what the client said before.
        for execution in &executions {
            let Some(index) = store::keys(&execution.args).first().copied() else { continue };
            let slot = places.iter().find(|place| place.site == execution.site).and_then(|place| place.slot);
            let slot = slot.map(|_| redis_mesh_core::cluster::slot::slot(&execution.args[index]));
            self.in_order(Place { site: execution.site, slot }, execution)?;
        }
        let Some(frame) = frame else { return Ok(()) };
        let reply = match sent.args[0].as_slice() {
            _ if expected.first().is_some_and(|reply| reply.starts_with(b"-")) => {
                let is_one_of_them = executions.iter().any(|execution| execution.reply == frame.bytes);
                return if is_one_of_them { Ok(()) } else { Err(format!("{}", frame.bytes.escape_ascii())) };
            }
            b"MGET" => [format!("*{}\r\n", expected.len()).into_bytes(), expected.concat()].concat(),
            b"DEL" | b"EXISTS" => {
                let number = |reply: &[u8]| String::from_utf8_lossy(reply)[1..].trim().parse::<u64>().unwrap();
                // Of each part the last time, too.
                let part = |execution: &&'a Execution| ((execution.site, &execution.args), number(&execution.reply));
                let parts: BTreeMap<(usize, &store::Args), u64> = executions.iter().map(part).collect();
                format!(":{}\r\n", parts.values().sum::<u64>()).into_bytes()
            }
            b"BLPOP" => self.as_named(sent, &expected[0], &frame.bytes),
            _ => expected[0].clone(),
        };
        if reply != frame.bytes {
            return Err(format!("{} instead of {}", frame.bytes.escape_ascii(), reply.escape_ascii()));
        }
        Ok(())
    }

    /// What was popped, with a name that the client has for the list.
    fn as_named(&self, sent: &Sent, reply: &[u8], heard: &[u8]) -> Vec<u8> {
        let [name, element] = elements(reply)[..] else { return reply.to_vec() };
        let bulk = |text: &[u8]| {
            let mut out = Vec::new();
            encode::bulk(&mut out, text);
            out
        };
        let keys = store::keys(&sent.args).into_iter().map(|index| sent.args[index].as_slice());
        let named = keys.filter(|key| bulk(self.world.setup.place(key).1) == name);
        let mut replies = named.map(|key| [b"*2\r\n", bulk(key).as_slice(), element].concat());
        replies.find(|reply| reply == heard).unwrap_or_default()
    }

    pub fn is_as_the_client(&self, execution: &Execution, place: &Place) -> Checked {
        if execution.site != place.site {
            return Err(format!("site {} instead of {}", execution.site, place.site));
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

    /// Nothing overtakes anything that a master executes for the same client.
    pub fn in_order(&mut self, place: Place, execution: &Execution) -> Checked {
        if self.world.setup.reads_replicas && store::is_read(&execution.args) {
            return Ok(());
        }
        let all = || store::keys(&execution.args).into_iter().map(|index| execution.args[index].clone());
        // While a slot is on its way, two nodes have its keys.
        let keys: BTreeSet<Vec<u8>> = if place.slot.is_some() { all().collect() } else { [Vec::new()].into() };
        for key in keys {
            let last = self.order.entry((place.site, key)).or_default();
            if *last >= execution.number {
                return Err("it was overtaken by what was said after it, or overtook what was said before".into());
            }
            *last = execution.number;
        }
        Ok(())
    }

    pub fn is_password(word: Option<&Vec<u8>>) -> bool {
        word.is_some_and(|word| word == PASSWORD.as_bytes())
    }
}
