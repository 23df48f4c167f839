//! Wakes workers at given times: network filters have no timer of their own, so a thread of this module posts to the workers'
//! event loops.

use crate::envoy::{self, Level, Waker};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

/// A worker's alarm.
pub struct Alarm {
    key: u64,
}

struct Set {
    waker: Waker,
    due: Option<Instant>,
}

struct State {
    alarms: BTreeMap<u64, Set>,
    running: bool,
    /// Tests wait for it.
    thread: Option<JoinHandle<()>>,
}

static STATE: Mutex<State> = Mutex::new(State { alarms: BTreeMap::new(), running: false, thread: None });
static CHANGED: Condvar = Condvar::new();

/// Every change under this lock is one assignment, so a panic leaves nothing half done.
fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Default for Alarm {
    fn default() -> Alarm {
        static KEYS: AtomicU64 = AtomicU64::new(0);
        Alarm { key: KEYS.fetch_add(1, Ordering::Relaxed) }
    }
}

impl Alarm {
    /// Takes over a waker, which [`Alarm::retire`] drops. False: there can be no timer.
    pub fn employ(&self, waker: Waker) -> bool {
        let mut state = state();
        if !state.running {
            match std::thread::Builder::new().name("redis-mesh-timer".into()).spawn(run) {
                Ok(thread) => (state.running, state.thread) = (true, Some(thread)),
                Err(error) => {
                    envoy::log(Level::Error, &format!("redis-mesh: no thread for timers: {error}"));
                    return false;
                }
            }
        }
        state.alarms.insert(self.key, Set { waker, due: None });
        true
    }

    /// Sets the alarm.
    pub fn set(&self, due: Instant) {
        if let Some(alarm) = state().alarms.get_mut(&self.key) {
            alarm.due = Some(due);
            CHANGED.notify_one();
        }
    }

    /// Drops the waker. When this returns, the timer's thread doesn't use it, nor will it.
    pub fn retire(&self) {
        state().alarms.remove(&self.key);
        CHANGED.notify_one();
    }
}

/// The thread ends with the last alarm, so that nothing of this module runs when nobody needs it.
fn run() {
    let mut state = state();
    while !state.alarms.is_empty() {
        let now = Instant::now();
        for alarm in state.alarms.values_mut().filter(|alarm| alarm.due.is_some_and(|due| due <= now)) {
            alarm.due = None;
            // Under the lock, so that `retire` waits for it.
            alarm.waker.wake();
        }
        state = match state.alarms.values().filter_map(|alarm| alarm.due).min() {
            None => CHANGED.wait(state).unwrap_or_else(PoisonError::into_inner),
            Some(due) => {
                let nap = due.saturating_duration_since(Instant::now());
                CHANGED.wait_timeout(state, nap).unwrap_or_else(PoisonError::into_inner).0
            }
        };
    }
    state.running = false;
}

/// Waits until the thread has ended, unless somebody else has an alarm.
#[cfg(test)]
pub fn end() {
    let thread = {
        let mut state = state();
        if state.alarms.is_empty() { state.thread.take() } else { None }
    };
    drop(thread.map(JoinHandle::join));
}
