//! The members of a cluster in Envoy, and on which of them a key is.

use super::upstream::endpoint::{EndpointMember, UpstreamEndpoint};
use crate::maglev::key_hash::key_hash;
use crate::maglev::table::{MaglevTable, Member};
use crate::wire::KeyHash;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

/// The healthy members of a cluster in Envoy; at least one.
#[derive(Debug)]
pub struct Members {
    /// In the order of their addresses.
    all: Vec<Member>,
    /// They are several, or were before.
    were_several: bool,
    /// Only who places keys needs it.
    table: OnceLock<Option<MaglevTable>>,
}

impl Members {
    /// Returns these members; `None` if there are none. `before` are those in whose place they come.
    pub fn new(mut all: Vec<Member>, before: Option<&Members>) -> Option<Members> {
        all.sort_unstable_by_key(|member| member.address);
        let were_several = all.len() > 1 || before.is_some_and(Members::were_several);
        (!all.is_empty()).then(|| Members { all, were_several, table: OnceLock::new() })
    }

    /// Returns true if there are several members, or were before.
    pub fn were_several(&self) -> bool {
        self.were_several
    }

    /// Returns true if these are the same members.
    pub fn is_same(&self, other: &Members) -> bool {
        self.all == other.all
    }

    /// Returns true if a member has this address.
    pub fn has(&self, address: SocketAddr) -> bool {
        self.all.iter().any(|member| member.address == address)
    }

    fn with_hash(&self, hash: u64) -> usize {
        let table = self.table.get_or_init(|| MaglevTable::new(&self.all));
        table.as_ref().map_or(0, |table| table.member(hash))
    }
}

/// How keys are placed on members.
#[derive(Clone, Debug)]
pub struct Placement {
    /// What of a key is hashed.
    pub hashed: KeyHash,
    /// The members.
    pub members: Arc<Members>,
}

impl Placement {
    /// The index of the member that has a key.
    #[inline]
    pub fn index(&self, key: &[u8]) -> usize {
        self.members.with_hash(key_hash(self.hashed, key))
    }

    /// The number of members.
    pub fn count(&self) -> usize {
        self.members.all.len()
    }

    /// The endpoint of the member with an index.
    pub fn endpoint(&self, upstream: &UpstreamEndpoint, index: usize) -> UpstreamEndpoint {
        let member = self.members.all.get(index);
        upstream.at(member.map_or(EndpointMember::Unknown, |member| EndpointMember::At(member.address)))
    }

    /// The endpoints of all members.
    pub fn endpoints(&self, upstream: &UpstreamEndpoint) -> Vec<UpstreamEndpoint> {
        self.members.all.iter().map(|member| upstream.at(EndpointMember::At(member.address))).collect()
    }
}

/// The targets that are the servers of one destination.
#[derive(Clone, Debug)]
pub struct ServerTargets {
    /// How keys are placed on them.
    pub placement: Placement,
    /// Indexes into [`HostConfig::targets`](super::config::HostConfig::targets), one for each member.
    pub targets: Vec<usize>,
}

impl ServerTargets {
    /// The target that has a key.
    #[inline]
    pub fn of_key(&self, key: &[u8]) -> Option<usize> {
        self.targets.get(self.placement.index(key)).copied()
    }
}
