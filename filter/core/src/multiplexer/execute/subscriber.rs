//! The connections over which a client subscribes.

use super::connect::dedicated_key;
use super::context::{Context, Obstacle};
use crate::cluster::slot::slot;
use crate::multiplexer::client::Client;
use crate::multiplexer::client::subscription::{SubscriptionChange, SubscriptionKind};
use crate::multiplexer::config::HostConfig;
use crate::multiplexer::ids::ConnectionId;
use crate::multiplexer::routing::target::RouteTarget;
use crate::multiplexer::upstream::endpoint::UpstreamEndpoint;
use crate::multiplexer::upstream::pool_key::PoolKey;
use crate::request::errors::CROSSSLOT;
use std::net::SocketAddr;

/// True if each channel is on one of several servers, by its hash as a key's.
pub fn is_spread(config: &HostConfig) -> bool {
    config.home().is_some_and(|home| config.has_servers(home))
}

/// The target of what clients publish.
///
/// # Errors
/// There is none.
pub fn home(config: &HostConfig, change: SubscriptionChange) -> Result<usize, Obstacle> {
    let missing = || {
        format!(
            "ERR redis-mesh: {} needs a destination that is the one for all other keys, and there is none",
            change.name().to_ascii_uppercase()
        )
    };
    config.home().ok_or_else(|| Obstacle::Error(missing()))
}

/// The connection on which a client subscribes to what is published: one for the channels and
/// patterns of a server, and in a Redis Cluster one for each node that has shard channels.
///
/// # Errors
/// The command waits, or there is no connection.
pub fn connect_to_home(
    context: &mut Context<'_>,
    client: &mut Client,
    change: SubscriptionChange,
    names: &[Vec<u8>],
) -> Result<ConnectionId, Obstacle> {
    let target = home(&client.rules.config, change)?;
    let is_sharded = client.rules.config.is_cluster(target) && change.kind == SubscriptionKind::Shard;
    let of = names.first().filter(|_| is_sharded).map(|name| slot(name));
    if is_sharded && names.iter().any(|name| Some(slot(name)) != of) {
        return Err(Obstacle::Error(CROSSSLOT.into()));
    }
    let of_first = names.first().map(|name| client.rules.config.target_of(target, name));
    let to = of_first
        .filter(|_| is_sharded || is_spread(&client.rules.config))
        .unwrap_or(RouteTarget { target, slot: None });
    let key = dedicated_key(context, client, to)?;
    let node = if is_sharded { key.node } else { None };
    match known_connection(context, client, &key.endpoint, node) {
        Some(known) => Ok(known),
        None => connect_to(context, client, key),
    }
}

/// The client's connection for subscriptions to a server; without a node, to any one of a Redis
/// Cluster.
fn known_connection(
    context: &Context<'_>,
    client: &Client,
    endpoint: &UpstreamEndpoint,
    node: Option<SocketAddr>,
) -> Option<ConnectionId> {
    let leads_there = |connection: &&ConnectionId| {
        let known = context.upstreams.pool.get(**connection).map(|connection| &connection.key);
        known.is_some_and(|known| known.endpoint.is_same_place(endpoint) && (node.is_none() || known.node == node))
    };
    client.subscriptions.connections.iter().find(leads_there).copied()
}

/// The client's connection for subscriptions to the server of a pool key.
///
/// # Errors
/// The server is backed off from.
pub fn connect_to(context: &mut Context<'_>, client: &mut Client, key: PoolKey) -> Result<ConnectionId, Obstacle> {
    if let Some(known) = known_connection(context, client, &key.endpoint, key.node) {
        return Ok(known);
    }
    let connection = context.upstreams.dedicated(client.id, key, true, context.effects)?.id();
    client.subscriptions.connections.push(connection);
    Ok(connection)
}
