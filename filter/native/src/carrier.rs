//! A connection to Redis: this module before `tcp_proxy` on an internal listener, opened by a request of the anchor's.

use crate::envoy::Filter;
use crate::head::{self, Head};
use crate::metrics::Metrics;
use crate::{Action, node, worker};
use redis_mesh_core::multiplexer::{Address, ConnectionId};
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

/// The cluster whose only host is the internal listener of carriers.
pub const CLUSTER: &str = "redis_carrier";

/// One carrier.
pub struct Carrier {
    pub filter: Filter,
    pub metrics: Arc<Metrics>,
    id: Cell<Option<ConnectionId>>,
    phase: Cell<Phase>,
}

#[derive(Clone, Copy, PartialEq)]
enum Phase {
    /// The request that says whose it is hasn't come yet.
    Unknown,
    /// In the read hook that lets `tcp_proxy` begin: what is to be sent is put into the read buffer.
    Opening,
    /// `tcp_proxy` has begun.
    Open,
}

impl Carrier {
    /// A connection that Envoy has just accepted.
    pub fn new(filter: Filter, metrics: Arc<Metrics>) -> Carrier {
        Carrier { filter, metrics, id: Cell::new(None), phase: Cell::new(Phase::Unknown) }
    }

    /// Bytes from the anchor: the request, and nothing after it.
    pub fn read(self: &Rc<Self>) -> Action {
        if self.phase.get() != Phase::Unknown {
            self.filter.drain_read(usize::MAX);
            return Action::Stop;
        }
        match head::parse(&self.filter.peek_read()) {
            Head::Incomplete => return Action::Stop,
            Head::Foreign => self.filter.abort(),
            Head::Number(number, len) => {
                self.filter.drain_read(len);
                match worker::carrier_arrived(self, number) {
                    Some((id, address)) => self.open(id, &address),
                    // Nobody waits for it any more.
                    None => self.filter.abort(),
                }
            }
        }
        if self.filter.gone() { Action::Stop } else { Action::Continue }
    }

    fn open(&self, id: ConnectionId, address: &Address) {
        self.id.set(Some(id));
        self.metrics.carrier(true);
        if !self.filter.set_filter_state("envoy.tcp_proxy.cluster", &address.cluster) {
            // Otherwise `tcp_proxy` would go where it is configured to.
            self.filter.abort();
            return;
        }
        if let Some(node) = address.node {
            // For a cluster of type ORIGINAL_DST; any other asks the policy.
            let key = "envoy.network.transport_socket.original_dst_address";
            if !self.filter.set_filter_state(key, &node.to_string()) {
                self.filter.abort();
                return;
            }
        }
        node::want(address);
        self.phase.set(Phase::Opening);
        worker::carrier_opened(self, id);
        self.phase.set(Phase::Open);
    }

    /// Whose it is, if it has arrived and not ended.
    pub fn id(&self) -> Option<ConnectionId> {
        self.id.get()
    }

    /// Whether bytes can be sent now: `tcp_proxy` stops reading from this connection while its upstream is full.
    pub fn can_send(&self) -> bool {
        self.phase.get() != Phase::Open || self.filter.read_enabled()
    }

    /// Sends to Redis.
    pub fn send(&self, data: &[u8]) {
        match self.phase.get() {
            Phase::Unknown => {}
            Phase::Opening => self.filter.append_read(data),
            Phase::Open => self.filter.inject_read(data),
        }
    }

    /// Redis has sent something.
    pub fn write(&self) -> Action {
        match self.id.get() {
            Some(id) => worker::carrier_replied(self, id),
            None => self.filter.drain_write(),
        }
        Action::Continue
    }

    /// The connection has ended.
    pub fn closed(self: &Rc<Self>) {
        if let Some(id) = self.id.take() {
            self.metrics.carrier(false);
            worker::carrier_closed(self, id);
        }
    }
}
