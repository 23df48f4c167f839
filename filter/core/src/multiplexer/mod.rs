//! The machine that serves clients over connections of its own: [`Multiplexer`], one for each worker.
//!
//! Commands of all clients go over few connections to each Redis, pipelined; replies go back in the order in which each client
//! asked, whoever answers first. A host feeds it what clients and Redis send, and does what [`Multiplexer::poll`] says.
//!
//! **Drain rule:** after every call the host polls until there is nothing more, and holds no borrow of the machine while it does
//! what was said, since doing it may call back.
//!
//! **Invariant:** a reply goes to the client whose command it answers, or to nobody. Every connection knows for each reply
//! to come whose it is; where replies can no longer be told, the connection is closed, and everybody who waits gets an error.

mod client;
pub mod config;
mod execute;
mod load;
mod reply;
mod routing;
mod slot_map;
mod stats;
mod upstream;

use crate::command::Args;
use crate::random::Random;
use crate::resp::encode;
use crate::resp::request::Progress;
use crate::stats::Stat;
use client::{Client, Wait};
use config::HostConfig;
pub use load::Load;
use slot_map::{Id, SlotMap};
pub use stats::{AnsweredCommand, HostStats};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use upstream::connection::{PoolKey, UpstreamConnection};
use upstream::discovery::Cluster;
use upstream::pool::{Backoff, Peer};
use upstream::retry::Retry;
use upstream::{connection, scripts};

/// A client.
pub type ClientId = Id<Client>;
/// A connection to Redis.
pub type ConnectionId = Id<UpstreamConnection>;

/// Where a connection leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// The name of a cluster in Envoy.
    pub cluster: Arc<str>,
    /// A node of it; absent: any.
    pub node: Option<SocketAddr>,
}

/// What a host has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// [`Multiplexer::take_downstream`], and write it to the client.
    Write(ClientId),
    /// Offer again what [`Multiplexer::read`] didn't take.
    Resume(ClientId),
    /// Close it, after what has been written.
    CloseDownstream(ClientId),
    /// Close it at once: it doesn't read what it is sent.
    AbortDownstream(ClientId),
    /// Open a connection.
    Open(ConnectionId, Address),
    /// [`Multiplexer::take_upstream`], and send it.
    Send(ConnectionId),
    /// Close it.
    CloseUpstream(ConnectionId),
}

/// What hasn't been answered for that long by a server that may let it wait, waits.
const IMMEDIATE: Duration = Duration::from_millis(100);

/// Bytes that may wait for a connection before clients have to.
const STAGED: usize = 1024 * 1024;

/// What is to be done at a certain time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    /// A client has waited for that long.
    Client(ClientId),
    /// A client has said its last a while ago.
    Ended(ClientId),
    /// The nodes of a Redis Cluster are asked.
    Cluster(usize),
    /// They are asked although all is well.
    Calm(usize),
    /// A connection has served for a while.
    Renewal(ConnectionId),
    /// Connections are looked after.
    Patrol,
    /// Commands are tried again.
    Retry,
}

/// See the module.
pub struct Multiplexer {
    clients: SlotMap<Client>,
    carriers: SlotMap<UpstreamConnection>,
    /// Connections that are shared.
    lines: HashMap<PoolKey, ConnectionId>,
    /// Connections that wait for somebody who needs one of his own.
    parked: HashMap<PoolKey, Vec<ConnectionId>>,
    down: HashMap<Peer, Backoff>,
    clusters: Vec<Cluster>,
    outputs: VecDeque<Output>,
    alarms: BTreeSet<(Duration, Timer)>,
    /// When connections are looked after next.
    patrol: Option<Duration>,
    /// Commands that are to be tried again, by time.
    retries: BTreeMap<(Duration, u64), Retry>,
    retried: u64,
    /// By upstreams' clusters.
    scripts: HashMap<Arc<str>, scripts::Scripts>,
    random: Random,
    hosts: stats::StatsTable,
    /// The time of the last call that told it.
    clock: Duration,
    spare: Vec<Vec<u8>>,
}

/// What became of a command.
enum Step {
    /// It has been dealt with.
    Taken,
    /// It waits.
    Waits,
}

impl Multiplexer {
    /// One that serves nobody yet. `seed` must come from the operating system wherever clients are real.
    pub fn new(seed: [u8; 32]) -> Multiplexer {
        Multiplexer {
            clients: SlotMap::default(),
            carriers: SlotMap::default(),
            lines: HashMap::new(),
            parked: HashMap::new(),
            down: HashMap::new(),
            clusters: Vec::new(),
            outputs: VecDeque::new(),
            alarms: BTreeSet::new(),
            patrol: None,
            retries: BTreeMap::new(),
            retried: 0,
            scripts: HashMap::new(),
            random: Random::new(seed),
            hosts: stats::StatsTable::default(),
            clock: Duration::ZERO,
            spare: Vec::new(),
        }
    }

    /// A client has come.
    pub fn open(&mut self, config: Arc<HostConfig>) -> ClientId {
        let host = self.hosts.enter(&config);
        self.clients.insert(Client::new(config, host))
    }

    /// A host has new rules, which its clients get at once.
    pub fn update(&mut self, config: &Arc<HostConfig>) {
        for id in self.clients.ids().collect::<Vec<_>>() {
            let Some(client) = self.clients.get_mut(id).filter(|client| client.config.host == config.host) else {
                continue;
            };
            let before = std::mem::replace(&mut client.config, config.clone());
            let host = self.hosts.enter(config);
            self.hosts.leave(std::mem::replace(&mut client.host, host));
            client.follow_watch();
            client.unlink();
            let upstreams =
                |config: &HostConfig| config.targets.iter().map(|to| to.upstream.clone()).collect::<Vec<_>>();
            let is_same = upstreams(&before) == upstreams(config);
            if !is_same && !client.queue.is_empty() && client.waits_for.is_none() {
                // With a new login it may go over another connection to the same Redis, and mustn't overtake what it has said.
                client.waits_for = Some(Wait::Answers);
            }
            if let Some(transaction) = &mut client.transaction {
                // Where it leads may have changed.
                transaction.is_doomed |= transaction.len() > 0;
            }
            if !config.passes_auth {
                (client.login, client.presented) = (None, None);
            }
            // A connection of its own stays as long as it leads where it should; a login is asked for once.
            let cluster =
                |config: &HostConfig, target: usize| config.targets.get(target).map(|to| to.upstream.cluster.clone());
            let has_turned = before.passes_auth != config.passes_auth;
            let stays = |target: usize| !has_turned && cluster(&before, target) == cluster(config, target);
            let home = |config: &HostConfig| config.home().and_then(|target| cluster(config, target));
            let is_moved = has_turned || home(&before) != home(config);
            let is_cut = !client.subscriptions.carriers.is_empty() && is_moved;
            match client.own.filter(|own| !stays(own.place.target)) {
                Some(own) if own.is_special => self.cut_off(id),
                Some(own) => {
                    client.lost_watch |= own.is_watching;
                    client.own = None;
                    self.orphan(own.carrier);
                }
                None if is_cut => self.cut_off(id),
                None => {}
            }
        }
        self.retire_lines();
    }

    /// Connections that no client's rules lead to any more end when they have nothing left to do.
    fn retire_lines(&mut self) {
        let mut wanted = std::collections::HashSet::new();
        for id in self.clients.ids().collect::<Vec<_>>() {
            let Some(client) = self.clients.get(id) else { continue };
            for target in &client.config.targets {
                wanted.insert(target.upstream.clone());
                wanted.extend(target.mirrors.iter().map(|mirror| mirror.upstream.clone()));
            }
        }
        self.retire_clusters(&wanted);
        for id in self.carriers.ids().collect::<Vec<_>>() {
            let Some(carrier) = self.carriers.get_mut(id) else { continue };
            let is_common = matches!(carrier.purpose, connection::Purpose::Shared | connection::Purpose::Parked);
            if !is_common || wanted.contains(&carrier.line.upstream.of_rules()) {
                continue;
            }
            carrier.is_retired = true;
            let (line, is_idle) = (carrier.line.clone(), carrier.expected.is_empty());
            self.lines.remove(&line);
            if is_idle {
                self.drop_carrier(id);
            }
        }
    }

    /// Bytes of a client. Returns how many were taken; the rest is to be offered again after [`Output::Resume`], and no less of it.
    pub fn read(&mut self, id: ClientId, data: &[u8], now: Duration) -> usize {
        self.clock = now;
        let Some(mut client) = self.clients.lend(id) else { return data.len() };
        if client.until.is_some_and(|until| until <= now) {
            client.until = None;
        }
        if !client.is_closing && !client.may_go_on() && !data.is_empty() {
            // What it has to say waits where the client feels it.
            (client.is_stalled, client.has_more) = (true, true);
            self.clients.give_back(id, client);
            return 0;
        }
        let taken = self.take(id, &mut client, data, now);
        client.is_stalled =
            !client.is_closing && (taken < data.len() || !client.buffer.is_empty() && !client.may_go_on());
        self.count_run(&mut client);
        client.has_more = client.is_stalled;
        self.announce(id, &mut client);
        self.clients.give_back(id, client);
        taken
    }

    fn take(&mut self, id: ClientId, client: &mut Client, data: &[u8], now: Duration) -> usize {
        // What is left of before comes first. Without it, nothing is copied that is there as a whole.
        let mut held = std::mem::take(&mut client.buffer);
        let is_held = !held.is_empty();
        if is_held {
            held.extend_from_slice(data);
        }
        let buffer = if is_held { held.as_slice() } else { data };
        let mut parser = std::mem::take(&mut client.parser);
        let mut at = 0;
        while client.may_go_on() && at < buffer.len() {
            let rest = buffer.get(at..).unwrap_or_default();
            match parser.parse(rest, &client.config.limits) {
                Ok(Progress::Partial) => break,
                Ok(Progress::Nothing(length)) => {
                    parser.reset();
                    at += length;
                }
                Ok(Progress::Complete(length)) => {
                    let args = Args { frame: parser.frame(rest), spans: parser.args(), count: parser.args().len() };
                    let raw = rest.get(..length).filter(|_| !parser.is_inline());
                    if let Step::Waits = self.command(id, client, &args, raw, now) {
                        break;
                    }
                    parser.reset();
                    at += length;
                }
                Err(error) => {
                    self.count(client, Stat::ProtocolErrors);
                    let mut reply = Vec::new();
                    encode::error(&mut reply, format!("ERR Protocol error: {error}").as_bytes());
                    client.queue.answered(&reply, &mut client.out);
                    client.is_closing = true;
                    at = buffer.len();
                }
            }
        }
        client.parser = parser;
        if client.is_closing {
            return data.len();
        }
        if is_held {
            held.drain(..at);
            client.buffer = held;
            return data.len();
        }
        if client.may_go_on() {
            // The beginning of a command.
            client.buffer.extend_from_slice(buffer.get(at..).unwrap_or_default());
            return data.len();
        }
        at
    }

    /// A client says nothing more than what has been offered so far. It gets its replies, then its connection ends.
    pub fn ended(&mut self, id: ClientId, now: Duration) {
        if let Some(client) = self.clients.get_mut(id).filter(|client| !client.is_ended) {
            client.is_ended = true;
            self.see_off(id, now);
        }
    }

    /// Ends a client's connection when nothing is left to be told. As at Redis, a command that waits doesn't: who has said its
    /// last may have gone altogether, and would take something with it that another waits for.
    fn see_off(&mut self, id: ClientId, now: Duration) {
        let Some(mut client) = self.clients.lend(id) else { return };
        self.announce(id, &mut client);
        let own = client.own.and_then(|own| self.carriers.get(own.carrier));
        let since = own.filter(|carrier| !carrier.expected.is_empty()).map(|carrier| carrier.progress);
        let is_open = !client.is_closed;
        self.clients.give_back(id, client);
        if is_open && since.is_some_and(|since| since + IMMEDIATE <= now) {
            self.cut_off(id);
        } else if is_open {
            self.alarms.insert((now + IMMEDIATE, Timer::Ended(id)));
        }
    }

    /// A client is gone. What it asked for is answered to nobody.
    pub fn closed(&mut self, id: ClientId) {
        if let Some(mut client) = self.clients.remove(id) {
            self.hosts.leave(client.host);
            self.disown(&mut client);
        }
    }

    /// Whether a client takes what is written to it.
    pub fn downstream_full(&mut self, id: ClientId, is_full: bool) {
        let Some(client) = self.clients.get_mut(id) else { return };
        client.is_full = is_full;
        self.wake(id);
    }

    /// Whether Redis takes what is sent to it.
    pub fn upstream_full(&mut self, id: ConnectionId, is_full: bool) {
        let Some(carrier) = self.carriers.get_mut(id) else { return };
        let was_full = std::mem::replace(&mut carrier.is_full, is_full);
        if was_full && !is_full {
            self.announce_upstream(id);
            self.wake_those_who_wait_for(Wait::UpstreamConnection(id));
        }
    }

    /// A time that [`Multiplexer::next_tick`] named has come.
    pub fn tick(&mut self, now: Duration) {
        self.clock = now;
        while self.alarms.first().is_some_and(|(until, _)| *until <= now) {
            let Some((_, alarm)) = self.alarms.pop_first() else { return };
            match alarm {
                Timer::Client(id) => {
                    if let Some(client) = self.clients.get_mut(id)
                        && client.until.is_some_and(|until| until <= now)
                    {
                        client.until = None;
                        self.wake(id);
                    }
                }
                Timer::Ended(id) => self.see_off(id, now),
                Timer::Cluster(index) => self.refresh(index, now),
                Timer::Calm(index) => self.calm(index, now),
                Timer::Renewal(id) => self.renew(id, now),
                Timer::Patrol => self.patrol(now),
                Timer::Retry => self.retry(now),
            }
        }
    }

    /// When [`Multiplexer::tick`] is to be called next.
    pub fn next_tick(&self) -> Option<Duration> {
        self.alarms.first().map(|(until, _)| *until)
    }

    /// What is to be done next.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Bytes for a client.
    pub fn take_downstream(&mut self, id: ClientId) -> Vec<u8> {
        let spare = self.spare.pop().unwrap_or_default();
        let Some(client) = self.clients.get_mut(id) else { return spare };
        client.is_announced = false;
        std::mem::replace(&mut client.out, spare)
    }

    /// Bytes for Redis.
    pub fn take_upstream(&mut self, id: ConnectionId) -> Vec<u8> {
        let spare = self.spare.pop().unwrap_or_default();
        let Some(carrier) = self.carriers.get_mut(id) else { return spare };
        carrier.is_announced = false;
        let out = std::mem::replace(&mut carrier.out, spare);
        if carrier.is_awaited && !carrier.is_full {
            carrier.is_awaited = false;
            self.wake_those_who_wait_for(Wait::UpstreamConnection(id));
        }
        out
    }

    /// Takes back what was taken out, to be used again.
    pub fn recycle(&mut self, mut buffer: Vec<u8>) {
        if self.spare.len() < 16 && buffer.capacity() <= 256 * 1024 {
            buffer.clear();
            self.spare.push(buffer);
        }
    }

    /// What has happened to the clients of one configuration since this was asked last; `None`: nothing to any. `into` takes
    /// it, whatever it held before. To be asked until it is `None`.
    pub fn counted(&mut self, into: &mut HostStats) -> Option<Arc<HostConfig>> {
        self.hosts.take(into)
    }

    /// True if [`Multiplexer::counted`] has something to tell.
    pub fn has_counted(&self) -> bool {
        self.hosts.has_moved()
    }

    /// True if it should be asked soon, since that takes up some room.
    pub fn has_counted_much(&self) -> bool {
        self.hosts.has_much()
    }

    /// The time of the last call that told it.
    pub fn clock(&self) -> Duration {
        self.clock
    }

    fn count(&mut self, client: &Client, stat: Stat) {
        if let Some(tally) = self.hosts.tally(client.host) {
            tally.stats.count(stat);
        }
    }

    /// Counts what a client has sent.
    fn count_run(&mut self, client: &mut Client) {
        if client.run.is_empty() {
            return;
        }
        if let Some(tally) = self.hosts.tally(client.host) {
            client.run.tell(tally);
        }
    }

    /// Counts replies that have gone out.
    fn count_replies(&mut self, client: &mut Client) {
        if client.queue.failed().is_empty() && client.watch.is_none() {
            return;
        }
        let failed = client.queue.take_failed();
        let Some(tally) = self.hosts.tally(client.host) else { return };
        tally.errors += failed.len() as u64;
        if let Some(watch) = &mut client.watch {
            watch.stop(client.queue.next(), &failed, self.clock, &mut tally.answered);
        }
    }

    /// A client has got a reply.
    fn answered(&mut self, id: ClientId) {
        let Some(mut client) = self.clients.lend(id) else { return };
        self.announce(id, &mut client);
        self.clients.give_back(id, client);
        self.wake(id);
    }

    fn announce(&mut self, id: ClientId, client: &mut Client) {
        self.count_replies(client);
        if !client.out.is_empty() && !client.is_announced {
            client.is_announced = true;
            self.outputs.push_back(Output::Write(id));
        }
        if client.queue.is_empty()
            && let Some(database) = client.selecting.take()
        {
            client.database = database;
            client.unlink();
        }
        if client.queue.is_empty() {
            client.enter();
        }
        client.is_closing |= client.is_ended && client.queue.is_empty() && !client.has_more;
        if client.is_closing && client.queue.is_empty() && !client.is_closed {
            client.is_closed = true;
            self.outputs.push_back(Output::CloseDownstream(id));
        }
    }

    fn announce_upstream(&mut self, id: ConnectionId) {
        if self.carriers.get_mut(id).is_some_and(UpstreamConnection::is_to_announce) {
            self.outputs.push_back(Output::Send(id));
        }
    }

    fn wake(&mut self, id: ClientId) {
        if let Some(client) = self.clients.get_mut(id)
            && client.is_stalled
            && client.may_go_on()
        {
            client.is_stalled = false;
            self.outputs.push_back(Output::Resume(id));
        }
    }

    fn wake_those_who_wait_for(&mut self, wait: Wait) {
        for id in self.clients.ids().collect::<Vec<_>>() {
            if let Some(client) = self.clients.get_mut(id).filter(|client| client.waits_for == Some(wait)) {
                client.waits_for = None;
                self.wake(id);
            }
        }
    }
}
