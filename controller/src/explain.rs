//! The explanation of one command: the filter's own machine decides it, and the rules that it
//! follows are named.

mod copies;
mod machine;

use std::fmt::Write;
use std::time::Duration;

use redis_mesh_core::command::mirroring::Mirroring;
use redis_mesh_core::command::{Command, Known};
use redis_mesh_core::route::Router;
use redis_mesh_core::wire::{self, DataPath, FaultKind, KeyMatch};

use crate::crd::service::ReadPolicySpec;
use crate::quantity;
use crate::render::backend::{self, Backends};
use crate::validate::service::{ValidatedMirror, ValidatedRoute, ValidatedService, ValidatedTarget};

use copies::MirrorsOfCommand;
use machine::{DecidingMachine, Explanation};

/// Explains a command of a client that has logged in.
pub fn explain(service: &ValidatedService, arguments: &[String]) -> Result<String, String> {
    let backends = backend::backends(service);
    let machine = DecidingMachine::of(service, &backends).map_err(|error| error.to_string())?;
    let mut lines = Lines::default();
    lines.add("host", &service.address.to_string());
    lines.add("governed by", &format!("{}, for {}", service.owner, service.clients));
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
    let explanation = machine.decide(&bytes)?;
    let copies = MirrorsOfCommand::of(service, &backends, &bytes)?;
    let mirroring = row.map(|row| Mirroring::of(row, bytes.as_slice()));
    let is_sent = matches!(explanation, Explanation::Sent(_) | Explanation::SentTo(_));
    let copied = CopiedCommand { copies, row, mirroring: mirroring.filter(|_| is_sent) };
    let question = Question { service, router: machine.router()?, name: &arguments[0], reads, copied };
    for key in keys.iter().filter_map(|index| arguments.get(*index)) {
        lines.add("key", &format!("{key:?}"));
        question.key(key, &mut lines);
    }
    if keys.is_empty() && is_sent {
        question.keyless(&mut lines);
    }
    match explanation {
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
    copied: CopiedCommand,
}

/// What is known of the copies of a command.
struct CopiedCommand {
    copies: MirrorsOfCommand,
    row: Option<&'static Command>,
    /// What the command is to a mirror; `None`: it isn't sent at all.
    mirroring: Option<Mirroring>,
}

impl CopiedCommand {
    /// The share of such commands that a mirror gets, or why it gets none.
    fn share(&self, target: &ValidatedTarget, mirror: &ValidatedMirror) -> String {
        if self.copies.has(target, mirror) {
            return format!("{} of such commands", percent(mirror.per_million));
        }
        let reason = match self.mirroring {
            None => "isn't sent",
            Some(_) if mirror.exclude_read_commands && self.row.is_some_and(|row| row.is_read()) => {
                "only reads (excludeReadCommands)"
            }
            Some(mirroring) if mirroring.is_copied(mirror.include_admin) && mirror.destination.is_cluster() => {
                "has keys in several slots of that Redis Cluster, or isn't copied on this data path"
            }
            Some(mirroring) if mirroring.is_copied(mirror.include_admin) => "isn't copied on this data path",
            Some(mirroring) => mirroring.reason(),
        };
        format!("never this command, which {reason}")
    }
}

impl Question<'_> {
    /// Explains the route, the destination, the mirrors and the faults of a key.
    fn key(&self, key: &str, lines: &mut Lines) {
        let Some(matched) = self.router.route(key.as_bytes()) else {
            return lines.add("  route", "none takes this key");
        };
        let Some(route) = self.service.routes.get(matched.route as usize) else { return };
        let place = place(route);
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
            lines.add("  mirror", &format!("{}: {}", mirror.destination.address, self.copied.share(target, mirror)));
        }
        let own = faults(&route.faults, &format!("{place}.faults"), self.name);
        let host = faults(&self.service.faults, "spec.faults", self.name);
        own.iter().chain(&host).for_each(|fault| lines.add("  fault", fault));
    }

    /// Explains the mirrors and the faults of a command without a key. It goes where all other keys go,
    /// or to all destinations.
    fn keyless(&self, lines: &mut Lines) {
        let any = self.router.default_route().and_then(|any| self.service.routes.get(any.route as usize));
        let mut known = Vec::new();
        for (index, target) in self.service.targets.iter().enumerate() {
            let is_home = any.is_some_and(|any| any.target == index);
            for mirror in &target.mirrors {
                let address = &mirror.destination.address;
                if (is_home || self.copied.copies.has(target, mirror)) && !known.contains(&address) {
                    known.push(address);
                    lines.add("  mirror", &format!("{address}: {}", self.copied.share(target, mirror)));
                }
            }
        }
        // The other machines know no route of such a command.
        let of_route = any.filter(|_| self.service.path == DataPath::Native);
        let own = of_route.map(|route| faults(&route.faults, &format!("{}.faults", place(route)), self.name));
        let host = faults(&self.service.faults, "spec.faults", self.name);
        own.iter().flatten().chain(&host).for_each(|fault| lines.add("  fault", fault));
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

/// The field of a route.
fn place(route: &ValidatedRoute) -> String {
    match route.index {
        Some(index) => format!("spec.redis[{index}]"),
        None => "the host itself, as there are no routes".to_owned(),
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

/// A command as it arrives at Redis: `redis_proxy` takes the tags off.
fn shown(command: &[Vec<u8>], backends: &Backends) -> String {
    let word = |argument: &Vec<u8>| {
        let length = backends.tag_of(argument).map(|tag| tag.len()).unwrap_or_default();
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
    let tagged = command.iter().filter_map(|argument| backends.tagged.get(backends.tag_of(argument)?));
    let mut places: Vec<String> = tagged.map(|backend| backend.destination.address.to_string()).collect();
    places.dedup();
    if places.is_empty() {
        places.extend(service.single_destination().map(|destination| destination.address.to_string()));
    }
    if places.is_empty() { String::new() } else { format!(" → {}", places.join(", ")) }
}
