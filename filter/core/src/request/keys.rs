//! The routes of a command's keys, and the refusals of commands whose keys can't be routed.

use crate::command::{Args, Command, Extract, Key, KeyCountError, KeysError};
use crate::request::errors;
use crate::route::{KeyRoute, Router};
use std::fmt;

/// What a host and a machine say about keys.
#[derive(Clone, Copy, Debug)]
pub struct KeyRules<'a> {
    /// `FQDN:port` of the host, for error texts.
    pub host: &'a str,
    /// The routes of the host.
    pub router: &'a Router,
    /// All routes lead to one destination, so that a key which nobody can see in the arguments is
    /// at that destination too.
    pub has_one_destination: bool,
    /// The machine gives keys in replies the names that clients know. Otherwise commands that
    /// return names of keys whose prefix was removed are refused.
    pub renames_replies: bool,
}

/// A key of a command with its route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoutedKey {
    /// The argument that is the key.
    pub index: usize,
    /// The route of the key.
    pub to: KeyRoute,
}

/// Why a command is refused because of its keys. [`fmt::Display`] writes the error for the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyRefusal {
    /// Redis's own: the arguments contradict the command's grammar.
    Syntax,
    /// Redis's own: the number of keys of the command, of this name, is wrong.
    Count(&'static str, KeyCountError),
    /// Redis's own: the command, of this name, has too few or too many arguments.
    Arity(&'static str),
    /// Redis's own: the error text of a subcommand that the command table doesn't have.
    Subcommand(String),
    /// SORT has patterns (BY, GET) by which Redis reads keys that aren't among the arguments.
    Patterns,
    /// The command table can't tell the keys of the command of this name.
    Untold(&'static str),
    /// No route takes this argument, which is a key; the error text.
    NoRoute(usize, String),
    /// The command of this name returns names of keys, which would be those without their prefix.
    ReturnsNames(&'static str),
}

impl KeyRefusal {
    /// True if a Redis that got the command would refuse it too.
    pub fn is_of_redis(&self) -> bool {
        match self {
            KeyRefusal::Syntax | KeyRefusal::Count(..) | KeyRefusal::Arity(_) | KeyRefusal::Subcommand(_) => true,
            KeyRefusal::Patterns | KeyRefusal::Untold(_) | KeyRefusal::NoRoute(..) | KeyRefusal::ReturnsNames(_) => {
                false
            }
        }
    }
}

impl fmt::Display for KeyRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyRefusal::Syntax => f.write_str(errors::SYNTAX),
            KeyRefusal::Count(name, error) => f.write_str(&errors::wrong_key_count(name, *error)),
            KeyRefusal::Arity(name) => f.write_str(&errors::wrong_arity(name)),
            KeyRefusal::Subcommand(text) | KeyRefusal::NoRoute(_, text) => f.write_str(text),
            KeyRefusal::Patterns => f.write_str("ERR redis-mesh: SORT with BY or GET reads keys that can't be routed"),
            KeyRefusal::Untold(name) => {
                write!(f, "ERR redis-mesh: the keys of {} can't be told", name.to_ascii_uppercase())
            }
            KeyRefusal::ReturnsNames(name) => write!(
                f,
                "ERR redis-mesh: {} returns names of keys, which removePrefix changes",
                name.to_ascii_uppercase()
            ),
        }
    }
}

/// Finds the route of every key of a command and gives each key to `each`, in the order of
/// [`Command::keys`]. A command without keys calls nothing. Nothing is allocated.
///
/// # Errors
/// The command must not go on, although `each` may have been called for some of its keys.
pub fn route_keys(
    rules: &KeyRules<'_>,
    command: &'static Command,
    args: &Args<'_>,
    mut each: impl FnMut(RoutedKey),
) -> Result<(), KeyRefusal> {
    let mut is_stripped = false;
    let mut route = |index: usize| {
        let Some(to) = rules.router.find(args.get(index)) else {
            return Err(KeyRefusal::NoRoute(index, errors::no_route(rules.host)));
        };
        is_stripped |= to.strip > 0;
        each(RoutedKey { index, to });
        Ok(())
    };
    if command.has_one_key && args.count >= 2 {
        // No word of such a command decides about keys.
        return route(1);
    }
    check_words(rules, command, args)?;
    let keys = command.keys(args).map_err(|error| match error {
        KeysError::Malformed if !command.accepts(args.count) => KeyRefusal::Arity(command.name),
        KeysError::Malformed => KeyRefusal::Syntax,
        KeysError::Count(error) => KeyRefusal::Count(command.name, error),
        KeysError::Unpaired => KeyRefusal::Arity(command.name),
        KeysError::Missing(_) | KeysError::Unknown => KeyRefusal::Untold(command.name),
    })?;
    let behind = command.arguments_behind_counted_keys();
    if behind > 0 && keys.iter().any(|Key { index, .. }| index + behind >= args.count) {
        return Err(KeyRefusal::Count(command.name, KeyCountError::TooMany));
    }
    keys.iter().try_for_each(|Key { index, .. }| route(index))?;
    let may_return_others = command.returns_keys && !rules.renames_replies;
    if may_return_others && rules.router.rewrites_keys() && (keys.is_empty() || is_stripped) {
        return Err(KeyRefusal::ReturnsNames(command.name));
    }
    Ok(())
}

/// Refuses a command whose words leave open which arguments are keys.
fn check_words(rules: &KeyRules<'_>, command: &Command, args: &Args<'_>) -> Result<(), KeyRefusal> {
    if command.key_specs.extract != Extract::Specs && (2..args.count).any(|i| is_disguised(args.get(i))) {
        return Err(KeyRefusal::Syntax);
    }
    // Keys of a subcommand that the table doesn't know can't be found.
    if args.count > 1 && command.subcommands.iter().any(Command::has_keys) {
        return Err(KeyRefusal::Subcommand(errors::unknown_subcommand(command, args)));
    }
    if command.key_specs.extract == Extract::Sort
        && (!rules.has_one_destination || rules.router.rewrites_keys())
        && command.patterns(args).next().is_some()
    {
        return Err(KeyRefusal::Patterns);
    }
    Ok(())
}

/// Whether an argument is a word that decides which arguments are keys, followed by a NUL. Redis
/// compares options as C strings, so the word counts for Redis although another parser may take it
/// for a value.
fn is_disguised(arg: &[u8]) -> bool {
    let words: [&[u8]; 8] = [b"by", b"get", b"limit", b"store", b"storedist", b"keys", b"auth", b"auth2"];
    let word = arg.iter().take(10).position(|&b| b == 0).and_then(|end| arg.get(..end));
    word.is_some_and(|word| words.iter().any(|w| w.eq_ignore_ascii_case(word)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command;
    use crate::resp::request::Span;
    use crate::wire::{KeyMatch, Route};
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    /// Routes of `a:`, which is removed, to target 0, and of `b:` to target 1.
    fn router() -> Router {
        let route = |prefix: &str, target| Route {
            key: KeyMatch::Prefix(prefix.into()),
            remove_prefix: target == 0,
            target,
            read_policy: None,
            faults: Vec::new(),
        };
        Router::new(&[route("a:", 0), route("b:", 1)], false).unwrap()
    }

    /// The keys as `argument target strip`, or the error.
    fn routed(request: &str, renames_replies: bool) -> String {
        let (mut frame, mut spans) = (Vec::new(), Vec::new());
        for word in request.split(' ') {
            spans.push(Span { start: frame.len() as u32, len: word.len() as u32 });
            frame.extend_from_slice(word.as_bytes());
        }
        let args = Args { frame: &frame, spans: &spans, count: spans.len() };
        let known = command::Known::of(&args).unwrap();
        let router = router();
        let rules = KeyRules { host: "h:1", router: &router, has_one_destination: false, renames_replies };
        let mut found = Vec::new();
        let each = |key: RoutedKey| found.push(format!("{} {} {}", key.index, key.to.target, key.to.strip));
        match route_keys(&rules, known.command, &args, each) {
            Ok(()) => found.join(", "),
            Err(refusal) => format!("{} {refusal}", if refusal.is_of_redis() { "redis" } else { "mesh" }),
        }
    }

    #[test]
    fn keys_have_routes() {
        for (request, expected) in [
            ("GET a:1", "1 0 2"),
            ("MSET a:1 x b:1 y", "1 0 2, 3 1 0"),
            ("EVAL s 0", ""),
            ("ZUNIONSTORE b:1 1 a:1", "1 1 0, 3 0 2"),
            ("OBJECT ENCODING a:1", "2 0 2"),
            ("SORT a:1 STORE b:1", "1 0 2, 3 1 0"),
        ] {
            assert_eq!(routed(request, false), expected, "{request}");
        }
    }

    #[test]
    fn refusals() {
        for (request, expected) in [
            ("GET c:1", "mesh ERR redis-mesh: no route of h:1 takes this key"),
            ("MGET", "redis ERR wrong number of arguments for 'mget' command"),
            ("MSET a:1 x b:1", "redis ERR wrong number of arguments for 'mset' command"),
            ("EVAL s 2 a:1", "redis ERR Number of keys can't be greater than number of args"),
            ("EVALSHA s -1 a:1", "redis ERR Number of keys can't be negative"),
            ("EVAL_RO s x a:1", "redis ERR value is not an integer or out of range"),
            ("FCALL f x a:1", "redis ERR Bad number of keys provided"),
            ("FCALL_RO f 2 a:1", "redis ERR Number of keys can't be greater than number of args"),
            ("ZUNION 0 a:1", "redis ERR at least 1 input key is needed for 'zunion' command"),
            ("ZDIFFSTORE b:d 2 b:1", "redis ERR syntax error"),
            ("ZINTERCARD 01 b:1", "redis ERR value is not an integer or out of range"),
            ("SINTERCARD x b:1", "redis ERR numkeys should be greater than 0"),
            ("SINTERCARD 3 b:1 LIMIT", "redis ERR Number of keys can't be greater than number of args"),
            ("LMPOP 0 b:1 LEFT", "redis ERR numkeys should be greater than 0"),
            ("LMPOP 2 b:1 LEFT", "redis ERR syntax error"),
            ("BZMPOP 0 2 b:1 MIN", "redis ERR syntax error"),
            ("OBJECT nothing a:1", "redis ERR unknown subcommand 'nothing'. Try OBJECT HELP."),
            ("SORT a:1 STORE\0 b:1", "redis ERR syntax error"),
            ("SORT a:1 BY w_*", "mesh ERR redis-mesh: SORT with BY or GET reads keys that can't be routed"),
            ("BLPOP a:1 0", "mesh ERR redis-mesh: BLPOP returns names of keys, which removePrefix changes"),
        ] {
            assert_eq!(routed(request, false), expected, "{request}");
        }
        assert_eq!(routed("BLPOP a:1 0", true), "1 0 2");
        assert_eq!(routed("BLPOP b:1 0", false), "1 1 0");
    }
}
