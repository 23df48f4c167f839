//! Scripts by their names (<https://redis.io/docs/latest/commands/evalsha/>).

use super::{Args, Command};

/// By what EVALSHA names a script.
pub type ScriptDigest = [u8; 20];

/// The script that a command names.
pub fn named(command: &Command, args: &Args<'_>) -> Option<ScriptDigest> {
    matches!(command.name, "evalsha" | "evalsha_ro").then(|| digest(args.get(1))).flatten()
}

/// 40 hexadecimal digits.
pub fn digest(text: &[u8]) -> Option<ScriptDigest> {
    let digits: &[u8; 40] = text.try_into().ok()?;
    let (mut digest, mut pairs) = (ScriptDigest::default(), digits.chunks_exact(2));
    for byte in &mut digest {
        let value = |digit: &u8| char::from(*digit).to_digit(16);
        let [high, low] = pairs.next()? else { return None };
        *byte = (value(high)? << 4 | value(low)?) as u8;
    }
    Some(digest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha1::{Digest as _, Sha1};
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const SHA: &str = "e0e1f9fabfc9d4800c877a703b823ac0578ff8db";

    #[test]
    fn a_script_has_a_digest() {
        let found = digest(SHA.as_bytes()).unwrap();
        assert_eq!(found, ScriptDigest::from(Sha1::digest(b"return 1")));
        assert_eq!(digest(SHA.to_uppercase().as_bytes()), Some(found));
        for text in ["", "x", &SHA[1..], &format!("{SHA}0"), &SHA.replace('e', "g")] {
            assert_eq!(digest(text.as_bytes()), None, "{text}");
        }
    }
}
