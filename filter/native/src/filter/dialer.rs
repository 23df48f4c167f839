//! The dialer filter: a connection of this module to itself, on which upstream connections are
//! opened.
//!
//! Envoy lets a filter open a connection only by an HTTP callout, and closes that connection
//! together with the filter. The filter of a client would take the upstream connections along that
//! other clients share, so each worker has a dialer, which no client's end closes. A client asks
//! for it by a callout to the internal listener of dialers. With the response the connection lies
//! idle in Envoy's pool and is tied to no client any more; until then the client's end would close
//! it.

use super::request_head;
use crate::envoy::FilterHandle;
use crate::metrics::FilterMetrics;
use std::sync::Arc;

/// The cluster whose only host is the internal listener of dialers. Upstream connections need a
/// cluster of their own: from this one's pool a callout would get the dialer's own connection.
pub const CLUSTER: &str = "redis_anchor";

const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

/// A connection on the internal listener of dialers.
pub struct DialerFilter {
    /// Envoy's side of the filter.
    pub handle: FilterHandle,
    /// The metrics of the configuration with which it was accepted.
    pub metrics: Arc<FilterMetrics>,
}

impl DialerFilter {
    /// The filter of a connection that Envoy has just accepted.
    pub fn new(handle: FilterHandle, metrics: Arc<FilterMetrics>) -> DialerFilter {
        DialerFilter { handle, metrics }
    }

    /// Takes a request out of the read buffer and returns its number. There can be several: Envoy
    /// reuses a connection whose client has gone after the response.
    pub fn take_request(&self) -> Option<u64> {
        request_head::take(&self.handle)
    }

    /// Responds to a request.
    pub fn respond(&self) {
        self.handle.write(RESPONSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::standin;

    #[test]
    fn every_request_gets_a_response() {
        let _end = standin::begin();
        let connection = standin::connect("redis_anchor", standin::configure("anchor", ""));
        let request = b"POST /1 HTTP/1.1\r\n\r\n";
        connection.received(&request[..9]);
        assert!(connection.written.borrow().is_empty());
        connection.received(&request[9..]);
        connection.received(request);
        assert_eq!(connection.written.take(), RESPONSE.repeat(2));
        assert!(connection.passed.borrow().is_empty() && !connection.closed.get());
    }

    #[test]
    fn a_foreign_request_closes_the_connection() {
        let _end = standin::begin();
        let connection = standin::connect("redis_anchor", standin::configure("anchor", ""));
        connection.received(b"GET / HTTP/1.1\r\n\r\n");
        assert!(connection.closed.get());
        assert!(connection.written.borrow().is_empty());
    }
}
