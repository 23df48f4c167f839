//! The state of a connection, without the client bytes that are held.

use super::config::Path;
use super::decision::RewriterDecision;
use super::env::Env;
use super::gate::Gate;
use super::markers::{ExpectedReply, MarkerForm, Replies, Then};
use super::sink::Sink;
use super::subscriptions::ClientSubscriptions;
use crate::command::{Args, Known};
use crate::downstream::client_reply::ReplyMode;
use crate::request::guard::Guard;
use crate::resp::encode;
use crate::resp::request::ProtocolError;
use crate::resp::shape::Shape;
use crate::stats::Stat;

/// How far the filter's own login is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LoginState {
    /// Nothing was sent yet.
    Due,
    /// Sent with credentials of this identity as the connection's first command; its reply is the
    /// first reply.
    Sent(u64),
    /// Sent with credentials of this identity in mid-connection, between two markers.
    Again(u64),
    /// Done with credentials of this identity; 0: no login was needed.
    Done(u64),
}

/// A transaction that the client has opened.
#[derive(Debug, Default)]
pub(super) struct OpenTransaction {
    pub(super) open: bool,
    /// A command of the transaction was refused here: EXEC must fail.
    pub(super) dirty: bool,
    /// The error of every command of a transaction that can't be served. Nothing of such a
    /// transaction goes on.
    pub(super) refused: Option<String>,
    /// The RESP3 shapes of the replies to the commands that were queued.
    pub(super) shapes: Vec<Shape>,
}

/// What the client has said about itself.
#[derive(Debug, Default)]
pub(super) struct ClientState {
    /// The number that CLIENT ID answers on `proxy`.
    pub(super) id: u64,
    /// The client has presented the right password.
    pub(super) authenticated: bool,
    pub(super) resp3: bool,
    /// The name of CLIENT SETNAME; empty: none.
    pub(super) name: Vec<u8>,
    pub(super) reply_mode: ReplyMode,
    /// What the client has subscribed to.
    pub(super) subscriptions: ClientSubscriptions,
    /// A WATCH was refused: a transaction that relies on it must not run.
    pub(super) watch_refused: bool,
    pub(super) transaction: OpenTransaction,
}

impl ClientState {
    /// Forgets what RESET undoes, but for the protocol and CLIENT REPLY.
    pub(super) fn forget(&mut self) {
        self.watch_refused = false;
        self.authenticated = false;
        self.name = Vec::new();
        self.subscriptions = ClientSubscriptions::default();
        self.transaction = OpenTransaction::default();
    }
}

/// The state of a connection.
#[derive(Debug)]
pub(super) struct ConnectionState {
    /// The data path when the first command came; it can't change.
    pub(super) path: Option<Path>,
    pub(super) client: ClientState,
    pub(super) login: LoginState,
    /// The beginning of the reply to the first login, while its line isn't complete.
    pub(super) greeting: Vec<u8>,
    pub(super) gate: Gate,
    pub(super) closing: bool,
    /// On `proxy`: commands may be on their way whose replies haven't been seen.
    pub(super) unsettled: bool,
    pub(super) replies: Replies,
}

impl ConnectionState {
    /// Returns the state of a new connection; `id` is what CLIENT ID answers on `proxy`.
    pub(super) fn new(id: u64) -> ConnectionState {
        ConnectionState {
            path: None,
            client: ClientState { id, ..ClientState::default() },
            login: LoginState::Due,
            greeting: Vec::new(),
            gate: Gate::Open,
            closing: false,
            unsettled: false,
            replies: Replies::default(),
        }
    }

    /// The commands that are refused. Those that reveal or change credentials are also on a
    /// connection that is still logged in by the filter though its host no longer asks for it.
    pub(super) fn guard(&self, env: &Env<'_>) -> Guard {
        let still_ours = env.host.login.is_none() && matches!(self.login, LoginState::Done(1..));
        let guard = env.host.guard;
        Guard { credentials: guard.credentials || env.host.path == Path::Direct && still_ours, ..guard }
    }

    /// False while the client has to log in first.
    pub(super) fn may_command(&self, env: &Env<'_>) -> bool {
        self.client.authenticated || env.host.client_auth.is_none()
    }

    /// True if every reply from upstream is noted down before it comes.
    pub(super) fn is_following(&self) -> bool {
        self.client.resp3 && self.path == Some(Path::Proxy)
    }

    /// Sends a marker.
    pub(super) fn inject(
        &mut self,
        env: &mut Env<'_>,
        form: MarkerForm,
        reply: Vec<u8>,
        then: Then,
        out: &mut Vec<u8>,
    ) {
        self.replies.inject(env.random, form, reply, then, out);
        if self.is_following() {
            self.replies.expect(ExpectedReply::Marker);
        }
    }

    /// Notes the reply to a command of the filter's own, or to one whose reply has the same form
    /// in both protocols.
    pub(super) fn expect_plain(&mut self) {
        if self.is_following() {
            self.replies.expect(ExpectedReply::Reply(Shape::Plain));
        }
    }

    /// Notes the reply to a command of the client.
    pub(super) fn expect_reply(&mut self, known: Option<Known>, args: &Args<'_>) {
        if !self.is_following() {
            return;
        }
        let shape = known.map_or(Shape::Plain, |known| known.command.reply_shape(args));
        if self.client.transaction.open {
            // QUEUED now, the reply itself within EXEC's.
            self.client.transaction.shapes.push(shape);
            self.replies.expect(ExpectedReply::Reply(Shape::Plain));
        } else {
            self.replies.expect(ExpectedReply::Reply(shape));
        }
    }

    /// Notes that a command has gone on, which ends what CLIENT REPLY SKIP is about.
    pub(super) fn sent(&mut self) {
        self.unsettled = true;
        self.client.reply_mode.begin();
        self.client.reply_mode.end();
    }

    /// Answers a command here, as Redis would by the client's CLIENT REPLY.
    pub(super) fn answer(&mut self, env: &mut Env<'_>, reply: Vec<u8>, sink: &mut Sink<'_>) {
        match self.client.reply_mode {
            // Redis must know that a transaction fails.
            ReplyMode::Off if self.client.transaction.open => {
                self.replies.inject_unanswered(env.random, MarkerForm::Unknown, sink.write());
            }
            ReplyMode::Off => {
                sink.write();
            }
            ReplyMode::SkipNext | ReplyMode::Skipping => {
                // Redis is going to leave one reply out: that of the marker.
                self.replies.inject_unanswered(env.random, MarkerForm::Echo, sink.write());
                self.client.reply_mode = ReplyMode::On;
            }
            ReplyMode::On => {
                // redis_proxy answers ECHO itself, in every state. A Redis does not: in MULTI, or
                // to a user who may not.
                let form = if env.host.path == Path::Proxy { MarkerForm::Echo } else { MarkerForm::Unknown };
                self.inject(env, form, reply, Then::Nothing, sink.write());
            }
        }
    }

    /// Closes the gate until all that was sent is answered.
    pub(super) fn close_gate(&mut self, env: &mut Env<'_>, sink: &mut Sink<'_>) {
        self.inject(env, MarkerForm::Echo, Vec::new(), Then::OpenGate, sink.write());
        self.gate = Gate::Reply;
    }

    /// Lets a command wait until all that was sent is answered.
    pub(super) fn settle(&mut self, env: &mut Env<'_>, sink: &mut Sink<'_>) -> RewriterDecision {
        self.close_gate(env, sink);
        RewriterDecision::Wait
    }

    /// Has the connection closed as soon as what was written to the client is out.
    pub(super) fn shut(&mut self) {
        self.gate = Gate::Shut;
        self.closing = true;
    }

    /// Answers bytes that are no RESP, and has the connection closed behind the answer.
    pub(super) fn protocol_error(&mut self, env: &mut Env<'_>, error: ProtocolError, sink: &mut Sink<'_>) {
        env.stats.count(Stat::ProtocolErrors);
        match self.client.reply_mode {
            ReplyMode::On => {}
            ReplyMode::SkipNext | ReplyMode::Skipping => {
                self.replies.inject_unanswered(env.random, MarkerForm::Echo, sink.write());
            }
            ReplyMode::Off => {
                // Nothing would come back that could tell when to close.
                sink.write();
                return self.shut();
            }
        }
        let mut reply = Vec::new();
        encode::error(&mut reply, error.to_string().as_bytes());
        let form = if env.host.path == Path::Direct { MarkerForm::Unknown } else { MarkerForm::Echo };
        self.inject(env, form, reply, Then::Close, sink.write());
        self.gate = Gate::Shut;
    }
}
