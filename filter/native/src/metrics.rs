//! The names under which Envoy counts what happens here, and how a worker's tallies come to them.
//!
//! Envoy knows no labels for what a network filter counts, so they stand in the names, in the form of a label that a
//! configuration can look for (`stats_tags`, Istio's `extraStatTags`): `redis_host=.=HOST;.;`. What a metric is called is the
//! same on all data paths.

use crate::envoy::{Counter, Gauge, Histogram, Meter, Reading};
use redis_mesh_core::command;
use redis_mesh_core::multiplexer::HostStats;
use redis_mesh_core::multiplexer::config::HostConfig as Rules;
use redis_mesh_core::stats::Stat;
use std::sync::Arc;

/// The longest label of a route.
const LONGEST_ROUTE: usize = 100;

/// What one configuration of a filter counts in Envoy.
pub struct Metrics {
    meter: Meter,
    panics: Counter,
    carriers: Carriers,
    host: Option<Host>,
}

/// Connections to Redis.
#[derive(Default)]
struct Carriers {
    active: Gauge,
    opened: Counter,
}

/// What is counted for the clients of a host.
struct Host {
    rules: Arc<Rules>,
    stats: [Counter; Stat::ALL.len()],
    errors: Counter,
    cut_off: Counter,
    clients: Gauge,
    /// By the labels of routes, in the order of the configuration.
    routes: Vec<(String, Counter)>,
    /// In the order of the table of commands; empty where nobody asks.
    commands: Vec<(Histogram, Counter)>,
}

impl Metrics {
    /// Of the filter for connections to Redis, or of one that counts nothing but panics.
    pub fn new(meter: Meter, is_carrier: bool) -> Metrics {
        let carriers = is_carrier.then(|| Carriers {
            active: meter.gauge(&named("", "upstream_connections_active")),
            opened: meter.counter(&named("", "upstream_connections_total")),
        });
        Metrics { panics: panics(&meter), carriers: carriers.unwrap_or_default(), host: None, meter }
    }

    /// Of the filter for clients.
    pub fn of_clients(meter: Meter, rules: Arc<Rules>) -> Metrics {
        let labels = label("redis_host", &rules.host);
        let counter = |name: &str| meter.counter(&named(&labels, name));
        let route = |route: &redis_mesh_core::multiplexer::config::RouteConfig| {
            let name = shown(&route.name);
            let labels = format!("{labels}{}", label("redis_route", &name));
            (name, meter.counter(&named(&labels, "route_commands_total")))
        };
        let command = |command: &command::Command| {
            let labels = format!("{labels}{}", label("redis_command", command.name));
            let took = meter.histogram(&named(&labels, "command_duration_microseconds"));
            (took, meter.counter(&named(&labels, "command_errors_total")))
        };
        let commands = if rules.command_stats { command::all() } else { &[] };
        let host = Host {
            stats: Stat::ALL.map(|stat| counter(stat.name())),
            errors: counter("error_replies_total"),
            cut_off: counter("clients_cut_off_total"),
            clients: meter.gauge(&named(&labels, "clients_active")),
            routes: rules.routes.iter().map(route).collect(),
            commands: commands.iter().map(command).collect(),
            rules,
        };
        Metrics { panics: panics(&meter), carriers: Carriers::default(), host: Some(host), meter }
    }

    /// Envoy's configuration goes.
    pub fn forget(&self) {
        self.meter.forget();
    }

    /// The rules of the clients for whom this counts.
    pub fn rules(&self) -> Option<&Arc<Rules>> {
        self.host.as_ref().map(|host| &host.rules)
    }

    /// True while it can be told something, or somebody else may come with its rules.
    pub fn is_needed(&self) -> bool {
        let is_used = |host: &Host| Arc::strong_count(&host.rules) > 1;
        self.meter.read(|_| ()).is_some() || self.host.as_ref().is_some_and(is_used)
    }

    /// A hook has panicked.
    pub fn panicked(&self) {
        self.meter.read(|reading| reading.add(self.panics, 1));
    }

    /// A client has come, or gone.
    pub fn client(&self, has_come: bool) {
        if let Some(host) = &self.host {
            self.meter.read(|reading| reading.step(host.clients, has_come));
        }
    }

    /// A connection to Redis has begun, or ended.
    pub fn carrier(&self, has_begun: bool) {
        self.meter.read(|reading| {
            reading.step(self.carriers.active, has_begun);
            if has_begun {
                reading.add(self.carriers.opened, 1);
            }
        });
    }

    /// Counts what clients with these rules have done. False: Envoy's configuration is gone, and nothing was counted.
    #[must_use]
    pub fn tell(&self, tally: &HostStats, rules: &Arc<Rules>) -> bool {
        let Some(host) = &self.host else { return false };
        self.meter.read(|reading| host.tell(reading, tally, rules)).is_some()
    }
}

impl Host {
    fn tell(&self, reading: &Reading, tally: &HostStats, rules: &Arc<Rules>) {
        let add = |counter: Counter, by: u64| {
            if by > 0 {
                reading.add(counter, by);
            }
        };
        for (stat, counter) in Stat::ALL.iter().zip(self.stats) {
            add(counter, tally.stats.of(*stat));
        }
        add(self.errors, tally.errors);
        add(self.cut_off, tally.cut_off);
        let is_its = Arc::ptr_eq(rules, &self.rules);
        for (index, count) in tally.routes.iter().enumerate().filter(|(_, count)| **count > 0) {
            // By its name, where the rules are those of another configuration.
            let found = if is_its {
                self.routes.get(index)
            } else {
                let name = rules.routes.get(index).map(|route| shown(&route.name));
                self.routes.iter().find(|(of, _)| Some(of) == name.as_ref())
            };
            if let Some((_, counter)) = found {
                add(*counter, *count);
            }
        }
        for answered in &tally.answered {
            if let Some((took, errors)) = self.commands.get(usize::from(answered.command)) {
                reading.record(*took, u64::try_from(answered.took.as_micros()).unwrap_or(u64::MAX));
                add(*errors, u64::from(answered.is_error));
            }
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

/// A route's name without what would end the label, or what a dashboard couldn't show.
fn shown(name: &str) -> String {
    let is_plain = |c: char| c.is_ascii_graphic() && !matches!(c, ';' | '"' | '\\');
    name.chars().take(LONGEST_ROUTE).map(|c| if is_plain(c) { c } else { '_' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_is_named_in_plain_letters() {
        assert_eq!(shown("user:*"), "user:*");
        assert_eq!(shown("a;.;b \"\\ü\n"), "a_._b_____");
        assert_eq!(shown(&"x".repeat(1000)).len(), LONGEST_ROUTE);
    }
}
