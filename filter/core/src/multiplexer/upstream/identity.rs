//! By which number and name a server knows a connection over which a client waits, so that the client
//! can be unblocked (<https://redis.io/docs/latest/commands/client-unblock/>).
//!
//! A number alone isn't enough: another server behind the same address, or the same one after a
//! restart, may have given it to somebody else's connection. So the connection gets a name that nobody
//! can guess, and before it is unblocked, the server is asked whether the number is that of a
//! connection with this name.

use crate::hex::to_hex;
use crate::random::Random;
use crate::resp::error_text;
use crate::resp::value::Value;

/// How a server knows a connection.
#[derive(Clone, Debug)]
pub struct ServerIdentity {
    /// The name that it gets.
    pub name: String,
    /// Its number, or the server's error if it doesn't take the name or tell the number; `None`: it
    /// hasn't answered yet.
    pub number: Option<Result<u64, String>>,
}

impl ServerIdentity {
    /// A name, of which the server hasn't been told.
    pub fn new(random: &mut Random) -> ServerIdentity {
        ServerIdentity { name: format!("redis-mesh-{}", to_hex(&random.secret())), number: None }
    }

    /// The server has taken the name, or has told the number.
    pub fn answered(&mut self, reply: &[u8]) {
        match reply.first() {
            Some(b'-') => self.number = Some(Err(error_text(reply).into_owned())),
            Some(b':') if self.number.is_none() => {
                let number =
                    Value::parse(reply).and_then(|value| value.integer()).and_then(|it| u64::try_from(it).ok());
                self.number = number.map(Ok);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn a_refusal_of_either_is_kept() {
        let told = |replies: &[&str]| {
            let mut identity = ServerIdentity::new(&mut Random::new([1; 32]));
            replies.iter().for_each(|reply| identity.answered(reply.as_bytes()));
            identity.number
        };
        assert_eq!(told(&["+OK\r\n"]), None);
        assert_eq!(told(&["+OK\r\n", ":7\r\n"]), Some(Ok(7)));
        assert_eq!(told(&["+OK\r\n", ":-7\r\n"]), None);
        assert_eq!(told(&["-NOPERM no\r\n", ":7\r\n"]), Some(Err("NOPERM no".into())));
        assert_eq!(told(&["+OK\r\n", "-NOPERM no\r\n"]), Some(Err("NOPERM no".into())));
    }
}
