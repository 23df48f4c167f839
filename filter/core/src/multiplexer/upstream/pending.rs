//! Replies that are to come over a connection, and what each of them answers.

use super::handshake::HandshakeStep;
use super::patience::{Patience, Sent, Tried};
use crate::multiplexer::client::reply_queue::Sequence;
use crate::multiplexer::client::subscription::SubscriptionChange;
use crate::multiplexer::ids::ClientId;
use crate::multiplexer::stats::StatsKey;
use crate::wire::ReadPolicy;
use std::time::Duration;

/// A command of a client: whose it is, and its place in the client's order of commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Owner {
    /// The client.
    pub client: ClientId,
    /// The number of the command in the client's reply queue.
    pub sequence: Sequence,
}

/// What a reply answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PendingReply {
    /// A step of the connection's handshake.
    Handshake(HandshakeStep),
    /// A client's command.
    Command(Owner),
    /// The part of this number of a client's command that was sent to several servers.
    Part(Owner, u32),
    /// A client's command that begins or ends subscriptions, of which so many more are to be
    /// confirmed. In RESP3 a push confirms each.
    Subscription(Owner, u32, SubscriptionChange),
    /// A command that begins or ends a subscription where it has to be by now, without a word to its
    /// client.
    SilentChange(SubscriptionChange),
    /// A command that waits in a transaction; Redis queues or refuses it.
    Queued,
    /// A client's transaction: the reply is that of EXEC.
    Exec(Owner),
    /// A question about a Redis Cluster.
    Topology,
    /// The question of this number about a connection over which a client waits.
    Inquiry(u64),
    /// A command that the multiplexer sends by itself, and whose failure matters.
    Control(Control),
    /// A copy of a command for a mirror, which is counted there if it fails.
    Copy(StatsKey),
    /// The copy of a transaction: the reply is that of EXEC.
    CopiedExec(StatsKey),
    /// Nothing any more. Nobody reads the reply.
    Ignored,
}

/// A command that the multiplexer sends by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// MULTI before a client's transaction. If it is refused, the commands behind it are executed
    /// one by one.
    Multi,
    /// ASKING before a command that follows an ASK redirection. If it is refused, the node
    /// redirects the command again.
    Asking,
    /// HELLO on a connection that has been in use. If it is refused, replies are in another form
    /// than the client expects.
    Hello,
    /// SELECT of the database that a connection was in before. If it is refused, commands would go to
    /// another database than the client's.
    Select,
    /// UNWATCH. If it is refused, the connection goes on watching keys.
    Unwatch,
    /// SCRIPT LOAD. If it is refused, EVALSHA says NOSCRIPT.
    LoadScript,
    /// EXISTS of the keys of a command that may run code, right before it. What it answers tells
    /// whether an error behind it is the node's or the code's.
    Probe,
    /// PING before WAIT, so that WAIT counts from a command of this connection. What it answers
    /// doesn't matter.
    Ping,
    /// What a client has said of its connection, over one of its own. If it is refused, the client
    /// isn't served as it was told.
    State,
    /// CLIENT SETNAME or ID over a connection over which a client is about to wait. If one is refused,
    /// the client can't be unblocked.
    Identity,
    /// PING over a new connection to a Redis that is silent over others.
    HealthCheck,
    /// A question to a server about itself or about the login.
    Introduction(Asked),
}

/// What a server is asked about itself and about the login.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// HELLO 3.
    Hello,
    /// `ACL DRYRUN` of the command of this index among those that are asked for.
    DryRun(u8),
}

/// A command under way: the reply that is to come, with what is needed to send the command again.
#[derive(Clone, Copy, Debug)]
pub struct InFlight {
    /// What the reply answers.
    pub what: PendingReply,
    /// Bytes of the connection's replay buffer that belong to it: the command, to be sent to
    /// another node.
    pub replay: u32,
    /// How often it was sent, and why.
    pub sendings: Sendings,
    /// Which nodes of a Redis Cluster may answer it, if it only reads.
    pub reads: Option<ReadPolicy>,
    /// The command, or one of the transaction, names a script that the server may not know.
    pub names_scripts: bool,
    /// The command may run code of a client, whose words are its reply.
    pub may_run_code: bool,
    /// The transaction has copies for mirrors, which are sent if its reply says that it was executed.
    pub is_mirrored: bool,
    /// How long Redis may be silent before its client is told.
    pub patience: Patience,
    /// When it was sent.
    pub sent: Sent,
    /// When it was tried for the first time, which may have led to a node that can't be reached.
    pub tried: Tried,
    /// How many bytes were put into the send buffer for it.
    pub written: u32,
}

/// How often a command was sent again, and why.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sendings {
    /// How often it has followed a redirection, or was sent again over another connection, since it was last
    /// retried.
    pub redirects: u8,
    /// How often it has been retried after TRYAGAIN.
    pub retries: u8,
    /// A node has sent it elsewhere, and may meanwhile execute what its client has sent behind it.
    pub was_redirected: bool,
}

impl InFlight {
    /// The same command, sent once more.
    pub fn again(mut self) -> InFlight {
        self.sendings.redirects += 1;
        self
    }
}

impl From<PendingReply> for InFlight {
    fn from(what: PendingReply) -> InFlight {
        InFlight {
            what,
            replay: 0,
            sendings: Sendings::default(),
            reads: None,
            names_scripts: false,
            may_run_code: false,
            is_mirrored: false,
            patience: Patience::UNLIMITED,
            sent: Sent::at(Duration::ZERO),
            tried: Tried::NEVER,
            written: 0,
        }
    }
}

impl InFlight {
    /// True if it changes nothing, so that it may be executed twice. Nobody knows what code does.
    #[inline]
    pub fn is_repeatable(&self) -> bool {
        self.reads.is_some() && !self.may_run_code
    }

    /// Until when it waits, as long as it isn't sent, for a node of its Redis Cluster that can be
    /// reached.
    pub fn failover_deadline(&self, now: Duration) -> Duration {
        self.tried.time(now) + self.patience.of_failover()
    }

    /// When Redis will have been silent for too long, over a connection over which it was heard last
    /// at that time; `None`: there is no limit.
    pub fn due(&self, heard: Duration, now: Duration) -> Option<Duration> {
        let limit = self.patience.limit()?;
        Some(heard.max(now.saturating_sub(self.sent.elapsed(now))) + limit)
    }
}

impl PendingReply {
    /// The client's command that a node of a Redis Cluster may have to be asked again, if it is
    /// one.
    pub fn command(self) -> Option<Owner> {
        match self {
            PendingReply::Command(owner) | PendingReply::Exec(owner) | PendingReply::Part(owner, _) => Some(owner),
            PendingReply::Handshake(_)
            | PendingReply::Subscription(..)
            | PendingReply::SilentChange(_)
            | PendingReply::Queued
            | PendingReply::Topology
            | PendingReply::Inquiry(_)
            | PendingReply::Control(_)
            | PendingReply::Copy(_)
            | PendingReply::CopiedExec(_)
            | PendingReply::Ignored => None,
        }
    }

    /// The client's command that it answers, if it is one of a client's: one that can be sent to another
    /// node, or one that begins or ends subscriptions.
    pub fn owner(self) -> Option<Owner> {
        match self {
            PendingReply::Subscription(owner, ..) => Some(owner),
            _ => self.command(),
        }
    }

    /// True if somebody waits for the reply: a client, or a connection that can't serve before it.
    pub fn is_awaited(self) -> bool {
        match self {
            PendingReply::Handshake(_)
            | PendingReply::Command(_)
            | PendingReply::Part(..)
            | PendingReply::Subscription(..)
            | PendingReply::Exec(_)
            | PendingReply::Inquiry(_)
            | PendingReply::Topology => true,
            PendingReply::SilentChange(_)
            | PendingReply::Queued
            | PendingReply::Control(_)
            | PendingReply::Copy(_)
            | PendingReply::CopiedExec(_)
            | PendingReply::Ignored => false,
        }
    }

    /// True if it belongs to the client's command behind it: without that it must not be sent.
    pub fn is_prelude(self) -> bool {
        matches!(self, PendingReply::Queued | PendingReply::Control(Control::Multi | Control::Asking | Control::Probe))
    }

    /// True if the bytes of the command are kept until its reply has come, so that it can be sent
    /// again.
    #[inline]
    pub fn is_replayable(self) -> bool {
        self.command().is_some() || matches!(self, PendingReply::Subscription(..))
    }
}
