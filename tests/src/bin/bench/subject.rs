//! A thing to be measured: an Envoy of its own (or none) between the load and Redis.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use redis_mesh_tests::envoy::Envoy;
use redis_mesh_tests::net;

use crate::load::{Load, Workload};

/// Client connections of a measurement.
pub const CONNECTIONS: usize = 50;

/// A running subject with its connections.
#[derive(Debug)]
pub struct Subject {
    /// Its name in the report.
    pub name: String,
    /// The subject to compare it with, by its place in the list.
    pub peer: Option<usize>,
    /// Its Envoy.
    pub envoy: Option<Envoy>,
    load: Load,
}

/// Measures every subject once, close together in time: what else the machine does meets them all. Every other round goes
/// backwards, so that nobody is always the first.
pub fn measure_all(
    subjects: &mut [Subject],
    samples: &mut [Samples],
    round: usize,
    workload: &Workload,
    pipeline: usize,
    duration: Duration,
) -> Result<()> {
    let mut order: Vec<usize> = (0..subjects.len()).collect();
    if round % 2 == 1 {
        order.reverse();
    }
    for i in order {
        samples[i].push(subjects[i].measure(workload, pipeline, duration)?);
    }
    Ok(())
}

/// One measurement of one subject.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Requests per second.
    pub rate: f64,
    /// Latencies in µs: p50, p99, p99.9.
    pub latency: [f64; 3],
    /// CPU time of Envoy in µs per request.
    pub cpu: Option<f64>,
}

impl Subject {
    /// Starts an Envoy whose configuration is made for the address that it is to listen on.
    pub fn start(
        name: &str,
        peer: Option<usize>,
        resp3: bool,
        config: impl FnOnce(SocketAddr) -> String,
    ) -> Result<Subject> {
        let listener = SocketAddr::new([127, 0, 0, 1].into(), net::free_port()?);
        let envoy = Envoy::start(&config(listener))?;
        let load = Load::connect(listener, CONNECTIONS, resp3)?;
        Ok(Subject { name: name.into(), peer, envoy: Some(envoy), load })
    }

    /// A server that is spoken to without Envoy.
    pub fn direct(name: &str, server: SocketAddr) -> Result<Subject> {
        Ok(Subject { name: name.into(), peer: None, envoy: None, load: Load::connect(server, CONNECTIONS, false)? })
    }

    /// Puts a load on it. CPU time is counted from rest to rest, so that it is exactly that of the requests counted.
    pub fn measure(&mut self, workload: &Workload, pipeline: usize, duration: Duration) -> Result<Sample> {
        self.load.run(workload, pipeline, duration / 5)?;
        let before = self.cpu_time_at_rest()?;
        let outcome = self.load.run(workload, pipeline, duration)?;
        let after = self.cpu_time_at_rest()?;
        let requests = outcome.requests as f64;
        let microseconds = |share| outcome.latency.percentile(share).as_secs_f64() * 1e6;
        Ok(Sample {
            rate: requests / outcome.elapsed.as_secs_f64(),
            latency: [0.5, 0.99, 0.999].map(microseconds),
            cpu: before.zip(after).map(|(before, after)| (after - before).as_secs_f64() * 1e6 / requests),
        })
    }

    fn cpu_time_at_rest(&self) -> Result<Option<Duration>> {
        // The kernel brings a thread's count up to date when it goes to sleep.
        std::thread::sleep(Duration::from_millis(3));
        self.envoy.as_ref().map(|envoy| envoy.process().cpu_time_fine()).transpose()
    }
}

/// Samples of one subject under one load.
#[derive(Clone, Debug, Default)]
pub struct Samples(Vec<Sample>);

impl Samples {
    /// Adds one.
    pub fn push(&mut self, sample: Sample) {
        self.0.push(sample);
    }

    /// The median of a number.
    pub fn median(&self, of: impl Fn(&Sample) -> f64) -> f64 {
        median(self.0.iter().map(of).collect())
    }

    /// The median of the CPU time per request.
    pub fn cpu(&self) -> Option<f64> {
        let all: Vec<f64> = self.0.iter().filter_map(|sample| sample.cpu).collect();
        (!all.is_empty()).then(|| median(all))
    }

    /// The least CPU time per request.
    pub fn least_cpu(&self) -> Option<f64> {
        self.0.iter().filter_map(|sample| sample.cpu).min_by(f64::total_cmp)
    }

    /// CPU time per request against that of a peer: the median of the ratios of the rounds, and the ratio of the minima.
    pub fn cpu_ratio(&self, peer: &Samples) -> Option<(f64, f64)> {
        let ratio = |(own, peer): (&Sample, &Sample)| Some(own.cpu? / peer.cpu?);
        let ratios: Vec<f64> = self.0.iter().zip(&peer.0).filter_map(ratio).collect();
        let minima = self.least_cpu()? / peer.least_cpu()?;
        (!ratios.is_empty()).then(|| (median(ratios), minima))
    }
}

/// The median; 0 of nothing.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        n if n % 2 == 1 => values[n / 2],
        n => (values[n / 2 - 1] + values[n / 2]) / 2.0,
    }
}
