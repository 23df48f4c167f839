//! Checks of commands without a key: subscriptions, PUBLISH and SCAN.

use super::caller::Sent;
use super::check::{Checked, Checker, Stop, elements};
use super::journal::Execution;
use super::setup::KeyTarget;
use super::world::World;
use redis_mesh_core::resp::encode;
use redis_mesh_core::resp::value::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The outcome of the check of a command; the error says why there is no more to check.
type Done = Result<(), Stop>;

/// A subscription: the channel, the execution that began it, and the time at which the client
/// ended it.
pub struct Interval {
    pub channel: Vec<u8>,
    pub from: u64,
    pub until: Option<Duration>,
}

/// A scan that isn't over: the execution that began it, and the names that it has returned.
#[derive(Default)]
pub struct Scan {
    from: u64,
    names: BTreeSet<Vec<u8>>,
}

impl Checker<'_> {
    /// Returns the site of commands without a key. If there is none, the command is refused.
    fn keyless_site(&mut self, sent: &Sent) -> Result<Option<usize>, Stop> {
        if self.world.setup.keyless_site.is_none() {
            self.refused(sent, "-ERR redis-mesh: ")?;
        }
        Ok(self.world.setup.keyless_site)
    }

    /// Checks the order of an execution, unless it may be on any node of the Redis Cluster.
    fn keyless_in_order(&mut self, site: usize, execution: &Execution) -> Checked {
        if site == super::setup::CLUSTER {
            return Ok(());
        }
        self.in_order(KeyTarget { site, slot: None }, execution)
    }

    /// Checks PUBLISH.
    pub fn publish(&mut self, sent: &Sent) -> Done {
        let Some(site) = self.keyless_site(sent)? else { return Ok(()) };
        let frame = self.reply(sent)?;
        if frame.bytes.starts_with(b"-") {
            let text = frame.bytes.escape_ascii().to_string();
            let may = self.was_trouble(&[site].into(), sent.at, frame.at);
            self.errors += 1;
            return if may { Ok(()) } else { Err(text.into()) };
        }
        let executions = self.executions(sent);
        let [execution] = executions.as_slice() else {
            return Err(format!("executed {} times", executions.len()).into());
        };
        // A node that has become a replica tells the others, as a master does.
        let execution = &Execution { by_master: true, ..Execution::clone(execution) };
        self.is_as_the_client(execution, &KeyTarget { site, slot: None })?;
        self.keyless_in_order(site, execution)?;
        if execution.reply != frame.bytes {
            return Err(format!("{} instead of {}", frame.bytes.escape_ascii(), execution.reply.escape_ascii()).into());
        }
        Ok(())
    }

    /// Checks SUBSCRIBE and UNSUBSCRIBE.
    pub fn subscription(&mut self, sent: &Sent) -> Done {
        let begins = sent.args[0] == b"SUBSCRIBE";
        let site = match begins {
            true => match self.keyless_site(sent)? {
                Some(site) => site,
                None => return Ok(()),
            },
            false => self.world.setup.keyless_site.unwrap_or_default(),
        };
        let named: Vec<Vec<u8>> =
            if sent.args.len() > 1 { sent.args[1..].to_vec() } else { self.channels.iter().cloned().collect() };
        let number = self.executions(sent).first().map(|execution| execution.number);
        for (index, channel) in named.iter().enumerate() {
            let frame = self.reply(sent)?;
            if index == 0 && frame.bytes.starts_with(b"-ERR redis-mesh: ") {
                // One error is the reply to the whole command.
                self.errors += 1;
                let may = self.was_trouble(&[site].into(), sent.at, frame.at);
                return if may { Ok(()) } else { Err(frame.bytes.escape_ascii().to_string().into()) };
            }
            if begins {
                if self.channels.insert(channel.clone()) {
                    let from = number.ok_or("no server has executed it".to_owned())?;
                    self.intervals.push(Interval { channel: channel.clone(), from, until: None });
                }
            } else {
                self.channels.remove(channel);
                self.end_subscriptions(Some(channel), sent.at);
            }
            self.is_confirmed(begins, Some(channel), &frame.bytes)?;
        }
        if named.is_empty() {
            let frame = self.reply(sent)?;
            self.is_confirmed(false, None, &frame.bytes)?;
        }
        if begins && let Some(execution) = self.executions(sent).first() {
            self.keyless_in_order(site, execution)?;
        }
        Ok(())
    }

    /// Checks the confirmation of a subscription.
    fn is_confirmed(&self, begins: bool, channel: Option<&[u8]>, frame: &[u8]) -> Checked {
        let mut expected = Vec::new();
        encode::header(&mut expected, if self.resp3 { b'>' } else { b'*' }, 3);
        encode::bulk(&mut expected, if begins { b"subscribe" } else { b"unsubscribe" });
        match channel {
            Some(channel) => encode::bulk(&mut expected, channel),
            None => expected.extend_from_slice(super::store::null(self.resp3)),
        }
        encode::integer(&mut expected, self.channels.len() as u64);
        match frame == expected {
            true => Ok(()),
            false => Err(format!("{} instead of {}", frame.escape_ascii(), expected.escape_ascii())),
        }
    }

    /// Ends the subscription to a channel, or to all channels.
    pub fn end_subscriptions(&mut self, channel: Option<&Vec<u8>>, at: Duration) {
        for interval in &mut self.intervals {
            if interval.until.is_none() && channel.is_none_or(|channel| interval.channel == *channel) {
                interval.until = Some(at);
            }
        }
    }

    /// Checks that each published message has arrived once and in order.
    pub fn messages(&self) -> Checked {
        let journal = &self.world.servers.journal;
        let (mut last, mut received) = (0, BTreeSet::new());
        for frame in &self.caller.messages {
            let parts = Value::parse(&frame.bytes);
            let Some([_, Value::Text(channel), Value::Text(text)]) = parts.as_ref().and_then(Value::array) else {
                return Err(format!("a message is {}", frame.bytes.escape_ascii()));
            };
            let token: u64 = String::from_utf8_lossy(&text[2..]).parse().unwrap();
            let published = journal.of(token);
            let [execution] = published.as_slice() else { return Err(format!("message {token} wasn't published")) };
            if execution.args[1] != *channel || execution.number <= last {
                return Err(format!("message {token} is out of order"));
            }
            let may =
                self.intervals.iter().any(|interval| interval.channel == *channel && interval.from < execution.number);
            // A message to a client that was closed may belong to a subscription whose
            // confirmation was lost.
            if !may && self.caller.is_connected() {
                return Err(format!("message {token} isn't for this client"));
            }
            last = execution.number;
            received.insert(token);
        }
        if !self.caller.is_connected() {
            return Ok(());
        }
        for execution in journal.executions.iter().filter(|execution| execution.args[0] == b"PUBLISH") {
            let is_wanted = self.intervals.iter().any(|interval| {
                let until = interval.until.unwrap_or(Duration::MAX);
                interval.channel == execution.args[1]
                    && interval.from < execution.number
                    && execution.at + Duration::from_secs(1) < until
            });
            let token = super::journal::token(&execution.args).unwrap();
            if is_wanted && Some(execution.site) == self.world.setup.keyless_site && !received.contains(&token) {
                return Err(format!("message {token} hasn't arrived"));
            }
        }
        Ok(())
    }

    /// Checks the names that SCAN has returned when its cursor is 0 again.
    pub fn scan(&mut self, sent: &Sent) -> Done {
        let frame = self.reply(sent)?;
        let mut scan = std::mem::take(&mut self.scan);
        if frame.bytes.starts_with(b"-") {
            let may = self.was_trouble(&self.world.setup.sites(), sent.at, frame.at);
            // The slots have others than when the scan began.
            let has_moved = !self.world.moves.is_empty()
                && memchr::memmem::find(&frame.bytes, b"begin again with cursor 0").is_some();
            self.errors += 1;
            return if may || has_moved { Ok(()) } else { Err(frame.bytes.escape_ascii().to_string().into()) };
        }
        if sent.args[1] == b"0" {
            let first = self.executions(sent).first().map(|execution| execution.number);
            scan = Scan { from: first.ok_or("no server was asked".to_owned())?, names: BTreeSet::new() };
        }
        let parts = elements(&frame.bytes);
        for name in elements(parts[1]) {
            let Some(Value::Text(name)) = Value::parse(name) else { return Err("no name".to_owned().into()) };
            scan.names.insert(name.to_vec());
        }
        let is_over = Value::parse(parts[0]) == Some(Value::Text(b"0"));
        if !is_over {
            self.scan = scan;
            return Ok(());
        }
        // A scan may miss keys that move to another node, and keys that a new master doesn't
        // have.
        if self.world.setup.is_trouble_free && self.world.moves.is_empty() {
            let expected = self.world.names(self.db, scan.from);
            if let Some(missing) = expected.iter().find(|name| !scan.names.contains(*name)) {
                return Err(format!("the scan leaves out {}", missing.escape_ascii()).into());
            }
        }
        Ok(())
    }
}

impl World {
    /// Returns the client's names of the keys that have existed from an execution until the end
    /// of the run.
    fn names(&self, db: u32, from: u64) -> Vec<Vec<u8>> {
        let journal = &self.servers.journal;
        let mut removed: BTreeMap<&[u8], Vec<usize>> = BTreeMap::new();
        for execution in
            journal.executions.iter().filter(|execution| matches!(execution.args[0].as_slice(), b"DEL" | b"BLPOP"))
        {
            for key in &execution.args[1..] {
                removed.entry(key).or_default().push(execution.site);
            }
        }
        let mut names = Vec::new();
        for (prefix, site, is_removed) in &self.setup.routes {
            for shard in &self.servers.sites[*site].shards {
                for (of, key) in self.servers.shards[*shard].store.keys.keys() {
                    let was_removed = removed.get(key.as_slice()).is_some_and(|sites| sites.contains(site));
                    if *of != db || was_removed || !journal.has_changed(*site, &(*of, key.clone()), 0, from) {
                        continue;
                    }
                    let name = if *is_removed { [prefix.as_bytes(), key].concat() } else { key.clone() };
                    let leads_here = self.setup.routes.iter().find(|(of, ..)| name.starts_with(of.as_bytes()));
                    if leads_here.is_some_and(|(of, ..)| of == prefix) {
                        names.push(name);
                    }
                }
            }
        }
        names
    }
}
