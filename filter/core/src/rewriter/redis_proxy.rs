//! Decisions where redis_proxy follows: which tag the argument gets that redis_proxy routes by,
//! and which commands redis_proxy must never see.

use super::decision::{CommandPlan, PlannedCommand, RewriterDecision, needs};
use super::edits::{ArgEdit, TagRef};
use super::env::Env;
use super::plan_keys::plan_keys;
use super::session;
use super::sink::Sink;
use super::state::{ClientState, ConnectionState, OpenTransaction};
use crate::command::{self, Args, Command, Known, Protocol, Proxy, Split};
use crate::downstream::hello::REDIS_VERSION;
use crate::hex::write_upper;
use crate::request::errors::{self, CROSS_DESTINATION, EXECABORT};
use crate::request::keys::KeyRefusal;
use crate::resp::encode;
use std::fmt::Write;

/// Sections of INFO that redis_proxy leaves out.
const NOT_IN_INFO: &[&[u8]] = &[
    b"persistence",
    b"replication",
    b"modules",
    b"commandstats",
    b"errorstats",
    b"latencystats",
    b"all",
    b"everything",
    b"default",
];

const LIKE_A_TAG: &str = "a key that begins with the byte 0x01";

/// Decides a command that the table has.
pub(super) fn decide(
    state: &mut ConnectionState,
    env: &mut Env<'_>,
    known: Known,
    planned: &mut PlannedCommand<'_>,
    sink: &mut Sink<'_>,
) -> RewriterDecision {
    let Known { container, command } = known;
    if state.client.transaction.open {
        return in_transaction(&mut state.client, env, known, planned);
    }
    if container.proxy == Proxy::Simple {
        // Most commands: none of the names below.
        if !command.accepts(planned.args.count) {
            return wrong_arity(command);
        }
        planned.plan.strays = strays(env, command);
        if planned.plan.strays && state.unsettled {
            return state.settle(env, sink);
        }
        return by_keys(env, known, planned);
    }
    match container.name {
        "client" => return session::client(&mut state.client, planned.args),
        "command" => {
            let protocol = if state.client.resp3 { Protocol::Resp3 } else { Protocol::Resp2 };
            let mut out = Vec::new();
            command::describe(planned.args, protocol, Command::is_on_proxy, &mut out);
            return RewriterDecision::Answer(out);
        }
        _ if !command.accepts(planned.args.count) => return wrong_arity(command),
        // redis_proxy runs a transaction on a connection of its own, where it would overtake what
        // was sent before.
        "multi" if state.unsettled && !must_refuse_multi(&state.client, env) => return state.settle(env, sink),
        _ => {}
    }
    of_connection(&mut state.client, env, container, planned.args)
        .or_else(|| of_server(&state.client, env, known, planned.args))
        .unwrap_or_else(|| by_kind(env, known, planned))
}

fn must_refuse_multi(client: &ClientState, env: &Env<'_>) -> bool {
    client.watch_refused || !env.host.single_destination
}

/// Decides commands about the connection.
fn of_connection(
    client: &mut ClientState,
    env: &mut Env<'_>,
    container: &Command,
    args: &Args<'_>,
) -> Option<RewriterDecision> {
    let single = env.host.single_destination;
    let ok = RewriterDecision::Answer(b"+OK\r\n".to_vec());
    Some(match container.name {
        "ping" => ping(env, args),
        "echo" | "quit" => RewriterDecision::Forward,
        "select" => match args.get(1) {
            b"0" => ok,
            _ => RewriterDecision::Refuse(needs("SELECT other than 0")),
        },
        "unwatch" => {
            client.watch_refused = false;
            ok
        }
        "watch" => {
            client.watch_refused = true;
            RewriterDecision::Refuse(needs("WATCH"))
        }
        "multi" if must_refuse_multi(client, env) => {
            let reason = if single { needs("WATCH") } else { several(env, "a transaction") };
            client.transaction = OpenTransaction { open: true, refused: Some(reason), ..OpenTransaction::default() };
            ok
        }
        "multi" => RewriterDecision::Forward,
        "exec" | "discard" => RewriterDecision::Deny(errors::without_multi(&container.shown_name())),
        _ => return None,
    })
}

/// PING goes where commands without a key go. redis_proxy would answer it by itself, so a read of a
/// key that nobody has stands for it. Where there is no such place, redis_proxy is all that answers.
fn ping(env: &mut Env<'_>, args: &Args<'_>) -> RewriterDecision {
    let mut pong = b"+PONG\r\n".to_vec();
    if args.count == 2 {
        pong.clear();
        encode::bulk(&mut pong, args.get(1));
    }
    let host = env.host;
    let tag: &[u8] = match host.router.default_route().and_then(|route| host.targets.get(route.target as usize)) {
        Some(target) => target.tags.first().map(|tag| &**tag).unwrap_or_default(),
        None if host.single_destination => b"",
        None if args.count == 2 => return RewriterDecision::Send(encoded(&[b"ECHO", args.get(1)])),
        None => return RewriterDecision::Forward,
    };
    let mut name = [0; 32];
    write_upper(&env.random.secret()[..16], &mut name);
    let key = [tag, b"redis-mesh:ping:", &name].concat();
    RewriterDecision::Ping { read: encoded(&[b"GET", &key]), pong }
}

/// Decides commands about servers, as far as redis_proxy doesn't serve them as Redis does.
fn of_server(client: &ClientState, env: &Env<'_>, known: Known, args: &Args<'_>) -> Option<RewriterDecision> {
    let Known { container, command } = known;
    let single = env.host.single_destination;
    let upper = container.shown_name();
    let refusal = match container.name {
        // redis_proxy's second number is wrong.
        "time" => return Some(RewriterDecision::Answer(time(env))),
        "info" if !single => return Some(RewriterDecision::Answer(info(client, env))),
        // The only server answers by itself. redis_proxy routes by an argument, which must be there.
        "info" if !leads_to_a_cluster(env) => {
            let default = RewriterDecision::Send(encoded(&[b"INFO", b"default"]));
            return Some(if args.count == 1 { default } else { RewriterDecision::Forward });
        }
        // redis_proxy looks at the first section only, and of some it knows nothing: an empty
        // reply.
        "info" if args.count > 2 => needs("INFO of several sections"),
        "info" if NOT_IN_INFO.iter().any(|section| args.get(1).eq_ignore_ascii_case(section)) => {
            needs(&format!("INFO {}", args.quoted(1)))
        }
        // redis_proxy answers with an array of the shards' answers, though there be one.
        "role" => needs("ROLE"),
        "object" | "config" | "slowlog" if command.own_name() == "help" => needs(&format!("{upper} HELP")),
        "scan" if single && leads_to_a_cluster(env) => {
            // redis_proxy strings the shards' answers together, which is no answer to SCAN.
            "ERR redis-mesh: SCAN over a Redis Cluster needs the native data path".into()
        }
        // The debugger would take the connection of whoever runs the next script.
        "script" if command.own_name() == "debug" && !args.get(2).eq_ignore_ascii_case(b"no") => {
            "ERR redis-mesh: SCRIPT DEBUG needs the direct data path".into()
        }
        "eval" | "evalsha" if args.count < 4 => needs(&format!("{upper} without a key or an argument")),
        _ => return None,
    };
    Some(RewriterDecision::Refuse(refusal))
}

/// Decides a command by how redis_proxy treats it.
fn by_kind(env: &mut Env<'_>, known: Known, planned: &mut PlannedCommand<'_>) -> RewriterDecision {
    let (single, upper) = (env.host.single_destination, known.container.shown_name());
    match known.container.proxy {
        Proxy::Unsupported | Proxy::Local | Proxy::Transaction => RewriterDecision::Refuse(needs(&upper)),
        Proxy::Simple | Proxy::Eval | Proxy::Object | Proxy::SplitKeys | Proxy::SplitPairs => {
            by_keys(env, known, planned)
        }
        Proxy::Scan | Proxy::AllShards | Proxy::RandomShard if !single => {
            RewriterDecision::Refuse(several(env, &format!("{upper}, which has no key,")))
        }
        // By the hash of a key, redis_proxy would reach some of the endpoints, and say OK.
        Proxy::Scan | Proxy::AllShards | Proxy::RandomShard if env.host.several_endpoints => RewriterDecision::Refuse(
            format!("ERR redis-mesh: {upper}, which has no key, would reach some endpoints of {} only", env.host.name),
        ),
        Proxy::Scan | Proxy::AllShards | Proxy::RandomShard
            if known.command.returns_keys && env.host.router.rewrites_keys() =>
        {
            let refusal = KeyRefusal::ReturnsNames(known.container.name);
            RewriterDecision::Refuse(refusal.to_string())
        }
        Proxy::Scan | Proxy::AllShards | Proxy::RandomShard => RewriterDecision::Forward,
    }
}

fn by_keys(env: &mut Env<'_>, known: Known, planned: &mut PlannedCommand<'_>) -> RewriterDecision {
    match keyed(env, known, planned) {
        Ok(()) => RewriterDecision::Forward,
        Err(text) => RewriterDecision::Refuse(text),
    }
}

/// Routes a command by its keys.
///
/// # Errors
/// The error for the client.
fn keyed(env: &mut Env<'_>, known: Known, planned: &mut PlannedCommand<'_>) -> Result<(), String> {
    let Known { container, command } = known;
    let host = env.host;
    if host.single_destination {
        not_like_a_tag(container, planned.args)?;
    }
    if !host.keys_decide {
        return Ok(());
    }
    plan_keys(host, planned)?;
    let plan = &mut planned.plan;
    if host.single_destination {
        remains_like_a_tag(planned.args, &plan.edits)?;
    }
    let Some(first) = plan.edits.first().map(target_of) else { return keyless(env, known, plan) };
    if command.split == Split::No && plan.edits.iter().any(|edit| target_of(edit) != first) {
        return Err(CROSS_DESTINATION.into());
    }
    draw_mirrors(env, command, plan);
    // redis_proxy takes the tag off the argument that it routes by, and off no other.
    if let Some(arg) = routed_by(container) {
        tag_only(arg, &mut plan.edits);
    }
    Ok(())
}

/// A command without a key, such as PUBLISH or a script without keys: it goes where every key
/// goes, and is mirrored as the commands of those are.
fn keyless(env: &mut Env<'_>, known: Known, plan: &mut CommandPlan) -> Result<(), String> {
    if !env.host.single_destination {
        let name = known.container.shown_name();
        return Err(several(env, &format!("{name}, which has no key,")));
    }
    if let (Some(any), Some(arg)) = (env.host.router.default_route(), routed_by(known.container)) {
        let mask = mirrors(env, any.target, known.command);
        plan.mirrored = mask != 0;
        plan.edits.push(ArgEdit { arg, strip: 0, tag: TagRef::Of { target: any.target, tag: mask } });
    }
    Ok(())
}

/// The target of a key's route.
fn target_of(edit: &ArgEdit) -> u32 {
    match edit.tag {
        TagRef::Of { target, .. } => target,
        TagRef::None => 0,
    }
}

/// Draws the mirrors of each target of a command: keys of one target are mirrored together or not
/// at all.
fn draw_mirrors(env: &mut Env<'_>, command: &Command, plan: &mut CommandPlan) {
    let mut drawn: Vec<(u32, u32)> = Vec::new();
    for edit in &mut plan.edits {
        let target = target_of(edit);
        let mirrored = env.host.targets.get(target as usize).is_some_and(|t| !t.mirrors.is_empty());
        let mask = match drawn.iter().find(|(t, _)| *t == target) {
            Some(&(_, mask)) => mask,
            None if mirrored => {
                let mask = mirrors(env, target, command);
                drawn.push((target, mask));
                mask
            }
            None => 0,
        };
        plan.mirrored |= mask != 0;
        edit.tag = TagRef::Of { target, tag: mask };
    }
}

/// Draws the mirrors of a command, as a bit mask.
fn mirrors(env: &mut Env<'_>, target: u32, command: &Command) -> u32 {
    let Some(target) = env.host.targets.get(target as usize) else {
        return 0;
    };
    let mut mask = 0;
    for (i, mirror) in target.mirrors.iter().enumerate() {
        let excluded = mirror.exclude_read_commands && command.is_read();
        if !excluded && env.random.chance(mirror.per_million) {
            mask |= 1 << i;
        }
    }
    mask
}

/// Puts the tag of the first edit before argument `arg`, and before no other.
fn tag_only(arg: u32, edits: &mut Vec<ArgEdit>) {
    let tag = edits.first().map_or(TagRef::None, |edit| edit.tag);
    for edit in edits.iter_mut() {
        edit.tag = if edit.arg == arg { tag } else { TagRef::None };
    }
    if edits.iter().all(|edit| edit.arg != arg) {
        let at = edits.partition_point(|edit| edit.arg < arg);
        edits.insert(at, ArgEdit { arg, strip: 0, tag });
    }
}

fn in_transaction(
    client: &mut ClientState,
    env: &Env<'_>,
    known: Known,
    planned: &mut PlannedCommand<'_>,
) -> RewriterDecision {
    let Known { container, command } = known;
    let error = |text: &str| {
        let mut out = Vec::new();
        encode::error(&mut out, text.as_bytes());
        // An answer, not a refusal: as in Redis, the transaction goes on.
        RewriterDecision::Answer(out)
    };
    if let Some(reason) = client.transaction.refused.clone() {
        return in_refused_transaction(client, container.name, reason);
    }
    match container.name {
        "multi" => return error(errors::NESTED_MULTI),
        "watch" => return error(errors::WATCH_IN_MULTI),
        // Redis discards the transaction whose EXEC it refuses.
        "exec" => return RewriterDecision::Forward,
        "discard" if planned.args.count == 1 => return RewriterDecision::Forward,
        "quit" => return RewriterDecision::Forward,
        _ if !command.accepts(planned.args.count) => return wrong_arity(command),
        _ => {}
    }
    let supported = match container.proxy {
        // Inside a transaction no detour is taken.
        Proxy::Simple => !strays(env, command),
        Proxy::SplitPairs => true,
        Proxy::SplitKeys => container.name != "exists",
        _ => false,
    };
    if !supported {
        return RewriterDecision::Refuse(needs(&format!("{} inside a transaction", container.shown_name())));
    }
    match untagged(env, container, planned) {
        Ok(()) => RewriterDecision::Forward,
        Err(text) => RewriterDecision::Refuse(text),
    }
}

/// Routes a command of a transaction, inside of which redis_proxy takes no tag off.
fn untagged(env: &Env<'_>, container: &Command, planned: &mut PlannedCommand<'_>) -> Result<(), String> {
    not_like_a_tag(container, planned.args)?;
    if env.host.keys_decide {
        plan_keys(env.host, planned)?;
        remains_like_a_tag(planned.args, &planned.plan.edits)?;
        for edit in &mut planned.plan.edits {
            edit.tag = TagRef::None;
        }
    }
    Ok(())
}

/// A transaction that can't be served: its commands are refused one by one, as Redis refuses them
/// for other reasons, and EXEC fails. Were MULTI itself refused, what a client has pipelined
/// behind it would run alone.
fn in_refused_transaction(client: &mut ClientState, name: &str, reason: String) -> RewriterDecision {
    match name {
        "quit" => return RewriterDecision::Forward,
        "exec" | "discard" => {
            client.transaction = OpenTransaction::default();
            client.watch_refused = false;
        }
        _ => return RewriterDecision::Refuse(reason),
    }
    match name {
        "exec" => RewriterDecision::Deny(EXECABORT.into()),
        _ => RewriterDecision::Answer(b"+OK\r\n".to_vec()),
    }
}

/// INFO of a host with several destinations: the fields that clients look for when they connect.
fn info(client: &ClientState, env: &Env<'_>) -> Vec<u8> {
    let mut text = format!(
        "# Server\r\nredis_version:{REDIS_VERSION}\r\nredis_mode:standalone\r\n# Persistence\r\nloading:0\r\n# Replication\r\nrole:master\r\n# Redis-mesh\r\n"
    );
    for target in &env.host.targets {
        let _ = write!(text, "destination:{}\r\n", target.destination);
    }
    let mut out = Vec::new();
    encode::text(&mut out, client.resp3, &text);
    out
}

/// True for a command that redis_proxy sends to the wrong node of a Redis Cluster, which redirects
/// it to the right one.
fn strays(env: &Env<'_>, command: &Command) -> bool {
    command.strays() && leads_to_a_cluster(env)
}

/// The argument by which redis_proxy routes a command; `None`: several of them.
fn routed_by(container: &Command) -> Option<u32> {
    match container.proxy {
        Proxy::SplitKeys | Proxy::SplitPairs => None,
        Proxy::Eval => Some(3),
        Proxy::Object => Some(2),
        _ => Some(1),
    }
}

/// Without a tag of the filter before it, an argument that begins like a tag would be taken for
/// one.
fn not_like_a_tag(container: &Command, args: &Args<'_>) -> Result<(), String> {
    let like_a_tag = |i: usize| args.get(i).first() == Some(&1);
    let found = match (routed_by(container), container.proxy) {
        (Some(i), _) => like_a_tag(i as usize),
        (None, Proxy::SplitPairs) => (1..args.count).step_by(2).any(like_a_tag),
        (None, _) => (1..args.count).any(like_a_tag),
    };
    if found { Err(needs(LIKE_A_TAG)) } else { Ok(()) }
}

/// The same for what is left of keys when their prefixes are removed.
fn remains_like_a_tag(args: &Args<'_>, edits: &[ArgEdit]) -> Result<(), String> {
    let found = edits.iter().any(|e| e.strip > 0 && args.get(e.arg as usize).get(e.strip as usize) == Some(&1));
    if found { Err(needs(LIKE_A_TAG)) } else { Ok(()) }
}

fn several(env: &Env<'_>, what: &str) -> String {
    format!("ERR redis-mesh: {what} needs the native data path: {} routes to several destinations", env.host.name)
}

fn wrong_arity(command: &Command) -> RewriterDecision {
    RewriterDecision::Refuse(errors::wrong_arity(command.name))
}

fn encoded(words: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    encode::command(&mut out, words);
    out
}

fn leads_to_a_cluster(env: &Env<'_>) -> bool {
    env.host.targets.iter().any(|target| target.cluster)
}

fn time(env: &Env<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    encode::array(&mut out, 2);
    encode::bulk(&mut out, env.unix.as_secs().to_string().as_bytes());
    encode::bulk(&mut out, env.unix.subsec_micros().to_string().as_bytes());
    out
}
