//! A client's connection.

use crate::config::Slot;
use crate::envoy::Filter;
use crate::metrics::Metrics;
use crate::{Action, worker};
use redis_mesh_core::multiplexer::ClientId;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

/// One client.
pub struct Client {
    pub filter: Filter,
    /// Of the configuration with which it was accepted.
    pub metrics: Arc<Metrics>,
    slot: Arc<Slot>,
    id: Cell<Option<ClientId>>,
    stuck: Cell<Stuck>,
    /// What is left of a client that says nothing more. Envoy calls the read hook no more, so nothing may stay in its buffer.
    rest: RefCell<Option<Vec<u8>>>,
}

/// Whether bytes wait in Envoy's buffer.
#[derive(Clone, Copy, PartialEq)]
enum Stuck {
    /// None do.
    No,
    /// Some do, and more may come: Envoy learns only by reading that a client has gone with a reset.
    Reading,
    /// Reading is stopped. Envoy counts how often it is told to stop.
    Stopped,
}

/// As many bytes of a client may wait before reading is stopped.
const WAITING: usize = 64 * 1024;

impl Client {
    /// A connection that Envoy has just accepted.
    pub fn new(filter: Filter, slot: Arc<Slot>, metrics: Arc<Metrics>) -> Client {
        Client { filter, metrics, slot, id: Cell::new(None), stuck: Cell::new(Stuck::No), rest: RefCell::default() }
    }

    /// The connection is there.
    pub fn opened(self: &Rc<Self>) -> Action {
        let (rules, metrics) = self.slot.newest();
        self.id.set(worker::client_opened(self, rules, metrics));
        self.filter.enable_half_close();
        if self.id.get().is_some() {
            self.metrics.client(true);
        }
        Action::Continue
    }

    /// Bytes have come, perhaps the last ones; so many are in the buffer.
    pub fn read(&self, len: usize, is_end: bool) -> Action {
        let Some(id) = self.id.get() else { return Action::Stop };
        if is_end {
            self.rest.replace(Some(self.filter.peek_read()));
            self.filter.drain_read(usize::MAX);
            self.resume();
            return Action::Stop;
        }
        match self.stuck.get() {
            Stuck::No => worker::input(|proxy, now| {
                let read = self.filter.read(proxy, id, now);
                if read.left {
                    self.stuck.set(Stuck::Reading);
                    self.stop_beyond(len.saturating_sub(read.taken));
                }
            }),
            Stuck::Reading => self.stop_beyond(len),
            Stuck::Stopped => {}
        }
        Action::Stop
    }

    fn stop_beyond(&self, waiting: usize) {
        if waiting > WAITING {
            self.stuck.set(Stuck::Stopped);
            self.filter.read_disable(true);
        }
    }

    /// The proxy takes more. What was left is in Envoy's buffer: Envoy calls the read hook with all that it has. Otherwise the
    /// proxy goes on with what it has taken itself.
    pub fn resume(&self) {
        if self.rest.borrow().is_some() {
            return self.go_on_with_rest();
        }
        match self.stuck.replace(Stuck::No) {
            Stuck::Stopped => self.filter.read_disable(false),
            Stuck::Reading => {
                // Both together have Envoy hand over what it has.
                self.filter.read_disable(true);
                self.filter.read_disable(false);
            }
            Stuck::No => {
                if let Some(id) = self.id.get() {
                    worker::input(|proxy, now| {
                        proxy.borrow_mut().read(id, &[], now);
                    });
                }
            }
        }
    }

    fn go_on_with_rest(&self) {
        let Some(id) = self.id.get() else { return };
        worker::input(|proxy, now| {
            let mut rest = self.rest.borrow_mut();
            let Some(rest) = rest.as_mut() else { return };
            let mut proxy = proxy.borrow_mut();
            rest.drain(..proxy.read(id, rest, now));
            proxy.ended(id, now);
        });
    }

    /// What was written waits above the high watermark, or no longer.
    pub fn full(&self, full: bool) {
        if let Some(id) = self.id.get() {
            worker::input(|proxy, _| proxy.borrow_mut().downstream_full(id, full));
        }
    }

    /// The connection has ended.
    pub fn closed(self: &Rc<Self>) {
        if let Some(id) = self.id.take() {
            self.metrics.client(false);
            worker::client_closed(self, id);
        }
    }
}
