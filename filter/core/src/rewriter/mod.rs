//! The machine that edits one client connection: [`Rewriter`].
//!
//! It stands between a client and whatever Envoy runs next, and may only edit the two byte streams. A host feeds it:
//!
//! 1. Client bytes: while [`Rewriter::gate`] is open, [`Rewriter::request`]; what it appends to `out` goes on to the next
//!    filter. While the gate is closed the host leaves client bytes where they are (so the client feels back-pressure)
//!    and calls `request` again, with whatever has gathered, when the gate opens: after a call of [`Rewriter::reply`] that
//!    opened it, or at the time that [`Gate::Until`] names, told by [`Rewriter::wake`].
//! 2. Upstream bytes: if [`Rewriter::reply_need`] says so, [`Rewriter::reply`]; else they pass unread.
//! 3. After every call: [`Rewriter::closing`].
//!
//! **Invariant:** every command is decided by the configuration that was current when it was read as a whole, and no byte
//! of a client goes on unless it belongs to a command that was decided.

mod decide;
mod edits;
mod execute;
mod markers;
mod redis_proxy;
mod replies;
mod session;
mod streaming;
mod tcp_proxy;

use crate::command::{self, Args, Proxy};
use crate::config::{Host, Path, ProxyConfig};
use crate::downstream::auth::has_no_password;
use crate::downstream::client_reply::ReplyMode;
use crate::fault::Injected;
use crate::random::Random;
use crate::request::guard;
use crate::request::known::Known;
use crate::resp::encode;
use crate::resp::request::{Parser, Progress, ProtocolError};
use crate::resp::resp3::Shape;
use crate::stats::{Stat, Stats};
use decide::{Decision, Plan};
use edits::{ArgEdit, TagRef, write_edited};
use markers::{Expected, Form, Outcome, Replies, Then};
use std::time::Duration;
use streaming::Body;

/// What a host lends to the rewriter for one call.
pub struct Env<'a> {
    /// The current configuration.
    pub config: &'a ProxyConfig,
    /// The host that the connection belongs to, of that configuration.
    pub host: &'a Host,
    /// A clock that never goes back.
    pub now: Duration,
    /// Time since 1970-01-01.
    pub unix: Duration,
    /// The client has sent its last byte: whatever goes on is followed by the end of the stream.
    pub ending: bool,
    /// Randomness.
    pub random: &'a mut Random,
    /// Counters.
    pub stats: &'a mut Stats,
}

/// What became of the bytes that were passed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Edit {
    /// They go on as they are.
    Unchanged,
    /// `out` goes on in their place.
    Replaced,
}

/// Whether client bytes are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// Yes.
    Open,
    /// Not before a certain reply has come.
    Reply,
    /// Not before some replies have come: too many are outstanding.
    Backlog,
    /// Not before this time of [`Env::now`].
    Until(Duration),
    /// Never again: the connection is about to be closed.
    Shut,
}

/// How upstream bytes are to be treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyNeed {
    /// They pass unread.
    Nothing,
    /// All of them go to [`Rewriter::reply`].
    All,
    /// The first of them (up to [`HEAD`]) go to [`Rewriter::reply_head`], which may say that all are needed.
    Head,
}

/// Bytes that [`Rewriter::reply_head`] wants to see.
pub const HEAD: usize = 64;

/// More outstanding replies than this close the gate …
const BACKLOG_HIGH: usize = 16 * 1024;
/// … until so few are left.
const BACKLOG_LOW: usize = 8 * 1024;
/// More bytes of answers than this close it, too, until half of them are out: some, as COMMAND's, are long.
const BACKLOG_BYTES: usize = 1024 * 1024;
/// So much of a command is held back of a client that has to log in first: as much as Redis takes of it.
const HELD_UNAUTHENTICATED: usize = 160 * 1024;
/// Bytes of the reply to the first login that are kept while its line isn't complete.
const GREETING: usize = 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Login {
    /// Nothing was sent yet.
    Due,
    /// Sent as the connection's first command; its reply is the first reply.
    Sent(u64),
    /// Sent in mid-connection, between two nonces.
    Again(u64),
    /// Done with the credentials of this identity; 0: none were needed.
    Done(u64),
}

/// A transaction that the client has opened.
#[derive(Debug, Default)]
struct Transaction {
    open: bool,
    /// A command of it was refused here: EXEC must fail.
    dirty: bool,
    /// It exists only between the client and us, since it can't be served: why. Nothing of it goes on.
    refused: Option<String>,
    shapes: Vec<Shape>,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Rewriter {
    connection: u64,
    path: Option<Path>,
    login: Login,
    authenticated: bool,
    resp3: bool,
    name: Vec<u8>,
    reply_mode: ReplyMode,
    subscriber: bool,
    transaction: Transaction,
    /// Bytes of the client that have not gone on.
    held: Vec<u8>,
    /// They haven't been looked at, or the gate closed before they were decided.
    unread: bool,
    parser: Parser,
    body: Option<Body>,
    gate: Gate,
    /// The next command has been counted, and has waited.
    waited: bool,
    /// Commands may be on their way whose replies haven't been seen (`proxy`).
    unsettled: bool,
    /// A WATCH was refused: a transaction that counts on it must not run.
    watch_refused: bool,
    /// The fault of the command that is being delayed.
    drawn: Option<Injected>,
    plan: Plan,
    replies: Replies,
    /// The beginning of the reply to the first login.
    greeting: Vec<u8>,
    closing: bool,
}

/// Where edited bytes go: `out`, which holds everything of `buffer` before `copied`. Bytes that don't change are copied
/// only when something after them does.
struct Sink<'a> {
    out: &'a mut Vec<u8>,
    buffer: &'a [u8],
    copied: usize,
    at: usize,
}

impl Sink<'_> {
    /// `out`, with everything before the current command in it.
    fn write(&mut self) -> &mut Vec<u8> {
        if self.copied < self.at {
            self.out.extend_from_slice(&self.buffer[self.copied..self.at]);
            self.copied = self.at;
        }
        self.out
    }

    /// Leaves `n` bytes of the buffer out.
    fn skip(&mut self, n: usize) {
        self.write();
        self.at += n;
        self.copied = self.at;
    }

    /// Passes `n` bytes of the buffer on.
    fn pass(&mut self, n: usize) {
        self.at += n;
    }
}

enum Step {
    /// The command goes on as it is.
    Verbatim,
    /// It goes on, edited.
    Edited,
    /// It goes nowhere, or something else goes in its place.
    Answered,
    /// Nothing was done yet; the gate was closed.
    Later,
}

impl Rewriter {
    /// A new connection; `connection` is what CLIENT ID answers on `proxy`.
    pub fn new(connection: u64) -> Rewriter {
        Rewriter {
            connection,
            path: None,
            login: Login::Due,
            authenticated: false,
            resp3: false,
            name: Vec::new(),
            reply_mode: ReplyMode::On,
            subscriber: false,
            transaction: Transaction::default(),
            held: Vec::new(),
            unread: false,
            parser: Parser::default(),
            body: None,
            gate: Gate::Open,
            waited: false,
            unsettled: false,
            watch_refused: false,
            drawn: None,
            plan: Plan::default(),
            replies: Replies::default(),
            greeting: Vec::new(),
            closing: false,
        }
    }

    /// Whether client bytes are wanted.
    pub fn gate(&self) -> Gate {
        self.gate
    }

    /// Opens a gate whose time has come.
    pub fn wake(&mut self, now: Duration) {
        if matches!(self.gate, Gate::Until(t) if t <= now) {
            self.gate = Gate::Open;
        }
    }

    /// True when the connection is to be closed as soon as what was written to the client is out.
    pub fn closing(&self) -> bool {
        self.closing
    }

    /// True if client bytes are held back here that have to be looked at as soon as the gate opens, whether or not more
    /// of them come.
    pub fn waits(&self) -> bool {
        self.unread
    }

    /// Takes client bytes that came while the gate was closed, behind those already held.
    pub fn hold(&mut self, bytes: &[u8]) {
        if self.gate != Gate::Shut {
            self.held.extend_from_slice(bytes);
            self.unread = true;
        }
    }

    /// Takes bytes from the client.
    pub fn request(&mut self, env: &mut Env<'_>, input: &[u8], out: &mut Vec<u8>) -> Edit {
        if self.gate != Gate::Open {
            self.hold(input);
            return Edit::Replaced;
        }
        let fresh = self.held.is_empty();
        // Kept in one place while it grows: a long command that comes in small pieces is copied no more than it has to be.
        let mut joined = std::mem::take(&mut self.held);
        let buffer = if fresh {
            input
        } else {
            joined.extend_from_slice(input);
            joined.as_slice()
        };
        let mut sink = Sink { out, buffer, copied: 0, at: 0 };
        let mut parser = std::mem::take(&mut self.parser);
        self.run(env, &mut parser, &mut sink);
        self.parser = parser;
        let at = sink.at;
        if fresh && at == buffer.len() && sink.copied == 0 && sink.out.is_empty() {
            return Edit::Unchanged;
        }
        sink.write();
        if self.gate == Gate::Shut {
            self.held = Vec::new();
        } else if fresh || at > 0 {
            self.held = buffer[at..].to_vec();
        } else {
            self.held = joined;
        }
        self.unread = self.gate != Gate::Open && !self.held.is_empty();
        Edit::Replaced
    }

    fn run(&mut self, env: &mut Env<'_>, parser: &mut Parser, sink: &mut Sink<'_>) {
        while sink.at < sink.buffer.len() {
            if self.body.is_some() {
                if !self.pass_body(env, sink) {
                    return;
                }
                continue;
            }
            if !self.ready(env, sink) {
                return;
            }
            let rest = &sink.buffer[sink.at..];
            match parser.parse(rest, &env.config.limits) {
                Ok(Progress::Complete(len)) => {
                    let frame = parser.frame(rest);
                    let args = Args { frame, spans: parser.args(), count: parser.args().len() };
                    let step = if parser.is_inline() {
                        let (frame, spans) = command::canonical(&args);
                        let args = Args { frame: &frame, spans: &spans, count: spans.len() };
                        match self.command(env, &args, sink) {
                            Step::Verbatim => {
                                sink.write().extend_from_slice(args.frame);
                                Step::Edited
                            }
                            other => other,
                        }
                    } else {
                        let args = Args { frame: &frame[..len], ..args };
                        self.command(env, &args, sink)
                    };
                    parser.reset();
                    match step {
                        Step::Verbatim => sink.pass(len),
                        Step::Edited | Step::Answered => sink.skip(len),
                        Step::Later => return,
                    }
                    if self.gate != Gate::Open {
                        return;
                    }
                }
                Ok(Progress::Nothing(len)) => {
                    parser.reset();
                    sink.skip(len);
                }
                Ok(Progress::Partial) => {
                    if !self.stream(env, parser, sink) {
                        return;
                    }
                }
                Err(error) => {
                    self.protocol_error(env, error, sink);
                    return;
                }
            }
        }
    }

    /// Whatever comes before the next command: the login, and a pause when too much is outstanding. False: not now.
    fn ready(&mut self, env: &mut Env<'_>, sink: &mut Sink<'_>) -> bool {
        if *self.path.get_or_insert(env.host.path) != env.host.path {
            // What stands behind this connection can't become the other kind of filter.
            self.shut();
            return false;
        }
        if self.replies.outstanding() >= BACKLOG_HIGH || self.replies.answers() >= BACKLOG_BYTES {
            self.gate = Gate::Backlog;
            return false;
        }
        let (command, identity) = match (&env.host.login, &env.host.handshake) {
            (Some(login), _) => (login.clone(), env.host.login_identity),
            (_, Some(handshake)) => (handshake.clone(), env.host.login_identity),
            (None, None) => {
                if self.login == Login::Due {
                    self.login = Login::Done(0);
                }
                return true;
            }
        };
        match self.login {
            Login::Done(done) if done == identity => true,
            Login::Due => {
                sink.write().extend_from_slice(&command);
                self.login = Login::Sent(identity);
                if env.ending && env.host.path == Path::Direct {
                    // The end of the stream goes on with the login, so nothing could follow it.
                    return true;
                }
                self.gate = Gate::Reply;
                false
            }
            // Credentials have changed, or are there now and weren't before: the next filter must agree.
            Login::Done(done) => {
                let rotated_on_direct = env.host.path == Path::Direct && done != 0;
                let undisturbed = !self.transaction.open && !self.subscriber && self.reply_mode == ReplyMode::On;
                if rotated_on_direct || env.host.path == Path::Direct && !undisturbed {
                    // Redis keeps a connection that is logged in logged in.
                    return true;
                }
                // A redis_proxy that refuses a password refuses everything after it, but for commands that it doesn't know.
                let (before, after) = match env.host.path {
                    Path::Direct => (Form::Hello, Form::Hello),
                    Path::Proxy => (Form::Echo, Form::Unknown),
                };
                self.inject(env, before, Vec::new(), Then::Capture, sink.write());
                sink.write().extend_from_slice(&command);
                if self.following() {
                    self.replies.expect(Expected::Reply(Shape::Plain));
                }
                self.inject(env, after, Vec::new(), Then::Verify, sink.write());
                self.login = Login::Again(identity);
                self.gate = Gate::Reply;
                false
            }
            Login::Sent(_) if env.ending && env.host.path == Path::Direct => true,
            Login::Sent(_) | Login::Again(_) => {
                self.gate = Gate::Reply;
                false
            }
        }
    }

    /// True if every reply from upstream is noted down.
    fn following(&self) -> bool {
        self.resp3 && self.path == Some(Path::Proxy)
    }

    fn inject(&mut self, env: &mut Env<'_>, form: Form, reply: Vec<u8>, then: Then, out: &mut Vec<u8>) {
        self.replies.inject(env, form, reply, then, out);
        if self.following() {
            self.replies.expect(Expected::Nonce);
        }
    }

    fn shut(&mut self) {
        self.gate = Gate::Shut;
        self.closing = true;
        self.held = Vec::new();
        self.unread = false;
    }

    fn protocol_error(&mut self, env: &mut Env<'_>, error: ProtocolError, sink: &mut Sink<'_>) {
        env.stats.count(Stat::ProtocolErrors);
        match self.reply_mode {
            ReplyMode::On => {}
            ReplyMode::SkipNext | ReplyMode::Skipping => {
                self.replies.inject_unanswered(env, Form::Echo, sink.write());
            }
            ReplyMode::Off => {
                // Nothing would come back that could tell when to close.
                sink.write();
                return self.shut();
            }
        }
        let mut reply = Vec::new();
        encode::error(&mut reply, error.to_string().as_bytes());
        let form = if env.host.path == Path::Direct { Form::Unknown } else { Form::Echo };
        self.inject(env, form, reply, Then::Close, sink.write());
        self.gate = Gate::Shut;
    }
}
