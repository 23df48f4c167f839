//! The testbed: real Envoys, Redis servers and Redis Clusters as values that clean up after
//! themselves, a Redis client that shares no code with the filter, and the runner of the
//! walkthroughs in `examples/`.
//!
//! Everything blocks; there is no async here. A child process never outlives this one. Whatever a
//! machine may lack (Envoy, Redis, the filter, the command line) is fetched or built once and
//! kept, see [`cache`].

pub mod cache;
pub mod cli;
pub mod client;
pub mod client_library;
pub mod cluster;
pub mod command_line;
pub mod command_table;
pub mod envoy;
pub mod figures;
pub mod filter;
pub mod http;
pub mod line;
pub mod listener;
pub mod native;
pub mod net;
pub mod netns;
pub mod process;
pub mod redis;
pub mod relay;
pub mod reply;
pub mod scene;
pub mod stage;
pub mod tls;
pub mod tool;
pub mod walkthrough;
pub mod wheel;
pub mod workspace;
