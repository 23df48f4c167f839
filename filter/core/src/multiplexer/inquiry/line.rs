//! A client's line in CLIENT LIST and CLIENT INFO.

use crate::downstream::client_info::ClientInfo;
use crate::multiplexer::client::Client;
use crate::multiplexer::client::subscription::SubscriptionKind;
use std::time::Duration;

/// The line of a client, with those fields that the multiplexer knows. `is_blocked`: a server lets
/// its command wait.
pub fn line(client: &Client, now: Duration, is_blocked: bool) -> String {
    let count = |kind| client.subscriptions.number_of(kind);
    let (presence, user) = (&client.presence, client.session.user());
    let info = ClientInfo {
        id: presence.number,
        addresses: [presence.remote, presence.local],
        name: &client.session.name,
        seconds: [presence.since, presence.heard].map(|time| now.saturating_sub(time).as_secs()),
        is_monitor: client.subscriptions.is_monitor,
        is_blocked,
        database: client.session.database,
        subscriptions: [SubscriptionKind::Channel, SubscriptionKind::Pattern, SubscriptionKind::Shard].map(count),
        queued: client.transaction.as_ref().map(|transaction| transaction.len()),
        command: presence.command,
        user: user.as_deref().unwrap_or_default(),
        resp3: client.session.resp3,
    };
    info.to_string()
}
