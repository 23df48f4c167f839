//! Commands by their names.

use super::row::Command;
use super::table;

/// Returns all commands, sorted by name. Subcommands are within their containers.
pub fn all() -> &'static [Command] {
    &table::COMMANDS
}

/// Finds a command by its name, in any case.
pub fn lookup(name: &[u8]) -> Option<&'static Command> {
    if name.len() > table::LONGEST_NAME {
        return None;
    }
    let mut slot = first_slot(name, table::INDEX.len());
    loop {
        // An index past the end of the table marks an empty slot, where the search ends.
        let command = table::COMMANDS.get(usize::from(*table::INDEX.get(slot)?))?;
        if command.name.as_bytes().eq_ignore_ascii_case(name) {
            return Some(command);
        }
        slot = (slot + 1) % table::INDEX.len();
    }
}

/// Finds a container's subcommand by its name without that of the container, in any case.
pub fn lookup_subcommand(container: &'static Command, name: &[u8]) -> Option<&'static Command> {
    container.subcommands.iter().find(|sub| sub.own_name().as_bytes().eq_ignore_ascii_case(name))
}

/// Returns the slot where the search for a name begins in an index of so many slots (a power of
/// two). The generator of the table uses the same function.
///
/// Two overlapping loads cover every name of up to 16 bytes, so the cost doesn't depend on the
/// name's length.
#[doc(hidden)]
pub fn first_slot(name: &[u8], slots: usize) -> usize {
    let word = if let (Some(head), Some(tail)) = (name.first_chunk(), name.last_chunk()) {
        u64::from_le_bytes(*head) ^ u64::from_le_bytes(*tail).rotate_left(24)
    } else if let (Some(head), Some(tail)) = (name.first_chunk(), name.last_chunk()) {
        u64::from(u32::from_le_bytes(*head)) | u64::from(u32::from_le_bytes(*tail)) << 32
    } else {
        name.iter().fold(0, |word, byte| word << 8 | u64::from(*byte))
    };
    // Bit 5 of a byte is the only difference between upper and lower case. Other bytes that become
    // equal are told apart by the comparison of the names.
    let folded = (word | 0x2020_2020_2020_2020) ^ (name.len() as u64) << 59;
    let mixed = folded.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 40) as usize % slots
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::super::{Begin, Extract, Find, KeyFlags, KeySpec, Known};
    use super::*;

    #[test]
    fn every_row_is_found_by_its_name_in_any_case() {
        for command in all() {
            for name in [command.name.to_owned(), command.name.to_uppercase()] {
                assert!(std::ptr::eq(lookup(name.as_bytes()).unwrap(), command), "{name}");
            }
            for sub in command.subcommands {
                let found = lookup_subcommand(command, sub.own_name().to_uppercase().as_bytes());
                assert!(std::ptr::eq(found.unwrap(), sub), "{}", sub.name);
                assert!(lookup(sub.name.as_bytes()).is_none());
            }
        }
    }

    #[test]
    fn names_that_are_no_commands_are_not_found() {
        for name in ["", "g", "ge", "gets", "get ", "config|get", "\0\0\0", "GE\x54\x20", "set\0", "@et"] {
            assert!(lookup(name.as_bytes()).is_none(), "{name:?}");
        }
        assert!(lookup(&[b'g'; 1000]).is_none());
        assert!(lookup(&[0xff; 8]).is_none());
    }

    #[test]
    fn probing_is_short() {
        let mut longest = 0;
        for command in all() {
            let mut slot = first_slot(command.name.as_bytes(), table::INDEX.len());
            let mut steps = 1;
            while all()[usize::from(table::INDEX[slot])].name != command.name {
                slot = (slot + 1) % table::INDEX.len();
                steps += 1;
            }
            longest = longest.max(steps);
        }
        assert!(longest <= 6, "{longest}");
    }

    #[test]
    fn requests_resolve_to_the_subcommand() {
        let name = |arguments: &[&str]| match Known::of(arguments).map(|known| known.row().ok_or(known.container)) {
            Some(Ok(command)) => command.name.to_owned(),
            Some(Err(container)) => format!("{} …", container.name),
            None => "?".to_owned(),
        };
        assert_eq!(name(&["CONFIG", "Get", "x"]), "config|get");
        assert_eq!(name(&["config"]), "config …");
        assert_eq!(name(&["config", "nonsense"]), "config …");
        assert_eq!(name(&["gEt", "config"]), "get");
        assert_eq!(name(&["nonsense"]), "?");
        assert_eq!(name(&[]), "?");
    }

    #[test]
    fn reads_and_writes() {
        let kind = |name: &str| {
            let command = lookup(name.as_bytes()).unwrap();
            (command.is_read(), command.is_write())
        };
        for write in ["set", "xadd", "getset", "getex", "xack", "publish", "flushall", "eval", "fcall", "sort"] {
            assert_eq!(kind(write), (false, true), "{write}");
        }
        for read in ["get", "xread", "sort_ro", "eval_ro", "fcall_ro", "pfcount", "hgetall", "scan", "dbsize"] {
            assert_eq!(kind(read), (true, false), "{read}");
        }
        for neither in ["ping", "multi", "watch", "config", "script"] {
            assert_eq!(kind(neither), (false, false), "{neither}");
        }
    }

    #[test]
    fn what_redis_proxy_takes() {
        let on_proxy = |name: &str| {
            let arguments: Vec<&str> = name.split(' ').collect();
            Known::of(&arguments[..]).is_some_and(|known| known.command.is_on_proxy())
        };
        for name in ["get", "client", "client setname", "cluster slots", "config get", "bf.add", "object freq"] {
            assert!(on_proxy(name), "{name}");
        }
        for name in ["client list", "cluster reset", "object help", "blpop", "lcs", "command"] {
            assert!(!on_proxy(name), "{name}");
        }
    }

    #[test]
    fn the_keys_of_every_command_can_be_told() {
        for command in all().iter().flat_map(|command| std::iter::once(command).chain(command.subcommands)) {
            let complete = |spec: &KeySpec| {
                !spec.flags.contains(KeyFlags::INCOMPLETE) && spec.begin != Begin::Unknown && spec.find != Find::Unknown
            };
            assert!(
                command.key_specs.extract != Extract::Specs || command.key_specs.specs.iter().all(complete),
                "{}",
                command.name
            );
        }
    }

    #[test]
    fn arity() {
        let accepts = |name: &str, n| lookup(name.as_bytes()).unwrap().accepts(n);
        assert!(accepts("get", 2) && !accepts("get", 1) && !accepts("get", 3));
        assert!(accepts("mset", 3) && accepts("mset", 4000) && !accepts("mset", 2));
    }
}
