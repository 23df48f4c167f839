//! Measurements, and the figures that stand for many of them in a report.

use std::time::Duration;

use anyhow::Result;
use hdrhistogram::Histogram;

/// Latencies in nanoseconds.
pub type Latencies = Histogram<u64>;

/// Creates an empty histogram with a precision of one per cent.
pub fn latencies() -> Result<Latencies> {
    Ok(Histogram::new(2)?)
}

/// Converts a latency to nanoseconds.
pub fn nanoseconds(latency: Duration) -> u64 {
    u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX)
}

/// Returns p50, p99 and p99.9 in µs.
pub fn percentiles(latencies: &Latencies) -> [f64; 3] {
    [0.5, 0.99, 0.999].map(|share| latencies.value_at_quantile(share) as f64 / 1e3)
}

/// One measurement of one subject.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Requests per second.
    pub rate: f64,
    /// Latencies in µs: p50, p99, p99.9.
    pub latency: [f64; 3],
    /// CPU time of the proxy in µs per request.
    pub cpu: Option<f64>,
    /// The number of connections that Redis has accepted, for each request.
    pub connections: Option<f64>,
}

/// The median and the quartiles of numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The lower quartile.
    pub low: f64,
    /// The median.
    pub median: f64,
    /// The upper quartile.
    pub high: f64,
}

impl Spread {
    /// Computes the quartiles of numbers, or `None` if there are none.
    pub fn of(mut values: Vec<f64>) -> Option<Spread> {
        values.sort_by(f64::total_cmp);
        let last = values.len().checked_sub(1)?;
        let at = |share: f64| {
            let place = last as f64 * share;
            let (below, above) = (values[place.floor() as usize], values[place.ceil() as usize]);
            below + (above - below) * place.fract()
        };
        Some(Spread { low: at(0.25), median: at(0.5), high: at(0.75) })
    }

    /// Formats a ratio, such as `1.20 (1.10–1.30)`.
    pub fn ratio(&self) -> String {
        format!("{:.2} ({:.2}–{:.2})", self.median, self.low, self.high)
    }
}

/// Samples of one subject under one workload.
#[derive(Clone, Debug, Default)]
pub struct Samples(Vec<Sample>);

impl Samples {
    /// Adds a sample.
    pub fn push(&mut self, sample: Sample) {
        self.0.push(sample);
    }

    /// Whether there are no samples.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The median of one quantity.
    pub fn median(&self, of: impl Fn(&Sample) -> f64) -> f64 {
        median(self.0.iter().map(of).collect())
    }

    /// The median of the CPU time per request.
    pub fn cpu(&self) -> Option<f64> {
        Spread::of(self.0.iter().filter_map(|sample| sample.cpu).collect()).map(|spread| spread.median)
    }

    /// The least CPU time per request.
    pub fn least_cpu(&self) -> Option<f64> {
        self.0.iter().filter_map(|sample| sample.cpu).min_by(f64::total_cmp)
    }

    /// The median number of new connections for each request.
    pub fn connections(&self) -> Option<f64> {
        Spread::of(self.0.iter().filter_map(|sample| sample.connections).collect()).map(|spread| spread.median)
    }

    /// The ratios of CPU time per request to that of a peer, round by round.
    pub fn cpu_ratio(&self, peer: &Samples) -> Option<Spread> {
        let ratio = |(own, peer): (&Sample, &Sample)| Some(own.cpu? / peer.cpu?);
        Spread::of(self.0.iter().zip(&peer.0).filter_map(ratio).collect())
    }
}

/// Returns the median, or 0 if there are no values.
pub fn median(values: Vec<f64>) -> f64 {
    Spread::of(values).map_or(0.0, |spread| spread.median)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_in_microseconds() {
        let mut found = latencies().unwrap();
        for microseconds in 1..=1000 {
            found.record(nanoseconds(Duration::from_micros(microseconds))).unwrap();
        }
        for (found, expected) in percentiles(&found).into_iter().zip([500.0, 990.0, 999.0]) {
            assert!((found / expected - 1.0).abs() < 0.01, "{found} µs in place of {expected}");
        }
    }

    #[test]
    fn quartiles() {
        assert_eq!(Spread::of(Vec::new()), None);
        assert_eq!(Spread::of(vec![3.0]), Some(Spread { low: 3.0, median: 3.0, high: 3.0 }));
        assert_eq!(Spread::of(vec![4.0, 0.0, 2.0, 1.0, 3.0]), Some(Spread { low: 1.0, median: 2.0, high: 3.0 }));
        assert_eq!(Spread::of(vec![2.0, 1.0]).map(|spread| spread.median), Some(1.5));
    }
}
