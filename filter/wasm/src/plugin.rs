//! A plugin: the current configuration of one name, which every connection of the plugin reads in
//! each callback.

use crate::abi;
use redis_mesh_core::request::privileges::{self, CommandNames};
use redis_mesh_core::rewriter::LoginReview;
use redis_mesh_core::rewriter::config::{RewriterConfig, RewriterHost};
use redis_mesh_core::rewriter::node;
use redis_mesh_core::stats::{Stat, Stats};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

/// How long an answer about what a login may do is believed.
const REVIEW_INTERVAL: Duration = Duration::from_secs(600);

/// A plugin of the VM.
pub struct Plugin {
    config: RefCell<Rc<RewriterConfig>>,
    is_served: bool,
    generation: Cell<u32>,
    queue: Cell<Option<u32>>,
    /// The statistics of each host, by its name.
    stats: RefCell<BTreeMap<String, Rc<HostStats>>>,
}

/// The statistics of one host.
#[derive(Default)]
pub struct HostStats {
    /// Increments that haven't been added to Envoy's counters yet.
    pub increments: RefCell<Stats>,
    /// Envoy's counters, each from its first increment on.
    counters: RefCell<[Option<u32>; Stat::ALL.len()]>,
    /// What the login may do.
    pub review: RefCell<LoginReview>,
    /// When that was answered.
    reviewed: Cell<Duration>,
    /// The generation of the configuration of which it was last said that the login is withheld.
    pub withheld: Cell<Option<u32>>,
    /// Envoy's gauge of it, from the first answer on.
    privileged: Cell<Option<u32>>,
}

impl HostStats {
    fn flush(&self, host: &str) {
        let mut counters = self.counters.borrow_mut();
        self.increments.borrow_mut().take(|stat, by| {
            let counter = &mut counters[stat as usize];
            if counter.is_none() {
                // Labels are part of the name, in a form that a configuration can look for
                // (`stats_tags`, Istio's `extraStatTags`).
                *counter = abi::counter(&format!("redis_mesh.redis_host=.={host};.;{}", stat.name()));
            }
            if let Some(counter) = *counter {
                abi::increment(counter, by);
            }
        });
    }

    /// Tells what the login of the host may do, if something new is known.
    fn report_login(&self, host: &RewriterHost, news: Option<CommandNames>, now: Duration) {
        let Some(allowed) = news else {
            if now.saturating_sub(self.reviewed.get()) >= REVIEW_INTERVAL {
                self.review.borrow_mut().expire();
            }
            if let Some(gauge) = self.privileged.get().filter(|_| host.login.is_none()) {
                abi::record(gauge, 0);
            }
            return;
        };
        self.reviewed.set(now);
        let destination = host.targets.first().map_or("", |target| &target.destination);
        if self.privileged.get().is_none() {
            let labels = format!("redis_host=.={};.;redis_destination=.={destination};.;", host.name);
            self.privileged.set(abi::gauge(&format!("redis_mesh.{labels}upstream_login_privileged")));
        }
        if let Some(gauge) = self.privileged.get() {
            abi::record(gauge, u64::from(!allowed.is_empty()));
        }
        if !allowed.is_empty() {
            log::warn!("{}", privileges::warning(&host.name, destination, &allowed));
        }
    }
}

impl Plugin {
    /// A plugin with its first configuration.
    pub fn new(config: RewriterConfig) -> Plugin {
        Plugin {
            config: RefCell::new(Rc::new(config)),
            is_served: node::is_served(abi::property(&["xds", "node", "id"]).as_deref()),
            generation: Cell::new(0),
            queue: Cell::new(None),
            stats: RefCell::default(),
        }
    }

    /// The current configuration.
    pub fn config(&self) -> Rc<RewriterConfig> {
        self.config.borrow().clone()
    }

    /// True if connections are served in this proxy; otherwise they pass through untouched.
    pub fn is_served(&self) -> bool {
        self.is_served
    }

    /// The number of the current configuration, by which a connection learns that it has to find
    /// its host again.
    pub fn generation(&self) -> u32 {
        self.generation.get()
    }

    /// Takes a new configuration.
    pub fn update(&self, config: RewriterConfig) {
        self.config.replace(Rc::new(config));
        self.generation.set(self.generation.get().wrapping_add(1));
    }

    /// Registers the queue by which this plugin's connections are pumped, under the root context
    /// that is being configured. False: Envoy has refused.
    #[must_use]
    pub fn register_queue(&self, name: &str) -> bool {
        self.queue.set(abi::queue(name));
        self.queue.get().is_some()
    }

    /// Has the connection of this context pumped in a later turn of the event loop.
    pub fn schedule(&self, id: u32) {
        if let Some(queue) = self.queue.get()
            && !abi::enqueue(queue, id)
        {
            log::error!("redis-mesh: cannot schedule a connection: Envoy has refused an item of the shared queue");
        }
    }

    /// The statistics of a host.
    pub fn stats(&self, host: &str) -> Rc<HostStats> {
        if let Some(stats) = self.stats.borrow().get(host) {
            return stats.clone();
        }
        self.stats.borrow_mut().entry(host.to_string()).or_default().clone()
    }

    /// Adds all increments to Envoy's counters, and tells what logins may do.
    pub fn flush_stats(&self, now: Duration) {
        let config = self.config();
        for (name, stats) in self.stats.borrow().iter() {
            stats.flush(name);
            let news = stats.review.borrow_mut().take();
            if (news.is_some() || stats.privileged.get().is_some())
                && let Some(host) = config.hosts.iter().find(|host| host.name == *name)
            {
                stats.report_login(host, news, now);
            }
        }
    }
}
