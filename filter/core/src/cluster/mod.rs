//! Redis Cluster.

pub mod slot;
