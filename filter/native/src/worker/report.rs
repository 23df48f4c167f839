//! What a worker tells Envoy of what it has counted.

use super::Worker;
use crate::client::Client;
use crate::metrics::Metrics;
use std::collections::hash_map::Entry;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// How often Envoy is told at most: its counters are those of all workers.
const PERIOD: Duration = Duration::from_millis(100);

impl Worker {
    /// Keeps who counts for clients with certain rules, and no longer those whose Envoy is gone and whose rules nobody has.
    pub(super) fn count_with(&self, metrics: Arc<Metrics>) {
        let Some(rules) = metrics.rules() else { return };
        let address = Arc::as_ptr(rules) as usize;
        let mut all = self.metrics.borrow_mut();
        if let Entry::Vacant(place) = all.entry(address) {
            place.insert(metrics.clone());
            all.retain(|_, metrics| metrics.is_needed());
        }
    }

    /// Tells Envoy what was counted, unless it was told just now: then the alarm sees to it.
    pub(super) fn report(&self) {
        let clock = self.proxy.borrow().clock();
        if self.report_due().is_some_and(|due| due <= clock) {
            self.tell();
        }
    }

    /// When Envoy is to be told; none: there is nothing to tell.
    pub(super) fn report_due(&self) -> Option<Duration> {
        let proxy = self.proxy.borrow();
        let told = self.told.get().filter(|_| !proxy.has_counted_much());
        proxy.has_counted().then(|| told.map_or(Duration::ZERO, |told| told + PERIOD))
    }

    /// Tells Envoy what was counted.
    fn tell(&self) {
        self.told.set(Some(self.proxy.borrow().clock()));
        let mut tally = self.tally.take();
        loop {
            let counted = self.proxy.borrow_mut().counted(&mut tally);
            let Some(rules) = counted else { break };
            let metrics = self.metrics.borrow().get(&(Arc::as_ptr(&rules) as usize)).cloned();
            if metrics.is_some_and(|metrics| metrics.tell(&tally, &rules)) {
                continue;
            }
            // The listener of these rules is gone. A client that was accepted by an older one keeps that one's metrics alive.
            let is_its = |client: &&Rc<Client>| client.metrics.rules().is_some_and(|its| its.host == rules.host);
            let client = self.clients.borrow().values().find(is_its).cloned();
            let _ = client.is_some_and(|client| client.metrics.tell(&tally, &rules));
        }
        self.tally.replace(tally);
    }
}
