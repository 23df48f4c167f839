//! The report as Markdown.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use redis_mesh_tests::client::info_field;
use redis_mesh_tests::redis::Redis;
use redis_mesh_tests::wheel;

use crate::options::Options;
use crate::paths::{Cell, Paths, size};
use crate::subject::CONNECTIONS;

/// Everything that a run has found.
#[derive(Debug)]
pub struct Report {
    setting: String,
    /// The ways under every load.
    pub paths: Option<Paths>,
}

impl Report {
    /// A report of a run that is about to begin.
    pub fn new(options: &Options, redis: &Redis, filter: &Path) -> Result<Report> {
        Ok(Report { setting: setting(options, redis, filter)?, paths: None })
    }

    /// The report.
    pub fn markdown(&self) -> String {
        let mut out = String::from("# What the filter costs\n\n");
        out += &self.setting;
        if let Some(paths) = &self.paths {
            ratios(&mut out, paths);
            for (cell, _) in &paths.results {
                table(&mut out, paths, *cell);
            }
        }
        out
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
        "Envoy {}, {server_version}, {cores} × {model} for Envoy, Redis and the load together (load average at the start: \
         {load}). The filter's file has {bytes} bytes. One Envoy with one worker for each row, {CONNECTIONS} client \
         connections, {} rounds of {} ms for each number; shown are the medians of the rounds. CPU time is that of Envoy's \
         process, user and system.\n\n",
        wheel::ENVOY_VERSION,
        options.rounds,
        options.duration.as_millis(),
    ))
}

fn ratios(out: &mut String, paths: &Paths) {
    *out += "## Envoy's CPU time per request, against the same Envoy without the filter\n\n\
             The median of the ratios of the rounds; in parentheses the ratio of the minima.\n\n| load |";
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

fn title(cell: &Cell) -> String {
    format!("{} {}, pipeline {}", cell.command, size(cell.value), cell.pipeline)
}

fn table(out: &mut String, paths: &Paths, cell: Cell) {
    let Some((_, samples)) = paths.results.iter().find(|(c, _)| *c == cell) else { return };
    let _ = writeln!(
        out,
        "### {}\n\n| | requests/s | p50 µs | p99 µs | p99.9 µs | CPU µs/request | least CPU |\n\
         |---|---:|---:|---:|---:|---:|---:|",
        title(&cell)
    );
    for ((name, _), samples) in paths.subjects.iter().zip(samples) {
        let _ = write!(out, "| {name} | {:.0} |", samples.median(|sample| sample.rate));
        for i in 0..3 {
            let _ = write!(out, " {:.0} |", samples.median(|sample| sample.latency[i]));
        }
        let _ = match samples.cpu().zip(samples.least_cpu()) {
            Some((median, least)) => writeln!(out, " {median:.2} | {least:.2} |"),
            None => writeln!(out, " | |"),
        };
    }
    *out += "\n";
}
