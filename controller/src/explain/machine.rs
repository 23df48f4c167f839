//! The machines of the data path, asked what they do with one command.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use redis_mesh_core::config::ConfigError;
use redis_mesh_core::multiplexer::config::{HostConfig, ListenerConfig};
use redis_mesh_core::multiplexer::{Multiplexer, Output};
use redis_mesh_core::random::Random;
use redis_mesh_core::resp::encode;
use redis_mesh_core::resp::request::{Parser, Progress};
use redis_mesh_core::rewriter::config::{RewriterConfig, RewriterHost};
use redis_mesh_core::rewriter::{Env, LoginReview, Rewriter, StreamEdit};
use redis_mesh_core::route::Router;
use redis_mesh_core::stats::Stats;
use redis_mesh_core::wire::{self, DataPath};

use crate::render::backend::Backends;
use crate::render::filter_config;
use crate::render::handshake::HandshakeKey;
use crate::validate::service::ValidatedService;

/// A command's arguments.
pub type CommandWords = Vec<Vec<u8>>;

/// What becomes of a command.
pub enum Explanation {
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
pub enum DecidingMachine {
    /// That of the data paths `direct` and `proxy`.
    Rewriter(RewriterConfig),
    /// That of the data path `native`.
    Multiplexer(ListenerConfig),
}

const NO_HOST: &str = "the configuration has no host";

impl DecidingMachine {
    /// The machine without any chance: no fault, no copy.
    pub fn of(service: &ValidatedService, backends: &Backends) -> Result<DecidingMachine, ConfigError> {
        DecidingMachine::with(service, backends, |mirror, _| mirror.per_million = 0)
    }

    /// The machine without faults, and with the mirrors that `change` makes of those of each target.
    pub fn with(
        service: &ValidatedService,
        backends: &Backends,
        change: impl Fn(&mut wire::Mirror, (usize, usize)),
    ) -> Result<DecidingMachine, ConfigError> {
        let key = HandshakeKey::derived(std::slice::from_ref(service));
        let reach = &filter_config::by_address;
        let mut host = filter_config::host(service, backends, &key, wire::Selector::default(), reach);
        // The explanation tells chances apart; the machine decides without them, and without a
        // login.
        host.client_auth = None;
        host.faults.clear();
        host.routes.iter_mut().for_each(|route| route.faults.clear());
        for (index, target) in host.targets.iter_mut().enumerate() {
            target.mirrors.iter_mut().enumerate().for_each(|(position, mirror)| change(mirror, (index, position)));
            // Which of a destination's endpoints has a key is known where the endpoints are.
            let upstreams = target.mirrors.iter_mut().map(|mirror| &mut mirror.upstream).chain([&mut target.upstream]);
            upstreams.flatten().for_each(|upstream| upstream.key_hash = None);
        }
        let document = filter_config::document("explain".to_owned(), 1, vec![host]);
        match service.path {
            DataPath::Direct | DataPath::Proxy => RewriterConfig::try_from(document).map(DecidingMachine::Rewriter),
            DataPath::Native => ListenerConfig::try_from(document).map(DecidingMachine::Multiplexer),
        }
    }

    /// What becomes of a command that is a client's first one.
    pub fn decide(&self, arguments: &[&[u8]]) -> Result<Explanation, String> {
        match self {
            DecidingMachine::Rewriter(config) => run(config, config.hosts.first().ok_or(NO_HOST)?, arguments),
            DecidingMachine::Multiplexer(document) => serve(&document.host, arguments),
        }
    }

    /// The routes.
    pub fn router(&self) -> Result<&Router, String> {
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
            Output::Ask(inquiry, _) => proxy.desk(Duration::ZERO).sent(inquiry, 0),
            Output::CloseDownstream(_)
            | Output::AbortDownstream(_)
            | Output::PauseUpstream(_)
            | Output::ResumeUpstream(_)
            | Output::FindMembers(_)
            | Output::Tell(..)
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
        // By which it names a connection over which a client waits; clients are answered these here.
        [b"CLIENT", b"SETNAME", _] => Some(b"+OK\r\n"),
        [b"CLIENT", b"ID"] => Some(b":1\r\n"),
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
    // What the login may do is asked over a worker's first connection only.
    let mut review = LoginReview::default();
    if let Some(login) = &host.login {
        review.begin(login.identity);
    }
    let mut env = Env {
        config,
        host,
        now: Duration::ZERO,
        unix: Duration::ZERO,
        ending: false,
        random: &mut random,
        stats: &mut stats,
        review: &mut review,
        may_log_in: true,
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
