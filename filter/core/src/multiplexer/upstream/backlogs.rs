//! How much is held on a worker for clients that don't read their replies.

use super::patience::SILENCE;
use super::pool::Pool;
use crate::multiplexer::effects::Effects;
use crate::multiplexer::ids::ConnectionId;
use crate::multiplexer::outbox::Output;

/// How many commands of such a client may be under way. Client libraries send some hundred
/// thousand before they read.
pub const MAX_COMMANDS: usize = 1_000_000;
/// Bytes that a command under way costs: its place in the client's reply queue and among the
/// replies that are to come over its connection.
pub const COMMAND_COST: usize = 96;
/// Bytes that may be held for one client.
const MAX_CLIENT: usize = 64 * 1024 * 1024;
/// Bytes that may be held for all of them before each has to keep to its share.
const MAX_WORKER: usize = 256 * 1024 * 1024;

/// The budget of a worker for clients that don't read.
#[derive(Debug)]
pub struct Backlogs {
    /// Bytes of replies beyond which a client that doesn't read leaves the connections that it shares.
    pub tolerated: usize,
    /// Bytes of replies that are kept for all clients of the worker before one of those that don't read
    /// loses its connection: the largest value that Redis takes, with what belongs to it.
    pub most_kept: usize,
    /// How many clients have connections of their own.
    clients: usize,
    /// Bytes that are held for them.
    bytes: usize,
    /// The host can't stop Redis, so that no client gets connections of its own.
    is_off: bool,
}

impl Default for Backlogs {
    fn default() -> Backlogs {
        Backlogs { tolerated: 1024 * 1024, most_kept: 513 * 1024 * 1024, clients: 0, bytes: 0, is_off: false }
    }
}

impl Backlogs {
    /// Returns true unless the host can't stop Redis.
    pub fn are_allowed(&self) -> bool {
        !self.is_off
    }

    /// The host can't keep Redis from sending, so [`Output::PauseUpstream`] is of no use: what a
    /// client sends waits while the client doesn't read.
    pub fn turn_off(&mut self) {
        self.is_off = true;
    }

    /// A client has got connections of its own.
    pub fn enter(&mut self) {
        self.clients += 1;
    }

    /// A client for which this number of bytes was held has none any more.
    pub fn leave(&mut self, held: usize) {
        self.clients = self.clients.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(held);
    }

    /// What is held for a client has changed. Returns how much may be.
    pub fn account(&mut self, before: usize, now: usize) -> usize {
        self.bytes = self.bytes.saturating_sub(before) + now;
        if self.bytes <= MAX_WORKER { MAX_CLIENT } else { (MAX_WORKER / self.clients.max(1)).min(MAX_CLIENT) }
    }
}

/// Has the host take no bytes of Redis over a connection, or take them again.
pub fn pause(pool: &mut Pool, id: ConnectionId, is_paused: bool, effects: &mut Effects) {
    let Some(connection) = pool.get_mut(id) else { return };
    if connection.reader.is_paused == is_paused || is_paused && !connection.is_established() {
        return;
    }
    connection.reader.is_paused = is_paused;
    if is_paused {
        effects.outbox.push(Output::PauseUpstream(id));
    } else {
        // Redis couldn't be heard meanwhile.
        connection.last_activity = effects.now;
        effects.timers.sweep_by(Some(effects.now + SILENCE));
        effects.outbox.push(Output::ResumeUpstream(id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn each_has_its_share_once_all_have_too_much() {
        let mut backlogs = Backlogs::default();
        (0..8).for_each(|_| backlogs.enter());
        assert_eq!(backlogs.account(0, MAX_WORKER), MAX_CLIENT);
        assert_eq!(backlogs.account(0, 1), MAX_WORKER / 8);
        backlogs.leave(MAX_WORKER);
        assert_eq!(backlogs.account(1, 2), MAX_CLIENT);
    }
}
