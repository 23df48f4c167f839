//! What becomes of a command.

use crate::cluster::slot::slot;
use crate::command::Args;
use crate::command::{self, Command, Flags, Split};
use crate::multiplexer::client::subscription::Change;
use crate::multiplexer::client::transaction::Transaction;
use crate::multiplexer::client::{Client, ReplyMode};
use crate::multiplexer::execute::login::Presented;
use crate::multiplexer::routing::fan_out::FanOut;
use crate::multiplexer::routing::session;
use crate::multiplexer::routing::target::{Edit, RouteTarget, Routing, SubCommand};
use crate::multiplexer::{ClientId, Multiplexer};
use crate::request::errors::{EXEC_WITH_ARGUMENTS, EXECABORT};
use crate::request::guard;
use crate::request::known::Known;
use crate::resp::encode;
use crate::stats::Stat;

/// What becomes of a command.
pub(in crate::multiplexer) enum Decision {
    /// It is answered here.
    Answer(Vec<u8>),
    /// It is refused with this text, which counts as a refusal of ours.
    Refuse(String),
    /// It is denied with this text, as Redis would.
    Deny(String),
    /// It goes to a place, with these changes; `route` is the route of its first key.
    Forward { place: RouteTarget, route: Option<usize>, edits: Vec<Edit>, over: Over },
    /// It goes to several, in parts; for each key, its part.
    Split(Vec<SubCommand>, Vec<usize>),
    /// It concerns all that stands behind, or one of many as well as another.
    FanOut(FanOut),
    /// The transaction is carried out.
    Exec(Transaction),
    /// What has been watched is watched no more; then this is answered.
    Unwatch(Vec<u8>),
    /// Servers are asked whether they let the client in.
    Present(Presented),
    /// Another database is selected.
    Select(u32),
    /// Subscriptions begin or end.
    Subscribe(Change),
    /// The client is told of all commands.
    Monitor,
    /// The connection begins anew.
    Reset,
}

/// Over what kind of connection a command goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::multiplexer) enum Over {
    /// One that many share.
    Shared,
    /// One of its own, until it is answered.
    Dedicated,
    /// One of its own, which watches keys from then on.
    Watching,
    /// One of its own, whose state it changes for good.
    Special,
    /// One of its own, where it finds what the client has written before (WAIT).
    Caught,
}

/// Commands that change the state of a connection, so that they can't stand in a transaction that goes over one that is shared;
/// nor can those of CLIENT, whose connection is another. And those that most servers refuse when they are to be queued.
const NOT_QUEUED: &[&str] = &[
    "asking",
    "module|load",
    "module|loadex",
    "module|unload",
    "monitor",
    "psubscribe",
    "psync",
    "punsubscribe",
    "readonly",
    "readwrite",
    "select",
    "ssubscribe",
    "subscribe",
    "sunsubscribe",
    "sync",
    "unsubscribe",
];

/// Commands by which a replica speaks to its master.
const OF_A_REPLICA: &[&str] = &["psync", "replconf", "sync"];

/// Whether a command exists for clients.
fn is_served(command: &Command) -> bool {
    !OF_A_REPLICA.contains(&command.name) && command.name != "client|unblock"
}

pub(in crate::multiplexer) fn bulk(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    encode::bulk(&mut out, text);
    out
}

pub(in crate::multiplexer) fn number(number: u64) -> Vec<u8> {
    let mut out = Vec::new();
    encode::integer(&mut out, number);
    out
}

pub(in crate::multiplexer) fn ok() -> Decision {
    Decision::Answer(b"+OK\r\n".to_vec())
}

/// A command's name as people write it.
pub(in crate::multiplexer) fn shown(command: &Command) -> String {
    command.name.to_ascii_uppercase().replace('|', " ")
}

/// Where a command goes of which its one key decides everything, so that nothing else has to be looked at; its route, and how
/// many bytes are to be removed from the key. `None`: it isn't such a command, or not at the moment.
#[inline]
pub(in crate::multiplexer) fn directly(
    client: &Client,
    command: &Command,
    args: &Args<'_>,
) -> Option<(RouteTarget, usize, usize)> {
    let is_plain = command.has_one_key
        && !client.config.has_faults
        && client.transaction.is_none()
        && client.drawn.is_none()
        && client.watch.is_none()
        && client.hearing == ReplyMode::On
        && client.may_command()
        && !client.is_subscriber()
        && command.accepts(args.count);
    if is_plain { client.config.place(args.get(1)) } else { None }
}

impl Multiplexer {
    pub(in crate::multiplexer) fn decide(
        &mut self,
        id: ClientId,
        client: &mut Client,
        known: Option<Known>,
        args: &Args<'_>,
    ) -> Decision {
        let name = known.map(|known| known.container.name).unwrap_or_default();
        if !client.may_command() && !matches!(name, "auth" | "hello" | "reset" | "quit") {
            self.count(client, Stat::Unauthenticated);
            return Decision::Deny("NOAUTH Authentication required.".into());
        }
        let Some(Known { container, command }) = known else {
            return doom(client, Decision::Deny(crate::request::errors::unknown_command(args)));
        };
        if container.name == command.name && !container.subcommands.is_empty() && args.count > 1 && name != "command" {
            let text = format!("ERR unknown subcommand '{}'. Try {} HELP.", args.quoted(1), name.to_ascii_uppercase());
            return doom(client, Decision::Deny(text));
        }
        if name == "exec" && args.count > 1 {
            client.transaction = None;
            let mut out = Vec::new();
            encode::error(&mut out, EXEC_WITH_ARGUMENTS.as_bytes());
            return Decision::Unwatch(out);
        }
        if !command.accepts(args.count) {
            let text = format!("ERR wrong number of arguments for '{}' command", command.name);
            return doom(client, Decision::Deny(text));
        }
        if client.config.guarded
            && let Some(reason) = guard::refusal(container, command, args)
        {
            let name = shown(command);
            let text =
                format!("NOPERM redis-mesh: {name} {reason}; allowAdminCommands of the RedisService would permit it");
            return doom(client, Decision::Refuse(text));
        }
        if client.is_subscriber() && Change::of(name).is_none() && !matches!(name, "ping" | "quit" | "reset") {
            let text = format!(
                "ERR Can't execute '{}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context",
                command.name
            );
            return Decision::Deny(text);
        }
        if matches!(name, "cluster" | "clusterscan") && client.config.targets.iter().any(|target| target.is_cluster) {
            return doom(client, Decision::Deny(NO_CLUSTER.into()));
        }
        match (name, client.transaction.is_some()) {
            ("multi", true) => Decision::Deny("ERR MULTI calls can not be nested".into()),
            ("watch", true) => Decision::Deny("ERR WATCH inside MULTI is not allowed".into()),
            ("multi", false) => {
                let watched = client.own.filter(|own| own.is_watching).map(|own| own.place);
                client.transaction = Some(Transaction::at(watched));
                ok()
            }
            ("exec", true) => exec(client),
            ("exec", false) => Decision::Deny("ERR EXEC without MULTI".into()),
            ("discard", true) => {
                client.transaction = None;
                Decision::Unwatch(b"+OK\r\n".to_vec())
            }
            ("discard", false) => Decision::Deny("ERR DISCARD without MULTI".into()),
            ("unwatch", false) => Decision::Unwatch(b"+OK\r\n".to_vec()),
            ("reset", _) => Decision::Reset,
            ("quit", _) => {
                client.is_closing = true;
                ok()
            }
            (_, true) if command.flags.contains(Flags::NO_MULTI) || matches!(name, "auth" | "hello") => {
                doom(client, Decision::Deny("ERR Command not allowed inside a transaction".into()))
            }
            (_, true) if NOT_QUEUED.contains(&command.name) || container.name == "client" => {
                let text = format!("ERR redis-mesh: {} isn't served inside a transaction", shown(command));
                doom(client, Decision::Refuse(text))
            }
            (_, true) if command.name == "script|debug" => doom(client, Decision::Refuse(DEBUGGER.into())),
            (_, true) => {
                let decision = match route(client, command, args) {
                    // It goes wherever the others go.
                    Decision::FanOut(gather) => gather.anywhere(client),
                    other => other,
                };
                doom_if_refused(client, decision)
            }
            (_, false) => self.decide_alone(id, client, container, command, args),
        }
    }

    /// What becomes of a command outside of a transaction.
    fn decide_alone(
        &mut self,
        id: ClientId,
        client: &mut Client,
        container: &Command,
        command: &'static Command,
        args: &Args<'_>,
    ) -> Decision {
        if let Some(change) = Change::of(command.name) {
            return Decision::Subscribe(change);
        }
        match container.name {
            _ if OF_A_REPLICA.contains(&command.name) => {
                Decision::Refuse(format!("ERR redis-mesh: {} needs the direct data path", shown(command)))
            }
            "auth" if client.config.passes_auth => match Presented::by_auth(args) {
                Ok(presented) => Decision::Present(presented),
                Err(text) => Decision::Deny(text),
            },
            "auth" => match self.log_in(client, args) {
                Ok(()) => ok(),
                Err(text) => Decision::Deny(text),
            },
            "hello" => self.hello(id, client, args),
            "select" => session::select(client, args),
            "ping" if client.is_subscriber() => {
                let mut out = b"*2\r\n$4\r\npong\r\n".to_vec();
                encode::bulk(&mut out, args.get(1));
                Decision::Answer(out)
            }
            "ping" if args.count == 1 => Decision::Answer(b"+PONG\r\n".to_vec()),
            "ping" | "echo" => Decision::Answer(bulk(args.get(1))),
            "client" => session::client_command(id, client, command, args),
            "command" => {
                let protocol = if client.resp3 { command::Protocol::Resp3 } else { command::Protocol::Resp2 };
                let mut out = Vec::new();
                command::describe(args, protocol, is_served, &mut out);
                Decision::Answer(out)
            }
            // What stands behind looks like one Redis.
            "asking" | "readonly" | "readwrite" => Decision::Deny(NO_CLUSTER.into()),
            "monitor" => Decision::Monitor,
            // The debugger takes the connection of whoever runs the next script.
            "script" if command.name == "script|debug" && !args.get(2).eq_ignore_ascii_case(b"no") => {
                Decision::Refuse(DEBUGGER.into())
            }
            _ => match route(client, command, args) {
                Decision::Forward { place, route, edits, .. } => {
                    Decision::Forward { place, route, edits, over: over(command, args) }
                }
                other => other,
            },
        }
    }
}

const DEBUGGER: &str = "ERR redis-mesh: SCRIPT DEBUG needs the direct data path";
const NO_CLUSTER: &str = "ERR This instance has cluster support disabled";

fn exec(client: &mut Client) -> Decision {
    let Some(transaction) = client.transaction.take() else { return ok() };
    let is_watching = client.own.is_some_and(|own| own.is_watching);
    if transaction.is_doomed {
        let mut out = Vec::new();
        encode::error(&mut out, EXECABORT.as_bytes());
        return Decision::Unwatch(out);
    }
    if std::mem::take(&mut client.lost_watch) {
        // They may have changed; the client tries again as after a change.
        return Decision::Unwatch(if client.resp3 { b"_\r\n".to_vec() } else { b"*-1\r\n".to_vec() });
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

fn doom_if_refused(client: &mut Client, decision: Decision) -> Decision {
    match decision {
        Decision::Refuse(_) | Decision::Deny(_) => doom(client, decision),
        Decision::Split(parts, _) => doom(client, apart(&parts)),
        other => other,
    }
}

pub(in crate::multiplexer) const CROSS: &str = "CROSSSLOT redis-mesh: keys route to different destinations";
pub(in crate::multiplexer) const CROSS_SLOT: &str = "CROSSSLOT Keys in request don't hash to the same slot";

fn apart(parts: &[SubCommand]) -> Decision {
    let mut targets = parts.iter().map(|part| part.place.target);
    let first = targets.next();
    match targets.all(|target| Some(target) == first) {
        true => Decision::Deny(CROSS_SLOT.into()),
        false => Decision::Refuse(CROSS.into()),
    }
}

/// Over what kind of connection a command goes that stands for itself.
fn over(command: &Command, args: &Args<'_>) -> Over {
    match command.name {
        "watch" => Over::Watching,
        "wait" | "waitaof" => Over::Caught,
        "client|tracking" | "client|no-evict" | "client|no-touch" => Over::Special,
        "xread" | "xreadgroup" => {
            let blocks = (1..args.count).any(|index| args.get(index).eq_ignore_ascii_case(b"block"));
            if blocks { Over::Dedicated } else { Over::Shared }
        }
        _ if command.flags.contains(Flags::BLOCKING) => Over::Dedicated,
        _ => Over::Shared,
    }
}

/// Where a command goes by its keys.
fn route(client: &Client, command: &'static Command, args: &Args<'_>) -> Decision {
    let config = &client.config;
    if command.name == "spublish" {
        // A channel is no key: those who hear it have subscribed there.
        let Some(target) = config.home() else {
            return crate::multiplexer::routing::fan_out::keyless(client, command, args);
        };
        let place = RouteTarget { target, slot: config.is_cluster(target).then(|| slot(args.get(1))) };
        let route = config.router.any().map(|any| any as usize);
        return Decision::Forward { place, route, edits: Vec::new(), over: Over::Shared };
    }
    match config.places(command, args) {
        Routing::Keyless => crate::multiplexer::routing::fan_out::keyless(client, command, args),
        Routing::One { place, route, edits } => {
            Decision::Forward { place, route: Some(route), edits, over: Over::Shared }
        }
        Routing::Several(parts, _) if command.split == Split::No => apart(&parts),
        Routing::Several(parts, owners) => Decision::Split(parts, owners),
        // All keys there are would be right, so the server can say what is wrong.
        Routing::Unclear(_) if let Some(target) = config.plain() => {
            let place = RouteTarget { target, slot: None };
            Decision::Forward { place, route: None, edits: Vec::new(), over: Over::Shared }
        }
        Routing::Unclear(text) => Decision::Deny(text),
        Routing::Nowhere(index) => {
            let shown = args.quoted(index);
            Decision::Refuse(format!("ERR redis-mesh: no route of {} takes the key '{shown}'", config.host))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::multiplexer::config::Document;
    use crate::resp::request::Span;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn what_goes_directly_would_go_there_anyway() {
        let document = serde_json::json!({"name": "n", "revision": 1, "hosts": [{
            "host": "h:6379", "path": "native", "guardCredentials": true,
            "targets": [
                {"destination": "a:6379", "upstream": {"cluster": "a", "login": {"password": "p"}}},
                {"destination": "b:6379", "cluster": true, "upstream": {"cluster": "b", "nodes": "b nodes"}},
            ],
            "routes": [
                {"match": {"prefix": "b:"}, "target": 1, "removePrefix": true},
                {"match": "any", "target": 0},
            ],
        }]});
        let config = Document::from_json(document.to_string().as_bytes()).unwrap().host;
        let mut proxy = Multiplexer::new([1; 32]);
        let mut direct = Vec::new();
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
                    let id = proxy.open(config.clone());
                    let mut client = proxy.clients.lend(id).unwrap();
                    let way = directly(&client, command, &args);
                    let decision = proxy.decide(id, &mut client, Known::of(&args), &args);
                    proxy.clients.give_back(id, client);
                    let Some((place, route, strip)) = way else { continue };
                    direct.push(command.name);
                    match decision {
                        Decision::Forward { place: to, route: Some(by), edits, over: Over::Shared } => {
                            let edit: &[Edit] = if strip > 0 { &[(1, strip)] } else { &[] };
                            assert_eq!((to, by, edits.as_slice()), (place, route, edit), "{words:?}");
                        }
                        _ => panic!("{words:?} is looked at"),
                    }
                }
            }
        }
        for name in ["get", "set", "incr", "hset", "zadd", "lpush", "xadd", "bf.add", "pfadd"] {
            assert!(direct.contains(&name), "{name}");
        }
        let looked_at = ["watch", "blpop", "spublish", "sort", "mget", "migrate", "xread", "eval"];
        assert_eq!(direct.iter().find(|name| looked_at.contains(name)), None);
    }
}
