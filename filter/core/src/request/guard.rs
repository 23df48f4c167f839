//! The refusal of commands that reveal or change credentials or administer the server, where the
//! client isn't the one who holds Redis's credentials.
//!
//! The rule is Redis's own `admin` flag (<https://redis.io/docs/latest/commands/command/#flags>),
//! without commands that only read what every client may know, and with MIGRATE, which can send
//! keys and credentials anywhere.

use crate::command::glob::{Case, glob};
use crate::command::{Args, Command, Flags, Known};

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

/// Returns the error of a command that is refused; `None`: the command may pass.
pub fn error(known: Known, args: &Args<'_>) -> Option<String> {
    let reason = refusal(known.container, known.command, args)?;
    let name = known.command.shown_name();
    Some(format!("NOPERM redis-mesh: {name} {reason}; allowAdminCommands of the RedisService would permit it"))
}

/// Returns the reason why a command is refused; `None`: the command may pass. `container` is the
/// row of the command's name, `command` that of its subcommand if there is one, else the same.
fn refusal(container: &Command, command: &Command, args: &Args<'_>) -> Option<&'static str> {
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
        "client|list" | "client|info" | "cluster|links" => None,
        _ => Some("administers the server"),
    }
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
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

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
