//! What a call into the multiplexer works with beside its state.

use super::outbox::Outbox;
use super::timers::Timers;
use crate::random::Random;
use std::time::Duration;

/// Time and randomness, which go in, and outputs and timers, which come out. Every part of the
/// multiplexer that acts gets this, so none of them has a clock of its own.
pub struct Effects {
    /// The time of the call, on the host's monotonic clock.
    pub now: Duration,
    /// Where outputs go.
    pub outbox: Outbox,
    /// Where timers go.
    pub timers: Timers,
    /// Randomness, seeded by the host.
    pub random: Random,
}

impl Effects {
    /// Effects at time zero. `seed` must come from the operating system wherever clients are real.
    pub fn new(seed: [u8; 32]) -> Effects {
        Effects { now: Duration::ZERO, outbox: Outbox::default(), timers: Timers::default(), random: Random::new(seed) }
    }
}
