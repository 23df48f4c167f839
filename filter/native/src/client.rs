//! A client's connection.

use crate::config::Slot;
use crate::envoy::Filter;
use crate::metrics::Metrics;
use crate::{Action, worker};
use redis_mesh_core::proxy::ClientId;
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

/// One client.
pub struct Client {
    pub filter: Filter,
    /// Of the configuration with which it was accepted.
    pub metrics: Arc<Metrics>,
    slot: Arc<Slot>,
    id: Cell<Option<ClientId>>,
    /// Bytes wait in Envoy's buffer, and reading is stopped. Envoy counts how often it is told to stop.
    stuck: Cell<bool>,
}

impl Client {
    /// A connection that Envoy has just accepted.
    pub fn new(filter: Filter, slot: Arc<Slot>, metrics: Arc<Metrics>) -> Client {
        Client { filter, metrics, slot, id: Cell::new(None), stuck: Cell::new(false) }
    }

    /// The connection is there.
    pub fn opened(self: &Rc<Self>) -> Action {
        let (rules, metrics) = self.slot.newest();
        self.id.set(worker::client_opened(self, rules, metrics));
        if self.id.get().is_some() {
            self.metrics.client(true);
        }
        Action::Continue
    }

    /// Bytes have come.
    pub fn read(&self) -> Action {
        if let Some(id) = self.id.get()
            && !self.stuck.get()
        {
            worker::input(|proxy, now| {
                if self.filter.read(proxy, id, now).left {
                    self.stuck.set(true);
                    self.filter.read_disable(true);
                }
            });
        }
        Action::Stop
    }

    /// The proxy takes more. What was left is in Envoy's buffer: Envoy calls the read hook with all that it has. Otherwise the
    /// proxy goes on with what it has taken itself.
    pub fn resume(&self) {
        if self.stuck.replace(false) {
            self.filter.read_disable(false);
        } else if let Some(id) = self.id.get() {
            worker::input(|proxy, now| {
                proxy.borrow_mut().read(id, &[], now);
            });
        }
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
