//! The machine that serves clients over connections of its own: [`Multiplexer`], one for each worker.
//!
//! Commands of all clients go over few connections to each Redis, pipelined. Replies go back in the
//! order in which each client asked, whichever server answers first. A host translates between the
//! multiplexer and Envoy:
//!
//! ```text
//! open, read, ended, closed         clients and their bytes
//! reply, lost                       connections to Redis and their bytes
//! tick                              the time that next_tick named has come
//! while let Some(output) = poll()   what has to be done: write, send, open, close
//! ```
//!
//! **Drain rule:** after every call the host polls until nothing is left, and holds no borrow of the
//! multiplexer while it does what an output says, since doing it may call back.
//!
//! **Invariant:** a reply goes to the client whose command it answers, or to no client. Every
//! connection knows for each reply to come whose it is. Where replies can no longer be told apart,
//! the connection is closed, and every client that waits gets an error.
//!
//! The parts: `client` is what a client has asked for, `routing` decides what becomes of a
//! command, `execute` does it, `upstream` is the Redis side, which touches no client, and
//! `reply` delivers what the Redis side tells. This module only wires them.

mod client;
pub mod config;
mod effects;
mod execute;
mod ids;
mod inquiry;
mod latency;
mod limits;
mod load;
mod members;
mod outbox;
mod placement;
mod reply;
mod routing;
mod slot_map;
mod stats;
mod take;
mod timers;
mod unfinished;
mod unread;
mod upstream;

pub use ids::{ClientId, ConnectionId};
pub use inquiry::Desk;
pub use inquiry::question::{Answer, ClientInquiry, InquiryId, InquiryOrigin};
pub use load::Load;
pub use outbox::{Address, Output};
pub use stats::{AnsweredCommand, HostStats, LoginVerdict, Tally};
pub use upstream::backlogs::Backlogs;

use crate::maglev::table::Member;
use client::{Client, Life, Wait};
use config::HostConfig;
use effects::Effects;
use execute::context::Context;
use execute::{backlog, dedicated, failover};
use inquiry::table::InquiryTable;
use placement::Placements;
use reply::{Clients, EventDelivery};
use stats::StatsTable;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use timers::Timer;
use upstream::Upstreams;
use upstream::events::Event;
use upstream::loss::{self, Loss};
use upstream::on_timer::on_timer;
use upstream::receive;

/// A command that hasn't been answered for that long by a server that may let it wait, waits.
const IMMEDIATE: Duration = Duration::from_millis(100);

/// See the module.
pub struct Multiplexer {
    clients: Clients,
    upstreams: Upstreams,
    effects: Effects,
    stats: StatsTable,
    placements: Placements,
    inquiries: InquiryTable,
}

impl Multiplexer {
    /// A multiplexer that serves nobody yet. `seed` must come from the operating system wherever
    /// clients are real.
    pub fn new(seed: [u8; 32]) -> Multiplexer {
        Multiplexer {
            clients: Clients::default(),
            upstreams: Upstreams::default(),
            effects: Effects::new(seed),
            stats: StatsTable::default(),
            placements: Placements::default(),
            inquiries: InquiryTable::default(),
        }
    }

    /// How clients are dealt with that don't read their replies.
    pub fn backlogs(&mut self) -> &mut Backlogs {
        &mut self.upstreams.backlogs
    }

    /// A client has connected.
    pub fn open(&mut self, config: Arc<HostConfig>) -> ClientId {
        let host = self.stats.enter(&config);
        let config = self.placements.place(&config, &mut self.effects.outbox);
        let id = self.clients.insert_with(|id| Client::new(id, config, host));
        if let Some(client) = self.clients.get(id) {
            self.inquiries.numbers.insert(client.presence.number, id);
        }
        id
    }

    /// A cluster in Envoy has these healthy members from now on. To be told of every cluster on whose
    /// members keys are placed, as soon as it is known and whenever it changes.
    pub fn set_members(&mut self, cluster: &str, members: Vec<Member>, now: Duration) {
        self.effects.now = now;
        let Multiplexer { clients, upstreams, effects, stats, placements, .. } = self;
        if !placements.set(cluster, members) {
            return;
        }
        for (_, client) in clients.iter_mut() {
            let config = stats.config(client.rules.stats).filter(|config| Placements::concerns(config, cluster));
            if let Some(config) = config.cloned() {
                take::change_rules(client, &placements.place(&config, &mut effects.outbox), upstreams, effects);
            }
        }
        upstreams.introductions.retain(|endpoint| placements.has_member(endpoint));
        stats.retain_logins(&upstreams.introductions.endpoints());
        upstreams.retire(|endpoint| placements.has_member(endpoint), effects);
        self.deliver_events();
    }

    /// A host has new rules, which its clients get at once.
    pub fn update(&mut self, config: &Arc<HostConfig>) {
        let placed = self.placements.place(config, &mut self.effects.outbox);
        for (_, client) in self.clients.iter_mut() {
            if client.rules.config.host != config.host {
                continue;
            }
            let host = self.stats.enter(config);
            self.stats.leave(std::mem::replace(&mut client.rules.stats, host));
            take::change_rules(client, &placed, &mut self.upstreams, &mut self.effects);
        }
        let mut wanted = HashSet::new();
        for (_, client) in self.clients.iter() {
            wanted.extend(client.rules.config.endpoints());
        }
        self.stats.retain_logins(&wanted);
        self.upstreams.discovery.retire_unused(&wanted, &mut self.effects);
        self.upstreams.introductions.retain(|endpoint| wanted.contains(endpoint));
        self.upstreams.retire(|endpoint| wanted.contains(&endpoint.of_rules()), &mut self.effects);
        self.deliver_events();
    }

    /// Bytes of a client. Returns how many were taken; the rest is to be offered again after
    /// [`Output::Resume`], and no less of it.
    pub fn read(&mut self, id: ClientId, data: &[u8], now: Duration) -> usize {
        self.effects.now = now;
        let Multiplexer { clients, upstreams, effects, stats, inquiries, .. } = self;
        let Some(client) = clients.get_mut(id) else { return data.len() };
        let held = unfinished::held(client);
        let taken = take::take(&mut Context { upstreams, effects, stats, inquiries }, client, data);
        unfinished::bound(clients, (id, held), stats, effects);
        self.deliver_events();
        taken
    }

    /// A client sends nothing more than what has been offered so far. It gets its replies, then
    /// its connection is closed.
    pub fn ended(&mut self, id: ClientId, now: Duration) {
        let Some(client) = self.clients.get_mut(id) else { return };
        match client.life {
            Life::Open => client.life = Life::HalfClosed,
            Life::Closing => {}
            Life::HalfClosed | Life::Closed => return,
        }
        see_off(self, id, now);
    }

    /// A client is gone. Replies to what it asked for go to no client.
    pub fn closed(&mut self, id: ClientId) {
        if let Some(mut client) = self.clients.remove(id) {
            self.stats.leave(client.rules.stats);
            self.inquiries.numbers.remove(&client.presence.number);
            dedicated::disown(&mut self.upstreams, &mut client, &mut self.effects);
            upstream::failover::client_gone(&mut self.upstreams, id);
            self.deliver_events();
        }
    }

    /// Says whether a client takes what is written to it.
    pub fn downstream_full(&mut self, id: ClientId, is_full: bool) {
        let Multiplexer { clients, upstreams, effects, .. } = self;
        if let Some(client) = clients.get_mut(id) {
            client.output.is_full = is_full;
            (client.output.unread, client.output.counted) = (0, 0);
            backlog::on_full(upstreams, client, effects);
        }
        self.deliver_events();
    }

    /// Says whether Redis takes what is sent to it.
    pub fn upstream_full(&mut self, id: ConnectionId, is_full: bool) {
        if self.upstreams.pool.get_mut(id).is_some_and(|connection| connection.send.set_full(is_full)) {
            self.upstreams.pool.announce(id, &mut self.effects);
            self.upstreams.pool.events.push_back(Event::Writable(id));
            self.deliver_events();
        }
    }

    /// Bytes of Redis.
    pub fn reply(&mut self, id: ConnectionId, data: &[u8], now: Duration) {
        self.effects.now = now;
        let Multiplexer { clients, upstreams, effects, stats, inquiries, .. } = self;
        let Some(mut receipt) = receive::begin(upstreams, id, data, effects) else { return };
        // The client that has got replies and hasn't been told: replies to one client come one
        // after another.
        let mut untold: Option<ClientId> = None;
        while let Some(event) = receive::receive(upstreams, &mut receipt, effects) {
            let next = match &event {
                Event::Piece { owner, .. } => Some(owner.client),
                _ => None,
            };
            if untold != next
                && let Some(before) = std::mem::replace(&mut untold, next)
            {
                EventDelivery { clients, upstreams, effects, stats, inquiries }.announce(before);
            }
            match event {
                Event::Piece { owner, bytes, is_complete } => {
                    if let Some(client) = clients.get_mut(owner.client) {
                        client.output.reply(owner.sequence, bytes, is_complete);
                    }
                }
                event => EventDelivery { clients, upstreams, effects, stats, inquiries }.deliver(event),
            }
        }
        if let Some(id) = untold {
            EventDelivery { clients, upstreams, effects, stats, inquiries }.announce(id);
        }
        receive::end(upstreams, receipt, effects);
        if let Some(client) = untold.filter(|id| clients.get(*id).is_some_and(|client| client.output.is_full)) {
            backlog::leave_shared(upstreams, clients, (client, id), effects);
        }
        self.deliver_events();
    }

    /// A connection could not be opened, or is gone.
    pub fn lost(&mut self, id: ConnectionId, now: Duration) {
        self.effects.now = now;
        loss::lost(&mut self.upstreams, id, Loss::Ended, &mut self.effects);
        self.deliver_events();
    }

    /// The time that [`Multiplexer::next_tick`] named has come.
    pub fn tick(&mut self, now: Duration) {
        self.effects.now = now;
        while let Some(timer) = self.effects.timers.pop(now) {
            match timer {
                Timer::Delay(id) => {
                    if let Some(client) = self.clients.get_mut(id)
                        && client.pause.until.is_some_and(|until| until <= now)
                    {
                        client.pause.until = None;
                        client.wake(&mut self.effects.outbox);
                    }
                }
                Timer::FailoverOf(id) => {
                    if let Some(client) = self.clients.get_mut(id) {
                        failover::on_timer(client, &mut self.effects);
                    }
                }
                Timer::HalfClosed(id) => see_off(self, id, now),
                Timer::Inquiries => self.inquiries.resume(),
                Timer::Backlog(id) => {
                    if let Some(client) = self.clients.get_mut(id) {
                        backlog::on_timer(&mut self.upstreams, client, &mut self.effects);
                    }
                }
                timer => on_timer(&mut self.upstreams, timer, &mut self.effects),
            }
            self.deliver_events();
        }
    }

    /// Tells clients what has happened, and does what that brings about.
    fn deliver_events(&mut self) {
        let mut worker = delivery(self);
        worker.deliver_all();
        while inquiry::examine::proceed(&mut worker) {
            worker.deliver_all();
        }
    }

    /// What workers ask and answer each other about their clients.
    pub fn desk(&mut self, now: Duration) -> Desk<'_> {
        self.effects.now = now;
        Desk { worker: delivery(self) }
    }

    /// When [`Multiplexer::tick`] is to be called next.
    pub fn next_tick(&self) -> Option<Duration> {
        self.effects.timers.next()
    }

    /// Returns what is to be done next.
    pub fn poll(&mut self) -> Option<Output> {
        self.effects.outbox.pop()
    }

    /// Returns the bytes for a client.
    pub fn take_downstream(&mut self, id: ClientId) -> Vec<u8> {
        let spare = self.effects.outbox.spare();
        let Some(client) = self.clients.get_mut(id) else { return spare };
        let out = client.output.take(spare);
        client.wake(&mut self.effects.outbox);
        out
    }

    /// Returns the bytes for Redis.
    pub fn take_upstream(&mut self, id: ConnectionId) -> Vec<u8> {
        let spare = self.effects.outbox.spare();
        let Some(connection) = self.upstreams.pool.get_mut(id) else { return spare };
        let out = connection.send.take(spare);
        if connection.send.wake() {
            self.upstreams.pool.events.push_back(Event::Writable(id));
            self.deliver_events();
        }
        out
    }

    /// Takes back what [`Multiplexer::take_downstream`] or [`Multiplexer::take_upstream`]
    /// returned, to be used again.
    pub fn recycle(&mut self, buffer: Vec<u8>) {
        self.effects.outbox.recycle(buffer);
    }

    /// Puts what has happened to the clients of one configuration since this was asked last into
    /// `into`, whatever it held before, and returns that configuration; `None` if nothing has
    /// happened to any. To be asked until it is `None`.
    pub fn counted(&mut self, into: &mut HostStats) -> Option<Arc<HostConfig>> {
        self.stats.take(into)
    }

    /// How much [`Multiplexer::counted`] has to tell.
    pub fn tally(&self) -> Tally {
        self.stats.tally()
    }

    /// The time of the last call that told it.
    pub fn clock(&self) -> Duration {
        self.effects.now
    }

    /// The clients that wait for what may never come: for a command that waits at a server, for a
    /// server that has been silent for some seconds, or for one that can't be reached.
    pub fn waiting(&self, now: Duration) -> HashSet<ClientId> {
        let mut waiting = upstream::waiting::waiting(&self.upstreams.pool, now);
        waiting.extend(self.upstreams.stranded.clients());
        let waits = |client: &Client| matches!(client.pause.wait, Some(Wait::Failover(_)));
        waiting.extend(self.clients.iter().filter(|(_, client)| waits(client)).map(|(id, _)| id));
        waiting
    }

    /// What the multiplexer holds.
    pub fn load(&self) -> Load {
        load::of(&self.clients, &self.upstreams)
    }
}

/// Closes a half-closed client's connection when nothing is left to be told. As at Redis, a
/// command that waits doesn't keep it: a client that has closed its sending side may have gone
/// altogether, and would take something that another one waits for.
fn see_off(multiplexer: &mut Multiplexer, id: ClientId, now: Duration) {
    let Multiplexer { clients, upstreams, effects, stats, .. } = multiplexer;
    let Some(client) = clients.get_mut(id) else { return };
    client.announce(&mut effects.outbox, stats, effects.now);
    if client.life == Life::Closed {
        return;
    }
    let own = client.dedicated_connections().filter_map(|own| upstreams.pool.get(own.id()));
    let since = own.filter(|own| !own.pending.is_empty()).map(|own| own.last_activity).min();
    if since.is_some_and(|since| since + IMMEDIATE <= now) {
        client.cut_off(&mut effects.outbox);
    } else {
        effects.timers.add_about(now + IMMEDIATE, Timer::HalfClosed(id));
    }
}

fn delivery(multiplexer: &mut Multiplexer) -> EventDelivery<'_> {
    let Multiplexer { clients, upstreams, effects, stats, inquiries, .. } = multiplexer;
    EventDelivery { clients, upstreams, effects, stats, inquiries }
}
