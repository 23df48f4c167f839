//! The password that a RedisService asks of its clients.

use crate::command::Args;
use crate::hex::{from_hex, to_bytes, to_hex};
use crate::request::errors;
use crate::wire;
use sha2::{Digest, Sha256};

/// The passwords that clients may present: a compiled [`wire::ClientAuth`].
#[derive(Debug)]
pub struct PasswordCheck {
    username: Option<Box<[u8]>>,
    salt: Vec<u8>,
    hashes: Vec<[u8; 32]>,
}

/// The result of checking what a client presents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The password is right, and so is the user name if there is one.
    Accepted,
    /// A password without a user name is wrong.
    InvalidPassword,
    /// A pair of user name and password is wrong.
    WrongPass,
}

impl PasswordCheck {
    /// Decodes the hashes.
    ///
    /// # Errors
    /// The field that is wrong, and the reason.
    pub fn new(auth: &wire::ClientAuth) -> Result<PasswordCheck, String> {
        let salt = from_hex(&auth.salt).ok_or("clientAuth.salt: not hexadecimal")?;
        if salt.len() < 16 {
            return Err("clientAuth.salt: shorter than 16 bytes".into());
        }
        if auth.password_sha256.is_empty() {
            return Err("clientAuth.passwordSha256: no password, nobody could log in".into());
        }
        let hashes = auth
            .password_sha256
            .iter()
            .enumerate()
            .map(|(i, text)| {
                to_bytes(text.as_bytes())
                    .ok_or_else(|| format!("clientAuth.passwordSha256[{i}]: not the hexadecimal SHA-256"))
            })
            .collect::<Result<_, _>>()?;
        let username = auth.username.as_ref().map(|u| u.as_bytes().into());
        Ok(PasswordCheck { username, salt, hashes })
    }

    /// Checks what a client presents. A right password without a user name is accepted for any
    /// configured user, as in Envoy's redis_proxy. The time doesn't depend on how much of a
    /// password is right.
    pub fn check(&self, username: Option<&[u8]>, password: &[u8]) -> Verdict {
        let hash = Sha256::new().chain_update(&self.salt).chain_update(password).finalize();
        let mut password_ok = false;
        for known in &self.hashes {
            let difference = known.iter().zip(hash.iter()).fold(0u8, |d, (a, b)| d | (a ^ b));
            password_ok |= std::hint::black_box(difference) == 0;
        }
        let expected = self.username.as_deref().unwrap_or(b"default");
        match username {
            None if password_ok => Verdict::Accepted,
            None => Verdict::InvalidPassword,
            Some(name) if password_ok & (name == expected) => Verdict::Accepted,
            Some(_) => Verdict::WrongPass,
        }
    }
}

/// What a client presents with AUTH or HELLO.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credentials<'a> {
    /// The user name; `None`: the client gives a password alone, which is that of the user
    /// `default`.
    pub username: Option<&'a [u8]>,
    /// The password, in clear.
    pub password: &'a [u8],
}

impl<'a> Credentials<'a> {
    /// Reads `AUTH [username] password` (<https://redis.io/docs/latest/commands/auth/>).
    ///
    /// # Errors
    /// Redis's answer to another number of arguments.
    pub fn of_auth(args: &Args<'a>) -> Result<Credentials<'a>, String> {
        match args.count {
            2 => Ok(Credentials { username: None, password: args.get(1) }),
            3 => Ok(Credentials { username: Some(args.get(1)), password: args.get(2) }),
            0 | 1 => Err(errors::wrong_arity("auth")),
            _ => Err(errors::SYNTAX.into()),
        }
    }

    /// What is wrong with the credentials, as Redis says it; `None`: they are right. Without a
    /// configured [`PasswordCheck`], the user `default` has no password, and any password is
    /// right.
    pub fn refusal(&self, auth: Option<&PasswordCheck>) -> Option<&'static str> {
        refusal(auth, self.username, self.password)
    }
}

/// True if a reply to AUTH says that the server asks nobody for a password, which is as good as a
/// login. The texts are those of Redis 6 and later and of Valkey, and that of Redis before version
/// 6.
pub fn has_no_password(reply: &[u8]) -> bool {
    [&b"-ERR AUTH <password> called without any password"[..], b"-ERR Client sent AUTH, but no password is set"]
        .iter()
        .any(|text| reply.starts_with(text))
}

/// Redis's error for a wrong pair of user name and password.
pub const WRONGPASS: &str = "WRONGPASS invalid username-password pair or user is disabled.";
const NO_PASSWORD: &str = "ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?";

/// Returns the error for a client that presents these credentials; `None`: they are right.
pub fn refusal(auth: Option<&PasswordCheck>, username: Option<&[u8]>, password: &[u8]) -> Option<&'static str> {
    match auth {
        Some(auth) => match auth.check(username, password) {
            Verdict::Accepted => None,
            Verdict::InvalidPassword => Some("ERR invalid password"),
            Verdict::WrongPass => Some(WRONGPASS),
        },
        // As Redis answers where the default user has no password, so that any password is right.
        None => match username {
            None => Some(NO_PASSWORD),
            Some(b"default") => None,
            Some(_) => Some(WRONGPASS),
        },
    }
}

/// Returns the hash that [`wire::ClientAuth::password_sha256`] holds for a password.
pub fn hash_password(salt: &[u8], password: &[u8]) -> String {
    to_hex(&Sha256::new().chain_update(salt).chain_update(password).finalize())
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn wire(username: Option<&str>, passwords: &[&str]) -> wire::ClientAuth {
        wire::ClientAuth {
            username: username.map(str::to_string),
            salt: to_hex(&[9; 16]),
            password_sha256: passwords.iter().map(|p| hash_password(&[9; 16], p.as_bytes())).collect(),
        }
    }

    #[test]
    fn passwords() {
        let auth = PasswordCheck::new(&wire(None, &["old", "new"])).unwrap();
        assert_eq!(auth.check(None, b"old"), Verdict::Accepted);
        assert_eq!(auth.check(Some(b"default"), b"new"), Verdict::Accepted);
        assert_eq!(auth.check(None, b""), Verdict::InvalidPassword);
        assert_eq!(auth.check(Some(b"other"), b"new"), Verdict::WrongPass);
        let auth = PasswordCheck::new(&wire(Some("app"), &["p"])).unwrap();
        assert_eq!(auth.check(Some(b"app"), b"p"), Verdict::Accepted);
        assert_eq!(auth.check(Some(b"default"), b"p"), Verdict::WrongPass);
        assert_eq!(auth.check(None, b"p"), Verdict::Accepted);
    }

    #[test]
    fn mistakes() {
        let bad = |change: fn(&mut wire::ClientAuth)| {
            let mut w = wire(None, &["p"]);
            change(&mut w);
            PasswordCheck::new(&w).unwrap_err()
        };
        assert!(bad(|w| w.salt = "00".into()).contains("salt"));
        assert!(bad(|w| w.salt = "zz".repeat(16)).contains("salt"));
        assert!(bad(|w| w.password_sha256 = vec![]).contains("nobody"));
        assert!(bad(|w| w.password_sha256 = vec!["00".into()]).contains("passwordSha256[0]"));
    }
}
