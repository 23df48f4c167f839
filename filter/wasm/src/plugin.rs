//! A plugin of the VM: its current configuration, which every connection of that name reads anew.

use crate::abi;
use redis_mesh_core::rewriter::config::RewriterConfig;
use redis_mesh_core::stats::{Stat, Stats};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

/// See the module's documentation.
pub struct Plugin {
    config: RefCell<Rc<RewriterConfig>>,
    generation: Cell<u32>,
    queue: Cell<Option<u32>>,
    /// By the host's name: increments, and the counters of Envoy that they go to.
    stats: RefCell<BTreeMap<String, Rc<HostStats>>>,
}

/// The counters of one host.
#[derive(Default)]
pub struct HostStats {
    /// Increments that Envoy hasn't been told yet.
    pub increments: RefCell<Stats>,
    counters: RefCell<[Option<u32>; Stat::ALL.len()]>,
}

impl HostStats {
    fn flush(&self, host: &str) {
        let mut counters = self.counters.borrow_mut();
        self.increments.borrow_mut().take(|stat, by| {
            let counter = &mut counters[stat as usize];
            if counter.is_none() {
                // The form of a label in a name that Istio's sidecars can be told to look for (`extraStatTags`).
                *counter = abi::counter(&format!("redis_mesh.redis_host=.={host};.;{}", stat.name()));
            }
            if let Some(counter) = *counter {
                abi::increment(counter, by);
            }
        });
    }
}

impl Plugin {
    /// A plugin that has just been configured for the first time.
    pub fn new(config: RewriterConfig) -> Plugin {
        Plugin {
            config: RefCell::new(Rc::new(config)),
            generation: Cell::new(0),
            queue: Cell::new(None),
            stats: RefCell::default(),
        }
    }

    /// The current configuration.
    pub fn config(&self) -> Rc<RewriterConfig> {
        self.config.borrow().clone()
    }

    /// Counts configurations, so that a connection sees that it has to look for its host again.
    pub fn generation(&self) -> u32 {
        self.generation.get()
    }

    /// Takes a new configuration.
    pub fn update(&self, config: RewriterConfig) {
        self.config.replace(Rc::new(config));
        self.generation.set(self.generation.get().wrapping_add(1));
    }

    /// Registers the queue that wakes this plugin's connections, under the root context that was configured last. False:
    /// Envoy has none.
    #[must_use]
    pub fn register_queue(&self, name: &str) -> bool {
        self.queue.set(abi::queue(name));
        self.queue.get().is_some()
    }

    /// Has [`crate::stream::pump`] called for a connection in a later turn of the event loop.
    pub fn post(&self, context: u32) {
        if let Some(queue) = self.queue.get()
            && !abi::post(queue, context)
        {
            log::error!("redis-mesh: a connection can't be woken");
        }
    }

    /// The counters of a host.
    pub fn stats(&self, host: &str) -> Rc<HostStats> {
        if let Some(stats) = self.stats.borrow().get(host) {
            return stats.clone();
        }
        self.stats.borrow_mut().entry(host.to_string()).or_default().clone()
    }

    /// Tells Envoy what has been counted.
    pub fn flush_stats(&self) {
        for (host, stats) in self.stats.borrow().iter() {
            stats.flush(host);
        }
    }
}
