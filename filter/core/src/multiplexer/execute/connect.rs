//! The connection over which a client's command goes to a target.

use super::backlog;
use super::context::{Context, Obstacle};
use super::failover::obstacle;
use super::state;
use crate::multiplexer::client::{Client, Dedicated, DedicatedSlot, TargetLookup, Wait};
use crate::multiplexer::routing::target::RouteTarget;
use crate::multiplexer::upstream::discovery::NodeAccess;
use crate::multiplexer::upstream::pool::SharedConnection;
use crate::multiplexer::upstream::pool_key::PoolKey;
use crate::multiplexer::upstream::{ConnectionRoute, Upstreams};
use std::collections::HashSet;

/// The connection over which a command that may be shared goes: the client's own where that is
/// held for the target.
///
/// # Errors
/// The command waits, or there is no connection.
#[inline]
pub fn connect(
    context: &mut Context<'_>,
    client: &mut Client,
    target: RouteTarget,
    access: NodeAccess,
) -> Result<ConnectionRoute, Obstacle> {
    match cached(context.upstreams, client, target, access) {
        Some(connection) => Ok(ConnectionRoute::Shared(connection)),
        None => {
            let route = look_up(context, client, target, access)?;
            own(context, client, route)
        }
    }
}

/// The client's own connection in the place of a shared one, if it is to have its own.
fn own(context: &mut Context<'_>, client: &mut Client, route: ConnectionRoute) -> Result<ConnectionRoute, Obstacle> {
    match client.dedicated.state {
        Some(_) => state::separate(context, client, route),
        None => backlog::separate(context, client, route),
    }
}

/// The same, if nothing has to be found out or opened.
#[inline]
fn cached(upstreams: &Upstreams, client: &Client, target: RouteTarget, access: NodeAccess) -> Option<SharedConnection> {
    let DedicatedSlot { connection, state, backlog, .. } = &client.dedicated;
    if connection.is_some() || state.is_some() || backlog.is_begun() || access != NodeAccess::Write {
        return None;
    }
    let connection = match client.rules.lookups.get(target.target)? {
        TargetLookup::Connection(connection) => connection.id(),
        TargetLookup::Cluster(cluster) => upstreams.discovery.cached(*cluster, target.slot?, client.session.resp3)?,
        TargetLookup::Unknown => return None,
    };
    upstreams.pool.usable_shared(connection)
}

/// A command waits for what was sent before over a connection to which ASK has led: that may be refused and sent on,
/// and the slot may be the node's own when the next one comes.
pub fn keep_order(client: &Client, dedicated: Dedicated) -> Result<(), Obstacle> {
    if dedicated.was_asked && !client.output.queue.is_empty() {
        return Err(Obstacle::Wait(Wait::Answers));
    }
    Ok(())
}

fn look_up(
    context: &mut Context<'_>,
    client: &mut Client,
    target: RouteTarget,
    access: NodeAccess,
) -> Result<ConnectionRoute, Obstacle> {
    if let Some(dedicated) = client.dedicated.connection.filter(|dedicated| dedicated.is_held())
        && client.rules.config.is_same(dedicated.target, target)
    {
        keep_order(client, dedicated)?;
        state::agree_on_protocol(context, client, dedicated.connection);
        return Ok(ConnectionRoute::Dedicated(dedicated.connection));
    }
    let connection = match look_up_target(context, client, target.target)? {
        TargetLookup::Connection(connection) => connection,
        TargetLookup::Cluster(cluster) => {
            let shard = context.upstreams.shard(cluster, target.slot, context.effects);
            let shard = shard.map_err(|missing| obstacle(context, client, missing))?;
            let resp3 = client.session.resp3;
            let found = context.upstreams.node(cluster, shard, access, resp3, context.effects);
            found.map_err(|missing| obstacle(context, client, missing))?
        }
        TargetLookup::Unknown => {
            let key = key_of(client, target.target)?;
            let connection = context.upstreams.shared(key, context.effects)?;
            if let Some(known) = client.rules.lookups.get_mut(target.target) {
                *known = TargetLookup::Connection(connection);
            }
            connection
        }
    };
    Ok(ConnectionRoute::Shared(connection))
}

/// How a target is reached, as far as it was looked up and is still so.
fn look_up_target(context: &mut Context<'_>, client: &mut Client, target: usize) -> Result<TargetLookup, Obstacle> {
    match client.rules.lookups.get(target).copied() {
        Some(TargetLookup::Connection(connection))
            if context.upstreams.pool.usable_shared(connection.id()) == Some(connection) =>
        {
            Ok(TargetLookup::Connection(connection))
        }
        Some(TargetLookup::Cluster(cluster)) if context.upstreams.discovery.clusters.get(cluster).is_some() => {
            Ok(TargetLookup::Cluster(cluster))
        }
        Some(_) | None => {
            let found = client.rules.config.targets.get(target).ok_or_else(rules_changed)?;
            if !found.is_cluster {
                return Ok(TargetLookup::Unknown);
            }
            let endpoint = found.upstream.presented(client.session.login.as_ref());
            let lookup = TargetLookup::Cluster(context.upstreams.discovery.cluster_of(&endpoint));
            if let Some(known) = client.rules.lookups.get_mut(target) {
                *known = lookup;
            }
            Ok(lookup)
        }
    }
}

/// The pool key of a client's connections to a target.
fn key_of(client: &Client, target: usize) -> Result<PoolKey, Obstacle> {
    let endpoint = &client.rules.config.targets.get(target).ok_or_else(rules_changed)?.upstream;
    let endpoint = endpoint.presented(client.session.login.as_ref());
    Ok(PoolKey { database: client.session.database, ..PoolKey::new(endpoint, client.session.resp3) })
}

/// The pool key that a client's own connection to a target has to have.
///
/// # Errors
/// The command waits, or no node serves the target.
pub fn dedicated_key(context: &mut Context<'_>, client: &mut Client, target: RouteTarget) -> Result<PoolKey, Obstacle> {
    let key = key_of(client, target.target)?;
    match look_up_target(context, client, target.target)? {
        TargetLookup::Cluster(cluster) => {
            let shard = context.upstreams.shard(cluster, target.slot, context.effects);
            let shard = shard.map_err(|missing| obstacle(context, client, missing))?;
            Ok(PoolKey { node: context.upstreams.master(cluster, shard), ..key })
        }
        TargetLookup::Connection(_) | TargetLookup::Unknown => Ok(key),
    }
}

/// The connection to a target, or to the master of a shard of it.
///
/// # Errors
/// The command waits, or there is no connection.
pub fn connect_to_shard(
    context: &mut Context<'_>,
    client: &mut Client,
    target: usize,
    shard: Option<usize>,
) -> Result<ConnectionRoute, Obstacle> {
    match (look_up_target(context, client, target)?, shard) {
        (TargetLookup::Cluster(cluster), Some(shard)) => {
            let resp3 = client.session.resp3;
            let found = context.upstreams.node(cluster, shard, NodeAccess::Write, resp3, context.effects);
            let connection = found.map_err(|missing| obstacle(context, client, missing))?;
            own(context, client, ConnectionRoute::Shared(connection))
        }
        _ => connect(context, client, RouteTarget { target, slot: None }, NodeAccess::Write),
    }
}

/// The pool key of a connection to a target, or to the master of a shard of it, for one client
/// alone.
///
/// # Errors
/// The command waits.
pub fn dedicated_key_of_shard(
    context: &mut Context<'_>,
    client: &mut Client,
    target: usize,
    shard: Option<usize>,
) -> Result<PoolKey, Obstacle> {
    let key = key_of(client, target)?;
    match (look_up_target(context, client, target)?, shard) {
        (TargetLookup::Cluster(cluster), Some(shard)) => {
            Ok(PoolKey { node: context.upstreams.master(cluster, shard), ..key })
        }
        _ => Ok(key),
    }
}

/// The number of shards of a target; `None` if it is no Redis Cluster.
///
/// # Errors
/// The command waits, or the shards aren't known.
pub fn shards(context: &mut Context<'_>, client: &mut Client, target: usize) -> Result<Option<usize>, Obstacle> {
    match look_up_target(context, client, target)? {
        TargetLookup::Cluster(cluster) => Ok(Some(context.upstreams.shard_count(cluster, context.effects)?)),
        TargetLookup::Connection(_) | TargetLookup::Unknown => Ok(None),
    }
}

/// The pool keys of all servers whose keys a route may lead to, each once: in a Redis Cluster, all
/// masters.
///
/// # Errors
/// The command waits, or the masters aren't known.
pub fn all_masters(context: &mut Context<'_>, client: &mut Client) -> Result<Vec<PoolKey>, Obstacle> {
    let config = client.rules.config.clone();
    let (mut keys, mut known) = (Vec::new(), HashSet::new());
    for target in 0..config.targets.len() {
        if !config.routes.iter().any(|route| route.target == config.origin(target)) {
            continue;
        }
        let all = match shards(context, client, target)? {
            Some(shards) => (0..shards).map(Some).collect(),
            None => vec![None],
        };
        for shard in all {
            let key = dedicated_key_of_shard(context, client, target, shard)?;
            if known.insert(key.clone()) {
                keys.push(key);
            }
        }
    }
    Ok(keys)
}

fn rules_changed() -> Obstacle {
    Obstacle::Error("ERR redis-mesh: the rules have changed under way; try again".to_owned())
}
