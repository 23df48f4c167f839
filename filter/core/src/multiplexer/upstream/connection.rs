//! One connection to Redis: what it is for, what is to come over it, and in which state it is.

use super::handshake::{self, HandshakeStep, Refusal};
use super::identity::ServerIdentity;
use super::patience::{Patience, Sent};
use super::pending::{Control, InFlight, PendingReply};
use super::pool_key::{PoolKey, Purpose};
use super::probe;
use super::redirect::Redirect;
use super::replay_buffer::ReplayBuffer;
use super::reply_reader::{Frame, NotResp, ReadMode, ReplyReader, mode_of};
use super::send_buffer::SendBuffer;
use crate::command::each_command;
use crate::command::script::ScriptDigest;
use crate::multiplexer::client::reply_queue::Sequence;
use crate::multiplexer::ids::{ClientId, ConnectionId};
use crate::resp::encode;
use std::collections::{HashSet, VecDeque};
use std::time::Duration;

/// How long a connection may take to come about, its handshake included. Envoy's own
/// `connect_timeout` is shorter as a rule.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a connection to a node of a Redis Cluster may take to come about before others are asked
/// who has taken the node's place.
pub const SLOW_HANDSHAKE: Duration = Duration::from_millis(500);

/// How far a connection has come.
#[derive(Debug)]
pub enum Stage {
    /// The replies of the handshake are to come. Commands are staged.
    Handshake(Attempt),
    /// Commands are staged until those over the connection whose place this one takes are
    /// answered.
    AwaitsPredecessor,
    /// Commands are sent.
    Ready,
    /// Redis has refused the handshake.
    Refused(Refusal),
}

/// How often a connection was tried to be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// If it fails, another one is made, of which clients aren't told: the endpoint may have been
    /// replaced.
    First,
    /// Another one has failed right before it.
    Second,
}

/// Whether new commands may go over a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retirement {
    /// They may.
    Serving,
    /// They may not. The connection is closed when nothing is pending any more, and its successor,
    /// if it has one, begins.
    Draining {
        /// The connection that takes the place.
        successor: Option<ConnectionId>,
    },
}

/// A connection to Redis.
#[derive(Debug)]
pub struct UpstreamConnection {
    /// Where it leads, and its protocol, database and login.
    pub key: PoolKey,
    /// What it is for.
    pub purpose: Purpose,
    /// How far it has come.
    pub stage: Stage,
    /// Whether new commands may go over it.
    pub retirement: Retirement,
    /// Its client has changed its state for good, so that no other client may have it.
    pub is_tainted: bool,
    /// Reads replies.
    pub reader: ReplyReader,
    /// Replies that are to come, the next one first.
    pub pending: VecDeque<InFlight>,
    /// Commands that may have to be sent to another node, the oldest first.
    pub replay: ReplayBuffer,
    /// Bytes to send.
    pub send: SendBuffer,
    /// What is remembered of the transaction whose replies are coming, and of scripts.
    pub memory: Memory,
    /// When something was heard last or, if nothing was pending then, sent.
    pub last_activity: Duration,
    /// When it was opened or, if it was, replaced because of what the server had said.
    pub renewed: Duration,
}

/// What is remembered of a connection's replies.
#[derive(Debug, Default)]
pub struct Memory {
    /// The first redirection among the replies of the transaction under way.
    pub redirect: Option<Redirect>,
    /// What the probe before the next reply to a command says.
    pub probe: Option<Redirect>,
    /// The error with which Redis refused MULTI of the transaction under way.
    pub multi_refused: Option<Vec<u8>>,
    /// How the server knows it, if a client was to wait over it.
    pub identity: Option<ServerIdentity>,
    /// Scripts that were loaded over the connection.
    pub scripts: HashSet<ScriptDigest>,
}

/// What has come over a connection.
#[derive(Debug)]
pub enum Received<'d> {
    /// A piece of the reply to a client's command; true with the last one.
    Piece(PendingReply, &'d [u8], bool),
    /// The whole reply that the first pending one stands for.
    Whole(Vec<u8>),
    /// A whole frame that isn't simply the next reply, for this client.
    Push(ClientId, Vec<u8>),
    /// Nothing that is to be told.
    Nothing,
}

impl UpstreamConnection {
    /// A connection that is about to be opened.
    pub fn new(key: PoolKey, purpose: Purpose, now: Duration) -> UpstreamConnection {
        let mut out = Vec::new();
        let steps = handshake::begin(&key, &mut out);
        let (patience, sent) = (Patience::of(HANDSHAKE_TIMEOUT), Sent::at(now));
        let pending = steps.into_iter().map(|step| InFlight { patience, sent, ..PendingReply::Handshake(step).into() });
        UpstreamConnection {
            key,
            purpose,
            stage: Stage::Handshake(Attempt::First),
            retirement: Retirement::Serving,
            is_tainted: false,
            reader: ReplyReader::default(),
            pending: pending.collect(),
            replay: ReplayBuffer::default(),
            send: SendBuffer::new(out),
            memory: Memory::default(),
            last_activity: now,
            renewed: now,
        }
    }

    /// A connection in the place of one that was lost before its handshake was complete: nothing of
    /// what was staged has been sent.
    pub fn in_place_of(mut lost: UpstreamConnection, now: Duration) -> UpstreamConnection {
        let mut next = UpstreamConnection::new(lost.key, lost.purpose, now);
        next.stage = Stage::Handshake(Attempt::Second);
        lost.pending.retain(|in_flight| !matches!(in_flight.what, PendingReply::Handshake(_)));
        next.pending.append(&mut lost.pending);
        next.send.stage(lost.send);
        next.replay = lost.replay;
        next
    }

    /// Queues a command that `write` appends. With `keeps`, its bytes are kept until its reply has
    /// come.
    #[inline]
    pub fn send(&mut self, in_flight: InFlight, keeps: bool, now: Duration, write: impl FnOnce(&mut Vec<u8>)) {
        if self.pending.is_empty() {
            self.last_activity = now;
        }
        let to = self.send.writer(matches!(self.stage, Stage::Ready));
        let from = to.len();
        write(to);
        let written = to.get(from..).unwrap_or_default();
        let length = written.len() as u32;
        if keeps {
            self.replay.push(written);
        }
        let replay = if keeps { length } else { 0 };
        let (sent, tried) = (Sent::at(now), in_flight.tried.or_now(now));
        let in_flight = InFlight { replay, written: length, sent, tried, ..in_flight };
        self.pending.push_back(in_flight);
        if in_flight.may_run_code && self.key.node.is_some() {
            self.insert_probe(from);
        }
    }

    /// Puts a probe before the command that was queued last, whose bytes begin at `from`. A command
    /// that follows an ASK redirection has ASKING before it, and so has its probe.
    fn insert_probe(&mut self, from: usize) {
        let out = self.send.writer(matches!(self.stage, Stage::Ready));
        let Some(mut probe) = probe::of(out.get(from..).unwrap_or_default()) else { return };
        let Some(command) = self.pending.pop_back() else { return };
        let control = |control, written: usize| {
            let what = PendingReply::Control(control);
            InFlight { written: written as u32, sent: command.sent, ..what.into() }
        };
        let asks = self.pending.back().is_some_and(|before| before.what == PendingReply::Control(Control::Asking));
        let length = probe.len();
        self.pending.push_back(control(Control::Probe, length));
        if asks {
            encode::command(&mut probe, &[b"ASKING"]);
            self.pending.push_back(control(Control::Asking, probe.len() - length));
        }
        self.pending.push_back(command);
        out.splice(from..from, probe);
    }

    /// Takes back staged commands, with what belongs to them: they won't be sent. `places` are those
    /// in `pending`, in ascending order.
    pub fn withdraw(&mut self, places: &[usize]) {
        let mut is_withdrawn = vec![false; self.pending.len()];
        for place in places {
            let is_prelude = |place: &usize| self.pending.get(*place).is_some_and(|before| before.what.is_prelude());
            for place in std::iter::once(*place).chain((0..*place).rev().take_while(is_prelude)) {
                if let Some(withdrawn) = is_withdrawn.get_mut(place) {
                    *withdrawn = true;
                }
            }
        }
        let (mut staged, mut kept) = (0, 0);
        let (mut of_staged, mut of_kept) = (Vec::new(), Vec::new());
        for (in_flight, is_withdrawn) in self.pending.iter().zip(&is_withdrawn) {
            // The handshake isn't staged.
            let is_staged = !matches!(in_flight.what, PendingReply::Handshake(_));
            let (written, replay) = (if is_staged { in_flight.written as usize } else { 0 }, in_flight.replay as usize);
            if *is_withdrawn {
                of_staged.push(staged..staged + written);
                of_kept.push(kept..kept + replay);
            }
            staged += written;
            kept += replay;
        }
        self.send.withdraw(&of_staged);
        self.replay.remove(&of_kept);
        let mut is_withdrawn = is_withdrawn.into_iter();
        self.pending.retain(|_| !is_withdrawn.next().unwrap_or_default());
    }

    /// Reads from the front of `input`, which isn't empty and is shortened by what was read.
    ///
    /// # Errors
    /// The bytes are not RESP, or answer nothing.
    #[inline]
    pub fn receive<'d>(&mut self, input: &mut &'d [u8]) -> Result<Received<'d>, NotResp> {
        if self.reader.is_between_frames() {
            let first = input.first().copied().unwrap_or_default();
            let next = self.pending.front();
            let mode = match self.pushed_to(next, first) {
                Some(client) => ReadMode::Push(client),
                // Were it taken for a reply, each client would get that of the one before.
                None if first == b'>' => ReadMode::Skip,
                None => mode_of(next, first),
            };
            self.reader.begin(mode);
        }
        match self.reader.read(input)? {
            Frame::Incomplete => Ok(Received::Nothing),
            Frame::Push(client, frame) => Ok(Received::Push(client, frame)),
            Frame::Whole(reply) => Ok(Received::Whole(reply)),
            Frame::Piece(piece, is_complete) => {
                let in_flight = self.pending.front().copied().ok_or(NotResp)?;
                if is_complete {
                    self.pending.pop_front();
                    self.drop_replay(in_flight);
                }
                match in_flight.what {
                    PendingReply::Ignored | PendingReply::Copy(_) => Ok(Received::Nothing),
                    what => Ok(Received::Piece(what, piece, is_complete)),
                }
            }
        }
    }

    /// The client for which a frame with this first byte is, if it isn't simply the next reply.
    #[inline]
    fn pushed_to(&self, next: Option<&InFlight>, first: u8) -> Option<ClientId> {
        let Purpose::Pushes(client) = self.purpose else { return None };
        let is_pushed = match next.map(|next| next.what) {
            Some(PendingReply::Handshake(_)) => false,
            None | Some(PendingReply::Subscription(..) | PendingReply::SilentChange(_)) => true,
            Some(_) => self.key.resp3 && first == b'>',
        };
        is_pushed.then_some(client)
    }

    /// True if the next reply, to a command that ends a subscription to a shard channel, may be about
    /// this one: a node ends such subscriptions by itself, too.
    pub fn next_names(&self, channel: Option<&[u8]>) -> bool {
        let bytes = self.pending.front().map_or(0, |next| next.replay as usize);
        let (Some(channel), 1..) = (channel, bytes) else { return true };
        let mut is_named = true;
        each_command(self.replay.behind(0, bytes), |args| {
            is_named = !args.get(0).eq_ignore_ascii_case(b"sunsubscribe") || args.get(1) == channel;
        });
        is_named
    }

    /// Drops the next `count` pending replies: they have come.
    pub fn skip(&mut self, count: usize) {
        for _ in 0..count {
            let Some(in_flight) = self.pending.pop_front() else { return };
            self.drop_replay(in_flight);
        }
    }

    /// Drops what was kept of the oldest command.
    #[inline]
    pub fn drop_replay(&mut self, in_flight: InFlight) {
        if in_flight.replay > 0 {
            self.replay.drop_oldest(in_flight.replay as usize);
        }
    }

    /// Removes and returns what was kept of the oldest command.
    pub fn take_replay(&mut self, in_flight: InFlight) -> Vec<u8> {
        let oldest = self.replay.behind(0, in_flight.replay as usize).to_vec();
        self.drop_replay(in_flight);
        oldest
    }

    /// Takes in the reply to a step of the handshake. What was staged becomes ready after the last
    /// one. Returns a refusal if it is the first.
    pub fn handshake_reply(&mut self, step: HandshakeStep, reply: &[u8]) -> Option<Refusal> {
        if let Stage::Refused(_) = self.stage {
            return None;
        }
        if let Some(refusal) = handshake::refusal(step, &self.key.endpoint, reply) {
            self.stage = Stage::Refused(refusal.clone());
            return Some(refusal);
        }
        if !self.pending.iter().any(|next| matches!(next.what, PendingReply::Handshake(_))) {
            self.become_ready();
        }
        None
    }

    /// Takes in the reply to a command that was sent in a transaction: Redis queues it, or says
    /// why not.
    pub fn note_queued(&mut self, reply: &[u8]) {
        if self.key.node.is_some() && reply.first() == Some(&b'-') && self.memory.redirect.is_none() {
            self.memory.redirect = Redirect::parse(reply, self.key.node);
        }
    }

    /// Sends what was staged.
    pub fn become_ready(&mut self) {
        self.stage = Stage::Ready;
        self.send.release_staged();
    }

    /// The place of the next reply to a client's command in the order of that client's commands.
    pub fn next_sequence(&self) -> Option<Sequence> {
        self.pending.iter().find_map(|in_flight| in_flight.what.command()).map(|owner| owner.sequence)
    }

    /// True if a command waits for the handshake with a node of a Redis Cluster, and may as well be sent
    /// to another one.
    pub fn is_staged(&self, in_flight: &InFlight) -> bool {
        matches!(self.stage, Stage::Handshake(_))
            && self.purpose.has_no_state()
            && self.key.node.is_some()
            && in_flight.what.command().is_some()
    }

    /// True if the handshake is complete.
    pub fn is_established(&self) -> bool {
        matches!(self.stage, Stage::Ready | Stage::AwaitsPredecessor)
    }

    /// Why Redis has refused the handshake, if it has.
    pub fn refused(&self) -> Option<&Refusal> {
        match &self.stage {
            Stage::Refused(refusal) => Some(refusal),
            Stage::Handshake(_) | Stage::AwaitsPredecessor | Stage::Ready => None,
        }
    }

    /// True if new commands may go over it.
    #[inline]
    pub fn is_usable(&self) -> bool {
        self.retirement == Retirement::Serving && !matches!(self.stage, Stage::Refused(_))
    }

    /// True if nothing is to be sent and no reply is to come.
    pub fn is_quiet(&self) -> bool {
        self.pending.is_empty() && self.send.len() == 0
    }

    /// True if the server lets the command wait whose reply is to come next.
    pub fn is_blocked(&self) -> bool {
        matches!(self.stage, Stage::Ready) && self.pending.front().is_some_and(|next| next.patience.is_waiting())
    }

    /// True if it is in the state of a new connection, so that any client may have it for itself.
    pub fn is_as_new(&self) -> bool {
        self.is_established() && self.pending.is_empty() && self.is_usable() && !self.is_tainted
    }

    /// True if it ends when it isn't used for a while, since nobody may come who needs it.
    pub fn ends_when_idle(&self) -> bool {
        let endpoint = &self.key.endpoint;
        let has_clients_login = endpoint.is_clients() && endpoint.login_command().is_some();
        // Connections to others than nodes are closed by their age.
        let is_shared = self.purpose == Purpose::Shared;
        self.purpose == Purpose::Idle || is_shared && (has_clients_login || self.key.node.is_some())
    }
}
