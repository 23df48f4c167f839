//! The connection to the node of a shard that gets a command.

use super::ClusterDiscovery;
use super::access::{Missing, NodeAccess};
use super::redis_cluster::{REFRESH_SOON, RedisCluster};
use crate::cluster::read_policy::{Choice, choose};
use crate::multiplexer::effects::Effects;
use crate::multiplexer::ids::ClusterId;
use crate::multiplexer::upstream::availability::{Outage, Peer};
use crate::multiplexer::upstream::pool::{Pool, SharedConnection};
use crate::multiplexer::upstream::pool_key::PoolKey;
use crate::wire::ReadPolicy;
use std::net::SocketAddr;

impl ClusterDiscovery {
    /// The shared connection to a node of a shard.
    ///
    /// # Errors
    /// No node of the shard may answer, or the one that may is backed off from.
    pub fn node(
        &mut self,
        (index, shard): (ClusterId, usize),
        access: NodeAccess,
        resp3: bool,
        pool: &mut Pool,
        effects: &mut Effects,
    ) -> Result<SharedConnection, Missing> {
        let Some(cluster) = self.clusters.get_mut(index) else { return Err(Missing::Error(String::new())) };
        let policy = access.policy();
        let known = cluster.cached_master(shard, resp3).filter(|_| policy == ReadPolicy::Master);
        if let Some(connection) = known.and_then(|known| pool.usable_shared(known)) {
            return Ok(connection);
        }
        let Some(nodes) = cluster.topology.as_ref().and_then(|topology| topology.shards().get(shard)) else {
            return Err(Missing::Topology(index));
        };
        let (endpoint, now) = (&cluster.endpoint, effects.now);
        let is_up = |node: SocketAddr| {
            let availability = &pool.availability;
            availability.is_all_up() || availability.is_up(&Peer::new(endpoint, Some(node)), now)
        };
        let Some(choice) = choose(policy, nodes, is_up, &mut effects.random) else {
            let cluster = endpoint.shown();
            let error =
                format!("ERR redis-mesh: {cluster} has no replica for this key, and the read policy is REPLICA");
            return Err(self.unserved(index, error, pool, effects));
        };
        // One that has answered when it was tried last, if the chosen one can't be reached.
        let is_reached = |node: SocketAddr| pool.availability.unreached(&Peer::new(endpoint, Some(node))).is_none();
        let other = match is_reached(choice.0) {
            true => None,
            false => choose(policy, nodes, is_reached, &mut effects.random).filter(|(node, _)| is_reached(*node)),
        };
        let first = connect(cluster, (shard, choice), resp3, pool, effects);
        let missing = match (first, other) {
            (Ok(connection), _) => return Ok(connection),
            (Err(Outage::Unreachable(text)), None) => Missing::Unreached(index, text),
            (Err(Outage::Unreachable(text)), Some(other)) => {
                match connect(cluster, (shard, other), resp3, pool, effects) {
                    Ok(connection) => return Ok(connection),
                    Err(Outage::Unreachable(_)) => Missing::Unreached(index, text),
                    Err(Outage::Refuses(text)) => return Err(self.unserved(index, text, pool, effects)),
                }
            }
            // Perhaps another node has taken its place.
            (Err(Outage::Refuses(text)), _) => return Err(self.unserved(index, text, pool, effects)),
        };
        if !cluster.is_failover_awaited(effects.now) {
            self.refresh_by(index, effects.now + REFRESH_SOON, effects);
        }
        Err(missing)
    }

    /// The pool key of the master of the shard to which the replica of a pool key belongs.
    pub fn master_of_replica(&self, key: &PoolKey) -> Option<PoolKey> {
        let cluster = self.clusters.get(self.clusters.find(&key.endpoint)?)?;
        let node = key.node?;
        let shards = cluster.topology.as_ref()?.shards();
        let shard = shards.iter().find(|shard| shard.replicas.contains(&node))?;
        Some(PoolKey { node: Some(shard.master), readonly: false, ..key.clone() })
    }
}

/// The shared connection to a node of a shard, which is remembered.
fn connect(
    cluster: &mut RedisCluster,
    (shard, (node, readonly)): (usize, Choice),
    resp3: bool,
    pool: &mut Pool,
    effects: &mut Effects,
) -> Result<SharedConnection, Outage> {
    let known = cluster.cached_replica(shard, node, resp3).filter(|_| readonly);
    if let Some(connection) = known.and_then(|known| pool.usable_shared(known)) {
        return Ok(connection);
    }
    let key = PoolKey { node: Some(node), readonly, ..PoolKey::new(cluster.endpoint.clone(), resp3) };
    let connection = pool.reached(key, effects)?;
    if readonly {
        cluster.cache_replica(shard, node, resp3, connection.id());
    } else {
        cluster.cache_master(shard, resp3, connection.id());
    }
    Ok(connection)
}
