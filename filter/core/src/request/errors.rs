//! Errors that both machines answer, in Redis's own words where Redis has some.

use crate::command::{Args, Command, KeyCountError};

/// The error of every command, but for those that log in, of a client that hasn't logged in.
pub const NOAUTH: &str = "NOAUTH Authentication required.";

/// The error of arguments that contradict a command's grammar.
pub const SYNTAX: &str = "ERR syntax error";

/// The error of a Redis Cluster for a command whose keys have different hash slots.
pub const CROSSSLOT: &str = "CROSSSLOT Keys in request don't hash to the same slot";

/// The error of a command that can't be split and whose keys have routes to different
/// destinations.
pub const CROSS_DESTINATION: &str = "CROSSSLOT redis-mesh: keys route to different destinations";

/// The error of a command that can't be split and whose keys are placed on different servers of
/// one destination.
pub const CROSS_SERVER: &str = "CROSSSLOT redis-mesh: keys are on different servers of their destination";

/// The error of EXEC for a transaction of which a command was refused when it was queued.
pub const EXECABORT: &str = "EXECABORT Transaction discarded because of previous errors.";

/// The error of EXEC with arguments, which also discards the transaction.
pub const EXEC_WITH_ARGUMENTS: &str =
    "EXECABORT Transaction discarded because of: wrong number of arguments for 'exec' command";

/// The error of MULTI in a transaction.
pub const NESTED_MULTI: &str = "ERR MULTI calls can not be nested";

/// The error of WATCH in a transaction.
pub const WATCH_IN_MULTI: &str = "ERR WATCH inside MULTI is not allowed";

/// The error of commands that can't be queued in a transaction.
pub const NOT_IN_MULTI: &str = "ERR Command not allowed inside a transaction";

/// The error of a command, named in lower case, with too few or too many arguments.
pub fn wrong_arity(name: &str) -> String {
    format!("ERR wrong number of arguments for '{name}' command")
}

/// The error of a command, named in lower case, whose number of keys is wrong.
pub fn wrong_key_count(name: &str, error: KeyCountError) -> String {
    use KeyCountError::{NotInteger, TooFew, TooMany};
    let text = match (name, error) {
        ("fcall" | "fcall_ro", NotInteger) => "ERR Bad number of keys provided",
        ("eval" | "evalsha" | "eval_ro" | "evalsha_ro" | "fcall" | "fcall_ro", TooFew) => {
            "ERR Number of keys can't be negative"
        }
        ("eval" | "evalsha" | "eval_ro" | "evalsha_ro" | "fcall" | "fcall_ro" | "sintercard", TooMany) => {
            "ERR Number of keys can't be greater than number of args"
        }
        ("sintercard" | "lmpop" | "blmpop" | "zmpop" | "bzmpop", NotInteger | TooFew) => {
            "ERR numkeys should be greater than 0"
        }
        (_, NotInteger) => "ERR value is not an integer or out of range",
        (_, TooFew) => return format!("ERR at least 1 input key is needed for '{name}' command"),
        (_, TooMany) => SYNTAX,
    };
    text.to_owned()
}

/// The error of a command that isn't in the command table.
pub fn unknown_command(args: &Args<'_>) -> String {
    let mut shown = String::new();
    for i in 1..args.spans.len() {
        if shown.len() >= 128 {
            break;
        }
        shown.push_str(&format!("'{}' ", args.quoted(i)));
    }
    format!("ERR unknown command '{}', with args beginning with: {shown}", args.quoted(0))
}

/// The error of a container's subcommand that isn't in the command table.
pub fn unknown_subcommand(container: &Command, args: &Args<'_>) -> String {
    format!("ERR unknown subcommand '{}'. Try {} HELP.", args.quoted(1), container.name.to_ascii_uppercase())
}

/// The error of EXEC or DISCARD, named in upper case, without a transaction.
pub fn without_multi(name: &str) -> String {
    format!("ERR {name} without MULTI")
}

/// The error of a command, named in lower case, of a client that has subscribed by RESP2.
pub fn not_for_subscribers(name: &str) -> String {
    format!(
        "ERR Can't execute '{name}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context"
    )
}

/// The error of a key that no route of a host takes.
pub fn no_route(host: &str) -> String {
    format!("ERR redis-mesh: no route of {host} takes this key")
}
