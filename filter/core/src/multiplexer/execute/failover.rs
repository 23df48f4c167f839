//! A client's next command waits until a node of a Redis Cluster takes the place of one that can't be
//! reached, or that one answers again, or until a node serves its slot.

use super::context::{Context, Obstacle};
use crate::multiplexer::client::{Client, Wait};
use crate::multiplexer::effects::Effects;
use crate::multiplexer::ids::ClusterId;
use crate::multiplexer::timers::Timer;
use crate::multiplexer::upstream::discovery::{Missing, away};
use std::time::Duration;

/// What a command does for which there is no connection: it waits for a node that can be reached, until
/// its time is over.
pub fn obstacle(context: &Context<'_>, client: &mut Client, missing: Missing) -> Obstacle {
    let (Missing::Unreached(cluster, _) | Missing::Unserved(cluster, _)) = missing else { return missing.into() };
    let now = context.effects.now;
    client.pause.tried = client.pause.tried.or_now(now);
    match deadline(client, now) > now {
        true => Obstacle::Wait(Wait::Failover(cluster)),
        false => missing.into(),
    }
}

/// Until when the client's next command waits for a node, counted from when it was first tried.
fn deadline(client: &Client, now: Duration) -> Duration {
    client.pause.tried.time(now) + client.rules.config.patience.of_failover()
}

/// The client's next command waits.
pub fn wait(context: &mut Context<'_>, client: &Client, cluster: ClusterId) {
    let deadline = deadline(client, context.effects.now);
    away::await_failover_of(&mut context.upstreams.discovery, cluster, deadline, context.effects);
    context.effects.timers.add_about(deadline, Timer::FailoverOf(client.id));
}

/// A client's next command may have waited for too long.
pub fn on_timer(client: &mut Client, effects: &mut Effects) {
    if matches!(client.pause.wait, Some(Wait::Failover(_))) && deadline(client, effects.now) <= effects.now {
        client.pause.wait = None;
        client.wake(&mut effects.outbox);
    }
}
