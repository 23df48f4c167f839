//! Waiting times after failures.

use std::time::Duration;

use backon::ExponentialBuilder;
use kube::runtime::watcher::ExponentialBackoff;

/// The first waiting time after a failure.
const SHORTEST: Duration = Duration::from_secs(1);

/// A back-off that begins with a second and doubles up to `longest`. There is no jitter: only the
/// leader writes, and the watches of two replicas have begun at different times.
pub fn doubling(longest: Duration) -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(SHORTEST)
        .with_max_delay(longest)
        .with_factor(2.0)
        .without_max_times()
        .into()
}
