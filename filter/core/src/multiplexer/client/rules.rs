//! The rules for a client, and how they lead it to servers.

use crate::multiplexer::config::HostConfig;
use crate::multiplexer::ids::ClusterId;
use crate::multiplexer::stats::StatsKey;
use crate::multiplexer::upstream::pool::SharedConnection;
use std::sync::Arc;

/// The rules for a client.
#[derive(Debug)]
pub struct ClientRules {
    /// The configuration of its host.
    pub config: Arc<HostConfig>,
    /// Where it is counted.
    pub stats: StatsKey,
    /// How each target is reached, as far as it was looked up; indexes are the configuration's.
    pub lookups: Vec<TargetLookup>,
}

impl ClientRules {
    /// Returns true if a target is this Redis Cluster, as far as it was looked up.
    pub fn lead_to(&self, cluster: ClusterId) -> bool {
        self.lookups.iter().any(|lookup| matches!(lookup, TargetLookup::Cluster(of) if *of == cluster))
    }

    /// Forgets how targets are reached.
    pub fn forget_lookups(&mut self) {
        self.lookups = vec![TargetLookup::Unknown; self.config.targets.len()];
    }
}

/// How a target is reached.
#[derive(Clone, Copy, Debug)]
pub enum TargetLookup {
    /// It wasn't looked up.
    Unknown,
    /// Over this shared connection.
    Connection(SharedConnection),
    /// It is this Redis Cluster.
    Cluster(ClusterId),
}
