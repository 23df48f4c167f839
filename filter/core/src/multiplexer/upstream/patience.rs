//! How long Redis may be silent while replies are to come.
//!
//! As with Envoy's `op_timeout`, each reply over a connection begins the time of the ones behind it
//! anew, since Redis is working then
//! (`extensions.filters.network.redis_proxy.v3.RedisProxy.ConnPoolSettings.op_timeout`).

use crate::command::sharing::Sharing;
use std::time::Duration;

/// How long a Redis may be silent before it is asked over a new connection.
pub const SILENCE: Duration = Duration::from_secs(3);

/// How long a command that wasn't sent waits for a node that takes the place of the one that can't be
/// reached, where Redis may be silent for as long as it takes.
const LONGEST_FAILOVER: Duration = Duration::from_secs(5);

/// How long Redis may be silent before a command's client is told that it doesn't answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience(u32);

/// Set if the command waits for as long as it says itself.
const WAITS: u32 = 1 << 31;

/// When a command was sent, in milliseconds of the host's monotonic clock, modulo 2³².
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent(u32);

impl Patience {
    /// As long as the connection works. Whether it does is found out when Redis is silent.
    pub const UNLIMITED: Patience = Patience(WAITS - 1);

    /// This long; as long as the connection works if it is zero.
    pub fn of(timeout: Duration) -> Patience {
        match u32::try_from(timeout.as_millis()) {
            Ok(0) if timeout.is_zero() => Patience::UNLIMITED,
            Ok(milliseconds) => Patience(milliseconds.clamp(1, Patience::UNLIMITED.0)),
            Err(_) => Patience::UNLIMITED,
        }
    }

    /// That of a command that waits for as long as it says itself (BLPOP, WAIT), at a host where other
    /// commands have this one: silence means nothing.
    pub fn of_waiting(self) -> Patience {
        Patience(self.0 | WAITS)
    }

    /// That of a command that is shared so, at a host where others have this one.
    pub fn of_command(self, sharing: Sharing) -> Patience {
        match sharing {
            Sharing::Blocks | Sharing::AwaitsWrites => self.of_waiting(),
            Sharing::Safe(_) | Sharing::Interrupts | Sharing::Watches | Sharing::ChangesConnection => self,
        }
    }

    /// True if the command waits for as long as it says itself.
    #[inline]
    pub fn is_waiting(self) -> bool {
        self.0 & WAITS != 0
    }

    /// How long; `None` if there is no limit.
    #[inline]
    pub fn limit(self) -> Option<Duration> {
        match self {
            Patience::UNLIMITED => None,
            _ if self.is_waiting() => None,
            Patience(milliseconds) => Some(Duration::from_millis(milliseconds.into())),
        }
    }

    /// How long a command that wasn't executed waits for a node of its Redis Cluster that takes the place
    /// of the one that can't be reached, or that serves its slot.
    pub fn of_failover(self) -> Duration {
        Patience(self.0 & !WAITS).limit().unwrap_or(LONGEST_FAILOVER)
    }
}

/// When a command was tried for the first time, in milliseconds of the host's monotonic clock, modulo
/// 2³²; or never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tried(u32);

impl Tried {
    /// It wasn't tried.
    pub const NEVER: Tried = Tried(0);

    /// At this time of the host's monotonic clock.
    #[inline]
    pub fn at(now: Duration) -> Tried {
        Tried((now.as_millis() as u32).max(1))
    }

    /// The same, and now if it wasn't tried before.
    #[inline]
    pub fn or_now(self, now: Duration) -> Tried {
        if self == Tried::NEVER { Tried::at(now) } else { self }
    }

    /// When that was on the host's monotonic clock, which shows `now`.
    pub fn time(self, now: Duration) -> Duration {
        match self {
            Tried::NEVER => now,
            Tried(at) => now.saturating_sub(Sent(at).elapsed(now)),
        }
    }
}

impl Sent {
    /// At this time of the host's monotonic clock.
    #[inline]
    pub fn at(now: Duration) -> Sent {
        Sent(now.as_millis() as u32)
    }

    /// How long ago that was.
    pub fn elapsed(self, now: Duration) -> Duration {
        Duration::from_millis(Sent::at(now).0.wrapping_sub(self.0).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn zero_is_no_limit_and_neither_is_waiting() {
        let milliseconds = Duration::from_millis;
        assert_eq!(Patience::of(Duration::ZERO), Patience::UNLIMITED);
        assert_eq!(Patience::of(Duration::from_nanos(1)).limit(), Some(milliseconds(1)));
        assert_eq!(Patience::of(milliseconds(250)).limit(), Some(milliseconds(250)));
        assert_eq!(Patience::of(Duration::from_secs(1 << 40)), Patience::UNLIMITED);
        assert_eq!(Patience::of(Duration::from_millis(u32::MAX.into())), Patience::UNLIMITED);
        assert_eq!((Patience::UNLIMITED.of_waiting().limit(), Patience::UNLIMITED.limit()), (None, None));
        assert_eq!(Patience::UNLIMITED.of_failover(), LONGEST_FAILOVER);
        assert_eq!(Patience::of(milliseconds(250)).of_failover(), milliseconds(250));
        // A command that waits for as long as it says waits for a failover as others do.
        let waiting = Patience::of(milliseconds(250)).of_waiting();
        assert!(waiting.is_waiting() && !Patience::UNLIMITED.is_waiting());
        assert_eq!((waiting.limit(), waiting.of_failover()), (None, milliseconds(250)));
        assert_eq!(Patience::UNLIMITED.of_waiting().of_failover(), LONGEST_FAILOVER);
    }

    #[test]
    fn the_clock_may_go_round() {
        let turn = Duration::from_millis(1 << 32);
        let sent = Sent::at(turn - Duration::from_millis(5));
        assert_eq!(sent.elapsed(turn + Duration::from_millis(7)), Duration::from_millis(12));
        let tried = Tried::NEVER.or_now(turn - Duration::from_millis(5)).or_now(turn);
        assert_eq!(tried.time(turn + Duration::from_millis(7)), turn - Duration::from_millis(5));
        assert_eq!(Tried::NEVER.time(turn), turn);
    }
}
