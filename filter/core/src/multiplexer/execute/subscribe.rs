//! Subscriptions and MONITOR: connections over which servers send what answers no command.

use super::at_servers::{self, is_of_several};
use super::connect::{dedicated_key, shards};
use super::context::{Context, Obstacle};
use super::subscriber::{connect_to, connect_to_home, is_spread};
use crate::command::Args;
use crate::multiplexer::client::reply_queue::Sequence;
use crate::multiplexer::client::source::SubscriptionSource;
use crate::multiplexer::client::subscription::{SubscriptionChange, SubscriptionKind};
use crate::multiplexer::client::{Client, TargetLookup, Wait};
use crate::multiplexer::ids::ConnectionId;
use crate::multiplexer::reply::aggregate::{Aggregation, ResponsePolicy};
use crate::multiplexer::routing::target::RouteTarget;
use crate::multiplexer::upstream::discovery::Missing;
use crate::multiplexer::upstream::pending::{InFlight, Owner, PendingReply};
use crate::multiplexer::upstream::pool_key::PoolKey;
use crate::multiplexer::upstream::retry::Retry;
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
    let is_joint = client.subscriptions.joint().is_some() || concerns_several(client, change, args);
    let is_alone = is_first || is_for_all || is_joint || change.kind == SubscriptionKind::Shard;
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

/// True if the command is about a subscription that is kept at several servers.
fn concerns_several(client: &Client, change: SubscriptionChange, args: &Args<'_>) -> bool {
    let config = &client.rules.config;
    (1..args.count).map(|index| args.get(index)).any(|name| match change.begins {
        true => is_of_several(config, change.kind, name),
        false => is_kept_at_several(client, change, name),
    })
}

fn is_kept_at_several(client: &Client, change: SubscriptionChange, name: &[u8]) -> bool {
    matches!(client.subscriptions.source(change.kind, name), Some(SubscriptionSource::Several(_)))
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
    let config = client.rules.config.clone();
    if change.begins && names.iter().any(|name| is_of_several(&config, change.kind, name)) {
        return at_servers::begin(context, client, change, names);
    }
    if !change.begins && names.iter().any(|name| is_kept_at_several(client, change, name)) {
        at_servers::end(context, client, change, names);
        return Ok(());
    }
    if change.begins {
        // Channels of one server are asked for in one piece, and nothing is asked for before it is
        // known that all can be.
        let size = if is_spread(&config) { 1 } else { names.len() };
        let pieces = names.chunks(size).map(|piece| Ok((piece, connect_to_home(context, client, change, piece)?)));
        for (piece, connection) in pieces.collect::<Result<Vec<_>, Obstacle>>()? {
            send(context, client, change, piece, connection);
        }
        return Ok(());
    }
    for name in names {
        let any = client.subscriptions.connections.first().copied();
        let at = match client.subscriptions.source(change.kind, &name) {
            Some(SubscriptionSource::One(connection)) => Some(*connection),
            // Another node would say where its slot is.
            _ if change.kind == SubscriptionKind::Shard => None,
            _ => any,
        };
        match at {
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
    let mut command = Vec::new();
    encode::command(&mut command, &words);
    // Each channel is confirmed by itself, also after CLIENT REPLY OFF.
    let sequences: Vec<Sequence> = names.iter().map(|_| client.output.queue.expect(false)).collect();
    let Some(sequence) = sequences.first().copied() else { return };
    let owner = Owner { client: client.id, sequence };
    let to = PendingReply::Subscription(owner, (sequences.len() - 1) as u32, change);
    let (patience, tried) = (client.rules.config.patience, client.pause.tried);
    send_over(context, InFlight { patience, tried, ..to.into() }, &command, connection);
}

/// Sends a command that begins or ends subscriptions, each of which is confirmed by itself.
fn send_over(context: &mut Context<'_>, first: InFlight, command: &[u8], connection: ConnectionId) {
    let PendingReply::Subscription(owner, more, change) = first.what else { return };
    for index in 0..=more {
        let owner = Owner { sequence: owner.sequence + Sequence::from(index), ..owner };
        let in_flight = InFlight { what: PendingReply::Subscription(owner, more - index, change), ..first };
        let command = if index == 0 { command } else { &[] };
        context.upstreams.pool.send(connection, in_flight, context.effects, |out| out.extend_from_slice(command));
    }
}

/// Sends a command that begins subscriptions again, to the node of the retry. Returns false if it is
/// another command.
pub fn follows(context: &mut Context<'_>, client: &mut Client, retry: &Retry) -> bool {
    let PendingReply::Subscription(..) = retry.in_flight.what else { return false };
    match connect_to(context, client, retry.key.clone()) {
        Ok(connection) => send_over(context, retry.in_flight, &retry.bytes, connection),
        // As when a server can't be reached.
        Err(_) => client.cut_off(&mut context.effects.outbox),
    }
    true
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
