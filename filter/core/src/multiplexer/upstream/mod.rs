//! The Redis side: connections, how they are shared, and the nodes of Redis Clusters.

pub(in crate::multiplexer) mod connection;
pub(in crate::multiplexer) mod discovery;
pub(in crate::multiplexer) mod endpoint;
pub(in crate::multiplexer) mod max_age;
pub(in crate::multiplexer) mod pool;
pub(in crate::multiplexer) mod redirect;
pub(in crate::multiplexer) mod replay_buffer;
pub(in crate::multiplexer) mod retry;
pub(in crate::multiplexer) mod scripts;
