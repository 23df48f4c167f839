//! CLIENT TRACKING itself: it begins, ends, and follows to other servers.

use super::connect::all_masters;
use super::context::{Context, Obstacle};
use super::tracking::{connection, end, own};
use crate::multiplexer::client::tracking::{Beginning, TrackingChange, TrackingOptions};
use crate::multiplexer::client::{Client, Wait};
use crate::multiplexer::config::HostConfig;
use crate::multiplexer::reply::aggregate::{Aggregation, ResponsePolicy};
use crate::multiplexer::upstream::discovery::Missing;
use crate::multiplexer::upstream::pending::{InFlight, Owner, PendingReply};
use crate::multiplexer::upstream::pool_key::PoolKey;
use crate::resp::encode;
use std::collections::BTreeSet;

/// Begins or ends to track.
///
/// # Errors
/// The command waits, or a server isn't there.
pub fn track(context: &mut Context<'_>, client: &mut Client, change: TrackingChange) -> Result<(), Obstacle> {
    match change {
        TrackingChange::Off if client.dedicated.tracking.is_none() => {}
        // What it has asked for so far has gone over other connections than what it asks for next.
        _ if !client.output.queue.is_empty() => return Err(Obstacle::Wait(Wait::Answers)),
        TrackingChange::Off => end(context.upstreams, client, context.effects),
        TrackingChange::On { options, added } => return begin(context, client, options, &added),
    }
    client.answer(b"+OK\r\n");
    Ok(())
}

/// The servers say whether they track. Those that tell of all keys have to be asked all; others are
/// asked when a command goes there for the first time.
fn begin(
    context: &mut Context<'_>,
    client: &mut Client,
    options: TrackingOptions,
    added: &BTreeSet<Vec<u8>>,
) -> Result<(), Obstacle> {
    let mut keys = all_masters(context, client)?;
    let known = client.dedicated.tracking.as_ref().map(|tracking| &tracking.connections);
    let known: Vec<PoolKey> = known.into_iter().flatten().map(|(key, _)| key.clone()).collect();
    if !options.broadcasts {
        let reached = keys.iter().find(|key| context.upstreams.pool.check_available(key, context.effects).is_ok());
        // If there is none, the first one says why.
        keys = reached.or(keys.first()).cloned().into_iter().collect();
    }
    keys.extend(known.into_iter().filter(|known| !keys.contains(known)).collect::<Vec<_>>());
    if keys.is_empty() {
        return Err(Obstacle::Error("ERR redis-mesh: no route leads anywhere".into()));
    }
    for key in &keys {
        context.upstreams.pool.check_available(key, context.effects).map_err(Missing::from)?;
    }
    let is_wide = is_wide(&client.rules.config);
    let [mut of_known, mut of_new] = [Vec::new(), Vec::new()];
    encode::command(&mut of_known, &options.words(added, is_wide));
    encode::command(&mut of_new, &options.words(&options.prefixes, is_wide));
    let tracking = client.dedicated.tracking.get_or_insert_default();
    (tracking.options, tracking.is_wide, tracking.caching) = (options, is_wide, None);
    let mut connections = Vec::with_capacity(keys.len());
    for key in keys {
        connections.push(own(context, client, key)?);
    }
    let aggregation = Aggregation::new(ResponsePolicy::Same, connections.len(), client.session.resp3);
    let sequence = client.output.queue.expect_parts(aggregation, client.is_mute());
    if let Some(tracking) = &mut client.dedicated.tracking {
        tracking.beginning = Some(Beginning { sequence, is_refused: false });
    }
    let owner = Owner { client: client.id, sequence };
    for (part, (connection, is_known)) in connections.into_iter().enumerate() {
        let command = if is_known { &of_known } else { &of_new };
        let to = PendingReply::Part(owner, part as u32);
        let in_flight = InFlight { patience: client.rules.config.patience, ..to.into() };
        context.upstreams.send_dedicated(connection, in_flight, context.effects, |out| out.extend_from_slice(command));
    }
    client.pause.wait = Some(Wait::Answers);
    Ok(())
}

/// Servers tell of all keys where they know keys by other names than the client.
fn is_wide(config: &HostConfig) -> bool {
    config.routes.iter().any(|route| route.removed_prefix.is_some())
}

/// Commands of a client that tracks lead to other servers by now. Those that tell of all keys are asked
/// where there are new ones. Returns false if that isn't possible.
pub fn follow(context: &mut Context<'_>, client: &mut Client) -> bool {
    let Some(tracking) = &client.dedicated.tracking else { return true };
    let (broadcasts, mut left) = (tracking.options.broadcasts, Vec::new());
    if broadcasts && tracking.is_wide != is_wide(&client.rules.config) {
        return false;
    }
    for (key, own) in &tracking.connections {
        let targets = &client.rules.config.targets;
        let is_wanted = targets.iter().any(|target| target.upstream.is_same_place(&key.endpoint));
        let cluster = context.upstreams.discovery.known(&key.endpoint);
        let is_member = key.node.is_none_or(|node| cluster.is_none_or(|cluster| cluster.names(node)));
        let is_held = client.dedicated.connection.is_some_and(|held| held.connection == *own);
        if !(is_wanted && is_member || is_held) {
            left.push(own.id());
        }
    }
    for id in left {
        if let Some(tracking) = &mut client.dedicated.tracking {
            tracking.connections.retain(|(_, own)| own.id() != id);
        }
        context.upstreams.retire_dedicated(id, context.effects);
    }
    if !broadcasts {
        return true;
    }
    let masters = all_masters(context, client);
    if let Err(Obstacle::Wait(Wait::Topology(cluster))) = &masters {
        context.upstreams.discovery.await_topology(*cluster);
    }
    let is_stale = matches!(masters, Err(Obstacle::Wait(_)));
    if let Some(tracking) = &mut client.dedicated.tracking {
        tracking.is_stale = is_stale;
    }
    let all = masters.map(|keys| keys.into_iter().all(|key| connection(context, client, key).is_ok()));
    is_stale || all.is_ok_and(|is_asked| is_asked)
}
