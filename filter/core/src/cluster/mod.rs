//! Redis Cluster.

pub mod read_policy;
pub mod slot;
pub mod topology;
