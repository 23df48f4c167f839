//! Connections that a client has for itself: to wait, to watch keys, to change their state.

use super::backlog;
use super::connect::{dedicated_key, keep_order};
use super::context::{Context, Obstacle, Request, expect};
use super::state;
use super::subscribe;
use crate::command::each_command;
use crate::command::sharing::Sharing;
use crate::multiplexer::client::{Client, Dedicated, Session, Wait};
use crate::multiplexer::effects::Effects;
use crate::multiplexer::ids::ConnectionId;
use crate::multiplexer::routing::decision::Forward;
use crate::multiplexer::routing::target::write;
use crate::multiplexer::upstream::Upstreams;
use crate::multiplexer::upstream::events::Event;
use crate::multiplexer::upstream::pending::{Control, InFlight, PendingReply};
use crate::multiplexer::upstream::retry::Retry;

/// Sends a command over a connection of the client's own. Nothing overtakes anything: what was
/// sent before has been answered, and what comes after waits for the answer.
pub fn over_dedicated(
    context: &mut Context<'_>,
    client: &mut Client,
    request: Request<'_>,
    forward: &Forward,
) -> Result<(), Obstacle> {
    let Forward { edits, sharing, .. } = forward;
    let dedicated = choose(context, client, forward)?;
    if *sharing == Sharing::AwaitsWrites {
        context.upstreams.precede_wait(dedicated.connection, context.effects);
    }
    if *sharing != Sharing::Interrupts {
        state::adopt(context, client, dedicated.connection);
        state::prepare(context, client, dedicated.connection);
    }
    let to = expect(client, request, edits);
    let patience = client.rules.config.patience.of_command(*sharing);
    let in_flight = InFlight { patience, ..to.into() };
    context.upstreams.send_dedicated(dedicated.connection, in_flight, context.effects, |out| {
        write(request.args, edits, request.raw, out);
    });
    client.dedicated.connection = Some(Dedicated {
        is_watching: dedicated.is_watching || *sharing == Sharing::Watches,
        has_watched: dedicated.is_watching,
        is_special: dedicated.is_special || *sharing == Sharing::ChangesConnection,
        ..dedicated
    });
    client.pause.wait = Some(Wait::Answers);
    Ok(())
}

/// The client's own connection, or one that becomes it.
fn choose(context: &mut Context<'_>, client: &mut Client, forward: &Forward) -> Result<Dedicated, Obstacle> {
    let Forward { target, sharing, .. } = *forward;
    match client.dedicated.connection {
        Some(dedicated) if dedicated.is_held() && client.rules.config.is_same(dedicated.target, target) => {
            keep_order(client, dedicated)?;
            state::agree_on_protocol(context, client, dedicated.connection);
            Ok(dedicated)
        }
        // What is watched at one target can't be executed at another.
        Some(dedicated) if dedicated.is_watching && sharing == Sharing::Watches => {
            Err(Obstacle::Error(client.rules.config.apart(dedicated.target, target).into()))
        }
        _ if !client.output.queue.is_empty() => Err(Obstacle::Wait(Wait::Answers)),
        // A second connection would have to be kept beside this one.
        Some(dedicated) if dedicated.is_held() => Err(Obstacle::Error(
            "ERR redis-mesh: a client that watches keys, or has another state of its connection, can't wait at another place".into(),
        )),
        _ => {
            let key = dedicated_key(context, client, target)?;
            let connection = match client.dedicated.state {
                Some(_) if sharing != Sharing::Interrupts => state::connection(context, client, key)?,
                _ => {
                    let key = if sharing == Sharing::Interrupts { key.heard_while_busy() } else { key };
                    let pushes = sharing == Sharing::ChangesConnection && client.session.resp3;
                    context.upstreams.dedicated(client.id, key, pushes, context.effects)?
                }
            };
            Ok(Dedicated {
                connection,
                target,
                is_watching: false,
                has_watched: false,
                is_special: false,
                was_asked: false,
            })
        }
    }
}

/// Keys are watched no more.
pub fn unwatch(context: &mut Context<'_>, client: &mut Client) {
    client.dedicated.lost_watch = false;
    let Some(dedicated) = client.dedicated.connection.as_mut().filter(|dedicated| dedicated.is_watching) else {
        return;
    };
    dedicated.is_watching = false;
    // What follows may go over another connection and must not overtake what went over this one.
    client.pause.wait = Some(Wait::Answers);
    context.upstreams.control(dedicated.connection, Control::Unwatch, context.effects, &[b"UNWATCH"]);
}

/// Nothing is pending on a connection of the client's any more: it is given back unless it is
/// held.
pub fn on_idle(upstreams: &mut Upstreams, client: &mut Client, connection: ConnectionId, effects: &mut Effects) {
    if !upstreams.pool.get(connection).is_some_and(|known| known.pending.is_empty()) {
        return;
    }
    if let Some(dedicated) = client.dedicated.connection.filter(|own| own.connection.id() == connection) {
        if dedicated.is_held() {
            return;
        }
        client.dedicated.connection = None;
    }
    if client.dedicated.has_told(connection) || client.subscriptions.needs(connection) {
        return;
    }
    client.dedicated.others.retain(|other| other.id() != connection);
    // Or it has been replaced while its UNWATCH was pending.
    client.subscriptions.forget_connection(connection);
    upstreams.release(connection, effects);
}

/// SELECT has failed at one of several servers, and may have been carried out over the client's own
/// connection to another one, which is taken back to the client's database.
pub fn stay_in_database(upstreams: &mut Upstreams, client: &Client, effects: &mut Effects) {
    if let Some(dedicated) = client.dedicated.connection.filter(|dedicated| dedicated.is_held()) {
        let database = client.session.database.to_string();
        upstreams.control(dedicated.connection, Control::Select, effects, &[b"SELECT", database.as_bytes()]);
    }
}

/// Gives back what a client has for itself.
pub fn disown(upstreams: &mut Upstreams, client: &mut Client, effects: &mut Effects) {
    backlog::disown(upstreams, client, effects);
    state::disown(upstreams, client, effects);
    match client.dedicated.connection.take() {
        Some(dedicated) if dedicated.is_held() => upstreams.pool.close(dedicated.connection.id(), effects),
        Some(dedicated) => upstreams.abandon(dedicated.connection.id(), effects),
        None => {}
    }
    for connection in std::mem::take(&mut client.dedicated.others) {
        upstreams.abandon(connection.id(), effects);
    }
    for connection in std::mem::take(&mut client.subscriptions).connections {
        upstreams.pool.close(connection, effects);
    }
}

/// RESET: the client is as one that has just connected.
pub fn reset(upstreams: &mut Upstreams, client: &mut Client, effects: &mut Effects) {
    disown(upstreams, client, effects);
    client.session = Session::default();
    client.transaction = None;
    client.dedicated.lost_watch = false;
    client.rules.forget_lookups();
}

/// True if the command is WATCH.
fn is_watch(retry: &Retry) -> bool {
    let mut is_watch = false;
    each_command(&retry.bytes, |args| is_watch |= args.get(0).eq_ignore_ascii_case(b"watch"));
    is_watch
}

/// What a client does over a connection of its own isn't done any more, and the client is told: it has
/// watched keys that aren't watched any more, or rules lead it elsewhere.
fn ends_here(context: &mut Context<'_>, client: &mut Client, retry: &Retry) -> bool {
    let to = retry.in_flight.what;
    if matches!(to, PendingReply::Exec(owner) if client.dedicated.watched_exec == Some(owner.sequence)) {
        // As after a change, the client tries again.
        let nil: &[u8] = if retry.key.resp3 { b"_\r\n" } else { b"*-1\r\n" };
        context.upstreams.pool.events.push_back(Event::Reply { to, reply: nil.to_vec() });
        return true;
    }
    let is_elsewhere = client.rules.config.target_at(&retry.key.endpoint).is_none();
    if is_elsewhere {
        // It ends as when Redis goes.
        client.cut_off(&mut context.effects.outbox);
    }
    is_elsewhere
}

/// The connection of the client's own over which an earlier command was sent on to the same node, after
/// the one that both had come over was given back.
fn other_to(context: &Context<'_>, client: &Client, retry: &Retry) -> Option<ConnectionId> {
    let pool = &context.upstreams.pool;
    let leads_there =
        |other: &ConnectionId| pool.is_usable(*other) && pool.get(*other).is_some_and(|known| known.key == retry.key);
    client.dedicated.others.iter().map(|other| other.id()).find(leads_there)
}

/// The client's own connection, if what was sent before has led it to the same node already.
fn current_to(context: &mut Context<'_>, client: &mut Client, retry: &Retry) -> Option<ConnectionId> {
    let current = client.dedicated.connection?.connection;
    if context.upstreams.pool.get(current.id())?.key.node != retry.key.node {
        return None;
    }
    // The client may have said something since it has that connection.
    state::agree_on_protocol(context, client, current);
    state::adopt(context, client, current);
    if client.dedicated.has_told(current.id()) {
        state::untracked(client, retry.in_flight.what);
    }
    Some(current.id())
}

/// What the client does over a connection of its own has to be done at another node.
pub fn follow_redirect(
    context: &mut Context<'_>,
    client: &mut Client,
    from: ConnectionId,
    (retry, asks): (Retry, bool),
) {
    if ends_here(context, client, &retry) || subscribe::follows(context, client, &retry) {
        return;
    }
    if let Some(current) = current_to(context, client, &retry) {
        return context.upstreams.resend_over(current, retry, asks, context.effects);
    }
    let dedicated = client.dedicated.connection;
    let is_told = client.dedicated.has_told(from);
    if let Some(other) = other_to(context, client, &retry).filter(|_| !is_told) {
        return context.upstreams.resend_over(other, retry, asks, context.effects);
    }
    let connection = match is_told {
        true => state::redirected(context, client, (retry.key.clone(), retry.in_flight.what)),
        false => {
            context.upstreams.dedicated(client.id, retry.key.clone(), false, context.effects).map_err(Obstacle::from)
        }
    };
    let connection = match connection {
        Ok(connection) => connection,
        Err(Obstacle::NoNode(_) | Obstacle::Unreachable(_)) => return client.cut_off(&mut context.effects.outbox),
        Err(Obstacle::Error(text)) => return context.upstreams.fail(retry.in_flight.what, &text),
        Err(Obstacle::Wait(_)) => {
            let text = "ERR redis-mesh: the cluster is changing; try again";
            return context.upstreams.fail(retry.in_flight.what, text);
        }
    };
    let Context { upstreams, effects, .. } = context;
    match dedicated.filter(|own| !is_told || own.connection.id() == from) {
        Some(dedicated) => {
            // Keys that were watched before, if there were any, aren't watched there.
            let has_watched = if is_watch(&retry) { dedicated.has_watched } else { dedicated.is_watching };
            client.dedicated.lost_watch |= has_watched;
            client.dedicated.connection = Some(Dedicated { connection, was_asked: asks, ..dedicated });
            let current = dedicated.connection.id();
            // Replies may be to come over the one before. No other client is to have it then.
            if let Some(before) = upstreams.pool.get_mut(from) {
                before.is_tainted = true;
            }
            if current != from && !is_told {
                upstreams.retire_dedicated(current, effects);
            }
        }
        None if is_told => {}
        // The connection was given back while this command was under way, so nothing depends on it.
        None => client.dedicated.others.push(connection),
    }
    upstreams.resend_over(connection.id(), retry, asks, effects);
}
