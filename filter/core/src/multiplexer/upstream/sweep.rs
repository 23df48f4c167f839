//! Looking through the connections: for those over which Redis is silent for too long, and for those
//! that nobody uses.

use super::Upstreams;
use super::availability::Peer;
use super::connection::{SLOW_HANDSHAKE, Stage, UpstreamConnection};
use super::discovery::away;
use super::events::Event;
use super::failover::{transaction_unsent, waited_in_vain};
use super::health::Health;
use super::loss::{self, Loss, give_up};
use super::patience::SILENCE;
use super::pending::{InFlight, PendingReply};
use super::pool::IDLE_TIMEOUT;
use crate::multiplexer::effects::Effects;
use crate::multiplexer::ids::ConnectionId;
use crate::resp::encode;
use std::time::Duration;

/// How much longer than others a command may take that runs code: Redis says that it is busy only
/// after some time, five seconds by default (`busy-reply-threshold`).
const CODE_GRACE: Duration = Duration::from_secs(2);

/// Looks through all connections.
pub fn sweep(upstreams: &mut Upstreams, effects: &mut Effects) {
    upstreams.pool.sent.forget();
    for id in upstreams.pool.ids() {
        let Some(connection) = upstreams.pool.get(id) else { continue };
        if connection.reader.is_paused {
            // Redis isn't silent: nobody listens.
            continue;
        }
        if connection.pending.is_empty() {
            look_at_idle(upstreams, id, effects);
        } else {
            look_at_silent(upstreams, id, effects);
        }
    }
}

fn look_at_idle(upstreams: &mut Upstreams, id: ConnectionId, effects: &mut Effects) {
    let Some(connection) = upstreams.pool.get(id) else { return };
    if !connection.is_quiet() || !connection.ends_when_idle() {
        return;
    }
    let end = connection.last_activity + IDLE_TIMEOUT;
    if end <= effects.now {
        upstreams.pool.close(id, effects);
    } else {
        effects.timers.sweep_by(Some(end));
    }
}

fn look_at_silent(upstreams: &mut Upstreams, id: ConnectionId, effects: &mut Effects) {
    let now = effects.now;
    let Some(connection) = upstreams.pool.get(id) else { return };
    let first_due = connection.pending.iter().filter_map(|in_flight| due(connection, in_flight, now)).min();
    if connection.last_activity + SLOW_HANDSHAKE <= now {
        let staged = connection.pending.iter().filter(|in_flight| connection.is_staged(in_flight));
        if let Some(until) = staged.map(|in_flight| in_flight.failover_deadline(now)).max() {
            away::await_failover(&mut upstreams.discovery, &connection.key.endpoint, until, effects);
        }
    }
    let waits = connection.pending.front().is_none_or(|front| front.patience.is_waiting());
    // What waits for the connection before it says nothing about its own.
    let is_checked = !waits && matches!(connection.stage, Stage::Ready);
    let check = connection.last_activity + SILENCE;
    let is_silent = is_checked && check <= now;
    if is_checked && !is_silent {
        effects.timers.sweep_by(Some(check));
    }
    let is_due = first_due.is_some_and(|first_due| first_due <= now);
    if !is_due {
        effects.timers.sweep_by(first_due);
    }
    if !is_silent && !is_due {
        return;
    }
    let peer = Peer::new(&connection.key.endpoint, connection.key.node);
    let (key, last_activity) = (connection.key.clone(), connection.last_activity);
    if is_due {
        let is_busy = upstreams.health.is_busy(&peer, now);
        match expire(upstreams, id, is_busy, effects) {
            Expiry::None => {}
            // Whoever comes finds out over another connection whether Redis answers: what isn't sent
            // isn't executed either.
            Expiry::Some => upstreams.set_aside(id),
            Expiry::All => return give_up(upstreams, id, Loss::Silent, effects),
        }
    }
    if !is_silent {
        return;
    }
    match upstreams.health.of(&peer, last_activity, now) {
        Some(Health::Serves) => return give_up(upstreams, id, Loss::Dead, effects),
        // What comes goes over another connection, where Redis says so itself.
        Some(Health::Busy) => upstreams.set_aside(id),
        None => {}
    }
    upstreams.discovery.suspect(&key.endpoint, effects);
    upstreams.health.ask(&key, &mut upstreams.pool, effects);
}

/// When a command will have been unanswered for too long; `None`: it waits as long as it takes.
fn due(connection: &UpstreamConnection, in_flight: &InFlight, now: Duration) -> Option<Duration> {
    match connection.is_staged(in_flight) {
        true => Some(in_flight.failover_deadline(now)),
        false => in_flight.due(connection.last_activity, now),
    }
}

/// Which commands over a connection have been unanswered for too long.
enum Expiry {
    /// None.
    None,
    /// Some of them.
    Some,
    /// All that somebody waits for.
    All,
}

/// Tells the clients whose commands have been unanswered for too long. Their replies, should they
/// come, are for nobody.
fn expire(upstreams: &mut Upstreams, id: ConnectionId, is_busy: bool, effects: &mut Effects) -> Expiry {
    let now = effects.now;
    let Some(connection) = upstreams.pool.get_mut(id) else { return Expiry::None };
    let is_sent = matches!(connection.stage, Stage::Ready);
    let (mut error, mut abort) = (Vec::new(), Vec::new());
    encode::error(&mut error, error_text(connection).as_bytes());
    encode::error(&mut abort, transaction_unsent(&error_text(connection)).as_bytes());
    let has_begun = connection.reader.has_passed_on_part();
    let (mut expired, mut is_awaited, mut is_of_no_use) = (Vec::new(), false, false);
    for (place, in_flight) in connection.pending.iter().enumerate() {
        let due = due(connection, in_flight, now).map(|due| {
            match in_flight.may_run_code && !connection.is_staged(in_flight) {
                true if is_busy => now + CODE_GRACE,
                true => due + CODE_GRACE,
                false => due,
            }
        });
        if due.is_none_or(|due| due > now) {
            is_awaited |= in_flight.what.is_awaited();
            effects.timers.sweep_by(due);
        } else if in_flight.what.command().is_some() {
            expired.push((place, *in_flight));
        } else {
            is_of_no_use |= in_flight.what.is_awaited();
        }
    }
    let places = expired.iter().map(|(place, _)| *place);
    if is_sent {
        for place in places {
            connection.pending.get_mut(place).into_iter().for_each(|sent| sent.what = PendingReply::Ignored);
        }
    } else {
        connection.withdraw(&places.collect::<Vec<_>>());
    }
    let has_expired = !expired.is_empty();
    let unsent = expired.iter().filter(|_| !is_sent);
    upstreams.pool.events.extend(unsent.filter_map(|(_, in_flight)| waited_in_vain(in_flight, now)));
    upstreams.pool.events.extend(expired.into_iter().filter_map(|(place, InFlight { what, .. })| {
        let owner = what.command()?;
        let is_abort = !is_sent && matches!(what, PendingReply::Exec(_));
        let error = if is_abort { abort.clone() } else { error.clone() };
        Some(match place == 0 && has_begun {
            true => Event::Truncated { owner, error },
            false => Event::Reply { to: what, reply: error },
        })
    }));
    match is_of_no_use || is_sent && !is_awaited {
        true => Expiry::All,
        false if has_expired => Expiry::Some,
        false => Expiry::None,
    }
}

/// The error for commands that have been unanswered for too long.
fn error_text(connection: &UpstreamConnection) -> String {
    match connection.stage {
        // They are taken back.
        Stage::AwaitsPredecessor => {
            format!("ERR redis-mesh: {} didn't answer in time", connection.key.endpoint.shown())
        }
        Stage::Handshake(_) | Stage::Ready | Stage::Refused(_) => {
            loss::outage(connection, Loss::Silent).text().to_owned()
        }
    }
}
