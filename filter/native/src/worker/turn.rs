//! What is sent goes out at the end of a turn of Envoy's event loop, in one piece for each connection to Redis, however many clients
//! had something to say in that turn. It takes no longer: Envoy itself writes to sockets in the next turn, after it has read from
//! others. For the same reason what is written to clients isn't put off: replies that come in two turns go out together.

use super::Worker;
use crate::envoy::{Call, Filter, Waker};
use redis_mesh_core::proxy::CarrierId;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

/// What waits for the end of a turn.
#[derive(Default)]
pub(super) struct Turn {
    later: RefCell<VecDeque<CarrierId>>,
    /// Tells of the end, and the filter whose waker it is.
    bell: RefCell<Option<(Waker, *const Filter)>>,
    /// It will tell.
    is_set: Cell<bool>,
}

impl Turn {
    /// Sends later.
    pub(super) fn put_off(&self, carrier: CarrierId) {
        self.later.borrow_mut().push_back(carrier);
    }

    /// What was put off first.
    pub(super) fn next(&self) -> Option<CarrierId> {
        self.later.borrow_mut().pop_front()
    }

    /// True if nothing was put off.
    pub(super) fn is_idle(&self) -> bool {
        self.later.borrow().is_empty()
    }

    /// The turn is over.
    pub(super) fn ended(&self) {
        self.is_set.set(false);
    }

    /// A filter is going, and its waker with it.
    pub(super) fn retire(&self, filter: &Filter) {
        let is_its = self.bell.borrow().as_ref().is_some_and(|(_, of)| std::ptr::eq(*of, filter));
        if is_its {
            self.bell.take();
            self.is_set.set(false);
        }
    }
}

impl Worker {
    /// Sees to it that [`Worker::perform_all`] is called at the end of the turn. False: nobody is there who could.
    pub(super) fn will_end(&self) -> bool {
        if self.turn.is_set.get() {
            return true;
        }
        if self.turn.bell.borrow().is_none() {
            let found = self.lasting(|filter| filter.waker().map(|waker| (waker, std::ptr::from_ref(filter))));
            self.turn.bell.replace(found.flatten());
        }
        match &*self.turn.bell.borrow() {
            Some((waker, _)) => waker.wake(Call::EndOfTurn),
            None => return false,
        }
        self.turn.is_set.set(true);
        true
    }
}
