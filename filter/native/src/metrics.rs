//! The metrics in Envoy of the module's filters, and how the tallies of workers are added to them.
//!
//! Envoy has no labels for the metrics of a network filter, so labels are part of the names, in a
//! form that a configuration can look for (`stats_tags`, Istio's `extraStatTags`):
//! `redis_host=.=HOST;.;`. A metric has the same name on all data paths.

use crate::envoy::{self, Counter, Gauge, Histogram, LogLevel, Meter, MeterGuard};
use redis_mesh_core::command;
use redis_mesh_core::multiplexer::config::{HostConfig, RouteConfig, TargetConfig};
use redis_mesh_core::multiplexer::{HostStats, LoginVerdict};
use redis_mesh_core::request::privileges;
use redis_mesh_core::stats::Stat;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The longest label of a route, in characters.
const LONGEST_ROUTE: usize = 100;

/// The metrics of one configuration of a filter.
pub struct FilterMetrics {
    meter: Meter,
    panics: Counter,
    upstream: UpstreamMetrics,
    downstream: Option<DownstreamMetrics>,
}

/// The metrics of connections to Redis.
#[derive(Default)]
struct UpstreamMetrics {
    active: Gauge,
    opened: Counter,
}

/// The metrics of a destination's login.
struct LoginMetrics {
    destination: String,
    /// 1 while the login may do what could be turned against its owner.
    is_privileged: Gauge,
    /// The log says so already.
    is_logged: AtomicBool,
}

/// The metrics of the clients of a host.
struct DownstreamMetrics {
    config: Arc<HostConfig>,
    stats: [Counter; Stat::ALL.len()],
    errors: Counter,
    cut_off: Counter,
    mirror_errors: Counter,
    mirror_dropped: Counter,
    clients: Gauge,
    /// The labels and counters of the routes, in the order of the configuration.
    routes: Vec<(String, Counter)>,
    /// The logins of the configuration, in the order of its targets.
    logins: Vec<LoginMetrics>,
    /// The durations and errors of commands, in the order of the command table; empty unless the
    /// host has `commandStats`.
    commands: Vec<(Histogram, Counter)>,
}

impl FilterMetrics {
    /// Defines the metrics of the filter for dialers: it counts panics alone.
    pub fn of_dialer(meter: Meter) -> FilterMetrics {
        FilterMetrics { panics: panics(&meter), upstream: UpstreamMetrics::default(), downstream: None, meter }
    }

    /// Defines the metrics of the filter for connections to Redis.
    pub fn of_upstream(meter: Meter) -> FilterMetrics {
        let upstream = UpstreamMetrics {
            active: meter.gauge(&named("", "upstream_connections_active")),
            opened: meter.counter(&named("", "upstream_connections_total")),
        };
        FilterMetrics { panics: panics(&meter), upstream, downstream: None, meter }
    }

    /// Defines the metrics of the filter for clients.
    pub fn of_downstream(meter: Meter, config: Arc<HostConfig>) -> FilterMetrics {
        let labels = label("redis_host", &config.host);
        let counter = |name: &str| meter.counter(&named(&labels, name));
        let route = |route: &RouteConfig| {
            let name = printable(&route.name);
            let labels = format!("{labels}{}", label("redis_route", &name));
            (name, meter.counter(&named(&labels, "route_commands_total")))
        };
        let login = |target: &TargetConfig| LoginMetrics {
            destination: target.destination.clone(),
            is_privileged: {
                let labels = format!("{labels}{}", label("redis_destination", &target.destination));
                meter.gauge(&named(&labels, "upstream_login_privileged"))
            },
            is_logged: AtomicBool::new(false),
        };
        let command = |command: &command::Command| {
            let labels = format!("{labels}{}", label("redis_command", command.name));
            let duration = meter.histogram(&named(&labels, "command_duration_microseconds"));
            (duration, meter.counter(&named(&labels, "command_errors_total")))
        };
        let commands = if config.command_stats { command::all() } else { &[] };
        let downstream = DownstreamMetrics {
            stats: Stat::ALL.map(|stat| counter(stat.name())),
            errors: counter("error_replies_total"),
            cut_off: counter("clients_cut_off_total"),
            mirror_errors: counter("mirror_errors_total"),
            mirror_dropped: counter("mirror_dropped_total"),
            clients: meter.gauge(&named(&labels, "clients_active")),
            routes: config.routes.iter().map(route).collect(),
            logins: config.targets.iter().map(login).collect(),
            commands: commands.iter().map(command).collect(),
            config,
        };
        let upstream = UpstreamMetrics::default();
        FilterMetrics { panics: panics(&meter), upstream, downstream: Some(downstream), meter }
    }

    /// Makes these the metrics of a configuration that Envoy has destroyed: they no longer count.
    pub fn forget(&self) {
        self.meter.forget();
    }

    /// The configuration of the clients for which these metrics count; `None` for the metrics of
    /// other filters.
    pub fn config(&self) -> Option<&Arc<HostConfig>> {
        self.downstream.as_ref().map(|downstream| &downstream.config)
    }

    /// True while these metrics count, or while clients may have their configuration.
    pub fn is_needed(&self) -> bool {
        let is_used = |downstream: &DownstreamMetrics| Arc::strong_count(&downstream.config) > 1;
        self.meter.with(|_| ()).is_some() || self.downstream.as_ref().is_some_and(is_used)
    }

    /// Counts a hook that has panicked.
    pub fn panicked(&self) {
        self.meter.with(|guard| guard.add(self.panics, 1));
    }

    /// Counts a client that has connected.
    pub fn client_opened(&self) {
        if let Some(downstream) = &self.downstream {
            self.meter.with(|guard| guard.increment(downstream.clients));
        }
    }

    /// Counts a client that has gone.
    pub fn client_closed(&self) {
        if let Some(downstream) = &self.downstream {
            self.meter.with(|guard| guard.decrement(downstream.clients));
        }
    }

    /// Counts a connection to Redis that has begun.
    pub fn upstream_opened(&self) {
        self.meter.with(|guard| {
            guard.increment(self.upstream.active);
            guard.add(self.upstream.opened, 1);
        });
    }

    /// Counts a connection to Redis that has ended.
    pub fn upstream_closed(&self) {
        self.meter.with(|guard| guard.decrement(self.upstream.active));
    }

    /// Adds the stats of clients that have the configuration `config`, which may be another one of
    /// the same host. False: Envoy has destroyed this metrics' own configuration, and nothing was
    /// added.
    #[must_use]
    pub fn add(&self, stats: &HostStats, config: &Arc<HostConfig>) -> bool {
        let Some(downstream) = &self.downstream else { return false };
        self.meter.with(|guard| downstream.add(guard, stats, config)).is_some()
    }
}

impl DownstreamMetrics {
    fn add(&self, guard: &MeterGuard, stats: &HostStats, config: &Arc<HostConfig>) {
        let add = |counter: Counter, by: u64| {
            if by > 0 {
                guard.add(counter, by);
            }
        };
        for (stat, counter) in Stat::ALL.iter().zip(self.stats) {
            add(counter, stats.stats.of(*stat));
        }
        add(self.errors, stats.errors);
        add(self.cut_off, stats.cut_off);
        add(self.mirror_errors, stats.mirror_errors);
        add(self.mirror_dropped, stats.mirror_dropped);
        let is_own = Arc::ptr_eq(config, &self.config);
        for (index, count) in stats.routes.iter().enumerate().filter(|(_, count)| **count > 0) {
            // Another configuration of the host may have its routes in another order; their names
            // tell which is which.
            let found = if is_own {
                self.routes.get(index)
            } else {
                let name = config.routes.get(index).map(|route| printable(&route.name));
                self.routes.iter().find(|(of, _)| Some(of) == name.as_ref())
            };
            if let Some((_, counter)) = found {
                add(*counter, *count);
            }
        }
        for verdict in &stats.logins {
            let destination = config.targets.get(verdict.target).map(|target| &target.destination);
            for login in self.logins.iter().filter(|login| Some(&login.destination) == destination) {
                guard.set(login.is_privileged, u64::from(!verdict.allowed.is_empty()));
                login.log(&self.config.host, verdict);
            }
        }
        for answered in &stats.answered {
            if let Some((duration, errors)) = self.commands.get(usize::from(answered.command)) {
                guard.record(*duration, u64::try_from(answered.took.as_micros()).unwrap_or(u64::MAX));
                add(*errors, u64::from(answered.is_error));
            }
        }
    }
}

impl LoginMetrics {
    /// Says in the log, once for all workers, that a login may do too much.
    fn log(&self, host: &str, verdict: &LoginVerdict) {
        if verdict.allowed.is_empty() {
            return self.is_logged.store(false, Ordering::Relaxed);
        }
        if !self.is_logged.swap(true, Ordering::Relaxed) {
            envoy::log(LogLevel::Warning, &privileges::warning(host, &self.destination, &verdict.allowed));
        }
    }
}

fn panics(meter: &Meter) -> Counter {
    meter.counter(&named("", "module_panics_total"))
}

fn named(labels: &str, name: &str) -> String {
    format!("redis_mesh.{labels}{name}")
}

fn label(name: &str, value: &str) -> String {
    format!("{name}=.={value};.;")
}

/// A route's name as a label: cut at [`LONGEST_ROUTE`], with `_` for characters that would end the
/// label or that a dashboard can't show.
fn printable(name: &str) -> String {
    let is_plain = |c: char| c.is_ascii_graphic() && !matches!(c, ';' | '"' | '\\');
    name.chars().take(LONGEST_ROUTE).map(|c| if is_plain(c) { c } else { '_' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_is_named_in_plain_letters() {
        assert_eq!(printable("user:*"), "user:*");
        assert_eq!(printable("a;.;b \"\\ü\n"), "a_._b_____");
        assert_eq!(printable(&"x".repeat(1000)).len(), LONGEST_ROUTE);
    }
}
