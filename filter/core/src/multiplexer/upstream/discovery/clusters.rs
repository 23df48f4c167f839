//! The Redis Clusters that a worker knows, by their endpoints.

use super::redis_cluster::RedisCluster;
use crate::multiplexer::ids::{ClusterId, ClusterTag};
use crate::multiplexer::slot_map::SlotMap;
use crate::multiplexer::upstream::endpoint::UpstreamEndpoint;
use std::collections::HashMap;

/// The Redis Clusters of a worker. Each login that clients present makes another endpoint, so those that
/// nobody uses are removed; their numbers are never given to others.
#[derive(Default)]
pub struct KnownClusters {
    all: SlotMap<ClusterTag, RedisCluster>,
    by_endpoint: HashMap<UpstreamEndpoint, ClusterId>,
}

impl KnownClusters {
    /// A cluster, unless it was removed.
    pub fn get(&self, id: ClusterId) -> Option<&RedisCluster> {
        self.all.get(id)
    }

    /// A cluster, unless it was removed.
    pub fn get_mut(&mut self, id: ClusterId) -> Option<&mut RedisCluster> {
        self.all.get_mut(id)
    }

    /// Visits all clusters.
    pub fn iter(&self) -> impl Iterator<Item = (ClusterId, &RedisCluster)> {
        self.all.iter()
    }

    /// Visits all clusters.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (ClusterId, &mut RedisCluster)> {
        self.all.iter_mut()
    }

    /// The number of clusters.
    pub fn len(&self) -> usize {
        self.by_endpoint.len()
    }

    /// The cluster at an endpoint.
    pub fn find(&self, endpoint: &UpstreamEndpoint) -> Option<ClusterId> {
        self.by_endpoint.get(endpoint).copied()
    }

    /// Adds the cluster at an endpoint.
    pub fn add(&mut self, endpoint: &UpstreamEndpoint) -> ClusterId {
        let id = self.all.insert(RedisCluster::new(endpoint.clone()));
        self.by_endpoint.insert(endpoint.clone(), id);
        id
    }

    /// Removes a cluster.
    pub fn remove(&mut self, id: ClusterId) {
        if let Some(cluster) = self.all.remove(id) {
            self.by_endpoint.remove(&cluster.endpoint);
        }
    }
}
