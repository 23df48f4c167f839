//! The connections that a client has for itself.

use super::backlog::UnreadBacklog;
use super::reply_queue::Sequence;
use super::stateful::StatefulConnections;
use super::tracking::Tracking;
use crate::multiplexer::ids::ConnectionId;
use crate::multiplexer::routing::target::RouteTarget;
use crate::multiplexer::upstream::pool::DedicatedConnection;

/// The connection that a client has for itself, if any.
#[derive(Debug, Default)]
pub struct DedicatedSlot {
    /// The connection.
    pub connection: Option<Dedicated>,
    /// Further ones, until what was sent over them is answered: WAIT waits at several servers.
    pub others: Vec<DedicatedConnection>,
    /// Those that it has because it doesn't read.
    pub backlog: UnreadBacklog,
    /// A connection over which keys were watched was lost, so that they may have changed unseen.
    pub lost_watch: bool,
    /// The last EXEC that was sent over a connection over which keys were watched.
    pub watched_exec: Option<Sequence>,
    /// What the client has said of its connection; then all its commands go over connections of its own.
    pub state: Option<Box<StatefulConnections>>,
}

impl DedicatedSlot {
    /// True if the client has connections whose state, or whose pushes, are in its protocol and
    /// database.
    pub fn has_state(&self) -> bool {
        self.state.is_some() || self.connection.is_some_and(|dedicated| dedicated.is_special)
    }

    /// True if a connection stays open because of what the client has said of its connection.
    pub fn has_told(&self, connection: ConnectionId) -> bool {
        self.state.as_ref().is_some_and(|state| state.uses(connection))
    }

    /// How the client tracks, if it does.
    pub fn tracking(&self) -> Option<&Tracking> {
        self.state.as_ref()?.tracking.as_ref()
    }

    /// How the client tracks, if it does.
    pub fn tracking_mut(&mut self) -> Option<&mut Tracking> {
        self.state.as_mut()?.tracking.as_mut()
    }
}

/// A connection that a client has for itself.
#[derive(Clone, Copy, Debug)]
pub struct Dedicated {
    /// The connection.
    pub connection: DedicatedConnection,
    /// For which target it was opened.
    pub target: RouteTarget,
    /// The client watches keys over it.
    pub is_watching: bool,
    /// It did before its last WATCH, which may be under way.
    pub has_watched: bool,
    /// The client has changed its state for good by a command of which no more is known, so that all
    /// commands go over it.
    pub is_special: bool,
    /// ASK led there: the node takes a slot over, and may refuse a command and execute the next one.
    pub was_asked: bool,
}

impl Dedicated {
    /// True if the client's commands for that target go over it.
    pub fn is_held(&self) -> bool {
        self.is_watching || self.is_special
    }
}
