//! Decisions where one Redis stands behind: everything goes to it, but for keys that no route takes.

use super::edits::{ArgEdit, TagRef};
use super::{Decision, Env, Plan, Rewriter};
use crate::command::{Args, Command, Extract, KeysError};
use crate::config::Host;

impl Rewriter {
    /// A command that the table knows.
    pub(super) fn direct(
        &self,
        env: &Env<'_>,
        command: &'static Command,
        args: &Args<'_>,
        plan: &mut Plan,
    ) -> Decision {
        if !env.host.keys_decide && !env.host.rewrites_keys {
            return Decision::Forward;
        }
        match route_keys(env.host, command, args, plan) {
            Ok(_) => Decision::Forward,
            Err(text) => Decision::Refuse(text),
        }
    }

    /// A command that the table doesn't know.
    pub(super) fn direct_unknown(&self, env: &Env<'_>, args: &Args<'_>) -> Decision {
        let name = args.quoted(0).to_ascii_uppercase();
        // Redis compares names up to a NUL, so that this may be a command that we do know.
        if args.get(0).contains(&0) {
            return super::decide::unknown(args);
        }
        if env.host.keys_decide || env.host.rewrites_keys {
            return Decision::Refuse(format!(
                "ERR redis-mesh: {name} isn't known here, so its keys can't be found to route by"
            ));
        }
        // A module's command names its module; any other could be an administrative one that is newer than the table.
        if self.guarded(env) && !name.contains('.') {
            return Decision::Refuse(format!(
                "NOPERM redis-mesh: {name} isn't known here and might reveal credentials"
            ));
        }
        Decision::Forward
    }
}

/// Finds the route of every key, notes the prefixes to remove, and returns the target of each in the order of the edits.
/// The error is the refusal.
pub(super) fn route_keys(
    host: &Host,
    command: &'static Command,
    args: &Args<'_>,
    plan: &mut Plan,
) -> Result<(), String> {
    // Redis compares words up to a NUL: what we would take for a value may be an option that names a key.
    if command.extract != Extract::Specs && (2..args.count).any(|i| disguised(args.get(i))) {
        return Err("ERR syntax error".into());
    }
    // Keys of a subcommand that the table doesn't know can't be found.
    if args.count > 1 && command.subcommands.iter().any(Command::has_keys) {
        return Err(format!(
            "ERR unknown subcommand '{}'. Try {} HELP.",
            args.quoted(1),
            command.name.to_ascii_uppercase()
        ));
    }
    if host.rewrites_keys || !host.single_destination {
        let mut patterns = command.patterns(args);
        if patterns.any(|i| args.get(i) != b"#") {
            return Err("ERR redis-mesh: SORT with BY or GET reads keys that can't be routed".into());
        }
    }
    if only_key_is_first(command) && args.count >= 2 {
        return route_key(host, args, 1, plan);
    }
    let keys = command.keys(args).map_err(|e| match e {
        KeysError::Malformed if !command.accepts(args.count) => {
            format!("ERR wrong number of arguments for '{}' command", command.name)
        }
        KeysError::Malformed => "ERR syntax error".to_string(),
        KeysError::Missing(_) | KeysError::Unknown => {
            format!("ERR redis-mesh: the keys of {} can't be told", command.name.to_ascii_uppercase())
        }
    })?;
    for key in keys.iter() {
        route_key(host, args, key.index, plan)?;
    }
    if command.returns_keys && host.rewrites_keys && (keys.is_empty() || plan.edits.iter().any(|e| e.strip > 0)) {
        return Err(format!(
            "ERR redis-mesh: {} returns names of keys, which removePrefix changes",
            command.name.to_ascii_uppercase()
        ));
    }
    in_order(&mut plan.edits);
    Ok(())
}

/// Whether an argument is a word that helps to find keys, with a NUL behind it.
fn disguised(arg: &[u8]) -> bool {
    let words: [&[u8]; 8] = [b"by", b"get", b"limit", b"store", b"storedist", b"keys", b"auth", b"auth2"];
    let word = arg.iter().take(10).position(|&b| b == 0).and_then(|end| arg.get(..end));
    word.is_some_and(|word| words.iter().any(|w| w.eq_ignore_ascii_case(word)))
}

/// Sorts edits by their arguments; they nearly always are.
fn in_order(edits: &mut [ArgEdit]) {
    for i in 1..edits.len() {
        let mut at = i;
        while at > 0 && edits[at - 1].arg > edits[at].arg {
            edits.swap(at - 1, at);
            at -= 1;
        }
    }
}

fn route_key(host: &Host, args: &Args<'_>, index: usize, plan: &mut Plan) -> Result<(), String> {
    let Some((matched, action)) = host.route(args.get(index)) else {
        return Err(format!("ERR redis-mesh: no route of {} takes this key", host.name));
    };
    plan.route.get_or_insert(matched.route);
    let strip = if action.remove_prefix { matched.prefix } else { 0 };
    plan.edits.push(ArgEdit { arg: index as u32, strip, tag: TagRef::Of { target: action.target, tag: 0 } });
    Ok(())
}

/// The common case, by which no list of keys has to be made: one key, argument 1.
pub(super) fn only_key_is_first(command: &Command) -> bool {
    use crate::command::{Begin, Find, KeyFlags};
    let [spec] = command.specs else { return false };
    command.extract == Extract::Specs
        && spec.begin == Begin::Index(1)
        && matches!(spec.find, Find::Range { last: 0, .. })
        && !spec.flags.intersects(KeyFlags::NOT_KEY)
        && !command.returns_keys
}
