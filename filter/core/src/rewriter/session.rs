//! Commands about the connection itself: who the client is, which protocol it speaks, what state it is in.

use super::markers::{Expected, Form, Then};
use super::{Decision, Env, Gate, Login, Rewriter, Sink, Transaction};
use crate::command::{Args, Command};
use crate::config::Path;
use crate::downstream::auth::{self, Credentials};
use crate::downstream::client_info::ClientInfo;
use crate::downstream::client_name;
use crate::downstream::client_reply::ReplyMode;
use crate::downstream::hello::{self, Hello};
use crate::request::errors;
use crate::resp::encode;
use crate::resp::resp3::Shape;
use crate::stats::Stat;

/// True for commands that change or depend on the state of the connection, so that all of them must be there.
pub fn concerns(command: &Command) -> bool {
    use crate::command::Categories;
    command.categories.intersects(Categories::CONNECTION) || command.categories.intersects(Categories::TRANSACTION)
}

impl Rewriter {
    /// A command that isn't allowed in the connection's present state.
    fn out_of_place(&self, name: &str) -> Option<Decision> {
        if self.transaction.open {
            return Some(Decision::Refuse(errors::NOT_IN_MULTI.into()));
        }
        if self.subscriber && !self.resp3 {
            return Some(Decision::Refuse(errors::not_for_subscribers(name)));
        }
        None
    }

    /// True if the client's own AUTH reaches Redis: nothing of ours asks for one or logs in.
    fn auth_goes_through(&self, env: &Env<'_>) -> bool {
        env.host.path == Path::Direct && env.host.client_auth.is_none() && env.host.login.is_none()
    }

    /// AUTH.
    pub(super) fn auth(&mut self, env: &mut Env<'_>, args: &Args<'_>) -> Decision {
        if self.auth_goes_through(env) {
            return Decision::Forward;
        }
        if let Some(refusal) = self.out_of_place("auth") {
            return refusal;
        }
        match Credentials::of_auth(args).map(|credentials| self.log_in(env, credentials)) {
            Ok(Ok(())) => Decision::Answer(b"+OK\r\n".to_vec()),
            Ok(Err(denied)) => denied,
            Err(text) => Decision::Refuse(text),
        }
    }

    /// Checks a client's credentials; what to answer if they are wrong.
    fn log_in(&mut self, env: &mut Env<'_>, credentials: Credentials<'_>) -> Result<(), Decision> {
        let Some(text) = credentials.refusal(env.host.client_auth.as_ref()) else {
            self.authenticated |= env.host.client_auth.is_some();
            return Ok(());
        };
        env.stats.count(Stat::AuthFailures);
        Err(Decision::Deny(text.into()))
    }

    /// HELLO [version [AUTH user password] [SETNAME name]].
    pub(super) fn hello(&mut self, env: &mut Env<'_>, args: &Args<'_>, sink: &mut Sink<'_>) -> Decision {
        if let Some(refusal) = self.out_of_place("hello") {
            return refusal;
        }
        let Hello { resp3, credentials, name } = match Hello::parse(args) {
            Ok(hello) => hello,
            Err(text) => return Decision::Refuse(text),
        };
        let resp3 = resp3.unwrap_or(self.resp3);
        if self.auth_goes_through(env) {
            return Decision::Forward;
        }
        match credentials {
            Some((username, password))
                if self.log_in(env, Credentials { username: Some(username), password }).is_err() =>
            {
                return Decision::Deny(auth::WRONGPASS.into());
            }
            None if env.host.client_auth.is_some() && !self.authenticated => {
                env.stats.count(Stat::Unauthenticated);
                return Decision::Deny(hello::NOAUTH.into());
            }
            Some(_) | None => {}
        }
        if env.host.path == Path::Direct {
            if credentials.is_none() {
                return Decision::Forward;
            }
            let mut command: Vec<&[u8]> = vec![b"HELLO", args.get(1)];
            if let Some(name) = name {
                command.extend([&b"SETNAME"[..], name]);
            }
            let mut out = Vec::new();
            encode::command(&mut out, &command);
            return Decision::Send(out);
        }
        if let Some(name) = name {
            if let Err(text) = client_name::check(name) {
                return Decision::Refuse(text.into());
            }
            self.name = name.to_vec();
        }
        let reply = hello::reply(resp3, self.connection);
        let then = if resp3 == self.resp3 { Then::Nothing } else { Then::Shaping(resp3) };
        self.inject(env, Form::Echo, reply, then, sink.write());
        self.resp3 = resp3;
        Decision::Done
    }

    /// RESET.
    pub(super) fn reset(&mut self, env: &mut Env<'_>, args: &Args<'_>, sink: &mut Sink<'_>) -> Decision {
        if args.count != 1 {
            return Decision::Refuse(errors::wrong_arity("reset"));
        }
        if env.host.path == Path::Direct && env.host.login.is_none() {
            // What it does is followed when it goes on: a fault may come before.
            return Decision::Forward;
        }
        let in_transaction = self.transaction.open && self.transaction.refused.is_none();
        let in_resp3 = self.resp3;
        self.forget();
        let done = b"+RESET\r\n".to_vec();
        match (env.host.path, env.host.login.clone()) {
            (Path::Direct, None) => Decision::Forward,
            (Path::Direct, Some(_)) if self.reply_mode != ReplyMode::On => {
                // Replies were off, RESET turns them on: where ours begin can't be told.
                self.shut();
                Decision::Done
            }
            (Path::Direct, Some(login)) => {
                // Redis has forgotten the login: it is done again before anything else, and neither reply of the two is
                // the client's.
                self.resp3 = false;
                self.inject(env, Form::Unknown, done, Then::Capture, sink.write());
                encode::command(sink.write(), &[b"RESET"]);
                sink.write().extend_from_slice(&login);
                self.inject(env, Form::Hello, Vec::new(), Then::Verify, sink.write());
                // Behind the client's last byte nothing can follow: what is left goes on at once, and a first login that is
                // still under way is what the next reply answers.
                if !env.ending {
                    self.login = Login::Again(env.host.login_identity);
                    self.gate = Gate::Reply;
                }
                Decision::Done
            }
            (Path::Proxy, _) => {
                let then = if in_transaction { Then::Capture } else { Then::Nothing };
                self.inject(env, Form::Echo, done, then, sink.write());
                if in_transaction {
                    encode::command(sink.write(), &[b"DISCARD"]);
                    if in_resp3 {
                        self.replies.expect(Expected::Reply(Shape::Plain));
                    }
                    self.close_gate(env, sink);
                }
                if in_resp3 {
                    self.inject(env, Form::Echo, Vec::new(), Then::Shaping(false), sink.write());
                }
                self.resp3 = false;
                Decision::Done
            }
        }
    }

    /// A CLIENT REPLY that Redis would take in another way than we follow it: in a transaction (an error, or put off until
    /// EXEC, by version), or with words that end at a NUL.
    pub(super) fn client_reply_out_of_place(&self, args: &Args<'_>) -> Option<Decision> {
        let subcommand = args.get(1).split(|&b| b == 0).next().unwrap_or_default();
        if !subcommand.eq_ignore_ascii_case(b"reply") {
            return None;
        }
        if (1..3).any(|i| args.get(i).contains(&0)) {
            return Some(Decision::Refuse(errors::SYNTAX.into()));
        }
        let refusal = || Decision::Refuse(errors::NOT_IN_MULTI.into());
        self.transaction.open.then(refusal)
    }

    /// What RESET undoes, but for the protocol and CLIENT REPLY.
    fn forget(&mut self) {
        self.watch_refused = false;
        self.authenticated = false;
        self.name = Vec::new();
        self.subscriber = false;
        self.transaction = Transaction::default();
    }

    /// HELLO or RESET has gone on to Redis.
    pub(super) fn follow_session(&mut self, name: &str, args: &Args<'_>) {
        match name {
            "hello" if args.get(1) == b"3" => self.resp3 = true,
            "hello" if args.get(1) == b"2" => self.resp3 = false,
            "reset" => {
                self.forget();
                self.resp3 = false;
                self.reply_mode = ReplyMode::On;
                // Redis has forgotten a login of ours, too.
                self.login = Login::Done(0);
            }
            _ => {}
        }
    }

    /// CLIENT, where the connection to Redis is shared and says nothing about this client.
    pub(super) fn client(&mut self, args: &Args<'_>) -> Decision {
        let ok = Decision::Answer(b"+OK\r\n".to_vec());
        let subcommand = args.get(1).to_ascii_lowercase();
        match (subcommand.as_slice(), args.count) {
            (b"setname", 3) => match client_name::check(args.get(2)) {
                Ok(()) => {
                    self.name = args.get(2).to_vec();
                    ok
                }
                Err(text) => Decision::Refuse(text.into()),
            },
            (b"getname", 2) => {
                let mut out = Vec::new();
                match self.name.is_empty() {
                    true => out.extend_from_slice(if self.resp3 { b"_\r\n" } else { b"$-1\r\n" }),
                    false => encode::bulk(&mut out, &self.name),
                }
                Decision::Answer(out)
            }
            (b"setinfo", 4) => client_name::check_info(args).map_or_else(Decision::Refuse, |()| ok),
            (b"id", 2) => {
                let mut out = Vec::new();
                encode::integer(&mut out, self.connection);
                Decision::Answer(out)
            }
            (b"info", 2) => {
                let info =
                    ClientInfo { id: self.connection, name: &self.name, resp3: self.resp3, ..ClientInfo::default() };
                let mut out = Vec::new();
                encode::text(&mut out, self.resp3, &info.to_string());
                Decision::Answer(out)
            }
            (b"no-evict" | b"no-touch", 3) => ok,
            (b"reply", 3) if args.get(2).eq_ignore_ascii_case(b"on") => ok,
            (b"", _) => Decision::Refuse(errors::wrong_arity("client")),
            _ => {
                Decision::Refuse(super::redis_proxy::needs(&format!("CLIENT {}", args.quoted(1).to_ascii_uppercase())))
            }
        }
    }
}
