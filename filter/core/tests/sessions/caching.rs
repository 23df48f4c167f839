//! Checks of client tracking: a client is told to forget each key that it has read and that was changed
//! then, and none that it hasn't read.

use super::caller::{Frame, Sent};
use super::check::{Checked, Checker, Stop};
use super::journal::Execution;
use super::store;
use super::tracking::prefixes;
use redis_mesh_core::resp::value::Value;
use std::collections::BTreeMap;
use std::time::Duration;

/// The time in which a change reaches a client.
const DELAY: Duration = Duration::from_secs(1);

/// What a client has cached, and when it tracked.
#[derive(Default)]
pub struct Caching {
    /// The times in which the client tracked, one after the other.
    spans: Vec<Span>,
    /// The keys that it has read, and that servers have to tell it of.
    reads: Vec<Read>,
    /// The times at which the client has asked to track, and was refused: some servers may have begun.
    refused: Vec<(Duration, Duration)>,
    /// True after CLIENT CACHING YES.
    is_wanted: bool,
}

/// A time in which a client tracks.
struct Span {
    /// The prefixes of the keys that it wants to hear of, if it does so of all changes.
    prefixes: Option<Vec<Vec<u8>>>,
    opts_in: bool,
    /// The client can be told, since it speaks RESP3.
    resp3: bool,
    /// The times at which the client has sent the command, and at which it was confirmed.
    begin: (Duration, Duration),
    /// The number of the frame that confirms the end, and the time at which the client has sent the
    /// command.
    end: Option<(u64, Duration)>,
}

/// A key that a client has read.
struct Read {
    key: Vec<u8>,
    /// The number and the time of the execution.
    number: u64,
    by_master: bool,
    db: u32,
    /// The number of the frame that has the value.
    frame: u64,
    /// The index of the span.
    span: usize,
}

/// Returns the keys in a push; `None` stands for all keys.
fn invalidated(frame: &Frame) -> Option<Vec<Vec<u8>>> {
    let parts = Value::parse(&frame.bytes);
    let keys = parts.as_ref().and_then(Value::array)?.get(1)?.array()?;
    Some(keys.iter().filter_map(|key| key.text().map(<[u8]>::to_vec)).collect())
}

impl Checker<'_> {
    /// Returns true if the client tracks.
    pub fn tracks(&self) -> bool {
        self.caching.spans.last().is_some_and(|span| span.end.is_none())
    }

    /// The client has ended to track.
    pub fn end_tracking(&mut self, sent: &Sent, frame: &Frame) {
        if let Some(span) = self.caching.spans.last_mut().filter(|span| span.end.is_none()) {
            span.end = Some((frame.number, sent.at));
        }
        self.caching.is_wanted = false;
    }

    /// Checks CLIENT TRACKING and CLIENT CACHING.
    pub fn tracking(&mut self, sent: &Sent) -> Result<(), Stop> {
        let has = |word: &[u8]| sent.args.iter().any(|arg| arg == word);
        let frame = self.reply(sent)?;
        let shown = || Err(Stop::Wrong(frame.bytes.escape_ascii().to_string()));
        let now = self.caching.spans.last().filter(|span| span.end.is_none());
        if has(b"CACHING") {
            let opts_in = now.is_some_and(|span| span.opts_in);
            self.caching.is_wanted = opts_in;
            let expected: &[u8] = if opts_in { b"+OK\r\n" } else { b"-ERR CLIENT CACHING" };
            return if frame.bytes.starts_with(expected) { Ok(()) } else { shown() };
        }
        if frame.bytes.starts_with(b"-ERR redis-mesh: ") {
            self.errors += 1;
            self.caching.refused.push((sent.at, frame.at));
            let may = self.was_trouble(&self.world.setup.sites(), sent.at, frame.at);
            return if may { Ok(()) } else { shown() };
        }
        if has(b"OFF") {
            self.end_tracking(sent, frame);
            return if frame.bytes == b"+OK\r\n" { Ok(()) } else { shown() };
        }
        let broadcasts = has(b"BCAST");
        if let Some(now) = now {
            let is_other = now.prefixes.is_some() != broadcasts;
            let expected: &[u8] = if is_other { b"-ERR You can't switch BCAST" } else { b"-ERR Prefix" };
            if frame.bytes.starts_with(expected) && broadcasts | is_other {
                return Ok(());
            }
        }
        if frame.bytes != b"+OK\r\n" {
            return shown();
        }
        let mut named = broadcasts.then(|| prefixes(&sent.args));
        if let Some(now) = self.caching.spans.last_mut().filter(|span| span.end.is_none()) {
            let (Some(before), Some(named)) = (&now.prefixes, &mut named) else {
                now.opts_in = has(b"OPTIN");
                return Ok(());
            };
            // It hears of more from now on.
            named.extend(before.iter().cloned());
            now.end = Some((frame.number, sent.at));
        }
        let (opts_in, resp3, begin) = (has(b"OPTIN"), self.resp3, (sent.at, frame.at));
        self.caching.spans.push(Span { prefixes: named, opts_in, resp3, begin, end: None });
        Ok(())
    }

    /// A command has come that ends what CLIENT CACHING has said, unless it belongs to a transaction.
    /// Returns true if it is the one that was meant.
    pub fn takes_caching(&mut self, name: &[u8]) -> bool {
        if name == b"CLIENT"
            || self.multi.is_some() && !matches!(name, b"EXEC" | b"DISCARD" | b"RESET")
            || name == b"MULTI"
        {
            return false;
        }
        std::mem::take(&mut self.caching.is_wanted)
    }

    /// Notes the keys that an execution has read for the client, whose reply is in this frame.
    pub fn note_read(&mut self, sent: &Sent, executions: &[&Execution], frame: &Frame) {
        let (Some(span), true) = (self.caching.spans.last(), self.tracks() && self.resp3) else { return };
        let is_tracked = span.prefixes.is_none() && (!span.opts_in || self.is_meant);
        if !is_tracked || !store::is_read(&sent.args) {
            return;
        }
        for index in store::keys(&sent.args) {
            let key = &sent.args[index];
            let (target, name) = self.world.setup.target(key);
            let has = |execution: &&&Execution| {
                let names = store::keys(&execution.args);
                execution.site == target.site && names.iter().any(|index| execution.args[*index] == name)
            };
            let Some(execution) = executions.iter().rev().find(has) else { continue };
            self.caching.reads.push(Read {
                key: key.clone(),
                number: execution.number,
                by_master: execution.by_master,
                db: execution.db,
                frame: frame.number,
                span: self.caching.spans.len() - 1,
            });
        }
    }

    /// Checks what the client was told to forget.
    pub fn invalidations(&self) -> Checked {
        self.are_its_own()?;
        if !self.caller.is_connected() {
            return Ok(());
        }
        let mut told: BTreeMap<Option<Vec<u8>>, Vec<&Frame>> = BTreeMap::new();
        for frame in &self.caller.invalidations {
            match invalidated(frame) {
                None => told.entry(None).or_default().push(frame),
                Some(keys) => keys.into_iter().for_each(|key| told.entry(Some(key)).or_default().push(frame)),
            }
        }
        let is_told = |key: &[u8], since: &dyn Fn(&Frame) -> bool| {
            let of =
                |key: &Option<Vec<u8>>| told.get(key).is_some_and(|frames| frames.iter().any(|frame| since(frame)));
            of(&Some(key.to_vec())) || of(&None)
        };
        for read in &self.caching.reads {
            let (target, name) = self.world.setup.target(&read.key);
            let span = &self.caching.spans[read.span];
            let changes = self.world.servers.journal.changes(target.site, &(read.db, name.to_vec()));
            let Some((_, at)) = changes.iter().find(|(number, _)| *number > read.number) else { continue };
            if !self.is_in_time(span, target.site, *at) || !read.by_master && span.end.is_some() {
                continue;
            }
            if !is_told(&read.key, &|frame| frame.number > read.frame) {
                return Err(format!("{} has changed at {at:?} and isn't forgotten", read.key.escape_ascii()));
            }
        }
        for span in self.caching.spans.iter().filter(|span| span.resp3) {
            let Some(prefixes) = span.prefixes.as_ref() else { continue };
            for ((site, (_, name)), changes) in self.world.servers.journal.all_changes() {
                for key in self.world.setup.names(*site, name) {
                    if !prefixes.iter().any(|prefix| key.starts_with(prefix)) {
                        continue;
                    }
                    let late = changes.iter().find(|(_, at)| {
                        let is_meant = *at > span.begin.1 && self.is_in_time(span, *site, *at);
                        // Another connection is told what the client wants to hear, and the client has
                        // nothing until then.
                        let is_meant = is_meant
                            && !is_told(&key, &|frame| {
                                frame.at <= *at && *at < frame.at + DELAY && invalidated(frame).is_none()
                            });
                        is_meant && !is_told(&key, &|frame| frame.at >= *at)
                    });
                    if let Some((_, at)) = late {
                        return Err(format!("{} has changed at {at:?}, of which it isn't told", key.escape_ascii()));
                    }
                }
            }
        }
        Ok(())
    }

    /// Returns true if a change has to reach the client before it ends to track.
    fn is_in_time(&self, span: &Span, site: usize, at: Duration) -> bool {
        let Some((_, until)) = span.end else { return true };
        at + DELAY < until && !self.was_trouble(&[site].into(), at, until)
    }

    /// Checks that the client was told of no key that it hasn't asked for.
    fn are_its_own(&self) -> Checked {
        let mut reads: BTreeMap<(usize, Vec<u8>), Vec<Duration>> = BTreeMap::new();
        for sent in self.caller.sent.iter().filter(|sent| store::is_read(&sent.args)) {
            for execution in self.executions(sent) {
                for index in store::keys(&execution.args) {
                    let key = (execution.site, execution.args[index].clone());
                    reads.entry(key).or_default().push(execution.at);
                }
            }
        }
        let mut counts: BTreeMap<Vec<u8>, usize> = BTreeMap::new();
        for frame in &self.caller.invalidations {
            let is_during = |span: &&Span| {
                span.resp3 && span.begin.0 <= frame.at && span.end.is_none_or(|(number, _)| frame.number < number)
            };
            // One may have ended, and the next one begun, while the push was under way.
            let spans: Vec<&Span> = self.caching.spans.iter().filter(is_during).collect();
            let is_refused = |(from, until): &(Duration, Duration)| (*from..=*until).contains(&frame.at);
            if spans.is_empty() {
                // A client that was closed may have begun to track without having been told so.
                if !self.caller.is_connected() || self.caching.refused.iter().any(is_refused) {
                    continue;
                }
                return Err(format!("it doesn't track, but is told {}", frame.bytes.escape_ascii()));
            }
            let Some(keys) = invalidated(frame) else {
                if !self.may_forget_all() {
                    return Err(format!("it is to forget all keys at {:?}", frame.at));
                }
                continue;
            };
            for key in keys {
                let (target, name) = self.world.setup.target(&key);
                let mut prefixes = spans.iter().filter_map(|span| span.prefixes.as_ref()).flatten();
                let is_wanted = prefixes.any(|prefix| key.starts_with(prefix)) || {
                    let count = counts.entry(key.clone()).or_default();
                    *count += 1;
                    let times = reads.get(&(target.site, name.to_vec())).map(Vec::as_slice).unwrap_or_default();
                    times.iter().filter(|at| **at <= frame.at).count() >= *count
                };
                let has_moved = self.has_moved(&Some(target.clone()), Duration::ZERO, frame.at);
                let has_changed = self.world.servers.journal.has_changed_by(target.site, name, frame.at);
                if !is_wanted || !has_moved && !has_changed {
                    return Err(format!("{} is another's, or hasn't changed", key.escape_ascii()));
                }
            }
        }
        Ok(())
    }

    /// Returns true if a server may not have told the client of something: slots or rules have changed,
    /// or a connection took another's place.
    fn may_forget_all(&self) -> bool {
        let world = self.world;
        let is_calm = world.setup.is_trouble_free && world.moves.is_empty() && world.updates.is_empty();
        let has_own = |sent: &Sent| {
            let name = sent.args[0].as_slice();
            matches!(name, b"WATCH" | b"BLPOP") || name == b"CLIENT" && sent.args[1] == b"CACHING"
        };
        !is_calm || self.caller.sent.iter().any(has_own)
    }
}
