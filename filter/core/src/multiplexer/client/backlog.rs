//! A client that reads its replies more slowly than it asks for them.
//!
//! Redis keeps what a client doesn't read, and goes on reading its commands. A connection that
//! clients share can't be stopped for one of them, so the commands of such a client go over
//! connections of its own. There it is Redis that keeps the replies, until the client has read all.

use crate::multiplexer::ids::ConnectionId;
use crate::multiplexer::upstream::backlogs::{COMMAND_COST, MAX_COMMANDS};
use crate::multiplexer::upstream::pool::DedicatedConnection;
use crate::multiplexer::upstream::pool_key::PoolKey;

/// Whether a client has connections of its own because it doesn't read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BacklogStage {
    /// It hasn't: it reads, or asks for nothing.
    #[default]
    Absent,
    /// It doesn't read at present and has sent more. A timer will look again.
    Suspected,
    /// It gets its own connections as soon as what it has sent over shared ones is answered.
    Entering,
    /// Its commands go over connections of its own.
    Separate,
}

/// What belongs to a client that doesn't read.
#[derive(Debug, Default)]
pub struct UnreadBacklog {
    /// How far it has come.
    pub stage: BacklogStage,
    /// The client's own connections, by the pool keys of the shared ones in whose place they are.
    pub connections: Vec<(PoolKey, DedicatedConnection)>,
    /// Shared connections over which Redis is kept from sending, since none of the clients who wait
    /// for replies over them reads.
    pub stopped: Vec<ConnectionId>,
    /// The client has had connections of its own before, and gets them without delay.
    pub is_known: bool,
    /// Bytes that are held for the client, beside the cost of its commands under way.
    pub held: usize,
    /// How many bytes may be held for it, its commands under way included.
    pub limit: usize,
}

impl UnreadBacklog {
    /// True if the client has connections of its own, or is about to get them.
    #[inline]
    pub fn is_begun(&self) -> bool {
        matches!(self.stage, BacklogStage::Entering | BacklogStage::Separate)
    }

    /// The client's own connection in the place of the shared one of this key.
    pub fn connection(&self, key: &PoolKey) -> Option<DedicatedConnection> {
        self.connections.iter().find(|(of, _)| of == key).map(|(_, connection)| *connection)
    }

    /// A connection is closed.
    pub fn forget_connection(&mut self, connection: ConnectionId) {
        self.connections.retain(|(_, own)| own.id() != connection);
    }

    /// True if another command may be taken while this number is under way.
    pub fn has_room(&self, under_way: usize) -> bool {
        under_way < MAX_COMMANDS && self.held + under_way * COMMAND_COST < self.limit
    }
}
