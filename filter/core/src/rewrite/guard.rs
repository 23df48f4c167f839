//! Commands that are refused where somebody other than the client holds Redis's credentials: those that reveal or change
//! credentials or take the server over.
//!
//! The rule is Redis's own `admin` flag (<https://redis.io/docs/latest/commands/command/#flags>), less what only reads
//! what every client may know, plus MIGRATE, which can send keys and credentials anywhere.

use super::args::Args;
use crate::command::{Command, Flags};

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

/// Why a command is refused, or `None` if it may pass. `container` is the row of its name, `command` of its subcommand
/// if it has one, else the same.
pub fn refusal(container: &Command, command: &Command, args: &Args<'_>) -> Option<&'static str> {
    match container.name {
        "config" => {
            if args.get(1).eq_ignore_ascii_case(b"get") {
                let reveals = |pattern: &[u8]| SECRET_PARAMETERS.iter().any(|p| glob(&pattern.to_ascii_lowercase(), p));
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
        // `admin` by their flags, but they tell nothing that is secret.
        "slowlog" | "latency" | "lastsave" | "commandlog" => return None,
        _ => {}
    }
    if !(container.flags.contains(Flags::ADMIN) || command.flags.contains(Flags::ADMIN)) {
        return None;
    }
    match command.name {
        "client|list" | "client|info" | "cluster|links" => None,
        _ => Some("administers the server"),
    }
}

/// Redis's `stringmatchlen`: `*`, `?`, `[…]`, `\`. Iterative, with one point to go back to, so that no pattern is slow.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    loop {
        let matched = match pattern.get(p) {
            Some(b'*') => {
                star = Some((p + 1, t));
                p += 1;
                continue;
            }
            None if t == text.len() => return true,
            None => None,
            Some(_) if t == text.len() => None,
            Some(b'?') => Some(p + 1),
            Some(b'[') => class(pattern, p + 1, text[t]),
            Some(b'\\') if p + 1 < pattern.len() => (pattern[p + 1] == text[t]).then_some(p + 2),
            Some(&c) => (c == text[t]).then_some(p + 1),
        };
        match (matched, star) {
            (Some(next), _) => {
                p = next;
                t += 1;
            }
            (None, Some((after, from))) if from < text.len() => {
                star = Some((after, from + 1));
                p = after;
                t = from + 1;
            }
            (None, _) => return false,
        }
    }
}

/// Matches `c` against the class that begins at `p`; the offset behind the class if it matches.
fn class(pattern: &[u8], mut p: usize, c: u8) -> Option<usize> {
    let negated = pattern.get(p) == Some(&b'^');
    if negated {
        p += 1;
    }
    let mut found = false;
    loop {
        match (pattern.get(p), pattern.get(p + 1), pattern.get(p + 2)) {
            (None, ..) => break,
            (Some(b']'), ..) => {
                p += 1;
                break;
            }
            (Some(b'\\'), Some(&escaped), _) => {
                found |= escaped == c;
                p += 2;
            }
            (Some(&low), Some(b'-'), Some(&high)) => {
                found |= (low.min(high)..=low.max(high)).contains(&c);
                p += 3;
            }
            (Some(&single), ..) => {
                found |= single == c;
                p += 1;
            }
        }
    }
    (found != negated).then_some(p)
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
            ("*", true),
            ("r*s", true),
            ("*pass*", true),
            ("re?uirepas[a-t]", true),
            ("[^a]equirepass", true),
            ("\\requirepass", true),
            ("****************x", false),
            ("maxmemory*", false),
            ("require", false),
            ("[r", false),
            ("", false),
        ] {
            assert_eq!(glob(pattern.as_bytes(), b"requirepass"), matches, "{pattern}");
        }
    }
}
