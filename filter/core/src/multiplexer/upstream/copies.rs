//! Copies of commands and transactions for mirrors. No client waits for their replies. What a mirror
//! doesn't get, or refuses, is told as [`Event::Copies`].

use super::Upstreams;
use super::discovery::{Missing, NodeAccess};
use super::events::Event;
use super::pending::{InFlight, Owner, PendingReply};
use super::pool::SharedConnection;
use super::redirect::Redirect;
use super::scripts;
use super::unsent_copies::{CopyHeader, CopyRoute, MirrorCopy, WaitingCopy};
use crate::multiplexer::effects::Effects;
use crate::multiplexer::ids::{ClusterId, ConnectionId};
use crate::multiplexer::stats::{CopyFate, StatsKey};
use crate::resp::elements::Elements;

/// How many copies a mirror may leave unanswered before it misses some.
const MAX_OWED: usize = 16 * 1024;

/// Sends a copy that `write` appends. Returns false if the mirror misses it.
pub fn send(
    upstreams: &mut Upstreams,
    header: CopyHeader,
    write: impl Fn(&mut Vec<u8>),
    effects: &mut Effects,
) -> bool {
    attempt(upstreams, (header, 0), &write, effects)
}

fn attempt(
    upstreams: &mut Upstreams,
    (header, waits): (CopyHeader, u8),
    write: &dyn Fn(&mut Vec<u8>),
    effects: &mut Effects,
) -> bool {
    match try_to_send(upstreams, &header, write, effects) {
        Ok(is_sent) => is_sent,
        Err(Missing::Topology(cluster)) => {
            let mut bytes = Vec::new();
            write(&mut bytes);
            wait(upstreams, WaitingCopy { cluster, waits, copy: MirrorCopy { header, bytes } })
        }
        Err(Missing::Error(_) | Missing::Unreached(..) | Missing::Unserved(..) | Missing::Unreachable(_)) => {
            tell(upstreams, header.host, CopyFate::Dropped, 1);
            false
        }
    }
}

fn try_to_send(
    upstreams: &mut Upstreams,
    header: &CopyHeader,
    write: &dyn Fn(&mut Vec<u8>),
    effects: &mut Effects,
) -> Result<bool, Missing> {
    let connection = match &header.route {
        CopyRoute::Plain(key) => upstreams.shared(key.clone(), effects)?,
        CopyRoute::Slot(endpoint, slot) => {
            let cluster = upstreams.discovery.cluster_of(endpoint);
            let shard = upstreams.shard(cluster, *slot, effects)?;
            upstreams.node(cluster, shard, NodeAccess::Write, false, effects)?
        }
        CopyRoute::AllMembers(keys) => {
            let connections = keys.iter().map(|key| upstreams.shared(key.clone(), effects));
            let connections = connections.collect::<Result<Vec<_>, _>>()?;
            return Ok(send_to_all(upstreams, connections, header, write, effects));
        }
        CopyRoute::AllShards(endpoint) => {
            let cluster = upstreams.discovery.cluster_of(endpoint);
            let mut connections = Vec::new();
            for shard in 0..upstreams.shard_count(cluster, effects)? {
                connections.push(upstreams.node(cluster, shard, NodeAccess::Write, false, effects)?);
            }
            return Ok(send_to_all(upstreams, connections, header, write, effects));
        }
        CopyRoute::Apart => return Err(Missing::Error(String::new())),
    };
    Ok(send_over(upstreams, connection, header, write, effects))
}

/// Sends a copy over several connections. Returns true if any of them takes it.
fn send_to_all(
    upstreams: &mut Upstreams,
    connections: Vec<SharedConnection>,
    header: &CopyHeader,
    write: &dyn Fn(&mut Vec<u8>),
    effects: &mut Effects,
) -> bool {
    let sent = connections.into_iter().map(|connection| send_over(upstreams, connection, header, write, effects));
    sent.fold(false, |any, is_sent| any | is_sent)
}

fn send_over(
    upstreams: &mut Upstreams,
    connection: SharedConnection,
    header: &CopyHeader,
    write: &dyn Fn(&mut Vec<u8>),
    effects: &mut Effects,
) -> bool {
    let id = connection.id();
    let owes_much = upstreams.pool.get(id).is_some_and(|connection| connection.pending.len() >= MAX_OWED);
    if upstreams.pool.is_full(id) || owes_much {
        tell(upstreams, header.host, CopyFate::Dropped, 1);
        return false;
    }
    for script in &header.scripts {
        upstreams.ensure_loaded(id, *script, effects);
    }
    let what = match header.queued {
        None => PendingReply::Copy(header.host),
        Some(queued) => {
            upstreams.expect_queued(id, queued, effects);
            PendingReply::CopiedExec(header.host)
        }
    };
    let names_scripts = !header.scripts.is_empty();
    let in_flight = InFlight { names_scripts, patience: header.patience, ..what.into() };
    upstreams.send((connection, header.shareable), in_flight, effects, write);
    true
}

fn wait(upstreams: &mut Upstreams, waiting: WaitingCopy) -> bool {
    upstreams.discovery.await_topology(waiting.cluster);
    match upstreams.copies.wait(waiting) {
        None => true,
        Some(WaitingCopy { copy, .. }) => {
            tell(upstreams, copy.header.host, CopyFate::Dropped, 1);
            false
        }
    }
}

/// The nodes of a cluster have answered, or none could: copies that waited for that are sent.
pub fn release(upstreams: &mut Upstreams, cluster: ClusterId, effects: &mut Effects) {
    for WaitingCopy { waits, copy, .. } in upstreams.copies.take_waiting(cluster) {
        let MirrorCopy { header, bytes } = copy;
        attempt(upstreams, (header, waits + 1), &|out| out.extend_from_slice(&bytes), effects);
    }
}

/// EXEC was answered: the copies of the transaction are sent if it was executed.
pub fn executed(upstreams: &mut Upstreams, owner: Owner, reply: &[u8], effects: &mut Effects) {
    let Some(copies) = upstreams.copies.of_exec(owner) else { return };
    let is_nil = reply.starts_with(b"*-1");
    if is_nil || reply.first() != Some(&b'*') {
        // Nobody knows what became of a transaction that wasn't answered in time.
        if reply.starts_with(b"-ERR redis-mesh: ") {
            abandon(upstreams, copies);
        }
        return;
    }
    let (mut mirrored, mut host) = (0, None);
    for MirrorCopy { header, bytes } in copies {
        let (queued, of) = (header.queued.unwrap_or_default() as u64, header.host);
        if send(upstreams, header, |out| out.extend_from_slice(&bytes), effects) {
            (mirrored, host) = (queued.max(mirrored), Some(of));
        }
    }
    if let Some(host) = host {
        tell(upstreams, host, CopyFate::Sent, mirrored);
    }
}

/// EXEC won't be answered.
pub fn exec_failed(upstreams: &mut Upstreams, owner: Owner) {
    if let Some(copies) = upstreams.copies.of_exec(owner) {
        abandon(upstreams, copies);
    }
}

fn abandon(upstreams: &mut Upstreams, copies: Vec<MirrorCopy>) {
    for copy in copies {
        tell(upstreams, copy.header.host, CopyFate::Dropped, 1);
    }
}

/// A mirror has answered a copy, with an error unless it is a transaction.
pub fn answered(upstreams: &mut Upstreams, id: ConnectionId, in_flight: InFlight, reply: &[u8], effects: &mut Effects) {
    let Some(connection) = upstreams.pool.get_mut(id) else { return };
    connection.drop_replay(in_flight);
    let (host, failed, is_lost_script) = match in_flight.what {
        PendingReply::Copy(host) => (host, u64::from(reply.first() == Some(&b'-')), scripts::is_unknown(reply)),
        PendingReply::CopiedExec(host) => {
            let errors = Elements::of(reply).filter(|element| element.first() == Some(&b'-')).count() as u64;
            let is_refused = connection.memory.multi_refused.take().is_some() || reply.first() != Some(&b'*');
            (host, errors.max(u64::from(is_refused)), scripts::is_unknown_in_transaction(reply))
        }
        _ => return,
    };
    if failed == 0 {
        return;
    }
    if in_flight.names_scripts && is_lost_script {
        connection.memory.scripts.clear();
    }
    let queued = connection.memory.redirect.take();
    let node = connection.key.node;
    let redirect = node.and_then(|_| queued.or_else(|| Redirect::parse(reply, node)));
    if redirect.is_some() {
        let endpoint = connection.key.endpoint.clone();
        upstreams.discovery.suspect(&endpoint, effects);
    }
    tell(upstreams, host, CopyFate::Failed, failed);
}

/// Has counted what became of copies.
pub fn tell(upstreams: &mut Upstreams, host: StatsKey, fate: CopyFate, times: u64) {
    upstreams.pool.events.push_back(Event::Copies(host, fate, times));
}
