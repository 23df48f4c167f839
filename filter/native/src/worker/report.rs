//! How the tallies of a worker's multiplexer get into Envoy's metrics.

use crate::metrics::FilterMetrics;
use redis_mesh_core::multiplexer::config::HostConfig;
use redis_mesh_core::multiplexer::{HostStats, Multiplexer, Tally};
use rustc_hash::FxHashMap;
use std::cell::{Cell, RefCell};
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Duration;

/// The time between two reports. All workers share Envoy's counters, so adding to them for each
/// command would be slow.
const PERIOD: Duration = Duration::from_millis(100);

/// Reports tallies to Envoy.
#[derive(Default)]
pub struct Reporter {
    /// The metrics for clients of each configuration, by the configuration's address, which no
    /// other one has while these keep it.
    metrics: RefCell<FxHashMap<usize, Arc<FilterMetrics>>>,
    /// Reused for each report.
    tally: RefCell<HostStats>,
    /// The time of the last report. `None`: the next one is due at once.
    last: Cell<Option<Duration>>,
}

impl Reporter {
    /// Keeps the metrics for clients of a configuration, and drops those that can't be needed any
    /// more.
    pub fn register(&self, metrics: Arc<FilterMetrics>) {
        let Some(config) = metrics.config() else { return };
        let address = Arc::as_ptr(config).addr();
        let mut all = self.metrics.borrow_mut();
        if let Entry::Vacant(entry) = all.entry(address) {
            entry.insert(metrics.clone());
            all.retain(|_, metrics| metrics.is_needed());
        }
    }

    /// Makes the next report due at once.
    pub fn hurry(&self) {
        self.last.take();
    }

    /// The time at which a report is due. `None`: there is nothing to report.
    pub fn due(&self, multiplexer: &Multiplexer) -> Option<Duration> {
        let tally = multiplexer.tally();
        let last = self.last.get().filter(|_| tally != Tally::Much);
        (tally != Tally::Nothing).then(|| last.map_or(Duration::ZERO, |last| last + PERIOD))
    }

    /// Adds the tallies to Envoy's metrics, if a report is due. `older` finds the metrics of a
    /// client that came with an older configuration of the host: where the latest listener is
    /// gone, a client of the one before keeps that one's metrics.
    pub fn report(
        &self,
        multiplexer: &RefCell<Multiplexer>,
        older: impl Fn(&HostConfig) -> Option<Arc<FilterMetrics>>,
    ) {
        let now = multiplexer.borrow().clock();
        if self.due(&multiplexer.borrow()).is_none_or(|due| due > now) {
            return;
        }
        self.last.set(Some(now));
        let mut tally = self.tally.take();
        loop {
            let config = multiplexer.borrow_mut().counted(&mut tally);
            let Some(config) = config else { break };
            let registered = self.metrics.borrow().get(&Arc::as_ptr(&config).addr()).cloned();
            // Where neither has a configuration in Envoy any more, there are no metrics to add to.
            for metrics in registered.into_iter().chain(std::iter::once_with(|| older(&config)).flatten()) {
                if metrics.add(&tally, &config) {
                    break;
                }
            }
        }
        self.tally.replace(tally);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::FilterInstance;
    use crate::standin;

    /// The configuration of a new listener, with its metrics.
    fn configured(name: &str) -> (Arc<HostConfig>, Arc<FilterMetrics>) {
        match standin::connect("client", standin::listener(name)).instance() {
            FilterInstance::Downstream(downstream) => downstream.config(),
            _ => panic!("no client"),
        }
    }

    /// A client with this configuration sends a command that the multiplexer answers itself.
    fn ping(multiplexer: &RefCell<Multiplexer>, config: &Arc<HostConfig>, now: Duration) {
        let mut multiplexer = multiplexer.borrow_mut();
        let client = multiplexer.open(config.clone());
        assert_eq!(multiplexer.read(client, b"ECHO x\r\n", now), 8);
    }

    fn commands(name: &str) -> u64 {
        standin::metric(&format!("redis_host=.={name}:6379;.;commands_total"))
    }

    #[test]
    fn a_report_is_due_a_period_after_the_last_one() {
        let _end = standin::begin();
        let (config, metrics) = configured("period");
        let (reporter, multiplexer) = (Reporter::default(), RefCell::new(Multiplexer::new([7; 32])));
        reporter.register(metrics);
        let none = |_: &HostConfig| None;
        let due = || reporter.due(&multiplexer.borrow());
        assert_eq!(due(), None, "nothing has been counted");
        let start = Duration::from_secs(5);
        ping(&multiplexer, &config, start);
        assert_eq!(due(), Some(Duration::ZERO));
        reporter.report(&multiplexer, none);
        assert_eq!((due(), commands("period")), (None, 1));
        ping(&multiplexer, &config, start + PERIOD / 2);
        reporter.report(&multiplexer, none);
        assert_eq!((due(), commands("period")), (Some(start + PERIOD), 1));
        ping(&multiplexer, &config, start + PERIOD);
        reporter.report(&multiplexer, none);
        assert_eq!((due(), commands("period")), (None, 3));
        ping(&multiplexer, &config, start + PERIOD);
        reporter.hurry();
        reporter.report(&multiplexer, none);
        assert_eq!(commands("period"), 4);
    }

    #[test]
    fn metrics_of_an_older_configuration_stand_in_for_those_that_are_gone() {
        let _end = standin::begin();
        let ((_, old), (config, new)) = (configured("older"), configured("older"));
        let (reporter, multiplexer) = (Reporter::default(), RefCell::new(Multiplexer::new([7; 32])));
        reporter.register(new.clone());
        let report = |at: u64| {
            ping(&multiplexer, &config, Duration::from_secs(at));
            reporter.report(&multiplexer, |wanted| (wanted.host == config.host).then(|| old.clone()));
            commands("older")
        };
        assert_eq!(report(1), 1);
        new.forget();
        assert_eq!(report(2), 2);
        old.forget();
        assert_eq!(report(3), 2, "there are no metrics any more");
        assert_eq!(multiplexer.borrow().tally(), Tally::Nothing, "it is dropped");
    }
}
