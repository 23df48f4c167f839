//! A client's own login, where no rules ask for one or bring one: servers decide, and the client's commands go over connections that
//! were logged in the same way.

use crate::command::Args;
use crate::multiplexer::client::{Client, Wait};
use crate::multiplexer::reply::aggregate::{Aggregation, ResponsePolicy};
use crate::multiplexer::upstream::connection::{PendingReply, PoolKey};
use crate::multiplexer::upstream::pool::Missing;
use crate::multiplexer::{ClientId, Multiplexer, Step};
use crate::resp::encode;
use std::sync::Arc;
use std::time::Duration;

/// What a client presents, until servers have answered.
#[derive(Clone, Debug)]
pub struct PresentedLogin {
    /// AUTH, as it is sent.
    pub login: Arc<[u8]>,
    /// What else it says if it is let in (HELLO).
    pub hello: Option<HelloChange>,
    /// A server has let it in.
    pub is_accepted: bool,
}

/// What HELLO changes.
#[derive(Clone, Debug)]
pub struct HelloChange {
    /// The protocol.
    pub resp3: bool,
    /// The client's name.
    pub name: Option<Vec<u8>>,
    /// What it is told.
    pub reply: Vec<u8>,
}

impl PresentedLogin {
    /// What stands in AUTH.
    pub fn by_auth(args: &Args<'_>) -> Result<PresentedLogin, String> {
        match args.count {
            2 => Ok(PresentedLogin::new(&[args.get(1)])),
            3 => Ok(PresentedLogin::new(&[args.get(1), args.get(2)])),
            _ => Err("ERR syntax error".into()),
        }
    }

    /// A password, perhaps behind a user's name.
    pub fn new(words: &[&[u8]]) -> PresentedLogin {
        let mut command = Vec::new();
        encode::command(&mut command, &[&[&b"AUTH"[..]], words].concat());
        PresentedLogin { login: command.into(), hello: None, is_accepted: false }
    }
}

/// Whether a server says that it has no password, so that it lets in whoever comes.
pub fn has_no_password(reply: &[u8]) -> bool {
    [&b"-ERR AUTH <password> called without any password"[..], b"-ERR Client sent AUTH, but no password is set"]
        .iter()
        .any(|text| reply.starts_with(text))
}

/// The answers of several servers to a login: all that ask for one have to let the client in.
pub fn combine(replies: &[Vec<u8>], hello: Option<&Vec<u8>>) -> Option<Vec<u8>> {
    let refusal = |reply: &&Vec<u8>| reply.first() == Some(&b'-') && !has_no_password(reply);
    if let Some(refusal) = replies.iter().find(refusal) {
        return Some(refusal.clone());
    }
    let accepted = replies.iter().find(|reply| reply.first() != Some(&b'-'));
    accepted.map(|reply| hello.unwrap_or(reply)).or(replies.first()).cloned()
}

impl Multiplexer {
    /// Asks all servers whether they let a client in.
    pub(in crate::multiplexer) fn present(
        &mut self,
        id: ClientId,
        client: &mut Client,
        presented: PresentedLogin,
        now: Duration,
    ) -> Result<Step, Missing> {
        if !client.queue.is_empty() {
            return Err(Missing::Wait(Wait::Answers));
        }
        if client.own.is_some() || !client.subscriptions.is_empty() || client.is_monitor {
            // Its own connections would stay another's.
            let text = "ERR redis-mesh: a client that watches keys, tracks or has subscribed can't log in as another; RESET first";
            return Err(Missing::Error(text.into()));
        }
        let resp3 = presented.hello.as_ref().map_or(client.resp3, |hello| hello.resp3);
        let mut lines: Vec<PoolKey> = Vec::new();
        for target in &client.config.targets {
            let upstream = target.upstream.presented(Some(&presented.login));
            let line = PoolKey { upstream, node: None, resp3, database: 0, readonly: false };
            if !lines.contains(&line) {
                lines.push(line);
            }
        }
        let hello = presented.hello.as_ref().map(|hello| hello.reply.clone());
        let login = presented.login.clone();
        let merge = Aggregation::new(ResponsePolicy::Login(hello), lines.len(), client.resp3);
        let sequence = client.queue.expect_parts(merge, client.is_mute());
        client.presented = Some(presented);
        client.waits_for = Some(Wait::Answers);
        for (part, line) in lines.into_iter().enumerate() {
            let part = part as u32;
            match self.line(line, now) {
                // Each time anew: what has let another client in may not be right any more.
                Ok(link) => {
                    let expected = PendingReply::SubCommand(id, sequence, part).into();
                    self.send(link, expected, client.config.op_timeout, now, |out| out.extend_from_slice(&login));
                }
                Err(Missing::Error(text)) => {
                    let mut reply = Vec::new();
                    encode::error(&mut reply, text.as_bytes());
                    client.presented = None;
                    client.queue.part(sequence, part, reply, &mut client.out);
                }
                Err(Missing::Wait(_)) => {}
            }
        }
        Ok(Step::Taken)
    }
}

impl Client {
    /// A server has answered something to a part of a command, perhaps of its login.
    pub(in crate::multiplexer) fn heard(&mut self, reply: &[u8]) {
        let is_error = reply.first() == Some(&b'-');
        match &mut self.presented {
            Some(_) if is_error && !has_no_password(reply) => self.presented = None,
            Some(presented) => presented.is_accepted |= !is_error,
            None => {}
        }
    }

    /// All commands before have been answered: what has been let in counts from now on.
    pub(in crate::multiplexer) fn enter(&mut self) {
        let Some(presented) = self.presented.take().filter(|presented| presented.is_accepted) else { return };
        self.login = Some(presented.login);
        if let Some(HelloChange { resp3, name, .. }) = presented.hello {
            self.resp3 = resp3;
            if let Some(name) = name {
                self.name = name;
            }
        }
        self.unlink();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn all_that_ask_have_to_let_in() {
        let (ok, wrong) = ("+OK\r\n", "-WRONGPASS x\r\n");
        let none = "-ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?\r\n";
        let check = |replies: &[&str], hello: Option<&str>, expected: &str| {
            let replies: Vec<Vec<u8>> = replies.iter().map(|reply| reply.as_bytes().to_vec()).collect();
            let combined = combine(&replies, hello.map(|hello| hello.as_bytes().to_vec()).as_ref()).unwrap();
            assert_eq!(String::from_utf8(combined).unwrap(), expected);
        };
        check(&[ok], None, ok);
        check(&[ok, none], None, ok);
        check(&[none, ok], Some("%0\r\n"), "%0\r\n");
        check(&[none, none], None, none);
        check(&[ok, wrong], None, wrong);
        check(&[none, wrong], Some("%0\r\n"), wrong);
    }
}
