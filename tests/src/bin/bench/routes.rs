//! The cost of many routes: CPU time per request, and the time that reading a configuration takes.
//!
//! The keys are the same for every number of routes and are spread evenly over the routes, and the
//! routes lead to ten targets in turn. The targets differ by their tags and are one cluster of
//! Envoy, so that results differ only by the cost of routing. Ten upstream connections instead of
//! one are measured separately.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result};
use redis_mesh_core::wire::{DataPath, FilterConfig, KeyMatch};
use redis_mesh_tests::envoy::{self, Envoy};
use redis_mesh_tests::net;
use redis_mesh_tests::redis::Redis;
use serde_json::Value;

use crate::envoy_config::{cluster, envoy, filter, filter_config, redis_proxy, tag};
use crate::options::Options;
use crate::samples::{Samples, median};
use crate::subject::{CONNECTIONS, Subject, Task, measure_all};
use crate::workload::Workload;
use redis_mesh_tests::figures::thousands;

/// The number of keys, `tenant-0000:` to `tenant-9999:`.
const TENANTS: usize = 10_000;
const DESTINATIONS: usize = 10;
const PIPELINE: usize = 64;
/// The number of Envoys that are started to time a configuration.
const STARTS: usize = 3;

/// The results.
#[derive(Debug)]
pub struct Routes {
    /// The samples without and with the filter, over one upstream connection and over ten.
    pub rows: Vec<Row>,
    /// The time of reading a configuration, for each number of routes.
    pub configurations: Vec<Configuration>,
}

/// The samples of one subject.
#[derive(Debug)]
pub struct Row {
    /// The name of the row.
    pub name: String,
    /// The row with which this one is compared.
    pub peer: Option<usize>,
    /// The results.
    pub samples: Samples,
}

/// The cost of reading one configuration.
#[derive(Debug)]
pub struct Configuration {
    /// The number of routes.
    pub routes: usize,
    /// The size of the document in bytes.
    pub bytes: usize,
    /// The duration of `on_configure` in the worker's VM, in milliseconds.
    pub milliseconds: f64,
    /// The time until Envoy has compiled the filter, in milliseconds.
    pub compile: f64,
    /// Envoy's resident memory after the start, in bytes.
    pub memory: u64,
}

/// Measures requests and the reading of configurations.
pub fn measure(options: &Options, redis: &Redis, file: &Path) -> Result<Routes> {
    let numbers: &[usize] = if options.quick { &[1, 10_000] } else { &[1, 100, 10_000] };
    let mut subjects = Vec::new();
    subjects.push(Subject::start("redis_proxy alone, 10 routes", None, |at| alone(false, at, redis.addr()))?);
    for (mark, file) in &options.filters(file) {
        let one = subjects.len();
        for &routes in numbers {
            let name = format!("filter{mark}, {}", if routes == 1 { "1 route".into() } else { many(routes) });
            let peer = if routes == 1 { 0 } else { one };
            let config = |at| behind_the_filter(file, routes, false, at, redis.addr());
            subjects.push(Subject::start(&name, Some(peer), config)?);
        }
    }
    if !options.quick {
        let peer = subjects.len();
        let name = "redis_proxy alone, 10 routes, 10 upstream connections";
        subjects.push(Subject::start(name, None, |at| alone(true, at, redis.addr()))?);
        let name = format!("filter, {}, 10 upstream connections", many(TENANTS));
        let config = |at| behind_the_filter(file, TENANTS, true, at, redis.addr());
        subjects.push(Subject::start(&name, Some(peer), config)?);
    }

    let keys: Vec<String> = (0..TENANTS).map(|i| format!("tenant-{:04}:key", i * 7919 % TENANTS)).collect();
    let value = [b'x'; 64];
    crate::fill(&mut redis.client()?, &keys, &value)?;
    let workload = Workload::get(&keys, &value);
    let mut samples = vec![Samples::default(); subjects.len()];
    for round in 0..options.rounds {
        options.progress(&format!("round {} of {}: routes", round + 1, options.rounds));
        let task = Task {
            workload: &workload,
            connections: CONNECTIONS,
            pipeline: PIPELINE,
            duration: options.duration,
            count_at: None,
        };
        measure_all(subjects.iter_mut().zip(&mut samples), round, &task)?;
    }
    let rows = subjects.into_iter().zip(samples);
    let rows = rows.map(|(subject, samples)| Row { name: subject.name, peer: subject.peer, samples }).collect();
    let starts = if options.quick { 1 } else { STARTS };
    let configurations = numbers
        .iter()
        .map(|&routes| configuration(options, file, routes, starts, redis.addr()))
        .collect::<Result<_>>()?;
    Ok(Routes { rows, configurations })
}

fn many(routes: usize) -> String {
    format!("{} routes", thousands(routes as u64))
}

/// Returns routes with equal shares of the keys to the destinations in turn.
fn config(routes: usize) -> FilterConfig {
    let targets = routes.min(DESTINATIONS);
    let tags: Vec<Option<String>> = (0..targets).map(|i| Some(tag(i))).collect();
    let prefix = |i: usize| match routes {
        1 => "tenant-".to_string(),
        100 => format!("tenant-{i:02}"),
        _ => format!("tenant-{i:04}:"),
    };
    filter_config(DataPath::Proxy, &tags, (0..routes).map(|i| (KeyMatch::Prefix(prefix(i)), i % targets)).collect())
}

fn behind_the_filter(file: &Path, routes: usize, apart: bool, at: SocketAddr, server: SocketAddr) -> String {
    let config = config(routes);
    let by_tag = (0..routes.min(DESTINATIONS)).map(|i| (tag(i), true, cluster_name(i, apart))).collect::<Vec<_>>();
    envoy(at, &[filter(file, &config), redis_proxy(&by_tag, None, true)], &clusters(apart, server))
}

fn alone(apart: bool, at: SocketAddr, server: SocketAddr) -> String {
    let routes: Vec<_> = (0..DESTINATIONS).map(|i| (format!("tenant-{i}"), false, cluster_name(i, apart))).collect();
    envoy(at, &[redis_proxy(&routes, None, false)], &clusters(apart, server))
}

fn cluster_name(destination: usize, apart: bool) -> String {
    format!("redis-{}", if apart { destination } else { 0 })
}

fn clusters(apart: bool, server: SocketAddr) -> Vec<Value> {
    (0..if apart { DESTINATIONS } else { 1 }).map(|i| cluster(&cluster_name(i, apart), Some(server))).collect()
}

fn configuration(
    options: &Options,
    file: &Path,
    routes: usize,
    starts: usize,
    server: SocketAddr,
) -> Result<Configuration> {
    options.progress(&format!("starting Envoy with {routes} routes"));
    let bytes = serde_json::to_string(&config(routes))?.len();
    let mut times = Vec::new();
    let mut compiles = Vec::new();
    let mut memory = Vec::new();
    for _ in 0..starts {
        let at = SocketAddr::new([127, 0, 0, 1].into(), net::free_port()?);
        let traced = envoy::Options {
            log_level: Some("warning".into()),
            args: ["--component-log-level", "wasm:trace", "--log-format", "%E.%F %v"].map(String::from).to_vec(),
            ..envoy::Options::default()
        };
        let envoy = Envoy::start_with(&behind_the_filter(file, routes, false, at, server), &traced)?;
        let log = envoy.log();
        let missing = || format!("Envoy's log, {}, doesn't show it", envoy.process().log().display());
        let configure = took(&log, "[host->vm] proxy_on_configure(", "[host<-vm] proxy_on_configure return: 1");
        times.push(configure.with_context(missing)?);
        compiles.push(took(&log, "Base Wasm created", "[host->vm] _initialize()").with_context(missing)?);
        memory.push(envoy.process().resident_memory()? as f64);
    }
    Ok(Configuration {
        routes,
        bytes,
        milliseconds: median(times),
        compile: median(compiles),
        memory: median(memory) as u64,
    })
}

/// Returns the milliseconds from the last line of a log that contains `begin` to the next that
/// contains `end`. Lines begin with the time in seconds.
fn took(log: &str, begin: &str, end: &str) -> Option<f64> {
    let lines: Vec<&str> = log.lines().collect();
    let from = lines.iter().rposition(|line| line.contains(begin))?;
    let to = lines.iter().skip(from).find(|line| line.contains(end))?;
    let time = |line: &str| line.split(' ').next()?.parse::<f64>().ok();
    Some((time(to)? - time(lines[from])?) * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_logs_last_occurrence_counts() {
        let log = "10.5 a begins\n10.6 a ends\n\n11.25 a begins\nother\n11.5 a ends\n12.0 a ends";
        assert_eq!(took(log, "a begins", "a ends"), Some(250.0));
        assert_eq!(took(log, "b begins", "a ends"), None);
    }
}
