//! Latency at a fixed rate, the same for every path.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use redis_mesh_tests::redis::Redis;

use crate::kind::{Artefacts, Behind, Kind};
use crate::open_loop::OpenLoop;
use crate::options::Options;
use crate::running::Running;
use crate::samples::{median, percentiles};
use crate::subject::{CONNECTIONS, Subject, Task};
use crate::work::WORKS;

/// The measured paths. The first shows the share of Redis and the load generator in the latency.
const KINDS: [Kind; 5] = [Kind::Direct, Kind::TcpProxy, Kind::RedisProxy, Kind::Native, Kind::Twemproxy];
/// The rate as a share of the slowest path's capacity.
pub const SHARE: f64 = 0.5;

/// The results.
#[derive(Debug)]
pub struct Latency {
    /// Requests per second.
    pub rate: f64,
    /// The duration of each round of each path.
    pub duration: Duration,
    /// The number of rounds.
    pub rounds: usize,
    /// The paths.
    pub rows: Vec<Row>,
}

/// The results of one path.
#[derive(Debug)]
pub struct Row {
    /// The name of the path.
    pub name: &'static str,
    /// Medians of the rounds in µs: p50, p99, p99.9.
    pub latency: [f64; 3],
    /// Minima of the rounds in µs: p50, p99, p99.9.
    pub least: [f64; 3],
    /// The delay of the load generator itself, in µs: p50, p99, p99.9.
    pub late: [f64; 3],
    /// CPU time of the proxy in µs per request.
    pub cpu: Option<f64>,
}

/// Determines the rate, then measures in rounds.
pub fn measure(options: &Options, redis: &Redis, filter_file: &Path) -> Result<Latency> {
    let work = WORKS.first().context("no work")?;
    crate::fill(&mut redis.client()?, &work.keys(), &work.bytes())?;
    let workload = work.workload();
    let kinds: Vec<Kind> = KINDS.into_iter().filter(|kind| kind.is_there()).collect();
    let (duration, rounds) = if options.quick { (200, 1) } else { (1000, options.rounds.min(15)) };
    let duration = Duration::from_millis(duration);
    let mut ways: Vec<(Running, OpenLoop)> = Vec::new();
    let mut capacity = f64::INFINITY;
    for &kind in &kinds {
        options.progress(&format!("capacity of {}", kind.name()));
        let mut subject = Subject::new(
            kind.name(),
            None,
            false,
            kind.start(&Artefacts::of_filter(filter_file), Behind::Server, &[redis.addr()])?,
        );
        let task =
            Task { workload: &workload, connections: CONNECTIONS, pipeline: 1, duration: duration / 4, count_at: None };
        let rates = (0..3).map(|_| Ok(subject.measure(&task)?.rate)).collect::<Result<Vec<_>>>()?;
        capacity = capacity.min(median(rates));
        let open = OpenLoop::connect(subject.running.addr, CONNECTIONS)?;
        ways.push((subject.running, open));
    }
    // A round number.
    let rate = (capacity * SHARE / 1000.0).floor().max(1.0) * 1000.0;
    let mut found: Vec<Vec<Round>> = kinds.iter().map(|_| Vec::new()).collect();
    for round in 0..rounds {
        options.progress(&format!("round {} of {rounds}: latency at {rate} requests per second", round + 1));
        for step in 0..kinds.len() {
            let i = if round % 2 == 0 { step } else { kinds.len() - 1 - step };
            let (running, open) = &mut ways[i];
            open.run(&workload, rate, duration / 10)?;
            let before = running.cpu_time_at_rest()?;
            let outcome = open.run(&workload, rate, duration)?;
            let after = running.cpu_time_at_rest()?;
            let requests = outcome.latency.len() as f64;
            found[i].push(Round {
                latency: percentiles(&outcome.latency),
                late: percentiles(&outcome.late),
                cpu: before.zip(after).map(|(before, after)| (after - before).as_secs_f64() * 1e6 / requests),
            });
        }
    }
    let row = |(kind, rounds): (Kind, Vec<Round>)| {
        let each = |of: fn(&Round) -> [f64; 3], fold: fn(Vec<f64>) -> f64| {
            [0, 1, 2].map(|i| fold(rounds.iter().map(|round| of(round)[i]).collect()))
        };
        let least = |values: Vec<f64>| values.into_iter().fold(f64::INFINITY, f64::min);
        let cpu: Vec<f64> = rounds.iter().filter_map(|round| round.cpu).collect();
        Row {
            name: kind.name(),
            latency: each(|round| round.latency, median),
            least: each(|round| round.latency, least),
            late: each(|round| round.late, median),
            cpu: (!cpu.is_empty()).then(|| median(cpu)),
        }
    };
    Ok(Latency { rate, duration, rounds, rows: kinds.into_iter().zip(found).map(row).collect() })
}

struct Round {
    latency: [f64; 3],
    late: [f64; 3],
    cpu: Option<f64>,
}
