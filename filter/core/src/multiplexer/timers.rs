//! What has to be done at a certain time.

use super::ids::{ClientId, ClusterId, ConnectionId};
use std::collections::BTreeSet;
use std::time::Duration;

/// What a timer is for. Timers are not cancelled; whoever is woken looks whether there is
/// something to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timer {
    /// The delay of an injected fault is over.
    Delay(ClientId),
    /// A client's next command has waited for too long for a node of a Redis Cluster.
    FailoverOf(ClientId),
    /// A client hasn't read its replies for a while.
    Backlog(ClientId),
    /// A client closed its sending side a while ago.
    HalfClosed(ClientId),
    /// Inquiries are gone on with, or given up.
    Inquiries,
    /// The nodes of a Redis Cluster are asked for its slots.
    Discovery(ClusterId),
    /// The nodes of a Redis Cluster are asked although nothing is amiss.
    PeriodicRefresh(ClusterId),
    /// A shared connection has reached its maximum age.
    MaxAge(ConnectionId),
    /// Connections are looked through for those that are silent or idle for too long.
    Sweep,
    /// Commands that couldn't be sent to a node of a Redis Cluster have waited for too long.
    Failover,
    /// Commands that met TRYAGAIN are sent again.
    Retry,
}

/// The times of timers that needn't be exact are multiples of this.
const ABOUT: Duration = Duration::from_millis(100);

/// Timers in the order of their times, which are durations on the host's monotonic clock.
#[derive(Debug, Default)]
pub struct Timers {
    timers: BTreeSet<(Duration, Timer)>,
    /// The time of the one [`Timer::Sweep`].
    next_sweep: Option<Duration>,
}

impl Timers {
    /// Adds a timer.
    pub fn add(&mut self, time: Duration, timer: Timer) {
        self.timers.insert((time, timer));
    }

    /// Adds a timer that may come up to 100 ms later, so that those of many clients come at once, and
    /// several of one client are one.
    pub fn add_about(&mut self, time: Duration, timer: Timer) {
        let step = ABOUT.as_nanos();
        let late = (step - time.as_nanos() % step) % step;
        self.add(time + Duration::from_nanos(u64::try_from(late).unwrap_or_default()), timer);
    }

    /// Removes a timer, if it is still there.
    pub fn cancel(&mut self, time: Duration, timer: Timer) {
        self.timers.remove(&(time, timer));
    }

    /// Sees to it that connections are swept at `time` or before. `None` changes nothing.
    pub fn sweep_by(&mut self, time: Option<Duration>) {
        if let Some(time) = time
            && self.next_sweep.is_none_or(|next| next > time)
        {
            if let Some(next) = self.next_sweep.replace(time) {
                self.cancel(next, Timer::Sweep);
            }
            self.add(time, Timer::Sweep);
        }
    }

    /// Removes and returns a timer whose time has come.
    pub fn pop(&mut self, now: Duration) -> Option<Timer> {
        if self.next()? > now {
            return None;
        }
        let (_, timer) = self.timers.pop_first()?;
        if timer == Timer::Sweep {
            self.next_sweep = None;
        }
        Some(timer)
    }

    /// Returns the time of the next timer.
    pub fn next(&self) -> Option<Duration> {
        self.timers.first().map(|(time, _)| *time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn there_is_one_sweep_at_the_earliest_time_asked_for() {
        let at = Duration::from_secs;
        let mut timers = Timers::default();
        timers.sweep_by(Some(at(5)));
        timers.sweep_by(Some(at(3)));
        timers.sweep_by(Some(at(4)));
        timers.sweep_by(None);
        assert_eq!((timers.next(), timers.pop(at(2))), (Some(at(3)), None));
        assert_eq!((timers.pop(at(9)), timers.pop(at(9))), (Some(Timer::Sweep), None));
        timers.sweep_by(Some(at(12)));
        assert_eq!(timers.next(), Some(at(12)));
    }

    #[test]
    fn timers_that_need_not_be_exact_come_together() {
        let at = Duration::from_millis;
        let mut timers = Timers::default();
        let [first, second] = [1, 2].map(ClientId::of_number);
        for (time, client) in [(101, first), (150, first), (200, second), (201, first)] {
            timers.add_about(at(time), Timer::Backlog(client));
        }
        assert_eq!(timers.timers.len(), 3);
        assert_eq!((timers.pop(at(199)), timers.pop(at(200))), (None, Some(Timer::Backlog(first))));
        assert_eq!(timers.pop(at(200)), Some(Timer::Backlog(second)));
        assert_eq!(timers.next(), Some(at(300)));
    }

    #[test]
    fn timers_come_in_the_order_of_their_times() {
        let at = Duration::from_secs;
        let mut timers = Timers::default();
        timers.add(at(2), Timer::Retry);
        timers.add(at(1), Timer::Discovery(ClusterId::of_number(0)));
        timers.add(at(1), Timer::Discovery(ClusterId::of_number(1)));
        timers.cancel(at(1), Timer::Discovery(ClusterId::of_number(1)));
        assert_eq!(timers.pop(at(2)), Some(Timer::Discovery(ClusterId::of_number(0))));
        assert_eq!(timers.pop(at(2)), Some(Timer::Retry));
        assert_eq!(timers.next(), None);
    }
}
