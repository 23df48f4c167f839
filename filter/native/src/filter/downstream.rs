//! The downstream filter: a connection of a client.

use crate::config::LatestConfig;
use crate::envoy::FilterHandle;
use crate::metrics::FilterMetrics;
use redis_mesh_core::multiplexer::config::HostConfig;
use redis_mesh_core::multiplexer::{ClientId, Multiplexer};
use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::Duration;

/// A connection of a client.
pub struct DownstreamFilter {
    /// Envoy's side of the filter.
    pub handle: FilterHandle,
    /// The metrics of the configuration with which it was accepted.
    pub metrics: Arc<FilterMetrics>,
    config: Arc<LatestConfig>,
    id: Cell<Option<ClientId>>,
    backlog: Cell<Backlog>,
    /// The client is among those that the worker looks after because reading is disabled.
    is_watched: Cell<bool>,
    /// The bytes that the multiplexer hasn't taken yet of a client that has half-closed its
    /// connection. Envoy doesn't call the read hook again, so they can't stay in Envoy's buffer.
    last_bytes: RefCell<Option<Vec<u8>>>,
}

/// Whether bytes that the multiplexer hasn't taken lie in Envoy's read buffer.
#[derive(Clone, Copy, PartialEq)]
enum Backlog {
    /// The buffer is empty.
    Empty,
    /// Bytes lie there, and reading goes on: only by reading does Envoy learn that a client has
    /// reset its connection.
    Reading,
    /// Bytes lie there, and reading is disabled. Envoy counts how often it is disabled.
    Disabled,
}

/// Reading is disabled once this many bytes lie in the read buffer.
const BACKLOG_LIMIT: usize = 64 * 1024;

impl DownstreamFilter {
    /// The filter of a connection that Envoy has just accepted.
    pub fn new(handle: FilterHandle, config: Arc<LatestConfig>, metrics: Arc<FilterMetrics>) -> DownstreamFilter {
        DownstreamFilter {
            handle,
            metrics,
            config,
            id: Cell::new(None),
            backlog: Cell::new(Backlog::Empty),
            is_watched: Cell::new(false),
            last_bytes: RefCell::default(),
        }
    }

    /// The latest configuration of the connection's listener, with its metrics.
    pub fn config(&self) -> (Arc<HostConfig>, Arc<FilterMetrics>) {
        self.config.get()
    }

    /// The multiplexer knows the client from now on by this number. `None`: it takes no clients
    /// any more.
    pub fn opened(&self, id: Option<ClientId>) {
        self.id.set(id);
        self.handle.enable_half_close(true);
        if id.is_some() {
            self.metrics.client_opened();
        }
    }

    /// The multiplexer's number of the client, until the connection ends.
    pub fn id(&self) -> Option<ClientId> {
        self.id.get()
    }

    /// Offers the bytes in the read buffer, `len` in all, to the multiplexer; `is_end`: they are
    /// the client's last. Call it only within the read hook.
    pub fn read(&self, multiplexer: &RefCell<Multiplexer>, now: Duration, len: usize, is_end: bool) {
        let Some(id) = self.id.get() else { return };
        if is_end {
            self.last_bytes.replace(Some(self.handle.peek_read()));
            self.handle.drain_read(usize::MAX);
            self.resume(multiplexer, now);
            return;
        }
        match self.backlog.get() {
            Backlog::Empty => {
                let read = self.handle.read(multiplexer, id, now);
                if read.is_rest_left {
                    self.backlog.set(Backlog::Reading);
                    self.limit_backlog(len.saturating_sub(read.taken));
                }
            }
            Backlog::Reading => self.limit_backlog(len),
            Backlog::Disabled => {}
        }
    }

    fn limit_backlog(&self, len: usize) {
        if len > BACKLOG_LIMIT {
            self.backlog.set(Backlog::Disabled);
            self.handle.read_disable(true);
        }
    }

    /// Goes on after the multiplexer has said that it takes more: with the last bytes of a
    /// half-closed connection, else with the backlog, with which Envoy calls the read hook again,
    /// else with what the multiplexer has taken before.
    pub fn resume(&self, multiplexer: &RefCell<Multiplexer>, now: Duration) {
        if self.last_bytes.borrow().is_some() {
            return self.offer_last_bytes(multiplexer, now);
        }
        if self.is_watched.get() {
            self.handle.enable_half_close(true);
        }
        match self.backlog.replace(Backlog::Empty) {
            Backlog::Disabled => self.handle.read_disable(false),
            Backlog::Reading => {
                // Envoy calls the read hook with what is buffered only when reading is enabled
                // again.
                self.handle.read_disable(true);
                self.handle.read_disable(false);
            }
            Backlog::Empty => {
                if let Some(id) = self.id.get() {
                    multiplexer.borrow_mut().read(id, &[], now);
                }
            }
        }
    }

    /// True if reading is disabled.
    pub fn is_disabled(&self) -> bool {
        self.id.get().is_some() && self.backlog.get() == Backlog::Disabled
    }

    /// The worker looks after the client from now on, or no longer. Returns what was so before.
    pub fn watch(&self, is_watched: bool) -> bool {
        self.is_watched.replace(is_watched)
    }

    /// Looks whether the client is still there, although nothing more is taken of it. From now on
    /// the connection ends when the client closes its sending side: what it waits for may never
    /// come, and would be lost if nobody were there to get it. A reset is seen only by reading, so
    /// some bytes more are read; Envoy's own limit for the read buffer bounds them.
    pub fn look(&self) {
        self.handle.enable_half_close(false);
        self.backlog.set(Backlog::Reading);
        self.handle.read_disable(false);
    }

    fn offer_last_bytes(&self, multiplexer: &RefCell<Multiplexer>, now: Duration) {
        let Some(id) = self.id.get() else { return };
        let mut last_bytes = self.last_bytes.borrow_mut();
        let Some(last_bytes) = last_bytes.as_mut() else { return };
        let mut multiplexer = multiplexer.borrow_mut();
        last_bytes.drain(..multiplexer.read(id, last_bytes, now));
        multiplexer.ended(id, now);
    }

    /// Takes note that the connection has ended. Returns the client's number, the first time.
    pub fn closed(&self) -> Option<ClientId> {
        let id = self.id.take()?;
        self.metrics.client_closed();
        Some(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::standin;

    /// A connection of a client to the multiplexer of this thread's worker; ECHO is answered
    /// without a server.
    fn client(name: &str) -> std::rc::Rc<standin::StandinConnection> {
        standin::connect("client", standin::listener(name))
    }

    #[test]
    fn commands_come_in_pieces() {
        let _end = standin::begin();
        let client = client("pieces");
        client.received(b"EC");
        assert!(client.written.borrow().is_empty());
        client.received(b"HO x\r\nECHO y\r\nE");
        assert_eq!(client.written.take(), b"$1\r\nx\r\n$1\r\ny\r\n");
        assert!(client.read.borrow().is_empty(), "what is taken is dropped");
        assert!(client.passed.borrow().is_empty());
    }

    #[test]
    fn the_last_bytes_are_served() {
        let _end = standin::begin();
        let client = client("last");
        client.full(true);
        client.ended(b"ECHO x\r\n");
        assert!(client.read.borrow().is_empty(), "Envoy won't call the read hook with them again");
        client.full(false);
        standin::settle();
        assert_eq!(client.written.take(), b"$1\r\nx\r\n");
        assert!(client.closed.get());
    }

    #[test]
    fn a_backlog_below_the_limit_does_not_disable_reading() {
        let _end = standin::begin();
        let client = client("backlog");
        client.full(true);
        client.received(&b"ECHO x\r\n".repeat(BACKLOG_LIMIT / 8));
        assert_eq!(client.disabled.get(), 0);
        client.received(b"ECHO x\r\n");
        assert_eq!(client.disabled.get(), 1);
        // Envoy would count a second time.
        client.received(b"ECHO x\r\n");
        assert_eq!(client.disabled.get(), 1);
        client.full(false);
        assert_eq!(client.disabled.get(), 0);
    }
}
