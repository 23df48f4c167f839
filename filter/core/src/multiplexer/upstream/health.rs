//! Whether a Redis that owes replies and is silent can be reached over a new connection. A connection
//! whose bytes get lost on the way (a firewall has forgotten it, a node was replaced) doesn't end by
//! itself for many minutes.

use super::availability::Peer;
use super::patience::{Patience, SILENCE};
use super::pending::{Control, InFlight, PendingReply};
use super::pool::Pool;
use super::pool_key::{PoolKey, Purpose};
use crate::multiplexer::effects::Effects;
use crate::multiplexer::ids::ConnectionId;
use crate::resp::encode;
use std::collections::HashMap;
use std::time::Duration;

/// How long the answer may take.
const CHECK_TIMEOUT: Duration = Duration::from_secs(10);
/// How long after the answer a silent connection is given up: what Redis has sent over that one
/// before it answered has come by then.
const GRACE: Duration = Duration::from_millis(100);
/// How soon it is asked again where it can't be asked.
const RETRY: Duration = Duration::from_secs(1);
/// How long it is believed that Redis is busy.
const BUSY_FOR: Duration = Duration::from_secs(4);

/// What a Redis has said over a new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// It serves: a connection over which it was silent all the time is of no use any more.
    Serves,
    /// It executes a script or a function, and answers nothing before that has ended or was ended
    /// (<https://redis.io/docs/latest/develop/programmability/#maximum-execution-time>).
    Busy,
}

/// The Redis servers that are being asked, or have answered a moment ago.
#[derive(Default)]
pub struct HealthChecks {
    checks: HashMap<Peer, HealthCheck>,
}

struct HealthCheck {
    /// The connection over which the Redis is being asked.
    connection: Option<ConnectionId>,
    /// When it was asked.
    began: Duration,
    /// What it has said last, and when.
    answer: Option<(Health, Duration)>,
}

impl HealthCheck {
    fn was_answered_within(&self, time: Duration, now: Duration) -> bool {
        self.answer.is_some_and(|(_, at)| now.saturating_sub(at) < time)
    }
}

impl HealthChecks {
    /// True if Redis has said lately that it is busy.
    pub fn is_busy(&self, peer: &Peer, now: Duration) -> bool {
        let is_busy = |check: &&HealthCheck| matches!(check.answer, Some((Health::Busy, _)));
        self.checks.get(peer).filter(is_busy).is_some_and(|check| check.was_answered_within(BUSY_FOR, now))
    }

    /// What a Redis has said, of use for a connection over which it was heard last at that time.
    pub fn of(&self, peer: &Peer, heard: Duration, now: Duration) -> Option<Health> {
        let check = self.checks.get(peer).filter(|check| check.began > heard)?;
        let (health, at) = check.answer.filter(|(_, at)| *at >= check.began)?;
        (now.saturating_sub(at) >= GRACE).then_some(health)
    }

    /// Asks a Redis that is silent, unless it is being asked or has just answered.
    pub fn ask(&mut self, key: &PoolKey, pool: &mut Pool, effects: &mut Effects) {
        let now = effects.now;
        self.checks.retain(|_, check| check.connection.is_some() || check.was_answered_within(BUSY_FOR, now));
        let peer = Peer::new(&key.endpoint, key.node);
        let known = self.checks.get(&peer);
        if known.is_some_and(|check| check.connection.is_some()) {
            return;
        }
        if let Some(next) = known.and_then(|check| check.answer).map(|(_, at)| at + SILENCE).filter(|next| *next > now)
        {
            return effects.timers.sweep_by(Some(next));
        }
        let key = PoolKey { node: key.node, ..PoolKey::new(key.endpoint.clone(), false) };
        let Ok(connection) = pool.open(key, Purpose::HealthCheck, effects) else {
            return effects.timers.sweep_by(Some(now + RETRY));
        };
        let ping = PendingReply::Control(Control::HealthCheck);
        let in_flight = InFlight { patience: Patience::of(CHECK_TIMEOUT), ..ping.into() };
        pool.send(connection, in_flight, effects, |out| encode::command(out, &[b"PING"]));
        let answer = self.checks.remove(&peer).and_then(|before| before.answer);
        self.checks.insert(peer, HealthCheck { connection: Some(connection), began: now, answer });
    }

    /// A Redis has answered.
    pub fn answered(&mut self, connection: ConnectionId, health: Health, effects: &mut Effects) {
        if let Some(check) = self.checks.values_mut().find(|check| check.connection == Some(connection)) {
            (check.connection, check.answer) = (None, Some((health, effects.now)));
            effects.timers.sweep_by(Some(effects.now + GRACE));
        }
    }

    /// A connection over which a Redis was asked is gone.
    pub fn connection_lost(&mut self, connection: ConnectionId, effects: &mut Effects) {
        for check in self.checks.values_mut().filter(|check| check.connection == Some(connection)) {
            check.connection = None;
            effects.timers.sweep_by(Some(effects.now + RETRY));
        }
    }
}

/// What the reply to PING says.
pub fn health_of(reply: &[u8]) -> Health {
    if reply.starts_with(b"-BUSY") { Health::Busy } else { Health::Serves }
}
