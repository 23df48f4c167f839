//! Commands without a key: they go to one target that takes all other keys, or to all servers that
//! they concern.

use super::decision::{Decision, Forward};
use super::fan_out::{FanOut, RequestPolicy};
use super::target::RouteTarget;
use crate::command::sharing::sharing;
use crate::command::{Args, Command};
use crate::multiplexer::client::Client;
use crate::multiplexer::reply::key_names::KeyNames;
use crate::multiplexer::reply::scan_cursor::ClientCursor;

/// What becomes of a command without a key.
pub fn keyless(client: &Client, command: &'static Command, args: &Args<'_>) -> Decision {
    let config = &client.rules.config;
    let (policy, sharing) = (RequestPolicy::of(command), sharing(command, args));
    let has_names = policy.returns_key_names() && KeyNames::decide(config);
    if has_names && policy != RequestPolicy::Keys && client.transaction.is_some() {
        return Decision::Refuse(format!(
            "ERR redis-mesh: {} isn't served inside a transaction here",
            command.shown_name()
        ));
    }
    let home = config.home();
    if let Some(target) = home
        && !config.is_cluster(target)
        && !has_names
        && (config.single || !policy.is_for_all())
        && (policy == RequestPolicy::One || !config.has_servers(target))
        && (policy != RequestPolicy::Scan || !config.has_had_servers(target))
    {
        let route = config.router.any().map(|any| any as usize);
        return Decision::Forward(Forward::keyless(RouteTarget { target, slot: None }, route, sharing));
    }
    if home.is_none() && !policy.is_for_all() {
        return Decision::Refuse(format!(
            "ERR redis-mesh: {} has no key, and none of the destinations served here is the one for all other keys",
            command.shown_name()
        ));
    }
    if policy == RequestPolicy::Scan && ClientCursor::parse(args.get(1)).is_none() {
        return Decision::Deny("ERR invalid cursor".into());
    }
    Decision::FanOut(FanOut { command, policy, sharing })
}

/// What becomes of a fan-out in a transaction, which goes to one target.
pub fn in_transaction(fan_out: &FanOut, client: &Client) -> Decision {
    match (fan_out.policy.is_for_all(), client.rules.config.home()) {
        (false, Some(target)) => {
            Decision::Forward(Forward::keyless(RouteTarget { target, slot: None }, None, fan_out.sharing))
        }
        _ => Decision::Refuse(format!(
            "ERR redis-mesh: {} concerns several servers here, and a transaction goes to one",
            fan_out.command.shown_name()
        )),
    }
}
