//! What the timers of the Redis side are for.

use super::Upstreams;
use super::discovery::away;
use super::{failover, max_age, sweep};
use crate::multiplexer::effects::Effects;
use crate::multiplexer::timers::Timer;

/// Does what a timer is for.
pub fn on_timer(upstreams: &mut Upstreams, timer: Timer, effects: &mut Effects) {
    let Upstreams { pool, discovery, .. } = upstreams;
    match timer {
        Timer::Discovery(cluster) => {
            away::try_unreached(discovery, cluster, pool, effects);
            discovery.refresh(cluster, pool, effects);
        }
        Timer::PeriodicRefresh(cluster) => discovery.periodic_refresh(cluster, pool, effects),
        Timer::MaxAge(connection) => max_age::reached(pool, connection, effects),
        Timer::Sweep => sweep::sweep(upstreams, effects),
        Timer::Retry => {
            while let Some(retry) = upstreams.retries.pop(effects.now) {
                failover::resend(upstreams, retry, false, effects);
            }
        }
        Timer::Failover => failover::on_timer(upstreams, effects),
        // These are the client side's.
        Timer::Delay(_) | Timer::FailoverOf(_) | Timer::Backlog(_) | Timer::HalfClosed(_) | Timer::Inquiries => {}
    }
}
