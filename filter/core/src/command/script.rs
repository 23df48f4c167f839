//! The digests by which EVALSHA names scripts (<https://redis.io/docs/latest/commands/evalsha/>).

use super::{Args, Command};
use crate::hex::to_bytes;

/// The SHA-1 of a script.
pub type ScriptDigest = [u8; 20];

/// Returns the digest of the script that a command names.
pub fn named(command: &Command, args: &Args<'_>) -> Option<ScriptDigest> {
    matches!(command.name, "evalsha" | "evalsha_ro").then(|| digest(args.get(1))).flatten()
}

/// Whether a command may run code that clients have brought, so that its reply is whatever that code
/// says.
pub fn may_run_code(command: &Command) -> bool {
    matches!(command.name, "eval" | "eval_ro" | "evalsha" | "evalsha_ro" | "fcall" | "fcall_ro")
}

/// Reads the 40 hexadecimal digits of a digest, in any case.
pub fn digest(text: &[u8]) -> Option<ScriptDigest> {
    to_bytes(text)
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
