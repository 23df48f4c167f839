//! The two kinds as Kubernetes stores them. These types hold whatever the schema allows;
//! [`crate::validate`] turns them into types that can't be wrong.
//!
//! The CustomResourceDefinitions are generated from these types, and [`crate::schema`] checks
//! manifests by the definitions, so a field is declared in one place.

pub mod auth;
pub mod definition;
pub mod destination;
mod duration;
pub mod export;
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
