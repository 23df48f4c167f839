//! Commands that weren't sent, since a node of their Redis Cluster can't be reached: they wait until
//! another one has taken its place, or it answers again.

use super::Upstreams;
use super::availability::{Outage, Peer};
use super::discovery::away;
use super::endpoint::UpstreamEndpoint;
use super::events::Event;
use super::later::slot_of;
use super::pending::PendingReply;
use super::pool_key::PoolKey;
use super::retry::Retry;
use super::stranded::Stranded;
use crate::cluster::read_policy::choose;
use crate::command::each_command;
use crate::multiplexer::effects::Effects;
use crate::multiplexer::ids::{ClientId, ClusterId};
use crate::multiplexer::timers::Timer;
use crate::wire::ReadPolicy;
use std::net::SocketAddr;

/// Sends a command again, over the shared connection of its pool key. With `asks`, ASKING goes before
/// it.
pub fn resend(upstreams: &mut Upstreams, retry: Retry, asks: bool, effects: &mut Effects) {
    match upstreams.pool.reached(retry.key.clone(), effects) {
        Ok(connection) => upstreams.resend_over(connection.id(), retry, asks, effects),
        Err(Outage::Unreachable(error)) if may_wait(&retry) && !asks => strand(upstreams, retry, error, effects),
        Err(outage) => upstreams.pool.events.push_back(Event::Failed { to: retry.in_flight.what, outage }),
    }
}

/// A command can be sent to another node than the one of its key: it is a client's, and it is there.
fn may_wait(retry: &Retry) -> bool {
    retry.key.node.is_some() && retry.in_flight.what.command().is_some() && !retry.bytes.is_empty()
}

/// A command wasn't sent, since its node can't be reached. `error`: what its client is told, without
/// `-`, if no other one can be in time.
pub fn strand(upstreams: &mut Upstreams, retry: Retry, error: String, effects: &mut Effects) {
    let mut slot = slot_of(&retry.bytes);
    let concerns_shard = slot.is_none() && matches!(retry.in_flight.what, PendingReply::Part(..));
    if concerns_shard {
        // A part without a key concerns the shard of its node, whoever serves that.
        let known = upstreams.discovery.known(&retry.key.endpoint);
        let of_node = known.zip(retry.key.node).and_then(|(cluster, node)| cluster.topology.as_ref()?.slot_of(node));
        slot = of_node.filter(|_| !is_scan(&retry));
    }
    let stranded = Stranded { retry, slot, error };
    match concerns_shard && slot.is_none() {
        true => tell(upstreams, stranded),
        false => settle(upstreams, stranded, effects),
    }
}

/// True for a SCAN of one server, whose cursor no other one knows.
fn is_scan(retry: &Retry) -> bool {
    let mut is_scan = false;
    each_command(&retry.bytes, |args| is_scan |= args.get(0).eq_ignore_ascii_case(b"scan"));
    is_scan
}

/// Sends a command where it can be executed, has it wait, or tells its client that it has waited for
/// too long.
fn settle(upstreams: &mut Upstreams, mut stranded: Stranded, effects: &mut Effects) {
    let Some(owner) = stranded.retry.in_flight.what.command() else { return };
    if let Some((node, readonly)) = executor(upstreams, &stranded, effects) {
        upstreams.pool.events.push_back(Event::Redirected(owner));
        let key = PoolKey { node: Some(node), readonly, ..stranded.retry.key };
        stranded.retry.key = key;
        return resend(upstreams, stranded.retry, false, effects);
    }
    let deadline = stranded.retry.in_flight.failover_deadline(effects.now);
    let cluster = away::await_failover(&mut upstreams.discovery, &stranded.retry.key.endpoint, deadline, effects);
    let Some(cluster) = cluster.filter(|_| deadline > effects.now) else { return tell(upstreams, stranded) };
    effects.timers.add_about(deadline, Timer::Failover);
    upstreams.pool.events.push_back(Event::Redirected(owner));
    upstreams.stranded.add(cluster, stranded);
}

/// The node that executes a command, if it has answered when it was tried last, and whether as a
/// replica.
fn executor(upstreams: &Upstreams, stranded: &Stranded, effects: &mut Effects) -> Option<(SocketAddr, bool)> {
    let Retry { in_flight, key, .. } = &stranded.retry;
    let topology = upstreams.discovery.known(&key.endpoint)?.topology.as_ref()?;
    let is_reached = |node: SocketAddr| is_reached(upstreams, &key.endpoint, node);
    let Some(slot) = stranded.slot else {
        let mut masters = topology.shards().iter().map(|shard| shard.master);
        return masters.find(|node| is_reached(*node)).map(|node| (node, false));
    };
    let shard = topology.shards().get(topology.owner(slot)?)?;
    let policy = in_flight.reads.unwrap_or(ReadPolicy::Master);
    choose(policy, shard, is_reached, &mut effects.random).filter(|(node, _)| is_reached(*node))
}

fn is_reached(upstreams: &Upstreams, endpoint: &UpstreamEndpoint, node: SocketAddr) -> bool {
    upstreams.pool.availability.unreached(&Peer::new(endpoint, Some(node))).is_none()
}

/// Tells the client that its command wasn't executed.
fn tell(upstreams: &mut Upstreams, stranded: Stranded) {
    let to = stranded.retry.in_flight.what;
    match to {
        // Its client is told by the end of its connection, as if Redis were gone.
        PendingReply::Exec(_) => {
            let outage = Outage::Unreachable(stranded.error);
            upstreams.pool.events.push_back(Event::Failed { to, outage });
        }
        _ => upstreams.fail(to, &stranded.error),
    }
}

/// Other nodes of a cluster serve slots from now on, or one answers that couldn't be reached: commands
/// that have waited for that are sent, in their order.
pub fn release(upstreams: &mut Upstreams, cluster: ClusterId, effects: &mut Effects) {
    for stranded in upstreams.stranded.take(|of, _| of == cluster) {
        settle(upstreams, stranded, effects);
    }
}

/// Tells the clients of the commands that have waited for too long.
pub fn on_timer(upstreams: &mut Upstreams, effects: &mut Effects) {
    let now = effects.now;
    let is_over = |stranded: &Stranded| stranded.retry.in_flight.failover_deadline(now) <= now;
    for stranded in upstreams.stranded.take(|_, stranded| is_over(stranded)) {
        tell(upstreams, stranded);
    }
}

/// A client is gone, and may have given its commands to another server: what wasn't sent won't be.
pub fn client_gone(upstreams: &mut Upstreams, client: ClientId) {
    let is_its =
        |stranded: &Stranded| stranded.retry.in_flight.what.command().is_some_and(|owner| owner.client == client);
    for stranded in upstreams.stranded.take(|_, stranded| is_its(stranded)) {
        if let PendingReply::Exec(owner) = stranded.retry.in_flight.what {
            upstreams.pool.events.push_back(Event::ExecAbandoned(owner));
        }
    }
}
