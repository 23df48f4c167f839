//! The grammar of CLIENT LIST, KILL and UNBLOCK, with Redis's own errors
//! (<https://redis.io/docs/latest/commands/client-kill/>).

use super::question::{ClientFilter, ClientKind, ClientQuestion, KillForm, NumberList, UnblockReason};
use crate::command::Args;
use crate::request::errors::SYNTAX;
use std::net::{Ipv4Addr, SocketAddr};

/// What Redis answers to a number that is none.
const NO_INTEGER: &str = "ERR value is not an integer or out of range";
/// The address that no client has.
const NOWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// Reads `CLIENT LIST [TYPE type] [ID id ...]`.
///
/// # Errors
/// Redis's own answer.
pub fn list(args: &Args<'_>) -> Result<ClientQuestion, String> {
    if args.count == 4 && args.is_word(2, b"type") {
        let kind = Some(kind(args, 3)?);
        return Ok(ClientQuestion::List(ClientFilter { kind, ..ClientFilter::default() }));
    }
    if args.count > 3 && args.is_word(2, b"id") {
        let number = |index| integer(args.get(index)).ok_or("ERR Invalid client ID");
        let numbers = (3..args.count).map(number).collect::<Result<Vec<i64>, _>>()?;
        let named = numbers.into_iter().filter_map(|number| u64::try_from(number).ok()).collect();
        return Ok(ClientQuestion::List(ClientFilter {
            numbers: Some(NumberList::new(named)),
            ..ClientFilter::default()
        }));
    }
    match args.count {
        2 => Ok(ClientQuestion::List(ClientFilter::default())),
        _ => Err(SYNTAX.into()),
    }
}

/// Reads `CLIENT KILL address` and `CLIENT KILL filter value ...` of the client with the number `own`,
/// which is logged in as `user`.
///
/// # Errors
/// Redis's own answer.
pub fn kill(args: &Args<'_>, own: u64, user: &[u8]) -> Result<ClientQuestion, String> {
    if args.count == 3 {
        let filter = ClientFilter { remote: Some(address(args.get(2))), ..ClientFilter::default() };
        return Ok(ClientQuestion::Kill(filter, KillForm::Address));
    }
    let mut filter = ClientFilter { except: Some(own), ..ClientFilter::default() };
    for index in (2..args.count).step_by(2) {
        let (value, has_value) = (args.get(index + 1), index + 1 < args.count);
        let is = |word: &[u8]| has_value && args.is_word(index, word);
        if is(b"id") {
            let number = integer(value).and_then(|number| u64::try_from(number).ok()).filter(|number| *number > 0);
            let number = number.ok_or("ERR client-id should be greater than 0")?;
            filter.numbers = Some(NumberList::new(vec![number]));
        } else if is(b"maxage") {
            let age = integer(value).ok_or("ERR maxage is not an integer or out of range")?;
            filter.age =
                Some(u64::try_from(age).ok().filter(|age| *age > 0).ok_or("ERR maxage should be greater than 0")?);
        } else if is(b"type") {
            filter.kind = Some(kind(args, index + 1)?);
        } else if is(b"addr") {
            filter.remote = Some(address(value));
        } else if is(b"laddr") {
            filter.local = Some(address(value));
        } else if is(b"user") {
            // Of other users nothing is known here; one of them every server has.
            if value != user && value != b"default" {
                return Err(format!("ERR No such user '{}'", args.quoted(index + 1)));
            }
            filter.is_of_others = value != user;
        } else if is(b"skipme") {
            filter.except = match (args.is_word(index + 1, b"yes"), args.is_word(index + 1, b"no")) {
                (true, _) => Some(own),
                (_, true) => None,
                _ => return Err(SYNTAX.into()),
            };
        } else {
            return Err(SYNTAX.into());
        }
    }
    Ok(ClientQuestion::Kill(filter, KillForm::Filters))
}

/// Reads `CLIENT UNBLOCK id [TIMEOUT | ERROR]`.
///
/// # Errors
/// Redis's own answer.
pub fn unblock(args: &Args<'_>) -> Result<ClientQuestion, String> {
    let reason = match args.count {
        3 => UnblockReason::Timeout,
        4 if args.is_word(3, b"timeout") => UnblockReason::Timeout,
        4 if args.is_word(3, b"error") => UnblockReason::Error,
        4 => return Err("ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR".into()),
        _ => {
            let name = args.quoted(1);
            let text = "ERR unknown subcommand or wrong number of arguments for";
            return Err(format!("{text} '{name}'. Try CLIENT HELP."));
        }
    };
    let number = integer(args.get(2)).ok_or(NO_INTEGER)?;
    // No client has a number below 0.
    Ok(ClientQuestion::Unblock(u64::try_from(number).unwrap_or(0), reason))
}

/// The kind of clients that an argument names.
fn kind(args: &Args<'_>, index: usize) -> Result<ClientKind, String> {
    let is = |words: &[&[u8]]| words.iter().any(|word| args.is_word(index, word));
    match () {
        () if is(&[b"normal"]) => Ok(ClientKind::Normal),
        () if is(&[b"pubsub"]) => Ok(ClientKind::PubSub),
        () if is(&[b"master", b"primary", b"replica", b"slave"]) => Ok(ClientKind::Replication),
        () => Err(format!("ERR Unknown client type '{}'", args.quoted(index))),
    }
}

/// An address as CLIENT LIST shows it.
fn address(text: &[u8]) -> SocketAddr {
    let address: Option<SocketAddr> = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    address.filter(|address| address.to_string().as_bytes() == text).unwrap_or(NOWHERE)
}

/// An integer as Redis reads one: without a sign before a positive one, without leading zeros.
fn integer(text: &[u8]) -> Option<i64> {
    let number: i64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    (number.to_string().as_bytes() == text).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::each_command;
    use crate::resp::encode;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn parse(
        line: &str,
        parse: impl Fn(&Args<'_>) -> Result<ClientQuestion, String>,
    ) -> Result<ClientQuestion, String> {
        let (mut command, mut parsed) = (Vec::new(), Err(String::new()));
        encode::command(&mut command, &line.split(' ').map(str::as_bytes).collect::<Vec<_>>());
        each_command(&command, |args| parsed = parse(args));
        parsed
    }

    fn error(line: &str) -> String {
        let of = |args: &Args<'_>| match args.get(1).to_ascii_lowercase().as_slice() {
            b"list" => list(args),
            b"kill" => kill(args, 7, b"me"),
            _ => unblock(args),
        };
        parse(line, of).err().unwrap_or_default()
    }

    #[test]
    fn errors_are_those_of_redis() {
        let syntax = "ERR syntax error";
        for (line, expected) in [
            ("CLIENT LIST TYPE", syntax),
            ("CLIENT LIST TYPE x", "ERR Unknown client type 'x'"),
            ("CLIENT LIST TYPE normal ID", syntax),
            ("CLIENT LIST ID", syntax),
            ("CLIENT LIST ID 1 x", "ERR Invalid client ID"),
            ("CLIENT LIST x", syntax),
            ("CLIENT LIST ID -1", ""),
            ("CLIENT LIST TYPE replica", ""),
            ("CLIENT KILL ID", ""),
            ("CLIENT KILL ID 0", "ERR client-id should be greater than 0"),
            ("CLIENT KILL ID x", "ERR client-id should be greater than 0"),
            ("CLIENT KILL ID 9223372036854775808", "ERR client-id should be greater than 0"),
            ("CLIENT KILL ID 9223372036854775807", ""),
            ("CLIENT KILL ID 01", "ERR client-id should be greater than 0"),
            ("CLIENT KILL ID 1 ADDR", syntax),
            ("CLIENT KILL NONSENSE 1", syntax),
            ("CLIENT KILL TYPE x", "ERR Unknown client type 'x'"),
            ("CLIENT KILL USER x", "ERR No such user 'x'"),
            ("CLIENT KILL USER me", ""),
            ("CLIENT KILL USER default", ""),
            ("CLIENT KILL SKIPME maybe", syntax),
            ("CLIENT KILL MAXAGE x", "ERR maxage is not an integer or out of range"),
            ("CLIENT KILL MAXAGE 0", "ERR maxage should be greater than 0"),
            ("CLIENT UNBLOCK x", NO_INTEGER),
            ("CLIENT UNBLOCK 1 NEVER", "ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR"),
            (
                "CLIENT UNBLOCK 1 ERROR x",
                "ERR unknown subcommand or wrong number of arguments for 'UNBLOCK'. Try CLIENT HELP.",
            ),
            ("CLIENT UNBLOCK -1", ""),
        ] {
            assert_eq!(error(line), expected, "{line}");
        }
    }

    #[test]
    fn filters_are_read() {
        let filter = |line: &str| match parse(line, |args| kill(args, 7, b"me")) {
            Ok(ClientQuestion::Kill(filter, form)) => (filter, form),
            other => panic!("{line}: {other:?}"),
        };
        let (by_address, form) = filter("CLIENT KILL 127.0.0.1:5");
        assert_eq!((by_address.remote, form), ("127.0.0.1:5".parse().ok(), KillForm::Address));
        assert_eq!(by_address.except, None, "it may be the client itself");
        assert_eq!(filter("CLIENT KILL 127.0.0.1:05").0.remote, Some(NOWHERE));
        let (all, form) = filter("CLIENT KILL id 3 TYPE pubsub LADDR [::1]:5 MAXAGE 9 SKIPME no");
        assert_eq!(form, KillForm::Filters);
        assert!(all.numbers.unwrap().contains(3));
        assert_eq!((all.kind, all.age, all.except), (Some(ClientKind::PubSub), Some(9), None));
        assert_eq!(all.local, "[::1]:5".parse().ok());
        assert_eq!(filter("CLIENT KILL TYPE normal").0.except, Some(7));
        // What comes last counts.
        assert_eq!(filter("CLIENT KILL TYPE master TYPE normal").0.kind, Some(ClientKind::Normal));
        assert!(filter("CLIENT KILL USER me USER default").0.is_of_others);
    }
}
