//! What is done about Redis Clusters although nothing is amiss: they are asked now and then, and
//! forgotten when nobody needs them.

use super::{ClusterDiscovery, REFRESH_INTERVAL};
use crate::multiplexer::effects::Effects;
use crate::multiplexer::ids::ClusterId;
use crate::multiplexer::upstream::connection::UpstreamConnection;
use crate::multiplexer::upstream::endpoint::UpstreamEndpoint;
use crate::multiplexer::upstream::pool::Pool;
use crate::multiplexer::upstream::pool_key::Purpose;
use std::collections::HashSet;

impl ClusterDiscovery {
    /// Asks a node although nothing is amiss, if the cluster is in use. One that may never be used again is
    /// removed when nothing leads there any more.
    pub fn periodic_refresh(&mut self, index: ClusterId, pool: &mut Pool, effects: &mut Effects) {
        let Some(cluster) = self.clusters.get_mut(index) else { return };
        cluster.periodic_refresh = None;
        let endpoint = &cluster.endpoint;
        let is_for_others = |connection: &UpstreamConnection| connection.purpose != Purpose::Discovery(index);
        let connections =
            || pool.iter().filter(|(_, connection)| connection.key.endpoint == *endpoint && is_for_others(connection));
        // A subscriber may hear nothing for long, and its node may leave meanwhile.
        let is_used = |(_, connection): (_, &UpstreamConnection)| {
            let is_active = effects.now.saturating_sub(connection.last_activity) <= REFRESH_INTERVAL * 2;
            connection.purpose.client().is_some() || connection.purpose == Purpose::Shared && is_active
        };
        let (is_used, is_left) = (connections().any(is_used), connections().next().is_none());
        if cluster.is_temporary() {
            if is_left && !cluster.is_awaited && !cluster.is_failover_awaited(effects.now) {
                return self.clusters.remove(index);
            }
            cluster.look_again(index, REFRESH_INTERVAL, effects);
        }
        if is_used {
            self.refresh(index, pool, effects);
        }
    }

    /// Clusters to which no rules lead any more are asked nothing: they may refuse the login by
    /// now.
    pub fn retire_unused(&mut self, wanted: &HashSet<UpstreamEndpoint>, effects: &mut Effects) {
        for (index, cluster) in self.clusters.iter_mut() {
            cluster.is_wanted = wanted.contains(&cluster.endpoint.of_rules());
            if !cluster.is_wanted && cluster.periodic_refresh.is_none() {
                cluster.look_again(index, REFRESH_INTERVAL, effects);
            }
        }
    }
}
