//! The two kinds as Kubernetes stores them. No invariants here: [`crate::validate`] makes them into types that hold.
//!
//! The definitions that are applied to a cluster are generated from these types, and so is the check of a manifest's
//! shape in [`crate::schema`]: a field exists in one place.

pub mod auth;
pub mod definition;
pub mod destination;
mod duration;
pub mod service;
pub mod status;

pub use auth::Auth;
pub use definition::{definitions, schema};
pub use destination::RedisDestination;
pub use service::RedisService;

/// The API group of both kinds.
pub const GROUP: &str = "redis.aeraki.io";
/// The only version of both kinds.
pub const API_VERSION: &str = "redis.aeraki.io/v1alpha1";
