//! A thing to be measured: what runs between the load and Redis, and the load's connections to it.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use redis_mesh_tests::client::info_field;
use redis_mesh_tests::envoy::Envoy;
use redis_mesh_tests::net;
use redis_mesh_tests::redis::Redis;

use crate::load::Load;
use crate::running::Running;
use crate::samples::{Sample, Samples, percentiles};
use crate::workload::Workload;

/// Client connections of a measurement, unless its work has another number.
pub const CONNECTIONS: usize = 50;

/// A running subject with its connections.
#[derive(Debug)]
pub struct Subject {
    /// Its name in the report.
    pub name: String,
    /// The subject to compare it with, by its place in the list.
    pub peer: Option<usize>,
    /// What runs.
    pub running: Running,
    resp3: bool,
    loads: Vec<Load>,
}

/// A load of which much is put on all subjects.
#[derive(Clone, Copy, Debug)]
pub struct Task<'a> {
    /// What is asked.
    pub workload: &'a Workload,
    /// Connections.
    pub connections: usize,
    /// Requests that each of them has outstanding.
    pub pipeline: usize,
    /// For how long.
    pub duration: Duration,
    /// The server whose new connections are counted.
    pub count_at: Option<&'a Redis>,
}

/// Measures every subject once, close together in time: what else the machine does meets them all. Every other round goes
/// backwards, so that nobody is always the first.
pub fn measure_all<'a>(
    subjects: impl Iterator<Item = (&'a mut Subject, &'a mut Samples)>,
    round: usize,
    task: &Task,
) -> Result<()> {
    let mut all: Vec<_> = subjects.collect();
    if round % 2 == 1 {
        all.reverse();
    }
    for (subject, samples) in all {
        samples.push(subject.measure(task).with_context(|| subject.name.clone())?);
    }
    Ok(())
}

impl Subject {
    /// What runs, under a name.
    pub fn new(name: &str, peer: Option<usize>, resp3: bool, running: Running) -> Subject {
        Subject { name: name.into(), peer, running, resp3, loads: Vec::new() }
    }

    /// Starts an Envoy whose configuration is made for the address that it is to listen on.
    pub fn start(name: &str, peer: Option<usize>, config: impl FnOnce(SocketAddr) -> String) -> Result<Subject> {
        let listener = SocketAddr::new([127, 0, 0, 1].into(), net::free_port()?);
        let envoy = Envoy::start(&config(listener))?;
        Ok(Subject::new(name, peer, false, Running::envoy(listener, envoy)))
    }

    /// The load with so many connections, which stay open.
    pub fn load(&mut self, connections: usize) -> Result<&mut Load> {
        let open = self.loads.iter().position(|load| load.connections() == connections);
        let at = match open {
            Some(at) => at,
            None => {
                self.loads.push(Load::connect(self.running.addr, connections, self.resp3)?);
                self.loads.len() - 1
            }
        };
        Ok(&mut self.loads[at])
    }

    /// Puts a load on it. CPU time is counted from rest to rest, so that it is exactly that of the requests counted.
    pub fn measure(&mut self, task: &Task) -> Result<Sample> {
        self.load(task.connections)?.run(task.workload, task.pipeline, task.duration / 5)?;
        let connections_before = task.count_at.map(connections_received).transpose()?;
        let before = self.running.cpu_time_at_rest()?;
        let outcome = self.load(task.connections)?.run(task.workload, task.pipeline, task.duration)?;
        let after = self.running.cpu_time_at_rest()?;
        let connections_after = task.count_at.map(connections_received).transpose()?;
        let requests = outcome.requests as f64;
        // The counting is done on a connection of its own.
        let new = connections_before.zip(connections_after).map(|(before, after)| after - before - 1);
        Ok(Sample {
            rate: requests / outcome.elapsed.as_secs_f64(),
            latency: percentiles(&outcome.latency),
            cpu: before.zip(after).map(|(before, after)| (after - before).as_secs_f64() * 1e6 / requests),
            connections: new.map(|new| new as f64 / requests),
        })
    }
}

fn connections_received(redis: &Redis) -> Result<u64> {
    let stats = redis.info("stats")?;
    info_field(&stats, "total_connections_received").and_then(|n| n.parse().ok()).context("Redis counts no connections")
}
