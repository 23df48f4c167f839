//! One client: its session, what it has asked for, and what its next command waits for.

pub mod arrivals;
pub mod backlog;
mod dedicated;
mod ending;
pub mod held_pushes;
pub mod login;
pub mod notification;
pub mod presence;
pub mod pubsub_frame;
#[cfg(test)]
mod push_tests;
pub mod reply_queue;
mod rules;
pub mod source;
pub mod stateful;
pub mod subscription;
pub mod tracking;
pub mod transaction;
mod window;

pub use dedicated::{Dedicated, DedicatedSlot};
pub use rules::{ClientRules, TargetLookup};

use super::config::HostConfig;
use super::ids::{ClientId, ClusterId, ConnectionId};
use super::latency::LatencyTracker;
use super::outbox::{Outbox, Output};
use super::stats::{CommandRun, StatsKey, StatsTable};
use super::upstream::patience::Tried;
use super::upstream::pool::DedicatedConnection;
use crate::downstream::auth::has_no_password;
use crate::downstream::client_reply::ReplyMode;
use crate::fault::Injected;
use crate::resp::encode;
use crate::resp::request::Parser;
use crate::stats::Stat;
use arrivals::Arrivals;
use login::{HelloChange, PresentedLogin, user_of};
use presence::Presence;
use reply_queue::{ReplyQueue, Sequence};
use std::sync::Arc;
use std::time::Duration;
use subscription::Subscriptions;
use transaction::Transaction;
use window::Window;

/// Bytes of replies that may wait for replies before them.
const MAX_HELD: usize = 1024 * 1024;

/// A client.
#[derive(Debug)]
pub struct Client {
    /// Its number in this multiplexer.
    pub id: ClientId,
    /// What it is to others.
    pub presence: Presence,
    /// The rules for it.
    pub rules: ClientRules,
    /// What it has said of itself.
    pub session: Session,
    /// Bytes that it has sent.
    pub input: ClientInput,
    /// Replies, and bytes for it.
    pub output: ClientOutput,
    /// The transaction that it has begun.
    pub transaction: Option<Transaction>,
    /// The connection that it has for itself.
    pub dedicated: DedicatedSlot,
    /// What it has subscribed to.
    pub subscriptions: Subscriptions,
    /// What its next command waits for.
    pub pause: Pause,
    /// What it has done since it was counted last.
    pub activity: Activity,
    /// Whether more is to come of it, or for it.
    pub life: Life,
}

/// What a client has said of itself.
#[derive(Debug, Default)]
pub struct Session {
    /// It speaks RESP3.
    pub resp3: bool,
    /// It has presented what the configuration asks for.
    pub is_authenticated: bool,
    /// The name that it gave itself.
    pub name: Vec<u8>,
    /// The database that it has selected.
    pub database: u32,
    /// The database that it selects if no server objects.
    pub selecting: Option<u32>,
    /// AUTH with which it has logged in at the servers, in RESP.
    pub login: Option<Arc<[u8]>>,
    /// What it wants to log in with at the servers.
    pub presented: Option<PresentedLogin>,
    /// Which replies it wants.
    pub reply_mode: ReplyMode,
}

impl Session {
    /// The name of the user as whom the client has logged in at the servers; `None`: it hasn't.
    pub fn user(&self) -> Option<Vec<u8>> {
        self.login.as_deref().map(user_of)
    }

    /// Nothing, in the client's protocol.
    pub fn nil(&self) -> &'static [u8] {
        if self.resp3 { b"_\r\n" } else { b"$-1\r\n" }
    }

    /// No array, in the client's protocol: EXEC of a transaction whose watched keys have changed.
    pub fn nil_array(&self) -> &'static [u8] {
        if self.resp3 { b"_\r\n" } else { b"*-1\r\n" }
    }
}

/// Bytes of a client.
#[derive(Debug, Default)]
pub struct ClientInput {
    /// Reads the command that is coming.
    pub parser: Parser,
    /// Bytes that were taken and are no whole command yet.
    pub buffer: Vec<u8>,
    /// There are bytes that were not taken; the host offers them again when it is told to.
    pub is_stalled: bool,
    /// There was more than was taken, or than could be done, when bytes came last.
    pub has_more: bool,
    /// When what waits has come.
    pub arrivals: Arrivals,
}

/// Replies to a client, and bytes for it.
#[derive(Debug, Default)]
pub struct ClientOutput {
    /// Commands whose replies are to come.
    pub queue: ReplyQueue,
    /// Bytes to write.
    pub out: Vec<u8>,
    /// How many commands may be under way.
    pub window: Window,
    /// A host was told that there are bytes to write.
    is_announced: bool,
    /// The client takes no bytes at present.
    pub is_full: bool,
    /// Bytes of pushes since it takes none.
    pub unread_pushes: usize,
    /// Bytes that were written since it takes none.
    pub unread: usize,
    /// How much of what is kept for it was counted last, in megabytes.
    pub counted: usize,
    /// A server has answered it something.
    pub is_served: bool,
}

impl ClientOutput {
    /// Bytes of a reply have come; `is_complete` with the last ones.
    #[inline]
    pub fn reply(&mut self, sequence: Sequence, bytes: &[u8], is_complete: bool) {
        self.is_served = true;
        self.queue.reply(sequence, bytes, is_complete, &mut self.out);
        self.window.count(bytes.len(), is_complete);
    }

    /// A whole reply takes the place of whatever has come.
    pub fn replace(&mut self, sequence: Sequence, reply: &[u8]) {
        self.window.count(reply.len(), true);
        self.queue.replace(sequence, reply, &mut self.out);
    }

    /// The reply to a part of a command.
    pub fn part(&mut self, sequence: Sequence, part: u32, reply: Vec<u8>) {
        self.window.count(reply.len(), true);
        self.queue.part(sequence, part, reply, &mut self.out);
    }

    /// Returns the number of bytes that are kept for the client: it doesn't read them, or they wait for
    /// others.
    pub fn kept(&self) -> usize {
        let unread = if self.is_full { self.unread + self.out.len() } else { 0 };
        unread + self.queue.held_with_parts()
    }

    /// Returns the bytes to write and leaves `spare` in their place.
    pub fn take(&mut self, spare: Vec<u8>) -> Vec<u8> {
        self.is_announced = false;
        if self.is_full {
            self.unread += self.out.len();
        }
        std::mem::replace(&mut self.out, spare)
    }
}

/// What a client's next command waits for.
#[derive(Debug, Default)]
pub struct Pause {
    /// Nothing is taken of the client before this time: an injected delay.
    pub until: Option<Duration>,
    /// The fault that was drawn for the command that waits; `Some(None)`: it was drawn that there
    /// is none.
    pub injected_fault: Option<Option<Injected>>,
    /// When that command was first tried, if it waits for a node of a Redis Cluster or has done so.
    pub tried: Tried,
    /// What else it waits for.
    pub wait: Option<Wait>,
}

/// What a command waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// This connection takes no bytes.
    Connection(ConnectionId),
    /// The slots of this Redis Cluster aren't known.
    Topology(ClusterId),
    /// A node of this Redis Cluster can't be reached: another one may take its place.
    Failover(ClusterId),
    /// It isn't known which protocols a server speaks.
    Introduction,
    /// Many clients ask about others already.
    Inquiry,
    /// All commands before it are to be answered, so that nothing overtakes what goes over another
    /// connection.
    Answers,
    /// The commands before this one are to be answered.
    AnswersBefore(Sequence),
}

/// What a client has done since it was counted last.
#[derive(Debug, Default)]
pub struct Activity {
    /// Commands that it has sent.
    pub run: CommandRun,
    /// How long its commands take; absent where nobody asks.
    pub latency: Option<Box<LatencyTracker>>,
}

/// Whether more is to come of a client, or for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// It sends commands.
    Open,
    /// It has closed its sending side, and gets the replies that are to come.
    HalfClosed,
    /// Nothing more is taken of it. Its connection is closed when all commands are answered.
    Closing,
    /// A host was told to close its connection.
    Closed,
}

impl Client {
    /// A client that has just connected.
    pub fn new(id: ClientId, config: Arc<HostConfig>, stats: StatsKey) -> Client {
        let lookups = vec![TargetLookup::Unknown; config.targets.len()];
        let mut client = Client {
            id,
            presence: Presence::new(),
            rules: ClientRules { config, stats, lookups },
            session: Session::default(),
            input: ClientInput::default(),
            output: ClientOutput::default(),
            transaction: None,
            dedicated: DedicatedSlot::default(),
            subscriptions: Subscriptions::default(),
            pause: Pause::default(),
            activity: Activity::default(),
            life: Life::Open,
        };
        client.follow_command_stats();
        client
    }

    /// Begins or ends to look how long its commands take, as its rules say.
    pub fn follow_command_stats(&mut self) {
        let is_wanted = self.rules.config.command_stats;
        if is_wanted != self.activity.latency.is_some() {
            self.activity.latency = is_wanted.then(Box::default);
        }
    }

    /// True if nothing more is taken of it.
    #[inline]
    pub fn is_closing(&self) -> bool {
        matches!(self.life, Life::Closing | Life::Closed)
    }

    /// Nothing more is taken of it. Its connection is closed when all commands are answered.
    pub fn begin_closing(&mut self) {
        if self.life != Life::Closed {
            self.life = Life::Closing;
        }
    }

    /// True if another command may be taken of it.
    #[inline]
    pub fn may_go_on(&self) -> bool {
        !self.is_closing() && self.pause.until.is_none() && !self.is_waiting() && self.has_room()
    }

    #[inline]
    fn has_room(&self) -> bool {
        let (output, under_way) = (&self.output, self.output.queue.len());
        output.out.len() < MAX_HELD
            && match self.dedicated.backlog.is_begun() {
                true => self.dedicated.backlog.has_room(under_way),
                false => !output.is_full && output.window.has_room(under_way) && output.queue.held() < MAX_HELD,
            }
    }

    fn is_waiting(&self) -> bool {
        match self.pause.wait {
            None => false,
            Some(Wait::Connection(_) | Wait::Topology(_) | Wait::Failover(_) | Wait::Introduction | Wait::Inquiry) => {
                true
            }
            Some(Wait::Answers) => !self.output.queue.is_empty(),
            Some(Wait::AnswersBefore(sequence)) => self.output.queue.next() < sequence,
        }
    }

    /// Its next command waits until the commands so far are answered, unless it waits for more.
    pub fn wait_for_answers_so_far(&mut self) {
        if self.pause.wait != Some(Wait::Answers) {
            self.pause.wait = Some(Wait::AnswersBefore(self.output.queue.end()));
        }
    }

    /// True if it doesn't want the reply to the command under way.
    pub fn is_mute(&self) -> bool {
        !self.session.reply_mode.is_on()
    }

    /// True if it has subscribed to something by RESP2, so that it may do little else.
    pub fn is_subscriber(&self) -> bool {
        !self.session.resp3 && !self.subscriptions.is_empty()
    }

    /// True if servers tell it something of their own accord, and it is to be told so by those to which
    /// its commands lead.
    pub fn follows(&self) -> bool {
        self.dedicated.state.is_some() || self.subscriptions.has_several()
    }

    /// True if what it is to be answered are subscriptions that begin or end, and nothing else.
    pub fn is_subscribing(&self) -> bool {
        !self.output.queue.is_empty() && self.output.queue.end() == self.subscriptions.last_change
    }

    /// The connections that it has for itself, but for those of its subscriptions.
    pub fn dedicated_connections(&self) -> impl Iterator<Item = DedicatedConnection> + '_ {
        let own = self.dedicated.connection.map(|own| own.connection);
        own.into_iter().chain(self.dedicated.others.iter().copied())
    }

    /// True if no server has answered it anything yet and there is only one that could: a Redis that
    /// can't be reached is then shown as what it is, by the end of the connection.
    pub fn is_unserved(&self) -> bool {
        !self.output.is_served && self.rules.config.single
    }

    /// True if it may ask for anything.
    pub fn may_command(&self) -> bool {
        self.session.is_authenticated || self.rules.config.auth.client_auth.is_none()
    }

    /// Answers the command under way, unless the client doesn't want the reply.
    pub fn answer(&mut self, reply: &[u8]) {
        if !self.is_mute() {
            self.output.queue.answered(reply, &mut self.output.out);
        }
    }

    /// Answers the command under way with an error, which is written without `-`.
    pub fn answer_error(&mut self, text: &str) {
        let mut reply = Vec::new();
        encode::error(&mut reply, text.as_bytes());
        self.answer(&reply);
    }

    /// Counts one event.
    pub fn count(&self, stat: Stat, stats: &mut StatsTable) {
        if let Some(host) = stats.host(self.rules.stats) {
            host.stats.count(stat);
        }
    }

    /// Counts what it has sent since this was called last.
    pub fn count_commands(&mut self, stats: &mut StatsTable) {
        if !self.activity.run.is_empty()
            && let Some(host) = stats.host(self.rules.stats)
        {
            self.activity.run.tell(host);
        }
    }

    /// Counts replies that have gone out.
    pub fn count_replies(&mut self, stats: &mut StatsTable, now: Duration) {
        let queue = &mut self.output.queue;
        if queue.failed().is_empty() && self.activity.latency.is_none() {
            return;
        }
        let failed = queue.take_failed();
        let Some(host) = stats.host(self.rules.stats) else { return };
        host.errors += failed.len() as u64;
        if let Some(latency) = &mut self.activity.latency {
            latency.stop(queue.next(), &failed, now, &mut host.answered);
        }
    }

    /// Sees to it that the host writes what there is, and does what was put off until all commands
    /// are answered.
    pub fn announce(&mut self, outbox: &mut Outbox, stats: &mut StatsTable, now: Duration) {
        self.count_replies(stats, now);
        if !self.output.out.is_empty() && !self.output.is_announced {
            self.output.is_announced = true;
            outbox.push(Output::Write(self.id));
        }
        if !self.output.queue.is_empty() {
            return;
        }
        if let Some(database) = self.session.selecting.take() {
            self.session.database = database;
            self.rules.forget_lookups();
        }
        log_in(self);
        if self.life == Life::HalfClosed && !self.input.has_more {
            self.life = Life::Closing;
        }
        if self.life == Life::Closing {
            self.life = Life::Closed;
            outbox.push(Output::CloseDownstream(self.id));
        }
    }

    /// Tells the host to offer again what it has, if the client has waited and needn't any more.
    pub fn wake(&mut self, outbox: &mut Outbox) {
        if self.input.is_stalled && self.may_go_on() {
            self.input.is_stalled = false;
            outbox.push(Output::Resume(self.id));
        }
    }

    /// A server has answered a part of a command, perhaps of the client's login. Returns true if the
    /// client stays in its database although other servers may have taken it to another one.
    pub fn note_part(&mut self, reply: &[u8]) -> bool {
        let is_error = reply.first() == Some(&b'-');
        let has_failed = is_error && self.session.selecting.take().is_some() && self.rules.config.targets.len() > 1;
        match &mut self.session.presented {
            Some(_) if is_error && !has_no_password(reply) => self.session.presented = None,
            Some(presented) => presented.is_accepted |= !is_error,
            None => {}
        }
        has_failed
    }
}

/// All commands before have been answered: a login that was accepted counts from now on.
fn log_in(client: &mut Client) {
    let Some(presented) = client.session.presented.take().filter(|presented| presented.is_accepted) else { return };
    client.session.login = Some(presented.login);
    if let Some(HelloChange { resp3, name, .. }) = presented.hello {
        client.session.resp3 = resp3;
        if let Some(name) = name {
            client.session.name = name;
        }
    }
    client.rules.forget_lookups();
}
