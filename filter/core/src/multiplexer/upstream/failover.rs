//! Commands that weren't executed, since a node of their Redis Cluster can't be reached or says that the
//! cluster is down: they wait until another one has taken its place, or it answers again, or serves again.
//!
//! What was refused may be followed by what its client has sent behind it, and that can't be called back.
//! As long as that is under way over the same connection, the command isn't sent again, and it isn't sent
//! any more when that was executed ([`overtaken`]).

use super::Upstreams;
use super::availability::{Outage, Peer};
use super::cluster_queue::{Followed, WaitingCommand};
use super::connection::Retirement;
use super::discovery::away;
use super::endpoint::UpstreamEndpoint;
use super::events::Event;
use super::later::slot_of;
use super::patience::Tried;
use super::pending::{InFlight, Owner, PendingReply};
use super::pool_key::{PoolKey, Purpose};
use super::retry::Retry;
use super::stranded::{Stranded, Unexecuted};
use crate::cluster::read_policy::choose;
use crate::command::{Known, each_command, script};
use crate::multiplexer::client::reply_queue::Sequence;
use crate::multiplexer::effects::Effects;
use crate::multiplexer::ids::{ClientId, ClusterId, ConnectionId};
use crate::multiplexer::timers::Timer;
use crate::wire::ReadPolicy;
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::time::Duration;

/// How many commands may wait that nodes have refused, and how many bytes they may have. There is no other
/// bound for a worker: nodes that refuse everything answer soon, so connections always take more. So many are
/// sent again in some milliseconds.
const MAX_REFUSED: usize = 20_000;
const MAX_REFUSED_BYTES: usize = 64 * 1024 * 1024;
/// How long a refusal may be that is kept. Those of Redis have less than a hundred bytes.
const MAX_REFUSAL: usize = 1024;
/// A command that blocks and was answered after that has waited at the node.
const BLOCKED: Duration = Duration::from_secs(1);

/// The last commands under way of clients, by connections.
type UnderWay = HashMap<(ConnectionId, ClientId), Sequence>;

/// Sends a command again, over the shared connection of its pool key. With `asks`, ASKING goes before
/// it.
pub fn resend(upstreams: &mut Upstreams, retry: Retry, asks: bool, effects: &mut Effects) {
    if waits_its_turn(upstreams, &retry) {
        let error = format!("ERR redis-mesh: {} can't be reached", retry.key.endpoint.shown());
        return strand(upstreams, retry, error, effects);
    }
    match upstreams.pool.reached(retry.key.clone(), effects) {
        Ok(connection) => upstreams.resend_over(connection.id(), retry, asks, effects),
        Err(Outage::Unreachable(error)) if may_wait(&retry) && !asks => strand(upstreams, retry, error, effects),
        Err(outage) => upstreams.pool.events.push_back(Event::Failed { to: retry.in_flight.what, outage }),
    }
}

/// Sends a command again that went over this connection, for this purpose.
pub fn resend_of(
    upstreams: &mut Upstreams,
    (from, purpose): (ConnectionId, Purpose),
    retry: Retry,
    asks: bool,
    effects: &mut Effects,
) {
    match purpose.client() {
        Some(client) => {
            upstreams.pool.events.push_back(Event::RedirectedDedicated { client, from, retry: Box::new(retry), asks });
        }
        None => resend(upstreams, retry, asks, effects),
    }
}

/// A command can be sent to another node than the one of its key: it is a client's, and it is there.
fn may_wait(retry: &Retry) -> bool {
    retry.key.node.is_some() && retry.in_flight.what.command().is_some() && !retry.bytes.is_empty()
}

/// An earlier command of the same client for the same slot waits.
fn waits_its_turn(upstreams: &Upstreams, retry: &Retry) -> bool {
    let owner = retry.in_flight.what.command().filter(|_| upstreams.stranded.held().0 > 0 && may_wait(retry));
    owner.is_some_and(|owner| upstreams.stranded.has_earlier(owner, slot_of(&retry.bytes)))
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
    let stranded = Stranded { retry, slot, why: Unexecuted::Unsent(error) };
    match concerns_shard && slot.is_none() {
        true => tell(upstreams, stranded),
        false => settle(upstreams, stranded, &UnderWay::new(), effects),
    }
}

/// A node has refused a command, since the cluster doesn't serve it at present. The command went over this
/// connection, for this purpose, and has got this reply.
pub fn refused(
    upstreams: &mut Upstreams,
    (from, purpose, reply): (ConnectionId, Purpose, Vec<u8>),
    mut retry: Retry,
    effects: &mut Effects,
) {
    let Some(owner) = retry.in_flight.what.owner() else { return };
    let (now, slot) = (effects.now, slot_of(&retry.bytes));
    upstreams.discovery.suspect(&retry.key.endpoint, effects);
    if retry.in_flight.patience.is_waiting() && retry.in_flight.sent.elapsed(now) >= BLOCKED {
        retry.in_flight.tried = Tried::at(now);
    }
    // What was executed meanwhile over the connection that takes the place of this one isn't noticed.
    let is_draining = upstreams.pool.get(from).is_none_or(|connection| connection.retirement != Retirement::Serving);
    let is_followed = is_draining && upstreams.pool.has_later((owner, slot), &retry.key.endpoint);
    let (commands, bytes) = upstreams.stranded.held();
    let has_room = commands < MAX_REFUSED && bytes + retry.bytes.len() <= MAX_REFUSED_BYTES;
    // A part without a key concerns the very server, and no server refuses it for that reason.
    let is_of_server = slot.is_none() && matches!(retry.in_flight.what, PendingReply::Part(..));
    let is_kept = has_room && !is_followed && !is_of_server && !retry.bytes.is_empty() && reply.len() <= MAX_REFUSAL;
    let stranded = Stranded { retry, slot, why: Unexecuted::Refused { from, purpose, reply } };
    match is_kept {
        true => wait(upstreams, stranded, effects),
        false => tell(upstreams, stranded),
    }
}

/// True if a command waits that the same client has sent before this one, and that this one may follow over
/// this connection.
#[inline]
pub fn may_overtake(upstreams: &Upstreams, connection: ConnectionId, what: PendingReply) -> bool {
    let stranded = &upstreams.stranded;
    stranded.held().0 > 0 && what.command().is_some_and(|owner| stranded.is_followed(owner.client, connection))
}

/// The same as [`overtaken`], for the command to which the next reply over the connection is.
#[inline]
pub fn oldest_overtakes(upstreams: &mut Upstreams, id: ConnectionId, in_flight: InFlight) {
    if may_overtake(upstreams, id, in_flight.what) {
        let connection = upstreams.pool.get(id);
        let bytes = connection.map(|connection| connection.replay.behind(0, in_flight.replay as usize).to_vec());
        overtaken(upstreams, id, in_flight, &bytes.unwrap_or_default());
    }
}

/// A command was executed, may have been, or goes elsewhere, that went over this connection. What its
/// client has sent before it and a node has refused must not be executed behind it, if it has the same
/// slot, or if this one has none and does more than read.
pub fn overtaken(upstreams: &mut Upstreams, connection: ConnectionId, in_flight: InFlight, bytes: &[u8]) {
    let Some(owner) = in_flight.what.command() else { return };
    let stranded = &mut upstreams.stranded;
    let slot = slot_of(bytes);
    let concerns_all = slot.is_none() && !only_reads(bytes);
    if !concerns_all && !stranded.has_earlier(owner, slot) {
        return;
    }
    for stranded in stranded.take_before(owner, connection, |waiting| concerns_all || waiting.slot == slot) {
        tell(upstreams, stranded);
    }
}

/// True for a command in RESP that changes nothing.
fn only_reads(bytes: &[u8]) -> bool {
    let mut only_reads = !bytes.is_empty();
    each_command(bytes, |args| {
        let known = Known::of(args).filter(|known| known.command.is_read() && !script::may_run_code(known.command));
        only_reads &= known.is_some();
    });
    only_reads
}

/// True for a SCAN of one server, whose cursor no other one knows.
fn is_scan(retry: &Retry) -> bool {
    let mut is_scan = false;
    each_command(&retry.bytes, |args| is_scan |= args.get(0).eq_ignore_ascii_case(b"scan"));
    is_scan
}

/// Sends a command where it can be executed, has it wait, or tells its client that it has waited for
/// too long.
fn settle(upstreams: &mut Upstreams, mut stranded: Stranded, under_way: &UnderWay, effects: &mut Effects) {
    let Some(owner) = stranded.retry.in_flight.what.owner() else { return };
    let Some((node, readonly)) = executor(upstreams, &stranded, effects) else {
        return wait(upstreams, stranded, effects);
    };
    let key = PoolKey { node: Some(node), readonly, ..stranded.retry.key.clone() };
    if would_change_order(upstreams, owner, &stranded, under_way) {
        return wait(upstreams, stranded, effects);
    }
    upstreams.pool.events.push_back(Event::Redirected(owner));
    stranded.retry.key = key;
    match stranded.why {
        Unexecuted::Unsent(_) => resend(upstreams, stranded.retry, false, effects),
        Unexecuted::Refused { from, purpose, .. } => {
            resend_of(upstreams, (from, purpose), stranded.retry, false, effects);
        }
    }
}

/// True if the command would overtake an earlier one, or if a later one is under way that a node may
/// refuse, too.
fn would_change_order(upstreams: &mut Upstreams, owner: Owner, stranded: &Stranded, under_way: &UnderWay) -> bool {
    let slot = slot_of(&stranded.retry.bytes);
    let is_followed = match stranded.followed() {
        Followed::Nowhere => false,
        Followed::Over(from) => under_way.get(&(from, owner.client)).is_some_and(|last| *last > owner.sequence),
        Followed::Anywhere => upstreams.pool.has_later((owner, slot), &stranded.retry.key.endpoint),
    };
    is_followed
        || upstreams.stranded.has_earlier(owner, slot)
        || upstreams.held.has_earlier(owner, slot)
        || upstreams.retries.has_earlier(owner, slot)
}

/// Has a command wait, or tells its client that it has waited for too long.
fn wait(upstreams: &mut Upstreams, stranded: Stranded, effects: &mut Effects) {
    let Some(owner) = stranded.retry.in_flight.what.owner() else { return };
    let deadline = stranded.retry.in_flight.failover_deadline(effects.now);
    let cluster = away::await_failover(&mut upstreams.discovery, &stranded.retry.key.endpoint, deadline, effects);
    let Some(cluster) = cluster.filter(|_| deadline > effects.now) else {
        upstreams.pool.events.extend(waited_in_vain(&stranded.retry.in_flight, effects.now));
        return tell(upstreams, stranded);
    };
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
    // What a client has begun over a connection of its own stays at the master.
    let is_free = match &stranded.why {
        Unexecuted::Unsent(_) => true,
        Unexecuted::Refused { purpose, .. } => purpose.has_no_state(),
    };
    let policy = in_flight.reads.filter(|_| is_free).unwrap_or(ReadPolicy::Master);
    choose(policy, shard, is_reached, &mut effects.random).filter(|(node, _)| is_reached(*node))
}

fn is_reached(upstreams: &Upstreams, endpoint: &UpstreamEndpoint, node: SocketAddr) -> bool {
    upstreams.pool.availability.unreached(&Peer::new(endpoint, Some(node))).is_none()
}

/// Tells the client that its command wasn't executed.
fn tell(upstreams: &mut Upstreams, stranded: Stranded) {
    let to = stranded.retry.in_flight.what;
    match stranded.why {
        Unexecuted::Refused { reply, .. } if let PendingReply::Subscription(owner, more, _) = to => {
            upstreams.pool.events.push_back(Event::SubscriptionFailed { owner, more, reply });
        }
        Unexecuted::Refused { reply, .. } => upstreams.pool.events.push_back(Event::Reply { to, reply }),
        Unexecuted::Unsent(error) => upstreams.fail(to, &unsent(to, error)),
    }
}

/// A command has waited for a node since it was tried first.
pub fn waited_in_vain(in_flight: &InFlight, now: Duration) -> Option<Event<'static>> {
    Some(Event::WaitedInVain(in_flight.what.owner()?.client, in_flight.tried.time(now)))
}

/// What the client of a command is told that wasn't sent for this reason. Neither has `-`.
fn unsent(to: PendingReply, error: String) -> String {
    match to {
        PendingReply::Exec(_) => transaction_unsent(&error),
        _ => error,
    }
}

/// What the client of a transaction is told that wasn't sent for this reason. Neither has `-`.
pub fn transaction_unsent(error: &str) -> String {
    let why = error.trim_start_matches("ERR redis-mesh: ");
    format!("EXECABORT redis-mesh: nothing was executed, since {why}")
}

/// Other nodes of a cluster serve slots from now on, or one answers that couldn't be reached, or says that
/// the cluster serves its slots: commands that have waited for that are sent, in their order.
pub fn release(upstreams: &mut Upstreams, cluster: ClusterId, effects: &mut Effects) {
    let all = upstreams.stranded.take(|of, _| of == cluster);
    if all.iter().any(|stranded| stranded.followed() == Followed::Anywhere) {
        // What is under way now matters, not what was answered meanwhile.
        upstreams.pool.sent.forget();
    }
    let over = |stranded: &Stranded| match stranded.followed() {
        Followed::Over(connection) => Some(connection),
        Followed::Nowhere | Followed::Anywhere => None,
    };
    let connections: HashSet<ConnectionId> = all.iter().filter_map(over).collect();
    let mut under_way = UnderWay::new();
    for from in connections {
        let pending = upstreams.pool.get(from).into_iter().flat_map(|connection| &connection.pending);
        for owner in pending.filter_map(|in_flight| in_flight.what.command()) {
            let last = under_way.entry((from, owner.client)).or_default();
            *last = owner.sequence.max(*last);
        }
    }
    for stranded in all {
        settle(upstreams, stranded, &under_way, effects);
    }
}

/// Tells the clients of the commands that have waited for too long.
pub fn on_timer(upstreams: &mut Upstreams, effects: &mut Effects) {
    let now = effects.now;
    let is_over = |stranded: &Stranded| stranded.retry.in_flight.failover_deadline(now) <= now;
    for stranded in upstreams.stranded.take(|_, stranded| is_over(stranded)) {
        upstreams.pool.events.extend(waited_in_vain(&stranded.retry.in_flight, now));
        tell(upstreams, stranded);
    }
}

/// A client is gone, and may have given its commands to another server: what wasn't sent won't be.
pub fn client_gone(upstreams: &mut Upstreams, client: ClientId) {
    for stranded in upstreams.stranded.take_of(client) {
        if let PendingReply::Exec(owner) = stranded.retry.in_flight.what {
            upstreams.pool.events.push_back(Event::ExecAbandoned(owner));
        }
    }
}
