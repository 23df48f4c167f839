//! Keeping Redis from sending, and letting it go on.
//!
//! Envoy has no call for the second. What is done in its place (see
//! [`FilterHandle::cross_watermark`](crate::envoy::FilterHandle::cross_watermark)) depends on how
//! `tcp_proxy` works, so it is watched: where it has no effect, the connection is closed, its
//! clients are told, and no connection of the process is paused any more.

use crate::envoy::{self, LogLevel};
use crate::filter::upstream::UpstreamFilter;
use redis_mesh_core::multiplexer::{ConnectionId, Multiplexer};
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How long Envoy may take to give again what was left. It does in the next turn of its event loop.
const RESUMES_WITHIN: Duration = Duration::from_secs(2);

/// Envoy has once not given again what was left.
static IS_BROKEN: AtomicBool = AtomicBool::new(false);

/// Forgets that Envoy has once not given again what was left.
#[cfg(test)]
pub fn mend() {
    IS_BROKEN.store(false, Ordering::Relaxed);
}

/// The upstream connections that were resumed, until bytes come over them.
#[derive(Default)]
pub struct FlowControl {
    resumed: RefCell<Vec<Rc<UpstreamFilter>>>,
}

impl FlowControl {
    /// Takes no bytes of Redis over a connection.
    pub fn pause(&self, upstream: &UpstreamFilter) {
        if !IS_BROKEN.load(Ordering::Relaxed) {
            upstream.pause();
        }
    }

    /// Takes bytes of Redis over a connection again.
    pub fn resume(&self, upstream: &Rc<UpstreamFilter>, now: Duration) {
        if upstream.resume(now) {
            let mut resumed = self.resumed.borrow_mut();
            resumed.retain(|other| other.resumed_at().is_some() && !Rc::ptr_eq(other, upstream));
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
            _ => false,
        });
        if IS_BROKEN.load(Ordering::Relaxed) || !lost.is_empty() {
            multiplexer.borrow_mut().backlogs().turn_off();
        }
        if !lost.is_empty() && !IS_BROKEN.swap(true, Ordering::Relaxed) {
            let text = "redis-mesh: Envoy doesn't go on with a connection to Redis that was paused; from now on \
                        requests of clients that don't read their replies are held back";
            envoy::log(LogLevel::Error, text);
        }
        lost.iter().for_each(|(_, upstream)| upstream.handle.abort());
        lost.into_iter().map(|(id, _)| id).collect()
    }
}
