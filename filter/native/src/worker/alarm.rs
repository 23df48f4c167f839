//! When a worker is woken next, and by which filter.

use crate::envoy::FilterHandle;
use crate::timer::WorkerTimer;
use std::cell::Cell;
use std::time::{Duration, Instant};

/// A worker's timer, with a filter whose hook it calls.
pub struct WorkerAlarm {
    timer: WorkerTimer,
    /// The time to which due times are relative.
    epoch: Instant,
    /// The filter whose waker the timer has.
    filter: Cell<Option<*const FilterHandle>>,
    /// The time for which the timer is set.
    due: Cell<Option<Duration>>,
}

impl WorkerAlarm {
    /// An alarm that isn't set, for due times that are relative to `epoch`.
    pub fn new(epoch: Instant) -> WorkerAlarm {
        WorkerAlarm { timer: WorkerTimer::default(), epoch, filter: Cell::new(None), due: Cell::new(None) }
    }

    /// The key of its timer.
    pub fn key(&self) -> u64 {
        self.timer.key()
    }

    /// True if the alarm has to be set so that it goes off at this time. One that is set for an
    /// earlier time need not: going off early does no harm.
    pub fn is_later_than(&self, due: Duration) -> bool {
        self.due.get().is_none_or(|set| due < set)
    }

    /// True if there is a filter whose hook the alarm calls.
    pub fn is_attached(&self) -> bool {
        self.filter.get().is_some()
    }

    /// Has the alarm call this filter's hook. The alarm stays unattached if there can be no timer.
    pub fn attach(&self, filter: &FilterHandle) {
        if let Some(waker) = filter.waker()
            && self.timer.attach(waker)
        {
            self.filter.set(Some(std::ptr::from_ref(filter)));
        }
    }

    /// Sets the alarm, if it is attached.
    pub fn set(&self, due: Duration) {
        if self.is_attached() {
            self.timer.set(self.epoch + due);
            self.due.set(Some(due));
        }
    }

    /// The alarm has gone off.
    pub fn went_off(&self) {
        self.due.set(None);
    }

    /// A filter goes. If it is the one whose hook the alarm calls, the alarm is unattached and not
    /// set from then on.
    pub fn release(&self, filter: &FilterHandle) {
        if self.filter.get().is_some_and(|attached| std::ptr::eq(attached, filter)) {
            self.timer.detach();
            self.filter.set(None);
            self.due.set(None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::standin;

    #[test]
    fn only_an_earlier_time_sets_it_again() {
        let _end = standin::begin();
        let connection = standin::connect("redis_anchor", standin::configure("anchor", ""));
        let instance = connection.instance();
        let alarm = WorkerAlarm::new(Instant::now());
        let at = Duration::from_secs;
        alarm.set(at(3600));
        assert!(alarm.is_later_than(at(7200)), "nothing could have called a hook");
        alarm.attach(instance.handle());
        alarm.set(at(3600));
        assert!(alarm.is_later_than(at(3599)) && !alarm.is_later_than(at(3600)));
        alarm.went_off();
        assert!(alarm.is_later_than(at(7200)) && alarm.is_attached());
        alarm.release(instance.handle());
    }

    #[test]
    fn it_lets_go_of_its_filter_alone() {
        let _end = standin::begin();
        let config = standin::configure("anchor", "");
        let (a, b) = (standin::connect("redis_anchor", config), standin::connect("redis_anchor", config));
        let (a, b) = (a.instance(), b.instance());
        let alarm = WorkerAlarm::new(Instant::now());
        alarm.attach(a.handle());
        alarm.set(Duration::from_secs(3600));
        alarm.release(b.handle());
        assert!(alarm.is_attached() && !alarm.is_later_than(Duration::from_secs(3600)));
        alarm.release(a.handle());
        assert!(!alarm.is_attached() && alarm.is_later_than(Duration::from_secs(3600)));
        // A filter that is gone has no waker.
        a.handle().forget();
        alarm.attach(a.handle());
        assert!(!alarm.is_attached());
    }
}
