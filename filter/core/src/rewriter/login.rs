//! What comes before a command: a pause while too many replies are outstanding, and the login of
//! the filter's own, which is that of a RedisDestination on `direct` and the handshake with
//! redis_proxy on `proxy`.

use super::config::{LoginCommand, Path};
use super::env::Env;
use super::gate::Gate;
use super::markers::{MarkerForm, Then};
use super::sink::Sink;
use super::state::{ConnectionState, LoginState};
use super::subscriptions::Subscribed;
use crate::downstream::auth::has_no_password;
use crate::request::privileges::{self, PRIVILEGED};
use crate::resp::encode;
use crate::stats::Stat;

/// More outstanding replies than this close the gate.
const BACKLOG_HIGH: usize = 16 * 1024;
/// The gate opens again when no more replies than this are outstanding.
const BACKLOG_LOW: usize = 8 * 1024;
/// More bytes of answers than this close the gate too, until half of them are out: some answers,
/// such as COMMAND's, are long.
const BACKLOG_BYTES: usize = 1024 * 1024;

impl ConnectionState {
    /// Does what comes before the next command: the login, and a pause when too many replies are
    /// outstanding. False: the command has to wait.
    pub(super) fn ready(&mut self, env: &mut Env<'_>, sink: &mut Sink<'_>) -> bool {
        if env.host.is_refused() {
            self.refuse(env, sink);
            return false;
        }
        if *self.path.get_or_insert(env.host.path) != env.host.path {
            // The next filter of this connection can't become another one.
            self.shut();
            return false;
        }
        if self.replies.outstanding() >= BACKLOG_HIGH || self.replies.answers() >= BACKLOG_BYTES {
            self.gate = Gate::Backlog;
            return false;
        }
        let Some(login) = env.login() else {
            if self.login == LoginState::Due {
                self.login = LoginState::Done(0);
            }
            return true;
        };
        match self.login {
            LoginState::Done(done) if done == login.identity => true,
            LoginState::Due => {
                sink.write().extend_from_slice(&login.bytes);
                self.login = LoginState::Sent(login.identity);
                if env.ending && env.host.path == Path::Direct {
                    // The end of the stream goes on with the login, so nothing could follow it.
                    return true;
                }
                if env.host.path == Path::Direct && env.review.begin(login.identity) {
                    self.ask_about_login(env, login, sink);
                }
                self.gate = Gate::Reply;
                false
            }
            LoginState::Done(done) => self.log_in_again(env, done, login, sink),
            LoginState::Sent(_) if env.ending && env.host.path == Path::Direct => true,
            LoginState::Sent(_) | LoginState::Again(_) => {
                self.gate = Gate::Reply;
                false
            }
        }
    }

    /// Refuses a connection: nothing of the client goes on. Of a connection that was served before, the
    /// replies that are outstanding can't be told from that to a marker.
    fn refuse(&mut self, env: &mut Env<'_>, sink: &mut Sink<'_>) {
        env.stats.count(Stat::Refused);
        if self.path.is_some() {
            return self.shut();
        }
        let mut reply = Vec::new();
        encode::error(&mut reply, env.host.being_replaced().as_bytes());
        self.inject(env, MarkerForm::Hello, reply, Then::Close, sink.write());
        self.gate = Gate::Shut;
    }

    /// Asks Redis what the login may do, before any command of the client.
    fn ask_about_login(&mut self, env: &mut Env<'_>, login: &LoginCommand, sink: &mut Sink<'_>) {
        self.inject(env, MarkerForm::Unknown, Vec::new(), Then::Capture, sink.write());
        for (index, command) in (0..).zip(PRIVILEGED) {
            encode::command(sink.write(), &privileges::question(&login.user, command));
            self.inject(env, MarkerForm::Unknown, Vec::new(), Then::DryRun(index), sink.write());
        }
    }

    /// Credentials have changed since a login with those of identity `done`, or are there now and
    /// weren't before: the next filter must agree. False: the command has to wait.
    fn log_in_again(&mut self, env: &mut Env<'_>, done: u64, login: &LoginCommand, sink: &mut Sink<'_>) -> bool {
        let client = &self.client;
        let is_subscriber = client.subscriptions.any() != Subscribed::No;
        let undisturbed = !client.transaction.open && !is_subscriber && client.reply_mode.is_on();
        if env.host.path == Path::Direct && (done != 0 || !undisturbed) {
            // Redis keeps a connection that is logged in logged in.
            return true;
        }
        // A redis_proxy that refuses a password refuses everything after it, but for commands that
        // it doesn't know.
        let (before, after) = match env.host.path {
            Path::Direct => (MarkerForm::Hello, MarkerForm::Hello),
            Path::Proxy => (MarkerForm::Echo, MarkerForm::Unknown),
        };
        self.inject(env, before, Vec::new(), Then::Capture, sink.write());
        sink.write().extend_from_slice(&login.bytes);
        self.expect_plain();
        self.inject(env, after, Vec::new(), Then::Verify, sink.write());
        self.login = LoginState::Again(login.identity);
        self.gate = Gate::Reply;
        false
    }

    /// Opens a gate that was closed because of outstanding replies, if few are left.
    pub(super) fn open_backlog(&mut self) {
        let few = self.replies.outstanding() <= BACKLOG_LOW && self.replies.answers() <= BACKLOG_BYTES / 2;
        if self.gate == Gate::Backlog && few {
            self.gate = Gate::Open;
        }
    }

    /// Answers a login of the filter's own that was refused, and has the connection closed.
    pub(super) fn login_refused(&mut self, env: &mut Env<'_>, out: &mut Vec<u8>) {
        env.stats.count(Stat::LoginFailures);
        let destination = env.host.targets.first().map_or("", |t| t.destination.as_str());
        let text = match env.host.path {
            Path::Direct => {
                format!("ERR redis-mesh: {destination} refused the login of its RedisDestination")
            }
            Path::Proxy => env.host.being_replaced(),
        };
        encode::error(out, text.as_bytes());
        self.shut();
    }
}

/// Whether the reply to a login says that the connection is logged in. redis_proxy always asks for
/// its handshake.
pub(super) fn is_accepted(line: &[u8], path: Path) -> bool {
    line.strip_suffix(b"\r").unwrap_or(line) == b"+OK" || path == Path::Direct && has_no_password(line)
}
