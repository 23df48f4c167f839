//! Asking all servers whether they let a client in, or into a database.

use super::connect::connect;
use super::context::{Context, Obstacle};
use crate::multiplexer::client::login::PresentedLogin;
use crate::multiplexer::client::{Client, Wait};
use crate::multiplexer::reply::aggregate::{Aggregation, ResponsePolicy};
use crate::multiplexer::routing::target::RouteTarget;
use crate::multiplexer::upstream::ConnectionRoute;
use crate::multiplexer::upstream::discovery::{Missing, NodeAccess};
use crate::multiplexer::upstream::pending::{InFlight, Owner, PendingReply};
use crate::multiplexer::upstream::pool_key::PoolKey;
use crate::resp::encode;

/// Asks all servers whether they let a client in.
pub fn present(context: &mut Context<'_>, client: &mut Client, presented: PresentedLogin) -> Result<(), Obstacle> {
    if !client.output.queue.is_empty() {
        return Err(Obstacle::Wait(Wait::Answers));
    }
    if client.dedicated.connection.is_some() || client.dedicated.state.is_some() || client.subscriptions.has_any() {
        // Its own connections would stay another's.
        let text =
            "ERR redis-mesh: a client that watches keys, tracks or has subscribed can't log in as another; RESET first";
        return Err(Obstacle::Error(text.into()));
    }
    let resp3 = presented.hello.as_ref().map_or(client.session.resp3, |hello| hello.resp3);
    let mut keys: Vec<PoolKey> = Vec::new();
    for target in &client.rules.config.targets {
        let key = PoolKey::new(target.upstream.presented(Some(&presented.login)), resp3);
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    for key in &keys {
        context.upstreams.pool.check_available(key, context.effects).map_err(Missing::from)?;
    }
    let hello = presented.hello.as_ref().map(|hello| hello.reply.clone());
    let login = presented.login.clone();
    let aggregation = Aggregation::new(ResponsePolicy::Login(hello), keys.len(), client.session.resp3);
    let sequence = client.output.queue.expect_parts(aggregation, client.is_mute());
    client.session.presented = Some(presented);
    client.pause.wait = Some(Wait::Answers);
    let patience = client.rules.config.patience;
    for (part, key) in keys.into_iter().enumerate() {
        let part = part as u32;
        match context.upstreams.shared(key, context.effects) {
            // Each time anew: what has let another client in may not be right any more.
            Ok(connection) => {
                let to = PendingReply::Part(Owner { client: client.id, sequence }, part);
                let in_flight = InFlight { patience, ..to.into() };
                context.upstreams.verify(connection.id(), in_flight, context.effects, &login);
            }
            Err(
                Missing::Error(text)
                | Missing::Unreached(_, text)
                | Missing::Unserved(_, text)
                | Missing::Unreachable(text),
            ) => {
                let mut reply = Vec::new();
                encode::error(&mut reply, text.as_bytes());
                client.session.presented = None;
                client.output.queue.part(sequence, part, reply, &mut client.output.out);
            }
            Err(Missing::Topology(_)) => {}
        }
    }
    Ok(())
}

/// Asks all servers for a database.
pub fn select(context: &mut Context<'_>, client: &mut Client, index: u32) -> Result<(), Obstacle> {
    if !client.output.queue.is_empty() {
        return Err(Obstacle::Wait(Wait::Answers));
    }
    let connections = connect_in(context, client, index)?;
    let aggregation = Aggregation::new(ResponsePolicy::Same, connections.len(), client.session.resp3);
    let sequence = client.output.queue.expect_parts(aggregation, client.is_mute());
    let mut select = Vec::new();
    encode::command(&mut select, &[b"SELECT", index.to_string().as_bytes()]);
    for (part, connection) in connections.into_iter().enumerate() {
        if let ConnectionRoute::Dedicated(own) = connection
            && let Some(own) = context.upstreams.pool.get_mut(own.id())
        {
            own.is_tainted = true;
        }
        let to = PendingReply::Part(Owner { client: client.id, sequence }, part as u32);
        let in_flight = InFlight { patience: client.rules.config.patience, ..to.into() };
        context.upstreams.verify(connection.id(), in_flight, context.effects, &select);
    }
    client.session.selecting = Some(index);
    client.pause.wait = Some(Wait::Answers);
    Ok(())
}

/// A connection to each target in a database that isn't the client's yet.
fn connect_in(context: &mut Context<'_>, client: &mut Client, database: u32) -> Result<Vec<ConnectionRoute>, Obstacle> {
    let before = std::mem::replace(&mut client.session.database, database);
    client.rules.forget_lookups();
    let targets = client.rules.config.targets.len();
    let connections = (0..targets)
        .map(|target| connect(context, client, RouteTarget { target, slot: None }, NodeAccess::Write))
        .collect();
    client.session.database = before;
    client.rules.forget_lookups();
    connections
}
