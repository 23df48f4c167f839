//! Timers of workers. The ABI gives network filters no timer, so one thread of this module posts
//! to the workers' event loops.

use crate::envoy::{self, LogLevel, Waker};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

/// A timer of one worker: it fires once, at the time that was set last.
pub struct WorkerTimer {
    key: u64,
}

/// A timer that has a waker.
struct Registration {
    waker: Waker,
    due: Option<Instant>,
}

/// The timers of all workers, and the thread that serves them.
struct TimerThread {
    registrations: BTreeMap<u64, Registration>,
    is_running: bool,
    /// The thread, for which tests wait.
    thread: Option<JoinHandle<()>>,
}

static TIMERS: Mutex<TimerThread> =
    Mutex::new(TimerThread { registrations: BTreeMap::new(), is_running: false, thread: None });
static CHANGED: Condvar = Condvar::new();

/// Locks the timers. Every change under this lock is one assignment, so a panic leaves no change
/// half done.
fn timers() -> MutexGuard<'static, TimerThread> {
    TIMERS.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Default for WorkerTimer {
    fn default() -> WorkerTimer {
        static KEYS: AtomicU64 = AtomicU64::new(0);
        WorkerTimer { key: KEYS.fetch_add(1, Ordering::Relaxed) }
    }
}

/// Wakes the worker whose timer has this key, from any thread, if the timer has a waker.
pub fn wake(key: u64) {
    // The lock is held, so `detach` waits until the waker is no longer in use.
    if let Some(registration) = timers().registrations.get(&key) {
        registration.waker.wake();
    }
}

impl WorkerTimer {
    /// Names the timer among those of all workers.
    pub fn key(&self) -> u64 {
        self.key
    }

    /// Takes the waker that fires the timer; [`WorkerTimer::detach`] drops it. False: the thread
    /// can't be started, and the timer never fires.
    pub fn attach(&self, waker: Waker) -> bool {
        let mut timers = timers();
        if !timers.is_running {
            match std::thread::Builder::new().name("redis-mesh-timer".into()).spawn(run) {
                Ok(thread) => (timers.is_running, timers.thread) = (true, Some(thread)),
                Err(error) => {
                    envoy::log(LogLevel::Error, &format!("redis-mesh: cannot start the timer thread: {error}"));
                    return false;
                }
            }
        }
        timers.registrations.insert(self.key, Registration { waker, due: None });
        true
    }

    /// Sets the time at which the timer fires. Without effect unless a waker is attached.
    pub fn set(&self, due: Instant) {
        if let Some(registration) = timers().registrations.get_mut(&self.key) {
            registration.due = Some(due);
            CHANGED.notify_one();
        }
    }

    /// Drops the waker. After this returns, the thread doesn't use it any more.
    pub fn detach(&self) {
        timers().registrations.remove(&self.key);
        CHANGED.notify_one();
    }
}

/// The thread's function. It ends with the last registration, so that no code of this module runs
/// when no worker needs it.
fn run() {
    let mut timers = timers();
    while !timers.registrations.is_empty() {
        let now = Instant::now();
        let is_due = |registration: &&mut Registration| registration.due.is_some_and(|due| due <= now);
        for registration in timers.registrations.values_mut().filter(is_due) {
            registration.due = None;
            // The lock is held, so `detach` waits until the waker is no longer in use.
            registration.waker.wake();
        }
        timers = match timers.registrations.values().filter_map(|registration| registration.due).min() {
            None => CHANGED.wait(timers).unwrap_or_else(PoisonError::into_inner),
            Some(due) => {
                let nap = due.saturating_duration_since(Instant::now());
                CHANGED.wait_timeout(timers, nap).unwrap_or_else(PoisonError::into_inner).0
            }
        };
    }
    timers.is_running = false;
}

/// Waits until the thread has ended, unless another worker has a timer.
#[cfg(test)]
pub fn end() {
    let thread = {
        let mut timers = timers();
        if timers.registrations.is_empty() { timers.thread.take() } else { None }
    };
    drop(thread.map(JoinHandle::join));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::standin;
    use std::time::Duration;

    #[test]
    fn a_timer_fires_once_and_only_while_it_has_a_waker() {
        let _end = standin::begin();
        let connection = standin::connect("redis_anchor", standin::configure("anchor", ""));
        let instance = connection.instance();
        let timer = WorkerTimer::default();
        let wait = |count: u64| {
            let deadline = Instant::now() + Duration::from_secs(10);
            while connection.wake_ups() < count && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(1));
            }
            connection.wake_ups()
        };
        timer.set(Instant::now());
        assert!(timer.attach(instance.handle().waker().unwrap()));
        timer.set(Instant::now() + Duration::from_millis(1));
        assert_eq!(wait(1), 1);
        timer.set(Instant::now() + Duration::from_secs(3600));
        timer.set(Instant::now());
        assert_eq!(wait(2), 2, "the time that was set last is the one that counts");
        timer.set(Instant::now() + Duration::from_secs(3600));
        timer.detach();
        assert_eq!(wait(2), 2);
    }
}
