//! What a client has said of its connection for as long as that lasts: CLIENT TRACKING, NO-EVICT,
//! NO-TOUCH and the like.
//!
//! A server knows that of a connection. So all commands of such a client go over connections of its own,
//! one for each server, and each is told first.

use super::reply_queue::Sequence;
use super::tracking::Tracking;
use crate::multiplexer::ids::ConnectionId;
use crate::multiplexer::upstream::pool::DedicatedConnection;
use crate::multiplexer::upstream::pool_key::PoolKey;
use std::collections::BTreeMap;

/// What a client has said of its connection, and the connections that were told so.
#[derive(Debug, Default)]
pub struct StatefulConnections {
    /// How it tracks, if it does.
    pub tracking: Option<Tracking>,
    /// Other settings: the words of the last command for each, by the name of the subcommand of CLIENT.
    pub settings: BTreeMap<&'static str, Vec<Vec<u8>>>,
    /// Its own connections, by the pool keys of the shared ones in whose place they are.
    pub connections: Vec<(PoolKey, DedicatedConnection)>,
    /// The change that isn't confirmed yet.
    pub pending: Option<PendingChange>,
}

/// A change that servers have to confirm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PendingChange {
    /// What changes.
    pub what: StateItem,
    /// The command's place in the client's reply queue.
    pub sequence: Sequence,
    /// A server has refused it.
    pub is_refused: bool,
}

/// A part of what a client says of its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateItem {
    /// CLIENT TRACKING ON.
    Tracking,
    /// The subcommand of CLIENT of this name.
    Setting(&'static str),
}

impl StatefulConnections {
    /// Returns the client's own connection in the place of the shared one of this key.
    pub fn connection(&self, key: &PoolKey) -> Option<DedicatedConnection> {
        self.connections.iter().find(|(of, _)| of == key).map(|(_, connection)| *connection)
    }

    /// Returns true if a connection is one of the client's own.
    pub fn uses(&self, connection: ConnectionId) -> bool {
        self.connections.iter().any(|(_, own)| own.id() == connection)
    }

    /// Notes that a server has answered a command, which may be the one that changes the state.
    pub fn answered(&mut self, sequence: Sequence, is_error: bool) {
        if let Some(pending) = self.pending.as_mut().filter(|pending| pending.sequence == sequence) {
            pending.is_refused |= is_error;
        }
    }

    /// Takes back what a server has refused.
    pub fn take_back(&mut self, what: StateItem) {
        match what {
            StateItem::Tracking => self.tracking = None,
            StateItem::Setting(name) => drop(self.settings.remove(name)),
        }
    }

    /// Returns true if the client's commands may go over connections that it shares.
    pub fn is_empty(&self) -> bool {
        self.tracking.is_none() && self.settings.is_empty()
    }
}
