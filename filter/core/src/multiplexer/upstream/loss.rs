//! What becomes of the commands of a connection that is lost.

use super::Upstreams;
use super::availability::{Outage, Peer};
use super::connection::{Attempt, Stage, UpstreamConnection};
use super::copies;
use super::events::{Event, LostConnection};
use super::failover;
use super::health::Health;
use super::pending::{InFlight, PendingReply};
use super::pool_key::Purpose;
use super::redirect_gate;
use super::retry::Retry;
use crate::multiplexer::effects::Effects;
use crate::multiplexer::ids::ConnectionId;
use crate::multiplexer::outbox::Output;
use crate::multiplexer::stats::CopyFate;
use crate::resp::encode;
use std::collections::HashMap;
use std::time::Duration;

/// How soon a connection that doesn't come about has to fail to be tried once more.
const REOPENED_WITHIN: Duration = Duration::from_secs(1);

/// How often a read is sent again since its connection was lost.
const MAX_REPEATS: u8 = 4;

/// How a connection was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// It ended.
    Ended,
    /// Redis was silent for too long.
    Silent,
    /// Redis was silent, and answers over another connection.
    Dead,
    /// Its node is no longer what it was, and doesn't answer.
    Replaced,
}

/// Closes a connection although commands are pending.
pub fn give_up(upstreams: &mut Upstreams, id: ConnectionId, loss: Loss, effects: &mut Effects) {
    effects.outbox.push(Output::CloseUpstream(id));
    lost(upstreams, id, loss, effects);
}

/// Gives up the connections that discovery has found to lead to nodes that lost their role.
pub fn give_up_replaced(upstreams: &mut Upstreams, effects: &mut Effects) {
    for id in std::mem::take(&mut upstreams.pool.replaced) {
        give_up(upstreams, id, Loss::Replaced, effects);
    }
}

/// A connection could not be opened, or is gone.
pub fn lost(upstreams: &mut Upstreams, id: ConnectionId, loss: Loss, effects: &mut Effects) {
    let Some(mut connection) = upstreams.pool.remove(id, effects) else { return };
    if may_be_reopened(&connection, loss, effects.now) {
        if connection.key.node.is_some() {
            upstreams.discovery.suspect(&connection.key.endpoint, effects);
        }
        return upstreams.pool.reopen(*connection, effects);
    }
    let outage = outage(&connection, loss);
    let peer = Peer::new(&connection.key.endpoint, connection.key.node);
    if matches!(connection.stage, Stage::Handshake(_)) {
        upstreams.pool.availability.back_off(peer, outage.clone(), effects.now);
    }
    match connection.purpose {
        Purpose::Discovery(cluster) => {
            return upstreams.discovery.connection_lost(cluster, id, outage, &mut upstreams.pool, effects);
        }
        Purpose::HealthCheck => {
            if connection.refused().is_some() {
                // That is an answer.
                upstreams.health.answered(id, Health::Serves, effects);
            }
            return upstreams.health.connection_lost(id, effects);
        }
        Purpose::Introduction => {
            let Upstreams { introductions, pool, .. } = upstreams;
            introductions.connection_lost(id, &connection, (loss == Loss::Ended, outage), pool, effects);
            return pool.events.push_back(Event::Introduced(Box::new(connection.key.endpoint)));
        }
        Purpose::Shared | Purpose::Backlog(_) | Purpose::Dedicated(_) | Purpose::Pushes(_) | Purpose::Idle => {}
    }
    if connection.key.node.is_some() {
        upstreams.discovery.suspect(&connection.key.endpoint, effects);
    }
    let repeated = repeated(upstreams, &connection, loss);
    fail_pending(upstreams, (id, &mut connection, repeated), outage, effects);
}

/// Which pending commands are sent again. Reads of clients that have sent nothing behind them but reads
/// are: the loss of a connection that clients share mustn't cost all of them what one has caused. So that
/// one doesn't cause it again and again, whatever was the next to be answered is told when a second
/// connection is lost.
fn repeated(upstreams: &Upstreams, connection: &UpstreamConnection, loss: Loss) -> Vec<bool> {
    let mut repeated = vec![false; connection.pending.len()];
    let is_answered_elsewhere = matches!(loss, Loss::Ended | Loss::Dead | Loss::Replaced);
    let is_ready = matches!(connection.stage, Stage::Ready | Stage::AwaitsPredecessor);
    if connection.purpose != Purpose::Shared || !is_ready || !is_answered_elsewhere {
        return repeated;
    }
    // What follows may wait for a connection's successor.
    let others = upstreams.pool.iter().map(|(_, other)| other);
    let others = others.filter(|other| other.key.endpoint == connection.key.endpoint);
    let mut last_others = HashMap::new();
    for in_flight in others.flat_map(|other| &other.pending).chain(&connection.pending) {
        if let Some(owner) = in_flight.what.command().filter(|_| !in_flight.is_repeatable()) {
            let last = last_others.entry(owner.client).or_insert(owner.sequence);
            *last = owner.sequence.max(*last);
        }
    }
    for (place, (in_flight, is_repeated)) in connection.pending.iter().zip(&mut repeated).enumerate() {
        let Some(owner) = in_flight.what.command() else { continue };
        let is_followed = last_others.get(&owner.client).is_some_and(|last| *last > owner.sequence);
        let is_suspect = place == 0 && in_flight.sendings.redirects > 0;
        *is_repeated = in_flight.is_repeatable()
            && in_flight.replay > 0
            && in_flight.sendings.redirects < MAX_REPEATS
            && !is_followed
            && !is_suspect;
    }
    repeated
}

/// What was to come over a lost connection won't come.
fn fail_pending(
    upstreams: &mut Upstreams,
    (id, connection, repeated): (ConnectionId, &mut UpstreamConnection, Vec<bool>),
    outage: Outage,
    effects: &mut Effects,
) {
    let mut repeated = repeated.into_iter();
    let mut error = Vec::new();
    encode::error(&mut error, outage.text().as_bytes());
    // What a client waits for or has begun there is lost: it is told by the end of its own connection,
    // as by that of Redis.
    let ends_client = connection.purpose.client().is_some() && matches!(outage, Outage::Unreachable(_));
    let (mut subscriptions, mut is_awaited) = (Vec::new(), false);
    let mut is_truncated = connection.reader.has_passed_on_part();
    while let Some(in_flight) = connection.pending.pop_front() {
        let bytes = connection.take_replay(in_flight);
        let is_repeated = repeated.next().unwrap_or_default();
        if failover::may_overtake(upstreams, id, in_flight.what) {
            failover::overtaken(upstreams, id, in_flight, &bytes);
        }
        is_awaited |= in_flight.what.is_awaited() && !matches!(in_flight.what, PendingReply::Handshake(_));
        match in_flight.what {
            PendingReply::Command(owner) | PendingReply::Exec(owner) if std::mem::take(&mut is_truncated) => {
                upstreams.pool.events.push_back(Event::Truncated { owner, error: error.clone() });
            }
            PendingReply::Subscription(owner, more, _) => subscriptions.push((owner.sequence, more)),
            PendingReply::Copy(host) | PendingReply::CopiedExec(host) => {
                copies::tell(upstreams, host, CopyFate::Failed, 1);
            }
            PendingReply::Exec(owner) if ends_client => copies::exec_failed(upstreams, owner),
            _ if ends_client => {}
            what => {
                is_truncated = false;
                if let Some(retry) = redirect_gate::at_the_master(upstreams, connection, in_flight, &bytes) {
                    failover::resend(upstreams, retry, false, effects);
                } else if is_repeated {
                    let in_flight = in_flight.again();
                    let retry = Retry { in_flight, bytes, key: connection.key.clone() };
                    failover::resend(upstreams, retry, false, effects);
                } else if may_have_been_replaced(connection, in_flight, &bytes) {
                    let retry = Retry { in_flight, bytes, key: connection.key.clone() };
                    failover::strand(upstreams, retry, outage.text().to_owned(), effects);
                } else if what.command().is_some() || matches!(what, PendingReply::Inquiry(_)) {
                    upstreams.pool.events.push_back(Event::Failed { to: what, outage: outage.clone() });
                }
            }
        }
    }
    if let Some(client) = connection.purpose.client() {
        let is_for_pushes = matches!(connection.purpose, Purpose::Pushes(_));
        let lost = LostConnection { connection: id, is_for_pushes, subscriptions, is_awaited, outage };
        upstreams.pool.events.push_back(Event::Lost(client, Box::new(lost)));
    }
}

/// Whether a connection that didn't come about is tried once more, before clients hear of it: an
/// endpoint that has just been replaced refuses connections. One that takes its time to fail isn't:
/// clients would wait twice.
fn may_be_reopened(connection: &UpstreamConnection, loss: Loss, now: Duration) -> bool {
    matches!(connection.stage, Stage::Handshake(Attempt::First))
        && connection.purpose == Purpose::Shared
        && loss == Loss::Ended
        && now.saturating_sub(connection.last_activity) < REOPENED_WITHIN
}

/// A command that wasn't sent, since its node can't be reached, can be sent to the node that has taken
/// its place.
fn may_have_been_replaced(connection: &UpstreamConnection, in_flight: InFlight, bytes: &[u8]) -> bool {
    connection.is_staged(&in_flight) && !bytes.is_empty()
}

/// What becomes of commands that were pending.
pub fn outage(connection: &UpstreamConnection, loss: Loss) -> Outage {
    let cluster = connection.key.endpoint.shown();
    Outage::Unreachable(match (&connection.stage, loss) {
        (Stage::Refused(refusal), _) => return Outage::Refuses(refusal.text.clone()),
        (Stage::Handshake(_), _) => format!("ERR redis-mesh: {cluster} can't be reached"),
        (Stage::AwaitsPredecessor | Stage::Ready, Loss::Silent) => {
            format!("ERR redis-mesh: {cluster} didn't answer in time; the command may have been executed")
        }
        (Stage::AwaitsPredecessor | Stage::Ready, Loss::Ended | Loss::Dead | Loss::Replaced) => {
            format!("ERR redis-mesh: the connection to {cluster} was lost; the command may have been executed")
        }
    })
}
