//! What the Redis side tells the client side. [`Upstreams`](super::Upstreams) touches no client;
//! it returns these.

use super::availability::Outage;
use super::endpoint::UpstreamEndpoint;
use super::pending::{Owner, PendingReply};
use super::retry::Retry;
use crate::multiplexer::client::reply_queue::Sequence;
use crate::multiplexer::client::subscription::SubscriptionChange;
use crate::multiplexer::ids::{ClientId, ClusterId, ConnectionId};
use crate::multiplexer::stats::{CopyFate, StatsKey};
use std::time::Duration;

/// What has happened at the Redis side.
#[derive(Debug, PartialEq)]
pub enum Event<'d> {
    /// Bytes of the reply to a command have come; `is_complete` with the last ones.
    Piece {
        /// The command.
        owner: Owner,
        /// The bytes.
        bytes: &'d [u8],
        /// They are the last ones.
        is_complete: bool,
    },
    /// A whole reply has come, or an error of ours stands in its place.
    Reply {
        /// What it answers: a client's command, a part of one, or a transaction.
        to: PendingReply,
        /// The reply.
        reply: Vec<u8>,
    },
    /// No reply will come.
    Failed {
        /// What was to be answered: a client's command, a part of one, or a transaction.
        to: PendingReply,
        /// Why.
        outage: Outage,
    },
    /// The rest of a reply will never come. If its beginning has reached the client, nothing that
    /// could follow would be understood.
    Truncated {
        /// The command.
        owner: Owner,
        /// The error in place of the reply, if nothing of it has reached the client.
        error: Vec<u8>,
    },
    /// A subscription of this client has begun or ended.
    SubscriptionChanged(ClientId, Box<Confirmation>),
    /// A subscription has begun or ended where it has to be by now, without a command of this client.
    ChangedSilently(ClientId, Box<Confirmation>),
    /// A server has refused that.
    SilentChangeFailed {
        /// The client.
        client: ClientId,
        /// The connection to the server.
        connection: ConnectionId,
    },
    /// A command that begins or ends subscriptions has failed as a whole.
    SubscriptionFailed {
        /// The command's place for its first channel.
        owner: Owner,
        /// So many more places for its other channels follow.
        more: u32,
        /// The error.
        reply: Vec<u8>,
    },
    /// A frame that answers no command has come for a client.
    Push {
        /// The client.
        client: ClientId,
        /// The connection over which it came.
        connection: ConnectionId,
        /// The frame.
        frame: Vec<u8>,
    },
    /// A command is on its way to another node. What its client sends next must not overtake it.
    Redirected(Owner),
    /// A command over a client's dedicated connection has to be sent to another node.
    RedirectedDedicated {
        /// The client.
        client: ClientId,
        /// The connection over which the redirection came.
        from: ConnectionId,
        /// The command, with the node that has to get it.
        retry: Box<Retry>,
        /// ASKING has to be sent before it.
        asks: bool,
    },
    /// A command of this client has waited since this time for a node that executes it, in vain.
    WaitedInVain(ClientId, Duration),
    /// Nothing is pending on a connection that belongs to a client.
    Idle {
        /// The client.
        client: ClientId,
        /// The connection.
        connection: ConnectionId,
    },
    /// A connection that belongs to a client is closed.
    Closed {
        /// The client.
        client: ClientId,
        /// The connection.
        connection: ConnectionId,
    },
    /// A connection that belonged to this client was lost.
    Lost(ClientId, Box<LostConnection>),
    /// A connection takes bytes again.
    Writable(ConnectionId),
    /// The slots of a Redis Cluster are known, or nobody could tell them.
    ClusterAnswered(ClusterId),
    /// A node of a Redis Cluster that couldn't be reached has answered.
    NodeAnswered(ClusterId),
    /// A node of a Redis Cluster has said that the cluster serves its slots, while commands wait.
    SlotsServed(ClusterId),
    /// Slots of a Redis Cluster are served by other nodes from now on.
    SlotsMoved(ClusterId),
    /// This client has new rules.
    RulesChanged(ClientId),
    /// A server has said which protocols it speaks and what the login may do, or won't.
    Introduced(Box<UpstreamEndpoint>),
    /// Redis has refused a login of the configuration.
    LoginRefused(Box<UpstreamEndpoint>),
    /// A server has answered the question of this number about a client's connection.
    ServerAnswered(u64, Vec<u8>),
    /// A client's transaction won't be answered, and nobody waits for that but its copies for mirrors.
    ExecAbandoned(Owner),
    /// What became of so many copies of commands for mirrors, and where that is counted.
    Copies(StatsKey, CopyFate, u64),
}

/// A subscription that has begun or ended.
#[derive(Debug, PartialEq)]
pub struct Confirmation {
    /// The connection that keeps it.
    pub connection: ConnectionId,
    /// The command that is answered; `None`: the server has ended the subscription by itself.
    pub sequence: Option<Sequence>,
    /// What has changed.
    pub change: SubscriptionChange,
    /// The channel or pattern; `None`: there was nothing to unsubscribe from.
    pub name: Option<Vec<u8>>,
}

/// A connection that belonged to a client, and was lost.
#[derive(Debug, PartialEq)]
pub struct LostConnection {
    /// The connection.
    pub connection: ConnectionId,
    /// Frames that are no replies came over it.
    pub is_for_pushes: bool,
    /// Subscriptions whose confirmation is not to come any more, with how many of the same command
    /// follow.
    pub subscriptions: Vec<(Sequence, u32)>,
    /// The client waits for something over it.
    pub is_awaited: bool,
    /// Why.
    pub outage: Outage,
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn an_event_is_small_since_every_reply_is_one() {
        assert!(size_of::<Event<'_>>() <= 64, "{}", size_of::<Event<'_>>());
    }
}
