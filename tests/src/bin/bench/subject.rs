//! A subject of measurement: the proxy between the load and Redis, and the load's connections to
//! it.

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

/// The default number of client connections.
pub const CONNECTIONS: usize = 50;

/// A running subject with its connections.
#[derive(Debug)]
pub struct Subject {
    /// The name in the report.
    pub name: String,
    /// The index of the subject with which this one is compared.
    pub peer: Option<usize>,
    /// The running proxy.
    pub running: Running,
    resp3: bool,
    loads: Vec<Load>,
}

/// A load that is put on all subjects.
#[derive(Clone, Copy, Debug)]
pub struct Task<'a> {
    /// The requests and replies.
    pub workload: &'a Workload,
    /// The number of connections.
    pub connections: usize,
    /// The number of requests that each connection has outstanding.
    pub pipeline: usize,
    /// The duration.
    pub duration: Duration,
    /// The server whose new connections are counted.
    pub count_at: Option<&'a Redis>,
}

/// Measures every subject once, close together in time, so that other load on the machine meets
/// them all. Every other round goes backwards, so that no subject is always the first.
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
    /// Creates a subject from a running proxy.
    pub fn new(name: &str, peer: Option<usize>, resp3: bool, running: Running) -> Subject {
        Subject { name: name.into(), peer, running, resp3, loads: Vec::new() }
    }

    /// Starts an Envoy with the configuration for a free address, at which it listens.
    pub fn start(name: &str, peer: Option<usize>, config: impl FnOnce(SocketAddr) -> String) -> Result<Subject> {
        let listener = SocketAddr::new([127, 0, 0, 1].into(), net::free_port()?);
        let envoy = Envoy::start(&config(listener))?;
        Ok(Subject::new(name, peer, false, Running::envoy(listener, envoy)))
    }

    /// The load with this number of connections, which stay open.
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

    /// Puts a load on the subject. CPU time is counted from idle to idle, so that it is exactly
    /// that of the counted requests.
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
