//! Clients that don't read their replies: their own connections, and how Redis is stopped there.

use super::context::{Context, Obstacle};
use super::failover::obstacle;
use crate::command::sharing::Sharing;
use crate::multiplexer::client::backlog::BacklogStage;
use crate::multiplexer::client::{Client, Wait};
use crate::multiplexer::effects::Effects;
use crate::multiplexer::ids::{ClientId, ClientTag, ConnectionId};
use crate::multiplexer::routing::decision::Decision;
use crate::multiplexer::slot_map::SlotMap;
use crate::multiplexer::timers::Timer;
use crate::multiplexer::upstream::backlogs::{COMMAND_COST, pause};
use crate::multiplexer::upstream::connection::Retirement;
use crate::multiplexer::upstream::pending::PendingReply;
use crate::multiplexer::upstream::pool_key::Purpose;
use crate::multiplexer::upstream::{ConnectionRoute, Upstreams};
use std::time::Duration;

/// How long a client that has sent more may take no bytes before it gets connections of its own.
/// Most go on reading sooner.
const PATIENCE: Duration = Duration::from_millis(20);
/// How soon it is looked again whether a client that has had its share may go on.
const RECHECK: Duration = Duration::from_millis(100);

/// More has come of a client. It may have read all, or not have read for too long.
pub fn on_input(context: &mut Context<'_>, client: &mut Client) {
    regulate(context.upstreams, client, context.effects);
    suspect(context.upstreams, client, context.effects);
}

/// The client takes no bytes from now on, or takes them again.
pub fn on_full(upstreams: &mut Upstreams, client: &mut Client, effects: &mut Effects) {
    regulate(upstreams, client, effects);
    if client.input.is_stalled {
        suspect(upstreams, client, effects);
    }
    client.wake(&mut effects.outbox);
}

/// A client that takes no bytes has sent more.
fn suspect(upstreams: &mut Upstreams, client: &mut Client, effects: &mut Effects) {
    if !client.output.is_full || client.dedicated.backlog.stage != BacklogStage::Absent {
        return;
    }
    if !upstreams.backlogs.are_allowed() || !is_free(client) {
        return;
    }
    if client.dedicated.backlog.is_known {
        return enter(upstreams, client, BacklogStage::Entering);
    }
    client.dedicated.backlog.stage = BacklogStage::Suspected;
    effects.timers.add(effects.now + PATIENCE, Timer::Backlog(client.id));
}

/// The time has come to look at a client again.
pub fn on_timer(upstreams: &mut Upstreams, client: &mut Client, effects: &mut Effects) {
    if client.dedicated.backlog.stage == BacklogStage::Suspected {
        client.dedicated.backlog.stage = BacklogStage::Absent;
        if client.output.is_full && client.input.is_stalled && is_free(client) {
            enter(upstreams, client, BacklogStage::Entering);
        }
    }
    regulate(upstreams, client, effects);
    client.wake(&mut effects.outbox);
}

/// True if a client's commands may go over connections of its own because it doesn't read: nothing
/// binds it to a connection that it has already.
fn is_free(client: &Client) -> bool {
    !client.is_closing()
        && client.dedicated.connection.is_none()
        && client.dedicated.others.is_empty()
        && client.dedicated.state.is_none()
        && !client.subscriptions.has_any()
}

fn enter(upstreams: &mut Upstreams, client: &mut Client, stage: BacklogStage) {
    client.dedicated.backlog.stage = stage;
    client.dedicated.backlog.is_known = true;
    upstreams.backlogs.enter();
    client.dedicated.backlog.limit = upstreams.backlogs.account(0, 0);
}

/// The client's own connection in the place of a shared one, if it is to have its own.
///
/// # Errors
/// What it has sent over shared ones isn't answered, or there is no connection.
pub fn separate(
    context: &mut Context<'_>,
    client: &mut Client,
    route: ConnectionRoute,
) -> Result<ConnectionRoute, Obstacle> {
    let ConnectionRoute::Shared(shared) = route else { return Ok(route) };
    match client.dedicated.backlog.stage {
        BacklogStage::Absent | BacklogStage::Suspected => return Ok(route),
        BacklogStage::Entering if !client.output.queue.is_empty() => return Err(Obstacle::Wait(Wait::Answers)),
        BacklogStage::Entering | BacklogStage::Separate => client.dedicated.backlog.stage = BacklogStage::Separate,
    }
    let Some(key) = context.upstreams.pool.get(shared.id()).map(|known| known.key.clone()) else { return Ok(route) };
    let usable = |own: &_| context.upstreams.pool.is_usable(ConnectionRoute::Dedicated(*own).id());
    if let Some(own) = client.dedicated.backlog.connection(&key).filter(usable) {
        return Ok(ConnectionRoute::Dedicated(own));
    }
    let own = context.upstreams.separate(client.id, key.clone(), context.effects);
    let own = own.map_err(|missing| obstacle(context, client, missing))?;
    client.dedicated.backlog.connections.retain(|(of, _)| *of != key);
    client.dedicated.backlog.connections.push((key, own));
    Ok(ConnectionRoute::Dedicated(own))
}

/// Stops Redis where the client doesn't read, or lets it go on; and gives the client's own
/// connections back when it has read all.
pub fn regulate(upstreams: &mut Upstreams, client: &mut Client, effects: &mut Effects) {
    if !client.output.is_full {
        go_on(upstreams, client, effects);
    }
    if !client.dedicated.backlog.is_begun() {
        return;
    }
    if client.output.queue.is_empty() && !client.output.is_full {
        return leave(upstreams, client, effects);
    }
    let sent = |upstreams: &Upstreams, id: ConnectionId| {
        upstreams
            .pool
            .get(id)
            .map_or((0, 0), |own| (own.replay.len() + own.send.len() + own.reader.held(), own.pending.len()))
    };
    let own = client.dedicated.backlog.connections.iter().map(|(_, own)| sent(upstreams, own.id()));
    let (own, under_way) = own.fold((0, 0), |(a, b), (bytes, replies)| (a + bytes, b + replies));
    // A command that was sent in parts costs as much as several.
    let parts = COMMAND_COST * under_way.saturating_sub(client.output.queue.len());
    let held = own + parts + client.output.queue.held() + client.output.out.len() + client.output.unread;
    client.dedicated.backlog.limit = upstreams.backlogs.account(client.dedicated.backlog.held, held);
    client.dedicated.backlog.held = held;
    if client.input.is_stalled && !client.dedicated.backlog.has_room(client.output.queue.len()) {
        effects.timers.add_about(effects.now + RECHECK, Timer::Backlog(client.id));
    }
    // Where replies wait for those of another server, that one isn't stopped.
    let next = client.output.queue.next();
    let waits_for_others = client.output.queue.held() > upstreams.backlogs.tolerated;
    for (_, own) in &client.dedicated.backlog.connections {
        let is_ahead = || upstreams.pool.get(own.id()).and_then(|own| own.next_sequence()).is_some_and(|at| at > next);
        let is_paused = client.output.is_full || waits_for_others && is_ahead();
        pause(&mut upstreams.pool, own.id(), is_paused, effects);
    }
}

/// Redis goes on where it was stopped for this client among others.
fn go_on(upstreams: &mut Upstreams, client: &mut Client, effects: &mut Effects) {
    for stopped in std::mem::take(&mut client.dedicated.backlog.stopped) {
        pause(&mut upstreams.pool, stopped, false, effects);
    }
}

/// The client's commands go over shared connections again: all that it has sent is answered.
pub fn leave(upstreams: &mut Upstreams, client: &mut Client, effects: &mut Effects) {
    if !client.dedicated.backlog.is_begun() {
        return;
    }
    let backlog = &mut client.dedicated.backlog;
    upstreams.backlogs.leave(std::mem::take(&mut backlog.held));
    backlog.stage = BacklogStage::Absent;
    client.output.queue.shrink();
    for (_, own) in std::mem::take(&mut client.dedicated.backlog.connections) {
        pause(&mut upstreams.pool, own.id(), false, effects);
        upstreams.release(own.id(), effects);
    }
}

/// Prepares for a command of a client that doesn't read. One that needs another connection than
/// those that the client has because of that is executed when all before it are answered.
///
/// # Errors
/// It waits for that.
pub fn prepare(context: &mut Context<'_>, client: &mut Client, decision: &Decision) -> Result<(), Obstacle> {
    if !client.dedicated.backlog.is_begun() || may_be_separate(client, decision) {
        return Ok(());
    }
    if !client.output.queue.is_empty() {
        return Err(Obstacle::Wait(Wait::Answers));
    }
    leave(context.upstreams, client, context.effects);
    Ok(())
}

/// True if a command of a client that doesn't read needs no other connection than those that the
/// client has because of that.
fn may_be_separate(client: &Client, decision: &Decision) -> bool {
    let is_safe = |sharing: &Sharing| matches!(sharing, Sharing::Safe(_));
    match decision {
        Decision::Forward(forward) => client.transaction.is_some() || is_safe(&forward.sharing),
        Decision::FanOut(fan_out) => is_safe(&fan_out.sharing),
        Decision::Answer(_)
        | Decision::Refuse(_)
        | Decision::Deny(_)
        | Decision::Split(..)
        | Decision::Exec(_)
        | Decision::Inquire(_)
        | Decision::Unwatch(_) => true,
        Decision::Hello(_)
        | Decision::Present(_)
        | Decision::Select(_)
        | Decision::Track(_)
        | Decision::Set(_)
        | Decision::Subscribe(_)
        | Decision::Monitor
        | Decision::Reset => false,
    }
}

/// The client is gone, or is as one that has just connected.
pub fn disown(upstreams: &mut Upstreams, client: &mut Client, effects: &mut Effects) {
    go_on(upstreams, client, effects);
    if !client.dedicated.backlog.is_begun() {
        return;
    }
    upstreams.backlogs.leave(std::mem::take(&mut client.dedicated.backlog.held));
    client.dedicated.backlog.stage = BacklogStage::Absent;
    for (_, own) in std::mem::take(&mut client.dedicated.backlog.connections) {
        upstreams.pool.close(own.id(), effects);
    }
}

/// Replies have come over a shared connection for a client that takes no bytes. If many more are
/// to come for it, other commands go over another connection from then on. What the client doesn't
/// read stays at Redis as soon as nobody else waits for a reply over this one.
pub fn leave_shared(
    upstreams: &mut Upstreams,
    clients: &mut SlotMap<ClientTag, Client>,
    (id, shared): (ClientId, ConnectionId),
    effects: &mut Effects,
) {
    let is_allowed = upstreams.backlogs.are_allowed();
    let Some(known) = upstreams.pool.get(shared).filter(|known| is_allowed && known.purpose == Purpose::Shared) else {
        return;
    };
    // A client that waits for this connection's end waits for whoever doesn't read, too.
    let is_awaited = matches!(known.retirement, Retirement::Draining { successor: Some(_) });
    // Of a command that was sent in parts, others are under way elsewhere.
    let (mut own, mut is_whole) = (0, true);
    let (mut is_for_others, mut others) = (false, Vec::new());
    for in_flight in &known.pending {
        match in_flight.what.command() {
            Some(owner) if owner.client == id => {
                own += 1;
                is_whole &= !matches!(in_flight.what, PendingReply::Part(..));
            }
            Some(owner) if others.last() != Some(&owner.client) => others.push(owner.client),
            Some(_) => {}
            None => is_for_others |= in_flight.what.is_awaited(),
        }
    }
    let Some(client) = clients.get(id) else { return };
    if own == 0 || client.output.window.expected(own) <= upstreams.backlogs.tolerated {
        return;
    }
    // What goes over other connections would be overtaken.
    let is_all =
        is_whole && own == client.output.queue.len() && !client.dedicated.backlog.is_begun() && is_free(client);
    if others.is_empty() && !is_for_others && is_all {
        return take_over(upstreams, clients, (id, shared), effects);
    }
    upstreams.set_aside(shared);
    others.push(id);
    let reads = |id: &ClientId| clients.get(*id).is_some_and(|client| !client.output.is_full);
    if is_awaited || is_for_others || others.iter().any(reads) {
        return;
    }
    for id in others {
        if let Some(client) = clients.get_mut(id) {
            client.dedicated.backlog.stopped.push(shared);
        }
    }
    pause(&mut upstreams.pool, shared, true, effects);
}

/// A shared connection over which only this client waits for replies becomes its own.
fn take_over(
    upstreams: &mut Upstreams,
    clients: &mut SlotMap<ClientTag, Client>,
    (id, shared): (ClientId, ConnectionId),
    effects: &mut Effects,
) {
    let Some(client) = clients.get_mut(id) else { return };
    let Some(connection) = upstreams.pool.take_over(shared, id) else { return };
    let Some(key) = upstreams.pool.get(shared).map(|known| known.key.clone()) else { return };
    enter(upstreams, client, BacklogStage::Separate);
    client.dedicated.backlog.connections.push((key, connection));
    // It goes on over the same connection, so nothing is overtaken.
    if let Some(Wait::AnswersBefore(_)) = client.pause.wait {
        client.pause.wait = None;
    }
    regulate(upstreams, client, effects);
    client.wake(&mut effects.outbox);
}
