//! Replies that clients don't read, or that wait for other replies: how much of them a worker keeps.
//!
//! A client that doesn't read gets connections of its own, where Redis is stopped. But what it has asked
//! for over a connection that others share comes, since they wait for what is behind it.

use super::EventDelivery;
use crate::multiplexer::ids::ClientId;

/// What is kept for one client without being counted.
pub const SMALL: usize = 1024 * 1024;

/// More is kept for a client. If that is too much for all clients together, the one for which the most is
/// kept loses its connection, as at a Redis with a `client-output-buffer-limit`. What was to come for it
/// isn't kept any more.
pub fn bound(delivery: &mut EventDelivery<'_>, id: ClientId) {
    let EventDelivery { clients, upstreams, effects, stats, .. } = delivery;
    let Some(client) = clients.get_mut(id) else { return };
    // All clients are looked at for each megabyte that comes for one.
    let kept = client.output.kept() / SMALL;
    if kept <= std::mem::replace(&mut client.output.counted, kept) {
        return;
    }
    let kept =
        || clients.iter().map(|(id, client)| (client, client.output.kept(), id)).filter(|(_, kept, _)| *kept >= SMALL);
    if kept().map(|(_, kept, _)| kept).sum::<usize>() <= upstreams.backlogs.most_kept {
        return;
    }
    // What is kept for clients with connections of their own has a bound already.
    let shared = kept().filter(|(client, ..)| !client.dedicated.backlog.is_begun());
    let most = shared.max_by_key(|(_, kept, _)| *kept).map(|(.., id)| id);
    let Some(client) = most.and_then(|id| clients.get_mut(id)) else { return };
    if let Some(host) = stats.host(client.rules.stats) {
        host.cut_off += 1;
    }
    client.abort(&mut effects.outbox);
    // Nothing is written to it any more.
    (client.output.unread, client.output.out) = (0, Vec::new());
}
