//! The client's side of a connection.

pub mod auth;
pub mod hello;
