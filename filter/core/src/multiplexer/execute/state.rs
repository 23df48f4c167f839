//! The connections of a client that has said something of its connection (CLIENT TRACKING, NO-EVICT …):
//! its own, each of which was told so first.

use super::context::{Context, Obstacle};
use crate::command::Known;
use crate::command::script;
use crate::multiplexer::client::held_pushes::PushOrder;
use crate::multiplexer::client::reply_queue::Sequence;
use crate::multiplexer::client::stateful::StateItem;
use crate::multiplexer::client::{Client, Wait};
use crate::multiplexer::config::HostConfig;
use crate::multiplexer::effects::Effects;
use crate::multiplexer::ids::ConnectionId;
use crate::multiplexer::upstream::pending::{Control, PendingReply};
use crate::multiplexer::upstream::pool::DedicatedConnection;
use crate::multiplexer::upstream::pool_key::{PoolKey, Purpose};
use crate::multiplexer::upstream::{ConnectionRoute, Upstreams};

/// All that the client has said of its connection is taken back.
pub fn end(upstreams: &mut Upstreams, client: &mut Client, effects: &mut Effects) {
    let Some(state) = client.dedicated.state.take() else { return };
    for (_, own) in state.connections {
        match client.dedicated.connection.filter(|held| held.connection == own && held.is_held()) {
            // The client watches keys over it. Nobody else is to have it.
            Some(held) => {
                if state.tracking.is_some() {
                    stop_tracking(upstreams, held.connection, effects);
                }
                if let Some(known) = upstreams.pool.get_mut(own.id()) {
                    known.is_tainted = true;
                }
            }
            None => {
                client.dedicated.connection.take_if(|held| held.connection == own);
                upstreams.pool.close(own.id(), effects);
            }
        }
    }
    client.pause.wait = Some(Wait::Answers);
}

/// The client may have chosen the other protocol since it has a connection of its own.
pub fn agree_on_protocol(context: &mut Context<'_>, client: &Client, connection: DedicatedConnection) {
    let resp3 = client.session.resp3;
    let Some(known) = context.upstreams.pool.get_mut(connection.id()).filter(|known| known.key.resp3 != resp3) else {
        return;
    };
    known.key.resp3 = resp3;
    let version: &[u8] = if resp3 { b"3" } else { b"2" };
    context.upstreams.control(connection, Control::Hello, context.effects, &[b"HELLO", version]);
}

/// Nothing more is tracked over a connection.
pub fn stop_tracking(upstreams: &mut Upstreams, own: DedicatedConnection, effects: &mut Effects) {
    upstreams.control(own, Control::State, effects, &[b"CLIENT", b"TRACKING", b"OFF"]);
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
    let Some(state) = &mut client.dedicated.state else {
        return Ok((context.upstreams.dedicated(client.id, key, false, context.effects)?, true));
    };
    let pool = &mut context.upstreams.pool;
    let held = client.dedicated.connection.filter(|held| held.is_held()).map(|held| held.connection);
    let leads_there = |known: &PoolKey| PoolKey { resp3: key.resp3, ..known.clone() } == key;
    let held = held.filter(|held| pool.get(held.id()).is_some_and(|known| leads_there(&known.key)));
    // Another one is given up for it, which no part of a command may have chosen by then.
    let known = state.connection(&key).filter(|known| pool.is_usable(known.id()));
    if let Some(known) = known.filter(|known| held.is_none_or(|held| held == *known)) {
        return Ok((known, true));
    }
    if let Some(held) = held {
        agree_on_protocol(context, client, held);
    }
    let own = match held {
        // What the client has said holds for this one, too.
        Some(held) => held,
        None => context.upstreams.dedicated(client.id, key.clone(), true, context.effects)?,
    };
    replace(context, client, key, own);
    Ok((own, false))
}

/// A connection takes the place of the one with the same pool key, if there was one, over which keys may
/// have been read.
fn replace(context: &mut Context<'_>, client: &mut Client, key: PoolKey, own: DedicatedConnection) {
    let Some(state) = &mut client.dedicated.state else { return };
    let before: Vec<_> = state.connections.extract_if(.., |(of, _)| *of == key).collect();
    state.connections.push((key, own));
    if let Some(known) = context.upstreams.pool.get_mut(own.id()) {
        known.purpose = Purpose::Pushes(client.id);
    }
    if before.is_empty() {
        return;
    }
    for (_, before) in before {
        context.upstreams.retire_dedicated(before.id(), context.effects);
    }
    forget_keys(client);
}

/// What the client has said holds for a connection that it had before, or has got to wait over.
pub fn adopt(context: &mut Context<'_>, client: &mut Client, own: DedicatedConnection) {
    if client.dedicated.state.is_none() || client.dedicated.has_told(own.id()) {
        return;
    }
    let Some(key) = context.upstreams.pool.get(own.id()).map(|known| known.key.clone()) else { return };
    replace(context, client, key, own);
    tell(context, client, own, None);
}

/// Says over a new connection what its client has said, but for what is about to be said.
pub fn tell(context: &mut Context<'_>, client: &Client, own: DedicatedConnection, but: Option<StateItem>) {
    let Some(state) = &client.dedicated.state else { return };
    let mut control = |words: &[&[u8]]| context.upstreams.control(own, Control::State, context.effects, words);
    for (name, words) in &state.settings {
        if but != Some(StateItem::Setting(name)) {
            control(&words.iter().map(Vec::as_slice).collect::<Vec<_>>());
        }
    }
    if let Some(tracking) = state.tracking.as_ref().filter(|_| but != Some(StateItem::Tracking)) {
        control(&tracking.options.words(&tracking.options.prefixes, tracking.is_wide));
    }
}

/// The client's own connection with this pool key, which knows all that the client has said; if it has
/// said nothing, any one of its own.
///
/// # Errors
/// The server is backed off from.
pub fn connection(
    context: &mut Context<'_>,
    client: &mut Client,
    key: PoolKey,
) -> Result<DedicatedConnection, Obstacle> {
    let (own, is_known) = own(context, client, key)?;
    if !is_known {
        tell(context, client, own, None);
    }
    Ok(own)
}

/// The connection of a client with a state, in the place of a shared one.
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
        (ConnectionRoute::Dedicated(own), _) => {
            adopt(context, client, own);
            own
        }
        (ConnectionRoute::Shared(_), None) => return Ok(route),
    };
    prepare(context, client, own);
    Ok(ConnectionRoute::Dedicated(own))
}

/// Tells a server that the next command is to be tracked, if CLIENT CACHING has said so. What isn't to
/// be tracked is all the same: the client is told of more keys then.
pub fn prepare(context: &mut Context<'_>, client: &mut Client, own: DedicatedConnection) {
    if !client.dedicated.has_told(own.id()) {
        return;
    }
    let Some(tracking) = client.dedicated.tracking_mut() else { return };
    if tracking.caching == Some(true) && !tracking.prepared.contains(&own.id()) {
        tracking.prepared.push(own.id());
        context.upstreams.control(own, Control::State, context.effects, &[b"CLIENT", b"CACHING", b"YES"]);
    }
}

/// The same for another part of the command over a connection that was told so: what CLIENT CACHING says
/// holds for one command of a server's.
pub fn prepare_more(context: &mut Context<'_>, client: &Client, connection: ConnectionRoute) {
    let is_wanted = client.dedicated.tracking().is_some_and(|tracking| tracking.caching == Some(true));
    if let ConnectionRoute::Dedicated(own) = connection
        && is_wanted
        && client.dedicated.has_told(own.id())
    {
        context.upstreams.control(own, Control::State, context.effects, &[b"CLIENT", b"CACHING", b"YES"]);
    }
}

/// A command of a client that tracks was taken. What CLIENT CACHING has said holds for one command, or
/// for a transaction.
pub fn taken(client: &mut Client, known: Option<Known>, sequence: Sequence) {
    let is_in_transaction = client.transaction.is_some();
    let Some(tracking) = client.dedicated.tracking_mut() else { return };
    if is_in_transaction || known.is_some_and(|known| known.container.name == "client") {
        return;
    }
    let is_wanted = tracking.caching.take() == Some(true);
    tracking.prepared.clear();
    // A probe, or a script that has to be loaded, goes between CLIENT CACHING and the command.
    if is_wanted && known.is_none_or(|known| script::may_run_code(known.command)) {
        tracking.note_untracked(sequence);
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
    untracked(client, to);
    Ok(own)
}

/// A command is sent again, without what CLIENT CACHING has said: ASKING has to be the command right
/// before, and the command may have been refused in the place of the one that was meant.
pub fn untracked(client: &mut Client, to: PendingReply) {
    if let (Some(tracking), Some(owner)) = (client.dedicated.tracking_mut(), to.command()) {
        tracking.note_untracked(owner.sequence);
    }
}

/// A script has to be loaded between CLIENT CACHING and a transaction, which then isn't tracked.
pub fn names_scripts(client: &mut Client, sequence: Sequence) {
    if let Some(tracking) = client.dedicated.tracking_mut().filter(|tracking| tracking.caching == Some(true)) {
        tracking.note_untracked(sequence);
    }
}

/// Takes back what a server has refused, when all have answered. Returns true if the client is to forget
/// all keys that it has read.
pub fn settle(upstreams: &mut Upstreams, client: &mut Client, effects: &mut Effects) -> bool {
    let next = client.output.queue.next();
    let Some(state) = &mut client.dedicated.state else { return false };
    let pending = state.pending.take_if(|pending| next > pending.sequence);
    if let Some(refused) = pending.filter(|pending| pending.is_refused) {
        state.take_back(refused.what);
        if state.is_empty() {
            end(upstreams, client, effects);
            return false;
        }
    }
    let tracking = client.dedicated.tracking_mut();
    tracking.is_some_and(|tracking| tracking.take_untracked(next))
}

/// The client is gone, or is as one that has just connected.
pub fn disown(upstreams: &mut Upstreams, client: &mut Client, effects: &mut Effects) {
    let Some(state) = client.dedicated.state.take() else { return };
    for (_, own) in state.connections {
        upstreams.pool.close(own.id(), effects);
    }
}

/// The push that lets a client forget all keys that it has read.
const FORGET: &[u8] = b">2\r\n$10\r\ninvalidate\r\n_\r\n";

/// Tells a client that tracks to forget all keys that it has read, or has asked for: it may not be told of
/// their changes.
pub fn forget_keys(client: &mut Client) {
    if client.dedicated.tracking().is_some() && client.session.resp3 {
        client.output.queue.push(FORGET, PushOrder::Twice, &mut client.output.out);
    }
}

/// The same for the keys in the replies that the client has.
pub fn forget_answered(client: &mut Client) {
    if client.dedicated.tracking().is_some() && client.session.resp3 {
        client.output.queue.push(FORGET, PushOrder::AtOnce, &mut client.output.out);
    }
}

/// The target to whose servers a connection leads.
pub fn target_of(upstreams: &Upstreams, config: &HostConfig, connection: ConnectionId) -> Option<usize> {
    let endpoint = &upstreams.pool.get(connection)?.key.endpoint;
    config.target_at(endpoint)
}
