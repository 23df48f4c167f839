//! The counters of the clients of each host, which are taken and exported by the machine's host.

use crate::multiplexer::config::HostConfig;
use crate::multiplexer::slot_map::{Id, SlotMap};
use crate::multiplexer::upstream::endpoint::UpstreamEndpoint;
use crate::stats::{Stat, Stats};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

/// A command that was answered. It is recorded only for hosts with [`HostConfig::command_stats`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnsweredCommand {
    /// The index of the command in [`crate::command::all`].
    pub command: u16,
    /// The time from the reading of the command until its whole reply could be written.
    pub took: Duration,
    /// True if the reply was an error.
    pub is_error: bool,
}

/// What a login of the configuration may do that could be turned against its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoginVerdict {
    /// The index of its target in [`HostConfig::targets`].
    pub target: usize,
    /// The commands that it may execute, of MIGRATE, CONFIG and REPLICAOF.
    pub allowed: Vec<&'static str>,
}

/// The number of answered commands of one host from which on they should be taken soon.
const MANY_ANSWERED: usize = 4096;

/// The key of a host's counters.
pub type StatsKey = Id<StatsEntry>;

/// What became of a copy for a mirror.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyFate {
    /// It was sent.
    Sent,
    /// It wasn't sent: the mirror can't be reached, doesn't keep up, or can't execute it.
    Dropped,
    /// The mirror has answered an error, or nothing.
    Failed,
}

/// What the clients of one host have caused since it was taken last.
#[derive(Debug, Default)]
pub struct HostStats {
    /// The counters that the rewriter has as well.
    pub stats: Stats,
    /// Error replies, whether a server or this machine gave them.
    pub errors: u64,
    /// Clients that were closed since they didn't read their replies.
    pub cut_off: u64,
    /// Copies that mirrors answered with an error, or didn't answer.
    pub mirror_errors: u64,
    /// Copies that mirrors missed: they can't be reached, don't keep up, or can't execute them.
    pub mirror_dropped: u64,
    /// Commands by the route of their keys, an index into [`HostConfig::routes`]. A command that
    /// is split counts once for each part.
    pub routes: Vec<u64>,
    /// Logins of the configuration about which something new is known.
    pub logins: Vec<LoginVerdict>,
    /// The commands that were answered.
    pub answered: Vec<AnsweredCommand>,
}

impl HostStats {
    /// Sets everything to zero, and keeps the capacity.
    pub fn clear(&mut self) {
        self.stats = Stats::default();
        (self.errors, self.cut_off) = (0, 0);
        (self.mirror_errors, self.mirror_dropped) = (0, 0);
        self.routes.clear();
        self.logins.clear();
        self.answered.clear();
    }

    /// Counts commands that went by a route.
    pub fn route(&mut self, route: usize, times: u64) {
        if self.routes.len() <= route {
            self.routes.resize(route + 1, 0);
        }
        if let Some(count) = self.routes.get_mut(route) {
            *count += times;
        }
    }
}

/// The commands of one client that haven't been added to its host's counters. Most commands of a
/// client have one route, so that counting them costs no look-up.
#[derive(Debug, Default)]
pub struct CommandRun {
    commands: u64,
    /// The route of the last `times` commands.
    route: usize,
    times: u64,
}

impl CommandRun {
    /// Counts a command that was read.
    pub fn command(&mut self) {
        self.commands += 1;
    }

    /// Counts a command for a route. Returns false if the commands before it had another route;
    /// these have to be added to the host's counters first, and this one hasn't been counted.
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

    /// Adds everything to the host's counters, and begins anew.
    pub fn tell(&mut self, host: &mut HostStats) {
        host.stats.add(Stat::Commands, self.commands);
        if self.times > 0 {
            host.route(self.route, self.times);
        }
        (self.commands, self.times) = (0, 0);
    }

    /// Returns true if nothing was counted.
    pub fn is_empty(&self) -> bool {
        self.commands == 0 && self.times == 0
    }
}

/// A configuration of a host that clients use or that something was counted for, with its
/// counters.
#[derive(Debug)]
pub struct StatsEntry {
    config: Arc<HostConfig>,
    /// The number of clients that use the configuration.
    clients: usize,
    stats: HostStats,
    /// True if something may have been counted, so that the entry is in [`StatsTable::changed`].
    is_changed: bool,
}

impl StatsEntry {
    /// True if nothing can be counted any more. Mirrors answer copies when their client is gone, so
    /// that counters of configurations with mirrors stay as long as these are anybody's.
    fn is_over(&self) -> bool {
        let has_mirrors = self.config.targets.iter().any(|target| !target.mirrors.is_empty());
        let is_idle = self.clients == 0 && !self.is_changed;
        is_idle && (!has_mirrors || Arc::strong_count(&self.config) == 1)
    }
}

/// How much was counted since it was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tally {
    /// Nothing.
    Nothing,
    /// Something.
    Something,
    /// So many answered commands that they should be taken soon.
    Much,
}

/// The counters of all configurations that clients of this worker use. Each configuration has its
/// own, since the indexes of routes are valid for one configuration only.
#[derive(Default)]
pub struct StatsTable {
    all: SlotMap<StatsEntry, StatsEntry>,
    /// The entries by the addresses of their configurations. An address isn't used again while an
    /// entry holds its configuration.
    by_address: HashMap<usize, Id<StatsEntry>>,
    /// What the logins of the configuration may do, as far as it is known.
    logins: HashMap<UpstreamEndpoint, Vec<&'static str>>,
    /// The entries that something may have been counted for.
    changed: Vec<Id<StatsEntry>>,
}

impl StatsTable {
    /// Notes that a client uses this configuration.
    pub fn enter(&mut self, config: &Arc<HostConfig>) -> Id<StatsEntry> {
        let address = Arc::as_ptr(config) as usize;
        if !self.by_address.contains_key(&address) {
            let is_over = |id: &Id<StatsEntry>| self.all.get(*id).is_some_and(StatsEntry::is_over);
            for id in self.all.ids().into_iter().filter(is_over).collect::<Vec<_>>() {
                self.remove(id);
            }
        }
        let all = &mut self.all;
        let id = *self.by_address.entry(address).or_insert_with(|| {
            let (config, stats) = (config.clone(), HostStats::default());
            all.insert(StatsEntry { config, clients: 0, stats, is_changed: false })
        });
        if let Some(entry) = self.all.get_mut(id) {
            entry.clients += 1;
            if entry.clients == 1 && !self.logins.is_empty() {
                self.tell_logins(id, None);
            }
        }
        id
    }

    /// Takes in what a login of the configuration may do.
    pub fn examined(&mut self, endpoint: UpstreamEndpoint, allowed: &[&'static str]) {
        self.logins.insert(endpoint.clone(), allowed.to_vec());
        for id in self.all.ids() {
            self.tell_logins(id, Some(&endpoint));
        }
    }

    /// Forgets logins that nobody's rules name any more.
    pub fn retain_logins(&mut self, wanted: &HashSet<UpstreamEndpoint>) {
        self.logins.retain(|endpoint, _| wanted.contains(endpoint));
    }

    /// Tells what is known of a configuration's logins, or of one of them.
    fn tell_logins(&mut self, id: Id<StatsEntry>, only: Option<&UpstreamEndpoint>) {
        let Some(entry) = self.all.get(id) else { return };
        let verdict = |(target, upstream): (usize, &UpstreamEndpoint)| {
            if !only.is_none_or(|only| upstream.leads_to(only)) {
                return None;
            }
            let known: Vec<_> = self.logins.iter().filter(|(endpoint, _)| upstream.leads_to(endpoint)).collect();
            let mut allowed: Vec<&'static str> = known.iter().flat_map(|(_, allowed)| *allowed).copied().collect();
            allowed.sort_unstable();
            allowed.dedup();
            (!known.is_empty()).then_some(LoginVerdict { target, allowed })
        };
        let targets = entry.config.targets.iter().map(|target| &target.upstream).enumerate();
        let verdicts: Vec<LoginVerdict> = targets.filter_map(verdict).collect();
        if !verdicts.is_empty()
            && let Some(host) = self.host(id)
        {
            host.logins.retain(|told| verdicts.iter().all(|verdict| verdict.target != told.target));
            host.logins.extend(verdicts);
        }
    }

    /// Notes that a client has ended, or uses another configuration from now on.
    pub fn leave(&mut self, id: Id<StatsEntry>) {
        let Some(entry) = self.all.get_mut(id) else { return };
        entry.clients = entry.clients.saturating_sub(1);
        if entry.is_over() {
            self.remove(id);
        }
    }

    fn remove(&mut self, id: Id<StatsEntry>) {
        if let Some(entry) = self.all.remove(id) {
            self.by_address.remove(&(Arc::as_ptr(&entry.config) as usize));
        }
    }

    /// Returns the configuration that an entry's counters belong to.
    pub fn config(&self, id: Id<StatsEntry>) -> Option<&Arc<HostConfig>> {
        self.all.get(id).map(|entry| &entry.config)
    }

    /// Returns the counters of a host, for the caller to count something.
    pub fn host(&mut self, id: Id<StatsEntry>) -> Option<&mut HostStats> {
        let entry = self.all.get_mut(id)?;
        if !std::mem::replace(&mut entry.is_changed, true) {
            self.changed.push(id);
        }
        Some(&mut entry.stats)
    }

    /// Counts copies for mirrors.
    pub fn count_copies(&mut self, id: StatsKey, fate: CopyFate, times: u64) {
        let Some(host) = self.host(id) else { return };
        match fate {
            CopyFate::Sent => host.stats.add(Stat::Mirrored, times),
            CopyFate::Dropped => host.mirror_dropped += times,
            CopyFate::Failed => host.mirror_errors += times,
        }
    }

    /// Counts one for all hosts whose configurations satisfy the condition.
    pub fn count_where(&mut self, stat: Stat, is_concerned: impl Fn(&HostConfig) -> bool) {
        for id in self.all.ids() {
            if self.all.get(id).is_some_and(|entry| is_concerned(&entry.config))
                && let Some(host) = self.host(id)
            {
                host.stats.count(stat);
            }
        }
    }

    /// Returns how much was counted since it was taken.
    pub fn tally(&self) -> Tally {
        let has_many = |entry: &StatsEntry| entry.stats.answered.len() >= MANY_ANSWERED;
        match self.changed.iter().any(|id| self.all.get(*id).is_some_and(has_many)) {
            _ if self.changed.is_empty() => Tally::Nothing,
            true => Tally::Much,
            false => Tally::Something,
        }
    }

    /// Takes the counters of one host into `into`, which is cleared before, and returns the
    /// configuration that they belong to. Returns `None` if nothing was counted for any host.
    pub fn take(&mut self, into: &mut HostStats) -> Option<Arc<HostConfig>> {
        let id = self.changed.pop()?;
        let entry = self.all.get_mut(id)?;
        into.clear();
        std::mem::swap(&mut entry.stats, into);
        entry.is_changed = false;
        let (is_over, config) = (entry.is_over(), entry.config.clone());
        if is_over {
            self.remove(id);
        }
        Some(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::multiplexer::config::ListenerConfig;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn config(host: &str) -> Arc<HostConfig> {
        let document = serde_json::json!({"name": "n", "revision": 1, "hosts": [{
            "host": host, "path": "native",
            "targets": [{"destination": "a:6379", "upstream": {"cluster": "a"}}],
            "routes": [{"match": "any", "target": 0}],
        }]});
        ListenerConfig::from_json(document.to_string().as_bytes()).unwrap().host
    }

    fn commands(table: &mut StatsTable) -> Vec<(String, u64)> {
        let (mut taken, mut all) = (HostStats::default(), Vec::new());
        while let Some(config) = table.take(&mut taken) {
            all.push((config.host.clone(), taken.stats.of(Stat::Commands)));
        }
        all.sort();
        all
    }

    fn named(all: &[(&str, u64)]) -> Vec<(String, u64)> {
        all.iter().map(|(host, count)| ((*host).to_owned(), *count)).collect()
    }

    #[test]
    fn what_logins_may_do_at_any_server_of_a_destination_is_told() {
        use crate::multiplexer::upstream::endpoint::EndpointMember;
        let mut config = (*config("a:6379")).clone();
        let place = |number| EndpointMember::At(([10, 0, 0, number], 6379).into());
        config.targets[0].upstream.member = EndpointMember::Unknown;
        let upstream = config.targets[0].upstream.clone();
        let mut table = StatsTable::default();
        table.enter(&Arc::new(config));
        table.examined(upstream.at(place(1)), &["migrate"]);
        table.examined(upstream.at(place(2)), &["config", "migrate"]);
        table.examined(UpstreamEndpoint { cluster: "other".into(), ..upstream }, &["replicaof"]);
        let mut taken = HostStats::default();
        assert!(table.take(&mut taken).is_some());
        assert_eq!(taken.logins, [LoginVerdict { target: 0, allowed: vec!["config", "migrate"] }]);
    }

    #[test]
    fn counters_are_cleared() {
        let mut host = HostStats { errors: 1, cut_off: 2, ..HostStats::default() };
        host.stats.count(Stat::Commands);
        host.route(2, 5);
        host.route(0, 1);
        host.answered.push(AnsweredCommand { command: 0, took: Duration::ZERO, is_error: false });
        assert_eq!(host.routes, [1, 0, 5]);
        host.clear();
        assert_eq!((host.stats.of(Stat::Commands), host.errors, host.cut_off), (0, 0, 0));
        assert!(host.routes.is_empty() && host.answered.is_empty());
    }

    #[test]
    fn a_run_of_commands_has_one_route() {
        let (mut run, mut host) = (CommandRun::default(), HostStats::default());
        assert!(run.is_empty());
        for _ in 0..3 {
            run.command();
            assert!(run.goes_by(1));
        }
        run.command();
        assert!(!run.goes_by(0));
        run.tell(&mut host);
        assert_eq!((host.stats.of(Stat::Commands), host.routes.as_slice()), (4, &[0, 3][..]));
        assert!(run.is_empty() && run.goes_by(0) && !run.is_empty());
        run.tell(&mut host);
        // Commands without a key have no route.
        run.command();
        run.tell(&mut host);
        assert_eq!((host.stats.of(Stat::Commands), host.routes.as_slice()), (5, &[1, 3][..]));
    }

    #[test]
    fn each_configuration_has_counters_while_it_is_used() {
        let (mut table, one, two) = (StatsTable::default(), config("one"), config("two"));
        let (first, second, other) = (table.enter(&one), table.enter(&one), table.enter(&two));
        assert!(first == second && first != other && table.tally() == Tally::Nothing);
        table.host(first).unwrap().stats.add(Stat::Commands, 2);
        table.host(second).unwrap().stats.add(Stat::Commands, 3);
        table.host(other).unwrap().stats.add(Stat::Commands, 7);
        assert_eq!(table.tally(), Tally::Something);
        assert_eq!(commands(&mut table), named(&[("one", 5), ("two", 7)]));
        assert!(table.tally() == Tally::Nothing && commands(&mut table).is_empty());
        table.leave(first);
        table.host(second).unwrap().stats.count(Stat::Commands);
        table.leave(second);
        // The last client has ended, and the counters stay until they are taken.
        assert_eq!(Arc::strong_count(&one), 2);
        assert_eq!(commands(&mut table), named(&[("one", 1)]));
        assert_eq!(Arc::strong_count(&one), 1);
        assert!(table.host(second).is_none());
        table.leave(second);
        table.leave(other);
        assert_eq!(Arc::strong_count(&two), 1);
        assert!(table.all.ids().is_empty() && table.by_address.is_empty());
    }

    #[test]
    fn a_client_can_come_before_the_counters_of_the_last_one_are_taken() {
        let (mut table, one) = (StatsTable::default(), config("one"));
        let id = table.enter(&one);
        table.host(id).unwrap().stats.count(Stat::Commands);
        table.leave(id);
        assert!(table.enter(&one) == id);
        table.host(id).unwrap().stats.count(Stat::Commands);
        assert_eq!(commands(&mut table), named(&[("one", 2)]));
        assert!(table.host(id).is_some());
    }

    #[test]
    fn a_fault_of_a_server_counts_for_all_hosts_that_it_concerns() {
        let mut table = StatsTable::default();
        let ids = ["one", "two", "three"].map(|host| table.enter(&config(host)));
        table.count_where(Stat::Commands, |config| config.host != "two");
        table.count_where(Stat::Commands, |config| config.host == "three");
        assert_eq!(commands(&mut table), named(&[("one", 1), ("three", 2)]));
        ids.into_iter().for_each(|id| table.leave(id));
        assert!(table.all.ids().is_empty());
    }

    #[test]
    fn many_answered_commands_are_to_be_taken_soon() {
        let mut table = StatsTable::default();
        let id = table.enter(&config("one"));
        let one = AnsweredCommand { command: 0, took: Duration::ZERO, is_error: false };
        table.host(id).unwrap().answered.resize(MANY_ANSWERED - 1, one);
        assert!(table.tally() != Tally::Much);
        table.host(id).unwrap().answered.push(one);
        assert!(table.tally() == Tally::Much);
        let mut taken = HostStats { errors: 9, ..HostStats::default() };
        assert!(table.take(&mut taken).is_some() && table.tally() != Tally::Much);
        assert_eq!((taken.answered.len(), taken.errors), (MANY_ANSWERED, 0));
        assert!(table.host(id).unwrap().answered.is_empty());
    }
}
