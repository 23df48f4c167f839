//! The report as Markdown.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use redis_mesh_tests::client::info_field;
use redis_mesh_tests::figures::thousands;
use redis_mesh_tests::redis::Redis;
use redis_mesh_tests::wheel;

use crate::idle::Idle;
use crate::options::Options;
use crate::paths::{Cell, Paths, title};
use crate::routes::Routes;
use crate::subject::CONNECTIONS;

/// Everything that a run has found.
#[derive(Debug)]
pub struct Report {
    setting: String,
    /// The ways under every load.
    pub paths: Option<Paths>,
    /// Many routes.
    pub routes: Option<Routes>,
    /// Idle connections.
    pub idle: Option<Idle>,
}

impl Report {
    /// A report of a run that is about to begin.
    pub fn new(options: &Options, redis: &Redis, filter: &Path) -> Result<Report> {
        Ok(Report { setting: setting(options, redis, filter)?, paths: None, routes: None, idle: None })
    }

    /// The report.
    pub fn markdown(&self) -> String {
        let mut out = String::from("# What the filter costs\n\n");
        out += &self.setting;
        if let Some(paths) = &self.paths {
            ratios(&mut out, paths);
        }
        if let Some(routes) = &self.routes {
            many_routes(&mut out, routes);
        }
        if let Some(idle) = &self.idle {
            idle_connections(&mut out, idle);
        }
        if let Some(paths) = &self.paths {
            out += "## Every way under every load\n\n![the same as bars](benchmark.svg)\n\n";
            for (cell, _) in &paths.results {
                table(&mut out, paths, *cell);
            }
        }
        out.truncate(out.trim_end().len());
        out + "\n"
    }
}

fn setting(options: &Options, redis: &Redis, filter: &Path) -> Result<String> {
    let server = redis.info("server")?;
    let server_version = match info_field(&server, "valkey_version") {
        Some(version) => format!("Valkey {version}"),
        None => format!("Redis {}", info_field(&server, "redis_version").unwrap_or("of unknown version")),
    };
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map_or("CPU", |m| m.1);
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let bytes = std::fs::metadata(filter).with_context(|| format!("no filter at {}", filter.display()))?.len();
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split_whitespace().next().unwrap_or("?");
    Ok(format!(
        "Written by `just bench`, which `just bench --help` tells more of. The filter's file: **{} bytes**.\n\n\
         Envoy {}, {server_version}; {cores} cores ({model}) for Envoy, Redis and the load together; load average at the \
         start {load}. Every row has an Envoy of its own with one worker and {CONNECTIONS} client connections. The rows take \
         turns, {} rounds of {} ms for each number; shown are the medians of the rounds. CPU time is that of Envoy's \
         process, user and system, counted from rest to rest. Every byte of every reply is checked.\n\n",
        thousands(bytes),
        wheel::ENVOY_VERSION,
        options.rounds,
        options.duration.as_millis(),
    ))
}

fn ratios(out: &mut String, paths: &Paths) {
    *out += "## Envoy's CPU time per request, with the filter : without it\n\n\
             The median of the ratios of the rounds; in parentheses the ratio of the least values.\n\n| load |";
    let filtered: Vec<(usize, &String, usize)> =
        paths.subjects.iter().enumerate().filter_map(|(i, (name, peer))| Some((i, name, (*peer)?))).collect();
    for (_, name, peer) in &filtered {
        let _ = write!(out, " {name} : {} |", paths.subjects[*peer].0);
    }
    let _ = writeln!(out, "\n|---|{}", "---:|".repeat(filtered.len()));
    for (cell, samples) in &paths.results {
        let _ = write!(out, "| {} |", title(cell));
        for (i, _, peer) in &filtered {
            let _ = match samples[*i].cpu_ratio(&samples[*peer]) {
                Some((median, minima)) => write!(out, " {median:.2} ({minima:.2}) |"),
                None => write!(out, " |"),
            };
        }
        *out += "\n";
    }
    *out += "\n";
}

fn table(out: &mut String, paths: &Paths, cell: Cell) {
    let Some((_, samples)) = paths.results.iter().find(|(c, _)| *c == cell) else { return };
    let _ = writeln!(
        out,
        "### {}\n\n| | requests/s | p50 µs | p99 µs | p99.9 µs | CPU µs/request | its least |\n\
         |---|---:|---:|---:|---:|---:|---:|",
        title(&cell)
    );
    for ((name, _), samples) in paths.subjects.iter().zip(samples) {
        let _ = write!(out, "| {name} | {} |", thousands(samples.median(|sample| sample.rate) as u64));
        for i in 0..3 {
            let _ = write!(out, " {} |", thousands(samples.median(|sample| sample.latency[i]) as u64));
        }
        let _ = match samples.cpu().zip(samples.least_cpu()) {
            Some((median, least)) => writeln!(out, " {median:.2} | {least:.2} |"),
            None => writeln!(out, " | |"),
        };
    }
    *out += "\n";
}

fn many_routes(out: &mut String, routes: &Routes) {
    *out += "## Many routes\n\n\
             `GET` 64 B, pipeline 64, of 10,000 keys that the routes share evenly. The routes lead to ten targets (one route: \
             to one), whose tags are ten routes of `redis_proxy`; except in the last rows these lead to one cluster, so that \
             the rows differ in routing alone.\n\n\
             | | CPU µs/request | its least | against its peer | requests/s |\n|---|---:|---:|---|---:|\n";
    for row in &routes.rows {
        let cpu = row.samples.cpu().zip(row.samples.least_cpu());
        let (median, least) = cpu.unwrap_or_default();
        let against = row.peer.map(|peer| &routes.rows[peer]).and_then(|peer| {
            let (median, minima) = row.samples.cpu_ratio(&peer.samples)?;
            Some(format!("{median:.2} ({minima:.2}) × {}", peer.name))
        });
        let _ = writeln!(
            out,
            "| {} | {median:.2} | {least:.2} | {} | {} |",
            row.name,
            against.unwrap_or_default(),
            thousands(row.samples.median(|sample| sample.rate) as u64)
        );
    }
    *out += "\nThe configuration is read by the VM of each worker and, when it is new, twice more by the main thread. Envoy \
             compiles the filter once.\n\n\
             | routes | document | on_configure of a worker | compilation | Envoy's resident memory |\n\
             |---:|---:|---:|---:|---:|\n";
    for configuration in &routes.configurations {
        let _ = writeln!(
            out,
            "| {} | {} B | {:.2} ms | {:.0} ms | {:.1} MiB |",
            thousands(configuration.routes as u64),
            thousands(configuration.bytes as u64),
            configuration.milliseconds,
            configuration.compile,
            configuration.memory as f64 / (1 << 20) as f64
        );
    }
    *out += "\n";
}

fn idle_connections(out: &mut String, idle: &Idle) {
    let _ = writeln!(
        out,
        "## Idle connections\n\n\
         {} connections that each did one `PING`. Allocated is by Envoy's `/memory`, which doesn't count the memory of the \
         filter's VM; resident counts everything, in whole pages.\n\n\
         | | allocated, bytes each | more than alone | resident, bytes each | more than alone |\n|---|---:|---:|---:|---:|",
        thousands(idle.connections as u64)
    );
    for row in &idle.rows {
        let Some(alone) = idle.rows.first() else { continue };
        let _ = writeln!(
            out,
            "| {} | {:.0} | {:.0} | {:.0} | {:.0} |",
            row.name,
            row.allocated,
            row.allocated - alone.allocated,
            row.resident,
            row.resident - alone.resident
        );
    }
    *out += "\n";
}
