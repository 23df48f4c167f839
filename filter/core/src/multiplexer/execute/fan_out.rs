//! Sending a command to all servers that it concerns.

use super::connect::{connect_to_shard, dedicated_key_of_shard, shards};
use super::context::{Context, Obstacle, wait_for_room};
use super::mirror::mirror_fan_out;
use crate::cluster::topology::Topology;
use crate::command::Args;
use crate::command::script;
use crate::command::sharing::{Shareable, Sharing};
use crate::multiplexer::client::{Client, TargetLookup, Wait};
use crate::multiplexer::reply::aggregate::Aggregation;
use crate::multiplexer::reply::scan_cursor::{ClientCursor, ScanPosition, ScannedServers};
use crate::multiplexer::routing::fan_out::{FanOut, RequestPolicy};
use crate::multiplexer::routing::target;
use crate::multiplexer::upstream::ConnectionRoute;
use crate::multiplexer::upstream::discovery::Missing;
use crate::multiplexer::upstream::pending::{InFlight, Owner, PendingReply};

/// A server that gets the command: a target, or a shard of it.
type Server = (usize, Option<usize>);

/// What a client is told whose cursor is of other servers, or of none.
const SERVERS_CHANGED: &str =
    "ERR redis-mesh: the servers behind this SCAN, or what they hold, have changed; begin again with cursor 0";

/// Sends a command to all servers that it concerns.
pub fn fan_out(
    context: &mut Context<'_>,
    client: &mut Client,
    fan_out: &FanOut,
    args: &Args<'_>,
) -> Result<(), Obstacle> {
    let config = client.rules.config.clone();
    // What has gone over the client's own connection isn't overtaken, nor does what follows over it
    // overtake this.
    let has_own = client.dedicated.connection.is_some_and(|own| own.is_held());
    if has_own && !client.output.queue.is_empty() {
        return Err(Obstacle::Wait(Wait::Answers));
    }
    let mut servers = servers(context, client, fan_out)?;
    let mut position = ScanPosition::default();
    if fan_out.policy == RequestPolicy::Scan && !servers.is_empty() {
        let Some(cursor) = ClientCursor::parse(args.get(1)) else { return Ok(()) };
        let scanned = scanned(context, client, &mut servers);
        position = scanned.position(cursor).ok_or_else(|| Obstacle::Error(SERVERS_CHANGED.into()))?;
        servers = servers.get(position.server).copied().into_iter().collect();
    }
    if servers.is_empty() {
        return Err(Obstacle::Error("ERR redis-mesh: no route leads anywhere".into()));
    }
    let connections = connect_all(context, client, fan_out, &servers)?;
    let targets: Vec<usize> = servers.iter().map(|(target, _)| *target).collect();
    let policy = fan_out.response_policy(&config, targets, args, position);
    let aggregation = Aggregation::new(policy, servers.len(), client.session.resp3);
    let sequence = client.output.queue.expect_parts(aggregation, client.is_mute());
    let owner = Owner { client: client.id, sequence };
    let script = script::named(fan_out.command, args);
    let patience = config.patience.of_command(fan_out.sharing);
    for (part, connection) in connections.into_iter().enumerate() {
        if let Some(script) = script {
            context.upstreams.ensure_loaded(connection.id(), script, context.effects);
        }
        let to = PendingReply::Part(owner, part as u32);
        let may_run_code = script::may_run_code(fan_out.command);
        let tried = client.pause.tried;
        let in_flight = InFlight { names_scripts: script.is_some(), may_run_code, patience, tried, ..to.into() };
        send(context, fan_out, (connection, in_flight), |out| match fan_out.policy {
            RequestPolicy::Keys | RequestPolicy::Scan => fan_out.write(&config, args, position.cursor, out),
            _ => target::write(args, &[], None, out),
        });
    }
    mirror_fan_out(context, client, fan_out, args);
    if has_own {
        client.pause.wait = Some(Wait::Answers);
    }
    Ok(())
}

/// The servers that get the command.
fn servers(context: &mut Context<'_>, client: &mut Client, fan_out: &FanOut) -> Result<Vec<Server>, Obstacle> {
    let config = client.rules.config.clone();
    let mut servers: Vec<Server> = Vec::new();
    for target in fan_out.targets(&config) {
        match shards(context, client, target)? {
            None => servers.push((target, None)),
            Some(_) if fan_out.policy == RequestPolicy::One => {
                servers.push((target, any_shard(context, client, target)?))
            }
            Some(shards) => servers.extend((0..shards).map(|shard| (target, Some(shard)))),
        }
    }
    Ok(servers)
}

/// Puts the servers into the order in which a SCAN asks them, which is the same for all workers. Its
/// cursors depend on who they are and, in a Redis Cluster, on which of them has which slots.
fn scanned(context: &mut Context<'_>, client: &Client, servers: &mut [Server]) -> ScannedServers {
    let described = |(target, shard): &Server| {
        let upstream = client.rules.config.targets.get(*target).map(|target| &target.upstream);
        let place = upstream.map(|upstream| (upstream.cluster.clone(), upstream.member));
        let cluster = match client.rules.lookups.get(*target) {
            Some(TargetLookup::Cluster(cluster)) => Some(*cluster),
            _ => None,
        };
        let topology = cluster.and_then(|cluster| context.upstreams.discovery.known_topology(cluster));
        let shard = topology.zip(*shard).and_then(|(topology, shard)| topology.shards().get(shard));
        let (master, slots) = (shard.map(|shard| shard.master), topology.map(Topology::slots_digest));
        format!("{place:?} {master:?} {slots:?}\n")
    };
    let mut all: Vec<(String, Server)> = servers.iter().map(|server| (described(server), *server)).collect();
    all.sort_by(|(a, _), (b, _)| a.cmp(b));
    let mut text = String::new();
    for (place, (described, server)) in servers.iter_mut().zip(all) {
        text.push_str(&described);
        *place = server;
    }
    ScannedServers::new(servers.len(), text.as_bytes())
}

/// A shard of a target that can answer a command without a key.
fn any_shard(context: &mut Context<'_>, client: &Client, target: usize) -> Result<Option<usize>, Obstacle> {
    let Some(TargetLookup::Cluster(cluster)) = client.rules.lookups.get(target).copied() else { return Ok(None) };
    Ok(Some(context.upstreams.shard(cluster, None, context.effects)?))
}

/// A connection to each server: shared ones, or the client's own for a command that waits at
/// servers.
fn connect_all(
    context: &mut Context<'_>,
    client: &mut Client,
    fan_out: &FanOut,
    servers: &[Server],
) -> Result<Vec<ConnectionRoute>, Obstacle> {
    let mut connections = Vec::with_capacity(servers.len());
    match fan_out.sharing {
        Sharing::Safe(_) => {
            for (target, shard) in servers {
                let connection = connect_to_shard(context, client, *target, *shard)?;
                wait_for_room(context, connection)?;
                connections.push(connection);
            }
        }
        Sharing::Blocks | Sharing::AwaitsWrites | Sharing::Interrupts => {
            if !client.output.queue.is_empty() {
                return Err(Obstacle::Wait(Wait::Answers));
            }
            let mut keys = Vec::with_capacity(servers.len());
            for (target, shard) in servers {
                let key = dedicated_key_of_shard(context, client, *target, *shard)?;
                keys.push(if fan_out.sharing == Sharing::Interrupts { key.heard_while_busy() } else { key });
            }
            // First it is known that all can be opened: none is opened in vain.
            for key in &keys {
                context.upstreams.pool.check_available(key, context.effects).map_err(Missing::from)?;
            }
            for key in keys {
                let connection = context.upstreams.dedicated(client.id, key, false, context.effects)?;
                client.dedicated.others.push(connection);
                connections.push(ConnectionRoute::Dedicated(connection));
            }
            client.pause.wait = Some(Wait::Answers);
        }
        Sharing::Watches | Sharing::ChangesConnection => {
            let name = fan_out.command.shown_name();
            return Err(Obstacle::Error(format!(
                "ERR redis-mesh: {name} changes the connection, and several servers are behind it"
            )));
        }
    }
    Ok(connections)
}

fn send(
    context: &mut Context<'_>,
    fan_out: &FanOut,
    (connection, in_flight): (ConnectionRoute, InFlight),
    write: impl FnOnce(&mut Vec<u8>),
) {
    match (connection, fan_out.sharing) {
        (ConnectionRoute::Shared(shared), Sharing::Safe(shareable)) => {
            let to: (_, Shareable) = (shared, shareable);
            context.upstreams.send(to, in_flight, context.effects, write);
        }
        (ConnectionRoute::Dedicated(own), Sharing::Safe(_)) => {
            context.upstreams.send_dedicated(own, in_flight, context.effects, write);
        }
        (ConnectionRoute::Dedicated(own), _) => {
            if fan_out.sharing == Sharing::AwaitsWrites {
                context.upstreams.precede_wait(own, context.effects);
            }
            context.upstreams.send_dedicated(own, in_flight, context.effects, write);
        }
        // Nothing else is ever connected.
        (ConnectionRoute::Shared(_), _) => {}
    }
}
