//! Whether a command is copied to mirrors. Every copy is decided by this module, and so is what is
//! said about copies.

use super::key_spec::Arguments;
use super::script;
use super::sharing::{Sharing, sharing};
use super::{Categories, Command, Flags};

/// What a command is to a mirror.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mirroring {
    /// It is about keys, runs a script or a function, or publishes a message.
    Data,
    /// It is about keys, and the server may let it wait: the copies of all clients behind it would
    /// wait, too. In a transaction nothing waits.
    Blocking,
    /// It administers a server, or changes what the server holds as a whole.
    Admin,
    /// It tells what one server holds, without a key.
    ServerRead,
    /// It changes a server's place among others, or sends keys to another one.
    Placement,
    /// It is about the client's connection or transaction.
    Connection,
}

/// Commands about a server's place among others. A name that ends in `|` stands for all
/// subcommands. A mirror that carried them out would lose its data or send keys elsewhere.
const PLACEMENT: &[&str] = &["cluster|", "failover", "migrate", "psync", "replconf", "replicaof", "slaveof", "sync"];

impl Mirroring {
    /// What a command is to a mirror. `command` is the row that rules it.
    pub fn of<A: Arguments + ?Sized>(command: &Command, arguments: &A) -> Mirroring {
        if command.has_one_key {
            return Mirroring::Data;
        }
        let is_placement =
            |name: &&str| *name == command.name || name.ends_with('|') && command.name.starts_with(*name);
        if PLACEMENT.iter().any(is_placement) {
            return Mirroring::Placement;
        }
        let is_admin = command.flags.contains(Flags::ADMIN);
        let is_data =
            command.has_keys() || script::may_run_code(command) || matches!(command.name, "publish" | "spublish");
        match sharing(command, arguments) {
            _ if command.categories.intersects(Categories::CONNECTION) => Mirroring::Connection,
            Sharing::Safe(_) if is_admin => Mirroring::Admin,
            Sharing::Safe(_) if is_data => Mirroring::Data,
            Sharing::Safe(_) if command.is_read() => Mirroring::ServerRead,
            Sharing::Safe(_) => Mirroring::Admin,
            Sharing::Blocks => Mirroring::Blocking,
            Sharing::Interrupts | Sharing::AwaitsWrites | Sharing::Watches | Sharing::ChangesConnection => {
                Mirroring::Connection
            }
        }
    }

    /// True if a command outside of a transaction is copied to a mirror; `includes_admin`: the mirror
    /// wants commands that administer a server, too.
    pub fn is_copied(self, includes_admin: bool) -> bool {
        match self {
            Mirroring::Data => true,
            Mirroring::Admin => includes_admin,
            Mirroring::Blocking | Mirroring::ServerRead | Mirroring::Placement | Mirroring::Connection => false,
        }
    }

    /// The same for a command in a transaction.
    pub fn is_copied_in_transaction(self, includes_admin: bool) -> bool {
        self == Mirroring::Blocking || self.is_copied(includes_admin)
    }

    /// Why the command isn't copied, as the end of a sentence that begins with "it".
    pub fn reason(self) -> &'static str {
        match self {
            Mirroring::Data => "is about keys",
            Mirroring::Blocking => "may wait, and copies of other commands would wait behind it",
            Mirroring::Admin => "administers a server or changes all that it holds (includeAdmin)",
            Mirroring::ServerRead => "tells what one server holds",
            Mirroring::Placement => "concerns a server's place among others",
            Mirroring::Connection => "concerns the client's own connection",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Known, all};
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn of(request: &str) -> Mirroring {
        let arguments: Vec<&str> = request.split(' ').collect();
        Mirroring::of(Known::of(&arguments[..]).unwrap().command, &arguments[..])
    }

    #[test]
    fn what_a_command_is_to_a_mirror() {
        for (expected, requests) in [
            (
                Mirroring::Data,
                "SET k v|GET k|EVAL s 0|EVAL s 1 k|EVALSHA x 0|FCALL f 0|PUBLISH c m|SPUBLISH c m|RESTORE k 0 x|\
                 OBJECT ENCODING k|XREAD STREAMS k 0|SORT k|COPY a b|MOVE k 1|MEMORY USAGE k|XGROUP CREATE s g 0",
            ),
            (Mirroring::Blocking, "BLPOP k 0|XREAD BLOCK 0 STREAMS k $|BLMOVE a b LEFT LEFT 0"),
            (
                Mirroring::Admin,
                "FLUSHALL|FLUSHDB|SWAPDB 0 1|CONFIG SET a b|CONFIG GET a|SCRIPT LOAD x|SCRIPT FLUSH|FUNCTION LOAD x|\
                 FUNCTION FLUSH|ACL SETUSER u|SAVE|BGSAVE|DEBUG SLEEP 0|INFO|PFDEBUG GETREG k|MODULE LIST",
            ),
            (Mirroring::ServerRead, "KEYS *|SCAN 0|DBSIZE|RANDOMKEY|LOLWUT"),
            (
                Mirroring::Placement,
                "REPLICAOF a 1|SLAVEOF NO ONE|FAILOVER|CLUSTER RESET|CLUSTER INFO|MIGRATE h 1 k 0 1|PSYNC a 1",
            ),
            (
                Mirroring::Connection,
                "PING|ECHO x|SELECT 1|AUTH p|HELLO 3|CLIENT KILL a:1|CLIENT PAUSE 1|WAIT 0 0|WATCH k|MULTI|EXEC|\
                 SUBSCRIBE c|SSUBSCRIBE c|MONITOR|RESET|QUIT|SHUTDOWN|SCRIPT KILL|COMMAND COUNT|READONLY|ASKING",
            ),
        ] {
            for request in requests.split('|') {
                assert_eq!(of(request), expected, "{request}");
            }
        }
    }

    #[test]
    fn what_writes_without_a_key_is_copied_to_no_mirror_that_does_not_ask_for_it() {
        let rows = all().iter().flat_map(|container| std::iter::once(container).chain(container.subcommands));
        for command in rows.filter(|command| command.is_write() && !command.has_keys()) {
            let mirroring = Mirroring::of(command, &[command.name][..]);
            assert!(!mirroring.is_copied(false) || matches!(command.name, "publish" | "spublish"), "{}", command.name);
        }
    }

    #[test]
    fn in_a_transaction_nothing_waits() {
        assert!(!Mirroring::Blocking.is_copied(true) && Mirroring::Blocking.is_copied_in_transaction(false));
        assert!(!Mirroring::Admin.is_copied_in_transaction(false) && Mirroring::Admin.is_copied_in_transaction(true));
    }
}
