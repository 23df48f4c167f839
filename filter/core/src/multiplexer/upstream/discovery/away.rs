//! Nodes that can't be reached: others are asked who takes their place, and they are tried again, as long
//! as commands wait for that.

use super::ClusterDiscovery;
use super::redis_cluster::REFRESH_SOON;
use crate::cluster::topology::Topology;
use crate::multiplexer::effects::Effects;
use crate::multiplexer::ids::ClusterId;
use crate::multiplexer::upstream::availability::Peer;
use crate::multiplexer::upstream::endpoint::UpstreamEndpoint;
use crate::multiplexer::upstream::events::Event;
use crate::multiplexer::upstream::pool::Pool;
use crate::multiplexer::upstream::pool_key::PoolKey;
use std::time::Duration;

/// A command waits until then for a node that takes the place of one of this cluster that can't be
/// reached. Nodes are asked meanwhile.
pub fn await_failover(
    discovery: &mut ClusterDiscovery,
    endpoint: &UpstreamEndpoint,
    until: Duration,
    effects: &mut Effects,
) -> Option<ClusterId> {
    let index = discovery.clusters.find(endpoint)?;
    await_failover_of(discovery, index, until, effects);
    Some(index)
}

/// The same, for the cluster of this index.
pub fn await_failover_of(discovery: &mut ClusterDiscovery, index: ClusterId, until: Duration, effects: &mut Effects) {
    let Some(cluster) = discovery.clusters.get_mut(index) else { return };
    let is_new = !cluster.is_failover_awaited(effects.now);
    let inquiry = &mut cluster.inquiry;
    inquiry.failover_awaited = inquiry.failover_awaited.max(until);
    if is_new {
        discovery.refresh_by(index, effects.now + REFRESH_SOON, effects);
    }
}

/// Tries the nodes again that couldn't be reached, if a command waits for one and it is time.
pub fn try_unreached(discovery: &ClusterDiscovery, index: ClusterId, pool: &mut Pool, effects: &mut Effects) {
    let Some(cluster) = discovery.clusters.get(index) else { return };
    if !cluster.is_failover_awaited(effects.now) || pool.availability.is_all_up() {
        return;
    }
    for node in cluster.topology.iter().flat_map(Topology::nodes) {
        let peer = Peer::new(&cluster.endpoint, Some(node));
        let is_due = pool.availability.is_up(&peer, effects.now) && pool.availability.unreached(&peer).is_some();
        if is_due {
            let key = PoolKey { node: Some(node), ..PoolKey::new(cluster.endpoint.clone(), false) };
            // Whether it answers is heard from the connection.
            let _ = pool.shared(key, effects);
        }
    }
}

/// A node has answered that couldn't be reached.
pub fn node_answered(discovery: &ClusterDiscovery, peer: &Peer, pool: &mut Pool) {
    for (index, _) in discovery.clusters.iter().filter(|(_, cluster)| peer.is_node_of(&cluster.endpoint)) {
        pool.events.push_back(Event::NodeAnswered(index));
    }
}
