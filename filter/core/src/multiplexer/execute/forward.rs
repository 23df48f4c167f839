//! Sending commands to one target, in parts to several, and transactions.

use super::connect::connect;
use super::context::{Context, Obstacle, Request, expect, wait_for_room};
use super::mirror::{mirror, mirror_part, mirror_transaction};
use super::state;
use crate::command::Command;
use crate::command::Known;
use crate::command::script;
use crate::command::sharing::Shareable;
use crate::multiplexer::client::transaction::Transaction;
use crate::multiplexer::client::{Client, Wait};
use crate::multiplexer::reply::aggregate::Aggregation;
use crate::multiplexer::routing::decision::Forward;
use crate::multiplexer::routing::target::{KeyEdit, RouteTarget, SubCommand, write_part};
use crate::multiplexer::upstream::ConnectionRoute;
use crate::multiplexer::upstream::discovery::NodeAccess;
use crate::multiplexer::upstream::pending::{InFlight, Owner, PendingReply};
use crate::wire::ReadPolicy;

/// Bytes that a transaction may hold.
const MAX_TRANSACTION: usize = 64 * 1024 * 1024;

/// Sends a command over a connection that clients share, or over the client's own where that is
/// held for the target.
#[inline]
pub fn over_shared(
    context: &mut Context<'_>,
    client: &mut Client,
    request: Request<'_>,
    (target, edits, route): (RouteTarget, &[KeyEdit], Option<usize>),
    shareable: Shareable,
) -> Result<(), Obstacle> {
    let access = access(client, route, request.is_read());
    let connection = connect(context, client, target, access)?;
    wait_for_room(context, connection)?;
    let to = expect(client, request, edits);
    send(context, client, (connection, shareable), (request, to, access), |out| request.write(edits, out));
    mirror(context, client, target.target, (request, edits, shareable), |out| request.write(edits, out));
    Ok(())
}

/// Which nodes may answer a command by its route.
#[inline]
fn access(client: &Client, route: Option<usize>, is_read: bool) -> NodeAccess {
    let policy = route.and_then(|route| client.rules.config.routes.get(route)).map(|route| route.read_policy);
    match policy {
        Some(policy) if policy != ReadPolicy::Master && is_read => NodeAccess::Read(policy),
        _ => NodeAccess::Write,
    }
}

/// Sends a command of a client. `write` appends it.
#[inline]
pub fn send(
    context: &mut Context<'_>,
    client: &Client,
    (connection, shareable): (ConnectionRoute, Shareable),
    (request, to, access): (Request<'_>, PendingReply, NodeAccess),
    write: impl FnOnce(&mut Vec<u8>),
) {
    let script = request.script();
    if let Some(script) = script {
        context.upstreams.ensure_loaded(connection.id(), script, context.effects);
    }
    let in_flight = InFlight {
        reads: request.is_read().then(|| access.policy()),
        tried: client.pause.tried,
        names_scripts: script.is_some(),
        may_run_code: request.known.is_none_or(|known| script::may_run_code(known.command)),
        patience: client.rules.config.patience,
        ..to.into()
    };
    match connection {
        ConnectionRoute::Shared(shared) => {
            context.upstreams.send((shared, shareable), in_flight, context.effects, write);
        }
        ConnectionRoute::Dedicated(own) => context.upstreams.send_dedicated(own, in_flight, context.effects, write),
    }
}

/// Sends a command to several targets in parts. `owners`: for each key, the index of its part.
pub fn split(
    context: &mut Context<'_>,
    client: &mut Client,
    request: Request<'_>,
    (parts, owners): (&[SubCommand], Vec<usize>),
    shareable: Shareable,
) -> Result<(), Obstacle> {
    let Some(Known { command, .. }) = request.known else { return Ok(()) };
    let mut connections = Vec::with_capacity(parts.len());
    for part in parts {
        let access = access_of_part(client, command, request, part);
        let connection = connect(context, client, part.target, access)?;
        wait_for_room(context, connection)?;
        connections.push((connection, access));
    }
    let aggregation = Aggregation::of_keys(command.split, owners, parts.len(), client.session.resp3);
    let sequence = client.output.queue.expect_parts(aggregation, client.is_mute());
    let owner = Owner { client: client.id, sequence };
    let mut used = Vec::with_capacity(parts.len());
    for (number, (part, (connection, access))) in parts.iter().zip(connections).enumerate() {
        if used.contains(&connection.id()) {
            state::prepare_more(context, client, connection);
        }
        used.push(connection.id());
        let mut out = Vec::new();
        write_part(command, request.args, part, &mut out);
        let to = PendingReply::Part(owner, number as u32);
        send(context, client, (connection, shareable), (request, to, access), |to| to.extend_from_slice(&out));
        let copy = |to: &mut Vec<u8>| to.extend_from_slice(&out);
        mirror_part(context, client, (request, part, shareable), copy);
        count_part(context, client, request, part);
    }
    Ok(())
}

/// Counts a part for the route of its first key.
fn count_part(context: &mut Context<'_>, client: &Client, request: Request<'_>, part: &SubCommand) {
    let first = part.keys.first().map(|(index, _)| request.args.get(*index)).unwrap_or_default();
    if let Some((matched, _)) = client.rules.config.route(first)
        && let Some(host) = context.stats.host(client.rules.stats)
    {
        host.route(matched.route as usize, 1);
    }
}

fn access_of_part(client: &Client, command: &Command, request: Request<'_>, part: &SubCommand) -> NodeAccess {
    let key = part.keys.first().map(|(index, _)| request.args.get(*index)).unwrap_or_default();
    let route = client.rules.config.route(key).map(|(matched, _)| matched.route as usize);
    access(client, route, command.is_read())
}

/// Sends a transaction, MULTI to EXEC in one piece.
pub fn exec(context: &mut Context<'_>, client: &mut Client, transaction: &mut Transaction) -> Result<(), Obstacle> {
    let target = match transaction.target() {
        Some(target) => target,
        None => RouteTarget { target: client.rules.config.home().unwrap_or_default(), slot: None },
    };
    let connection = connect(context, client, target, NodeAccess::Write)?;
    wait_for_room(context, connection)?;
    let is_mute = client.is_mute();
    let sequence = match transaction.key_rewrite() {
        None => client.output.queue.expect(is_mute),
        Some(rewrite) => client.output.queue.expect_rewritten(rewrite, is_mute),
    };
    let id = connection.id();
    if !transaction.scripts.is_empty() {
        state::names_scripts(client, sequence);
    }
    for script in &transaction.scripts {
        context.upstreams.ensure_loaded(id, *script, context.effects);
    }
    context.upstreams.expect_queued(id, transaction.len(), context.effects);
    let owner = Owner { client: client.id, sequence };
    let is_mirrored = mirror_transaction(context, client, (transaction, target.target), owner);
    let in_flight = InFlight {
        names_scripts: !transaction.scripts.is_empty(),
        is_mirrored,
        tried: client.pause.tried,
        patience: client.rules.config.patience,
        ..PendingReply::Exec(owner).into()
    };
    match connection {
        ConnectionRoute::Shared(shared) => {
            let to = (shared, Shareable::of_transaction());
            context.upstreams.send(to, in_flight, context.effects, |out| transaction.write(out));
        }
        ConnectionRoute::Dedicated(own) => {
            context.upstreams.send_dedicated(own, in_flight, context.effects, |out| transaction.write(out));
        }
    }
    if is_mirrored {
        // Copies of what follows must not overtake those of the transaction.
        client.pause.wait = Some(Wait::Answers);
    }
    if let Some(dedicated) = client.dedicated.connection.as_mut().filter(|own| own.connection.id() == id) {
        // EXEC ends the watch, whatever comes of it. What follows may go over another connection
        // and must not overtake it.
        client.dedicated.watched_exec = std::mem::take(&mut dedicated.is_watching).then_some(sequence);
        client.pause.wait = Some(Wait::Answers);
    }
    Ok(())
}

/// Queues a command in the client's transaction.
pub fn queue(client: &mut Client, request: Request<'_>, forward: &Forward) {
    let config = client.rules.config.clone();
    // A command without a key goes wherever the others go, but for one that is to be heard.
    let is_heard = |command: &Command| matches!(command.name, "publish" | "spublish") && !config.single;
    let is_bound = request.known.is_some_and(|known| known.command.has_keys() || is_heard(known.command));
    let has_target = forward.target.slot.is_some() || !forward.edits.is_empty() || is_bound;
    let mut command = Vec::new();
    request.write(&forward.edits, &mut command);
    let rewrite = request.key_rewrite(&forward.edits);
    let Some(transaction) = &mut client.transaction else { return };
    transaction.scripts.extend(request.script());
    if transaction.held() + command.len() > MAX_TRANSACTION {
        transaction.is_doomed = true;
        return client.answer_error("ERR redis-mesh: too big a transaction");
    }
    match transaction.queue(&config, has_target.then_some(forward.target), &command, rewrite) {
        Ok(()) => client.answer(b"+QUEUED\r\n"),
        Err(text) => client.answer_error(text),
    }
}
