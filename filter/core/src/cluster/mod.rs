//! Redis Cluster.

pub mod read_policy;
pub mod redirect;
pub mod slot;
pub mod topology;
