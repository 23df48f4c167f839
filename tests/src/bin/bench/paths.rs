//! Every way from a client to Redis, under every load.

use std::path::Path;

use anyhow::Result;
use redis_mesh_core::wire::{DataPath, KeyMatch};
use redis_mesh_tests::redis::Redis;

use crate::envoy_config::{cluster, envoy, filter, filter_config, redis_proxy, tcp_proxy};
use crate::load::Workload;
use crate::options::Options;
use crate::subject::{Samples, Subject, measure_all};

/// One kind of load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cell {
    /// `GET` or `SET`.
    pub command: &'static str,
    /// Bytes of a value.
    pub value: usize,
    /// Requests that a connection has outstanding.
    pub pipeline: usize,
}

impl Cell {
    /// The words by which `--only` chooses it.
    pub fn words(&self) -> [String; 3] {
        [
            self.command.to_ascii_lowercase(),
            size(self.value).to_ascii_lowercase().replace(' ', ""),
            format!("p{}", self.pipeline),
        ]
    }
}

/// A size as the report shows it.
pub fn size(bytes: usize) -> String {
    if bytes >= 1024 { format!("{} KB", bytes / 1024) } else { format!("{bytes} B") }
}

/// A load as the report shows it.
pub fn title(cell: &Cell) -> String {
    format!("{} {}, pipeline {}", cell.command, size(cell.value), cell.pipeline)
}

/// The loads in the report's order.
pub fn cells() -> Vec<Cell> {
    let mut cells = Vec::new();
    for command in ["GET", "SET"] {
        for value in [64, 4096] {
            cells.extend([1, 16, 64].map(|pipeline| Cell { command, value, pipeline }));
        }
    }
    cells
}

/// What was measured.
#[derive(Debug)]
pub struct Paths {
    /// Name and peer of each subject.
    pub subjects: Vec<(String, Option<usize>)>,
    /// For each load the samples of each subject.
    pub results: Vec<(Cell, Vec<Samples>)>,
}

/// Keys of the loads.
const KEYS: usize = 1024;

/// Measures in rounds: in each of them every load, under each load every subject.
pub fn measure(options: &Options, redis: &Redis, filter_file: &Path) -> Result<Paths> {
    let mut subjects = start(options, redis, filter_file)?;
    let keys: Vec<String> = (0..KEYS).map(|i| format!("bench:{:06}", i * 7919 % 1_000_000)).collect();
    let mut results: Vec<(Cell, Vec<Samples>)> = cells()
        .into_iter()
        .filter(|cell| options.wants(cell))
        .map(|cell| (cell, vec![Samples::default(); subjects.len()]))
        .collect();
    for round in 0..options.rounds {
        for value in [64, 4096] {
            let of_size = |(cell, _): &&mut (Cell, Vec<Samples>)| cell.value == value;
            if !results.iter_mut().any(|result| of_size(&&mut *result)) {
                continue;
            }
            let bytes = vec![b'x'; value];
            let [get, set] = [Workload::get(&keys, &bytes), Workload::set(&keys, &bytes)];
            crate::fill(redis, &keys, &bytes)?;
            for (cell, samples) in results.iter_mut().filter(of_size) {
                let workload = if cell.command == "GET" { &get } else { &set };
                options.progress(&format!("round {} of {}: {}", round + 1, options.rounds, title(cell)));
                measure_all(&mut subjects, samples, round, workload, cell.pipeline, options.duration)?;
            }
        }
    }
    Ok(Paths { subjects: subjects.iter().map(|subject| (subject.name.clone(), subject.peer)).collect(), results })
}

fn start(options: &Options, redis: &Redis, filter_file: &Path) -> Result<Vec<Subject>> {
    let clusters = [cluster("redis", Some(redis.addr()))];
    let of_tcp = filter_config(DataPath::Direct, &[None], vec![(KeyMatch::Any, 0)]);
    let of_redis = filter_config(DataPath::Proxy, &[None], vec![(KeyMatch::Any, 0)]);
    let behind = redis_proxy(&[], Some("redis"), true);
    let alone = redis_proxy(&[], Some("redis"), false);
    let tcp = || tcp_proxy("redis");
    let mut subjects = vec![
        Subject::direct("direct", redis.addr())?,
        Subject::start("tcp_proxy", None, false, |at| envoy(at, &[tcp()], &clusters))?,
        Subject::start("redis_proxy", None, false, |at| envoy(at, &[alone], &clusters))?,
    ];
    for (mark, file) in &options.filters(filter_file) {
        let before_redis = [filter(file, &of_redis), behind.clone()];
        let before_tcp = [filter(file, &of_tcp), tcp()];
        for (name, peer, resp3, chain) in [
            ("filter + redis_proxy, RESP2", 2, false, &before_redis),
            ("filter + redis_proxy, RESP3", 2, true, &before_redis),
            ("filter + tcp_proxy", 1, false, &before_tcp),
        ] {
            let name = format!("{name}{mark}");
            subjects.push(Subject::start(&name, Some(peer), resp3, |at| envoy(at, chain, &clusters))?);
        }
    }
    Ok(subjects)
}
