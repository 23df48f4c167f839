//! Latencies, counted in buckets that are at most 1/64 wide.

use std::time::Duration;

/// Bits of a value, below its highest one, that choose the bucket.
const FINE: u32 = 6;

/// See the module's documentation.
#[derive(Clone, Debug, Default)]
pub struct Histogram {
    buckets: Vec<u64>,
    count: u64,
}

impl Histogram {
    /// Counts `n` requests that took this long.
    pub fn record(&mut self, latency: Duration, n: u64) {
        let index = bucket(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
        if self.buckets.len() <= index {
            self.buckets.resize(index + 1, 0);
        }
        self.buckets[index] += n;
        self.count += n;
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The latency that this share (0 to 1) of the requests did not exceed.
    pub fn percentile(&self, share: f64) -> Duration {
        let wanted = (self.count as f64 * share).ceil() as u64;
        let mut seen = 0;
        for (index, n) in self.buckets.iter().enumerate() {
            seen += n;
            if *n > 0 && seen >= wanted {
                return Duration::from_nanos(upper_bound(index));
            }
        }
        Duration::ZERO
    }

    /// p50, p99 and p99.9 in µs.
    pub fn percentiles(&self) -> [f64; 3] {
        [0.5, 0.99, 0.999].map(|share| self.percentile(share).as_secs_f64() * 1e6)
    }
}

fn bucket(value: u64) -> usize {
    let exponent = (64 - value.leading_zeros()).saturating_sub(FINE + 1);
    ((u64::from(exponent) << FINE) + (value >> exponent)) as usize
}

/// The highest value of a bucket.
fn upper_bound(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    let exponent = (bucket >> FINE).saturating_sub(1);
    let fine = bucket - (exponent << FINE);
    ((fine + 1) << exponent) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_its_bounds_and_is_narrow() {
        let mut previous = 0;
        for value in (0..100_000u64).chain((20..60).flat_map(|bit| [(1 << bit) - 1, 1 << bit, (1 << bit) + 1])) {
            let index = bucket(value);
            let high = upper_bound(index);
            assert!(value <= high && high - value <= value / 64, "{value} in bucket {index}, which ends at {high}");
            assert!(index >= previous, "{value}");
            previous = index;
        }
    }

    #[test]
    fn percentiles() {
        let mut histogram = Histogram::default();
        for microseconds in 1..=1000 {
            histogram.record(Duration::from_micros(microseconds), 1);
        }
        for (share, expected) in [(0.5, 500.0), (0.99, 990.0), (0.999, 999.0), (1.0, 1000.0)] {
            let found = histogram.percentile(share).as_secs_f64() * 1e6;
            assert!((found / expected - 1.0).abs() < 0.02, "p{share}: {found} µs");
        }
    }
}
