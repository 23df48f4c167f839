//! What becomes of one command, and why: the filter's own machine decides it, and the rules say by what.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use redis_mesh_core::command::{self, Resolved};
use redis_mesh_core::config::{ConfigError, Host, ProxyConfig};
use redis_mesh_core::proxy::config::{Config, Document};
use redis_mesh_core::proxy::{Output, Proxy};
use redis_mesh_core::random::Random;
use redis_mesh_core::resp::encode;
use redis_mesh_core::resp::request::{Parser, Progress};
use redis_mesh_core::rewrite::{Edit, Env, Rewriter};
use redis_mesh_core::route::Router;
use redis_mesh_core::stats::Stats;
use redis_mesh_core::wire::{self, DataPath, FaultKind, KeyMatch};

use crate::crd::service::ReadPolicySpec;
use crate::quantity;
use crate::render::backend::{self, Backends};
use crate::render::filter_config;
use crate::render::handshake::HandshakeKey;
use crate::validate::service::{ValidatedService, ValidatedTarget};

/// Explains a command of a client that has logged in.
pub fn explain(service: &ValidatedService, arguments: &[String]) -> Result<String, String> {
    let backends = backend::backends(service);
    let key = HandshakeKey::derived(std::slice::from_ref(service));
    let mut host = filter_config::host(service, &backends, &key, wire::Selector::default(), &filter_config::by_address);
    // What is left to chance is told apart; what is decided is decided without it.
    host.client_auth = None;
    host.faults.clear();
    host.routes.iter_mut().for_each(|route| route.faults.clear());
    host.targets.iter_mut().flat_map(|target| &mut target.mirrors).for_each(|mirror| mirror.per_million = 0);
    let document = filter_config::document("explain".to_owned(), 1, vec![host]);
    let machine = DecidingMachine::new(service.path, document).map_err(|error| error.to_string())?;

    let mut out = String::new();
    let mut line = |name: &str, text: &str| {
        let _ = writeln!(out, "{name:<14}{text}");
    };
    line("host", &service.address.to_string());
    line("governed by", &format!("{}, for {}", service.owner, service.scope));
    line("data path", &format!("{} ({})", service.path.name(), service.path_reason));
    line(
        "client login",
        &match &service.client_auth {
            None if service.destinations().iter().any(|destination| destination.policy.login.is_some()) => {
                "none is asked for".to_owned()
            }
            None if service.path == DataPath::Direct => "as Redis itself asks for".to_owned(),
            None => "none is asked for".to_owned(),
            Some(login) => format!(
                "user {} with the password of spec.settings.auth; what follows is for a client that has logged in",
                login.username.as_deref().unwrap_or("default")
            ),
        },
    );
    let bytes: Vec<&[u8]> = arguments.iter().map(String::as_bytes).collect();
    let row = match command::resolve(bytes.as_slice()) {
        Resolved::Command(row) | Resolved::Container(row) => Some(row),
        Resolved::Unknown => None,
    };
    let reads = row.is_some_and(|row| row.is_read());
    line(
        "command",
        &match row {
            None => "not known here".to_owned(),
            Some(row) => {
                let kind = if reads {
                    "reads"
                } else if row.is_write() {
                    "writes"
                } else {
                    "neither reads nor writes keys"
                };
                format!("{} ({kind})", row.name.replace('|', " ").to_ascii_uppercase())
            }
        },
    );
    let keys = row.and_then(|row| row.keys(bytes.as_slice()).ok());
    let keys: Vec<usize> = keys.map(|keys| keys.iter().map(|key| key.index).collect()).unwrap_or_default();
    for index in &keys {
        let Some(text) = arguments.get(*index) else { continue };
        line("key", &format!("{text:?}"));
        explain_key(service, machine.router()?, text, &arguments[0], reads, &mut line);
    }
    if keys.is_empty() {
        let faults = faults(&service.faults, "spec.faults", &arguments[0]);
        faults.iter().for_each(|fault| line("  fault", fault));
    }
    let outcome = match &machine {
        DecidingMachine::Rewriter(config) => run(config, config.hosts.first().ok_or(NO_HOST)?, &bytes)?,
        DecidingMachine::Proxy(document) => serve(&document.host, &bytes)?,
    };
    match outcome {
        Explanation::Sent(commands) => {
            for command in commands {
                line("sent", &format!("{}{}", shown(&command, &backends), by(service, &backends, &command)));
            }
        }
        Explanation::SentTo(commands) => {
            for (destination, command) in commands {
                line("sent", &format!("{} → {destination}", shown(&command, &backends)));
            }
        }
        Explanation::Answered(reply) => {
            line("answered", &String::from_utf8_lossy(&reply).trim_end().replace("\r\n", " "))
        }
        Explanation::Nothing => line("answered", "nothing; the connection is closed"),
    }
    Ok(out)
}

fn explain_key(
    service: &ValidatedService,
    router: &Router,
    key: &str,
    name: &str,
    reads: bool,
    line: &mut dyn FnMut(&str, &str),
) {
    let Some(matched) = router.route(key.as_bytes()) else { return line("  route", "none takes this key") };
    let Some(route) = service.routes.get(matched.route as usize) else { return };
    let place = match route.index {
        Some(index) => format!("spec.redis[{index}]"),
        None => "the host itself, as there are no routes".to_owned(),
    };
    let folded = if service.settings.case_insensitive { ", in any case" } else { "" };
    let why = match &route.key {
        KeyMatch::Exact(exact) => format!(": the key is {exact:?}{folded}"),
        KeyMatch::Prefix(prefix) => format!(": the key begins with {prefix:?}{folded}"),
        KeyMatch::Regex(regex) => format!(": the key matches `{regex}`{folded}"),
        KeyMatch::Any if service.routes.len() > 1 => ": takes what no other route takes".to_owned(),
        KeyMatch::Any => String::new(),
    };
    line("  route", &format!("{place}{why}"));
    if route.remove_prefix {
        line(
            "  becomes",
            &format!("{:?} (removePrefix)", String::from_utf8_lossy(&key.as_bytes()[matched.prefix as usize..])),
        );
    }
    let Some(target) = service.targets.get(route.target) else { return };
    line("  destination", &destination(target));
    if target.destination.is_cluster() {
        let sent =
            key.as_bytes().get(if route.remove_prefix { matched.prefix as usize } else { 0 }..).unwrap_or_default();
        line("  slot", &redis_mesh_core::cluster::slot::slot(sent).to_string());
        let policy = match service.path {
            DataPath::Direct | DataPath::Proxy => service.read_policy,
            DataPath::Native => route.read_policy.unwrap_or(service.settings.read_policy),
        };
        line("  node", node(policy, reads));
    }
    for mirror in &target.mirrors {
        let share = if mirror.exclude_read_commands && reads {
            "never this command, which only reads (excludeReadCommands)".to_owned()
        } else {
            format!("{} of such commands", percent(mirror.per_million))
        };
        line("  mirror", &format!("{}: {share}", mirror.destination.address));
    }
    let own = faults(&route.faults, &format!("{place}.faults"), name);
    let host = faults(&service.faults, "spec.faults", name);
    own.iter().chain(&host).for_each(|fault| line("  fault", fault));
}

fn destination(target: &ValidatedTarget) -> String {
    let destination = &target.destination;
    let mut text = destination.address.to_string();
    let mut facts = Vec::new();
    if destination.is_cluster() {
        facts.push("Redis Cluster".to_owned());
    }
    if let Some(login) = &destination.policy.login {
        facts.push(format!("login as {}", login.username.as_deref().unwrap_or("default")));
    }
    if destination.policy.tls.is_some() || destination.policy.istio_mutual {
        facts.push("TLS".to_owned());
    }
    if let Some(object) = &destination.policy.object {
        facts.push(format!("by {} {}", object.kind, object.name));
    }
    if !facts.is_empty() {
        let _ = write!(text, " ({})", facts.join(", "));
    }
    text
}

fn node(policy: ReadPolicySpec, reads: bool) -> &'static str {
    match (reads, policy) {
        (false, _) => "the master of the key's shard",
        (true, ReadPolicySpec::Master) => "the master of the key's shard (read policy MASTER)",
        (true, ReadPolicySpec::PreferMaster) => {
            "the master of the key's shard, a replica if it is away (read policy PREFER_MASTER)"
        }
        (true, ReadPolicySpec::Replica) => "a replica of the key's shard (read policy REPLICA)",
        (true, ReadPolicySpec::PreferReplica) => {
            "a replica of the key's shard, the master if there is none (read policy PREFER_REPLICA)"
        }
        (true, ReadPolicySpec::Any) => "any node of the key's shard (read policy ANY)",
    }
}

fn percent(per_million: u32) -> String {
    format!("{} %", f64::from(per_million) / 10_000.0)
}

fn faults(faults: &[wire::Fault], place: &str, name: &str) -> Vec<String> {
    let applies = |fault: &wire::Fault| {
        fault.commands.is_empty() || fault.commands.iter().any(|command| command.eq_ignore_ascii_case(name))
    };
    faults
        .iter()
        .enumerate()
        .filter(|(_, fault)| applies(fault))
        .map(|(index, fault)| {
            let wait = (fault.delay_ms > 0).then(|| quantity::seconds(Duration::from_millis(fault.delay_ms)));
            let what = match (fault.kind, wait) {
                (FaultKind::Error, None) => "an error".to_owned(),
                (FaultKind::Error, Some(wait)) => format!("an error after {wait}"),
                (FaultKind::Delay, wait) => format!("a delay of {}", wait.unwrap_or_default()),
            };
            format!("{what} for {} of such commands ({place}[{index}])", percent(fault.per_million))
        })
        .collect()
}

type CommandWords = Vec<Vec<u8>>;

enum Explanation {
    /// Commands that go on.
    Sent(Vec<CommandWords>),
    /// Commands that go on, each with its destination.
    SentTo(Vec<(String, CommandWords)>),
    /// A reply that the mesh makes up.
    Answered(Vec<u8>),
    /// Neither.
    Nothing,
}

/// What decides on the data path.
enum DecidingMachine {
    Rewriter(ProxyConfig),
    Proxy(Document),
}

const NO_HOST: &str = "the configuration has no host";

impl DecidingMachine {
    fn new(path: DataPath, document: wire::FilterConfig) -> Result<DecidingMachine, ConfigError> {
        match path {
            DataPath::Direct | DataPath::Proxy => ProxyConfig::try_from(document).map(DecidingMachine::Rewriter),
            DataPath::Native => Document::try_from(document).map(DecidingMachine::Proxy),
        }
    }

    fn router(&self) -> Result<&Router, String> {
        match self {
            DecidingMachine::Rewriter(config) => Ok(&config.hosts.first().ok_or(NO_HOST)?.router),
            DecidingMachine::Proxy(document) => Ok(&document.host.router),
        }
    }
}

/// Has a command served by the machine of the dynamic module, as a client's first one.
fn serve(host: &Arc<Config>, arguments: &[&[u8]]) -> Result<Explanation, String> {
    let mut proxy = Proxy::new([0; 32]);
    let client = proxy.open(host.clone());
    let mut request = Vec::new();
    encode::command(&mut request, arguments);
    let mut rest = request.as_slice();
    let mut offer = |proxy: &mut Proxy| {
        let taken = proxy.read(client, rest, Duration::ZERO);
        rest = rest.get(taken..).unwrap_or_default();
    };
    offer(&mut proxy);
    let mut connections = BTreeMap::new();
    let (mut sent, mut replied) = (Vec::new(), Vec::new());
    while let Some(output) = proxy.poll() {
        match output {
            Output::Open(id, address) => drop(connections.insert(id, address.cluster.to_string())),
            Output::Send(id) => {
                for command in parse(&proxy.take_upstream(id), &host.limits)? {
                    match stands_for_redis(&command) {
                        Some(reply) => proxy.reply(id, reply, Duration::ZERO),
                        None => sent.push((connections.get(&id).cloned().unwrap_or_default(), command)),
                    }
                }
            }
            Output::Write(id) => replied.extend(proxy.take_downstream(id)),
            Output::Resume(_) => offer(&mut proxy),
            Output::CloseClient(_) | Output::AbortClient(_) | Output::CloseCarrier(_) => {}
        }
    }
    Ok(match (sent.is_empty(), replied.is_empty()) {
        (false, _) => Explanation::SentTo(sent),
        (true, false) => Explanation::Answered(replied),
        (true, true) => Explanation::Nothing,
    })
}

/// What Redis answers to the commands by which the machine itself begins: a master that has all slots, with a replica.
fn stands_for_redis(command: &[Vec<u8>]) -> Option<&'static [u8]> {
    let words: Vec<&[u8]> = command.iter().map(Vec::as_slice).collect();
    match words[..] {
        [b"AUTH", ..] | [b"READONLY"] => Some(b"+OK\r\n"),
        [b"PING"] => Some(b"+PONG\r\n"),
        [b"CLUSTER", b"INFO"] => Some(b"$16\r\ncluster_state:ok\r\n"),
        [b"CLUSTER", b"SLOTS"] => Some(
            b"*1\r\n*4\r\n:0\r\n:16383\r\n*3\r\n$9\r\n127.0.0.1\r\n:6379\r\n$1\r\na\r\n*3\r\n$9\r\n127.0.0.1\r\n:6380\r\n$1\r\nb\r\n",
        ),
        _ => None,
    }
}

/// Passes a command through the filter's machine, as a client's first one.
fn run(config: &ProxyConfig, host: &Host, arguments: &[&[u8]]) -> Result<Explanation, String> {
    let mut random = Random::new([0; 32]);
    let mut stats = Stats::default();
    let mut env = Env {
        config,
        host,
        now: Duration::ZERO,
        unix: Duration::ZERO,
        ending: false,
        random: &mut random,
        stats: &mut stats,
    };
    let mut rewriter = Rewriter::new(1);
    let mut request = Vec::new();
    encode::command(&mut request, arguments);
    let mut pending: &[u8] = &request;
    if host.login.is_some() || host.handshake.is_some() {
        // That goes first, and the command is held until it is answered.
        let _ = rewriter.request(&mut env, pending, &mut Vec::new());
        let _ = rewriter.reply(&mut env, b"+OK\r\n", &mut Vec::new());
        pending = &[];
    }
    let mut forwarded = Vec::new();
    if rewriter.request(&mut env, pending, &mut forwarded) == Edit::Unchanged {
        forwarded.extend_from_slice(pending);
    }
    let commands = parse(&forwarded, &config.limits)?;
    // In the place of a command that the filter answers itself, it sends one whose reply it can tell and swap: ECHO, or
    // where ECHO can't work, one that Redis doesn't know.
    let mut expected = Vec::new();
    if let [only] = &commands[..] {
        match &only[..] {
            [name, word] if name.eq_ignore_ascii_case(b"echo") => encode::bulk(&mut expected, word),
            [word] if arguments.first() != Some(&word.as_slice()) => {
                let word = String::from_utf8_lossy(word);
                encode::error(
                    &mut expected,
                    format!("ERR unknown command '{word}', with args beginning with: ").as_bytes(),
                );
            }
            _ => {}
        }
    }
    let mut reply = Vec::new();
    if !expected.is_empty() {
        let _ = rewriter.reply(&mut env, &expected, &mut reply);
    }
    if reply != expected {
        return Ok(Explanation::Answered(reply));
    }
    Ok(if commands.is_empty() { Explanation::Nothing } else { Explanation::Sent(commands) })
}

fn parse(bytes: &[u8], limits: &wire::Limits) -> Result<Vec<CommandWords>, String> {
    let mut commands = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let mut parser = Parser::default();
        match parser.parse(rest, limits) {
            Ok(Progress::Complete(length)) => {
                let frame = parser.frame(rest);
                commands.push(parser.args().iter().map(|span| span.of(frame).to_vec()).collect());
                rest = &rest[length..];
            }
            Ok(Progress::Nothing(length)) => rest = &rest[length..],
            Ok(Progress::Partial) => return Err("the filter sends half a command".to_owned()),
            Err(error) => return Err(format!("the filter sends no command: {error:?}")),
        }
    }
    Ok(commands)
}

fn tag_of(argument: &[u8], backends: &Backends) -> Option<String> {
    backends.tagged.keys().find(|tag| argument.starts_with(tag.as_bytes())).cloned()
}

/// A command as it arrives at Redis: `redis_proxy` takes the tags off.
fn shown(command: &[Vec<u8>], backends: &Backends) -> String {
    let word = |argument: &Vec<u8>| {
        let length = tag_of(argument, backends).map(|tag| tag.len()).unwrap_or_default();
        let text = String::from_utf8_lossy(&argument[length..]).into_owned();
        if text.is_empty() || text.contains(|c: char| c.is_whitespace() || c.is_control() || c == '"') {
            format!("{text:?}")
        } else {
            text
        }
    };
    command.iter().map(word).collect::<Vec<_>>().join(" ")
}

/// Where it goes; several places where it is served in parts.
fn by(service: &ValidatedService, backends: &Backends, command: &[Vec<u8>]) -> String {
    let tagged = command.iter().filter_map(|argument| backends.tagged.get(&tag_of(argument, backends)?));
    let mut places: Vec<String> = tagged.map(|backend| backend.destination.address.to_string()).collect();
    places.dedup();
    if places.is_empty() {
        places.extend(service.single_destination().map(|destination| destination.address.to_string()));
    }
    if places.is_empty() { String::new() } else { format!(" → {}", places.join(", ")) }
}
