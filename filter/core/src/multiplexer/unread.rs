//! Replies that clients don't read, or that wait for other replies: how much of them a worker keeps.
//!
//! A client that doesn't read gets connections of its own, where Redis is stopped. But what it has asked
//! for over a connection that others share comes, since they wait for what is behind it.

use super::client::Client;
use super::effects::Effects;
use super::ids::{ClientId, ClientTag};
use super::slot_map::SlotMap;
use super::stats::StatsTable;

/// What is kept for one client without being counted.
pub const SMALL: usize = 1024 * 1024;

/// More is kept for a client. If that is too much for all clients together, the one for which the most is
/// kept loses its connection, as at a Redis with a `client-output-buffer-limit`. What was to come for it
/// isn't kept any more. `most` is how much may be.
pub fn bound(
    clients: &mut SlotMap<ClientTag, Client>,
    id: ClientId,
    most: usize,
    stats: &mut StatsTable,
    effects: &mut Effects,
) {
    let Some(client) = clients.get_mut(id) else { return };
    // All clients are looked at for each megabyte that comes for one.
    let kept = client.output.kept() / SMALL;
    if kept <= std::mem::replace(&mut client.output.counted, kept) {
        return;
    }
    let kept =
        || clients.iter().map(|(id, client)| (client, client.output.kept(), id)).filter(|(_, kept, _)| *kept >= SMALL);
    if kept().map(|(_, kept, _)| kept).sum::<usize>() <= most {
        return;
    }
    // What is kept for clients with connections of their own has a bound already.
    let shared = kept().filter(|(client, ..)| !client.dedicated.backlog.is_begun());
    let largest = shared.max_by_key(|(_, kept, _)| *kept).map(|(.., id)| id);
    let Some(client) = largest.and_then(|id| clients.get_mut(id)) else { return };
    if let Some(host) = stats.host(client.rules.stats) {
        host.cut_off += 1;
    }
    client.abort(&mut effects.outbox);
    // Nothing is written to it any more.
    (client.output.unread, client.output.out) = (0, Vec::new());
}
