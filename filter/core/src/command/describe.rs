//! Replies to COMMAND and its subcommands (<https://redis.io/docs/latest/commands/command/>), from
//! the command table.

use super::glob::{Case, glob};
use super::{
    Arguments, Begin, Categories, Command, Find, Flags, KeyFlags, KeySpec, KeysError, Known, Tips, all, lookup,
};

/// The protocol that a client speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protocol {
    /// RESP2.
    Resp2,
    /// RESP3.
    Resp3,
}

/// Appends the reply to a request whose argument 0 is COMMAND. Only commands that `offered`
/// accepts exist for the client.
pub fn describe<A: Arguments + ?Sized>(
    arguments: &A,
    protocol: Protocol,
    offered: impl Fn(&Command) -> bool,
    out: &mut Vec<u8>,
) {
    // A copy of the code for each caller would be larger, and none needs the speed.
    let (arguments, writer) = (From(arguments, 0), Writer { protocol, out });
    answer(&arguments, &offered, writer);
}

/// Tells whether a command exists for the client.
type Offered<'a> = &'a dyn Fn(&Command) -> bool;

fn answer(arguments: &dyn Arguments, offered: Offered<'_>, mut writer: Writer<'_>) {
    let count = arguments.count();
    let Some(Known { command: row, .. }) = Known::of(arguments) else { return writer.error("ERR unknown command") };
    if !row.subcommands.is_empty() && count > 1 {
        writer.out.extend_from_slice(b"-ERR unknown subcommand '");
        writer.echo(arguments.argument(1).unwrap_or_default());
        writer.out.extend_from_slice(b"'. Try COMMAND HELP.\r\n");
        return;
    }
    if !row.accepts(count) {
        writer.out.extend_from_slice(b"-ERR wrong number of arguments for '");
        writer.out.extend_from_slice(row.name.as_bytes());
        writer.out.extend_from_slice(b"' command\r\n");
        return;
    }
    match (row.name, count) {
        ("command", 1) => writer.entries(offered),
        ("command|count", 2) => writer.integer(all().iter().filter(|command| offered(command)).count()),
        ("command|list", 2) => writer.list(offered, &|_| true),
        ("command|list", 5) => writer.filtered_list(arguments, offered),
        ("command|list", _) => writer.error("ERR syntax error"),
        ("command|info", 2) => writer.entries(offered),
        ("command|info", count) if count - 2 > MAX_NAMES => {
            writer.error("ERR redis-mesh: COMMAND INFO takes at most 1024 names");
        }
        ("command|info", _) => {
            writer.array(count - 2);
            for index in 2..count {
                match arguments.argument(index).and_then(named).filter(|command| offered(command)) {
                    Some(command) => writer.entry(command, offered),
                    None => writer.null(),
                }
            }
        }
        ("command|docs", _) => writer.head(b'%', 0),
        ("command|getkeys", 3..) => writer.keys(&From(arguments, 2), offered, false),
        ("command|getkeysandflags", 3..) => writer.keys(&From(arguments, 2), offered, true),
        _ => {
            writer.array(HELP.len());
            HELP.iter().for_each(|line| writer.line(b'+', "", line.as_bytes()));
        }
    }
}

/// How many names COMMAND INFO takes: the reply is more than twenty times as long as they are.
const MAX_NAMES: usize = 1024;

const HELP: &[&str] = &[
    "COMMAND <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    "(no subcommand)",
    "    Return details about all commands.",
    "COUNT",
    "    Return the total number of commands in this server.",
    "LIST",
    "    Return a list of all commands in this server.",
    "INFO [<command-name> ...]",
    "    Return details about multiple commands.",
    "    If no command names are given, documentation details for all",
    "    commands are returned.",
    "DOCS [<command-name> ...]",
    "    Return documentation details about multiple commands.",
    "    If no command names are given, documentation details for all",
    "    commands are returned.",
    "GETKEYS <full-command>",
    "    Return the keys from a full command.",
    "GETKEYSANDFLAGS <full-command>",
    "    Return the keys and the access flags from a full command.",
    "HELP",
    "    Print this help.",
];

/// Finds a command by the name that COMMAND INFO takes: a subcommand is `container|subcommand`.
fn named(name: &[u8]) -> Option<&'static Command> {
    let mut parts = name.splitn(2, |byte| *byte == b'|');
    let command = lookup(parts.next()?)?;
    match parts.next() {
        Some(sub) => super::lookup_subcommand(command, sub),
        None => Some(command),
    }
}

/// The arguments of another request from an index on, such as the request that COMMAND GETKEYS is
/// about.
struct From<'a, A: ?Sized>(&'a A, usize);

impl<A: Arguments + ?Sized> Arguments for From<'_, A> {
    fn count(&self) -> usize {
        self.0.count().saturating_sub(self.1)
    }
    fn argument(&self, index: usize) -> Option<&[u8]> {
        self.0.argument(index.checked_add(self.1)?)
    }
}

struct Writer<'a> {
    protocol: Protocol,
    out: &'a mut Vec<u8>,
}

// These are called from many places and run rarely, so copies of them would only cost size.
impl Writer<'_> {
    #[inline(never)]
    fn line(&mut self, kind: u8, prefix: &str, text: &[u8]) {
        self.out.push(kind);
        self.out.extend_from_slice(prefix.as_bytes());
        self.out.extend_from_slice(text);
        self.out.extend_from_slice(b"\r\n");
    }

    #[inline(never)]
    fn number(&mut self, kind: u8, number: i64) {
        self.line(kind, "", number.to_string().as_bytes());
    }

    fn integer(&mut self, number: usize) {
        self.number(b':', i64::try_from(number).unwrap_or(i64::MAX));
    }

    fn array(&mut self, count: usize) {
        self.number(b'*', i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Writes the head of a set or a map, which RESP2 writes as arrays. The count of a map is that
    /// of its pairs.
    fn head(&mut self, kind: u8, count: usize) {
        match (self.protocol, kind) {
            (Protocol::Resp2, b'%') => self.array(count * 2),
            (Protocol::Resp2, _) => self.array(count),
            (Protocol::Resp3, _) => self.number(kind, i64::try_from(count).unwrap_or(i64::MAX)),
        }
    }

    #[inline(never)]
    fn bulk(&mut self, text: &[u8]) {
        self.number(b'$', i64::try_from(text.len()).unwrap_or(i64::MAX));
        self.out.extend_from_slice(text);
        self.out.extend_from_slice(b"\r\n");
    }

    fn error(&mut self, text: &str) {
        self.line(b'-', "", text.as_bytes());
    }

    /// Writes the names of the bits that are set, as a set.
    #[inline(never)]
    fn bits(&mut self, bits: u32, names: &[&str], kind: u8, prefix: &str) {
        self.head(b'~', bits.count_ones() as usize);
        for (bit, name) in names.iter().enumerate() {
            if bits >> bit & 1 == 0 {
                continue;
            }
            if kind == b'$' {
                self.bulk(name.as_bytes());
            } else {
                self.line(kind, prefix, name.as_bytes());
            }
        }
    }

    /// Writes text of a client into the single line of an error.
    fn echo(&mut self, text: &[u8]) {
        let printable = |byte: &u8| if byte.is_ascii_control() { b' ' } else { *byte };
        self.out.extend(text.iter().take(128).map(printable));
    }

    fn null(&mut self) {
        self.out.extend_from_slice(match self.protocol {
            Protocol::Resp2 => b"$-1\r\n",
            Protocol::Resp3 => b"_\r\n",
        });
    }

    #[inline(never)]
    fn entries(&mut self, offered: Offered<'_>) {
        self.array(all().iter().filter(|command| offered(command)).count());
        for command in all().iter().filter(|command| offered(command)) {
            self.entry(command, offered);
        }
    }

    /// Writes the ten elements that Redis 7 has for a command.
    #[inline(never)]
    fn entry(&mut self, command: &Command, offered: Offered<'_>) {
        self.array(10);
        self.bulk(command.name.as_bytes());
        self.number(b':', command.arity.into());
        let reported = command.flags.0 & !Flags::MAY_REPLICATE.0;
        self.bits(reported, Flags::NAMES, b'+', "");
        let (first, last, step) = command.key_specs.legacy;
        for number in [first, last, step] {
            self.number(b':', number.into());
        }
        self.bits(command.categories.0, Categories::NAMES, b'+', "@");
        self.bits(command.tips.0.into(), Tips::NAMES, b'$', "");
        self.head(b'~', command.key_specs.specs.len());
        command.key_specs.specs.iter().for_each(|spec| self.spec(spec));
        let subcommands = || command.subcommands.iter().filter(|sub| offered(sub));
        self.array(subcommands().count());
        subcommands().for_each(|sub| self.entry(sub, offered));
    }

    #[inline(never)]
    fn spec(&mut self, spec: &KeySpec) {
        self.head(b'%', 3);
        self.bulk(b"flags");
        self.key_flags(spec.flags);
        self.bulk(b"begin_search");
        match spec.begin {
            Begin::Index(index) => self.search("index", &[("index", SpecValue::Number(index))]),
            Begin::Keyword(word, from) => {
                self.search("keyword", &[("keyword", SpecValue::Text(word)), ("startfrom", SpecValue::Number(from))]);
            }
            Begin::Unknown => self.search("unknown", &[]),
        }
        self.bulk(b"find_keys");
        let number = SpecValue::Number;
        match spec.find {
            Find::Range { last, step, limit } => {
                self.search("range", &[("lastkey", number(last)), ("keystep", number(step)), ("limit", number(limit))]);
            }
            Find::KeyNum { number: keynumidx, first, step } => {
                let fields = [("keynumidx", number(keynumidx)), ("firstkey", number(first)), ("keystep", number(step))];
                self.search("keynum", &fields);
            }
            Find::Unknown => self.search("unknown", &[]),
        }
    }

    #[inline(never)]
    fn search(&mut self, kind: &str, fields: &[(&str, SpecValue)]) {
        self.head(b'%', 2);
        self.bulk(b"type");
        self.bulk(kind.as_bytes());
        self.bulk(b"spec");
        self.head(b'%', fields.len());
        for (name, value) in fields {
            self.bulk(name.as_bytes());
            match value {
                SpecValue::Text(text) => self.bulk(text.as_bytes()),
                SpecValue::Number(value) => self.number(b':', (*value).into()),
            }
        }
    }

    fn key_flags(&mut self, flags: KeyFlags) {
        self.bits(flags.0.into(), KeyFlags::NAMES, b'+', "");
    }

    #[inline(never)]
    fn list(&mut self, offered: Offered<'_>, wanted: Offered<'_>) {
        // A subcommand is listed even if its container is filtered out.
        let commands = || {
            all()
                .iter()
                .flat_map(|command| std::iter::once(command).chain(command.subcommands))
                .filter(|command| offered(command) && wanted(command))
        };
        self.array(commands().count());
        commands().for_each(|command| self.bulk(command.name.as_bytes()));
    }

    fn filtered_list(&mut self, arguments: &dyn Arguments, offered: Offered<'_>) {
        let argument = |index| arguments.argument(index).unwrap_or_default();
        let (by, value) = (argument(3), argument(4));
        if !argument(2).eq_ignore_ascii_case(b"filterby") {
            self.error("ERR syntax error");
        } else if by.eq_ignore_ascii_case(b"module") {
            self.array(0);
        } else if by.eq_ignore_ascii_case(b"aclcat") {
            self.list(offered, &|command| {
                command.categories.names().any(|name| name.as_bytes().eq_ignore_ascii_case(value))
            });
        } else if by.eq_ignore_ascii_case(b"pattern") {
            self.list(offered, &|command| glob(value, command.name.as_bytes(), Case::Insensitive));
        } else {
            self.error("ERR syntax error");
        }
    }

    fn keys(&mut self, request: &dyn Arguments, offered: Offered<'_>, with_flags: bool) {
        let Some(Known { command, .. }) = Known::of(request) else {
            return self.error("ERR Invalid command specified");
        };
        if !offered(command) {
            return self.error("ERR Invalid command specified");
        }
        if !command.has_keys() {
            return self.error("ERR The command has no key arguments");
        }
        if !command.accepts(request.count()) {
            return self.error("ERR Invalid number of arguments specified for command");
        }
        match command.keys(request) {
            Ok(keys) => {
                self.array(keys.len());
                for key in keys.iter() {
                    let name = request.argument(key.index).unwrap_or_default();
                    if with_flags {
                        self.array(2);
                        self.bulk(name);
                        self.key_flags(key.flags);
                    } else {
                        self.bulk(name);
                    }
                }
            }
            Err(
                KeysError::Missing(_)
                | KeysError::Malformed
                | KeysError::Count(_)
                | KeysError::Unpaired
                | KeysError::Unknown,
            ) => {
                self.error("ERR Invalid arguments specified for command");
            }
        }
    }
}

#[derive(Clone, Copy)]
enum SpecValue {
    Text(&'static str),
    Number(i8),
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::super::Proxy;
    use super::*;

    fn answer(request: &str, protocol: Protocol) -> String {
        let arguments: Vec<&str> = request.split(' ').collect();
        let mut out = Vec::new();
        describe(&arguments[..], protocol, |command| command.proxy != Proxy::Unsupported, &mut out);
        String::from_utf8(out).unwrap().replace("\r\n", "|")
    }

    #[test]
    fn answers() {
        for (request, resp2) in [
            ("COMMAND DOCS", "*0|"),
            ("COMMAND DOCS get", "*0|"),
            ("COMMAND GETKEYS mset a 1 b 2", "*2|$1|a|$1|b|"),
            ("COMMAND GETKEYSANDFLAGS get a", "*1|*2|$1|a|*2|+RO|+access|"),
            ("COMMAND GETKEYS get", "-ERR Invalid number of arguments specified for command|"),
            ("COMMAND GETKEYS nonsense a", "-ERR Invalid command specified|"),
            ("COMMAND GETKEYS blpop a 0", "-ERR Invalid command specified|"),
            ("COMMAND GETKEYS ping a b", "-ERR The command has no key arguments|"),
            ("COMMAND INFO nonsense blpop", "*2|$-1|$-1|"),
            ("COMMAND LIST FILTERBY PATTERN mg*", "*1|$4|mget|"),
            ("COMMAND LIST FILTERBY MODULE x", "*0|"),
            ("COMMAND LIST FILTERBY x y", "-ERR syntax error|"),
            ("COMMAND LIST x", "-ERR syntax error|"),
        ] {
            assert_eq!(answer(request, Protocol::Resp2), resp2, "{request}");
        }
        assert_eq!(answer("COMMAND DOCS", Protocol::Resp3), "%0|");
        assert_eq!(answer("COMMAND INFO nonsense", Protocol::Resp3), "*1|_|");
        let get = answer("COMMAND INFO get", Protocol::Resp2);
        assert!(
            get.starts_with("*1|*10|$3|get|:2|*2|+readonly|+fast|:1|:1|:1|*3|+@read|+@string|+@fast|*0|*1|"),
            "{get}"
        );
        assert!(answer("COMMAND nonsense\r\n", Protocol::Resp2).ends_with("'nonsense  '. Try COMMAND HELP.|"));
    }
}
