//! Redis Cluster (<https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/>).

pub mod read_policy;
pub mod slot;
pub mod topology;
