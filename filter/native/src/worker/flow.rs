//! Keeping Redis from sending, and letting it go on.
//!
//! Envoy has no call for the second. What is done in its place (see
//! [`FilterHandle::cross_watermark`](crate::envoy::FilterHandle::cross_watermark)) depends on how
//! `tcp_proxy` works, so it is watched: where it has no effect, the connection is closed and its
//! clients are told. If that happens several times in a row, the worker pauses none any more.

use crate::envoy::{self, LogLevel};
use crate::filter::upstream::UpstreamFilter;
use redis_mesh_core::multiplexer::{ConnectionId, Multiplexer};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

/// How long Envoy may take to give again what was left. It does in the next turn of its event loop.
const RESUMES_WITHIN: Duration = Duration::from_secs(2);

/// How often in a row Envoy may not give again what was left: a connection may be at fault.
const TOLERATED: u32 = 2;

/// The upstream connections that were resumed, until bytes come over them.
#[derive(Default)]
pub struct FlowControl {
    resumed: RefCell<Vec<Rc<UpstreamFilter>>>,
    /// How often in a row Envoy hasn't given again what was left.
    failures: Cell<u32>,
}

impl FlowControl {
    fn is_broken(&self) -> bool {
        self.failures.get() > TOLERATED
    }

    /// Envoy has given again what was left, or the connection has ended meanwhile.
    fn went_on(&self, upstream: &UpstreamFilter) {
        if upstream.id().is_some() && !self.is_broken() {
            self.failures.set(0);
        }
    }

    /// Takes no bytes of Redis over a connection.
    pub fn pause(&self, upstream: &UpstreamFilter) {
        if !self.is_broken() {
            upstream.pause();
        }
    }

    /// Takes bytes of Redis over a connection again.
    pub fn resume(&self, upstream: &Rc<UpstreamFilter>, now: Duration) {
        if upstream.resume(now) {
            let mut resumed = self.resumed.borrow_mut();
            resumed.retain(|other| {
                let is_awaited = other.resumed_at().is_some();
                if !is_awaited {
                    self.went_on(other);
                }
                is_awaited && !Rc::ptr_eq(other, upstream)
            });
            resumed.push(upstream.clone());
        }
    }

    /// When [`FlowControl::check`] is to be called.
    pub fn due(&self) -> Option<Duration> {
        let resumed = self.resumed.borrow();
        resumed.iter().filter_map(|upstream| upstream.resumed_at()).min().map(|at| at + RESUMES_WITHIN)
    }

    /// Looks whether Envoy has given again what was left. Returns the connections over which it
    /// hasn't; they are of no use any more.
    pub fn check(&self, multiplexer: &RefCell<Multiplexer>, now: Duration) -> Vec<ConnectionId> {
        let mut lost = Vec::new();
        self.resumed.borrow_mut().retain(|upstream| match (upstream.id(), upstream.resumed_at()) {
            (Some(id), Some(at)) if at + RESUMES_WITHIN <= now => {
                lost.push((id, upstream.clone()));
                false
            }
            (Some(_), Some(_)) => true,
            _ => {
                self.went_on(upstream);
                false
            }
        });
        if !lost.is_empty() {
            let failures = u32::try_from(lost.len()).unwrap_or(u32::MAX);
            self.failures.set(self.failures.get().saturating_add(failures));
            let text = match self.is_broken() {
                false => "redis-mesh: Envoy doesn't go on with a connection to Redis that was paused; it is closed",
                true => {
                    "redis-mesh: Envoy doesn't go on with connections to Redis that were paused; from now on \
                     requests of clients that don't read their replies are held back"
                }
            };
            envoy::log(LogLevel::Error, text);
        }
        if self.is_broken() {
            multiplexer.borrow_mut().backlogs().turn_off();
        }
        lost.iter().for_each(|(_, upstream)| upstream.handle.abort());
        lost.into_iter().map(|(id, _)| id).collect()
    }
}
