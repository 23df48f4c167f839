//! What comes from upstream.

use super::*;

impl Rewriter {
    /// False while every byte from upstream may pass unread.
    pub fn reads_replies(&self) -> bool {
        matches!(self.login, Login::Sent(_)) || self.replies.must_read()
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
    pub(super) fn most_read(&self, config: &ProxyConfig) -> usize {
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

    pub(super) fn open_backlog(&mut self) {
        let few = self.replies.outstanding() <= BACKLOG_LOW && self.replies.answers() <= BACKLOG_BYTES / 2;
        if self.gate == Gate::Backlog && few {
            self.gate = Gate::Open;
        }
    }

    pub(super) fn login_refused(&mut self, env: &mut Env<'_>, out: &mut Vec<u8>) {
        env.stats.count(Stat::LoginFailures);
        let destination = env.host.targets.first().map_or("", |t| t.destination.as_str());
        let text = match env.host.path {
            Path::Direct => {
                format!("ERR redis-mesh: {destination} refused the login of its RedisDestination")
            }
            Path::Proxy => {
                format!("ERR redis-mesh: the configuration of {} is being replaced, try again", env.host.name)
            }
        };
        encode::error(out, text.as_bytes());
        self.shut();
    }
}

/// Whether the reply to a login says that we are in. redis_proxy always asks for its handshake.
fn accepted(line: &[u8], path: Path) -> bool {
    line.strip_suffix(b"\r").unwrap_or(line) == b"+OK" || path == Path::Direct && has_no_password(line)
}
