//! A client's own login, where the configuration neither asks clients for one nor brings one:
//! servers decide, and the client's commands go over connections that were logged in the same way.

use crate::command::{Args, each_command};
use crate::resp::encode;
use std::sync::Arc;

/// What a client presents, until the servers have answered.
#[derive(Clone, Debug)]
pub struct PresentedLogin {
    /// AUTH, as it is sent.
    pub login: Arc<[u8]>,
    /// What else changes if the client is let in: HELLO says more than AUTH.
    pub hello: Option<HelloChange>,
    /// A server has let the client in.
    pub is_accepted: bool,
}

/// HELLO, of which is known that the client may say it.
#[derive(Clone, Debug)]
pub struct HelloRequest {
    /// The protocol that it asks for is RESP3, or RESP2.
    pub resp3: bool,
    /// The name that it gives itself.
    pub name: Option<Vec<u8>>,
    /// The login that the servers have to accept.
    pub presented: Option<PresentedLogin>,
}

/// What HELLO changes.
#[derive(Clone, Debug)]
pub struct HelloChange {
    /// The protocol becomes RESP3, or RESP2.
    pub resp3: bool,
    /// The client's name.
    pub name: Option<Vec<u8>>,
    /// The reply to the client.
    pub reply: Vec<u8>,
}

impl PresentedLogin {
    /// What AUTH presents.
    ///
    /// # Errors
    /// Redis's answer to other numbers of arguments.
    pub fn by_auth(args: &Args<'_>) -> Result<PresentedLogin, String> {
        match args.count {
            2 => Ok(PresentedLogin::new(&[args.get(1)])),
            3 => Ok(PresentedLogin::new(&[args.get(1), args.get(2)])),
            _ => Err("ERR syntax error".into()),
        }
    }

    /// A password, perhaps behind a user name.
    pub fn new(words: &[&[u8]]) -> PresentedLogin {
        let mut command = Vec::new();
        encode::command(&mut command, &[&[&b"AUTH"[..]], words].concat());
        PresentedLogin { login: command.into(), hello: None, is_accepted: false }
    }
}

/// The name of the user as whom a client has logged in with this AUTH.
pub fn user_of(login: &[u8]) -> Vec<u8> {
    let mut user = b"default".to_vec();
    each_command(login, |args| {
        if args.count == 3 {
            user = args.get(1).to_vec();
        }
    });
    user
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn users() {
        assert_eq!(user_of(&PresentedLogin::new(&[b"password"]).login), b"default");
        assert_eq!(user_of(&PresentedLogin::new(&[b"me", b"password"]).login), b"me");
    }
}
