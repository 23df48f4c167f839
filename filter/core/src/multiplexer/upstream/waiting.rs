//! Which clients wait for what may never come.

use super::patience::SILENCE;
use super::pool::Pool;
use crate::multiplexer::ids::ClientId;
use std::collections::HashSet;
use std::time::Duration;

/// The clients that wait for a command that waits at a server, or for a server that is silent.
pub fn waiting(pool: &Pool, now: Duration) -> HashSet<ClientId> {
    let mut waiting = HashSet::new();
    for (_, connection) in pool.iter() {
        if connection.reader.is_paused {
            continue;
        }
        let is_silent = connection.last_activity + SILENCE <= now;
        let waits = connection.pending.iter().filter(|in_flight| is_silent || in_flight.patience.is_waiting());
        waiting.extend(waits.filter_map(|in_flight| in_flight.what.command()).map(|owner| owner.client));
    }
    waiting
}
