//! The explanation of one command: the filter's own machine decides it, and the rules that it
//! follows are named.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use redis_mesh_core::command::Known;
use redis_mesh_core::config::ConfigError;
use redis_mesh_core::multiplexer::config::{HostConfig, ListenerConfig};
use redis_mesh_core::multiplexer::{Multiplexer, Output};
use redis_mesh_core::random::Random;
use redis_mesh_core::resp::encode;
use redis_mesh_core::resp::request::{Parser, Progress};
use redis_mesh_core::rewriter::config::{RewriterConfig, RewriterHost};
use redis_mesh_core::rewriter::{Env, Rewriter, StreamEdit};
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
    let machine = DecidingMachine::of(service, &backends).map_err(|error| error.to_string())?;
    let mut lines = Lines::default();
    lines.add("host", &service.address.to_string());
    lines.add("governed by", &format!("{}, for {}", service.owner, service.scope));
    lines.add("data path", &format!("{} ({})", service.path.name(), service.choice.reason));
    lines.add("client login", &client_login(service));
    let bytes: Vec<&[u8]> = arguments.iter().map(String::as_bytes).collect();
    let row = Known::of(bytes.as_slice()).map(|known| known.command);
    let reads = row.is_some_and(|row| row.is_read());
    let kind = match row {
        None => "not known here".to_owned(),
        Some(row) => {
            let kind = match (reads, row.is_write()) {
                (true, _) => "reads",
                (false, true) => "writes",
                (false, false) => "neither reads nor writes keys",
            };
            format!("{} ({kind})", row.name.replace('|', " ").to_ascii_uppercase())
        }
    };
    lines.add("command", &kind);
    let keys = row.and_then(|row| row.keys(bytes.as_slice()).ok());
    let keys: Vec<usize> = keys.map(|keys| keys.iter().map(|key| key.index).collect()).unwrap_or_default();
    let question = Question { service, router: machine.router()?, name: &arguments[0], reads };
    for key in keys.iter().filter_map(|index| arguments.get(*index)) {
        lines.add("key", &format!("{key:?}"));
        question.key(key, &mut lines);
    }
    if keys.is_empty() {
        let faults = faults(&service.faults, "spec.faults", question.name);
        faults.iter().for_each(|fault| lines.add("  fault", fault));
    }
    match machine.decide(&bytes)? {
        Explanation::Sent(commands) => {
            for command in commands {
                let destinations = destinations_of(service, &backends, &command);
                lines.add("sent", &format!("{}{destinations}", shown(&command, &backends)));
            }
        }
        Explanation::SentTo(commands) => {
            for (destination, command) in commands {
                lines.add("sent", &format!("{} → {destination}", shown(&command, &backends)));
            }
        }
        Explanation::Answered(reply) => {
            lines.add("answered", &String::from_utf8_lossy(&reply).trim_end().replace("\r\n", " "));
        }
        Explanation::Nothing => lines.add("answered", "nothing; the connection is closed"),
    }
    Ok(lines.text)
}

/// The lines of an explanation, in two columns.
#[derive(Default)]
struct Lines {
    text: String,
}

impl Lines {
    fn add(&mut self, name: &str, text: &str) {
        let _ = writeln!(self.text, "{name:<14}{text}");
    }
}

/// The login that clients need.
fn client_login(service: &ValidatedService) -> String {
    let logs_in = service.destinations().iter().any(|destination| destination.policy.login.is_some());
    match &service.client_auth {
        None if service.path == DataPath::Direct && !logs_in => "as Redis itself asks for".to_owned(),
        None => "none is asked for".to_owned(),
        Some(login) => format!(
            "user {} with the password of spec.settings.auth; what follows is for a client that has logged in",
            login.username.as_deref().unwrap_or("default")
        ),
    }
}

/// A command whose keys are explained.
struct Question<'a> {
    service: &'a ValidatedService,
    router: &'a Router,
    /// The name of the command.
    name: &'a str,
    /// True if the command only reads.
    reads: bool,
}

impl Question<'_> {
    /// Explains the route, the destination, the mirrors and the faults of a key.
    fn key(&self, key: &str, lines: &mut Lines) {
        let Some(matched) = self.router.route(key.as_bytes()) else {
            return lines.add("  route", "none takes this key");
        };
        let Some(route) = self.service.routes.get(matched.route as usize) else { return };
        let place = match route.index {
            Some(index) => format!("spec.redis[{index}]"),
            None => "the host itself, as there are no routes".to_owned(),
        };
        lines.add("  route", &format!("{place}{}", self.condition(&route.key)));
        if route.remove_prefix {
            let rest = String::from_utf8_lossy(&key.as_bytes()[matched.prefix as usize..]);
            lines.add("  becomes", &format!("{rest:?} (removePrefix)"));
        }
        let Some(target) = self.service.targets.get(route.target) else { return };
        lines.add("  destination", &destination(target));
        if target.destination.is_cluster() {
            let removed = if route.remove_prefix { matched.prefix as usize } else { 0 };
            let sent = key.as_bytes().get(removed..).unwrap_or_default();
            lines.add("  slot", &redis_mesh_core::cluster::slot::slot(sent).to_string());
            let policy = match self.service.path {
                DataPath::Direct | DataPath::Proxy => self.service.settings.proxy_read_policy,
                DataPath::Native => route.read_policy.unwrap_or(self.service.settings.read_policy),
            };
            lines.add("  node", node(policy, self.reads));
        }
        for mirror in &target.mirrors {
            let share = if mirror.exclude_read_commands && self.reads {
                "never this command, which only reads (excludeReadCommands)".to_owned()
            } else {
                format!("{} of such commands", percent(mirror.per_million))
            };
            lines.add("  mirror", &format!("{}: {share}", mirror.destination.address));
        }
        let own = faults(&route.faults, &format!("{place}.faults"), self.name);
        let host = faults(&self.service.faults, "spec.faults", self.name);
        own.iter().chain(&host).for_each(|fault| lines.add("  fault", fault));
    }

    fn condition(&self, key: &KeyMatch) -> String {
        let folded = if self.service.settings.case_insensitive { ", in any case" } else { "" };
        match key {
            KeyMatch::Exact(exact) => format!(": the key is {exact:?}{folded}"),
            KeyMatch::Prefix(prefix) => format!(": the key begins with {prefix:?}{folded}"),
            KeyMatch::Regex(regex) => format!(": the key matches `{regex}`{folded}"),
            KeyMatch::Any if self.service.routes.len() > 1 => ": takes what no other route takes".to_owned(),
            KeyMatch::Any => String::new(),
        }
    }
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

/// The machine that decides on the data path.
enum DecidingMachine {
    Rewriter(RewriterConfig),
    Multiplexer(ListenerConfig),
}

const NO_HOST: &str = "the configuration has no host";

impl DecidingMachine {
    fn of(service: &ValidatedService, backends: &Backends) -> Result<DecidingMachine, ConfigError> {
        let key = HandshakeKey::derived(std::slice::from_ref(service));
        let reach = &filter_config::by_address;
        let mut host = filter_config::host(service, backends, &key, wire::Selector::default(), reach);
        // The explanation tells chances apart; the machine decides without them, and without a
        // login.
        host.client_auth = None;
        host.faults.clear();
        host.routes.iter_mut().for_each(|route| route.faults.clear());
        host.targets.iter_mut().flat_map(|target| &mut target.mirrors).for_each(|mirror| mirror.per_million = 0);
        let document = filter_config::document("explain".to_owned(), 1, vec![host]);
        match service.path {
            DataPath::Direct | DataPath::Proxy => RewriterConfig::try_from(document).map(DecidingMachine::Rewriter),
            DataPath::Native => ListenerConfig::try_from(document).map(DecidingMachine::Multiplexer),
        }
    }

    fn decide(&self, arguments: &[&[u8]]) -> Result<Explanation, String> {
        match self {
            DecidingMachine::Rewriter(config) => run(config, config.hosts.first().ok_or(NO_HOST)?, arguments),
            DecidingMachine::Multiplexer(document) => serve(&document.host, arguments),
        }
    }

    fn router(&self) -> Result<&Router, String> {
        match self {
            DecidingMachine::Rewriter(config) => Ok(&config.hosts.first().ok_or(NO_HOST)?.router),
            DecidingMachine::Multiplexer(document) => Ok(&document.host.router),
        }
    }
}

/// Gives a command to the machine of the dynamic module, as a client's first one.
fn serve(host: &Arc<HostConfig>, arguments: &[&[u8]]) -> Result<Explanation, String> {
    let mut proxy = Multiplexer::new([0; 32]);
    let client = proxy.open(host.clone());
    let mut request = Vec::new();
    encode::command(&mut request, arguments);
    let mut rest = request.as_slice();
    let mut offer = |proxy: &mut Multiplexer| {
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
                for command in parse(&proxy.take_upstream(id), &host.limits.logged_in)? {
                    match stands_for_redis(&command, arguments) {
                        Some(reply) => proxy.reply(id, reply, Duration::ZERO),
                        None => sent.push((connections.get(&id).cloned().unwrap_or_default(), command)),
                    }
                }
            }
            Output::Write(id) => replied.extend(proxy.take_downstream(id)),
            Output::Resume(_) => offer(&mut proxy),
            Output::CloseDownstream(_)
            | Output::AbortDownstream(_)
            | Output::PauseUpstream(_)
            | Output::ResumeUpstream(_)
            | Output::CloseUpstream(_) => {}
        }
    }
    Ok(match (sent.is_empty(), replied.is_empty()) {
        (false, _) => Explanation::SentTo(sent),
        (true, false) => Explanation::Answered(replied),
        (true, true) => Explanation::Nothing,
    })
}

/// The reply of a Redis to the commands by which the machine begins a connection: a master with
/// all slots and a replica. `arguments` are the client's own command.
fn stands_for_redis(command: &[Vec<u8>], arguments: &[&[u8]]) -> Option<&'static [u8]> {
    let words: Vec<&[u8]> = command.iter().map(Vec::as_slice).collect();
    match words[..] {
        [b"AUTH", ..] | [b"READONLY"] => Some(b"+OK\r\n"),
        [b"HELLO", b"3"] => Some(b"%0\r\n"),
        [b"ACL", b"DRYRUN", ..] if words != arguments => Some(b"-NOPERM\r\n"),
        [b"PING"] => Some(b"+PONG\r\n"),
        [b"CLUSTER", b"INFO"] => Some(b"$16\r\ncluster_state:ok\r\n"),
        [b"CLUSTER", b"SLOTS"] => Some(
            b"*1\r\n*4\r\n:0\r\n:16383\r\n*3\r\n$9\r\n127.0.0.1\r\n:6379\r\n$1\r\na\r\n*3\r\n$9\r\n127.0.0.1\r\n:6380\r\n$1\r\nb\r\n",
        ),
        _ => None,
    }
}

/// Gives a command to the machine of the filter, as a client's first one.
fn run(config: &RewriterConfig, host: &RewriterHost, arguments: &[&[u8]]) -> Result<Explanation, String> {
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
    if host.login.is_some() {
        // The login goes first, and the command waits for its reply.
        let _ = rewriter.request(&mut env, pending, &mut Vec::new());
        let _ = rewriter.reply(&mut env, b"+OK\r\n", &mut Vec::new());
        pending = &[];
    }
    let mut forwarded = Vec::new();
    if rewriter.request(&mut env, pending, &mut forwarded) == StreamEdit::Unchanged {
        forwarded.extend_from_slice(pending);
    }
    let commands = parse(&forwarded, &config.limits)?;
    // In the place of a command that the filter answers itself, it sends a command whose reply it
    // recognises and replaces: ECHO, or where ECHO can't work, a command that Redis doesn't know.
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

/// The destination of a command; several where it is served in parts.
fn destinations_of(service: &ValidatedService, backends: &Backends, command: &[Vec<u8>]) -> String {
    let tagged = command.iter().filter_map(|argument| backends.tagged.get(&tag_of(argument, backends)?));
    let mut places: Vec<String> = tagged.map(|backend| backend.destination.address.to_string()).collect();
    places.dedup();
    if places.is_empty() {
        places.extend(service.single_destination().map(|destination| destination.address.to_string()));
    }
    if places.is_empty() { String::new() } else { format!(" → {}", places.join(", ")) }
}
