//! The one place where a node's redirection is acted on
//! (<https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/#redirection-and-resharding>).
//!
//! A script chooses the words of its reply, so an error may be the words of a client. Two rules keep
//! such an error from doing anything:
//!
//! - A command that may run code is preceded by a probe ([`probe`](super::probe)). Its error is taken for the node's only if the probe has got the same one.
//! - A redirection concerns the slot of that very command, and leads only to nodes that the
//!   cluster's nodes name when they are asked. To others it is not followed before they were
//!   asked.

use super::Upstreams;
use super::availability::{Outage, Peer};
use super::connection::UpstreamConnection;
use super::endpoint::UpstreamEndpoint;
use super::events::Event;
use super::failover::{self, resend, resend_of};
use super::held::Refused;
use super::later::{has_later_over, slot_of};
use super::max_age;
use super::pending::{InFlight, Owner, PendingReply};
use super::pool_key::PoolKey;
use super::redirect::Redirect;
use super::retry::{MAX_RETRIES, Retry, has_several_keys};
use crate::multiplexer::effects::Effects;
use crate::multiplexer::ids::{ClusterId, ConnectionId};
use crate::resp::error_text;
use std::net::SocketAddr;

/// How many redirections a command follows.
pub const MAX_REDIRECTS: u8 = 8;

/// The reply to a client's command, a part of one, or a transaction has come as a whole.
pub fn on_command_reply(
    upstreams: &mut Upstreams,
    id: ConnectionId,
    in_flight: InFlight,
    reply: Vec<u8>,
    effects: &mut Effects,
) {
    let Some(connection) = upstreams.pool.get_mut(id) else { return };
    let probed = connection.memory.probe.take();
    let said = match connection.memory.redirect.take() {
        // Redis queues a command or refuses it, without executing it.
        Some(redirect) if matches!(in_flight.what, PendingReply::Exec(_)) && reply.starts_with(b"-") => Some(redirect),
        _ if connection.key.node.is_some() => Redirect::parse(&reply, connection.key.node),
        _ => None,
    };
    let redirect = said.filter(|said| !in_flight.may_run_code || probed.as_ref() == Some(said));
    // What goes elsewhere over shared connections waits behind what its client has sent before.
    let is_behind = redirect.is_some() && connection.purpose.client().is_none();
    if redirect != Some(Redirect::ClusterDown) && !is_behind {
        failover::oldest_overtakes(upstreams, id, in_flight);
    }
    if !in_flight.may_run_code && note_condition(upstreams, id, in_flight, &reply, effects) {
        return;
    }
    let Some(connection) = upstreams.pool.get_mut(id) else { return };
    let Some(redirect) = redirect else {
        connection.drop_replay(in_flight);
        let endpoint = said.map(|_| connection.key.endpoint.clone());
        upstreams.pool.events.push_back(Event::Reply { to: in_flight.what, reply });
        if let Some(endpoint) = endpoint {
            upstreams.discovery.suspect(&endpoint, effects);
        }
        return;
    };
    let bytes = connection.take_replay(in_flight);
    let (purpose, key) = (connection.purpose, connection.key.clone());
    let retry = Retry { in_flight, bytes, key };
    follow(upstreams, Refused { from: id, purpose, why: redirect, reply, retry }, false, effects);
}

/// Takes in what an error says about the server. Returns true if the command goes elsewhere.
fn note_condition(
    upstreams: &mut Upstreams,
    id: ConnectionId,
    in_flight: InFlight,
    reply: &[u8],
    effects: &mut Effects,
) -> bool {
    if reply.starts_with(b"-READONLY ") {
        // It was a master: another one is found over a new connection.
        max_age::renew(&mut upstreams.pool, id, effects);
    }
    // A replica that loads its data, or has lost its master, has executed nothing.
    if !reply.starts_with(b"-LOADING ") && !reply.starts_with(b"-MASTERDOWN ") {
        return false;
    }
    let Some(connection) = upstreams.pool.get(id).filter(|connection| connection.key.readonly) else { return false };
    let bytes = connection.replay.behind(0, in_flight.replay as usize).to_vec();
    let peer = Peer::new(&connection.key.endpoint, connection.key.node);
    let retry = at_the_master(upstreams, connection, in_flight, &bytes);
    let text = error_text(reply).into_owned();
    // Others answer reads for now.
    upstreams.pool.availability.back_off(peer, Outage::Refuses(text), effects.now);
    let Some(retry) = retry else { return false };
    if let Some(connection) = upstreams.pool.get_mut(id) {
        connection.drop_replay(in_flight);
    }
    if let Some(owner) = in_flight.what.command() {
        upstreams.pool.events.push_back(Event::Redirected(owner));
    }
    resend(upstreams, retry, false, effects);
    true
}

/// The nodes of a cluster have answered, or none could: what waited for that is followed now.
pub fn release(upstreams: &mut Upstreams, cluster: ClusterId, effects: &mut Effects) {
    for refused in upstreams.held.take(|of, _| of == cluster) {
        follow(upstreams, refused, true, effects);
    }
}

/// A node hasn't executed a command. `is_told`: the nodes were asked because of it.
fn follow(upstreams: &mut Upstreams, refused: Refused, is_told: bool, effects: &mut Effects) {
    let Some(owner) = refused.retry.in_flight.what.command() else { return };
    let endpoint = refused.retry.key.endpoint.clone();
    let Retry { in_flight, bytes, key, .. } = &refused.retry;
    let own_slot = slot_of(bytes);
    let (slot, node, asks) = match refused.why {
        Redirect::Moved(slot, node) => (slot, node, false),
        Redirect::Ask(slot, node) => (slot, node, true),
        Redirect::TryAgain => return try_again(upstreams, refused, owner, effects),
        Redirect::ClusterDown => {
            let Refused { from, purpose, reply, retry, .. } = refused;
            return failover::refused(upstreams, (from, purpose, reply), retry, effects);
        }
    };
    let is_exhausted = in_flight.sendings.redirects >= MAX_REDIRECTS || bytes.is_empty();
    if is_exhausted || own_slot != Some(slot) {
        upstreams.discovery.suspect(&endpoint, effects);
        return answer(upstreams, refused);
    }
    // A node asks for a command of which one key is missing; what its client has sent since for the
    // keys that are still there is executed now.
    if asks && has_several_keys(bytes) && is_followed(upstreams, owner, &refused.retry) {
        return answer(upstreams, refused);
    }
    let node = node.or_else(|| named(upstreams, &endpoint, &refused, asks && is_told));
    let from = key.node;
    let is_of_use = |node: &SocketAddr| Some(*node) != from;
    if let Some(node) = node.filter(is_of_use).filter(|node| is_named(upstreams, &endpoint, *node)) {
        if !asks {
            upstreams.discovery.moved(&endpoint, slot, node, &mut upstreams.pool, effects);
        }
        return redirect(upstreams, refused, owner, (node, asks), effects);
    }
    if !is_told {
        return hold(upstreams, refused, owner, effects);
    }
    let master = upstreams.discovery.known(&endpoint).and_then(|cluster| cluster.master_of(slot));
    match master.filter(is_of_use).filter(|_| !asks) {
        Some(node) => redirect(upstreams, refused, owner, (node, false), effects),
        None => answer(upstreams, refused),
    }
}

/// The node that a redirection calls by a name that the cluster has told. Of one that has no name
/// (`cluster-preferred-endpoint-type hostname`) the port alone is told: if all nodes are known, it may be
/// the only one with this port.
fn named(
    upstreams: &Upstreams,
    endpoint: &UpstreamEndpoint,
    refused: &Refused,
    all_are_known: bool,
) -> Option<SocketAddr> {
    let (Redirect::Moved(..) | Redirect::Ask(..)) = refused.why else { return None };
    let (name, port) = Redirect::host(&refused.reply)?;
    let cluster = upstreams.discovery.known(endpoint)?;
    match name {
        b"?" if all_are_known => cluster.only_other(refused.retry.key.node, port),
        _ => cluster.topology.as_ref()?.address_of(name, port),
    }
}

/// True if this is the address of a node of the cluster, as far as its nodes were asked.
fn is_named(upstreams: &Upstreams, endpoint: &UpstreamEndpoint, node: SocketAddr) -> bool {
    upstreams.discovery.known(endpoint).is_some_and(|cluster| cluster.names(node))
}

/// The node isn't known, or has a name instead of an address, or is the one that said so: nodes are
/// asked first.
fn hold(upstreams: &mut Upstreams, refused: Refused, owner: Owner, effects: &mut Effects) {
    let endpoint = &refused.retry.key.endpoint;
    match upstreams.discovery.ask(endpoint, true, &mut upstreams.pool, effects) {
        Some(cluster) => {
            upstreams.pool.events.push_back(Event::Redirected(owner));
            upstreams.held.add(cluster, refused);
        }
        None => answer(upstreams, refused),
    }
}

/// Sends a command to the node that would execute it.
fn redirect(
    upstreams: &mut Upstreams,
    refused: Refused,
    owner: Owner,
    (node, asks): (SocketAddr, bool),
    effects: &mut Effects,
) {
    let key = PoolKey { node: Some(node), readonly: false, ..refused.retry.key.clone() };
    // A slot that goes back and forth: a node that has refused the command executes the next one by now.
    if refused.retry.in_flight.sendings.was_redirected && is_behind_later(upstreams, &key, &refused.retry) {
        return answer(upstreams, refused);
    }
    let Refused { from, purpose, mut retry, .. } = refused;
    upstreams.pool.events.push_back(Event::Redirected(owner));
    retry.in_flight = retry.in_flight.again();
    retry.in_flight.sendings.was_redirected = true;
    retry.key = key;
    resend_of(upstreams, (from, purpose), retry, asks, effects);
}

/// True if what the client has sent later for the same slot is under way over the connection over which the
/// command would go: a node that has refused a command may execute the next one.
fn is_behind_later(upstreams: &Upstreams, key: &PoolKey, retry: &Retry) -> bool {
    let Some(owner) = retry.in_flight.what.command() else { return false };
    let connection = upstreams.pool.current(key).and_then(|id| upstreams.pool.get(id));
    connection.is_some_and(|connection| has_later_over(connection, owner, slot_of(&retry.bytes)))
}

/// Only some of a command's keys are at the node yet: it is retried a little later, unless its
/// client has sent something for the same slot since. That can't be called back, so the command
/// would come after it.
fn try_again(upstreams: &mut Upstreams, refused: Refused, owner: Owner, effects: &mut Effects) {
    let is_exhausted = refused.retry.in_flight.sendings.retries >= MAX_RETRIES;
    if is_exhausted || !refused.purpose.has_no_state() || is_followed(upstreams, owner, &refused.retry) {
        return answer(upstreams, refused);
    }
    let mut retry = refused.retry;
    upstreams.pool.events.push_back(Event::Redirected(owner));
    // While keys are on their way, each try may lead from node to node.
    retry.in_flight.sendings.redirects = 0;
    retry.in_flight.sendings.retries += 1;
    upstreams.retries.add(retry, effects);
}

/// True if the client has sent something else for the same slot since.
fn is_followed(upstreams: &mut Upstreams, owner: Owner, retry: &Retry) -> bool {
    let slot = slot_of(&retry.bytes);
    upstreams.pool.has_later((owner, slot), &retry.key.endpoint)
        || upstreams.retries.has_later(owner, slot)
        || upstreams.held.has_later(owner, slot)
        || upstreams.stranded.has_later(owner, slot)
}

/// A read whose replica is lost or can't answer, to be sent to the master.
pub fn at_the_master(
    upstreams: &Upstreams,
    connection: &UpstreamConnection,
    in_flight: InFlight,
    bytes: &[u8],
) -> Option<Retry> {
    let may_be_sent = connection.purpose.has_no_state()
        && connection.key.readonly
        && in_flight.reads.is_some()
        && in_flight.sendings.redirects < MAX_REDIRECTS
        && !bytes.is_empty()
        && connection.refused().is_none();
    let key = upstreams.discovery.master_of_replica(&connection.key).filter(|_| may_be_sent)?;
    let in_flight = in_flight.again();
    Some(Retry { in_flight, bytes: bytes.to_vec(), key })
}

/// Tells the client that its command wasn't executed. It could do nothing with an address.
fn answer(upstreams: &mut Upstreams, refused: Refused) {
    let reply = match refused.why {
        Redirect::TryAgain | Redirect::ClusterDown => refused.reply,
        Redirect::Moved(..) | Redirect::Ask(..) => {
            b"-TRYAGAIN redis-mesh: the Redis Cluster sends the command from node to node\r\n".to_vec()
        }
    };
    upstreams.pool.events.push_back(Event::Reply { to: refused.retry.in_flight.what, reply });
}

/// Takes in that a reply to a subscription says that the channel's slot has moved. Returns false
/// if it says something else.
pub fn note_moved_channel(
    upstreams: &mut Upstreams,
    endpoint: &UpstreamEndpoint,
    node: Option<SocketAddr>,
    frame: &[u8],
    effects: &mut Effects,
) -> bool {
    let Some(Redirect::Moved(slot, to)) = node.and_then(|_| Redirect::parse(frame, node)) else {
        return false;
    };
    match to.filter(|to| is_named(upstreams, endpoint, *to)) {
        Some(to) => upstreams.discovery.moved(endpoint, slot, to, &mut upstreams.pool, effects),
        None => upstreams.discovery.suspect(endpoint, effects),
    }
    true
}
