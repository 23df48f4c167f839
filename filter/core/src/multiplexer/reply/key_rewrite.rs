//! Keys that a reply names, by the names that the client has for them: where a route removes a prefix, a server knows others.

use crate::command::Args;
use crate::command::Command;
use crate::multiplexer::routing::target::Edit;
use crate::resp::elements::Elements;
use crate::resp::encode;
use crate::resp::value::Value;

/// Which parts of a reply name keys. Errors may do so too ([`named_in_error`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyPositions {
    /// None.
    Nowhere,
    /// The first element (BLPOP, LMPOP).
    First,
    /// The first element of each element, or in RESP3 the keys of the map (XREAD).
    Each,
}

/// What a reply's names become.
#[derive(Debug)]
pub enum KeyRewrite {
    /// The keys of a command: what a server calls each, and what the client does.
    Of(KeyPositions, Vec<(Vec<u8>, Vec<u8>)>),
    /// Of EXEC: those of its commands, by their numbers.
    Exec(Vec<(usize, KeyRewrite)>),
}

impl KeyRewrite {
    /// Of a command from whose keys this is removed; none: its reply names no keys, or their names stay.
    pub fn of(command: &Command, args: &Args<'_>, edits: &[Edit]) -> Option<KeyRewrite> {
        if edits.is_empty() {
            return None;
        }
        let shape = match command.name {
            "blpop" | "brpop" | "bzpopmax" | "bzpopmin" | "lmpop" | "blmpop" | "zmpop" | "bzmpop" => {
                KeyPositions::First
            }
            "xread" | "xreadgroup" => KeyPositions::Each,
            "xautoclaim" | "xclaim" | "xpending" => KeyPositions::Nowhere,
            name if name.starts_with("xgroup|") || name.starts_with("xinfo|") => KeyPositions::Nowhere,
            _ => return None,
        };
        let name = |(index, strip): &Edit| {
            let key = args.get(*index);
            (key.get(*strip..).unwrap_or_default().to_vec(), key.to_vec())
        };
        Some(KeyRewrite::Of(shape, edits.iter().map(name).collect()))
    }

    /// The reply as the client knows its keys. What isn't of the shape, such as nothing, stays.
    pub fn apply(&self, reply: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(reply.len() + 64);
        self.write(reply, &mut out);
        out
    }

    fn write(&self, reply: &[u8], out: &mut Vec<u8>) {
        match self {
            KeyRewrite::Of(..) if reply.first() == Some(&b'-') => self.write_error(reply, out),
            KeyRewrite::Of(shape, _) => self.write_shape(*shape, reply, out),
            KeyRewrite::Exec(commands) => {
                let mut commands = commands.iter().peekable();
                write_elements(reply, out, |index, element, out| match commands.next_if(|(at, _)| *at == index) {
                    Some((_, renames)) => renames.write(element, out),
                    None => out.extend_from_slice(element),
                });
            }
        }
    }

    fn write_shape(&self, shape: KeyPositions, reply: &[u8], out: &mut Vec<u8>) {
        let is_map = reply.first() == Some(&b'%');
        write_elements(reply, out, |index, element, out| {
            let is_name = match shape {
                KeyPositions::Nowhere => false,
                KeyPositions::First => index == 0,
                KeyPositions::Each if is_map => index % 2 == 0,
                KeyPositions::Each => return self.write_shape(KeyPositions::First, element, out),
            };
            match Value::parse(element).filter(|_| is_name) {
                Some(Value::Text(key)) => encode::bulk(out, self.name(key)),
                _ => out.extend_from_slice(element),
            }
        });
    }

    fn write_error(&self, reply: &[u8], out: &mut Vec<u8>) {
        match named_in_error(reply) {
            Some((before, key, after)) => {
                let text = [before.get(1..).unwrap_or_default(), self.name(key), after.trim_ascii_end()].concat();
                encode::error(out, &text);
            }
            None => out.extend_from_slice(reply),
        }
    }

    fn name<'a>(&'a self, key: &'a [u8]) -> &'a [u8] {
        let names = match self {
            KeyRewrite::Of(_, names) => names.as_slice(),
            KeyRewrite::Exec(_) => &[],
        };
        names.iter().find(|(known, _)| known == key).map_or(key, |(_, name)| name)
    }
}

/// An array or a map whose elements are written anew, one by one; anything else as it is.
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

/// The key that an error about consumer groups names, with what stands around it.
fn named_in_error(reply: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
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
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn keys_have_the_clients_names() {
        let names = vec![(b"k".to_vec(), b"r:k".to_vec())];
        let check = |shape: KeyPositions, reply: &str, expected: &str| {
            let out = KeyRewrite::Of(shape, names.clone()).apply(reply.replace(' ', "\r\n").as_bytes());
            assert_eq!(String::from_utf8_lossy(&out).replace("\r\n", " "), expected);
        };
        check(KeyPositions::First, "*2 $1 k $1 k ", "*2 $3 r:k $1 k ");
        check(KeyPositions::First, "*2 $1 x $1 k ", "*2 $1 x $1 k ");
        check(KeyPositions::First, "*-1 ", "*-1 ");
        check(KeyPositions::First, "_ ", "_ ");
        check(KeyPositions::Each, "*2 *2 $1 k *0 *2 $1 x *0 ", "*2 *2 $3 r:k *0 *2 $1 x *0 ");
        check(KeyPositions::Each, "%1 $1 k *1 $1 k ", "%1 $3 r:k *1 $1 k ");
        check(KeyPositions::Each, "*-1 ", "*-1 ");
    }

    #[test]
    fn errors_have_the_clients_names_too() {
        let of = || KeyRewrite::Of(KeyPositions::Each, vec![(b"k".to_vec(), b"r:k".to_vec())]);
        let check = |text: &str, expected: &str| {
            let reply = |text: &str| format!("-{text}\r\n");
            assert_eq!(String::from_utf8_lossy(&of().apply(reply(text).as_bytes())), reply(expected));
            // As one of the answers of a transaction.
            let all = |text: &str| format!("*3\r\n+OK\r\n{}*1\r\n*2\r\n$1\r\nk\r\n*0\r\n", reply(text));
            let renamed = all(expected).replace("$1\r\nk", "$3\r\nr:k");
            let exec = KeyRewrite::Exec(vec![(1, of()), (2, of())]);
            assert_eq!(String::from_utf8_lossy(&exec.apply(all(text).as_bytes())), renamed);
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
