//! The names that clients give themselves and their libraries: CLIENT SETNAME, HELLO SETNAME,
//! CLIENT SETINFO.

use crate::command::Args;

/// Longest name in bytes. Redis has no bound of its own, but a name is kept as long as its
/// connection.
const LONGEST: usize = 16 * 1024;

/// Checks the name of a client (<https://redis.io/docs/latest/commands/client-setname/>).
///
/// # Errors
/// What to answer: Redis's own error, or ours if the name is too long.
pub fn check(name: &[u8]) -> Result<(), &'static str> {
    if name.len() > LONGEST {
        return Err("ERR redis-mesh: a client name of more than 16384 bytes");
    }
    if !is_printable(name) {
        return Err("ERR Client names cannot contain spaces, newlines or special characters.");
    }
    Ok(())
}

/// Checks `CLIENT SETINFO <lib-name | lib-ver> value`
/// (<https://redis.io/docs/latest/commands/client-setinfo/>). The value isn't kept.
///
/// # Errors
/// Redis's own answer.
pub fn check_info(args: &Args<'_>) -> Result<(), String> {
    let attributes = ["lib-name", "lib-ver"];
    match attributes.iter().find(|attribute| args.is_word(2, attribute.as_bytes())) {
        Some(_) if is_printable(args.get(3)) => Ok(()),
        Some(attribute) => Err(format!("ERR {attribute} cannot contain spaces, newlines or special characters.")),
        None => Err(format!("ERR Unrecognized option '{}'", args.quoted(2))),
    }
}

fn is_printable(text: &[u8]) -> bool {
    text.iter().all(|byte| (b'!'..=b'~').contains(byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn names() {
        for (name, is_right) in [("", true), ("me", true), ("~!", true), ("a b", false), ("a\n", false), ("é", false)]
        {
            assert_eq!(check(name.as_bytes()).is_ok(), is_right, "{name}");
        }
        assert!(check(&[b'x'; LONGEST]).is_ok() && check(&[b'x'; LONGEST + 1]).is_err());
    }
}
