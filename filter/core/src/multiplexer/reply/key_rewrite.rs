//! The rewriting of keys in replies: where a route removes a prefix, a server knows a key by a
//! shorter name than the client, and some replies and errors contain that name.

use crate::command::Args;
use crate::command::Command;
use crate::multiplexer::routing::target::KeyEdit;
use crate::resp::elements::Elements;
use crate::resp::encode;
use crate::resp::value::Value;

/// The positions of keys in a reply. Errors may contain a key, too, see [`key_in_error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyPositions {
    /// The reply contains no key.
    Nowhere,
    /// The first element (BLPOP, LMPOP).
    First,
    /// The first element of each element, in RESP3 the keys of the map (XREAD).
    Each,
}

/// The names of a command's keys: the server's and the client's.
#[derive(Debug, PartialEq, Eq)]
pub struct ClientNames {
    /// In the order of the server's names, each of them once: of very many keys, a reply may contain
    /// each.
    names: Vec<(Vec<u8>, Vec<u8>)>,
}

impl ClientNames {
    /// Returns the names, given the server's and the client's of each key. Where several of the
    /// client's names stand for one key, the first one counts.
    pub fn new(mut names: Vec<(Vec<u8>, Vec<u8>)>) -> ClientNames {
        names.sort_by(|(a, _), (b, _)| a.cmp(b));
        names.dedup_by(|(next, _), (known, _)| next == known);
        ClientNames { names }
    }

    /// Returns the client's name of a key, or the key itself if the command didn't have it.
    fn of<'a>(&'a self, key: &'a [u8]) -> &'a [u8] {
        let found = self.names.binary_search_by(|(server_name, _)| server_name.as_slice().cmp(key));
        found.ok().and_then(|at| self.names.get(at)).map_or(key, |(_, name)| name)
    }
}

/// A rewrite of the keys in a reply.
#[derive(Debug)]
pub enum KeyRewrite {
    /// The reply to one command.
    Of(KeyPositions, ClientNames),
    /// The reply to EXEC. The rewrites of the replies in it, with their indexes, in ascending
    /// order.
    Exec(Vec<(usize, KeyRewrite)>),
}

impl KeyRewrite {
    /// Returns the rewrite for the reply to a command whose arguments are edited like this. There
    /// is none if the reply contains no keys or the keys are the same for the server and the
    /// client.
    pub fn of(command: &Command, args: &Args<'_>, edits: &[KeyEdit]) -> Option<KeyRewrite> {
        if edits.is_empty() {
            return None;
        }
        let positions = match command.name {
            "blpop" | "brpop" | "bzpopmax" | "bzpopmin" | "lmpop" | "blmpop" | "zmpop" | "bzmpop" => {
                KeyPositions::First
            }
            "xread" | "xreadgroup" => KeyPositions::Each,
            "xautoclaim" | "xclaim" | "xpending" => KeyPositions::Nowhere,
            name if name.starts_with("xgroup|") || name.starts_with("xinfo|") => KeyPositions::Nowhere,
            _ => return None,
        };
        let names = |(index, strip): &KeyEdit| {
            let key = args.get(*index);
            (key.get(*strip..).unwrap_or_default().to_vec(), key.to_vec())
        };
        Some(KeyRewrite::Of(positions, ClientNames::new(edits.iter().map(names).collect())))
    }

    /// Returns a complete reply with the client's names. A reply of another type, such as null,
    /// stays as it is.
    pub fn apply(&self, reply: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(reply.len() + 64);
        self.write(reply, &mut out);
        out
    }

    fn write(&self, reply: &[u8], out: &mut Vec<u8>) {
        match self {
            KeyRewrite::Of(_, names) if reply.first() == Some(&b'-') => write_error(names, reply, out),
            KeyRewrite::Of(positions, names) => write_reply((*positions, names), reply, out),
            KeyRewrite::Exec(commands) => {
                let mut commands = commands.iter().peekable();
                write_elements(reply, out, |index, element, out| match commands.next_if(|(at, _)| *at == index) {
                    Some((_, rewrite)) => rewrite.write(element, out),
                    None => out.extend_from_slice(element),
                });
            }
        }
    }
}

fn write_reply((positions, names): (KeyPositions, &ClientNames), reply: &[u8], out: &mut Vec<u8>) {
    let is_map = reply.first() == Some(&b'%');
    write_elements(reply, out, |index, element, out| {
        let is_key = match positions {
            KeyPositions::Nowhere => false,
            KeyPositions::First => index == 0,
            KeyPositions::Each if is_map => index % 2 == 0,
            KeyPositions::Each => return write_reply((KeyPositions::First, names), element, out),
        };
        match is_key.then(|| Value::parse(element)).flatten() {
            Some(Value::Text(key)) => encode::bulk(out, names.of(key)),
            _ => out.extend_from_slice(element),
        }
    });
}

fn write_error(names: &ClientNames, reply: &[u8], out: &mut Vec<u8>) {
    match key_in_error(reply) {
        Some((before, key, after)) => {
            let text = [before.get(1..).unwrap_or_default(), names.of(key), after.trim_ascii_end()].concat();
            encode::error(out, &text);
        }
        None => out.extend_from_slice(reply),
    }
}

/// Writes an array or a map with its elements as `write` writes them; other replies as they are.
fn write_elements(reply: &[u8], out: &mut Vec<u8>, mut write: impl FnMut(usize, &[u8], &mut Vec<u8>)) {
    let head = memchr::memchr(b'\n', reply).map_or(reply.len(), |end| end + 1);
    let (head, rest) = reply.split_at_checked(head).unwrap_or((reply, &[]));
    out.extend_from_slice(head);
    if !matches!(reply.first(), Some(b'*' | b'%')) {
        return out.extend_from_slice(rest);
    }
    for (index, element) in Elements::of_push(reply).enumerate() {
        write(index, element, out);
    }
}

/// Returns the key in an error about a consumer group, with the text before and after it
/// (<https://redis.io/docs/latest/commands/xreadgroup/>).
fn key_in_error(reply: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let is_last = reply.starts_with(b"-NOGROUP No such consumer group '");
    let (begin, end) = match is_last {
        true => (memchr::memmem::rfind(reply, b"' for key name '")? + 16, memchr::memrchr(b'\'', reply)?),
        false => {
            let begin = reply.strip_prefix(b"-NOGROUP No such key '").map(|rest| reply.len() - rest.len())?;
            (begin, memchr::memmem::rfind(reply, b"' or consumer group '")?)
        }
    };
    Some((reply.get(..begin)?, reply.get(begin..end)?, reply.get(end..)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command;
    use crate::resp::request::Parser;
    use crate::wire;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn keys_have_the_clients_names() {
        let names = vec![(b"k".to_vec(), b"r:k".to_vec())];
        let check = |positions: KeyPositions, reply: &str, expected: &str| {
            let out =
                KeyRewrite::Of(positions, ClientNames::new(names.clone())).apply(reply.replace(' ', "\r\n").as_bytes());
            assert_eq!(String::from_utf8_lossy(&out).replace("\r\n", " "), expected);
        };
        check(KeyPositions::First, "*2 $1 k $1 k ", "*2 $3 r:k $1 k ");
        check(KeyPositions::First, "*2 $1 x $1 k ", "*2 $1 x $1 k ");
        check(KeyPositions::First, "*-1 ", "*-1 ");
        check(KeyPositions::First, "_ ", "_ ");
        check(KeyPositions::First, "*1 :1 ", "*1 :1 ");
        check(KeyPositions::First, "", "");
        check(KeyPositions::Each, "*2 *2 $1 k *0 *2 $1 x *0 ", "*2 *2 $3 r:k *0 *2 $1 x *0 ");
        check(KeyPositions::Each, "%1 $1 k *1 $1 k ", "%1 $3 r:k *1 $1 k ");
        check(KeyPositions::Each, "*-1 ", "*-1 ");
        check(KeyPositions::Each, "*2 $1 k :1 ", "*2 $1 k :1 ");
        check(KeyPositions::Nowhere, "*1 $1 k ", "*1 $1 k ");
    }

    /// The rewrite of a command from each of whose keys the first two bytes are removed.
    fn of(line: &str) -> Option<KeyRewrite> {
        let (mut frame, mut parser) = (Vec::new(), Parser::default());
        encode::command(&mut frame, &line.split(' ').map(str::as_bytes).collect::<Vec<_>>());
        parser.parse(&frame, &wire::Limits::default()).unwrap();
        let args = Args { frame: &frame, spans: parser.args(), count: parser.args().len() };
        let command = command::lookup(args.get(0)).unwrap();
        let keys = (1..args.count).filter(|index| args.get(*index).starts_with(b"r:"));
        KeyRewrite::of(command, &args, &keys.map(|index| (index, 2)).collect::<Vec<_>>())
    }

    #[test]
    fn commands_whose_replies_contain_keys() {
        let names = |pairs: &[(&str, &str)]| {
            let pair = |(server, client): &(&str, &str)| (server.as_bytes().to_vec(), client.as_bytes().to_vec());
            ClientNames::new(pairs.iter().map(pair).collect())
        };
        for (line, positions, expected) in [
            ("BLPOP r:a r:b 0", KeyPositions::First, names(&[("a", "r:a"), ("b", "r:b")])),
            ("BLPOP a r:b 0", KeyPositions::First, names(&[("b", "r:b")])),
            ("LMPOP 1 r:a LEFT", KeyPositions::First, names(&[("a", "r:a")])),
            ("XREAD STREAMS r:a r:b 0 0", KeyPositions::Each, names(&[("a", "r:a"), ("b", "r:b")])),
            ("XPENDING r:a g", KeyPositions::Nowhere, names(&[("a", "r:a")])),
        ] {
            let Some(KeyRewrite::Of(found, pairs)) = of(line) else { panic!("{line}") };
            assert_eq!((found, pairs), (positions, expected), "{line}");
        }
        // No key is edited, or the reply contains none.
        for line in ["BLPOP a b 0", "GET r:a", "MGET r:a r:b"] {
            assert!(of(line).is_none(), "{line}");
        }
    }

    #[test]
    fn a_reply_with_very_many_keys() {
        // As XREAD of many streams that aren't there, and very often of one that is. A look through
        // all names for each key would take minutes.
        const COUNT: usize = 200_000;
        let name = |number: usize| (number.to_string().into_bytes(), format!("r:{number}").into_bytes());
        let names = ClientNames::new((0..COUNT).map(name).chain([(b"0".to_vec(), b"x:0".to_vec())]).collect());
        let reply = |key: &str| format!("*{COUNT}\r\n{}", format!("*1\r\n{key}").repeat(COUNT)).into_bytes();
        let rewrite = KeyRewrite::Of(KeyPositions::Each, names);
        assert!(rewrite.apply(&reply("$6\r\n199999\r\n")) == reply("$8\r\nr:199999\r\n"));
        assert!(rewrite.apply(&reply("$1\r\n0\r\n")) == reply("$3\r\nr:0\r\n"));
    }

    #[test]
    fn each_reply_of_a_transaction_has_a_rewrite_for_itself() {
        let first =
            |client: &str| KeyRewrite::Of(KeyPositions::First, ClientNames::new(vec![(b"k".to_vec(), client.into())]));
        let exec = KeyRewrite::Exec(vec![(0, first("a:k")), (2, first("b:k"))]);
        let check = |reply: &str, expected: &str| {
            let out = exec.apply(reply.replace(' ', "\r\n").as_bytes());
            assert_eq!(String::from_utf8(out).unwrap().replace("\r\n", " "), expected);
        };
        check("*3 *1 $1 k *1 $1 k *1 $1 k ", "*3 *1 $3 a:k *1 $1 k *1 $3 b:k ");
        // The transaction was discarded, since a watched key has changed.
        check("*-1 ", "*-1 ");
        check("_ ", "_ ");
        check("-EXECABORT x ", "-EXECABORT x ");
        check("*1 *1 $1 k ", "*1 *1 $3 a:k ");
    }

    #[test]
    fn errors_have_the_clients_names_too() {
        let names = || ClientNames::new(vec![(b"k".to_vec(), b"r:k".to_vec())]);
        let of = || KeyRewrite::Of(KeyPositions::Each, names());
        let check = |text: &str, expected: &str| {
            let reply = |text: &str| format!("-{text}\r\n");
            assert_eq!(String::from_utf8_lossy(&of().apply(reply(text).as_bytes())), reply(expected));
            // The same as one of the replies in the reply to EXEC.
            let all = |text: &str| format!("*3\r\n+OK\r\n{}*1\r\n*2\r\n$1\r\nk\r\n*0\r\n", reply(text));
            let rewritten = all(expected).replace("$1\r\nk", "$3\r\nr:k");
            let exec = KeyRewrite::Exec(vec![(1, of()), (2, of())]);
            assert_eq!(String::from_utf8_lossy(&exec.apply(all(text).as_bytes())), rewritten);
        };
        check("NOGROUP No such key 'k' or consumer group 'g'", "NOGROUP No such key 'r:k' or consumer group 'g'");
        check(
            "NOGROUP No such key 'k' or consumer group 'k' in XREADGROUP with GROUP option",
            "NOGROUP No such key 'r:k' or consumer group 'k' in XREADGROUP with GROUP option",
        );
        check(
            "NOGROUP No such consumer group 'k' for key name 'k'",
            "NOGROUP No such consumer group 'k' for key name 'r:k'",
        );
        for other in ["WRONGTYPE k", "NOGROUP", "NOGROUP No such key 'x' or consumer group 'k'"] {
            check(other, other);
        }
    }
}
