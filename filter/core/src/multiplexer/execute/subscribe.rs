//! Subscriptions and MONITOR: connections over which servers send what answers no command.

use super::connect::{dedicated_key, shards};
use super::context::{Context, Obstacle};
use crate::cluster::slot::slot;
use crate::command::Args;
use crate::multiplexer::client::subscription::{SubscriptionChange, SubscriptionKind};
use crate::multiplexer::client::{Client, TargetLookup, Wait};
use crate::multiplexer::ids::ConnectionId;
use crate::multiplexer::reply::aggregate::{Aggregation, ResponsePolicy};
use crate::multiplexer::routing::target::RouteTarget;
use crate::multiplexer::upstream::discovery::Missing;
use crate::multiplexer::upstream::pending::{Owner, PendingReply};
use crate::multiplexer::upstream::pool_key::PoolKey;
use crate::request::errors::CROSSSLOT;
use crate::resp::encode;

/// SUBSCRIBE and its like (<https://redis.io/docs/latest/develop/pubsub/>).
pub fn subscribe(
    context: &mut Context<'_>,
    client: &mut Client,
    change: SubscriptionChange,
    args: &Args<'_>,
) -> Result<(), Obstacle> {
    let is_first = change.begins && client.subscriptions.connections.is_empty();
    let is_for_all = !change.begins && args.count == 1;
    let is_alone = is_first || is_for_all || change.kind == SubscriptionKind::Shard;
    let has_pending = !client.output.queue.is_empty();
    if has_pending && (is_alone || !client.is_subscribing()) {
        // Nothing overtakes anything; by then it is known what there is; and a client of RESP2
        // that has subscribed gets nothing out of turn.
        return Err(Obstacle::Wait(Wait::Answers));
    }
    change_all(context, client, change, args)?;
    client.subscriptions.last_change = client.output.queue.end();
    Ok(())
}

fn change_all(
    context: &mut Context<'_>,
    client: &mut Client,
    change: SubscriptionChange,
    args: &Args<'_>,
) -> Result<(), Obstacle> {
    let names: Vec<Vec<u8>> = match !change.begins && args.count == 1 {
        true => client.subscriptions.names(change.kind),
        false => (1..args.count).map(|index| args.get(index).to_vec()).collect(),
    };
    let resp3 = client.session.resp3;
    if !resp3 {
        // What comes after depends on whether there is a subscription by then.
        client.pause.wait = Some(Wait::Answers);
    }
    if names.is_empty() {
        let reply = client.subscriptions.confirm(change, None, None, resp3);
        client.answer(&reply);
        return Ok(());
    }
    if change.begins {
        // Channels of one server are asked for in one piece, and nothing is asked for before it is
        // known that all can be.
        let size = if is_spread(client) { 1 } else { names.len() };
        let pieces = names.chunks(size).map(|piece| Ok((piece, subscriber(context, client, change, piece)?)));
        for (piece, connection) in pieces.collect::<Result<Vec<_>, Obstacle>>()? {
            send(context, client, change, piece, connection);
        }
        return Ok(());
    }
    for name in names {
        let kept = client.subscriptions.connection(change.kind, &name);
        match kept.or(client.subscriptions.connections.first().copied()) {
            Some(connection) => send(context, client, change, &[name], connection),
            None => {
                let reply = client.subscriptions.confirm(change, Some(&name), None, resp3);
                client.answer(&reply);
            }
        }
    }
    Ok(())
}

fn send(
    context: &mut Context<'_>,
    client: &mut Client,
    change: SubscriptionChange,
    names: &[Vec<u8>],
    connection: ConnectionId,
) {
    let mut words: Vec<&[u8]> = vec![change.name().as_bytes()];
    words.extend(names.iter().map(Vec::as_slice));
    for index in 0..names.len() {
        // Each channel is confirmed by itself, also after CLIENT REPLY OFF.
        let sequence = client.output.queue.expect(false);
        let owner = Owner { client: client.id, sequence };
        let to = PendingReply::Subscription(owner, (names.len() - 1 - index) as u32);
        context.upstreams.pool.send(connection, to.into(), context.effects, |out| {
            if index == 0 {
                encode::command(out, &words);
            }
        });
    }
}

/// True if each channel is on one of several servers, by its hash as a key's.
fn is_spread(client: &Client) -> bool {
    let config = &client.rules.config;
    config.home().is_some_and(|home| config.has_servers(home))
}

/// The connection on which a client subscribes: one for the channels and patterns of a server, and
/// in a Redis Cluster one for each node that has shard channels.
fn subscriber(
    context: &mut Context<'_>,
    client: &mut Client,
    change: SubscriptionChange,
    names: &[Vec<u8>],
) -> Result<ConnectionId, Obstacle> {
    let Some(target) = client.rules.config.home() else {
        return Err(Obstacle::Error(format!(
            "ERR redis-mesh: {} needs a destination that is the one for all other keys, and there is none",
            change.name().to_ascii_uppercase()
        )));
    };
    if is_spread(client) && change.kind == SubscriptionKind::Pattern {
        return Err(Obstacle::Error(format!(
            "ERR redis-mesh: {} needs a destination with one server, and channels are on several here",
            change.name().to_ascii_uppercase()
        )));
    }
    let is_sharded = client.rules.config.is_cluster(target) && change.kind == SubscriptionKind::Shard;
    let of = names.first().filter(|_| is_sharded).map(|name| slot(name));
    if is_sharded && names.iter().any(|name| Some(slot(name)) != of) {
        return Err(Obstacle::Error(CROSSSLOT.into()));
    }
    let of_first = names.first().map(|name| client.rules.config.target_of(target, name));
    let to = of_first.filter(|_| is_sharded || is_spread(client)).unwrap_or(RouteTarget { target, slot: None });
    let key = dedicated_key(context, client, to)?;
    let fits = |connection: &&ConnectionId| {
        let is_node = |known: &PoolKey| of.is_none() || known.node == key.node;
        let known = context.upstreams.pool.get(**connection).map(|connection| &connection.key);
        known.is_some_and(|known| known.endpoint.is_same_place(&key.endpoint) && is_node(known))
    };
    if let Some(known) = client.subscriptions.connections.iter().find(fits) {
        return Ok(*known);
    }
    let connection = context.upstreams.dedicated(client.id, key, true, context.effects)?.id();
    client.subscriptions.connections.push(connection);
    Ok(connection)
}

/// MONITOR: all servers tell.
pub fn monitor(context: &mut Context<'_>, client: &mut Client) -> Result<(), Obstacle> {
    if !client.output.queue.is_empty() {
        return Err(Obstacle::Wait(Wait::Answers));
    }
    let keys = keys_of_all_servers(context, client)?;
    // First it is known that all can be opened: none is opened in vain.
    for key in &keys {
        context.upstreams.pool.check_available(key, context.effects).map_err(Missing::from)?;
    }
    let mut connections = Vec::with_capacity(keys.len());
    for key in keys {
        connections.push(context.upstreams.dedicated(client.id, key, true, context.effects)?);
    }
    let aggregation = Aggregation::new(ResponsePolicy::Same, connections.len(), client.session.resp3);
    let sequence = client.output.queue.expect_parts(aggregation, client.is_mute());
    for (part, connection) in connections.into_iter().enumerate() {
        let to = PendingReply::Part(Owner { client: client.id, sequence }, part as u32);
        client.subscriptions.connections.push(connection.id());
        context.upstreams.send_dedicated(connection, to.into(), context.effects, |out| {
            encode::command(out, &[b"MONITOR"]);
        });
    }
    client.subscriptions.is_monitor = true;
    Ok(())
}

/// The pool keys of the client's own connections to all targets, and to all masters of those that
/// are Redis Clusters.
fn keys_of_all_servers(context: &mut Context<'_>, client: &mut Client) -> Result<Vec<PoolKey>, Obstacle> {
    let mut keys = Vec::new();
    for target in 0..client.rules.config.targets.len() {
        let key = dedicated_key(context, client, RouteTarget { target, slot: None })?;
        match shards(context, client, target)? {
            None => keys.push(key),
            Some(shards) => {
                for shard in 0..shards {
                    let node = match client.rules.lookups.get(target) {
                        Some(TargetLookup::Cluster(cluster)) => context.upstreams.master(*cluster, shard),
                        _ => None,
                    };
                    keys.push(PoolKey { node, ..key.clone() });
                }
            }
        }
    }
    keys.dedup();
    Ok(keys)
}
