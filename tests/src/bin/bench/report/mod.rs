//! The report as Markdown.

mod fanout;
mod goals;
mod latency;
mod memory;
mod paths;
mod routes;
mod versions;

use std::path::Path;

use anyhow::{Context, Result};
use redis_mesh_tests::client::info_field;
use redis_mesh_tests::figures::thousands;
use redis_mesh_tests::redis::Redis;
use redis_mesh_tests::{native, wheel};

use crate::fanout::Fanout;
use crate::idle::Idle;
use crate::latency::Latency;
use crate::memory::Memory;
use crate::options::Options;
use crate::paths::Paths;
use crate::routes::Routes;
use crate::subject::CONNECTIONS;
use crate::twemproxy;
use crate::versions::Versions;

/// All results of a run.
#[derive(Debug)]
pub struct Report {
    setting: String,
    /// The paths under every workload.
    pub paths: Option<Paths>,
    /// Many routes.
    pub routes: Option<Routes>,
    /// Idle connections.
    pub idle: Option<Idle>,
    /// Latency at a fixed rate.
    pub latency: Option<Latency>,
    /// Pub/sub.
    pub fanout: Option<Fanout>,
    /// Clients that don't read, a Redis that stands still.
    pub memory: Option<Memory>,
    /// This version and another one.
    pub versions: Option<Versions>,
}

impl Report {
    /// Creates the report of a run that is about to start.
    pub fn new(options: &Options, redis: &Redis, filter: &Path) -> Result<Report> {
        let setting = setting(options, redis, filter)?;
        Ok(Report {
            setting,
            paths: None,
            routes: None,
            idle: None,
            latency: None,
            fanout: None,
            memory: None,
            versions: None,
        })
    }

    /// Returns the report.
    pub fn markdown(&self) -> String {
        let mut out = String::from("# What it costs\n\n");
        out += &self.setting;
        if let Some(versions) = &self.versions {
            versions::section(&mut out, versions);
            return out;
        }
        goals::section(&mut out, &crate::goals::goals(self.paths.as_ref(), self.memory.as_ref(), self.idle.as_ref()));
        if let Some(paths) = &self.paths {
            paths::native(&mut out, paths);
            paths::filter(&mut out, paths);
            paths::transactions(&mut out, paths);
        }
        if let Some(latency) = &self.latency {
            latency::section(&mut out, latency);
        }
        if let Some(fanout) = &self.fanout {
            fanout::section(&mut out, fanout);
        }
        if let Some(memory) = &self.memory {
            memory::section(&mut out, memory);
        }
        if let Some(idle) = &self.idle {
            memory::idle(&mut out, idle);
        }
        if let Some(routes) = &self.routes {
            routes::section(&mut out, routes);
        }
        if let Some(paths) = &self.paths {
            paths::everything(&mut out, paths);
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
    let twemproxy = match (twemproxy::program(), twemproxy::version()) {
        (None, _) => "twemproxy isn't installed here, so it is missing below".to_string(),
        (_, version) => format!("twemproxy {}", version.unwrap_or_default()),
    };
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map_or("CPU", |m| m.1);
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split_whitespace().next().unwrap_or("?");
    Ok(format!(
        "Written by `just bench`, which `just bench --help` tells more of. The wasm filter's file: **{} bytes**; the native \
         module's: {} bytes.\n\n\
         Envoy {}, {server_version}, {twemproxy}. Everything, the load too, runs on {cores} shared cores ({model}); load \
         average at the start {load}.\n\n\
         *direct* is Redis itself; *native* is the dynamic module; *filter* is the wasm filter before `tcp_proxy` or \
         `redis_proxy`; *twemproxy* is a proxy that isn't Envoy. Each has a process of its own with one worker, and {CONNECTIONS} \
         client connections where nothing else is said; `redis_proxy`, native and twemproxy have one connection to Redis. They \
         take turns: {} rounds of {} ms for each number, in each round one after the other, so that what else the machine \
         does meets them all. Shown are medians of the rounds; of ratios the median of the rounds' ratios, and in parentheses \
         the bounds of the middle half of them. CPU time is that of the proxy's process, user and system, counted from rest to \
         rest. Every byte of every reply is checked.\n\n",
        size(filter)?,
        size(&native::build()?)?,
        wheel::ENVOY_VERSION,
        options.rounds,
        options.duration.as_millis(),
    ))
}

fn size(file: &Path) -> Result<String> {
    Ok(thousands(std::fs::metadata(file).with_context(|| format!("no file {}", file.display()))?.len()))
}
