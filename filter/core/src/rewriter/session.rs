//! Commands about the connection itself: who the client is, which protocol it speaks, what state
//! the connection is in.

use super::config::{LoginCommand, Path};
use super::decision::{RewriterDecision, needs};
use super::env::Env;
use super::gate::Gate;
use super::markers::{MarkerForm, Then};
use super::sink::Sink;
use super::state::{ClientState, ConnectionState, LoginState};
use super::subscriptions::Subscribed;
use crate::command::{Args, Categories, Command};
use crate::downstream::auth::{self, Credentials};
use crate::downstream::client_info::ClientInfo;
use crate::downstream::client_name;
use crate::downstream::client_reply::ReplyMode;
use crate::downstream::hello::{self, Hello, ServerRelease};
use crate::request::errors;
use crate::resp::encode;
use crate::stats::Stat;

/// True for commands that change or depend on the state of the connection, so that all of them
/// must be there.
pub(super) fn concerns(command: &Command) -> bool {
    command.categories.intersects(Categories::CONNECTION) || command.categories.intersects(Categories::TRANSACTION)
}

/// Refuses a command that isn't allowed in the connection's present state.
fn out_of_place(client: &ClientState, name: &str) -> Option<RewriterDecision> {
    if client.transaction.open {
        return Some(RewriterDecision::Refuse(errors::NOT_IN_MULTI.into()));
    }
    if client.subscriptions.any() == Subscribed::Yes && !client.resp3 {
        return Some(RewriterDecision::Refuse(errors::not_for_subscribers(name)));
    }
    None
}

/// True if the client's own AUTH reaches Redis: the filter neither asks for a login nor logs in.
fn auth_goes_through(env: &Env<'_>) -> bool {
    env.host.path == Path::Direct && env.host.client_auth.is_none() && env.host.login.is_none()
}

/// Decides AUTH.
pub(super) fn auth(state: &mut ConnectionState, env: &mut Env<'_>, args: &Args<'_>) -> RewriterDecision {
    if auth_goes_through(env) {
        return RewriterDecision::Forward;
    }
    if let Some(refusal) = out_of_place(&state.client, "auth") {
        return refusal;
    }
    match Credentials::of_auth(args).map(|credentials| log_in(&mut state.client, env, credentials)) {
        Ok(Ok(())) => RewriterDecision::Answer(b"+OK\r\n".to_vec()),
        Ok(Err(text)) => RewriterDecision::Deny(text.into()),
        Err(text) => RewriterDecision::Refuse(text),
    }
}

/// Checks a client's credentials.
///
/// # Errors
/// The answer to AUTH if the credentials are wrong.
fn log_in(client: &mut ClientState, env: &mut Env<'_>, credentials: Credentials<'_>) -> Result<(), &'static str> {
    let Some(text) = credentials.refusal(env.host.client_auth.as_ref()) else {
        client.authenticated |= env.host.client_auth.is_some();
        return Ok(());
    };
    env.stats.count(Stat::AuthFailures);
    Err(text)
}

/// Decides `HELLO [version [AUTH user password] [SETNAME name]]`.
pub(super) fn hello(
    state: &mut ConnectionState,
    env: &mut Env<'_>,
    args: &Args<'_>,
    sink: &mut Sink<'_>,
) -> RewriterDecision {
    let is_subscriber = state.client.subscriptions.any() != Subscribed::No && !state.client.resp3;
    let is_on_direct = env.host.path == Path::Direct;
    if is_on_direct && is_subscriber && !state.client.transaction.open && state.may_command(env) {
        // Redis knows best whether a subscription is left, and then refuses whatever HELLO says. A login
        // that HELLO brings is checked when none is.
        if auth_goes_through(env) || !(1..args.count).any(|index| args.is_word(index, b"auth")) {
            return RewriterDecision::Forward;
        }
    }
    if let Some(refusal) = out_of_place(&state.client, "hello") {
        return refusal;
    }
    let Hello { resp3, credentials, name } = match Hello::parse(args) {
        Ok(hello) => hello,
        Err(text) => return RewriterDecision::Refuse(text),
    };
    if auth_goes_through(env) {
        return RewriterDecision::Forward;
    }
    if let Some((username, password)) = credentials {
        let credentials = Credentials { username: Some(username), password };
        if log_in(&mut state.client, env, credentials).is_err() {
            return RewriterDecision::Deny(auth::WRONGPASS.into());
        }
    } else if !state.may_command(env) {
        env.stats.count(Stat::Unauthenticated);
        return RewriterDecision::Deny(hello::NOAUTH.into());
    }
    if env.host.path == Path::Direct {
        if credentials.is_none() {
            return RewriterDecision::Forward;
        }
        let mut command: Vec<&[u8]> = vec![b"HELLO", args.get(1)];
        if let Some(name) = name {
            command.extend([&b"SETNAME"[..], name]);
        }
        let mut out = Vec::new();
        encode::command(&mut out, &command);
        return RewriterDecision::Send(out);
    }
    if let Some(name) = name {
        if let Err(text) = client_name::check(name) {
            return RewriterDecision::Refuse(text.into());
        }
        state.client.name = name.to_vec();
    }
    let resp3 = resp3.unwrap_or(state.client.resp3);
    let reply = hello::reply(resp3, state.client.id, &ServerRelease::default());
    let then = if resp3 == state.client.resp3 { Then::Nothing } else { Then::Shaping(resp3) };
    state.inject(env, MarkerForm::Echo, reply, then, sink.write());
    state.client.resp3 = resp3;
    RewriterDecision::Done
}

/// Decides RESET.
pub(super) fn reset(
    state: &mut ConnectionState,
    env: &mut Env<'_>,
    args: &Args<'_>,
    sink: &mut Sink<'_>,
) -> RewriterDecision {
    if args.count != 1 {
        return RewriterDecision::Refuse(errors::wrong_arity("reset"));
    }
    match (env.host.path, env.login()) {
        // What RESET does is followed when it goes on: a fault may come before.
        (Path::Direct, None) => return RewriterDecision::Forward,
        (Path::Direct, Some(login)) => reset_on_direct(state, env, login, sink),
        (Path::Proxy, _) => reset_on_proxy(state, env, sink),
    }
    RewriterDecision::Done
}

/// Redis forgets the login of the filter's own: it is done again before anything else, and neither
/// of the two replies is the client's.
fn reset_on_direct(state: &mut ConnectionState, env: &mut Env<'_>, login: &LoginCommand, sink: &mut Sink<'_>) {
    state.client.forget();
    if !state.client.reply_mode.is_on() {
        // Replies were off, RESET turns them on: where those of the filter's own begin can't be
        // told.
        return state.shut();
    }
    state.client.resp3 = false;
    state.inject(env, MarkerForm::Unknown, b"+RESET\r\n".to_vec(), Then::Capture, sink.write());
    encode::command(sink.write(), &[b"RESET"]);
    sink.write().extend_from_slice(&login.bytes);
    state.inject(env, MarkerForm::Hello, Vec::new(), Then::Verify, sink.write());
    // Behind the client's last byte nothing can follow: what is left goes on at once, and a first
    // login that is still under way is what the next reply answers.
    if !env.ending {
        state.login = LoginState::Again(login.identity);
        state.gate = Gate::Reply;
    }
}

/// The connections behind redis_proxy are shared, so only the filter's own state is reset, and a
/// transaction of redis_proxy.
fn reset_on_proxy(state: &mut ConnectionState, env: &mut Env<'_>, sink: &mut Sink<'_>) {
    let in_transaction = state.client.transaction.open && state.client.transaction.refused.is_none();
    let in_resp3 = state.client.resp3;
    state.client.forget();
    let then = if in_transaction { Then::Capture } else { Then::Nothing };
    state.inject(env, MarkerForm::Echo, b"+RESET\r\n".to_vec(), then, sink.write());
    if in_transaction {
        encode::command(sink.write(), &[b"DISCARD"]);
        state.expect_plain();
        state.close_gate(env, sink);
    }
    if in_resp3 {
        state.inject(env, MarkerForm::Echo, Vec::new(), Then::Shaping(false), sink.write());
    }
    state.client.resp3 = false;
}

/// Refuses a CLIENT REPLY that Redis would take in another way than the filter follows it: in a
/// transaction (an error, or put off until EXEC, by version), or with words that end at a NUL.
pub(super) fn client_reply_out_of_place(client: &ClientState, args: &Args<'_>) -> Option<RewriterDecision> {
    if !args.is_word(1, b"reply") {
        return None;
    }
    if (1..3).any(|i| args.get(i).contains(&0)) {
        return Some(RewriterDecision::Refuse(errors::SYNTAX.into()));
    }
    let refusal = || RewriterDecision::Refuse(errors::NOT_IN_MULTI.into());
    client.transaction.open.then(refusal)
}

/// Follows what HELLO and RESET, which have gone on to Redis, do to the connection.
pub(super) fn follow(state: &mut ConnectionState, name: &str, args: &Args<'_>) {
    match name {
        // Redis refuses it while a subscription is left.
        "hello" if state.client.subscriptions.any() == Subscribed::Yes && !state.client.resp3 => {}
        "hello" if args.get(1) == b"3" => state.client.resp3 = true,
        "hello" if args.get(1) == b"2" => state.client.resp3 = false,
        "reset" => {
            state.client.forget();
            state.client.resp3 = false;
            state.client.reply_mode = ReplyMode::On;
            // Redis has forgotten a login of the filter's own, too.
            state.login = LoginState::Done(0);
        }
        _ => {}
    }
}

/// Decides CLIENT where the connection to Redis is shared, so that Redis knows nothing about this
/// client.
pub(super) fn client(client: &mut ClientState, args: &Args<'_>) -> RewriterDecision {
    let ok = RewriterDecision::Answer(b"+OK\r\n".to_vec());
    let mut out = Vec::new();
    let subcommand = args.get(1).to_ascii_lowercase();
    match (subcommand.as_slice(), args.count) {
        (b"setname", 3) => match client_name::check(args.get(2)) {
            Ok(()) => {
                client.name = args.get(2).to_vec();
                return ok;
            }
            Err(text) => return RewriterDecision::Refuse(text.into()),
        },
        (b"setinfo", 4) => return client_name::check_info(args).map_or_else(RewriterDecision::Refuse, |()| ok),
        (b"no-evict" | b"no-touch", 3) => return ok,
        (b"reply", 3) if args.get(2).eq_ignore_ascii_case(b"on") => return ok,
        (b"getname", 2) if client.name.is_empty() => {
            out.extend_from_slice(if client.resp3 { b"_\r\n" } else { b"$-1\r\n" });
        }
        (b"getname", 2) => encode::bulk(&mut out, &client.name),
        (b"id", 2) => encode::integer(&mut out, client.id),
        (b"info", 2) => {
            let info = ClientInfo { id: client.id, name: &client.name, resp3: client.resp3, ..ClientInfo::default() };
            encode::text(&mut out, client.resp3, &info.to_string());
        }
        (b"", _) => return RewriterDecision::Refuse(errors::wrong_arity("client")),
        _ => {
            let name = args.quoted(1).to_ascii_uppercase();
            return RewriterDecision::Refuse(needs(&format!("CLIENT {name}")));
        }
    }
    RewriterDecision::Answer(out)
}
