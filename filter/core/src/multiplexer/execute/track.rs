//! What a client says of its connection (CLIENT TRACKING, NO-EVICT …): it is told to servers, and follows
//! to other ones.

use super::connect::all_masters;
use super::context::{Context, Obstacle};
use super::state::{connection, end, own, stop_tracking, tell};
use crate::command::Args;
use crate::multiplexer::client::stateful::{PendingChange, StateItem};
use crate::multiplexer::client::tracking::{Tracking, TrackingChange, TrackingOptions};
use crate::multiplexer::client::{Client, Wait};
use crate::multiplexer::config::HostConfig;
use crate::multiplexer::reply::aggregate::{Aggregation, ResponsePolicy};
use crate::multiplexer::upstream::discovery::Missing;
use crate::multiplexer::upstream::pending::{InFlight, Owner, PendingReply};
use crate::multiplexer::upstream::pool_key::PoolKey;
use crate::resp::encode;
use std::collections::BTreeSet;

/// The bytes that a setting may have. Those that there are have ten.
const MAX_SETTING: usize = 1024;

/// Begins or ends to track.
///
/// # Errors
/// The command waits, or a server isn't there.
pub fn track(context: &mut Context<'_>, client: &mut Client, change: TrackingChange) -> Result<(), Obstacle> {
    match change {
        TrackingChange::Off if client.dedicated.tracking().is_none() => {}
        // What it has asked for so far has gone over other connections than what it asks for next.
        _ if !client.output.queue.is_empty() => return Err(Obstacle::Wait(Wait::Answers)),
        TrackingChange::Off => stop(context, client),
        TrackingChange::On { options, added } => return begin(context, client, options, &added),
    }
    client.answer(b"+OK\r\n");
    Ok(())
}

/// Nothing more is tracked.
fn stop(context: &mut Context<'_>, client: &mut Client) {
    let Some(state) = client.dedicated.state.as_mut().filter(|state| !state.settings.is_empty()) else {
        return end(context.upstreams, client, context.effects);
    };
    state.tracking = None;
    for (_, own) in &state.connections {
        stop_tracking(context.upstreams, *own, context.effects);
    }
}

/// The servers say whether they track. Those that tell of all keys have to be asked all; others are
/// asked when a command goes there for the first time.
fn begin(
    context: &mut Context<'_>,
    client: &mut Client,
    options: TrackingOptions,
    added: &BTreeSet<Vec<u8>>,
) -> Result<(), Obstacle> {
    let keys = servers(context, client, options.broadcasts)?;
    let is_wide = is_wide(&client.rules.config);
    let [mut of_known, mut of_new] = [Vec::new(), Vec::new()];
    encode::command(&mut of_known, &options.words(added, is_wide));
    encode::command(&mut of_new, &options.words(&options.prefixes, is_wide));
    let state = client.dedicated.state.get_or_insert_default();
    let untracked = state.tracking.as_ref().and_then(|tracking| tracking.untracked);
    state.tracking = Some(Tracking { options, is_wide, untracked, ..Tracking::default() });
    ask(context, client, keys, (StateItem::Tracking, &of_known, &of_new))
}

/// Says something else of the connection: NO-EVICT, NO-TOUCH and the like.
///
/// # Errors
/// The command waits, or a server isn't there.
pub fn set(
    context: &mut Context<'_>,
    client: &mut Client,
    name: &'static str,
    args: &Args<'_>,
) -> Result<(), Obstacle> {
    if !client.output.queue.is_empty() {
        return Err(Obstacle::Wait(Wait::Answers));
    }
    let words: Vec<Vec<u8>> = (0..args.count).map(|index| args.get(index).to_vec()).collect();
    if words.iter().map(Vec::len).sum::<usize>() > MAX_SETTING {
        return Err(Obstacle::Error("ERR redis-mesh: too long a command about the connection".into()));
    }
    let keys = servers(context, client, false)?;
    let mut command = Vec::new();
    encode::command(&mut command, &words.iter().map(Vec::as_slice).collect::<Vec<_>>());
    drop(client.dedicated.state.get_or_insert_default().settings.insert(name, words));
    ask(context, client, keys, (StateItem::Setting(name), &command, &command))
}

/// The servers that are told something now: those to which the client has connections of its own, and all
/// masters or else at least one server.
fn servers(context: &mut Context<'_>, client: &mut Client, are_all: bool) -> Result<Vec<PoolKey>, Obstacle> {
    let known = client.dedicated.state.as_ref().map(|state| &state.connections);
    let known: Vec<PoolKey> = known.into_iter().flatten().map(|(key, _)| key.clone()).collect();
    let mut keys = Vec::new();
    if are_all || known.is_empty() {
        keys = all_masters(context, client)?;
    }
    if !are_all {
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
    Ok(keys)
}

/// Tells servers something that the client says, by the one command where there are connections already,
/// by the other one over new ones. Their answers become the client's.
fn ask(
    context: &mut Context<'_>,
    client: &mut Client,
    keys: Vec<PoolKey>,
    (what, of_known, of_new): (StateItem, &[u8], &[u8]),
) -> Result<(), Obstacle> {
    let mut connections = Vec::with_capacity(keys.len());
    for key in keys {
        let (own, is_known) = own(context, client, key)?;
        if !is_known {
            tell(context, client, own, Some(what));
        }
        connections.push((own, is_known));
    }
    let aggregation = Aggregation::new(ResponsePolicy::Same, connections.len(), client.session.resp3);
    let sequence = client.output.queue.expect_parts(aggregation, client.is_mute());
    if let Some(state) = &mut client.dedicated.state {
        state.pending = Some(PendingChange { what, sequence, is_refused: false });
    }
    let owner = Owner { client: client.id, sequence };
    for (part, (connection, is_known)) in connections.into_iter().enumerate() {
        let command = if is_known { of_known } else { of_new };
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

/// Commands of a client that has connections of its own lead to other servers by now. Those that tell of
/// all keys are asked where there are new ones. Returns false if that isn't possible.
pub fn follow(context: &mut Context<'_>, client: &mut Client) -> bool {
    let Some(state) = &client.dedicated.state else { return true };
    let tracking = client.dedicated.tracking().filter(|tracking| tracking.options.broadcasts);
    if tracking.is_some_and(|tracking| tracking.is_wide != is_wide(&client.rules.config)) {
        return false;
    }
    let (broadcasts, mut left) = (tracking.is_some(), Vec::new());
    for (key, own) in &state.connections {
        let is_wanted = client.rules.config.target_at(&key.endpoint).is_some();
        let cluster = context.upstreams.discovery.known(&key.endpoint);
        let is_member = key.node.is_none_or(|node| cluster.is_none_or(|cluster| cluster.names(node)));
        let is_held = client.dedicated.connection.is_some_and(|held| held.connection == *own);
        if !(is_wanted && is_member || is_held) {
            left.push(own.id());
        }
    }
    for id in left {
        if let Some(state) = &mut client.dedicated.state {
            state.connections.retain(|(_, own)| own.id() != id);
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
    if let Some(tracking) = client.dedicated.tracking_mut() {
        tracking.is_stale = is_stale;
    }
    let all = masters.map(|keys| keys.into_iter().all(|key| connection(context, client, key).is_ok()));
    is_stale || all.is_ok_and(|is_asked| is_asked)
}
