//! The one place where a node's redirection is acted on
//! (<https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/#redirection-and-resharding>).

use super::Upstreams;
use super::endpoint::UpstreamEndpoint;
use super::events::Event;
use super::pending::{InFlight, Owner, PendingReply};
use super::pool_key::Purpose;
use super::redirect::Redirect;
use super::retry::{MAX_RETRIES, Retry, slot_of};
use crate::multiplexer::effects::Effects;
use crate::multiplexer::ids::ConnectionId;
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
    let redirect = match connection.memory.redirect.take() {
        Some(redirect) if matches!(in_flight.what, PendingReply::Exec(_)) => Some(redirect),
        _ if connection.key.node.is_some() => Redirect::parse(&reply, connection.key.node),
        _ => None,
    };
    match redirect {
        Some(redirect) => follow(upstreams, id, in_flight, (redirect, reply), effects),
        None => {
            connection.drop_replay(in_flight);
            upstreams.pool.events.push_back(Event::Reply { to: in_flight.what, reply });
        }
    }
}

/// A node hasn't executed a command, and says who would.
fn follow(
    upstreams: &mut Upstreams,
    id: ConnectionId,
    in_flight: InFlight,
    (redirect, reply): (Redirect, Vec<u8>),
    effects: &mut Effects,
) {
    let Some(owner) = in_flight.what.command() else { return };
    let Some(connection) = upstreams.pool.get_mut(id) else { return };
    let bytes = connection.take_replay(in_flight);
    let (purpose, key) = (connection.purpose, connection.key.clone());
    let (response_timeout, endpoint) = (connection.response_timeout, key.endpoint.clone());
    let mut retry = Retry { in_flight, bytes, key, response_timeout };
    let (node, asks) = match redirect {
        Redirect::Moved(slot, Some(node)) => {
            upstreams.discovery.moved(&endpoint, slot, node, &mut upstreams.pool, effects);
            (Some(node), false)
        }
        Redirect::Ask(Some(node)) => (Some(node), true),
        Redirect::Moved(_, None) | Redirect::Ask(None) | Redirect::ClusterDown => {
            upstreams.discovery.suspect(&endpoint, effects);
            (None, false)
        }
        Redirect::TryAgain => return try_again(upstreams, id, (retry, owner), reply, effects),
    };
    let is_exhausted = in_flight.redirects >= MAX_REDIRECTS || retry.bytes.is_empty();
    let Some(node) = node.filter(|_| !is_exhausted) else {
        return answer(upstreams, in_flight, for_client(redirect, reply));
    };
    upstreams.pool.events.push_back(Event::Redirected(owner));
    retry.in_flight.redirects += 1;
    (retry.key.node, retry.key.readonly) = (Some(node), false);
    match purpose.client() {
        // What was watched has gone to another node, unwatched: as after a change, the client
        // tries again.
        Some(_) if matches!(in_flight.what, PendingReply::Exec(_)) => {
            let nil: &[u8] = if retry.key.resp3 { b"_\r\n" } else { b"*-1\r\n" };
            answer(upstreams, in_flight, nil.to_vec());
        }
        Some(client) => {
            upstreams.pool.events.push_back(Event::RedirectedDedicated {
                client,
                from: id,
                retry: Box::new(retry),
                asks,
            });
        }
        None => upstreams.resend(retry, asks, effects),
    }
}

/// Only some of a command's keys are at the node yet: it is retried a little later, unless its
/// client has sent something for the same slot since. That can't be called back, so the command
/// would come after it.
fn try_again(
    upstreams: &mut Upstreams,
    id: ConnectionId,
    (mut retry, owner): (Retry, Owner),
    reply: Vec<u8>,
    effects: &mut Effects,
) {
    let is_shared = upstreams.pool.get(id).is_some_and(|connection| connection.purpose == Purpose::Shared);
    let is_exhausted = retry.in_flight.retries >= MAX_RETRIES;
    if is_exhausted || !is_shared || is_followed(upstreams, owner, &retry) {
        return answer(upstreams, retry.in_flight, for_client(Redirect::TryAgain, reply));
    }
    upstreams.pool.events.push_back(Event::Redirected(owner));
    // While keys are on their way, each try may lead from node to node.
    retry.in_flight.redirects = 0;
    retry.in_flight.retries += 1;
    upstreams.retries.add(retry, effects);
}

/// True if the client has sent something else for the same slot since.
fn is_followed(upstreams: &Upstreams, owner: Owner, retry: &Retry) -> bool {
    let slot = slot_of(&retry.bytes);
    let mut connections = upstreams.pool.iter().map(|(_, connection)| connection);
    connections.any(|connection| {
        connection.key.endpoint == retry.key.endpoint && connection.has_later(owner, |bytes| slot_of(bytes) == slot)
    }) || upstreams.retries.has_later(owner, slot)
}

fn answer(upstreams: &mut Upstreams, in_flight: InFlight, reply: Vec<u8>) {
    upstreams.pool.events.push_back(Event::Reply { to: in_flight.what, reply });
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
    let Some(Redirect::Moved(slot, Some(to))) = node.and_then(|_| Redirect::parse(frame, node)) else {
        return false;
    };
    upstreams.discovery.moved(endpoint, slot, to, &mut upstreams.pool, effects);
    true
}

/// What a client is told instead of a redirection that it could do nothing with.
fn for_client(redirect: Redirect, reply: Vec<u8>) -> Vec<u8> {
    match redirect {
        Redirect::TryAgain | Redirect::ClusterDown => reply,
        Redirect::Moved(..) | Redirect::Ask(_) => {
            b"-ERR redis-mesh: the Redis Cluster sends the command from node to node; try again\r\n".to_vec()
        }
    }
}
