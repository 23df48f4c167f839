//! The module's three network filters, and what each does in Envoy's hooks.

pub mod dialer;
pub mod downstream;
mod request_head;
pub mod upstream;
pub mod verdict;

use crate::config::FilterKind;
use crate::envoy::FilterHandle;
use crate::metrics::FilterMetrics;
use crate::worker;
use dialer::DialerFilter;
use downstream::DownstreamFilter;
use std::rc::Rc;
use upstream::UpstreamFilter;
use verdict::{Action, CalloutResult};

/// One of the module's filters on a connection.
#[derive(Clone)]
pub enum FilterInstance {
    /// The filter `proxy`, on a client's connection.
    Downstream(Rc<DownstreamFilter>),
    /// The filter `anchor`, on a connection on which upstream connections are opened.
    Dialer(Rc<DialerFilter>),
    /// The filter `carrier`, on a connection to Redis.
    Upstream(Rc<UpstreamFilter>),
}

impl FilterInstance {
    /// The filter of a connection that Envoy has just accepted.
    pub fn new(kind: &FilterKind, handle: FilterHandle) -> FilterInstance {
        match kind {
            FilterKind::Downstream(config, metrics) => {
                FilterInstance::Downstream(Rc::new(DownstreamFilter::new(handle, config.clone(), metrics.clone())))
            }
            FilterKind::Dialer(metrics) => FilterInstance::Dialer(Rc::new(DialerFilter::new(handle, metrics.clone()))),
            FilterKind::Upstream(metrics) => {
                FilterInstance::Upstream(Rc::new(UpstreamFilter::new(handle, metrics.clone())))
            }
        }
    }

    /// Envoy's side of the filter.
    pub fn handle(&self) -> &FilterHandle {
        match self {
            FilterInstance::Downstream(downstream) => &downstream.handle,
            FilterInstance::Dialer(dialer) => &dialer.handle,
            FilterInstance::Upstream(upstream) => &upstream.handle,
        }
    }

    /// The metrics of the configuration with which the connection was accepted.
    pub fn metrics(&self) -> &FilterMetrics {
        match self {
            FilterInstance::Downstream(downstream) => &downstream.metrics,
            FilterInstance::Dialer(dialer) => &dialer.metrics,
            FilterInstance::Upstream(upstream) => &upstream.metrics,
        }
    }

    /// The connection has begun.
    pub fn new_connection(&self) -> Action {
        match self {
            FilterInstance::Downstream(downstream) => {
                downstream.opened(worker::downstream_opened(downstream));
                Action::Continue
            }
            FilterInstance::Dialer(_) => Action::Continue,
            // `tcp_proxy` may begin only when the request has named the cluster.
            FilterInstance::Upstream(_) => Action::Stop,
        }
    }

    /// The read buffer holds `len` bytes from the peer; `is_end`: they are its last.
    pub fn read(&self, len: usize, is_end: bool) -> Action {
        match self {
            FilterInstance::Downstream(downstream) => {
                worker::input(|multiplexer, now| downstream.read(multiplexer, now, len, is_end));
                if downstream.is_disabled() {
                    worker::stalled(downstream);
                }
                Action::Stop
            }
            FilterInstance::Dialer(dialer) => {
                if let Some(number) = dialer.take_request() {
                    worker::dialer_arrived(dialer, number);
                    dialer.respond();
                }
                Action::Stop
            }
            FilterInstance::Upstream(upstream) => match upstream.take_request() {
                Some(number) => connect(upstream, number),
                None => Action::Stop,
            },
        }
    }

    /// The write buffer holds bytes for the peer; `is_end`: they are the last ones.
    pub fn write(&self, is_end: bool) -> Action {
        match self {
            // No filter behind these two writes anything.
            FilterInstance::Downstream(_) | FilterInstance::Dialer(_) => {}
            FilterInstance::Upstream(upstream) => match upstream.id() {
                Some(_) if upstream.is_astray() => {
                    upstream.handle.drain_write();
                    upstream.handle.abort();
                }
                Some(_) if !upstream.takes_bytes(is_end) => return Action::Stop,
                Some(id) => worker::upstream_replied(upstream, id),
                None => upstream.handle.drain_write(),
            },
        }
        Action::Continue
    }

    /// The connection's write buffer has passed its high watermark, or has come below its low one.
    pub fn write_buffer_full(&self, is_full: bool) {
        match self {
            FilterInstance::Downstream(downstream) => {
                if let Some(id) = downstream.id() {
                    worker::input(|multiplexer, _| multiplexer.borrow_mut().downstream_full(id, is_full));
                }
            }
            FilterInstance::Dialer(_) | FilterInstance::Upstream(_) => {}
        }
    }

    /// A callout of this filter has ended.
    pub fn callout_done(&self, callout: u64, result: CalloutResult) {
        match self {
            FilterInstance::Downstream(downstream) => worker::dialer_answered(downstream, result),
            // The response to an upstream connection's request never comes, so its callout ends
            // with the connection.
            FilterInstance::Dialer(_) => worker::callout_ended(callout),
            FilterInstance::Upstream(_) => {}
        }
    }

    /// The connection has ended. Only the first call has an effect: Envoy may report an end twice.
    pub fn closed(&self) {
        if self.handle().is_gone() {
            return;
        }
        worker::release_waker(self.handle());
        self.handle().forget();
        match self {
            FilterInstance::Downstream(downstream) => {
                if let Some(id) = downstream.closed() {
                    worker::downstream_closed(downstream, id);
                }
            }
            FilterInstance::Dialer(dialer) => worker::dialer_lost(dialer),
            FilterInstance::Upstream(upstream) => {
                if let Some(id) = upstream.closed() {
                    worker::upstream_closed(upstream, id);
                }
            }
        }
    }
}

/// Connects an upstream filter, whose request had this number, to where the multiplexer wants that
/// connection to lead.
fn connect(upstream: &Rc<UpstreamFilter>, number: u64) -> Action {
    match worker::upstream_arrived(upstream, number) {
        Some((id, address)) => {
            if upstream.connect(id, &address) {
                worker::upstream_opened(upstream, id);
                upstream.connected();
            }
        }
        // The multiplexer doesn't want the connection any more.
        None => upstream.handle.abort(),
    }
    if upstream.handle.is_gone() { Action::Stop } else { Action::Continue }
}
