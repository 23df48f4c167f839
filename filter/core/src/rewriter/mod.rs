//! The machine that edits one client connection: [`Rewriter`].

pub mod config;
mod decide;
mod decision;
mod edits;
mod env;
mod execute;
mod gate;
mod login;
mod login_review;
mod markers;
pub mod node;
mod plan_keys;
mod redis_proxy;
mod replies;
mod session;
mod sink;
mod state;
mod streaming;
mod subscriptions;
mod tcp_proxy;

pub use env::Env;
pub use gate::{Gate, HEAD, ReplyNeed, StreamEdit};
pub use login_review::LoginReview;

use crate::command::{self, Args, Known};
use crate::fault::Injected;
use crate::resp::request::{Parser, Progress, ProtocolError};
use crate::stats::Stat;
use config::RewriterConfig;
use decision::{CommandPlan, CommandStep, PlannedCommand, RewriterDecision};
use sink::Sink;
use state::ConnectionState;
use std::time::Duration;
use streaming::StreamedBody;

/// Number of bytes of a command that are held of a client that has to log in first: as many as
/// Redis takes of such a client.
const HELD_UNAUTHENTICATED: usize = 160 * 1024;

/// A client connection whose two byte streams may only be edited, between the client and the next
/// filter of Envoy.
///
/// A host feeds the rewriter:
///
/// 1. Client bytes: while [`Rewriter::gate`] is open, [`Rewriter::request`]; what it appends to
///    `out` goes on to the next filter. While the gate is closed the host leaves client bytes
///    where they are (so the client feels back-pressure) and calls `request` again, with whatever
///    has gathered, when the gate opens: after a call of [`Rewriter::reply`] that opened it, or at
///    the time that [`Gate::Until`] names, told by [`Rewriter::wake`].
/// 2. Upstream bytes: [`Rewriter::reply_need`] says whether they go to [`Rewriter::reply`] or pass
///    unread.
/// 3. After every call: [`Rewriter::closing`].
///
/// **Invariant:** every command is decided by the configuration that was current when the command
/// was read as a whole, and no byte of a client goes on unless it belongs to a command that was
/// decided.
#[derive(Debug)]
pub struct Rewriter {
    state: ConnectionState,
    input: HeldInput,
    delayed: DelayedCommand,
    /// Kept for the memory of its list.
    plan: CommandPlan,
}

/// Client bytes that have not gone on.
#[derive(Debug, Default)]
struct HeldInput {
    bytes: Vec<u8>,
    /// The bytes haven't been looked at, or the gate closed before they were decided.
    unread: bool,
    parser: Parser,
    /// The rest of the command whose beginning has gone on.
    body: Option<StreamedBody>,
}

/// The next command, if the gate closed when it was decided.
#[derive(Debug, Default)]
struct DelayedCommand {
    /// The command has been counted, and has waited.
    waited: bool,
    /// The fault by which the command was delayed.
    fault: Option<Injected>,
}

impl Rewriter {
    /// Returns a new connection; `connection` is what CLIENT ID answers on `proxy`.
    pub fn new(connection: u64) -> Rewriter {
        Rewriter {
            state: ConnectionState::new(connection),
            input: HeldInput::default(),
            delayed: DelayedCommand::default(),
            plan: CommandPlan::default(),
        }
    }

    /// Whether client bytes are wanted.
    pub fn gate(&self) -> Gate {
        self.state.gate
    }

    /// Opens a gate whose time has come.
    pub fn wake(&mut self, now: Duration) {
        if matches!(self.state.gate, Gate::Until(t) if t <= now) {
            self.state.gate = Gate::Open;
        }
    }

    /// True when the connection is to be closed as soon as what was written to the client is out.
    pub fn closing(&self) -> bool {
        self.state.closing
    }

    /// True if client bytes are held that have to be looked at as soon as the gate opens, whether
    /// or not more of them come.
    pub fn waits(&self) -> bool {
        self.input.unread
    }

    /// Takes client bytes that came while the gate was closed, behind those already held.
    pub fn hold(&mut self, bytes: &[u8]) {
        if self.state.gate != Gate::Shut {
            self.input.bytes.extend_from_slice(bytes);
            self.input.unread = true;
        }
    }

    /// Takes bytes from the client.
    pub fn request(&mut self, env: &mut Env<'_>, input: &[u8], out: &mut Vec<u8>) -> StreamEdit {
        if self.state.gate != Gate::Open {
            self.hold(input);
            return StreamEdit::Replaced;
        }
        let fresh = self.input.bytes.is_empty();
        // Kept in one place while it grows: a long command that comes in small pieces is copied no
        // more than it has to be.
        let mut joined = std::mem::take(&mut self.input.bytes);
        let buffer = if fresh {
            input
        } else {
            joined.extend_from_slice(input);
            joined.as_slice()
        };
        let mut sink = Sink { out, buffer, copied: 0, at: 0 };
        let mut parser = std::mem::take(&mut self.input.parser);
        self.run(env, &mut parser, &mut sink);
        self.input.parser = parser;
        let at = sink.at;
        if fresh && at == buffer.len() && sink.copied == 0 && sink.out.is_empty() {
            return StreamEdit::Unchanged;
        }
        sink.write();
        if self.state.gate == Gate::Shut {
            self.input.bytes = Vec::new();
        } else if fresh || at > 0 {
            self.input.bytes = buffer[at..].to_vec();
        } else {
            self.input.bytes = joined;
        }
        self.input.unread = self.state.gate != Gate::Open && !self.input.bytes.is_empty();
        StreamEdit::Replaced
    }

    fn run(&mut self, env: &mut Env<'_>, parser: &mut Parser, sink: &mut Sink<'_>) {
        while sink.at < sink.buffer.len() {
            if self.input.body.is_some() {
                if !self.pass_body(env, sink) {
                    return;
                }
                continue;
            }
            if !self.state.ready(env, sink) {
                return;
            }
            match parser.parse(sink.rest(), &env.config.limits) {
                Ok(Progress::Complete(len)) => {
                    let step = self.complete(env, parser, len, sink);
                    parser.reset();
                    match step {
                        CommandStep::Verbatim => sink.pass(len),
                        CommandStep::Edited | CommandStep::Answered => sink.skip(len),
                        CommandStep::Later => return,
                    }
                    if self.state.gate != Gate::Open {
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
                Err(error) => return self.state.protocol_error(env, error, sink),
            }
        }
    }

    /// Serves a complete command of `len` bytes. An inline command goes on as an array.
    fn complete(&mut self, env: &mut Env<'_>, parser: &Parser, len: usize, sink: &mut Sink<'_>) -> CommandStep {
        let buffer = sink.buffer;
        let frame = parser.frame(&buffer[sink.at..]);
        let args = Args { frame, spans: parser.args(), count: parser.args().len() };
        if !parser.is_inline() {
            return self.command(env, &Args { frame: &frame[..len], ..args }, sink);
        }
        let (frame, spans) = command::canonical(&args);
        match self.command(env, &Args { frame: &frame, spans: &spans, count: spans.len() }, sink) {
            CommandStep::Verbatim => {
                sink.write().extend_from_slice(&frame);
                CommandStep::Edited
            }
            other => other,
        }
    }

    /// Decides a command and carries out the decision.
    fn command(&mut self, env: &mut Env<'_>, args: &Args<'_>, sink: &mut Sink<'_>) -> CommandStep {
        if !std::mem::take(&mut self.delayed.waited) {
            env.stats.count(Stat::Commands);
        }
        let known = Known::of(args);
        let waited = self.delayed.fault.take();
        if let Some(known) = known
            && waited.is_none()
            && decide::is_plain(&self.state, env, known, args)
        {
            self.state.expect_reply(Some(known), args);
            self.state.unsettled = true;
            return CommandStep::Verbatim;
        }
        let mut command = PlannedCommand { known, args, plan: std::mem::take(&mut self.plan) };
        command.plan.clear();
        let mut decision = decide::decide(&mut self.state, env, &mut command, sink);
        if let RewriterDecision::Forward | RewriterDecision::Send(_) = decision
            && let Some(fault) = waited.or_else(|| env.host.faults.draw(args.get(0), command.plan.route, env.random))
        {
            if !fault.delay.is_zero() {
                env.stats.count(Stat::FaultDelays);
                self.state.gate = Gate::Until(env.now + fault.delay);
                self.delayed.fault = Some(Injected { delay: Duration::ZERO, ..fault });
                decision = RewriterDecision::Wait;
            } else if fault.error {
                env.stats.count(Stat::FaultErrors);
                decision = RewriterDecision::Deny("Fault Injected: Error".into());
            }
        }
        let step = execute::execute(&mut self.state, env, &command, decision, sink);
        self.delayed.waited = step == CommandStep::Later;
        if command.plan.edits.capacity() <= 64 {
            self.plan = command.plan;
        }
        step
    }

    /// Returns the number of client bytes that may pass on without being looked at. A host that
    /// has no more than that may let them pass unread and say so by [`Rewriter::passed`].
    pub fn passable(&self) -> usize {
        match self.input.body {
            Some(body) if !body.dropped && self.input.bytes.is_empty() && self.state.gate == Gate::Open => {
                body.bytes as usize
            }
            _ => 0,
        }
    }

    /// Notes that `n` bytes, no more than [`Rewriter::passable`], have passed.
    pub fn passed(&mut self, n: usize) {
        if let Some(body) = &mut self.input.body {
            body.bytes = body.bytes.saturating_sub(n as u32);
        }
    }

    /// Passes on, or drops, what has come of a streamed command. False: nothing more can be done.
    fn pass_body(&mut self, env: &Env<'_>, sink: &mut Sink<'_>) -> bool {
        let Some(body) = &mut self.input.body else { return true };
        match body.take(sink, &env.config.limits) {
            Ok(false) => return false,
            Ok(true) => {}
            Err(()) => {
                self.state.shut();
                return false;
            }
        }
        if body.is_complete() {
            self.input.body = None;
        }
        self.state.gate == Gate::Open
    }

    /// Looks at a command that isn't complete. If what is still to come of it is long and decides
    /// nothing, the command is decided now. False: more bytes are needed.
    fn stream(&mut self, env: &mut Env<'_>, parser: &mut Parser, sink: &mut Sink<'_>) -> bool {
        let buffer = sink.buffer;
        let rest = &buffer[sink.at..];
        if let Some(open) = parser.open_argument().filter(|a| a.len >= streaming::STREAMED) {
            let frame = &rest[..open.start as usize];
            let args = Args { frame, spans: parser.args(), count: parser.expected() as usize };
            if streaming::decides_early(env, &args) {
                let step = self.command(env, &args, sink);
                let arguments = (args.count - args.spans.len() - 1) as u32;
                parser.reset();
                match step {
                    CommandStep::Later => return false,
                    CommandStep::Verbatim => sink.pass(frame.len()),
                    CommandStep::Edited | CommandStep::Answered => sink.skip(frame.len()),
                }
                let dropped = step == CommandStep::Answered;
                self.input.body = Some(StreamedBody { bytes: open.len, terminator: 2, arguments, dropped });
                return self.state.gate == Gate::Open;
            }
        }
        let most = env.config.limits.max_held_bytes as usize;
        let most = if self.state.may_command(env) { most } else { most.min(HELD_UNAUTHENTICATED) };
        if rest.len() > most {
            self.state.protocol_error(env, ProtocolError::TooBigHeld, sink);
        }
        false
    }

    /// Returns false while every byte from upstream may pass unread.
    pub fn reads_replies(&self) -> bool {
        self.state.reads_replies()
    }

    /// Returns how the next `n` bytes from upstream are to be treated.
    pub fn reply_need(&self, config: &RewriterConfig, n: usize) -> ReplyNeed {
        self.state.reply_need(config, n)
    }

    /// Takes bytes from upstream; `out` goes to the client in their place.
    pub fn reply(&mut self, env: &mut Env<'_>, input: &[u8], out: &mut Vec<u8>) -> StreamEdit {
        let edit = self.state.reply(env, input, out);
        self.forget_if_closing();
        edit
    }

    /// Takes the first of `total` bytes from upstream. Returns how many of them the bytes in `out`
    /// replace: all of them, if the connection is to be closed with an error. `None`: all of them
    /// must go to [`Rewriter::reply`].
    pub fn reply_head(
        &mut self,
        config: &RewriterConfig,
        head: &[u8],
        total: usize,
        out: &mut Vec<u8>,
    ) -> Option<usize> {
        let replaced = self.state.reply_head(config, head, total, out);
        self.forget_if_closing();
        replaced
    }

    /// Frees the bytes that nothing will become of.
    fn forget_if_closing(&mut self) {
        if self.state.closing {
            self.input.bytes = Vec::new();
            self.input.unread = false;
        }
    }
}
