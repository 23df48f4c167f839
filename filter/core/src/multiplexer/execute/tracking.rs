//! The connections of clients that track (CLIENT TRACKING): their own, on each of which tracking is on.

use super::context::{Context, Obstacle};
use crate::command::Known;
use crate::command::script;
use crate::multiplexer::client::reply_queue::Sequence;
use crate::multiplexer::client::{Client, Wait};
use crate::multiplexer::config::HostConfig;
use crate::multiplexer::effects::Effects;
use crate::multiplexer::ids::ConnectionId;
use crate::multiplexer::upstream::pending::{Control, PendingReply};
use crate::multiplexer::upstream::pool::DedicatedConnection;
use crate::multiplexer::upstream::pool_key::{PoolKey, Purpose};
use crate::multiplexer::upstream::{ConnectionRoute, Upstreams};

/// Nothing more is tracked.
pub fn end(upstreams: &mut Upstreams, client: &mut Client, effects: &mut Effects) {
    let Some(tracking) = client.dedicated.tracking.take() else { return };
    for (_, own) in tracking.connections {
        match client.dedicated.connection.filter(|held| held.connection == own && held.is_held()) {
            // The client watches keys over it, or has changed its state.
            Some(held) => {
                upstreams.control(held.connection, Control::Tracking, effects, &[b"CLIENT", b"TRACKING", b"OFF"]);
                client.pause.wait = Some(Wait::Answers);
            }
            None => {
                client.dedicated.connection.take_if(|held| held.connection == own);
                upstreams.pool.close(own.id(), effects);
            }
        }
    }
}

/// The client's own connection with this pool key, and whether it was there.
///
/// # Errors
/// The server is backed off from.
pub fn own(
    context: &mut Context<'_>,
    client: &mut Client,
    key: PoolKey,
) -> Result<(DedicatedConnection, bool), Obstacle> {
    let Some(tracking) = &mut client.dedicated.tracking else {
        return Ok((context.upstreams.dedicated(client.id, key, false, context.effects)?, true));
    };
    let pool = &mut context.upstreams.pool;
    if let Some(known) = tracking.connection(&key).filter(|known| pool.is_usable(known.id())) {
        return Ok((known, true));
    }
    let held = client.dedicated.connection.filter(|held| held.is_held()).map(|held| held.connection);
    let held = held.filter(|held| pool.get(held.id()).is_some_and(|known| known.key == key));
    let own = match held {
        // What it reads over this one is to be tracked, too.
        Some(held) => {
            if let Some(known) = pool.get_mut(held.id()) {
                known.purpose = Purpose::Pushes(client.id);
            }
            held
        }
        None => context.upstreams.dedicated(client.id, key.clone(), true, context.effects)?,
    };
    tracking.connections.retain(|(of, _)| *of != key);
    tracking.connections.push((key, own));
    Ok((own, false))
}

/// The client's own connection with this pool key, on which tracking is on; without tracking, any one
/// of its own.
///
/// # Errors
/// The server is backed off from.
pub fn connection(
    context: &mut Context<'_>,
    client: &mut Client,
    key: PoolKey,
) -> Result<DedicatedConnection, Obstacle> {
    let (own, is_known) = own(context, client, key)?;
    if let Some(tracking) = client.dedicated.tracking.as_ref().filter(|_| !is_known) {
        let words = tracking.options.words(&tracking.options.prefixes, tracking.is_wide);
        context.upstreams.control(own, Control::Tracking, context.effects, &words);
    }
    Ok(own)
}

/// The connection of a client that tracks, in the place of a shared one.
///
/// # Errors
/// The server is backed off from.
pub fn separate(
    context: &mut Context<'_>,
    client: &mut Client,
    route: ConnectionRoute,
) -> Result<ConnectionRoute, Obstacle> {
    let key = context.upstreams.pool.get(route.id()).map(|known| known.key.clone());
    let own = match (route, key) {
        (ConnectionRoute::Shared(_), Some(key)) => connection(context, client, key)?,
        (ConnectionRoute::Dedicated(own), _) => own,
        (ConnectionRoute::Shared(_), None) => return Ok(route),
    };
    prepare(context, client, own);
    Ok(ConnectionRoute::Dedicated(own))
}

/// Tells a server that the next command is to be tracked, if CLIENT CACHING has said so. What isn't to
/// be tracked is all the same: the client is told of more keys then.
fn prepare(context: &mut Context<'_>, client: &mut Client, own: DedicatedConnection) {
    let Some(tracking) = &mut client.dedicated.tracking else { return };
    if tracking.caching == Some(true) && !tracking.prepared.contains(&own.id()) && tracking.uses(own.id()) {
        tracking.prepared.push(own.id());
        context.upstreams.control(own, Control::Tracking, context.effects, &[b"CLIENT", b"CACHING", b"YES"]);
    }
}

/// A command of a client that tracks was taken. What CLIENT CACHING has said holds for one command, or
/// for a transaction.
pub fn taken(client: &mut Client, known: Option<Known>, sequence: Sequence) {
    let is_in_transaction = client.transaction.is_some();
    let Some(tracking) = &mut client.dedicated.tracking else { return };
    if is_in_transaction || known.is_some_and(|known| known.container.name == "client") {
        return;
    }
    let is_wanted = tracking.caching.take() == Some(true);
    tracking.prepared.clear();
    // A probe, or a script that has to be loaded, goes between CLIENT CACHING and the command.
    if is_wanted && known.is_none_or(|known| script::may_run_code(known.command)) {
        tracking.untracked = Some(sequence);
    }
}

/// A command of a client that tracks is sent to another node, over the client's own connection there.
///
/// # Errors
/// The server is backed off from.
pub fn redirected(
    context: &mut Context<'_>,
    client: &mut Client,
    (key, to): (PoolKey, PendingReply),
) -> Result<DedicatedConnection, Obstacle> {
    let own = connection(context, client, key)?;
    if let Some(tracking) = &mut client.dedicated.tracking {
        // CLIENT CACHING can't be said again: ASKING has to be the command right before.
        let sequence = to.command().map(|owner| owner.sequence);
        tracking.untracked = tracking.untracked.max(sequence);
    }
    Ok(own)
}

/// A script has to be loaded between CLIENT CACHING and a transaction, which then isn't tracked.
pub fn names_scripts(client: &mut Client, sequence: Sequence) {
    if let Some(tracking) = client.dedicated.tracking.as_mut().filter(|tracking| tracking.caching == Some(true)) {
        tracking.untracked = Some(sequence);
    }
}

/// Ends tracking that a server has refused to begin, when all have answered. Returns true if the client
/// is to forget all keys that it has read.
pub fn settle(upstreams: &mut Upstreams, client: &mut Client, effects: &mut Effects) -> bool {
    let next = client.output.queue.next();
    let Some(tracking) = &mut client.dedicated.tracking else { return false };
    let begun = tracking.beginning.take_if(|beginning| next > beginning.sequence);
    if begun.is_some_and(|begun| begun.is_refused) {
        end(upstreams, client, effects);
        return false;
    }
    tracking.untracked.take_if(|sequence| next > *sequence).is_some()
}

/// The client is gone, or is as one that has just connected.
pub fn disown(upstreams: &mut Upstreams, client: &mut Client, effects: &mut Effects) {
    let Some(tracking) = client.dedicated.tracking.take() else { return };
    for (_, own) in tracking.connections {
        client.dedicated.connection.take_if(|held| held.connection == own);
        upstreams.pool.close(own.id(), effects);
    }
}

/// Tells a client that tracks to forget all keys that it has read: it may not be told of their changes.
pub fn forget_keys(client: &mut Client) {
    if client.dedicated.tracking.is_some() && client.session.resp3 {
        client.output.queue.push(b">2\r\n$10\r\ninvalidate\r\n_\r\n", &mut client.output.out);
    }
}

/// The target to whose servers a connection leads.
pub fn target_of(upstreams: &Upstreams, config: &HostConfig, connection: ConnectionId) -> Option<usize> {
    let endpoint = &upstreams.pool.get(connection)?.key.endpoint;
    (0..config.targets.len())
        .find(|place| config.targets.get(*place).is_some_and(|target| target.upstream.is_same_place(endpoint)))
}
