//! Decisions where tcp_proxy follows, so that everything goes to one Redis, but for keys that no
//! route takes.

use super::config::Path;
use super::decision::{PlannedCommand, RewriterDecision};
use super::env::Env;
use super::plan_keys::plan_keys;
use super::state::ConnectionState;
use crate::command::Args;
use crate::request::errors;

/// Decides a command that the table has.
pub(super) fn decide(env: &Env<'_>, command: &mut PlannedCommand<'_>) -> RewriterDecision {
    if !env.host.keys_decide {
        return RewriterDecision::Forward;
    }
    match plan_keys(env.host, command) {
        Ok(()) => RewriterDecision::Forward,
        Err(text) => RewriterDecision::Refuse(text),
    }
}

/// Decides a command that the table doesn't have.
pub(super) fn decide_unknown(state: &ConnectionState, env: &Env<'_>, args: &Args<'_>) -> RewriterDecision {
    // Redis compares names up to a NUL, so the table may have the command that Redis would
    // execute.
    if env.host.path == Path::Proxy || args.get(0).contains(&0) {
        return RewriterDecision::Refuse(errors::unknown_command(args));
    }
    let name = args.quoted(0).to_ascii_uppercase();
    if env.host.keys_decide {
        return RewriterDecision::Refuse(format!(
            "ERR redis-mesh: {name} isn't known here, so its keys can't be found to route by"
        ));
    }
    // It could be an administrative one of a module, or one that is newer than the table.
    if state.guard(env).credentials {
        return RewriterDecision::Refuse(format!(
            "NOPERM redis-mesh: {name} isn't known here and might reveal credentials"
        ));
    }
    RewriterDecision::Forward
}
