//! Where Envoy's `redis_proxy` places the keys of a destination with several servers that are no
//! Redis Cluster: by the hash of the key in the table of the load balancer
//! [`MAGLEV`](https://www.envoyproxy.io/docs/envoy/v1.40.0/intro/arch_overview/upstream/load_balancing/load_balancers#maglev).
//!
//! All proxies of a mesh have to find the same server for a key, so everything here follows Envoy
//! to the last bit; a test compares it with a real `redis_proxy`.

pub mod key_hash;
mod murmur_hash;
pub mod table;
pub mod xx_hash;
