//! What has happened to the clients of a host since whoever exports it was told last.

use crate::command::{self, Command};
use crate::multiplexer::config::HostConfig;
use crate::multiplexer::slot_map::{Id, SlotMap};
use crate::stats::{Stat, Stats};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// A command that was answered: only of hosts with [`HostConfig::command_stats`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnsweredCommand {
    /// Its index in [`command::all`].
    pub command: u16,
    /// From when it was read until its reply could go out as a whole.
    pub took: Duration,
    /// The reply was an error.
    pub is_error: bool,
}

/// AnsweredCommand commands that are a lot to hold.
const MUCH: usize = 4096;

/// Increments.
#[derive(Debug, Default)]
pub struct HostStats {
    /// Those that both machines have.
    pub stats: Stats,
    /// Replies that were errors, whoever said so.
    pub errors: u64,
    /// Clients that were cut off because they didn't read.
    pub cut_off: u64,
    /// By route: commands that went there. A command that is split counts for each part.
    pub routes: Vec<u64>,
    /// What took how long.
    pub answered: Vec<AnsweredCommand>,
}

impl HostStats {
    /// Sets everything to zero.
    pub fn clear(&mut self) {
        self.stats = Stats::default();
        (self.errors, self.cut_off) = (0, 0);
        self.routes.clear();
        self.answered.clear();
    }

    pub fn route(&mut self, route: usize, times: u64) {
        if self.routes.len() <= route {
            self.routes.resize(route + 1, 0);
        }
        if let Some(count) = self.routes.get_mut(route) {
            *count += times;
        }
    }
}

/// What a client has sent since its host's tally was told: most of it goes by one route.
#[derive(Debug, Default)]
pub struct CommandRun {
    commands: u64,
    route: usize,
    times: u64,
}

impl CommandRun {
    /// A command has come.
    pub fn command(&mut self) {
        self.commands += 1;
    }

    /// A command goes by a route. False: by another one than those before, which have to be told first.
    #[must_use]
    #[inline]
    pub fn goes_by(&mut self, route: usize) -> bool {
        if self.times > 0 && self.route != route {
            return false;
        }
        self.route = route;
        self.times += 1;
        true
    }

    /// Tells, and begins anew.
    pub fn tell(&mut self, tally: &mut HostStats) {
        tally.stats.add(Stat::Commands, self.commands);
        if self.times > 0 {
            tally.route(self.route, self.times);
        }
        (self.commands, self.times) = (0, 0);
    }

    /// True if there is nothing to tell.
    pub fn is_empty(&self) -> bool {
        self.commands == 0 && self.times == 0
    }
}

/// A configuration that clients have, with what is counted of them.
#[derive(Debug)]
pub struct StatsEntry {
    config: Arc<HostConfig>,
    clients: usize,
    tally: HostStats,
    is_moved: bool,
}

/// All configurations that clients of this worker have.
#[derive(Default)]
pub struct StatsTable {
    all: SlotMap<StatsEntry, StatsEntry>,
    /// By the configuration's address, which is its own while it is kept here.
    known: HashMap<usize, Id<StatsEntry>>,
    /// Those where something was counted.
    moved: Vec<Id<StatsEntry>>,
}

impl StatsTable {
    /// A client gets this configuration.
    pub fn enter(&mut self, config: &Arc<HostConfig>) -> Id<StatsEntry> {
        let address = Arc::as_ptr(config) as usize;
        let all = &mut self.all;
        let id = *self.known.entry(address).or_insert_with(|| {
            all.insert(StatsEntry { config: config.clone(), clients: 0, tally: HostStats::default(), is_moved: false })
        });
        if let Some(host) = self.all.get_mut(id) {
            host.clients += 1;
        }
        id
    }

    /// A client has it no longer.
    pub fn leave(&mut self, id: Id<StatsEntry>) {
        let Some(host) = self.all.get_mut(id) else { return };
        host.clients = host.clients.saturating_sub(1);
        if host.clients == 0 && !host.is_moved {
            self.forget(id);
        }
    }

    fn forget(&mut self, id: Id<StatsEntry>) {
        if let Some(host) = self.all.remove(id) {
            self.known.remove(&(Arc::as_ptr(&host.config) as usize));
        }
    }

    /// Where to count for a host.
    pub fn tally(&mut self, id: Id<StatsEntry>) -> Option<&mut HostStats> {
        let host = self.all.get_mut(id)?;
        if !std::mem::replace(&mut host.is_moved, true) {
            self.moved.push(id);
        }
        Some(&mut host.tally)
    }

    /// Counts one for all hosts that such a thing concerns.
    pub fn count_where(&mut self, stat: Stat, concerns: impl Fn(&HostConfig) -> bool) {
        for id in self.all.ids() {
            if self.all.get(id).is_some_and(|host| concerns(&host.config))
                && let Some(tally) = self.tally(id)
            {
                tally.stats.count(stat);
            }
        }
    }

    /// True if something was counted for one of the hosts.
    pub fn has_moved(&self) -> bool {
        !self.moved.is_empty()
    }

    /// True if that takes up some room.
    pub fn has_much(&self) -> bool {
        let much = |host: &StatsEntry| host.tally.answered.len() >= MUCH;
        self.moved.iter().any(|id| self.all.get(*id).is_some_and(much))
    }

    /// What was counted for one of the hosts; `into` is cleared, and takes it.
    pub fn take(&mut self, into: &mut HostStats) -> Option<Arc<HostConfig>> {
        let id = self.moved.pop()?;
        let host = self.all.get_mut(id)?;
        into.clear();
        std::mem::swap(&mut host.tally, into);
        host.is_moved = false;
        let config = host.config.clone();
        if host.clients == 0 {
            self.forget(id);
        }
        Some(config)
    }
}

/// When the commands of a client were read whose replies haven't gone out.
#[derive(Debug, Default)]
pub struct LatencyTracker {
    /// When the command under way was read first: it may be decided several times.
    begun: Option<Duration>,
    running: std::collections::VecDeque<(u64, u16, Duration)>,
}

impl LatencyTracker {
    /// A command is decided.
    pub fn begin(&mut self, now: Duration) {
        self.begun.get_or_insert(now);
    }

    /// It has been taken, and its reply is the one of this number.
    pub fn taken(&mut self, sequence: u64, command: &'static Command) {
        if let (Some(begun), Some(number)) = (self.begun.take(), number(command)) {
            self.running.push_back((sequence, number, begun));
        }
    }

    /// It has been taken and has no reply.
    pub fn unanswered(&mut self) {
        self.begun = None;
    }

    /// All replies before `next` are out; those of `failed` were errors.
    pub fn stop(&mut self, next: u64, failed: &[u64], now: Duration, answered: &mut Vec<AnsweredCommand>) {
        while let Some((sequence, command, begun)) = self.running.front().copied().filter(|(of, ..)| *of < next) {
            self.running.pop_front();
            answered.push(AnsweredCommand {
                command,
                took: now.saturating_sub(begun),
                is_error: failed.contains(&sequence),
            });
        }
    }
}

/// The index of a row of the table.
fn number(command: &'static Command) -> Option<u16> {
    let all = command::all();
    let offset = (std::ptr::from_ref(command) as usize).checked_sub(all.as_ptr() as usize)?;
    let index = offset / size_of::<Command>();
    (index < all.len()).then_some(index as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_the_numbers_of_their_places() {
        for (index, command) in command::all().iter().enumerate() {
            assert_eq!(number(command), Some(index as u16));
            // Those of subcommands stand elsewhere, or a number of another command would be theirs.
            assert!(command.subcommands.iter().all(|sub| number(sub).is_none()));
        }
    }

    #[test]
    fn a_reply_stops_the_watch_of_its_command_and_of_those_before() {
        let get = command::lookup(b"get").unwrap();
        let at = Duration::from_millis;
        let (mut watch, mut answered) = (LatencyTracker::default(), Vec::new());
        watch.begin(at(1));
        // It is decided again, after it had to wait.
        watch.begin(at(2));
        watch.taken(7, get);
        watch.begin(at(3));
        watch.unanswered();
        watch.begin(at(4));
        watch.taken(8, get);
        watch.stop(7, &[], at(5), &mut answered);
        assert!(answered.is_empty());
        watch.stop(9, &[8], at(6), &mut answered);
        let found: Vec<(Duration, bool)> = answered.iter().map(|one| (one.took, one.is_error)).collect();
        assert_eq!(found, [(at(5), false), (at(2), true)]);
    }
}
