//! One connection to Redis.

use super::Address;
use super::client::Client;
use super::config::Upstream;
use super::kept::Kept;
use super::login::has_no_password;
use super::queue::Sequence;
use super::scripts::Digest;
use super::slab::Id;
use crate::cluster::redirect::Redirect;
use crate::resp::encode;
use crate::resp::framer::Framer;
use std::collections::{HashSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

/// What a reply answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Something that a connection begins with.
    Greeting(Greeting),
    /// A client's command.
    Client(Id<Client>, Sequence),
    /// A part of a client's command.
    Part(Id<Client>, Sequence, u32),
    /// A client's command that begins or ends subscriptions, of which so many more are to be confirmed. In RESP3 a push
    /// confirms each.
    Subscription(Id<Client>, Sequence, u32),
    /// A command that waits in a transaction, which Redis takes or refuses.
    Queued,
    /// A client's transaction of so many bytes, MULTI to EXEC.
    Exec(Id<Client>, Sequence),
    /// What is asked about a Redis Cluster.
    Topology,
    /// Nobody's.
    Nobody,
}

/// What a connection begins with. Nothing of a client goes out before all of it is answered, so a connection that never came
/// about has executed nothing, and a login that is refused stops nobody half-way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Greeting {
    /// AUTH.
    Login,
    /// HELLO 3.
    Hello,
    /// SELECT.
    Select,
    /// READONLY.
    Readonly,
    /// PING, where there is nothing else to say.
    Ping,
}

/// A reply that is to come.
#[derive(Clone, Copy, Debug)]
pub struct Awaited {
    /// What it answers.
    pub what: Expected,
    /// Bytes of [`Carrier::kept`] that belong to it: the command, to be sent to another node.
    pub kept: u32,
    /// How often it has been sent on, since it was last tried again.
    pub hops: u8,
    /// How often it has been tried again.
    pub tries: u8,
    /// The command only reads.
    pub is_read: bool,
    /// The command, or one of the transaction, names a script that the server may not know.
    pub names_scripts: bool,
}

impl From<Expected> for Awaited {
    fn from(what: Expected) -> Awaited {
        Awaited { what, kept: 0, hops: 0, tries: 0, is_read: false, names_scripts: false }
    }
}

/// Where a connection leads, and in which state. Clients who need the same share it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Line {
    /// Where it leads.
    pub upstream: Upstream,
    /// A node of a Redis Cluster; absent: any.
    pub node: Option<SocketAddr>,
    /// The protocol: RESP2 and RESP3 replies differ.
    pub resp3: bool,
    /// The database.
    pub database: u32,
    /// READONLY has been said, so that a replica answers.
    pub readonly: bool,
}

/// Whose a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Everybody's who needs its line.
    Shared,
    /// One client's, for commands that block or depend on the connection.
    Own(Id<Client>),
    /// One client's, for its subscriptions, or to be told of every command: what isn't a reply is for the client.
    Pushes(Id<Client>),
    /// For questions about the Redis Cluster of this number.
    Probe(usize),
    /// Nobody's: in the state of a new connection, until somebody needs one of his own.
    Parked,
}

/// Why nothing can be had over a connection.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// What clients are told.
    pub text: String,
    /// It would be the same on another connection to this Redis.
    pub is_general: bool,
}

/// A connection.
#[derive(Debug)]
pub struct Carrier {
    /// Where it leads.
    pub line: Line,
    /// Whose it is.
    pub purpose: Use,
    /// Where replies end.
    pub framer: Framer,
    /// Replies that are to come, the next one first.
    pub expected: VecDeque<Awaited>,
    /// Bytes to send.
    pub out: Vec<u8>,
    /// Bytes to send when the greeting has been answered.
    staged: Vec<u8>,
    /// Commands that may have to be sent to another node, the oldest first.
    pub kept: Kept,
    /// The greeting has been answered.
    pub is_greeted: bool,
    /// A host knows that there is something to send.
    pub is_announced: bool,
    /// Redis takes nothing more at the moment.
    pub is_full: bool,
    /// Clients wait until it takes more.
    pub is_awaited: bool,
    /// Why Redis refuses what it is greeted with.
    pub refusal: Option<Refusal>,
    /// A reply, or its beginning, that is needed as a whole.
    pub whole: Vec<u8>,
    /// The reply under way is needed as a whole.
    pub is_collected: bool,
    /// What is under way is no reply, or one that says so itself, and for this client.
    pub pushes_to: Option<Id<Client>>,
    /// What a node has said to a command of the transaction under way.
    pub redirect: Option<Redirect>,
    /// Scripts that were brought over it.
    pub scripts: HashSet<Digest>,
    /// Its client has changed its state for good, so that nobody else may have it.
    pub is_changed: bool,
    /// Commands for it wait until those over the connection that it takes the place of are answered.
    pub is_held: bool,
    /// What takes its place.
    pub successor: Option<Id<Carrier>>,
    /// No new commands are to go over it; it ends when nothing is expected any more.
    pub is_retired: bool,
    /// When something was last heard or, if nothing had been expected, asked.
    pub progress: Duration,
    /// How long Redis may be silent while something is expected.
    pub patience: Option<Duration>,
}

/// What Redis answers to a command of a client that hasn't logged in.
const NOAUTH: &str = "NOAUTH Authentication required.";

/// How long a connection may take to come about, its greeting included. Envoy's own `connect_timeout` is shorter as a rule.
const GREETING: Duration = Duration::from_secs(10);

impl Carrier {
    /// A connection that is about to be opened, with what it begins with.
    pub fn new(line: Line, purpose: Use, now: Duration) -> Carrier {
        let (mut out, mut expected) = (Vec::new(), VecDeque::new());
        let mut greet = |greeting: Greeting| expected.push_back(Expected::Greeting(greeting).into());
        if let Some(login) = line.upstream.login_command() {
            out.extend_from_slice(login);
            greet(Greeting::Login);
        }
        if line.resp3 {
            encode::command(&mut out, &[b"HELLO", b"3"]);
            greet(Greeting::Hello);
        }
        if line.database != 0 {
            encode::command(&mut out, &[b"SELECT", line.database.to_string().as_bytes()]);
            greet(Greeting::Select);
        }
        if line.readonly {
            encode::command(&mut out, &[b"READONLY"]);
            greet(Greeting::Readonly);
        }
        if out.is_empty() {
            encode::command(&mut out, &[b"PING"]);
            greet(Greeting::Ping);
        }
        Carrier {
            line,
            purpose,
            framer: Framer::default(),
            expected,
            out,
            staged: Vec::new(),
            kept: Kept::default(),
            is_greeted: false,
            is_announced: false,
            is_full: false,
            is_awaited: false,
            refusal: None,
            whole: Vec::new(),
            is_collected: false,
            pushes_to: None,
            redirect: None,
            scripts: HashSet::new(),
            is_changed: false,
            is_held: false,
            successor: None,
            is_retired: false,
            progress: now,
            patience: None,
        }
    }

    /// Where it leads.
    pub fn address(&self) -> Address {
        let Upstream { cluster, nodes, .. } = &self.line.upstream;
        let cluster = if self.line.node.is_some() { nodes.as_ref().unwrap_or(cluster) } else { cluster };
        Address { cluster: cluster.clone(), node: self.line.node }
    }

    /// Sends a command: `write` appends it. With `keeps`, it is kept until its reply has come.
    #[inline]
    pub fn send(&mut self, awaited: Awaited, keeps: bool, now: Duration, write: impl FnOnce(&mut Vec<u8>)) {
        if self.expected.is_empty() {
            self.progress = now;
        }
        let to = if self.is_greeted && !self.is_held { &mut self.out } else { &mut self.staged };
        let from = to.len();
        write(to);
        let mut awaited = Awaited { kept: 0, ..awaited };
        if keeps {
            let written = to.get(from..).unwrap_or_default();
            self.kept.push(written);
            awaited.kept = written.len() as u32;
        }
        self.expected.push_back(awaited);
    }

    /// True if a host has to be told that there is something to send.
    #[inline]
    pub fn is_to_announce(&mut self) -> bool {
        let is_news = !self.out.is_empty() && !self.is_announced && !self.is_full;
        self.is_announced |= is_news;
        is_news
    }

    /// Bytes that wait to be sent.
    pub fn waiting(&self) -> usize {
        self.out.len() + self.staged.len()
    }

    /// So many of the replies that are to come have come.
    pub fn skip(&mut self, count: usize) {
        for _ in 0..count {
            let Some(awaited) = self.expected.pop_front() else { return };
            self.drop_kept(awaited);
        }
    }

    /// Drops what was kept of the oldest command.
    #[inline]
    pub fn drop_kept(&mut self, awaited: Awaited) {
        if awaited.kept > 0 {
            self.kept.drop_oldest(awaited.kept as usize);
        }
    }

    /// What was kept of the oldest command.
    pub fn oldest_kept(&self, awaited: Awaited) -> &[u8] {
        self.kept.behind(0, awaited.kept as usize)
    }

    /// Takes what was kept of the oldest command.
    pub fn take_kept(&mut self, awaited: Awaited) -> Vec<u8> {
        let oldest = self.oldest_kept(awaited).to_vec();
        self.drop_kept(awaited);
        oldest
    }

    /// Takes in the answer to a greeting. What has been waiting goes out after the last one.
    pub fn greeted(&mut self, greeting: Greeting, reply: &[u8]) {
        if let Some(error) = reply.strip_prefix(b"-") {
            let cluster = &self.line.upstream.cluster;
            let is_clients = self.line.upstream.is_clients();
            let as_said = || String::from_utf8_lossy(error.trim_ascii_end()).into_owned();
            let refusal = match greeting {
                // Redis that has no password is as good as logged in.
                Greeting::Login if has_no_password(reply) => None,
                // Of others' logins nothing follows from it.
                Greeting::Login if is_clients => Some((as_said(), false)),
                Greeting::Login => Some((format!("ERR redis-mesh: {cluster} refused the login"), true)),
                Greeting::Hello | Greeting::Ping if error.starts_with(b"NOAUTH") => {
                    let text = match is_clients {
                        true => NOAUTH.to_owned(),
                        false => format!("ERR redis-mesh: {cluster} asks for a password, and none is configured"),
                    };
                    Some((text, true))
                }
                Greeting::Hello => Some((format!("ERR redis-mesh: {cluster} doesn't speak RESP3; use RESP2"), false)),
                // As Redis says it: it is the client who has asked for it.
                Greeting::Select => Some((as_said(), false)),
                // A Redis that isn't a node of a cluster any more, one that loads its data, a user who may not PING: what it
                // says to commands tells more.
                Greeting::Readonly | Greeting::Ping => None,
            };
            if let (None, Some((text, is_general))) = (&self.refusal, refusal) {
                self.refusal = Some(Refusal { text, is_general });
            }
        }
        if self.refusal.is_none() && !self.expected.iter().any(|next| matches!(next.what, Expected::Greeting(_))) {
            self.is_greeted = true;
            self.release(self.is_held);
        }
    }

    /// What waits for it may go out, unless it is held; that it is, may have changed.
    pub fn release(&mut self, is_held: bool) {
        self.is_held = is_held;
        if self.is_greeted && !is_held {
            self.out.append(&mut self.staged);
        }
    }

    /// Until when Redis has to say something; none: it has all the time.
    pub fn deadline(&self) -> Option<Duration> {
        let patience = if self.is_greeted { self.patience } else { Some(self.patience.unwrap_or(GREETING)) };
        patience.filter(|_| !self.expected.is_empty()).map(|patience| self.progress + patience)
    }

    /// True if a client may have it for itself: it is as new.
    pub fn is_as_new(&self) -> bool {
        let is_usable = self.refusal.is_none() && !self.is_retired && !self.is_changed;
        self.is_greeted && self.expected.is_empty() && is_usable
    }
}
