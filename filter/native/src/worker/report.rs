//! How the tallies of a worker's multiplexer get into Envoy's metrics.

use crate::metrics::FilterMetrics;
use redis_mesh_core::proxy::config::Config as HostConfig;
use redis_mesh_core::proxy::{Proxy as Multiplexer, Tally};
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
    tally: RefCell<Tally>,
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
        let last = self.last.get().filter(|_| !multiplexer.has_counted_much());
        multiplexer.has_counted().then(|| last.map_or(Duration::ZERO, |last| last + PERIOD))
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
