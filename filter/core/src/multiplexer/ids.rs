//! The numbers by which a host and the multiplexer name clients and connections.

use super::slot_map::Id;

/// The kind of number that names a client. There are no values of it.
#[derive(Debug)]
pub enum ClientTag {}

/// The kind of number that names a connection to Redis. There are no values of it.
#[derive(Debug)]
pub enum ConnectionTag {}

/// Names a client for as long as it is connected, and never another one.
pub type ClientId = Id<ClientTag>;

/// Names a connection to Redis for as long as it exists, and never another one.
pub type ConnectionId = Id<ConnectionTag>;

/// The kind of number that names a Redis Cluster. There are no values of it.
#[derive(Debug)]
pub enum ClusterTag {}

/// Names a Redis Cluster for as long as the worker knows it, and never another one.
pub type ClusterId = Id<ClusterTag>;
