//! The connections that a client has for itself.

use super::backlog::UnreadBacklog;
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
    /// The client tracks, and all its commands go over connections of its own.
    pub tracking: Option<Box<Tracking>>,
}

impl DedicatedSlot {
    /// True if the client has connections whose state, or whose pushes, are in its protocol and
    /// database.
    pub fn has_state(&self) -> bool {
        self.tracking.is_some() || self.connection.is_some_and(|dedicated| dedicated.is_special)
    }

    /// True if a connection stays open because the client tracks.
    pub fn tracks_over(&self, connection: ConnectionId) -> bool {
        self.tracking.as_ref().is_some_and(|tracking| tracking.uses(connection))
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
    /// The client has changed its state for good (CLIENT NO-EVICT), so that all commands go over
    /// it.
    pub is_special: bool,
}

impl Dedicated {
    /// True if the client's commands for that target go over it.
    pub fn is_held(&self) -> bool {
        self.is_watching || self.is_special
    }
}
