//! Subscriptions that follow what they are about to other servers, without a word to their client:
//! shard channels to the nodes that serve their slots, and notifications of keys to all masters.

use super::at_servers::{ServerKeys, is_of_several, servers};
use super::connect::dedicated_key;
use super::context::{Context, Obstacle};
use super::subscriber::connect_to;
use crate::multiplexer::client::source::{MovingChannel, SeveralServers, SubscriptionSource};
use crate::multiplexer::client::subscription::{SubscriptionChange, SubscriptionKind};
use crate::multiplexer::client::{Client, Wait};
use crate::multiplexer::ids::ConnectionId;
use crate::multiplexer::upstream::pending::PendingReply;
use crate::resp::encode;

/// How often a shard channel is asked for where its slot may be. Nodes are asked in between, each time
/// a little later.
const MAX_ATTEMPTS: u32 = 50;

/// Sends a command that begins or ends a subscription, of whose confirmation the client isn't told.
pub fn send(context: &mut Context<'_>, change: SubscriptionChange, name: &[u8], connection: ConnectionId) {
    let to = PendingReply::SilentChange(change).into();
    context.upstreams.pool.send(connection, to, context.effects, |out| {
        encode::command(out, &[change.name().as_bytes(), name]);
    });
}

/// Takes back what was asked of servers for a subscription that didn't come about.
pub fn undo(context: &mut Context<'_>, client: &Client, change: SubscriptionChange, source: &SubscriptionSource) {
    let SubscriptionSource::Several(servers) = source else { return };
    end(context, client, (change.kind, &servers.name), servers.connections().into_iter());
}

/// Ends a subscription where no other one has the same name.
fn end(
    context: &mut Context<'_>,
    client: &Client,
    (kind, name): (SubscriptionKind, &[u8]),
    connections: impl Iterator<Item = ConnectionId>,
) {
    for connection in connections {
        if !client.subscriptions.is_kept_at(connection, kind, name) {
            send(context, SubscriptionChange { kind, begins: false }, name, connection);
        }
    }
}

/// Subscriptions are kept at other servers from now on. Returns false if the client can't be told any
/// more what it wants to be told.
pub fn follow(context: &mut Context<'_>, client: &mut Client) -> bool {
    client.subscriptions.is_stale = client.subscriptions.joint().is_some();
    for (kind, name) in client.subscriptions.of_several() {
        let change = SubscriptionChange { kind, begins: true };
        if !is_of_several(&client.rules.config, kind, &name) {
            // Other rules hold.
            return false;
        }
        let is_kept = match servers(context, client, change, &name) {
            Ok(wanted) => move_to(context, client, (change, &name), wanted),
            Err(Obstacle::Wait(Wait::Topology(cluster))) => {
                client.subscriptions.is_stale = true;
                context.upstreams.discovery.await_topology(cluster);
                true
            }
            Err(_) => false,
        };
        if !is_kept {
            return false;
        }
    }
    true
}

/// Keeps a subscription at these servers. Returns false if that can't be.
fn move_to(
    context: &mut Context<'_>,
    client: &mut Client,
    (change, name): (SubscriptionChange, &[u8]),
    wanted: ServerKeys,
) -> bool {
    let before = match client.subscriptions.source(change.kind, name) {
        Some(SubscriptionSource::Several(servers)) if servers.name == wanted.name => (**servers).clone(),
        _ => return false,
    };
    let mut notified = Vec::new();
    for key in wanted.notified {
        let Ok(connection) = connect_to(context, client, key) else { return false };
        if !before.uses(connection)
            && !notified.contains(&connection)
            && !client.subscriptions.is_kept_at(connection, change.kind, &before.name)
        {
            send(context, change, &before.name, connection);
        }
        notified.push(connection);
    }
    let now = SeveralServers { notified, ..before.clone() };
    let source = SubscriptionSource::Several(Box::new(now.clone()));
    client.subscriptions.set_source(change.kind, name, Some(source));
    let left = before.connections().into_iter().filter(|connection| !now.uses(*connection));
    end(context, client, (change.kind, &before.name), left);
    true
}

/// The slot of a shard channel has moved away from the node that has kept the subscription. Returns
/// false if the node didn't keep it.
pub fn channel_moved(context: &mut Context<'_>, client: &mut Client, name: &[u8], from: ConnectionId) -> bool {
    let source = client.subscriptions.source(SubscriptionKind::Shard, name);
    if source != Some(&SubscriptionSource::One(from)) {
        return false;
    }
    let source = SubscriptionSource::Moving(MovingChannel::default());
    client.subscriptions.set_source(SubscriptionKind::Shard, name, Some(source));
    ask(context, client);
    true
}

/// Asks the nodes of the cluster that keeps a client's shard channels where the slots are by now.
/// The channels that move are asked for there when the nodes have answered.
pub fn ask(context: &mut Context<'_>, client: &Client) {
    let config = &client.rules.config;
    let Some(target) = config.home().and_then(|home| config.targets.get(home)) else { return };
    let endpoint = target.upstream.presented(client.session.login.as_ref());
    let upstreams = &mut *context.upstreams;
    upstreams.discovery.ask(&endpoint, false, &mut upstreams.pool, context.effects);
}

/// Asks for the shard channels that move where their slots are now. Returns false if that was tried
/// too often.
pub fn resettle(context: &mut Context<'_>, client: &mut Client) -> bool {
    let mut is_to_ask = false;
    for (name, moving) in client.subscriptions.moving() {
        if moving.at.is_some() {
            continue;
        }
        if moving.attempts >= MAX_ATTEMPTS {
            return false;
        }
        let at = match connect_to_slot(context, client, &name) {
            Ok(connection) => Some(connection),
            Err(Obstacle::Wait(Wait::Topology(cluster))) => {
                context.upstreams.discovery.await_topology(cluster);
                continue;
            }
            Err(_) => None,
        };
        let source = SubscriptionSource::Moving(MovingChannel { attempts: moving.attempts + 1, at });
        client.subscriptions.set_source(SubscriptionKind::Shard, &name, Some(source));
        match at {
            Some(connection) => {
                let change = SubscriptionChange { kind: SubscriptionKind::Shard, begins: true };
                send(context, change, &name, connection);
            }
            None => is_to_ask = true,
        }
    }
    if is_to_ask {
        ask(context, client);
    }
    true
}

/// The client's connection to the node that serves a shard channel's slot.
fn connect_to_slot(context: &mut Context<'_>, client: &mut Client, name: &[u8]) -> Result<ConnectionId, Obstacle> {
    let home = client.rules.config.home().unwrap_or_default();
    let key = dedicated_key(context, client, client.rules.config.clone().target_of(home, name))?;
    connect_to(context, client, key)
}

/// A subscription has begun or ended without a command of its client. Returns false if the client has
/// ended it meanwhile.
pub fn changed(client: &mut Client, change: SubscriptionChange, name: &[u8], connection: ConnectionId) -> bool {
    if change.kind != SubscriptionKind::Shard || !change.begins {
        return true;
    }
    let source = client.subscriptions.source(SubscriptionKind::Shard, name);
    let is_wanted = match source {
        Some(SubscriptionSource::Moving(moving)) => moving.at == Some(connection),
        Some(SubscriptionSource::One(used)) => return *used == connection,
        Some(SubscriptionSource::Several(_)) | None => false,
    };
    if is_wanted {
        let source = SubscriptionSource::One(connection);
        client.subscriptions.set_source(SubscriptionKind::Shard, name, Some(source));
    }
    is_wanted
}
