//! How many connections are opened at once. Opening one takes Envoy some time, in which it serves
//! nobody, so many are opened a few at a time.

use redis_mesh_core::multiplexer::{Address, ConnectionId};
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::time::Duration;

/// The time for which a share is allowed.
const PERIOD: Duration = Duration::from_millis(5);
/// How many connections are opened in each period, at least.
const SHARE: usize = 8;
/// In how many periods all that wait are opened, at most.
const PERIODS: usize = 400;

/// The connections that wait to be opened. Many may be forgotten at once, so that none may be looked
/// for among all.
#[derive(Default)]
struct Waiting {
    addresses: HashMap<ConnectionId, Address>,
    /// In the order in which they came, with some that were forgotten.
    order: VecDeque<ConnectionId>,
}

impl Waiting {
    fn pop(&mut self) -> Option<(ConnectionId, Address)> {
        let addresses = &mut self.addresses;
        let order = &mut self.order;
        std::iter::from_fn(|| order.pop_front()).find_map(|id| addresses.remove_entry(&id))
    }
}

/// The queue of connections that are to be opened.
#[derive(Default)]
pub struct OpeningQueue {
    waiting: RefCell<Waiting>,
    /// When the period began.
    began: Cell<Duration>,
    /// How many may still be opened in it.
    left: Cell<usize>,
}

impl OpeningQueue {
    /// A connection is to be opened, as soon as [`OpeningQueue::next`] returns it.
    pub fn add(&self, id: ConnectionId, address: Address) {
        let mut waiting = self.waiting.borrow_mut();
        waiting.addresses.insert(id, address);
        waiting.order.push_back(id);
    }

    /// Removes and returns a connection that is to be opened now.
    pub fn next(&self, now: Duration) -> Option<(ConnectionId, Address)> {
        let mut waiting = self.waiting.borrow_mut();
        if waiting.addresses.is_empty() {
            return None;
        }
        if self.began.get() + PERIOD <= now {
            self.began.set(now);
            self.left.set(SHARE.max(waiting.addresses.len() / PERIODS));
        }
        let left = self.left.get().checked_sub(1)?;
        self.left.set(left);
        waiting.pop()
    }

    /// A connection isn't to be opened any more.
    pub fn forget(&self, id: ConnectionId) {
        let mut waiting = self.waiting.borrow_mut();
        waiting.addresses.remove(&id);
        if waiting.addresses.is_empty() {
            waiting.order.clear();
        }
    }

    /// When [`OpeningQueue::next`] is to be called again.
    pub fn due(&self) -> Option<Duration> {
        (!self.waiting.borrow().addresses.is_empty()).then(|| self.began.get() + PERIOD)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_are_opened_in_each_period() {
        let queue = OpeningQueue::default();
        let at = Duration::from_millis;
        let address = || Address { cluster: "c".into(), node: None };
        (0..20).for_each(|number| queue.add(ConnectionId::of_number(number), address()));
        let open = |now| std::iter::from_fn(|| queue.next(now)).count();
        assert_eq!((open(at(100)), open(at(101))), (SHARE, 0));
        assert_eq!(queue.due(), Some(at(105)));
        queue.forget(ConnectionId::of_number(SHARE as u64));
        assert_eq!(queue.next(at(105)).map(|(id, _)| id.number()), Some(SHARE as u64 + 1));
        assert_eq!((open(at(105)), open(at(110)), queue.due()), (SHARE - 1, 3, None));
        // Very many don't take for ever.
        (0..10_000).for_each(|number| queue.add(ConnectionId::of_number(number), address()));
        assert_eq!(open(at(200)), 10_000 / PERIODS);
        // Nor does forgetting them, which would take minutes if each were looked for.
        let many = if cfg!(miri) { 11_000 } else { 400_000 };
        (10_000..many).for_each(|number| queue.add(ConnectionId::of_number(number), address()));
        (1..many - 1).rev().for_each(|number| queue.forget(ConnectionId::of_number(number)));
        assert_eq!(queue.next(at(300)).map(|(id, _)| id.number()), Some(many - 1));
        assert_eq!((queue.next(at(400)), queue.due()), (None, None));
    }
}
