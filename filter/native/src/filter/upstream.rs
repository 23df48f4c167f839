//! The upstream filter: a connection to Redis. It stands before `tcp_proxy` on an internal
//! listener, and a callout of the dialer opens it.

use super::request_head;
use crate::envoy::FilterHandle;
use crate::metrics::FilterMetrics;
use crate::node;
use redis_mesh_core::multiplexer::{Address, ConnectionId};
use std::cell::Cell;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// The cluster whose only host is the internal listener of upstream connections.
pub const CLUSTER: &str = "redis_carrier";

/// The filter state from which `tcp_proxy` takes its cluster.
const CLUSTER_STATE: &str = "envoy.tcp_proxy.cluster";

/// The filter state from which a cluster of type ORIGINAL_DST takes a host's address.
const ADDRESS_STATE: &str = "envoy.network.transport_socket.original_dst_address";

/// What is written to the dialer's callout so that the connection's write buffer passes its
/// watermark. HTTP clients take no notice of interim responses (RFC 9110, 15.2).
const INTERIM_RESPONSE: &[u8] = b"HTTP/1.1 102 Processing\r\n\r\n";

/// A connection to Redis.
pub struct UpstreamFilter {
    /// Envoy's side of the filter.
    pub handle: FilterHandle,
    /// The metrics of the configuration with which it was accepted.
    pub metrics: Arc<FilterMetrics>,
    id: Cell<Option<ConnectionId>>,
    /// The host to which it must lead, until that is known to be so.
    wanted: Cell<Option<SocketAddr>>,
    phase: Cell<UpstreamPhase>,
    flow: Cell<Flow>,
}

/// Whether the bytes of Redis are taken.
#[derive(Clone, Copy, PartialEq)]
enum Flow {
    /// They are.
    Taken,
    /// They aren't: they stay in Envoy's buffer, which stops reading when that is full. True once
    /// some have been left there.
    Paused(bool),
    /// Envoy was told at this time to give those that were left again, and hasn't yet.
    Resumed(Duration),
}

#[derive(Clone, Copy, PartialEq)]
enum UpstreamPhase {
    /// The request that names the connection hasn't come yet.
    Requested,
    /// The read hook that lets `tcp_proxy` begin is running: bytes to send are put into the read
    /// buffer.
    Connecting,
    /// `tcp_proxy` has begun.
    Connected,
}

impl UpstreamFilter {
    /// The filter of a connection that Envoy has just accepted.
    pub fn new(handle: FilterHandle, metrics: Arc<FilterMetrics>) -> UpstreamFilter {
        let (id, wanted, flow) = (Cell::new(None), Cell::new(None), Cell::new(Flow::Taken));
        UpstreamFilter { handle, metrics, id, wanted, phase: Cell::new(UpstreamPhase::Requested), flow }
    }

    /// Takes the dialer's request out of the read buffer and returns its number. Nothing that
    /// comes after it is meant for Redis.
    pub fn take_request(&self) -> Option<u64> {
        if self.phase.get() == UpstreamPhase::Requested {
            return request_head::take(&self.handle);
        }
        self.handle.drain_read(usize::MAX);
        None
    }

    /// Tells Envoy where the connection leads. On success, bytes may be sent, and `tcp_proxy`
    /// connects when the read hook returns; [`UpstreamFilter::connected`] has to be called before.
    /// False: the connection is closed.
    #[must_use]
    pub fn connect(&self, id: ConnectionId, address: &Address) -> bool {
        self.id.set(Some(id));
        self.wanted.set(address.node);
        self.metrics.upstream_opened();
        let node = address.node.map(|node| node.to_string());
        // Without the state, `tcp_proxy` would connect to the cluster of its own configuration.
        let is_set = self.handle.set_filter_state(CLUSTER_STATE, &address.cluster)
            && node.is_none_or(|node| self.handle.set_filter_state(ADDRESS_STATE, &node));
        if !is_set {
            self.handle.abort();
            return false;
        }
        // A cluster of another type than ORIGINAL_DST asks the load-balancing policy.
        node::want(address);
        self.phase.set(UpstreamPhase::Connecting);
        true
    }

    /// From here on `tcp_proxy` takes bytes directly.
    pub fn connected(&self) {
        self.phase.set(UpstreamPhase::Connected);
    }

    /// True if the connection leads to another host than was asked for, which the first bytes of
    /// Redis can tell: a load-balancing policy of another version of the module knows nothing of
    /// what this one wants. So far only the handshake was sent.
    pub fn is_astray(&self) -> bool {
        let Some(wanted) = self.wanted.take() else { return false };
        self.handle.upstream_host().is_some_and(|host| host != wanted)
    }

    /// The multiplexer's number of this connection, from [`UpstreamFilter::connect`] until it
    /// ends.
    pub fn id(&self) -> Option<ConnectionId> {
        self.id.get()
    }

    /// True if bytes can be sent. `tcp_proxy` stops reading from this connection while its own
    /// upstream is above the high watermark.
    pub fn is_writable(&self) -> bool {
        self.phase.get() != UpstreamPhase::Connected || self.handle.read_enabled()
    }

    /// Sends bytes to Redis. Without effect before [`UpstreamFilter::connect`].
    pub fn send(&self, data: &[u8]) {
        match self.phase.get() {
            UpstreamPhase::Requested => {}
            UpstreamPhase::Connecting => self.handle.append_read(data),
            UpstreamPhase::Connected => self.handle.inject_read(data),
        }
    }

    /// Redis has sent bytes; `is_end`: its last ones. Returns true if they are to be taken, false if
    /// the write hook has to leave them. The last ones are taken in any case, since Envoy tells of the
    /// end only once; its buffer bounds them.
    pub fn takes_bytes(&self, is_end: bool) -> bool {
        match self.flow.get() {
            Flow::Paused(_) if !is_end => {
                self.flow.set(Flow::Paused(true));
                false
            }
            Flow::Paused(_) | Flow::Resumed(_) | Flow::Taken => {
                self.flow.set(Flow::Taken);
                true
            }
        }
    }

    /// Takes no bytes of Redis from now on.
    pub fn pause(&self) {
        // Bytes that Envoy hasn't given again are there still.
        self.flow.set(Flow::Paused(matches!(self.flow.get(), Flow::Resumed(_) | Flow::Paused(true))));
    }

    /// Takes bytes of Redis again. Returns true if Envoy was told to give again what was left.
    pub fn resume(&self, now: Duration) -> bool {
        let is_left = matches!(self.flow.get(), Flow::Paused(true));
        self.flow.set(if is_left { Flow::Resumed(now) } else { Flow::Taken });
        if is_left {
            self.handle.cross_watermark(INTERIM_RESPONSE);
        }
        is_left
    }

    /// When Envoy was told to give again what was left, if it hasn't done so.
    pub fn resumed_at(&self) -> Option<Duration> {
        match self.flow.get() {
            Flow::Resumed(at) => Some(at),
            Flow::Taken | Flow::Paused(_) => None,
        }
    }

    /// Takes note that the connection has ended. Returns its number, the first time.
    pub fn closed(&self) -> Option<ConnectionId> {
        let id = self.id.take()?;
        self.metrics.upstream_closed();
        Some(id)
    }
}

#[cfg(test)]
mod tests {
    use crate::standin;

    #[test]
    fn an_unknown_connection_is_closed() {
        let _end = standin::begin();
        let connection = standin::connect("redis_carrier", standin::configure("carrier", ""));
        connection.received(b"POST /12345 HTTP/1.1\r\n\r\n");
        assert!(connection.closed.get());
        assert!(connection.state.borrow().is_empty(), "it leads nowhere");
        assert_eq!(standin::metric("upstream_connections_total"), 0);
    }

    #[test]
    fn nothing_passes_before_the_request() {
        let _end = standin::begin();
        let connection = standin::connect("redis_carrier", standin::configure("carrier", ""));
        connection.received(b"POST /12345");
        assert!(!connection.closed.get() && connection.passed.borrow().is_empty());
        connection.replied(b"+PONG\r\n");
        assert!(connection.written.borrow().is_empty(), "the dialer gets no bytes of Redis");
    }
}
