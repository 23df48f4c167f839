//! Which node of a Redis Cluster gets a command, and why it may get none.

use crate::multiplexer::ids::ClusterId;
use crate::multiplexer::upstream::availability::Outage;
use crate::wire::ReadPolicy;

/// Which node of a shard answers a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeAccess {
    /// The master.
    Write,
    /// A node that this policy allows.
    Read(ReadPolicy),
}

impl NodeAccess {
    /// The policy by which the node is chosen.
    pub fn policy(self) -> ReadPolicy {
        match self {
            NodeAccess::Write => ReadPolicy::Master,
            NodeAccess::Read(policy) => policy,
        }
    }
}

/// Why there is no connection for a command.
#[derive(Debug, PartialEq, Eq)]
pub enum Missing {
    /// The topology of this cluster is being asked for.
    Topology(ClusterId),
    /// The error for the client.
    Error(String),
    /// A node of this cluster can't be reached, whose place another one may take; with the error for the
    /// client if none does in time.
    Unreached(ClusterId, String),
    /// No node of this cluster serves the slot at present; with the error for the client if none does in
    /// time.
    Unserved(ClusterId, String),
    /// The error for the client: nothing can be reached.
    Unreachable(String),
}

impl From<Outage> for Missing {
    fn from(outage: Outage) -> Missing {
        match outage {
            Outage::Unreachable(text) => Missing::Unreachable(text),
            Outage::Refuses(text) => Missing::Error(text),
        }
    }
}
