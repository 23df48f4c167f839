//! What becomes of a command.

use super::carrier::{Carrier, Expected, Line};
use super::client::Client;
use super::config::Upstream;
use super::split::Merge;
use super::transaction::Transaction;
use super::{CarrierId, ClientId, Output, Proxy, STAGED, Step};
use crate::command::{self, Command, Flags, Split};
use crate::downstream::auth;
use crate::downstream::hello::{self, Hello};
use crate::resp::encode;
use crate::rewrite::args::Args;
use crate::rewrite::decide::Known;
use crate::rewrite::guard;
use crate::stats::Stat;
use std::time::Duration;

/// What becomes of a command.
enum Decision {
    /// It is answered here.
    Answer(Vec<u8>),
    /// It is refused with this text, which counts as a refusal of ours.
    Refuse(String),
    /// It is denied with this text, as Redis would.
    Deny(String),
    /// It goes to a target, with these changes; `route` is the route of its first key.
    Forward { target: usize, route: Option<usize>, edits: Vec<Edit> },
    /// It goes to several.
    Split(Vec<Part>, Vec<usize>),
    /// The transaction is carried out.
    Exec(Transaction),
}

/// An argument, and how many bytes are to be removed from its beginning.
type Edit = (usize, usize);

/// A part of a command.
struct Part {
    target: usize,
    keys: Vec<Edit>,
}

/// Bytes that a transaction may hold.
const HELD_TRANSACTION: usize = 64 * 1024 * 1024;

/// Commands that need a connection of their own, or change the state of one that others share.
const NEEDS_OWN: &[&str] = &[
    "watch",
    "monitor",
    "sync",
    "psync",
    "replconf",
    "subscribe",
    "psubscribe",
    "ssubscribe",
    "unsubscribe",
    "punsubscribe",
    "sunsubscribe",
    "client|reply",
    "client|tracking",
    "client|caching",
    "client|no-evict",
    "client|no-touch",
    "client|unblock",
    "wait",
    "waitaof",
    "readonly",
    "readwrite",
    "asking",
    "debug",
    "failover",
    "shutdown",
];

/// Whether a command exists for clients.
fn is_served(command: &Command) -> bool {
    !NEEDS_OWN.contains(&command.name) && !command.flags.contains(Flags::BLOCKING)
}

fn bulk(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    encode::bulk(&mut out, text);
    out
}

fn number(number: u64) -> Vec<u8> {
    let mut out = Vec::new();
    encode::integer(&mut out, number);
    out
}

fn null(resp3: bool) -> Vec<u8> {
    if resp3 { b"_\r\n".to_vec() } else { b"$-1\r\n".to_vec() }
}

fn ok() -> Decision {
    Decision::Answer(b"+OK\r\n".to_vec())
}

impl Proxy {
    /// Decides a command and does what was decided. `raw` is the command as it came, if it came as an array.
    pub(super) fn command(
        &mut self,
        id: ClientId,
        client: &mut Client,
        args: &Args<'_>,
        raw: Option<&[u8]>,
        now: Duration,
    ) -> Step {
        let known = Known::of(args);
        let mut decision = self.decide(id, client, known, args);
        let first_time = client.drawn.is_none();
        if first_time {
            self.count(client, Stat::Commands);
        }
        let route = match &decision {
            Decision::Forward { route, .. } => Some(*route),
            Decision::Split(..) => Some(None),
            _ => None,
        };
        if let Some(route) = route {
            let drawn = match client.drawn.take() {
                Some(drawn) => drawn,
                None => {
                    let of_route = route.and_then(|route| client.config.routes.get(route));
                    let of_route = of_route.and_then(|route| route.faults.draw(args.get(0), &mut self.random));
                    of_route.or_else(|| client.config.faults.draw(args.get(0), &mut self.random))
                }
            };
            if let Some(fault) = drawn {
                if first_time && !fault.delay.is_zero() {
                    self.count(client, Stat::FaultDelays);
                    client.until = Some(now + fault.delay);
                    self.alarms.insert((now + fault.delay, id));
                    client.drawn = Some(drawn);
                    return Step::Waits;
                }
                if fault.error {
                    self.count(client, Stat::FaultErrors);
                    decision = Decision::Deny("Fault Injected: Error".into());
                }
            }
        }
        self.perform(id, client, known, args, raw, decision, now)
    }

    fn decide(&mut self, id: ClientId, client: &mut Client, known: Option<Known>, args: &Args<'_>) -> Decision {
        let name = known.map(|known| known.container.name).unwrap_or_default();
        if !client.may_command() && !matches!(name, "auth" | "hello" | "reset" | "quit") {
            self.count(client, Stat::Unauthenticated);
            return Decision::Deny("NOAUTH Authentication required.".into());
        }
        let Some(Known { container, command }) = known else { return doom(client, Decision::Deny(args.unknown())) };
        if container.name == command.name && !container.subcommands.is_empty() && args.count > 1 && name != "command" {
            let text = format!("ERR unknown subcommand '{}'. Try {} HELP.", args.quoted(1), name.to_ascii_uppercase());
            return doom(client, Decision::Deny(text));
        }
        if !command.accepts(args.count) {
            let text = format!("ERR wrong number of arguments for '{}' command", command.name);
            return doom(client, Decision::Deny(text));
        }
        if client.config.guarded
            && let Some(reason) = guard::refusal(container, command, args)
        {
            let name = command.name.to_ascii_uppercase().replace('|', " ");
            let text =
                format!("NOPERM redis-mesh: {name} {reason}; allowAdminCommands of the RedisService would permit it");
            return doom(client, Decision::Refuse(text));
        }
        if NEEDS_OWN.contains(&command.name) || blocks(command, args) {
            let text = format!("ERR redis-mesh: {} needs the direct data path", command.name.to_ascii_uppercase());
            return doom(client, Decision::Refuse(text));
        }
        match name {
            "multi" if client.transaction.is_some() => Decision::Deny("ERR MULTI calls can not be nested".into()),
            "multi" => {
                client.transaction = Some(Transaction::default());
                ok()
            }
            "exec" => match client.transaction.take() {
                None => Decision::Deny("ERR EXEC without MULTI".into()),
                Some(transaction) if transaction.is_doomed => {
                    Decision::Deny("EXECABORT Transaction discarded because of previous errors.".into())
                }
                Some(transaction) if transaction.len() == 0 => Decision::Answer(b"*0\r\n".to_vec()),
                Some(transaction) => Decision::Exec(transaction),
            },
            "discard" => match client.transaction.take() {
                None => Decision::Deny("ERR DISCARD without MULTI".into()),
                Some(_) => ok(),
            },
            "unwatch" if client.transaction.is_none() => ok(),
            "reset" => {
                let config = client.config.clone();
                (client.resp3, client.is_authenticated, client.transaction) = (false, false, None);
                client.links = vec![None; config.targets.len()];
                client.name.clear();
                Decision::Answer(b"+RESET\r\n".to_vec())
            }
            "quit" => {
                client.is_closing = true;
                ok()
            }
            "auth" | "hello" if client.transaction.is_some() => {
                doom(client, Decision::Deny("ERR Command not allowed inside a transaction".into()))
            }
            "auth" => match self.log_in(client, args) {
                Ok(()) => ok(),
                Err(text) => Decision::Deny(text),
            },
            "hello" => self.hello(id, client, args),
            "select" if args.get(1) != b"0" => {
                doom(client, Decision::Refuse("ERR redis-mesh: only database 0 is served here".into()))
            }
            _ if client.transaction.is_some() => doom_if_refused(client, route(client, command, args)),
            "select" => ok(),
            "ping" if args.count == 1 => Decision::Answer(b"+PONG\r\n".to_vec()),
            "ping" | "echo" => Decision::Answer(bulk(args.get(1))),
            "client" => client_command(id, client, command, args),
            "command" => {
                let protocol = if client.resp3 { command::Protocol::Resp3 } else { command::Protocol::Resp2 };
                let mut out = Vec::new();
                command::describe(args, protocol, is_served, &mut out);
                Decision::Answer(out)
            }
            _ => route(client, command, args),
        }
    }

    fn log_in(&mut self, client: &mut Client, args: &Args<'_>) -> Result<(), String> {
        let (username, password) = match args.count {
            2 => (None, args.get(1)),
            3 => (Some(args.get(1)), args.get(2)),
            _ => return Err("ERR syntax error".into()),
        };
        self.check(client, username, password)
    }

    fn check(&mut self, client: &mut Client, username: Option<&[u8]>, password: &[u8]) -> Result<(), String> {
        let Some(text) = auth::refusal(client.config.client_auth.as_ref(), username, password) else {
            client.is_authenticated |= client.config.client_auth.is_some();
            return Ok(());
        };
        self.count(client, Stat::AuthFailures);
        Err(text.into())
    }

    fn hello(&mut self, id: ClientId, client: &mut Client, args: &Args<'_>) -> Decision {
        let Hello { resp3, credentials, name } = match Hello::parse(args) {
            Ok(hello) => hello,
            Err(text) => return Decision::Deny(text),
        };
        if let Some((username, password)) = credentials
            && let Err(text) = self.check(client, Some(username), password)
        {
            return Decision::Deny(text);
        }
        let resp3 = resp3.unwrap_or(client.resp3);
        if !client.may_command() {
            self.count(client, Stat::Unauthenticated);
            return Decision::Deny(hello::NOAUTH.into());
        }
        if let Some(name) = name {
            client.name = name.to_vec();
        }
        if client.resp3 != resp3 {
            client.resp3 = resp3;
            // Each protocol has connections of its own.
            client.links = vec![None; client.config.targets.len()];
        }
        Decision::Answer(hello::reply(resp3, id.number()))
    }

    #[allow(clippy::too_many_arguments)]
    fn perform(
        &mut self,
        id: ClientId,
        client: &mut Client,
        known: Option<Known>,
        args: &Args<'_>,
        raw: Option<&[u8]>,
        decision: Decision,
        now: Duration,
    ) -> Step {
        match decision {
            Decision::Answer(reply) => client.queue.answered(&reply, &mut client.out),
            Decision::Refuse(text) => {
                self.count(client, Stat::Refused);
                answer_error(client, &text);
            }
            Decision::Deny(text) => answer_error(client, &text),
            Decision::Forward { target, edits, .. } if client.transaction.is_some() => {
                let whole = written(args, &edits, raw);
                // A command without a key goes wherever the others go.
                let target =
                    (!edits.is_empty() || known.is_some_and(|known| known.command.has_keys())).then_some(target);
                queue(client, target, &whole);
            }
            Decision::Forward { target, edits, .. } => {
                let Some(link) = self.link(client, target, now) else { return Step::Taken };
                if self.is_full(link) {
                    return self.wait_for(client, link);
                }
                let sequence = client.queue.expect();
                if let Some(carrier) = self.carriers.get_mut(link) {
                    match raw.filter(|_| edits.is_empty()) {
                        Some(raw) => carrier.out.extend_from_slice(raw),
                        None => write(args, &edits, &mut carrier.out),
                    }
                    carrier.expected.push_back(Expected::Client(id, sequence));
                }
                self.announce_upstream(link);
                self.mirror(client, target, known, args, &edits, raw, now);
            }
            Decision::Split(parts, owners) => return self.split(id, client, known, args, &parts, owners, now),
            Decision::Exec(transaction) => {
                let target = transaction.target().or(client.config.keyless()).unwrap_or_default();
                let Some(link) = self.link(client, target, now) else { return Step::Taken };
                let sequence = client.queue.expect();
                if let Some(carrier) = self.carriers.get_mut(link) {
                    transaction.write(&mut carrier.out);
                    carrier.expected.extend(std::iter::repeat_n(Expected::Nobody, transaction.len() + 1));
                    carrier.expected.push_back(Expected::Client(id, sequence));
                }
                self.announce_upstream(link);
            }
        }
        Step::Taken
    }

    fn wait_for(&mut self, client: &mut Client, link: CarrierId) -> Step {
        client.waits_for = Some(link);
        if let Some(carrier) = self.carriers.get_mut(link) {
            carrier.is_awaited = true;
        }
        Step::Waits
    }

    fn is_full(&self, link: CarrierId) -> bool {
        self.carriers.get(link).is_some_and(|carrier| carrier.is_full || carrier.out.len() > STAGED)
    }

    #[allow(clippy::too_many_arguments)]
    fn split(
        &mut self,
        id: ClientId,
        client: &mut Client,
        known: Option<Known>,
        args: &Args<'_>,
        parts: &[Part],
        owners: Vec<usize>,
        now: Duration,
    ) -> Step {
        let Some(Known { command, .. }) = known else { return Step::Taken };
        let mut links = Vec::with_capacity(parts.len());
        for part in parts {
            let Some(link) = self.link(client, part.target, now) else { return Step::Taken };
            if self.is_full(link) {
                return self.wait_for(client, link);
            }
            links.push(link);
        }
        let sequence = client.queue.expect_parts(Merge::new(command.split, owners, parts.len()));
        for (number, (part, link)) in parts.iter().zip(links).enumerate() {
            let mut out = Vec::new();
            write_part(command, args, part, &mut out);
            if let Some(carrier) = self.carriers.get_mut(link) {
                carrier.out.extend_from_slice(&out);
                carrier.expected.push_back(Expected::Part(id, sequence, number));
            }
            self.announce_upstream(link);
            self.mirror(client, part.target, known, args, &[], Some(&out), now);
        }
        Step::Taken
    }

    /// Sends copies. Nobody waits for their replies.
    #[allow(clippy::too_many_arguments)]
    fn mirror(
        &mut self,
        client: &mut Client,
        target: usize,
        known: Option<Known>,
        args: &Args<'_>,
        edits: &[Edit],
        raw: Option<&[u8]>,
        now: Duration,
    ) {
        let config = client.config.clone();
        let mirrors = config.targets.get(target).map(|target| target.mirrors.as_slice()).unwrap_or_default();
        let mut is_mirrored = false;
        for mirror in mirrors {
            let reads = known.is_none_or(|known| known.command.is_read());
            if mirror.exclude_read_commands && reads || !self.random.chance(mirror.per_million) {
                continue;
            }
            let line = Line { upstream: mirror.upstream.clone(), resp3: false };
            let Some(link) = self.line(line, now) else { continue };
            // A mirror that doesn't keep up misses copies; it holds up nobody.
            if self.is_full(link) {
                continue;
            }
            is_mirrored = true;
            if let Some(carrier) = self.carriers.get_mut(link) {
                carrier.out.extend_from_slice(&written(args, edits, raw));
                carrier.expected.push_back(Expected::Nobody);
            }
            self.announce_upstream(link);
        }
        if is_mirrored {
            self.count(client, Stat::Mirrored);
        }
    }

    /// The connection of a client to a target. Without one, the command has been answered.
    fn link(&mut self, client: &mut Client, target: usize, now: Duration) -> Option<CarrierId> {
        if let Some(link) = client.links.get(target).copied().flatten()
            && self.carriers.get(link).is_some_and(|carrier| carrier.refused.is_none())
        {
            return Some(link);
        }
        let config = client.config.clone();
        let upstream = config.targets.get(target).map(|target| target.upstream.clone())?;
        match self.line(Line { upstream: upstream.clone(), resp3: client.resp3 }, now) {
            Some(link) => {
                if let Some(known) = client.links.get_mut(target) {
                    *known = Some(link);
                }
                Some(link)
            }
            None => {
                let why = self.why(&upstream);
                answer_error(client, &format!("ERR redis-mesh: {} {why}", upstream.cluster));
                None
            }
        }
    }

    /// The connection that clients share, opened if there is none; none while it is too early to try again.
    fn line(&mut self, line: Line, now: Duration) -> Option<CarrierId> {
        if let Some(link) = self.lines.get(&line) {
            return Some(*link);
        }
        if self.down.get(&line.upstream).is_some_and(|down| down.until > now) {
            return None;
        }
        let carrier = Carrier::new(line.clone());
        let address = carrier.address();
        let id = self.carriers.insert(carrier);
        self.lines.insert(line, id);
        self.outputs.push_back(Output::Open(id, address));
        self.announce_upstream(id);
        Some(id)
    }

    fn why(&self, upstream: &Upstream) -> &str {
        self.down.get(upstream).map_or("can't be reached", |down| down.why.as_str())
    }
}

fn answer_error(client: &mut Client, text: &str) {
    let mut reply = Vec::new();
    encode::error(&mut reply, text.as_bytes());
    client.queue.answered(&reply, &mut client.out);
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
        Decision::Split(..) => doom(client, cross()),
        other => other,
    }
}

fn queue(client: &mut Client, target: Option<usize>, command: &[u8]) {
    let Some(transaction) = &mut client.transaction else { return };
    if transaction.held() + command.len() > HELD_TRANSACTION {
        transaction.is_doomed = true;
        return answer_error(client, "ERR redis-mesh: too big a transaction");
    }
    if !transaction.queue(target, command) {
        return answer_error(client, CROSS);
    }
    client.queue.answered(b"+QUEUED\r\n", &mut client.out);
}

const CROSS: &str = "CROSSSLOT redis-mesh: keys route to different destinations";

fn cross() -> Decision {
    Decision::Refuse(CROSS.into())
}

/// True if it would hold up everybody who shares the connection.
fn blocks(command: &Command, args: &Args<'_>) -> bool {
    if !command.flags.contains(Flags::BLOCKING) {
        return false;
    }
    match command.name {
        "xread" | "xreadgroup" => (1..args.count).any(|index| args.get(index).eq_ignore_ascii_case(b"block")),
        _ => true,
    }
}

fn client_command(id: ClientId, client: &mut Client, command: &Command, args: &Args<'_>) -> Decision {
    match command.name {
        "client|id" => Decision::Answer(number(id.number())),
        "client|getname" if client.name.is_empty() => Decision::Answer(null(client.resp3)),
        "client|getname" => Decision::Answer(bulk(&client.name)),
        "client|setname" => {
            let name = args.get(2);
            if !name.iter().all(|byte| (b'!'..=b'~').contains(byte)) {
                let text = "ERR Client names cannot contain spaces, newlines or special characters.";
                return Decision::Deny(text.into());
            }
            client.name = name.to_vec();
            ok()
        }
        "client|setinfo" => ok(),
        _ => Decision::Refuse(format!(
            "ERR redis-mesh: {} needs the direct data path",
            command.name.to_ascii_uppercase().replace('|', " ")
        )),
    }
}

/// Where a command goes by its keys.
fn route(client: &Client, command: &Command, args: &Args<'_>) -> Decision {
    let config = &client.config;
    let keys = match command.keys(args) {
        Ok(keys) => keys,
        Err(error) => return Decision::Deny(format!("ERR {error}")),
    };
    if keys.is_empty() {
        return match config.keyless() {
            Some(target) => {
                Decision::Forward { target, route: config.router.any().map(|any| any as usize), edits: Vec::new() }
            }
            None => Decision::Refuse(format!(
                "ERR redis-mesh: {} has no key, and several destinations are served here",
                command.name.to_ascii_uppercase().replace('|', " ")
            )),
        };
    }
    let mut edits = Vec::new();
    let mut parts: Vec<Part> = Vec::new();
    let mut owners = Vec::with_capacity(keys.len());
    let mut first = None;
    for key in keys.iter() {
        let bytes = args.get(key.index);
        let Some((matched, found)) = config.route(bytes) else {
            let shown = args.quoted(key.index);
            return Decision::Refuse(format!("ERR redis-mesh: no route of {} takes the key '{shown}'", config.host));
        };
        first = first.or(Some(matched.route as usize));
        let strip = if found.remove_prefix { matched.prefix as usize } else { 0 };
        if strip > 0 {
            edits.push((key.index, strip));
        }
        let is_same = |part: &Part| match (config.targets.get(part.target), config.targets.get(found.target)) {
            (Some(a), Some(b)) => part.target == found.target || a.upstream == b.upstream,
            _ => false,
        };
        let owner = parts.iter().position(is_same).unwrap_or_else(|| {
            parts.push(Part { target: found.target, keys: Vec::new() });
            parts.len() - 1
        });
        owners.push(owner);
        if let Some(part) = parts.get_mut(owner) {
            part.keys.push((key.index, strip));
        }
    }
    // In the order of the arguments, which isn't that of the keys everywhere.
    edits.sort_unstable();
    match parts.as_slice() {
        [one] => Decision::Forward { target: one.target, route: first, edits },
        _ if command.split == Split::No => cross(),
        _ => Decision::Split(parts, owners),
    }
}

fn written(args: &Args<'_>, edits: &[Edit], raw: Option<&[u8]>) -> Vec<u8> {
    match raw.filter(|_| edits.is_empty()) {
        Some(raw) => raw.to_vec(),
        None => {
            let mut out = Vec::new();
            write(args, edits, &mut out);
            out
        }
    }
}

/// The command with what is to be removed from its keys removed.
fn write(args: &Args<'_>, edits: &[Edit], out: &mut Vec<u8>) {
    encode::array(out, args.count);
    let mut edits = edits.iter().peekable();
    for index in 0..args.count {
        let strip = edits.next_if(|(key, _)| *key == index).map_or(0, |(_, strip)| *strip);
        encode::bulk(out, args.get(index).get(strip..).unwrap_or_default());
    }
}

/// The command of a part: the name, and each of its keys with what belongs to it.
fn write_part(command: &Command, args: &Args<'_>, part: &Part, out: &mut Vec<u8>) {
    let belongs = if command.split == Split::Ok { 1 } else { 0 };
    encode::array(out, 1 + part.keys.len() * (1 + belongs));
    encode::bulk(out, args.get(0));
    for (index, strip) in &part.keys {
        encode::bulk(out, args.get(*index).get(*strip..).unwrap_or_default());
        if belongs > 0 {
            encode::bulk(out, args.get(index + 1));
        }
    }
}
