//! Taking commands from the bytes of a client, and new rules for it.

use super::client::{Client, Dedicated, Wait};
use super::config::HostConfig;
use super::effects::Effects;
use super::execute::context::{Context, Step};
use super::execute::{backlog, command};
use super::routing::target::RouteTarget;
use super::upstream::Upstreams;
use super::upstream::endpoint::EndpointMember;
use super::upstream::events::Event;
use super::upstream::patience::Tried;
use super::upstream::pool::DedicatedConnection;
use crate::command::Args;
use crate::resp::encode;
use crate::resp::request::{Parser, Progress};
use crate::stats::Stat;
use std::sync::Arc;

/// A buffer with more room than this is made smaller once most of it isn't needed any more.
const KEPT_CAPACITY: usize = 64 * 1024;

/// Takes bytes of a client. Returns how many were taken; the rest is to be offered again.
pub fn take(context: &mut Context<'_>, client: &mut Client, data: &[u8]) -> usize {
    if client.pause.until.is_some_and(|until| until <= context.effects.now) {
        client.pause.until = None;
    }
    client.presence.heard = context.effects.now;
    backlog::on_input(context, client);
    let offered = client.input.buffer.len() + data.len();
    if !client.is_closing() && !client.may_go_on() && !data.is_empty() {
        // What it sends waits where the client feels it.
        (client.input.is_stalled, client.input.has_more) = (true, true);
        client.input.arrivals.note(offered, context.effects.now);
        return 0;
    }
    let taken = take_commands(context, client, data);
    let left = client.input.buffer.len() + data.len() - taken;
    if !client.input.arrivals.is_empty() {
        client.input.arrivals.taken(offered.saturating_sub(left));
    }
    let is_held = !client.input.buffer.is_empty() && !client.may_go_on();
    client.input.is_stalled = !client.is_closing() && (taken < data.len() || is_held);
    client.count_commands(context.stats);
    client.input.has_more = client.input.is_stalled;
    if client.input.is_stalled {
        client.input.arrivals.note(left, context.effects.now);
    }
    client.announce(&mut context.effects.outbox, context.stats, context.effects.now);
    taken
}

fn take_commands(context: &mut Context<'_>, client: &mut Client, data: &[u8]) -> usize {
    // Bytes of a command that began before come first. Without them, nothing is copied that is
    // there as a whole.
    let mut held = std::mem::take(&mut client.input.buffer);
    let is_held = !held.is_empty();
    if is_held {
        held.extend_from_slice(data);
    }
    let buffer = if is_held { held.as_slice() } else { data };
    let mut parser = std::mem::take(&mut client.input.parser);
    let at = parse(context, client, &mut parser, buffer);
    client.input.parser = parser;
    if client.is_closing() {
        return data.len();
    }
    if is_held {
        held.drain(..at);
        if held.capacity() > KEPT_CAPACITY && held.capacity() / 4 > held.len() {
            held.shrink_to(2 * held.len());
        }
        client.input.buffer = held;
        return data.len();
    }
    if client.may_go_on() {
        // The beginning of a command.
        client.input.buffer.extend_from_slice(buffer.get(at..).unwrap_or_default());
        return data.len();
    }
    at
}

/// Executes the commands in `buffer` as far as the client may go on. Returns how many bytes they
/// have.
fn parse(context: &mut Context<'_>, client: &mut Client, parser: &mut Parser, buffer: &[u8]) -> usize {
    let mut at = 0;
    while client.may_go_on() && at < buffer.len() {
        let rest = buffer.get(at..).unwrap_or_default();
        let limits = &client.rules.config.limits;
        let limits = if client.may_command() { &limits.logged_in } else { &limits.before_login };
        match parser.parse(rest, limits) {
            Ok(Progress::Partial) => break,
            Ok(Progress::Nothing(length)) => {
                parser.reset();
                at += length;
            }
            Ok(Progress::Complete(length)) => {
                let args = Args { frame: parser.frame(rest), spans: parser.args(), count: parser.args().len() };
                let raw = rest.get(..length).filter(|_| !parser.is_inline());
                if !client.input.arrivals.is_empty() && client.pause.tried == Tried::NEVER {
                    let since = client.input.arrivals.since(at + length);
                    client.pause.tried = since.map_or(Tried::NEVER, Tried::at);
                }
                if let Step::Waits = command(context, client, &args, raw) {
                    break;
                }
                parser.reset();
                at += length;
            }
            Err(error) => {
                client.count(Stat::ProtocolErrors, context.stats);
                let mut reply = Vec::new();
                encode::error(&mut reply, error.to_string().as_bytes());
                client.output.queue.answered(&reply, &mut client.output.out);
                client.begin_closing();
                at = buffer.len();
            }
        }
    }
    at
}

/// A client that waits for a failover may be led elsewhere by now.
fn end_wait_for_failover(client: &mut Client, effects: &mut Effects) {
    if let Some(Wait::Failover(_)) = client.pause.wait {
        client.pause.wait = None;
        client.wake(&mut effects.outbox);
    }
}

/// Gives a client new rules.
pub fn change_rules(client: &mut Client, config: &Arc<HostConfig>, upstreams: &mut Upstreams, effects: &mut Effects) {
    let before = std::mem::replace(&mut client.rules.config, config.clone());
    client.follow_command_stats();
    client.rules.forget_lookups();
    let endpoints = |config: &HostConfig| config.targets.iter().map(|to| to.upstream.clone()).collect::<Vec<_>>();
    let is_same = endpoints(&before) == endpoints(config);
    if !is_same && !client.output.queue.is_empty() {
        // With a new login it may go over another connection to the same Redis, and must not
        // overtake what it has sent. What else it waits for is found out again then.
        client.pause.wait = Some(Wait::Answers);
    }
    end_wait_for_failover(client, effects);
    if let Some(transaction) = &mut client.transaction {
        // Where it leads may have changed.
        transaction.is_doomed |= transaction.len() > 0 || transaction.target().is_some();
    }
    if !config.auth.passes_auth {
        (client.session.login, client.session.presented) = (None, None);
    }
    // A connection of its own stays as long as its destination does; a login is asked for once.
    let place = |config: &HostConfig, target: usize| config.targets.get(target).map(|to| to.upstream.clone());
    let has_turned = before.auth.passes_auth != config.auth.passes_auth;
    let is_owed = |own: DedicatedConnection| {
        let known = upstreams.pool.get(own.id());
        known.is_some_and(|known| known.pending.iter().any(|in_flight| in_flight.what.is_awaited()))
    };
    let is_gone = |own: &DedicatedConnection| {
        let known = upstreams.pool.get(own.id());
        known.is_some_and(|known| has_turned || config.target_at(&known.key.endpoint).is_none())
    };
    let is_abandoned = client.dedicated.others.iter().any(|own| is_gone(own) && is_owed(*own));
    let home = |config: &HostConfig| -> Vec<(Arc<str>, EndpointMember)> {
        let servers = config.home().map(|home| config.servers(home)).unwrap_or_default();
        servers.into_iter().map(|server| (server.cluster.clone(), server.member)).collect()
    };
    let is_moved = has_turned || home(&before) != home(config);
    let is_cut =
        !client.subscriptions.connections.is_empty() && is_moved || client.dedicated.state.is_some() && has_turned;
    let own = client.dedicated.connection.take();
    let stays = own.filter(|_| !has_turned).and_then(|own| {
        let target = config.target_at(&place(&before, own.target.target)?)?;
        Some(Dedicated { target: RouteTarget { target, ..own.target }, ..own })
    });
    // What a client waits for, or has begun, where it isn't led any more ends as when Redis goes.
    let is_lost = stays.is_none() && own.is_some_and(|own| own.is_held() || is_owed(own.connection));
    if is_lost || is_abandoned || is_cut {
        client.cut_off(&mut effects.outbox);
    }
    if client.follows() {
        upstreams.pool.events.push_back(Event::RulesChanged(client.id));
    }
    if let Some(own) = own.filter(|_| stays.is_none()) {
        upstreams.pool.close(own.connection.id(), effects);
    }
    client.dedicated.connection = stays;
}
