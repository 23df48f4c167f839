//! Deciding what becomes of a command.

use super::decision::{Decision, Forward};
use super::fan_out::{FanOut, RequestPolicy};
use super::keyless::{in_transaction, keyless};
use super::session;
use super::target::{RouteTarget, Routing, SubCommand};
use crate::command::sharing::{self, Shareable, Sharing, sharing};
use crate::command::{self, Args, Command, Flags, Known, Split};
use crate::multiplexer::client::Client;
use crate::multiplexer::client::login::PresentedLogin;
use crate::multiplexer::client::subscription::SubscriptionChange;
use crate::multiplexer::client::transaction::Transaction;
use crate::multiplexer::config::HostConfig;
use crate::multiplexer::stats::StatsTable;
use crate::request::errors::{self, CROSSSLOT, EXEC_WITH_ARGUMENTS, EXECABORT};
use crate::request::keys::KeyRefusal;
use crate::request::needs_no_login;

use crate::resp::encode;
use crate::stats::Stat;
use std::sync::OnceLock;

/// Commands by which a replica speaks to its master.
const OF_A_REPLICA: &[&str] = &["psync", "replconf", "sync"];

const DEBUGGER: &str = "ERR redis-mesh: SCRIPT DEBUG needs the direct data path";
const NO_CLUSTER: &str = "ERR This instance has cluster support disabled";

/// Whether a command exists for clients.
fn is_served(command: &Command) -> bool {
    !OF_A_REPLICA.contains(&command.name)
}

/// Where a command goes whose one key decides everything, so that nothing else has to be looked
/// at.
pub struct FastPath {
    /// Where it goes.
    pub target: RouteTarget,
    /// Its route.
    pub route: usize,
    /// How many bytes are removed from the beginning of its key, argument 1.
    pub strip: usize,
    /// It may travel over a shared connection.
    pub shareable: Shareable,
}

/// The fast path of a command; `None`: it isn't such a command, or not at the moment.
#[inline]
pub fn fast_path(client: &Client, command: &Command, args: &Args<'_>) -> Option<FastPath> {
    let shareable = Shareable::of_one_key(command)?;
    let is_plain = !client.rules.config.has_faults
        && client.transaction.is_none()
        && client.dedicated.state.is_none()
        && client.pause.injected_fault.is_none()
        && client.activity.latency.is_none()
        && client.session.reply_mode.is_on()
        && client.may_command()
        && !client.is_subscriber()
        && command.accepts(args.count);
    if !is_plain {
        return None;
    }
    let (target, route, strip) = client.rules.config.place(args.get(1))?;
    Some(FastPath { target, route, strip, shareable })
}

/// Decides what becomes of a command. What it changes of the client's session is changed.
pub fn decide(client: &mut Client, known: Option<Known>, args: &Args<'_>, stats: &mut StatsTable) -> Decision {
    let name = known.map(|known| known.container.name).unwrap_or_default();
    if !client.may_command() && !needs_no_login(name) {
        client.count(Stat::Unauthenticated, stats);
        return Decision::Deny(errors::NOAUTH.into());
    }
    let Some(Known { container, command }) = known else {
        return doom(client, Decision::Deny(errors::unknown_command(args)));
    };
    if let Some(decision) = refuse(client, container, command, args) {
        return decision;
    }
    if let Some(decision) = decide_by_name(client, name) {
        return decision;
    }
    if client.transaction.is_some() {
        queue(client, container, command, args)
    } else {
        alone(client, container, command, args, stats)
    }
}

/// What forbids a command whatever else it says.
fn refuse(
    client: &mut Client,
    container: &'static Command,
    command: &'static Command,
    args: &Args<'_>,
) -> Option<Decision> {
    let name = container.name;
    let config = &client.rules.config;
    if container.name == command.name && !container.subcommands.is_empty() && args.count > 1 && name != "command" {
        return Some(doom(client, Decision::Deny(errors::unknown_subcommand(container, args))));
    }
    if name == "exec" && args.count > 1 {
        client.transaction = None;
        return Some(Decision::Unwatch(error(EXEC_WITH_ARGUMENTS)));
    }
    if !command.accepts(args.count) {
        return Some(doom(client, Decision::Deny(errors::wrong_arity(command.name))));
    }
    if let Some(text) = config.auth.guard.error(Known { container, command }, args) {
        return Some(doom(client, Decision::Refuse(text)));
    }
    let is_of_subscribers = SubscriptionChange::of(name).is_some() || matches!(name, "ping" | "quit" | "reset");
    if client.is_subscriber() && !is_of_subscribers {
        return Some(Decision::Deny(errors::not_for_subscribers(command.name)));
    }
    if matches!(name, "cluster" | "clusterscan") && config.targets.iter().any(|target| target.is_cluster) {
        return Some(doom(client, Decision::Deny(NO_CLUSTER.into())));
    }
    None
}

/// Commands that are about the transaction or the connection.
fn decide_by_name(client: &mut Client, name: &str) -> Option<Decision> {
    let decision = match (name, client.transaction.is_some()) {
        ("multi", true) => Decision::Deny(errors::NESTED_MULTI.into()),
        ("watch", true) => Decision::Deny(errors::WATCH_IN_MULTI.into()),
        ("multi", false) => {
            let watched = client.dedicated.connection.filter(|dedicated| dedicated.is_watching);
            client.transaction = Some(Transaction::at(watched.map(|dedicated| dedicated.target)));
            Decision::ok()
        }
        ("exec", true) => exec(client),
        ("exec", false) => Decision::Deny(errors::without_multi("EXEC")),
        ("discard", true) => {
            client.transaction = None;
            Decision::Unwatch(b"+OK\r\n".to_vec())
        }
        ("discard", false) => Decision::Deny(errors::without_multi("DISCARD")),
        ("unwatch", false) => Decision::Unwatch(b"+OK\r\n".to_vec()),
        ("reset", _) => Decision::Reset,
        ("quit", _) => {
            client.begin_closing();
            Decision::ok()
        }
        _ => return None,
    };
    Some(decision)
}

/// What becomes of a command inside of a transaction.
fn queue(client: &mut Client, container: &'static Command, command: &'static Command, args: &Args<'_>) -> Decision {
    if command.flags.contains(Flags::NO_MULTI) || matches!(container.name, "auth" | "hello") {
        return doom(client, Decision::Deny(errors::NOT_IN_MULTI.into()));
    }
    if !sharing::may_be_queued(command) {
        let text = format!("ERR redis-mesh: {} isn't served inside a transaction", command.shown_name());
        return doom(client, Decision::Refuse(text));
    }
    if command.name == "script|debug" {
        return doom(client, Decision::Refuse(DEBUGGER.into()));
    }
    let decision = match route(client, command, args) {
        // It goes wherever the others go.
        Decision::FanOut(fan_out) => in_transaction(&fan_out, client),
        other => other,
    };
    match decision {
        Decision::Refuse(_) | Decision::Deny(_) => doom(client, decision),
        Decision::Split(parts, ..) => {
            let refusal = apart(&client.rules.config, &parts);
            doom(client, refusal)
        }
        other => other,
    }
}

/// What becomes of a command outside of a transaction.
fn alone(
    client: &mut Client,
    container: &'static Command,
    command: &'static Command,
    args: &Args<'_>,
    stats: &mut StatsTable,
) -> Decision {
    if let Some(change) = SubscriptionChange::of(command.name) {
        return Decision::Subscribe(change);
    }
    match container.name {
        _ if OF_A_REPLICA.contains(&command.name) => {
            Decision::Refuse(format!("ERR redis-mesh: {} needs the direct data path", command.shown_name()))
        }
        "auth" if client.rules.config.auth.passes_auth => match PresentedLogin::by_auth(args) {
            Ok(presented) => Decision::Present(presented),
            Err(text) => Decision::Deny(text),
        },
        "auth" => session::auth(client, args, stats),
        "hello" => session::hello(client, args, stats),
        "select" => session::select(client, args),
        "ping" if client.is_subscriber() => {
            let mut out = b"*2\r\n$4\r\npong\r\n".to_vec();
            encode::bulk(&mut out, args.get(1));
            Decision::Answer(out)
        }
        "ping" => ping(client, command, args),
        "echo" => Decision::bulk(args.get(1)),
        "client" => session::client_command(client, command, args),
        "command" => Decision::Answer(describe(args, client.session.resp3)),
        // What stands behind looks like one Redis.
        "asking" | "readonly" | "readwrite" => Decision::Deny(NO_CLUSTER.into()),
        "monitor" => Decision::Monitor,
        // The debugger takes the connection of whoever runs the next script.
        "script" if command.name == "script|debug" && !args.is_word(2, b"no") => Decision::Refuse(DEBUGGER.into()),
        _ => route(client, command, args),
    }
}

/// PING asks whether Redis is there: the one that takes commands without a key or, where there is
/// none, any.
fn ping(client: &Client, command: &'static Command, args: &Args<'_>) -> Decision {
    match client.rules.config.home() {
        Some(_) => keyless(client, command, args),
        None => Decision::FanOut(FanOut { command, policy: RequestPolicy::Any, sharing: sharing(command, args) }),
    }
}

/// The reply to COMMAND. That about all commands is written once, since it takes a millisecond.
fn describe(args: &Args<'_>, resp3: bool) -> Vec<u8> {
    static ALL: [OnceLock<Vec<u8>>; 2] = [OnceLock::new(), OnceLock::new()];
    let write = || {
        let protocol = if resp3 { command::Protocol::Resp3 } else { command::Protocol::Resp2 };
        let mut out = Vec::new();
        command::describe(args, protocol, is_served, &mut out);
        out
    };
    let [resp2_all, resp3_all] = &ALL;
    let all = if resp3 { resp3_all } else { resp2_all };
    if args.count == 1 { all.get_or_init(write).clone() } else { write() }
}

fn error(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    encode::error(&mut out, text.as_bytes());
    out
}

fn exec(client: &mut Client) -> Decision {
    let Some(transaction) = client.transaction.take() else { return Decision::ok() };
    let is_watching = client.dedicated.connection.is_some_and(|dedicated| dedicated.is_watching);
    if transaction.is_doomed {
        return Decision::Unwatch(error(EXECABORT));
    }
    if std::mem::take(&mut client.dedicated.lost_watch) {
        // The keys may have changed; the client tries again as after a change.
        return Decision::Unwatch(client.session.nil_array().to_vec());
    }
    if transaction.len() == 0 && !is_watching {
        return Decision::Answer(b"*0\r\n".to_vec());
    }
    Decision::Exec(transaction)
}

/// An error inside of a transaction is remembered until EXEC.
fn doom(client: &mut Client, decision: Decision) -> Decision {
    if let Some(transaction) = &mut client.transaction {
        transaction.is_doomed = true;
    }
    decision
}

/// The refusal of a command that can't be split.
fn apart(config: &HostConfig, parts: &[SubCommand]) -> Decision {
    let mut targets = parts.iter().map(|part| part.target);
    let first = targets.next();
    let others = targets.filter_map(|other| first.map(|first| config.apart(first, other)));
    match others.into_iter().find(|text| *text != CROSSSLOT) {
        None => Decision::Deny(CROSSSLOT.into()),
        Some(text) => Decision::Refuse(text.into()),
    }
}

/// Where a command goes by its keys.
fn route(client: &Client, command: &'static Command, args: &Args<'_>) -> Decision {
    let config = &client.rules.config;
    let sharing = sharing(command, args);
    // A channel is no key: those who hear it have subscribed there.
    if let Some(home) = config.home()
        && (command.name == "spublish" || command.name == "publish" && config.has_servers(home))
    {
        let route = config.router.any().map(|any| any as usize);
        return Decision::Forward(Forward::keyless(config.target_of(home, args.get(1)), route, sharing));
    }
    match config.routing(command, args) {
        Routing::Keyless => keyless(client, command, args),
        Routing::One { target, route, edits } => {
            Decision::Forward(Forward { target, route: Some(route), edits, sharing })
        }
        Routing::Several(parts, owners) => match sharing {
            Sharing::Safe(shareable) if command.split != Split::No => Decision::Split(parts, owners, shareable),
            _ => apart(config, &parts),
        },
        Routing::Refused(refusal) => refused(client, &refusal, sharing),
    }
}

/// What becomes of a command whose keys can't be routed.
fn refused(client: &Client, refusal: &KeyRefusal, sharing: Sharing) -> Decision {
    let config = &client.rules.config;
    match refusal {
        KeyRefusal::NoRoute(..) | KeyRefusal::Patterns | KeyRefusal::ReturnsNames(_) => {
            Decision::Refuse(refusal.to_string())
        }
        KeyRefusal::Syntax
        | KeyRefusal::Count(..)
        | KeyRefusal::Arity(_)
        | KeyRefusal::Subcommand(_)
        | KeyRefusal::Untold(_) => {
            match config.plain() {
                // All keys there are would be right, so the server can say what is wrong.
                Some(target) => Decision::Forward(Forward::keyless(RouteTarget { target, slot: None }, None, sharing)),
                None => Decision::Deny(refusal.to_string()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::target::KeyEdit;
    use super::*;
    use crate::multiplexer::config::ListenerConfig;
    use crate::multiplexer::ids::ClientId;
    use crate::resp::request::Span;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn document() -> serde_json::Value {
        serde_json::json!({"name": "n", "revision": 1, "hosts": [{
            "host": "h:6379", "path": "native", "guardCredentials": true,
            "targets": [
                {"destination": "a:6379", "upstream": {"cluster": "a", "login": {"password": "p"}}},
                {"destination": "b:6379", "cluster": true, "upstream": {"cluster": "b", "nodes": "b nodes"}},
            ],
            "routes": [
                {"match": {"prefix": "b:"}, "target": 1, "removePrefix": true},
                {"match": "any", "target": 0},
            ],
        }]})
    }

    #[test]
    fn the_fast_path_leads_where_the_long_way_leads() {
        let config = ListenerConfig::from_json(document().to_string().as_bytes()).unwrap().host;
        let mut stats = StatsTable::default();
        let mut fast = Vec::new();
        for container in command::all() {
            for command in std::iter::once(container).chain(container.subcommands) {
                for key in ["b:k", "k"] {
                    let mut words: Vec<&str> = command.name.split('|').collect();
                    words.resize(usize::from(command.arity.unsigned_abs()).max(words.len()), key);
                    let (mut frame, mut spans) = (Vec::new(), Vec::new());
                    for word in &words {
                        spans.push(Span { start: frame.len() as u32, len: word.len() as u32 });
                        frame.extend_from_slice(word.as_bytes());
                    }
                    let args = Args { frame: &frame, spans: &spans, count: spans.len() };
                    let host = stats.enter(&config);
                    let mut client = Client::new(ClientId::of_number(1), config.clone(), host);
                    let way = fast_path(&client, command, &args);
                    let decision = decide(&mut client, Known::of(&args), &args, &mut stats);
                    let Some(FastPath { target, route, strip, shareable }) = way else { continue };
                    fast.push(command.name);
                    match decision {
                        Decision::Forward(forward) => {
                            let edits: &[KeyEdit] = if strip > 0 { &[(1, strip)] } else { &[] };
                            assert_eq!((forward.target, forward.route), (target, Some(route)), "{words:?}");
                            let sharing = Sharing::Safe(shareable);
                            assert_eq!((forward.edits.as_slice(), forward.sharing), (edits, sharing), "{words:?}");
                        }
                        _ => panic!("{words:?} is looked at"),
                    }
                }
            }
        }
        for name in ["get", "set", "incr", "hset", "zadd", "lpush", "xadd", "bf.add", "pfadd"] {
            assert!(fast.contains(&name), "{name}");
        }
        let looked_at = ["watch", "blpop", "spublish", "sort", "mget", "migrate", "xread", "eval"];
        assert_eq!(fast.iter().find(|name| looked_at.contains(name)), None);
    }
}
