//! Requests and transactions whose ends haven't come yet: how much of them a worker holds.

use super::client::Client;
use super::effects::Effects;
use super::ids::ClientId;
use super::reply::Clients;
use super::stats::StatsTable;
use crate::resp::encode;
use crate::stats::Stat;

/// What is held of one client's request without being counted: usual values are smaller.
pub const SMALL: usize = 1024 * 1024;
/// Bytes that are held of all clients' larger requests: the largest value that Redis takes, with
/// what belongs to it.
pub const MAX_WORKER: usize = 513 * 1024 * 1024;

/// Bytes that are held of a client's request, and of its transaction.
#[inline]
pub fn held(client: &Client) -> usize {
    let arguments = std::mem::size_of_val(client.input.parser.args());
    client.input.buffer.len() + arguments + client.transaction.as_ref().map_or(0, |queued| queued.held())
}

/// More has come of the request of a client, of which `before` bytes were held. If there is too much
/// of all clients, whoever has sent the most of a request without its end is told so and loses the
/// connection; the others are served.
pub fn bound(clients: &mut Clients, (id, before): (ClientId, usize), stats: &mut StatsTable, effects: &mut Effects) {
    // All clients are looked at for each megabyte that one sends.
    if clients.get(id).is_none_or(|client| held(client) / SMALL <= before / SMALL) {
        return;
    }
    let larger = || clients.iter().map(|(id, client)| (held(client), id)).filter(|(bytes, _)| *bytes > SMALL);
    if larger().map(|(bytes, _)| bytes).sum::<usize>() <= MAX_WORKER {
        return;
    }
    let Some(client) = larger().max_by_key(|(bytes, _)| *bytes).and_then(|(_, id)| clients.get_mut(id)) else { return };
    client.count(Stat::Refused, stats);
    let mut reply = Vec::new();
    encode::error(&mut reply, b"ERR redis-mesh: the requests that aren't complete are more than 513 MB on this worker");
    client.output.queue.answered(&reply, &mut client.output.out);
    client.begin_closing();
    client.input.buffer = Vec::new();
    client.input.parser.reset();
    client.transaction = None;
    client.announce(&mut effects.outbox, stats, effects.now);
}
