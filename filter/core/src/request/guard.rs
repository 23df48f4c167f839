//! The refusal of commands whoever sends them: of those that reveal or change credentials or
//! administer the server, where the client isn't the one who holds Redis's credentials, and of
//! scripts, where the operator wants none.
//!
//! The rule for the former is Redis's own `admin` flag (<https://redis.io/docs/latest/commands/command/#flags>),
//! without commands that only read what every client may know, and with MIGRATE, which can send
//! keys and credentials anywhere.

use crate::command::glob::{Case, glob};
use crate::command::script::may_run_code;
use crate::command::{Args, Command, Flags, Known};
use crate::wire::{DataPath, Host};

/// Parameters of Redis whose values are credentials or lead to them.
const SECRET_PARAMETERS: &[&[u8]] = &[
    b"requirepass",
    b"masterauth",
    b"masteruser",
    b"primaryauth",
    b"primaryuser",
    b"tls-key-file",
    b"tls-key-file-pass",
    b"tls-client-key-file",
    b"tls-client-key-file-pass",
    b"aclfile",
    b"user",
];

/// Which commands a host refuses.
#[derive(Clone, Copy, Debug, Default)]
pub struct Guard {
    /// Those that reveal or change credentials or administer the server.
    pub credentials: bool,
    /// Those that run scripts or functions, or load them.
    pub scripts: bool,
    /// Who carries out commands about clients.
    pub clients: ClientCommands,
}

/// Who carries out `CLIENT KILL` and `CLIENT UNBLOCK`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientCommands {
    #[default]
    /// Redis, for which all connections of the proxy have one user.
    AtRedis,
    /// The proxy, which shows a client only clients of the same host and user.
    AtProxy,
}

impl Guard {
    /// The guard of a host.
    pub fn of(host: &Host) -> Guard {
        let clients = match host.path {
            DataPath::Native => ClientCommands::AtProxy,
            DataPath::Direct | DataPath::Proxy => ClientCommands::AtRedis,
        };
        let credentials = host.guard_credentials && !host.allow_admin_commands;
        Guard { credentials, scripts: host.refuse_scripts, clients }
    }

    /// Returns the error of a command that is refused; `None`: the command may pass.
    pub fn error(self, known: Known, args: &Args<'_>) -> Option<String> {
        let (reason, setting) = if self.scripts && brings_code(known.command) {
            ("runs or loads a script", "settings.scripts: Allow of the RedisService")
        } else if self.credentials {
            (self.refusal(known.container, known.command, args)?, remedy(known.command, args))
        } else {
            return None;
        };
        let name = known.command.shown_name();
        Some(format!("NOPERM redis-mesh: {name} {reason}; {setting} would permit it"))
    }

    /// Returns the reason why a command is refused; `None`: the command may pass. `container` is the
    /// row of the command's name, `command` that of its subcommand if there is one, else the same.
    fn refusal(self, container: &Command, command: &Command, args: &Args<'_>) -> Option<&'static str> {
        match container.name {
            "config" => {
                if args.get(1).eq_ignore_ascii_case(b"get") {
                    let secret = !args.complete() || (2..args.spans.len()).any(|i| reveals(args.get(i)));
                    return secret.then_some("would reveal credentials");
                }
                let harmless = [&b"help"[..], b"resetstat"].iter().any(|s| args.get(1).eq_ignore_ascii_case(s));
                return (!harmless).then_some("changes the server");
            }
            "acl" => {
                let harmless =
                    [&b"whoami"[..], b"cat", b"help", b"genpass"].iter().any(|s| args.get(1).eq_ignore_ascii_case(s));
                return (!harmless).then_some("reveals or changes credentials");
            }
            "migrate" => return Some("sends keys elsewhere"),
            // They have the `admin` flag, but reveal no secret.
            "slowlog" | "latency" | "lastsave" | "commandlog" => return None,
            _ => {}
        }
        let admin = |command: &Command| command.flags.contains(Flags::ADMIN);
        // A subcommand that the table doesn't know could be an administrative one, too.
        let unknown = args.count > 1 && container.name == command.name && container.subcommands.iter().any(admin);
        if !(admin(container) || admin(command) || unknown) {
            return None;
        }
        match command.name {
            "client|kill" | "client|unblock" if self.clients == ClientCommands::AtProxy => None,
            "client|list" | "client|info" | "cluster|links" | "module|list" => None,
            _ => Some("administers the server"),
        }
    }
}

/// What would permit a command. Frameworks switch on keyspace notifications when they start, as
/// Spring Session does, which is better done once on the server.
fn remedy(command: &Command, args: &Args<'_>) -> &'static str {
    let is_about_events = args.get(2).eq_ignore_ascii_case(b"notify-keyspace-events");
    if command.name == "config|set" && is_about_events {
        return "set notify-keyspace-events on the server, and let the client not configure it (Spring Session: ConfigureRedisAction.NO_OP); allowAdminCommands of the RedisService";
    }
    "allowAdminCommands of the RedisService"
}

/// Whether a command runs code of clients, or loads it to be run.
fn brings_code(command: &Command) -> bool {
    may_run_code(command) || matches!(command.name, "script|load" | "function|load" | "function|restore")
}

/// A pattern of more bytes than this is refused unseen: no parameter has such a name.
const LONGEST_PATTERN: usize = 128;

/// Whether CONFIG GET could answer with a secret. Servers treat `[…]`, `\`, NUL (which ends a
/// pattern) and bytes beyond ASCII in ways that differ by version, so patterns with any of these
/// count as revealing.
fn reveals(pattern: &[u8]) -> bool {
    let odd = |b: &u8| matches!(b, b'[' | b'\\' | 0 | 0x80..);
    pattern.len() > LONGEST_PATTERN
        || pattern.iter().any(odd)
        || SECRET_PARAMETERS.iter().any(|p| glob(pattern, p, Case::Insensitive))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::each_command;
    use crate::resp::encode;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn error(guard: Guard, words: &[&str]) -> Option<String> {
        let (mut command, mut told) = (Vec::new(), None);
        encode::command(&mut command, &words.iter().map(|word| word.as_bytes()).collect::<Vec<_>>());
        each_command(&command, |args| told = guard.error(Known::of(args).unwrap(), args));
        told
    }

    #[test]
    fn scripts_are_refused_where_none_are_wanted() {
        let none = Guard { credentials: false, scripts: false, clients: ClientCommands::AtRedis };
        let guard = Guard { scripts: true, ..none };
        for words in [
            &["EVAL", "return 1", "0"][..],
            &["eval_ro", "return 1", "0"],
            &["EVALSHA", "x", "0"],
            &["EVALSHA_RO", "x", "0"],
            &["FCALL", "f", "0"],
            &["FCALL_RO", "f", "0"],
            &["SCRIPT", "LOAD", "return 1"],
            &["FUNCTION", "LOAD", "x"],
            &["function", "restore", "x"],
        ] {
            assert!(error(guard, words).unwrap().contains("settings.scripts: Allow of the RedisService"), "{words:?}");
            assert_eq!(error(none, words), None, "{words:?}");
        }
        for words in
            [&["SCRIPT", "EXISTS", "x"][..], &["FUNCTION", "LIST"], &["GET", "k"], &["CONFIG", "SET", "a", "b"]]
        {
            assert_eq!(error(guard, words), None, "{words:?}");
        }
    }

    #[test]
    fn what_clients_ask_for_when_they_start() {
        let guard = Guard { credentials: true, scripts: false, clients: ClientCommands::AtRedis };
        assert_eq!(error(guard, &["MODULE", "LIST"]), None);
        assert!(error(guard, &["MODULE", "LOAD", "/x.so"]).unwrap().contains("administers the server"));
        let events = error(guard, &["config", "set", "Notify-Keyspace-Events", "Egx"]).unwrap();
        assert!(events.contains("set notify-keyspace-events on the server"), "{events}");
        let other = error(guard, &["CONFIG", "SET", "maxmemory", "1"]).unwrap();
        assert!(!other.contains("events") && other.contains("allowAdminCommands of the RedisService"), "{other}");
    }

    #[test]
    fn whoever_knows_the_clients_decides_about_them() {
        let redis = Guard { credentials: true, scripts: false, clients: ClientCommands::AtRedis };
        let proxy = Guard { clients: ClientCommands::AtProxy, ..redis };
        for words in [&["CLIENT", "KILL", "ID", "1"][..], &["client", "unblock", "1"]] {
            assert!(error(redis, words).unwrap().contains("administers the server"), "{words:?}");
            assert_eq!(error(proxy, words), None, "{words:?}");
        }
        for words in [&["CLIENT", "PAUSE", "1"][..], &["CLIENT", "NONSENSE"]] {
            assert_eq!(error(redis, words), error(proxy, words), "{words:?}");
        }
    }

    #[test]
    fn globs() {
        for (pattern, matches) in [
            ("requirepass", true),
            ("RequirePass", true),
            ("*", true),
            ("r*s", true),
            ("*pass*", true),
            ("re?uirepass", true),
            ("****************x", false),
            ("maxmemory*", false),
            ("require", false),
            ("requirepas?s", false),
            ("", false),
            // What follows matches at a Redis, each for a reason of its own.
            ("*\0x", true),
            ("[^\\R]equirepass", true),
            ("[^a-Z]equirepass", true),
        ] {
            assert_eq!(reveals(pattern.as_bytes()), matches, "{pattern}");
        }
        assert!(reveals(b"[\xff-\x7f]equirepass"));
        assert!(reveals(&[b'*'; 1000]));
    }
}
