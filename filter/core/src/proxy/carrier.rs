//! One connection to Redis, which clients share.

use super::Address;
use super::client::Client;
use super::config::Upstream;
use super::queue::Sequence;
use super::slab::Id;
use crate::resp::encode;
use crate::resp::framer::Framer;
use std::collections::VecDeque;

/// Whose reply comes next.
#[derive(Clone, Copy, Debug)]
pub enum Expected {
    /// That of the login.
    Login,
    /// That of HELLO.
    Hello,
    /// A client's.
    Client(Id<Client>, Sequence),
    /// A part of a client's.
    Part(Id<Client>, Sequence, usize),
    /// Nobody's.
    Nobody,
}

/// What a connection is for. Clients of one protocol share it: RESP2 and RESP3 replies differ.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Line {
    /// Where it leads.
    pub upstream: Upstream,
    /// The protocol.
    pub resp3: bool,
}

/// A connection.
#[derive(Debug)]
pub struct Carrier {
    /// What it is for.
    pub line: Line,
    /// Where replies end.
    pub framer: Framer,
    /// Whose replies are to come, the next one first.
    pub expected: VecDeque<Expected>,
    /// Bytes to send.
    pub out: Vec<u8>,
    /// A host knows that there are some.
    pub is_announced: bool,
    /// It is open.
    pub is_connected: bool,
    /// Redis takes nothing more at the moment.
    pub is_full: bool,
    /// Clients wait until it takes more.
    pub is_awaited: bool,
    /// Why Redis has refused what it was greeted with.
    pub refused: Option<String>,
    /// A reply, or its beginning, that is needed as a whole.
    pub whole: Vec<u8>,
}

impl Carrier {
    /// A connection that is about to be opened, with what it begins with.
    pub fn new(line: Line) -> Carrier {
        let (mut out, mut expected) = (Vec::new(), VecDeque::new());
        if let Some(login) = &line.upstream.login {
            out.extend_from_slice(login);
            expected.push_back(Expected::Login);
        }
        if line.resp3 {
            encode::command(&mut out, &[b"HELLO", b"3"]);
            expected.push_back(Expected::Hello);
        }
        Carrier {
            line,
            framer: Framer::default(),
            expected,
            out,
            is_announced: false,
            is_connected: false,
            is_full: false,
            is_awaited: false,
            refused: None,
            whole: Vec::new(),
        }
    }

    /// Where it leads.
    pub fn address(&self) -> Address {
        Address { cluster: self.line.upstream.cluster.clone(), node: None }
    }

    /// Takes in the answer to a greeting.
    pub fn greeted(&mut self, expected: Expected, reply: &[u8]) {
        let Some(error) = reply.strip_prefix(b"-") else { return };
        // Redis that has no password is as good as logged in.
        let has_no_password = error.starts_with(b"ERR AUTH <password> called without any password")
            || error.starts_with(b"ERR Client sent AUTH, but no password is set");
        match expected {
            Expected::Login if !has_no_password => self.refused = Some("refused the login".to_owned()),
            Expected::Hello if self.refused.is_none() => {
                self.refused = Some("doesn't speak RESP3; use RESP2".to_owned());
            }
            _ => {}
        }
    }
}
