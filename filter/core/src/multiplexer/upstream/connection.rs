//! One connection to Redis.

use crate::command::script::ScriptDigest;
use crate::multiplexer::Address;
use crate::multiplexer::client::Client;
use crate::multiplexer::client::reply_queue::Sequence;
use crate::multiplexer::config::Endpoint;
use crate::multiplexer::execute::login::has_no_password;
use crate::multiplexer::slot_map::Id;
use crate::multiplexer::upstream::redirect::Redirect;
use crate::multiplexer::upstream::replay_buffer::ReplayBuffer;
use crate::resp::encode;
use crate::resp::framer::Framer;
use std::collections::{HashSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

/// What a reply answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PendingReply {
    /// Something that a connection begins with.
    HandshakeStep(HandshakeStep),
    /// A client's command.
    Client(Id<Client>, Sequence),
    /// A part of a client's command.
    SubCommand(Id<Client>, Sequence, u32),
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
pub enum HandshakeStep {
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
pub struct InFlight {
    /// What it answers.
    pub what: PendingReply,
    /// Bytes of [`UpstreamConnection::kept`] that belong to it: the command, to be sent to another node.
    pub kept: u32,
    /// RequestPolicy often it has been sent on, since it was last tried again.
    pub hops: u8,
    /// RequestPolicy often it has been tried again.
    pub tries: u8,
    /// The command only reads.
    pub is_read: bool,
    /// The command, or one of the transaction, names a script that the server may not know.
    pub names_scripts: bool,
}

impl From<PendingReply> for InFlight {
    fn from(what: PendingReply) -> InFlight {
        InFlight { what, kept: 0, hops: 0, tries: 0, is_read: false, names_scripts: false }
    }
}

/// Where a connection leads, and in which state. Clients who need the same share it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PoolKey {
    /// Where it leads.
    pub upstream: Endpoint,
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
pub enum Purpose {
    /// Everybody's who needs its line.
    Shared,
    /// One client's, for commands that block or depend on the connection.
    Dedicated(Id<Client>),
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
pub struct UpstreamConnection {
    /// Where it leads.
    pub line: PoolKey,
    /// Whose it is.
    pub purpose: Purpose,
    /// Where replies end.
    pub framer: Framer,
    /// Replies that are to come, the next one first.
    pub expected: VecDeque<InFlight>,
    /// Bytes to send.
    pub out: Vec<u8>,
    /// Bytes to send when the greeting has been answered.
    staged: Vec<u8>,
    /// Commands that may have to be sent to another node, the oldest first.
    pub kept: ReplayBuffer,
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
    pub scripts: HashSet<ScriptDigest>,
    /// Its client has changed its state for good, so that nobody else may have it.
    pub is_changed: bool,
    /// Commands for it wait until those over the connection that it takes the place of are answered.
    pub is_held: bool,
    /// What takes its place.
    pub successor: Option<Id<UpstreamConnection>>,
    /// No new commands are to go over it; it ends when nothing is expected any more.
    pub is_retired: bool,
    /// When something was last heard or, if nothing had been expected, asked.
    pub progress: Duration,
    /// RequestPolicy long Redis may be silent while something is expected.
    pub patience: Option<Duration>,
}

/// What Redis answers to a command of a client that hasn't logged in.
const NOAUTH: &str = "NOAUTH Authentication required.";

/// RequestPolicy long a connection may take to come about, its greeting included. Envoy's own `connect_timeout` is shorter as a rule.
const GREETING: Duration = Duration::from_secs(10);

impl UpstreamConnection {
    /// A connection that is about to be opened, with what it begins with.
    pub fn new(line: PoolKey, purpose: Purpose, now: Duration) -> UpstreamConnection {
        let (mut out, mut expected) = (Vec::new(), VecDeque::new());
        let mut greet = |greeting: HandshakeStep| expected.push_back(PendingReply::HandshakeStep(greeting).into());
        if let Some(login) = line.upstream.login_command() {
            out.extend_from_slice(login);
            greet(HandshakeStep::Login);
        }
        if line.resp3 {
            encode::command(&mut out, &[b"HELLO", b"3"]);
            greet(HandshakeStep::Hello);
        }
        if line.database != 0 {
            encode::command(&mut out, &[b"SELECT", line.database.to_string().as_bytes()]);
            greet(HandshakeStep::Select);
        }
        if line.readonly {
            encode::command(&mut out, &[b"READONLY"]);
            greet(HandshakeStep::Readonly);
        }
        if out.is_empty() {
            encode::command(&mut out, &[b"PING"]);
            greet(HandshakeStep::Ping);
        }
        UpstreamConnection {
            line,
            purpose,
            framer: Framer::default(),
            expected,
            out,
            staged: Vec::new(),
            kept: ReplayBuffer::default(),
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
        let Endpoint { cluster, nodes, .. } = &self.line.upstream;
        let cluster = if self.line.node.is_some() { nodes.as_ref().unwrap_or(cluster) } else { cluster };
        Address { cluster: cluster.clone(), node: self.line.node }
    }

    /// Sends a command: `write` appends it. With `keeps`, it is kept until its reply has come.
    #[inline]
    pub fn send(&mut self, awaited: InFlight, keeps: bool, now: Duration, write: impl FnOnce(&mut Vec<u8>)) {
        if self.expected.is_empty() {
            self.progress = now;
        }
        let to = if self.is_greeted && !self.is_held { &mut self.out } else { &mut self.staged };
        let from = to.len();
        write(to);
        let mut awaited = InFlight { kept: 0, ..awaited };
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
    pub fn drop_kept(&mut self, awaited: InFlight) {
        if awaited.kept > 0 {
            self.kept.drop_oldest(awaited.kept as usize);
        }
    }

    /// What was kept of the oldest command.
    pub fn oldest_kept(&self, awaited: InFlight) -> &[u8] {
        self.kept.behind(0, awaited.kept as usize)
    }

    /// Takes what was kept of the oldest command.
    pub fn take_kept(&mut self, awaited: InFlight) -> Vec<u8> {
        let oldest = self.oldest_kept(awaited).to_vec();
        self.drop_kept(awaited);
        oldest
    }

    /// Takes in the answer to a greeting. What has been waiting goes out after the last one.
    pub fn greeted(&mut self, greeting: HandshakeStep, reply: &[u8]) {
        if let Some(error) = reply.strip_prefix(b"-") {
            let cluster = &self.line.upstream.cluster;
            let is_clients = self.line.upstream.is_clients();
            let as_said = || String::from_utf8_lossy(error.trim_ascii_end()).into_owned();
            let refusal = match greeting {
                // Redis that has no password is as good as logged in.
                HandshakeStep::Login if has_no_password(reply) => None,
                // Of others' logins nothing follows from it.
                HandshakeStep::Login if is_clients => Some((as_said(), false)),
                HandshakeStep::Login => Some((format!("ERR redis-mesh: {cluster} refused the login"), true)),
                HandshakeStep::Hello | HandshakeStep::Ping if error.starts_with(b"NOAUTH") => {
                    let text = match is_clients {
                        true => NOAUTH.to_owned(),
                        false => format!("ERR redis-mesh: {cluster} asks for a password, and none is configured"),
                    };
                    Some((text, true))
                }
                HandshakeStep::Hello => {
                    Some((format!("ERR redis-mesh: {cluster} doesn't speak RESP3; use RESP2"), false))
                }
                // As Redis says it: it is the client who has asked for it.
                HandshakeStep::Select => Some((as_said(), false)),
                // A Redis that isn't a node of a cluster any more, one that loads its data, a user who may not PING: what it
                // says to commands tells more.
                HandshakeStep::Readonly | HandshakeStep::Ping => None,
            };
            if let (None, Some((text, is_general))) = (&self.refusal, refusal) {
                self.refusal = Some(Refusal { text, is_general });
            }
        }
        if self.refusal.is_none()
            && !self.expected.iter().any(|next| matches!(next.what, PendingReply::HandshakeStep(_)))
        {
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
