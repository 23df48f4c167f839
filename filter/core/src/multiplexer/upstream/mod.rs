//! The Redis side: connections and how they are shared, the nodes of Redis Clusters, redirections,
//! retries and scripts.
//!
//! [`Upstreams`] touches no client. What concerns clients comes back as an [`events::Event`], in the
//! order in which it happened.

pub mod availability;
pub mod backlogs;
mod cluster_queue;
pub mod connection;
pub mod copies;
pub mod discovery;
pub mod endpoint;
pub mod events;
pub mod failover;
pub mod handshake;
pub mod health;
mod held;
mod identity;
pub mod introduction;
mod later;
pub mod loss;
mod max_age;
pub mod on_timer;
pub mod patience;
pub mod pending;
pub mod pool;
pub mod pool_key;
mod probe;
pub mod receive;
pub mod redirect;
pub mod redirect_gate;
mod replay_buffer;
mod reply_reader;
pub mod retry;
mod scripts;
mod send_buffer;
mod stranded;
mod sweep;
#[cfg(test)]
mod tests;
pub mod unsent_copies;
mod upstreams;
pub mod waiting;

pub use upstreams::{ConnectionRoute, Upstreams};
