//! Commands that are passed on, or dropped, while they arrive: those with long arguments that decide nothing.

use super::*;

/// Arguments of at least this many bytes are passed on as they arrive, where the rest of the command decides nothing.
const STREAMED: u32 = 16 * 1024;

/// A part of a command that is passed on, or dropped, as it arrives.
#[derive(Clone, Copy, Debug)]
pub(super) struct Body {
    /// Bytes of the current argument that are still to come, without its `\r\n`.
    pub(super) bytes: u32,
    /// Bytes of the current argument's `\r\n` that are still to come.
    pub(super) terminator: u8,
    /// Arguments behind the current one.
    pub(super) arguments: u32,
    /// The command was answered here: the rest of it goes nowhere.
    pub(super) dropped: bool,
}

impl Rewriter {
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

    /// Passes on, or drops, what has come of a streamed command. False: nothing more to do.
    pub(super) fn pass_body(&mut self, env: &Env<'_>, sink: &mut Sink<'_>) -> bool {
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
    pub(super) fn stream(&mut self, env: &mut Env<'_>, parser: &mut Parser, sink: &mut Sink<'_>) -> bool {
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
    pub(super) fn decides_early(&self, env: &Env<'_>, args: &Args<'_>) -> bool {
        let Some(Known { command, .. }) = Known::of(args) else { return false };
        if args.spans.len() < 2 || session::concerns(command) {
            return false;
        }
        match env.host.path {
            Path::Direct if !env.host.keys_decide && !env.host.rewrites_keys => true,
            Path::Direct => command.has_one_key,
            Path::Proxy => command.proxy == Proxy::Simple && command.has_one_key,
        }
    }
}
