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

mod args;
mod direct;
mod guard;
mod proxy;
mod replies;
mod session;

use crate::command::{self, Command, Proxy};
use crate::config::{Host, ProxyConfig};
use crate::fault::Injected;
use crate::random::Random;
use crate::resp::encode;
use crate::resp::request::{Parser, Progress, ProtocolError};
use crate::resp3::Shape;
use crate::stats::{Stat, Stats};
use crate::wire::DataPath;
use args::{ArgEdit, Args, TagRef, write_edited};
use replies::{Expected, Form, Outcome, Replies, Then, no_password_asked};
use std::time::Duration;

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
/// Arguments of at least this many bytes are passed on as they arrive, where the rest of the command decides nothing.
const STREAMED: u32 = 16 * 1024;

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

/// What becomes of a command.
#[derive(Debug)]
enum Decision {
    /// It goes on, with the edits that were collected.
    Forward,
    /// These bytes go on in its place; their one reply is the client's.
    Send(Vec<u8>),
    /// It is answered here with these bytes, which are no error.
    Answer(Vec<u8>),
    /// It is refused with this text.
    Refuse(String),
    /// It is refused because the client isn't logged in, or failed to: counted elsewhere.
    Deny(String),
    /// It has been dealt with.
    Done,
    /// It waits until the gate, which was closed, opens.
    Wait,
}

/// A part of a command that is passed on, or dropped, as it arrives.
#[derive(Clone, Copy, Debug)]
struct Body {
    /// Bytes of the current argument that are still to come, without its `\r\n`.
    bytes: u32,
    /// Bytes of the current argument's `\r\n` that are still to come.
    terminator: u8,
    /// Arguments behind the current one.
    arguments: u32,
    /// The command was answered here: the rest of it goes nowhere.
    dropped: bool,
}

/// What the client has asked Redis to do with replies (CLIENT REPLY).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ReplyMode {
    On,
    Off,
    SkipNext,
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
    path: Option<DataPath>,
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

    /// False while every byte from upstream may pass unread.
    pub fn reads_replies(&self) -> bool {
        matches!(self.login, Login::Sent(_)) || self.replies.must_read()
    }

    /// How many of the next client bytes pass on without being looked at. A host that has no more than that may let them
    /// pass unread and say so by [`Rewriter::passed`].
    pub fn passable(&self) -> usize {
        match self.body {
            Some(body) if !body.dropped && self.held.is_empty() && self.gate == Gate::Open => body.bytes as usize,
            _ => 0,
        }
    }

    /// `n` bytes, no more than [`Rewriter::passable`], have passed.
    pub fn passed(&mut self, n: usize) {
        if let Some(body) = &mut self.body {
            body.bytes = body.bytes.saturating_sub(n as u32);
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
                        let (frame, spans) = args::canonical(&args);
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
                if env.ending && env.host.path == DataPath::Direct {
                    // The end of the stream goes on with the login, so nothing could follow it.
                    return true;
                }
                self.gate = Gate::Reply;
                false
            }
            // Credentials have changed, or are there now and weren't before: the next filter must agree.
            Login::Done(done) => {
                let rotated_on_direct = env.host.path == DataPath::Direct && done != 0;
                let undisturbed = !self.transaction.open && !self.subscriber && self.reply_mode == ReplyMode::On;
                if rotated_on_direct || env.host.path == DataPath::Direct && !undisturbed {
                    // Redis keeps a connection that is logged in logged in.
                    return true;
                }
                let form = if env.host.path == DataPath::Direct { Form::Unknown } else { Form::Echo };
                self.inject(env, form, Vec::new(), Then::Capture, sink.write());
                sink.write().extend_from_slice(&command);
                if self.following() {
                    self.replies.expect(Expected::Reply(Shape::Plain));
                }
                // A redis_proxy that refuses a password refuses everything after it, but for commands that it doesn't know.
                self.inject(env, Form::Unknown, Vec::new(), Then::Verify, sink.write());
                self.login = Login::Again(identity);
                self.gate = Gate::Reply;
                false
            }
            Login::Sent(_) if env.ending && env.host.path == DataPath::Direct => true,
            Login::Sent(_) | Login::Again(_) => {
                self.gate = Gate::Reply;
                false
            }
        }
    }

    /// True if every reply from upstream is noted down.
    fn following(&self) -> bool {
        self.resp3 && self.path == Some(DataPath::Proxy)
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
            ReplyMode::SkipNext => self.replies.inject_unanswered(env, Form::Echo, sink.write()),
            ReplyMode::Off => {
                // Nothing would come back that could tell when to close.
                sink.write();
                return self.shut();
            }
        }
        let mut reply = Vec::new();
        encode::error(&mut reply, error.to_string().as_bytes());
        let form = if env.host.path == DataPath::Direct { Form::Unknown } else { Form::Echo };
        self.inject(env, form, reply, Then::Close, sink.write());
        self.gate = Gate::Shut;
    }

    /// Passes on, or drops, what has come of a streamed command. False: nothing more to do.
    fn pass_body(&mut self, env: &Env<'_>, sink: &mut Sink<'_>) -> bool {
        let Some(mut body) = self.body else {
            return true;
        };
        let rest = &sink.buffer[sink.at..];
        let taken;
        if body.bytes > 0 {
            taken = rest.len().min(body.bytes as usize);
            body.bytes -= taken as u32;
        } else if body.terminator > 0 {
            let expected = if body.terminator == 2 { b'\r' } else { b'\n' };
            if rest.first() != Some(&expected) {
                // Half of the command is out already: it can't be taken back, only cut off.
                self.shut();
                return false;
            }
            taken = 1;
            body.terminator -= 1;
        } else {
            match Parser::argument_header(rest, &env.config.limits) {
                Ok(None) => return false,
                Ok(Some((len, header))) => {
                    taken = header;
                    body.bytes = len;
                    body.terminator = 2;
                    body.arguments -= 1;
                }
                Err(_) => {
                    self.shut();
                    return false;
                }
            }
        }
        if body.dropped {
            sink.skip(taken);
        } else {
            sink.pass(taken);
        }
        let done = body.bytes == 0 && body.terminator == 0 && body.arguments == 0;
        self.body = if done { None } else { Some(body) };
        self.gate == Gate::Open
    }

    /// A command isn't complete. If what is still to come of it decides nothing and is long, decides it now. False: wait.
    fn stream(&mut self, env: &mut Env<'_>, parser: &mut Parser, sink: &mut Sink<'_>) -> bool {
        let rest = &sink.buffer[sink.at..];
        if let Some(open) = parser.open_argument().filter(|a| a.len >= STREAMED) {
            let frame = &rest[..open.start as usize];
            let args = Args { frame, spans: parser.args(), count: parser.expected() as usize };
            if self.decides_early(env, &args) {
                let step = self.command(env, &args, sink);
                if let Step::Later = step {
                    parser.reset();
                    return false;
                }
                match step {
                    Step::Verbatim => sink.pass(frame.len()),
                    Step::Edited | Step::Answered | Step::Later => sink.skip(frame.len()),
                }
                let dropped = matches!(step, Step::Answered);
                self.body = Some(Body {
                    bytes: open.len,
                    terminator: 2,
                    arguments: (args.count - args.spans.len() - 1) as u32,
                    dropped,
                });
                parser.reset();
                return self.gate == Gate::Open;
            }
        }
        let most = env.config.limits.max_held_bytes as usize;
        let most = if self.may_command(env) { most } else { most.min(HELD_UNAUTHENTICATED) };
        if rest.len() > most {
            self.protocol_error(env, ProtocolError::TooBigHeld, sink);
        }
        false
    }

    /// Whether a command whose first arguments are there can be decided by them alone.
    fn decides_early(&self, env: &Env<'_>, args: &Args<'_>) -> bool {
        let Some(Known { command, .. }) = Known::of(args) else { return false };
        if args.spans.len() < 2 || session::concerns(command) {
            return false;
        }
        match env.host.path {
            DataPath::Direct if !env.host.keys_decide && !env.host.rewrites_keys => true,
            DataPath::Direct => direct::only_key_is_first(command),
            DataPath::Proxy => command.proxy == Proxy::Simple && direct::only_key_is_first(command),
        }
    }

    /// True where commands that reveal or change credentials are refused: also on a connection that is still logged in by
    /// us though its host no longer asks for it.
    fn guarded(&self, env: &Env<'_>) -> bool {
        let still_ours = env.host.login.is_none() && matches!(self.login, Login::Done(1..));
        env.host.guarded || env.host.path == DataPath::Direct && still_ours
    }

    /// False while the client has to log in first.
    fn may_command(&self, env: &Env<'_>) -> bool {
        self.authenticated || env.host.client_auth.is_none()
    }

    /// Decides a command and does what was decided.
    fn command(&mut self, env: &mut Env<'_>, args: &Args<'_>, sink: &mut Sink<'_>) -> Step {
        if !std::mem::take(&mut self.waited) {
            env.stats.count(Stat::Commands);
        }
        let known = Known::of(args);
        let waited = self.drawn.take();
        if let Some(known) = known
            && waited.is_none()
            && self.plain(env, known, args)
        {
            self.expect_reply(Some(known), args);
            self.unsettled = true;
            return Step::Verbatim;
        }
        let mut plan = std::mem::take(&mut self.plan);
        plan.edits.clear();
        plan.route = None;
        plan.mirrored = false;
        let mut decision = self.decide(env, known, args, &mut plan, sink);
        if let Decision::Forward | Decision::Send(_) = decision {
            let fault = waited.or_else(|| draw(env, args, plan.route));
            if let Some(fault) = fault {
                if !fault.delay.is_zero() {
                    env.stats.count(Stat::FaultDelays);
                    self.gate = Gate::Until(env.now + fault.delay);
                    self.drawn = Some(Injected { delay: Duration::ZERO, ..fault });
                    self.plan = plan;
                    self.waited = true;
                    return Step::Later;
                }
                if fault.error {
                    env.stats.count(Stat::FaultErrors);
                    decision = Decision::Deny("Fault Injected: Error".into());
                }
            }
        }
        let step = self.perform(env, known, args, &plan, decision, sink);
        if plan.edits.capacity() <= 64 {
            self.plan = plan;
        }
        step
    }

    /// The common case, told quickly: a command on one key, of a client that may send it, where no key decides anything.
    fn plain(&self, env: &Env<'_>, known: Known, args: &Args<'_>) -> bool {
        let host = env.host;
        host.plain
            && known.container.proxy == Proxy::Simple
            && self.may_command(env)
            && !self.transaction.open
            && self.reply_mode == ReplyMode::On
            && known.command.accepts(args.count)
            // Not taken for a tag.
            && args.get(1).first() != Some(&1)
    }

    fn decide(
        &mut self,
        env: &mut Env<'_>,
        known: Option<Known>,
        args: &Args<'_>,
        plan: &mut Plan,
        sink: &mut Sink<'_>,
    ) -> Decision {
        let name = known.map(|k| k.container.name).unwrap_or_default();
        if !self.may_command(env) && !matches!(name, "auth" | "hello" | "reset" | "quit") {
            env.stats.count(Stat::Unauthenticated);
            return Decision::Deny("NOAUTH Authentication required.".into());
        }
        let Some(Known { container, command }) = known else {
            return match env.host.path {
                DataPath::Direct => self.direct_unknown(env, args),
                DataPath::Proxy => unknown(args),
            };
        };
        match name {
            "auth" => return self.auth(env, args),
            "hello" => return self.hello(env, args, sink),
            "reset" => return self.reset(env, args, sink),
            "client" if env.host.path == DataPath::Direct => {
                if let Some(refusal) = self.client_reply_out_of_place(args) {
                    return refusal;
                }
            }
            _ => {}
        }
        if self.guarded(env)
            && let Some(reason) = guard::refusal(container, command, args)
        {
            return Decision::Refuse(format!(
                "NOPERM redis-mesh: {} {reason}; allowAdminCommands of the RedisService would permit it",
                command.name.to_ascii_uppercase().replace('|', " ")
            ));
        }
        match env.host.path {
            DataPath::Direct => self.direct(env, command, args, plan),
            DataPath::Proxy => self.proxy(env, container, command, args, plan, sink),
        }
    }

    fn perform(
        &mut self,
        env: &mut Env<'_>,
        known: Option<Known>,
        args: &Args<'_>,
        plan: &Plan,
        decision: Decision,
        sink: &mut Sink<'_>,
    ) -> Step {
        let error = |text: String| {
            let mut out = Vec::new();
            encode::error(&mut out, text.as_bytes());
            out
        };
        match decision {
            Decision::Forward => self.forward(env, known, args, plan, sink),
            Decision::Send(bytes) => {
                self.expect_reply(known, args);
                self.follow_session(known.map(|k| k.container.name).unwrap_or_default(), args);
                sink.write().extend_from_slice(&bytes);
                self.sent();
                Step::Edited
            }
            Decision::Answer(reply) => {
                self.answer(env, reply, sink);
                Step::Answered
            }
            Decision::Refuse(text) => {
                env.stats.count(Stat::Refused);
                self.transaction.dirty |= self.transaction.open;
                self.answer(env, error(text), sink);
                Step::Answered
            }
            Decision::Deny(text) => {
                self.transaction.dirty |= self.transaction.open;
                self.answer(env, error(text), sink);
                Step::Answered
            }
            Decision::Done => Step::Answered,
            Decision::Wait => {
                self.waited = true;
                Step::Later
            }
        }
    }

    /// Answers a command here, as Redis would have by the client's CLIENT REPLY.
    fn answer(&mut self, env: &mut Env<'_>, reply: Vec<u8>, sink: &mut Sink<'_>) {
        match self.reply_mode {
            // Redis must know that a transaction fails.
            ReplyMode::Off if self.transaction.open => {
                self.replies.inject_unanswered(env, Form::Unknown, sink.write());
            }
            ReplyMode::Off => {
                sink.write();
            }
            ReplyMode::SkipNext => {
                // Redis is going to leave one reply out: that of the nonce.
                self.replies.inject_unanswered(env, Form::Echo, sink.write());
                self.reply_mode = ReplyMode::On;
            }
            ReplyMode::On => {
                // redis_proxy answers ECHO itself, in every state. A Redis does not: in MULTI, or to a user who may not.
                let form = if env.host.path == DataPath::Proxy { Form::Echo } else { Form::Unknown };
                self.inject(env, form, reply, Then::Nothing, sink.write());
            }
        }
    }

    /// A command has gone to Redis: what CLIENT REPLY SKIP was about is over.
    fn sent(&mut self) {
        self.unsettled = true;
        if self.reply_mode == ReplyMode::SkipNext {
            self.reply_mode = ReplyMode::On;
        }
    }

    fn expect_reply(&mut self, known: Option<Known>, args: &Args<'_>) {
        if !self.following() {
            return;
        }
        let shape = known.map_or(Shape::Plain, |k| k.command.reply_shape(args));
        if self.transaction.open {
            // QUEUED now, the reply itself in EXEC's.
            self.transaction.shapes.push(shape);
            self.replies.expect(Expected::Reply(Shape::Plain));
        } else {
            self.replies.expect(Expected::Reply(shape));
        }
    }

    /// Sends a command on, and follows what it does to the connection's state.
    fn forward(
        &mut self,
        env: &mut Env<'_>,
        known: Option<Known>,
        args: &Args<'_>,
        plan: &Plan,
        sink: &mut Sink<'_>,
    ) -> Step {
        if plan.mirrored {
            env.stats.count(Stat::Mirrored);
        }
        let name = known.map(|k| k.container.name).unwrap_or_default();
        let mut reply_mode = None;
        match name {
            "exec" | "discard" if self.transaction.open && env.host.path == DataPath::Proxy => {
                self.end_transaction(env, args, name == "exec", sink);
                return Step::Edited;
            }
            "info" if env.host.path == DataPath::Proxy => {
                self.inject(env, Form::Echo, Vec::new(), Then::CaptureInfo, sink.write());
                self.expect_reply(known, args);
                sink.write().extend_from_slice(args.frame);
                self.inject(env, Form::Echo, Vec::new(), Then::Info, sink.write());
                self.sent();
                return Step::Edited;
            }
            // With an argument they are errors that change nothing.
            "exec" | "discard" if args.count == 1 => self.transaction = Transaction::default(),
            "multi" if args.count == 1 && !self.transaction.open => {
                if self.following() {
                    self.replies.expect(Expected::Reply(Shape::Plain));
                }
                self.transaction = Transaction { open: true, ..Transaction::default() };
            }
            "subscribe" | "psubscribe" | "ssubscribe" => self.subscriber = true,
            "client" if args.count == 3 && args.get(1).eq_ignore_ascii_case(b"reply") => {
                reply_mode = match args.get(2).to_ascii_lowercase().as_slice() {
                    b"on" => Some(ReplyMode::On),
                    b"off" => Some(ReplyMode::Off),
                    b"skip" if self.reply_mode != ReplyMode::Off => Some(ReplyMode::SkipNext),
                    _ => None,
                };
            }
            _ => {}
        }
        if name != "multi" {
            self.expect_reply(known, args);
        }
        self.follow_session(name, args);
        self.sent();
        if let Some(mode) = reply_mode {
            self.reply_mode = mode;
        }
        let unchanged = |edit: &ArgEdit| edit.strip == 0 && tag_of(env.host, edit.tag).is_empty();
        if plan.edits.iter().all(unchanged) {
            return Step::Verbatim;
        }
        write_edited(args, &plan.edits, |tag| tag_of(env.host, tag), sink.write());
        Step::Edited
    }

    /// EXEC or DISCARD on `proxy`: what the client pipelines behind it waits until redis_proxy has left the transaction,
    /// since it would count as part of it.
    fn end_transaction(&mut self, env: &mut Env<'_>, args: &Args<'_>, exec: bool, sink: &mut Sink<'_>) {
        let transaction = std::mem::take(&mut self.transaction);
        if exec && (transaction.dirty || args.count != 1) {
            let text = if args.count == 1 { proxy::EXECABORT } else { proxy::EXEC_WITH_ARGUMENTS };
            let mut aborted = Vec::new();
            encode::error(&mut aborted, text.as_bytes());
            self.inject(env, Form::Echo, aborted, Then::Capture, sink.write());
            encode::command(sink.write(), &[b"DISCARD"]);
            if self.following() {
                self.replies.expect(Expected::Reply(Shape::Plain));
            }
        } else {
            sink.write().extend_from_slice(args.frame);
            if self.following() {
                self.replies.expect(match exec {
                    true => Expected::Transaction(transaction.shapes),
                    false => Expected::Reply(Shape::Plain),
                });
            }
        }
        self.inject(env, Form::Echo, Vec::new(), Then::OpenGate, sink.write());
        self.gate = Gate::Reply;
    }

    /// How the next `n` bytes from upstream are to be treated.
    pub fn reply_need(&self, config: &ProxyConfig, n: usize) -> ReplyNeed {
        if matches!(self.login, Login::Sent(_)) {
            return ReplyNeed::All;
        }
        if !self.replies.must_read() {
            return ReplyNeed::Nothing;
        }
        if n > HEAD && self.replies.shaping() || n > self.most_read(config) { ReplyNeed::Head } else { ReplyNeed::All }
    }

    /// How many bytes from upstream may be read at once.
    fn most_read(&self, config: &ProxyConfig) -> usize {
        let limits = &config.limits;
        (if self.replies.shaping() { limits.max_shaped_bytes } else { limits.max_held_bytes }) as usize
    }

    /// Takes bytes from upstream; `out` goes to the client in their place.
    pub fn reply(&mut self, env: &mut Env<'_>, input: &[u8], out: &mut Vec<u8>) -> Edit {
        let mut input = input;
        if let Login::Sent(identity) = self.login {
            let Some(newline) = memchr::memchr(b'\n', input) else {
                let room = GREETING.saturating_sub(self.greeting.len());
                self.greeting.extend_from_slice(&input[..input.len().min(room)]);
                return Edit::Replaced;
            };
            let mut line = std::mem::take(&mut self.greeting);
            line.extend_from_slice(&input[..newline]);
            input = &input[newline + 1..];
            if !accepted(&line, env.host.path) {
                self.login_refused(env, out);
                return Edit::Replaced;
            }
            self.login = Login::Done(identity);
            self.gate = Gate::Open;
            if input.is_empty() {
                return Edit::Replaced;
            }
        }
        let Outcome { open_gate, close, login_refused } = self.replies.take(input, out);
        if login_refused {
            self.login_refused(env, out);
            return Edit::Replaced;
        }
        if close {
            self.shut();
            return Edit::Replaced;
        }
        if open_gate {
            self.unsettled = false;
            if let Login::Again(identity) = self.login {
                self.login = Login::Done(identity);
            }
            if self.gate == Gate::Reply {
                self.gate = Gate::Open;
            }
        }
        self.open_backlog();
        Edit::Replaced
    }

    /// Takes the first of `total` bytes from upstream. Returns how many of them the bytes in `out` replace: all of them, if the
    /// connection is to be closed with an error. `None`: all of them must go to [`Rewriter::reply`].
    pub fn reply_head(&mut self, config: &ProxyConfig, head: &[u8], total: usize, out: &mut Vec<u8>) -> Option<usize> {
        if self.replies.shaping()
            && let Some(consumed) = self.replies.take_head(head, total, out)
        {
            self.open_backlog();
            return Some(consumed);
        }
        if total <= self.most_read(config) {
            return None;
        }
        out.clear();
        encode::error(out, b"ERR redis-mesh: replies of this size, pipelined, can't be given their form");
        self.shut();
        Some(total)
    }

    fn open_backlog(&mut self) {
        let few = self.replies.outstanding() <= BACKLOG_LOW && self.replies.answers() <= BACKLOG_BYTES / 2;
        if self.gate == Gate::Backlog && few {
            self.gate = Gate::Open;
        }
    }

    fn login_refused(&mut self, env: &mut Env<'_>, out: &mut Vec<u8>) {
        env.stats.count(Stat::LoginFailures);
        let destination = env.host.targets.first().map_or("", |t| t.destination.as_str());
        let text = match env.host.path {
            DataPath::Direct => {
                format!("ERR redis-mesh: {destination} refused the login of its RedisDestination")
            }
            DataPath::Proxy => {
                format!("ERR redis-mesh: the configuration of {} is being replaced, try again", env.host.name)
            }
        };
        encode::error(out, text.as_bytes());
        self.shut();
    }
}

/// A command that the table knows.
#[derive(Clone, Copy)]
struct Known {
    /// The row of its name.
    container: &'static Command,
    /// The row of its subcommand, if it has one, else the same.
    command: &'static Command,
}

impl Known {
    fn of(args: &Args<'_>) -> Option<Known> {
        let container = command::lookup(args.get(0))?;
        let subcommand = match container.subcommands {
            [] => None,
            _ => command::lookup_subcommand(container, args.get(1)),
        };
        Some(Known { container, command: subcommand.unwrap_or(container) })
    }
}

/// What was found out of a command on its way to a decision.
#[derive(Debug, Default)]
struct Plan {
    edits: Vec<ArgEdit>,
    /// The route of the first key.
    route: Option<u32>,
    mirrored: bool,
}

fn tag_of(host: &Host, tag: TagRef) -> &[u8] {
    match tag {
        TagRef::None => b"",
        TagRef::Of { target, tag } => {
            host.targets.get(target as usize).and_then(|t| t.tags.get(tag as usize)).map(|t| &**t).unwrap_or_default()
        }
    }
}

/// Draws the fault of a command: its route's, else the host's.
fn draw(env: &mut Env<'_>, args: &Args<'_>, route: Option<u32>) -> Option<Injected> {
    let host = env.host;
    let of_route = route.and_then(|r| host.faults_of(r)).and_then(|f| f.draw(args.get(0), env.random));
    if of_route.is_some() || host.faults.is_empty() {
        return of_route;
    }
    host.faults.draw(args.get(0), env.random)
}

/// Whether the reply to a login says that we are in. redis_proxy always asks for its handshake.
fn accepted(line: &[u8], path: DataPath) -> bool {
    line.strip_suffix(b"\r").unwrap_or(line) == b"+OK" || path == DataPath::Direct && no_password_asked(line)
}

/// Redis's answer to a command that it doesn't know.
fn unknown(args: &Args<'_>) -> Decision {
    let mut shown = String::new();
    for i in 1..args.spans.len() {
        if shown.len() >= 128 {
            break;
        }
        shown.push_str(&format!("'{}' ", args.quoted(i)));
    }
    Decision::Refuse(format!("ERR unknown command '{}', with args beginning with: {shown}", args.quoted(0)))
}
