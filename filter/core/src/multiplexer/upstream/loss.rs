//! What becomes of the commands of a connection that is lost.

use super::Upstreams;
use super::availability::{Outage, Peer};
use super::connection::{Attempt, Stage, UpstreamConnection};
use super::copies;
use super::events::{Event, LostConnection};
use super::health::Health;
use super::held::{Refused, Why};
use super::pending::{InFlight, PendingReply};
use super::pool_key::Purpose;
use super::redirect_gate;
use super::retry::Retry;
use crate::multiplexer::effects::Effects;
use crate::multiplexer::ids::ConnectionId;
use crate::multiplexer::outbox::Output;
use crate::multiplexer::stats::CopyFate;
use crate::resp::encode;
use std::time::Duration;

/// How soon a connection that doesn't come about has to fail to be tried once more.
const REOPENED_WITHIN: Duration = Duration::from_secs(1);

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
    fail_pending(upstreams, id, &mut connection, outage, effects);
}

/// What was to come over a lost connection won't come.
fn fail_pending(
    upstreams: &mut Upstreams,
    id: ConnectionId,
    connection: &mut UpstreamConnection,
    outage: Outage,
    effects: &mut Effects,
) {
    let mut error = Vec::new();
    encode::error(&mut error, outage.text().as_bytes());
    // What a client waits for or has begun there is lost: it is told by the end of its own connection,
    // as by that of Redis.
    let ends_client = connection.purpose.client().is_some() && matches!(outage, Outage::Unreachable(_));
    let (mut subscriptions, mut is_awaited) = (Vec::new(), false);
    let mut is_truncated = connection.reader.has_passed_on_part();
    while let Some(in_flight) = connection.pending.pop_front() {
        let bytes = connection.take_replay(in_flight);
        is_awaited |= in_flight.what.is_awaited() && !matches!(in_flight.what, PendingReply::Handshake(_));
        match in_flight.what {
            PendingReply::Command(owner) | PendingReply::Exec(owner) if std::mem::take(&mut is_truncated) => {
                upstreams.pool.events.push_back(Event::Truncated { owner, error: error.clone() });
            }
            PendingReply::Subscription(owner, more) => subscriptions.push((owner.sequence, more)),
            PendingReply::Copy(host) | PendingReply::CopiedExec(host) => {
                copies::tell(upstreams, host, CopyFate::Failed, 1);
            }
            PendingReply::Exec(owner) if ends_client => copies::exec_failed(upstreams, owner),
            _ if ends_client => {}
            what => {
                is_truncated = false;
                if let Some(retry) = redirect_gate::at_the_master(upstreams, connection, in_flight, &bytes) {
                    upstreams.resend(retry, false, effects);
                } else if may_have_been_replaced(connection, in_flight, &bytes) {
                    let retry = Retry { in_flight, bytes, key: connection.key.clone() };
                    let (purpose, reply) = (connection.purpose, error.clone());
                    let refused = Refused { from: id, purpose, why: Why::Unreached, reply, retry };
                    redirect_gate::unreached(upstreams, refused, effects);
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
    matches!(connection.stage, Stage::Handshake(_))
        && connection.purpose.has_no_state()
        && connection.key.node.is_some()
        && in_flight.what.command().is_some()
        && !bytes.is_empty()
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
