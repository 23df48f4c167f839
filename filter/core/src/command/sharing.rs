//! Whether a command may travel over a connection that several clients share.
//!
//! A command on a shared connection must neither make the commands behind it wait nor change what
//! the connection does for others. That follows from the command table; whatever isn't known to be
//! safe isn't.

use super::key_spec::is_word;
use super::{Arguments, Categories, Command, Flags};

/// Proof that a command may travel over a shared connection. Only this module makes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shareable(());

/// What kind of connection a command needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// Any connection to the right server.
    Safe(Shareable),
    /// A dedicated one until it is answered: the server may let it wait.
    Blocks,
    /// A dedicated one until it is answered: the server has to hear it while it is busy with a command
    /// that has come over a shared one (SCRIPT KILL).
    Interrupts,
    /// A dedicated one on which the client's writes can be waited for (WAIT, WAITAOF).
    AwaitsWrites,
    /// A dedicated one until the keys are not watched any more (WATCH).
    Watches,
    /// A dedicated one for good: the command changes what the server does for this connection.
    ChangesConnection,
}

/// Commands that servers flag as `noscript`, or count among those about the connection, although
/// they neither wait nor change anything for the commands behind them. A name that ends in `|`
/// stands for all subcommands.
const SAFE_BY_NAME: &[&str] = &[
    "acl|",
    "bgrewriteaof",
    "bgsave",
    "client|getredir",
    "client|help",
    "client|kill",
    "client|list",
    "client|pause",
    "client|trackinginfo",
    "client|unpause",
    "cluster|reset",
    "command",
    "command|",
    "config|",
    "debug",
    "echo",
    "eval",
    "eval_ro",
    "evalsha",
    "evalsha_ro",
    "failover",
    "fcall",
    "fcall_ro",
    "function|",
    "latency|",
    "module|",
    "ping",
    "replicaof",
    "role",
    "save",
    "script|",
    "slaveof",
];

/// Commands that can't be queued in a transaction that travels over a shared connection: they
/// change the state of the connection, or most servers refuse them when they are to be queued.
const NOT_QUEUED: &[&str] = &[
    "asking",
    "module|load",
    "module|loadex",
    "module|unload",
    "monitor",
    "psubscribe",
    "psync",
    "punsubscribe",
    "readonly",
    "readwrite",
    "select",
    "ssubscribe",
    "subscribe",
    "sunsubscribe",
    "sync",
    "unsubscribe",
];

impl Shareable {
    /// The proof for a command whose one key decides everything about it, so that its flags need
    /// not be looked at again.
    #[inline]
    pub fn of_one_key(command: &Command) -> Option<Shareable> {
        command.has_one_key.then_some(Shareable(()))
    }

    /// The proof for a transaction, MULTI to EXEC in one piece: in it nothing waits, and
    /// [`may_be_queued`] keeps out what changes the connection.
    pub fn of_transaction() -> Shareable {
        Shareable(())
    }
}

/// Tells what kind of connection a command needs. `command` is the row that rules it.
pub fn sharing<A: Arguments + ?Sized>(command: &Command, arguments: &A) -> Sharing {
    match command.name {
        "wait" | "waitaof" => Sharing::AwaitsWrites,
        "watch" => Sharing::Watches,
        "script|kill" | "function|kill" | "shutdown" => Sharing::Interrupts,
        "xread" | "xreadgroup" if !has_option(arguments, b"block") => Sharing::Safe(Shareable(())),
        _ if command.flags.contains(Flags::BLOCKING) => Sharing::Blocks,
        name if is_unremarkable(command) || is_safe_by_name(name) => Sharing::Safe(Shareable(())),
        _ => Sharing::ChangesConnection,
    }
}

/// Whether a command may be queued in a transaction that travels over a shared connection.
pub fn may_be_queued(command: &Command) -> bool {
    !NOT_QUEUED.contains(&command.name) && !command.name.starts_with("client")
}

/// What may run in a script can neither wait nor change a connection.
fn is_unremarkable(command: &Command) -> bool {
    !command.flags.contains(Flags::NOSCRIPT) && !command.categories.intersects(Categories::CONNECTION)
}

fn is_safe_by_name(name: &str) -> bool {
    SAFE_BY_NAME.iter().any(|safe| *safe == name || safe.ends_with('|') && name.starts_with(safe))
}

/// Whether an argument is this option. An argument that hasn't arrived might be it.
fn has_option<A: Arguments + ?Sized>(arguments: &A, option: &[u8]) -> bool {
    (1..arguments.count()).any(|index| arguments.argument(index).is_none_or(|word| is_word(word, option)))
}

#[cfg(test)]
mod tests {
    use super::super::{Known, all};
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn of(request: &str) -> Sharing {
        let arguments: Vec<&str> = request.split(' ').collect();
        let Known { command, .. } = Known::of(&arguments[..]).unwrap();
        sharing(command, &arguments[..])
    }

    #[test]
    fn what_waits_or_changes_the_connection_is_not_shared() {
        for request in
            ["GET k", "EVAL s 0", "XREAD STREAMS k 0", "CONFIG GET x", "PUBLISH c m", "FLUSHALL", "CLIENT LIST"]
        {
            assert!(matches!(of(request), Sharing::Safe(_)), "{request}");
        }
        for request in ["BLPOP k 0", "XREAD BLOCK 0 STREAMS k $", "XREAD block\0 0 STREAMS k $", "BZMPOP 0 1 k MIN"] {
            assert_eq!(of(request), Sharing::Blocks, "{request}");
        }
        for request in ["WAIT 1 0", "WAITAOF 1 0 0"] {
            assert_eq!(of(request), Sharing::AwaitsWrites, "{request}");
        }
        for request in ["SCRIPT KILL", "FUNCTION KILL", "SHUTDOWN NOSAVE"] {
            assert_eq!(of(request), Sharing::Interrupts, "{request}");
        }
        assert_eq!(of("WATCH k"), Sharing::Watches);
        for request in ["CLIENT TRACKING ON", "CLIENT CAPA redirect", "CLIENT IMPORT-SOURCE ON", "CLIENT NO-EVICT ON"] {
            assert_eq!(of(request), Sharing::ChangesConnection, "{request}");
        }
        for request in ["SELECT 1", "MONITOR", "SUBSCRIBE c", "AUTH p", "RESET", "READONLY", "MULTI"] {
            assert_eq!(of(request), Sharing::ChangesConnection, "{request}");
        }
    }

    #[test]
    fn a_command_whose_one_key_decides_everything_is_safe() {
        let mut count = 0;
        for command in all().iter().filter(|command| Shareable::of_one_key(command).is_some()) {
            assert!(matches!(sharing(command, &[command.name, "k"][..]), Sharing::Safe(_)), "{}", command.name);
            count += 1;
        }
        assert!(count > 100, "{count}");
    }
}
