//! The direction from upstream to the client.

use super::config::RewriterConfig;
use super::env::Env;
use super::gate::{Gate, HEAD, ReplyNeed, StreamEdit};
use super::login::is_accepted;
use super::markers::ReplyEffects;
use super::state::{ConnectionState, LoginState};
use crate::resp::encode;

/// Number of bytes of the reply to the first login that are kept while its line isn't complete.
const GREETING: usize = 256;

impl ConnectionState {
    /// Returns false while every byte from upstream may pass unread.
    pub(super) fn reads_replies(&self) -> bool {
        matches!(self.login, LoginState::Sent(_)) || self.replies.must_read()
    }

    /// Returns how the next `n` bytes from upstream are to be treated.
    pub(super) fn reply_need(&self, config: &RewriterConfig, n: usize) -> ReplyNeed {
        if matches!(self.login, LoginState::Sent(_)) {
            return ReplyNeed::All;
        }
        if !self.replies.must_read() {
            return ReplyNeed::Nothing;
        }
        if n > HEAD && self.replies.shaping() || n > self.most_read(config) { ReplyNeed::Head } else { ReplyNeed::All }
    }

    /// Returns the number of bytes from upstream that may be read at once.
    fn most_read(&self, config: &RewriterConfig) -> usize {
        let limits = &config.limits;
        (if self.replies.shaping() { limits.max_shaped_bytes } else { limits.max_held_bytes }) as usize
    }

    /// Takes bytes from upstream; `out` goes to the client in their place.
    pub(super) fn reply(&mut self, env: &mut Env<'_>, input: &[u8], out: &mut Vec<u8>) -> StreamEdit {
        let mut input = input;
        if let LoginState::Sent(identity) = self.login {
            let Some(newline) = memchr::memchr(b'\n', input) else {
                let room = GREETING.saturating_sub(self.greeting.len());
                self.greeting.extend_from_slice(&input[..input.len().min(room)]);
                return StreamEdit::Replaced;
            };
            let mut line = std::mem::take(&mut self.greeting);
            line.extend_from_slice(&input[..newline]);
            input = &input[newline + 1..];
            if !is_accepted(&line, env.host.path) {
                self.login_refused(env, out);
                return StreamEdit::Replaced;
            }
            self.login = LoginState::Done(identity);
            self.gate = Gate::Open;
            if input.is_empty() {
                return StreamEdit::Replaced;
            }
        }
        let ReplyEffects { open_gate, close, login_refused, allowed } = self.replies.take(input, out);
        if let (Some(allowed), LoginState::Done(identity)) = (allowed, self.login) {
            env.review.answered(identity, allowed);
        }
        if login_refused {
            self.login_refused(env, out);
            return StreamEdit::Replaced;
        }
        if close {
            self.shut();
            return StreamEdit::Replaced;
        }
        if open_gate {
            self.unsettled = false;
            if let LoginState::Again(identity) = self.login {
                self.login = LoginState::Done(identity);
            }
            if self.gate == Gate::Reply {
                self.gate = Gate::Open;
            }
        }
        self.open_backlog();
        StreamEdit::Replaced
    }

    /// Takes the first of `total` bytes from upstream. Returns how many of them the bytes in `out`
    /// replace: all of them, if the connection is to be closed with an error. `None`: all of them
    /// must go to `Rewriter::reply`.
    pub(super) fn reply_head(
        &mut self,
        config: &RewriterConfig,
        head: &[u8],
        total: usize,
        out: &mut Vec<u8>,
    ) -> Option<usize> {
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
}
