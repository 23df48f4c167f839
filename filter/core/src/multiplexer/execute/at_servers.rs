//! Subscriptions that are kept at several servers: to notifications of changes of keys, which each
//! server sends for its own keys, and to patterns where channels are spread over servers.

use super::connect::{all_masters, dedicated_key};
use super::context::{Context, Obstacle};
use super::subscriber::{connect_to, connect_to_home, home, is_spread};
use crate::multiplexer::client::Client;
use crate::multiplexer::client::notification::{self, Hears};
use crate::multiplexer::client::source::{SeveralServers, SubscriptionSource};
use crate::multiplexer::client::subscription::{JointChange, SubscriptionChange, SubscriptionKind};
use crate::multiplexer::config::HostConfig;
use crate::multiplexer::ids::ConnectionId;
use crate::multiplexer::reply::key_names::KeyNames;
use crate::multiplexer::routing::target::RouteTarget;
use crate::multiplexer::upstream::discovery::Missing;
use crate::multiplexer::upstream::pending::{Owner, PendingReply};
use crate::multiplexer::upstream::pool_key::PoolKey;
use crate::request::errors;
use crate::resp::encode;
use std::collections::HashSet;

/// The servers at which a subscription has to be kept.
pub struct ServerKeys {
    /// The name of the subscription there.
    pub name: Vec<u8>,
    /// The servers from which what clients publish is taken.
    pub published: Vec<PoolKey>,
    /// The servers that tell of their keys.
    pub notified: Vec<PoolKey>,
}

/// Returns true if a subscription is kept at several servers, or under another name than the client's.
pub fn is_of_several(config: &HostConfig, kind: SubscriptionKind, name: &[u8]) -> bool {
    config.plain().is_none()
        && match Hears::of(kind, name) {
            Hears::Notifications | Hears::Both => true,
            Hears::Published => kind == SubscriptionKind::Pattern && is_spread(config),
        }
}

/// The servers at which a subscription has to be kept by now.
///
/// # Errors
/// The command waits, or there is no such server.
pub fn servers(
    context: &mut Context<'_>,
    client: &mut Client,
    change: SubscriptionChange,
    name: &[u8],
) -> Result<ServerKeys, Obstacle> {
    let config = client.rules.config.clone();
    if let Some(of_one) = notification::of_one_key(name).filter(|_| change.kind == SubscriptionKind::Channel) {
        let Some((target, _, strip)) = config.place(of_one.key) else {
            return Err(Obstacle::Error(errors::no_route(&config.host)));
        };
        let (name, _) = of_one.with_key(of_one.key.get(strip..).unwrap_or_default());
        let notified = vec![dedicated_key(context, client, target)?];
        return Ok(ServerKeys { name, published: Vec::new(), notified });
    }
    let hears = Hears::of(change.kind, name);
    let published = match hears {
        Hears::Notifications => Vec::new(),
        Hears::Published | Hears::Both => publishers(context, client, change)?,
    };
    let notified = match hears {
        Hears::Published => Vec::new(),
        Hears::Notifications | Hears::Both => all_masters(context, client)?,
    };
    let is_wider = change.kind == SubscriptionKind::Pattern && KeyNames::decide(&config);
    let name = if is_wider { notification::for_any_key(name) } else { name.to_vec() };
    Ok(ServerKeys { name, published, notified })
}

/// The servers from which what clients publish is to be taken, each message once: one node of a
/// Redis Cluster, all servers of a destination without a mode.
fn publishers(
    context: &mut Context<'_>,
    client: &mut Client,
    change: SubscriptionChange,
) -> Result<Vec<PoolKey>, Obstacle> {
    let config = client.rules.config.clone();
    let home = home(&config, change)?;
    let is_of_home = |target: &usize| config.origin(*target) == config.origin(home);
    let targets: Vec<usize> = match config.has_servers(home) {
        true => (0..config.targets.len()).filter(is_of_home).collect(),
        false => vec![home],
    };
    let key = |target| dedicated_key(context, client, RouteTarget { target, slot: None });
    targets.into_iter().map(key).collect()
}

/// Where a subscription that begins is to be kept.
enum Planned {
    /// Where it is.
    AsBefore,
    /// At the server of this connection.
    One(ConnectionId),
    /// At several servers.
    Several(ServerKeys),
}

fn plan(
    context: &mut Context<'_>,
    client: &mut Client,
    change: SubscriptionChange,
    name: &[u8],
) -> Result<Planned, Obstacle> {
    if client.subscriptions.source(change.kind, name).is_some() {
        return Ok(Planned::AsBefore);
    }
    if is_of_several(&client.rules.config, change.kind, name) {
        return servers(context, client, change, name).map(Planned::Several);
    }
    connect_to_home(context, client, change, &[name.to_vec()]).map(Planned::One)
}

/// Begins subscriptions of which at least one is kept at several servers.
///
/// # Errors
/// The command waits, or a server isn't there.
pub fn begin(
    context: &mut Context<'_>,
    client: &mut Client,
    change: SubscriptionChange,
    names: Vec<Vec<u8>>,
) -> Result<(), Obstacle> {
    let mut planned = Vec::with_capacity(names.len());
    for name in names {
        let source = plan(context, client, change, &name)?;
        planned.push((name, source));
    }
    // First it is known that all can be opened: none is opened in vain.
    let keys = planned.iter().flat_map(|(_, source)| match source {
        Planned::Several(servers) => servers.published.iter().chain(&servers.notified),
        Planned::AsBefore | Planned::One(_) => [].iter().chain(&[]),
    });
    for key in keys {
        context.upstreams.pool.check_available(key, context.effects).map_err(Missing::from)?;
    }
    let mut all = Vec::with_capacity(planned.len());
    for (name, source) in planned {
        let source = match source {
            Planned::AsBefore => None,
            Planned::One(connection) => Some(SubscriptionSource::One(connection)),
            Planned::Several(servers) => {
                Some(SubscriptionSource::Several(Box::new(connect_to_all(context, client, servers)?)))
            }
        };
        all.push((name, source));
    }
    let asked = all.iter().filter_map(|(name, source)| Some((name.clone(), source.clone()?)));
    let asked = asked.collect();
    send(context, client, change, asked, all);
    Ok(())
}

/// Connects to the servers at which a subscription is kept.
fn connect_to_all(
    context: &mut Context<'_>,
    client: &mut Client,
    servers: ServerKeys,
) -> Result<SeveralServers, Obstacle> {
    let mut connect = |keys: Vec<PoolKey>| -> Result<Vec<ConnectionId>, Obstacle> {
        let mut connections = Vec::with_capacity(keys.len());
        for key in keys {
            let connection = connect_to(context, client, key)?;
            if !connections.contains(&connection) {
                connections.push(connection);
            }
        }
        Ok(connections)
    };
    let (published, notified) = (connect(servers.published)?, connect(servers.notified)?);
    Ok(SeveralServers { name: servers.name, published, notified })
}

/// Ends subscriptions of which at least one is kept at several servers.
pub fn end(context: &mut Context<'_>, client: &mut Client, change: SubscriptionChange, names: Vec<Vec<u8>>) {
    let mut asked = Vec::new();
    for name in &names {
        let source = client.subscriptions.source(change.kind, name).cloned();
        client.subscriptions.silence(change.kind, name);
        asked.extend(source.map(|source| (name.clone(), source)));
    }
    send(context, client, change, asked, names.into_iter().map(|name| (name, None)).collect());
}

/// Asks servers for subscriptions, or for their ends, except where other subscriptions have the same name
/// there.
fn send(
    context: &mut Context<'_>,
    client: &mut Client,
    change: SubscriptionChange,
    asked: Vec<(Vec<u8>, SubscriptionSource)>,
    names: Vec<(Vec<u8>, Option<SubscriptionSource>)>,
) {
    // Each channel is confirmed, also after CLIENT REPLY OFF.
    let sequence = client.output.queue.expect(false);
    let owner = Owner { client: client.id, sequence };
    let (mut done, mut left) = (HashSet::new(), 0);
    for (name, source) in asked {
        let (at_server, connections) = match source {
            SubscriptionSource::One(connection) => (name, vec![connection]),
            SubscriptionSource::Moving(_) => continue,
            SubscriptionSource::Several(servers) => (servers.name.clone(), servers.connections()),
        };
        for connection in connections {
            if client.subscriptions.is_kept_at(connection, change.kind, &at_server)
                || !done.insert((connection, at_server.clone()))
            {
                continue;
            }
            left += 1;
            let to = PendingReply::Subscription(owner, 0, change).into();
            context.upstreams.pool.send(connection, to, context.effects, |out| {
                encode::command(out, &[change.name().as_bytes(), &at_server]);
            });
        }
    }
    client.subscriptions.begin_joint(JointChange { sequence, change, names, left, error: None });
    if let Some(finished) = client.subscriptions.finish_joint(client.session.resp3) {
        client.output.queue.reply(sequence, &finished.reply, true, &mut client.output.out);
    }
}
