//! Commands that are sent again: to another node, or a little later because their keys are on
//! their way from node to node.

use super::later::WaitingCommands;
use super::pending::{InFlight, Owner};
use super::pool_key::PoolKey;
use crate::command::each_key;
use crate::multiplexer::effects::Effects;
use crate::multiplexer::timers::Timer;
use std::collections::BTreeMap;
use std::time::Duration;

/// How often a command of which only some keys have moved is retried.
pub const MAX_RETRIES: u8 = 100;
/// How soon.
const RETRY_DELAY: Duration = Duration::from_millis(20);

/// A command that is to be sent again.
#[derive(Debug)]
pub struct Retry {
    /// What its reply will answer.
    pub in_flight: InFlight,
    /// The command, or MULTI to EXEC of a transaction, in RESP.
    pub bytes: Vec<u8>,
    /// Where it is to be sent.
    pub key: PoolKey,
}

impl PartialEq for Retry {
    fn eq(&self, other: &Retry) -> bool {
        self.in_flight.what == other.in_flight.what && self.bytes == other.bytes && self.key == other.key
    }
}

/// Commands that wait for their time.
#[derive(Default)]
pub struct RetryQueue {
    /// By time, and in the order in which they came.
    waiting: BTreeMap<(Duration, u64), Retry>,
    by_client: WaitingCommands,
    added: u64,
}

impl RetryQueue {
    /// Adds a command, to be sent in a little while.
    pub fn add(&mut self, retry: Retry, effects: &mut Effects) {
        let time = effects.now + RETRY_DELAY;
        self.added += 1;
        self.by_client.add(retry.in_flight, &retry.bytes);
        self.waiting.insert((time, self.added), retry);
        effects.timers.add(time, Timer::Retry);
    }

    /// Removes and returns a command whose time has come.
    pub fn pop(&mut self, now: Duration) -> Option<Retry> {
        let entry = self.waiting.first_entry().filter(|entry| entry.key().0 <= now)?;
        let retry = entry.remove();
        self.by_client.remove(retry.in_flight, &retry.bytes);
        Some(retry)
    }

    /// The number of commands that wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// True if a later command of the same client for the same slot waits.
    pub fn has_later(&self, owner: Owner, slot: Option<u16>) -> bool {
        self.by_client.has_later(owner, slot)
    }

    /// True if an earlier command of the same client for the same slot waits.
    pub fn has_earlier(&self, owner: Owner, slot: Option<u16>) -> bool {
        self.by_client.has_earlier(owner, slot)
    }
}

/// True if a command, or a transaction, in RESP has keys that differ.
pub fn has_several_keys(bytes: &[u8]) -> bool {
    let (mut first, mut several) = (None::<Vec<u8>>, false);
    each_key(bytes, |key| several |= first.get_or_insert_with(|| key.to_vec()) != key);
    several
}

#[cfg(test)]
mod tests {
    use super::super::later::slot_of;
    use super::*;
    use crate::multiplexer::ids::ClientId;
    use crate::multiplexer::upstream::endpoint::UpstreamEndpoint;
    use crate::multiplexer::upstream::pending::PendingReply;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn retry(sequence: u64, command: &str) -> Retry {
        let owner = Owner { client: ClientId::of_number(1), sequence };
        let mut bytes = Vec::new();
        crate::resp::encode::command(&mut bytes, &command.split(' ').map(str::as_bytes).collect::<Vec<_>>());
        let endpoint = UpstreamEndpoint { cluster: "c".into(), login: None, nodes: None, member: Default::default() };
        let in_flight = PendingReply::Command(owner).into();
        Retry { in_flight, bytes, key: PoolKey::new(endpoint, false) }
    }

    #[test]
    fn commands_are_sent_again_in_order_when_their_time_has_come() {
        let (mut queue, mut effects) = (RetryQueue::default(), Effects::new([1; 32]));
        queue.add(retry(1, "GET a"), &mut effects);
        queue.add(retry(2, "GET b"), &mut effects);
        assert_eq!((effects.timers.next(), queue.pop(effects.now)), (Some(RETRY_DELAY), None));
        let now = RETRY_DELAY;
        assert_eq!(queue.pop(now), Some(retry(1, "GET a")));
        assert_eq!(queue.pop(now), Some(retry(2, "GET b")));
        assert_eq!((queue.pop(now), queue.len()), (None, 0));
    }

    #[test]
    fn a_later_command_for_the_same_slot_is_found() {
        let (mut queue, mut effects) = (RetryQueue::default(), Effects::new([1; 32]));
        queue.add(retry(5, "SET {x}k v"), &mut effects);
        let owner = |sequence| Owner { client: ClientId::of_number(1), sequence };
        assert!(queue.has_later(owner(4), slot_of(&retry(4, "GET {x}").bytes)));
        assert!(!queue.has_later(owner(5), slot_of(&retry(5, "GET {x}").bytes)));
        assert!(!queue.has_later(owner(4), slot_of(&retry(4, "GET y").bytes)));
        // A shard channel has a slot, too.
        for words in ["SPUBLISH {x} m", "SSUBSCRIBE {x} {x}b"] {
            assert!(queue.has_later(owner(4), slot_of(&retry(4, words).bytes)), "{words}");
        }
        assert_eq!(slot_of(&retry(4, "SUBSCRIBE {x}").bytes), None);
        let other = Owner { client: ClientId::of_number(2), sequence: 4 };
        assert!(!queue.has_later(other, slot_of(&retry(4, "GET {x}").bytes)));
    }
}
