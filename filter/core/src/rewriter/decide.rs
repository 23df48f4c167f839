//! The decision about a command.

use super::config::Path;
use super::decision::{PlannedCommand, RewriterDecision};
use super::env::Env;
use super::sink::Sink;
use super::state::ConnectionState;
use super::{redis_proxy, session, tcp_proxy};
use crate::command::{Args, Known, Proxy};
use crate::downstream::maintenance;
use crate::request::{errors, needs_no_login};
use crate::stats::Stat;

/// Tells the common case quickly: a command on one key, of a client that may send it, where no key
/// decides anything.
pub(super) fn is_plain(state: &ConnectionState, env: &Env<'_>, known: Known, args: &Args<'_>) -> bool {
    env.host.plain
        && known.container.proxy == Proxy::Simple
        && state.may_command(env)
        && !state.client.transaction.open
        && state.client.reply_mode.is_on()
        && known.command.accepts(args.count)
        && !known.command.strays()
        // Not taken for a tag.
        && args.get(1).first() != Some(&1)
}

/// Decides a command.
pub(super) fn decide(
    state: &mut ConnectionState,
    env: &mut Env<'_>,
    command: &mut PlannedCommand<'_>,
    sink: &mut Sink<'_>,
) -> RewriterDecision {
    let name = command.name();
    if !state.may_command(env) && !needs_no_login(name) {
        env.stats.count(Stat::Unauthenticated);
        return RewriterDecision::Deny(errors::NOAUTH.into());
    }
    let Some(known) = command.known else { return tcp_proxy::decide_unknown(state, env, command.args) };
    match name {
        "auth" => return session::auth(state, env, command.args),
        "hello" => return session::hello(state, env, command.args, sink),
        "reset" => return session::reset(state, env, command.args, sink),
        "client" if env.host.path == Path::Direct => {
            if let Some(text) = maintenance::refusal(command.args) {
                return RewriterDecision::Deny(text);
            }
            if let Some(refusal) = session::client_reply_out_of_place(&state.client, command.args) {
                return refusal;
            }
        }
        _ => {}
    }
    if let Some(text) = state.guard(env).error(known, command.args) {
        return RewriterDecision::Refuse(text);
    }
    match env.host.path {
        Path::Direct => tcp_proxy::decide(env, command),
        Path::Proxy => redis_proxy::decide(state, env, known, command, sink),
    }
}
