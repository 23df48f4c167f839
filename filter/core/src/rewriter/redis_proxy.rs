//! Decisions where redis_proxy stands behind: which tag the argument gets that it routes by, and what it must never see.

use super::edits::{ArgEdit, TagRef};
use super::markers::{Form, Then};
use super::tcp_proxy::plan_keys;
use super::{Decision, Env, Gate, Plan, Rewriter, Sink, Transaction};
use crate::command::{self, Args, Command, Protocol, Proxy, Split};
use crate::downstream::hello::REDIS_VERSION;
use crate::request::errors::{self, CROSS_DESTINATION, EXECABORT};
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

/// The refusal of what redis_proxy can't do.
pub(super) fn needs(what: &str) -> String {
    format!("ERR redis-mesh: {what} needs the direct or native data path")
}

impl Rewriter {
    /// A command that the table knows. `container` is the row of its name, `command` of its subcommand if it has one.
    pub(super) fn proxy(
        &mut self,
        env: &mut Env<'_>,
        container: &'static Command,
        command: &'static Command,
        args: &Args<'_>,
        plan: &mut Plan,
        sink: &mut Sink<'_>,
    ) -> Decision {
        if self.transaction.open {
            return self.in_transaction(env, container, command, args, plan);
        }
        if container.proxy == Proxy::Simple {
            // Most commands: none of the names below.
            if !command.accepts(args.count) {
                return wrong_arity(command);
            }
            plan.strays = strays(env, command);
            if plan.strays && self.unsettled {
                return self.settle(env, sink);
            }
            return match self.keyed(env, container, command, args, plan) {
                Ok(()) => Decision::Forward,
                Err(text) => Decision::Refuse(text),
            };
        }
        let single = env.host.single_destination;
        let upper = container.name.to_ascii_uppercase();
        match container.name {
            "client" => return self.client(args),
            "command" => {
                let protocol = if self.resp3 { Protocol::Resp3 } else { Protocol::Resp2 };
                let mut out = Vec::new();
                command::describe(args, protocol, Command::is_on_proxy, &mut out);
                return Decision::Answer(out);
            }
            _ if !command.accepts(args.count) => return wrong_arity(command),
            "ping" if args.count == 2 => {
                // redis_proxy forgets the argument; ECHO answers the same.
                let mut out = Vec::new();
                encode::command(&mut out, &[b"ECHO", args.get(1)]);
                return Decision::Send(out);
            }
            "ping" | "echo" | "quit" => return Decision::Forward,
            // redis_proxy's second number is wrong.
            "time" => return Decision::Answer(time(env)),
            "select" => {
                return match args.get(1) {
                    b"0" => Decision::Answer(b"+OK\r\n".to_vec()),
                    _ => Decision::Refuse(needs("SELECT other than 0")),
                };
            }
            "unwatch" => {
                self.watch_refused = false;
                return Decision::Answer(b"+OK\r\n".to_vec());
            }
            "watch" => {
                self.watch_refused = true;
                return Decision::Refuse(needs("WATCH"));
            }
            "multi" if self.watch_refused || !single => {
                let reason = if single { needs("WATCH") } else { several(env, "a transaction") };
                self.transaction = Transaction { open: true, refused: Some(reason), ..Transaction::default() };
                return Decision::Answer(b"+OK\r\n".to_vec());
            }
            "exec" | "discard" => return Decision::Deny(errors::without_multi(&upper)),
            // redis_proxy runs a transaction on a connection of its own, where it would overtake what was sent before.
            "multi" if self.unsettled => return self.settle(env, sink),
            "multi" => return Decision::Forward,
            "info" if !single => return Decision::Answer(self.info(env)),
            // redis_proxy looks at the first section only, and of some it knows nothing: an empty reply.
            "info" if args.count > 2 => return Decision::Refuse(needs("INFO of several sections")),
            "info" if NOT_IN_INFO.iter().any(|section| args.get(1).eq_ignore_ascii_case(section)) => {
                return Decision::Refuse(needs(&format!("INFO {}", args.quoted(1))));
            }
            // redis_proxy answers with an array of the shards' answers, though there be one.
            "role" => return Decision::Refuse(needs("ROLE")),
            "object" | "config" | "slowlog" if command.own_name() == "help" => {
                return Decision::Refuse(needs(&format!("{upper} HELP")));
            }
            "scan" if single && env.host.targets.iter().any(|t| t.cluster) => {
                // redis_proxy strings the shards' answers together, which is no answer to SCAN.
                return Decision::Refuse("ERR redis-mesh: SCAN over a Redis Cluster needs the native data path".into());
            }
            // The debugger would take the connection of whoever runs the next script.
            "script" if command.own_name() == "debug" && !args.get(2).eq_ignore_ascii_case(b"no") => {
                return Decision::Refuse("ERR redis-mesh: SCRIPT DEBUG needs the direct data path".into());
            }
            "eval" | "evalsha" if args.count < 4 => {
                return Decision::Refuse(needs(&format!("{upper} without a key or an argument")));
            }
            _ => {}
        }
        match container.proxy {
            Proxy::Unsupported | Proxy::Local | Proxy::Transaction => Decision::Refuse(needs(&upper)),
            Proxy::Simple | Proxy::Eval | Proxy::Object | Proxy::SplitKeys | Proxy::SplitPairs => {
                match self.keyed(env, container, command, args, plan) {
                    Ok(()) => Decision::Forward,
                    Err(text) => Decision::Refuse(text),
                }
            }
            Proxy::Scan | Proxy::AllShards | Proxy::RandomShard if !single => {
                Decision::Refuse(several(env, &format!("{upper}, which has no key,")))
            }
            Proxy::Scan | Proxy::AllShards | Proxy::RandomShard if command.returns_keys && env.host.rewrites_keys => {
                Decision::Refuse(format!("ERR redis-mesh: {upper} returns names of keys, which removePrefix changes"))
            }
            Proxy::Scan | Proxy::AllShards | Proxy::RandomShard => Decision::Forward,
        }
    }

    /// Waits until all that was sent is answered.
    fn settle(&mut self, env: &mut Env<'_>, sink: &mut Sink<'_>) -> Decision {
        self.close_gate(env, sink);
        Decision::Wait
    }

    /// What comes next waits until all that was sent is answered.
    pub(super) fn close_gate(&mut self, env: &mut Env<'_>, sink: &mut Sink<'_>) {
        self.inject(env, Form::Echo, Vec::new(), Then::OpenGate, sink.write());
        self.gate = Gate::Reply;
    }

    /// Routes a command by its keys; the error is the refusal.
    fn keyed(
        &mut self,
        env: &mut Env<'_>,
        container: &'static Command,
        command: &'static Command,
        args: &Args<'_>,
        plan: &mut Plan,
    ) -> Result<(), String> {
        let host = env.host;
        if host.single_destination {
            not_like_a_tag(container, args)?;
        }
        if !host.keys_decide && !host.rewrites_keys {
            return Ok(());
        }
        plan_keys(host, command, args, plan)?;
        if host.single_destination {
            remains_like_a_tag(args, &plan.edits)?;
        }
        let Some(&ArgEdit { tag: TagRef::Of { target: first, .. }, .. }) = plan.edits.first() else {
            // No key, such as PUBLISH or a script without keys: it goes where every key goes, and is mirrored as those are.
            let name = container.name.to_ascii_uppercase();
            if !host.single_destination {
                return Err(several(env, &format!("{name}, which has no key,")));
            }
            let any = host.router.default_route();
            if let (Some(any), Some(arg)) = (any, routed_by(container)) {
                let mask = self.mirror(env, any.target, command);
                plan.mirrored = mask != 0;
                plan.edits.push(ArgEdit { arg, strip: 0, tag: TagRef::Of { target: any.target, tag: mask } });
            }
            return Ok(());
        };
        let target_of = |edit: &ArgEdit| match edit.tag {
            TagRef::Of { target, .. } => target,
            TagRef::None => first,
        };
        if command.split == Split::No && plan.edits.iter().any(|e| target_of(e) != first) {
            return Err(CROSS_DESTINATION.into());
        }
        // One draw for each target of a command: its keys are mirrored together or not at all.
        let mut drawn: Vec<(u32, u32)> = Vec::new();
        for edit in &mut plan.edits {
            let target = target_of(edit);
            let mirrored = host.targets.get(target as usize).is_some_and(|t| !t.mirrors.is_empty());
            let mask = match drawn.iter().find(|(t, _)| *t == target) {
                Some(&(_, mask)) => mask,
                None if mirrored => {
                    let mask = self.mirror(env, target, command);
                    drawn.push((target, mask));
                    mask
                }
                None => 0,
            };
            plan.mirrored |= mask != 0;
            edit.tag = TagRef::Of { target, tag: mask };
        }
        // redis_proxy takes the tag off the argument that it routes by, and off no other.
        let Some(routed_by) = routed_by(container) else {
            return Ok(());
        };
        let tag = plan.edits.first().map_or(TagRef::None, |e| e.tag);
        for edit in &mut plan.edits {
            edit.tag = if edit.arg == routed_by { tag } else { TagRef::None };
        }
        if plan.edits.iter().all(|e| e.arg != routed_by) {
            let at = plan.edits.partition_point(|e| e.arg < routed_by);
            plan.edits.insert(at, ArgEdit { arg: routed_by, strip: 0, tag });
        }
        Ok(())
    }

    /// Draws the mirrors of a command, as a bit mask.
    fn mirror(&self, env: &mut Env<'_>, target: u32, command: &Command) -> u32 {
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

    fn in_transaction(
        &mut self,
        env: &mut Env<'_>,
        container: &'static Command,
        command: &'static Command,
        args: &Args<'_>,
        plan: &mut Plan,
    ) -> Decision {
        let error = |text: &str| {
            let mut out = Vec::new();
            encode::error(&mut out, text.as_bytes());
            // An answer, not a refusal: as in Redis, the transaction goes on.
            Decision::Answer(out)
        };
        if let Some(reason) = self.transaction.refused.clone() {
            return self.in_refused_transaction(container.name, reason);
        }
        match container.name {
            "multi" => return error(errors::NESTED_MULTI),
            "watch" => return error(errors::WATCH_IN_MULTI),
            // Redis discards the transaction whose EXEC it refuses.
            "exec" => return Decision::Forward,
            "discard" if args.count == 1 => return Decision::Forward,
            "quit" => return Decision::Forward,
            _ if !command.accepts(args.count) => return wrong_arity(command),
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
            let name = container.name.to_ascii_uppercase();
            return Decision::Refuse(needs(&format!("{name} inside a transaction")));
        }
        if let Err(text) = not_like_a_tag(container, args) {
            return Decision::Refuse(text);
        }
        if env.host.keys_decide || env.host.rewrites_keys {
            let routed = plan_keys(env.host, command, args, plan);
            if let Err(text) = routed.and_then(|()| remains_like_a_tag(args, &plan.edits)) {
                return Decision::Refuse(text);
            }
            // redis_proxy takes no tag off inside MULTI.
            for edit in &mut plan.edits {
                edit.tag = TagRef::None;
            }
        }
        Decision::Forward
    }

    /// A transaction that can't be served: its commands are refused one by one, as Redis refuses them for other reasons, and
    /// EXEC fails. Were MULTI itself refused, what a client has pipelined behind it would run alone.
    fn in_refused_transaction(&mut self, name: &str, reason: String) -> Decision {
        match name {
            "quit" => return Decision::Forward,
            "exec" | "discard" => {
                self.transaction = Transaction::default();
                self.watch_refused = false;
            }
            _ => return Decision::Refuse(reason),
        }
        match name {
            "exec" => Decision::Deny(EXECABORT.into()),
            _ => Decision::Answer(b"+OK\r\n".to_vec()),
        }
    }

    /// INFO of a host that is several: what clients look for when they connect.
    fn info(&self, env: &Env<'_>) -> Vec<u8> {
        let mut text = format!(
            "# Server\r\nredis_version:{REDIS_VERSION}\r\nredis_mode:standalone\r\n# Persistence\r\nloading:0\r\n# Replication\r\nrole:master\r\n# Redis-mesh\r\n"
        );
        for target in &env.host.targets {
            let _ = write!(text, "destination:{}\r\n", target.destination);
        }
        let mut out = Vec::new();
        encode::text(&mut out, self.resp3, &text);
        out
    }
}

/// True for a command that redis_proxy sends to the wrong node of a Redis Cluster, from which it takes a detour to the right one.
fn strays(env: &Env<'_>, command: &Command) -> bool {
    command.strays() && env.host.targets.iter().any(|target| target.cluster)
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

/// Without a tag of ours before it, an argument that begins like one would be taken for it.
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

const LIKE_A_TAG: &str = "a key that begins with the byte 0x01";

fn several(env: &Env<'_>, what: &str) -> String {
    format!("ERR redis-mesh: {what} needs the native data path: {} routes to several destinations", env.host.name)
}

pub(super) fn wrong_arity(command: &Command) -> Decision {
    Decision::Refuse(errors::wrong_arity(command.name))
}

fn time(env: &Env<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    encode::array(&mut out, 2);
    encode::bulk(&mut out, env.unix.as_secs().to_string().as_bytes());
    encode::bulk(&mut out, env.unix.subsec_micros().to_string().as_bytes());
    out
}
