//! Doing what was decided about a command.

mod at_servers;
pub mod backlog;
pub mod connect;
pub mod context;
pub mod dedicated;
pub mod failover;
pub mod fan_out;
pub mod follow;
pub mod forward;
pub mod hello;
pub mod inquire;
pub mod login;
pub mod mirror;
pub mod mirror_servers;
pub mod state;
pub mod subscribe;
mod subscriber;
pub mod track;

use super::client::{Client, Wait};
use super::config::HostConfig;
use super::routing::decide::{FastPath, decide, fast_path};
use super::routing::decision::{Decision, Forward};
use super::routing::target::SubCommand;
use crate::command::Known;
use crate::command::sharing::Sharing;
use crate::command::{Args, Command};
use crate::downstream::client_reply::ReplyMode;
use crate::fault::Injected;
use crate::multiplexer::client::subscription::SubscriptionChange;
use crate::multiplexer::client::transaction::Transaction;
use crate::multiplexer::timers::Timer;
use crate::multiplexer::upstream::failover::transaction_unsent;
use crate::multiplexer::upstream::patience::Tried;
use crate::stats::Stat;
use context::{Context, Obstacle, Request, Step};

/// Decides a command and does what was decided. `raw` is the command as it came, if it came as an
/// array.
pub fn command(context: &mut Context<'_>, client: &mut Client, args: &Args<'_>, raw: Option<&[u8]>) -> Step {
    client.pause.wait = None;
    let known = Known::of(args);
    client.presence.command = known.map_or("NULL", |known| known.command.name);
    if client.is_subscribing() && known.is_none_or(|known| SubscriptionChange::of(known.command.name).is_none()) {
        // It goes over another connection than the subscriptions before it.
        client.pause.wait = Some(Wait::Answers);
        return Step::Waits;
    }
    let request = Request { known, args, raw };
    if let Some(path) = known.and_then(|known| fast_path(client, known.command, args)) {
        return on_fast_path(context, client, request, &path);
    }
    client.session.reply_mode.begin();
    let decision = decide(client, known, args, context.stats);
    let is_first_time = client.pause.injected_fault.is_none();
    if is_first_time {
        client.activity.run.command();
    }
    if let Some(latency) = &mut client.activity.latency {
        latency.begin(context.effects.now);
    }
    let decision = match inject_fault(context, client, args, decision, is_first_time) {
        Some(decision) => decision,
        None => return Step::Waits,
    };
    let sequence = client.output.queue.end();
    let route = match &decision {
        Decision::Forward(forward) => forward.route,
        _ => None,
    };
    let needs_connection = decision.needs_connection();
    let result = perform(context, client, request, decision);
    let step = finish(context, client, result, needs_connection);
    match step {
        // It is decided again, without a second draw.
        Step::Waits => client.pause.injected_fault = client.pause.injected_fault.or(Some(None)),
        Step::Taken => {
            client.pause.injected_fault = None;
            if let Some(route) = route {
                count_route(context, client, route);
            }
            let end = client.output.queue.end();
            if let Some(latency) = &mut client.activity.latency {
                match known {
                    Some(known) if end > sequence => latency.taken(end - 1, known.container),
                    _ => latency.unanswered(),
                }
            }
            client.session.reply_mode.end();
            state::taken(client, known, sequence);
        }
    }
    step
}

/// Sends a command whose one key decides everything.
#[inline]
fn on_fast_path(context: &mut Context<'_>, client: &mut Client, request: Request<'_>, path: &FastPath) -> Step {
    client.activity.run.command();
    let edit = [(1, path.strip)];
    let edits = if path.strip > 0 { &edit[..] } else { &[] };
    let to = (path.target, edits, Some(path.route));
    let result = forward::over_shared(context, client, request, to, path.shareable);
    let step = finish(context, client, result, false);
    match step {
        Step::Waits => client.pause.injected_fault = Some(None),
        Step::Taken => count_route(context, client, path.route),
    }
    step
}

/// Draws the fault of a command and injects it. `None`: the command waits.
fn inject_fault(
    context: &mut Context<'_>,
    client: &mut Client,
    args: &Args<'_>,
    decision: Decision,
    is_first_time: bool,
) -> Option<Decision> {
    let Some(fault) = draw(context, client, args, &decision) else { return Some(decision) };
    if is_first_time && !fault.delay.is_zero() {
        client.count(Stat::FaultDelays, context.stats);
        let until = context.effects.now + fault.delay;
        client.pause.until = Some(until);
        context.effects.timers.add(until, Timer::Delay(client.id));
        client.pause.injected_fault = Some(Some(fault));
        if let Decision::Exec(transaction) = decision {
            client.transaction = Some(transaction);
        }
        return None;
    }
    if !fault.error {
        return Some(decision);
    }
    client.count(Stat::FaultErrors, context.stats);
    if let Decision::Exec(_) = decision {
        dedicated::unwatch(context, client);
    }
    if let Some(transaction) = &mut client.transaction {
        // As after any other error in it.
        transaction.is_doomed = true;
    }
    Some(Decision::Deny("Fault Injected: Error".into()))
}

/// The fault of a command that goes on: that of a route of its keys, else the host's.
fn draw(context: &mut Context<'_>, client: &mut Client, args: &Args<'_>, decision: &Decision) -> Option<Injected> {
    let config = &client.rules.config;
    let routes: Vec<usize> = match decision {
        Decision::Forward(forward) => forward.route.filter(|_| config.has_faults).into_iter().collect(),
        Decision::Split(parts, ..) => routes(config, parts, args),
        Decision::FanOut(_) => config.router.any().map(|any| any as usize).into_iter().collect(),
        Decision::Exec(_) | Decision::Subscribe(_) => Vec::new(),
        _ => return None,
    };
    if let Some(injected) = client.pause.injected_fault.take() {
        return injected;
    }
    let random = &mut context.effects.random;
    let of_routes = routes.into_iter().filter_map(|route| config.routes.get(route));
    let mut of_routes = of_routes.filter_map(|route| route.faults.draw(args.get(0), random));
    let of_route = of_routes.next();
    of_route.or_else(|| config.faults.draw(args.get(0), random))
}

/// The routes of all keys of a command that is split, each once.
fn routes(config: &HostConfig, parts: &[SubCommand], args: &Args<'_>) -> Vec<usize> {
    let keys = parts.iter().flat_map(|part| &part.keys).map(|(index, _)| args.get(*index));
    let mut routes = Vec::new();
    for (matched, _) in keys.filter_map(|key| config.route(key)) {
        if !routes.contains(&(matched.route as usize)) {
            routes.push(matched.route as usize);
        }
    }
    routes
}

/// A command that meets an obstacle waits, or is answered with an error. `needs_connection`: it
/// would begin, or finish, something that ends with the connection to Redis.
fn finish(
    context: &mut Context<'_>,
    client: &mut Client,
    result: Result<(), Obstacle>,
    needs_connection: bool,
) -> Step {
    if !matches!(result, Err(Obstacle::Wait(_))) {
        let tried = std::mem::take(&mut client.pause.tried);
        if tried != Tried::NEVER && result.is_err() {
            client.input.arrivals.waited_in_vain(tried.time(context.effects.now));
        }
    }
    match result {
        Ok(()) => Step::Taken,
        Err(Obstacle::Wait(wait)) => {
            wait_for(context, client, wait);
            Step::Waits
        }
        Err(Obstacle::Unreachable(_)) if needs_connection || client.is_unserved() => {
            client.cut_off(&mut context.effects.outbox);
            Step::Taken
        }
        Err(Obstacle::NoNode(_)) if needs_connection => {
            client.cut_off(&mut context.effects.outbox);
            Step::Taken
        }
        Err(Obstacle::Error(text) | Obstacle::NoNode(text) | Obstacle::Unreachable(text)) => {
            client.answer_error(&text);
            Step::Taken
        }
    }
}

/// A client's next command waits, and whoever it waits for knows.
fn wait_for(context: &mut Context<'_>, client: &mut Client, wait: Wait) {
    client.pause.wait = Some(wait);
    match wait {
        Wait::Connection(connection) => {
            if let Some(connection) = context.upstreams.pool.get_mut(connection) {
                connection.send.await_room();
            }
        }
        Wait::Topology(cluster) => context.upstreams.discovery.await_topology(cluster),
        Wait::Failover(cluster) => failover::wait(context, client, cluster),
        Wait::Introduction | Wait::Inquiry | Wait::Answers | Wait::AnswersBefore(_) => {}
    }
}

/// Counts a command for its route.
#[inline]
fn count_route(context: &mut Context<'_>, client: &mut Client, route: usize) {
    if !client.activity.run.goes_by(route) {
        client.count_commands(context.stats);
        let _ = client.activity.run.goes_by(route);
    }
}

/// Sends a transaction, which stays the client's if it waits.
fn exec(context: &mut Context<'_>, client: &mut Client, mut transaction: Transaction) -> Result<(), Obstacle> {
    match forward::exec(context, client, &mut transaction) {
        // Nothing of it was sent.
        Err(Obstacle::NoNode(why)) => Err(Obstacle::Error(transaction_unsent(&why))),
        Err(Obstacle::Wait(wait)) => {
            client.transaction = Some(transaction);
            Err(Obstacle::Wait(wait))
        }
        result => result,
    }
}

fn perform(
    context: &mut Context<'_>,
    client: &mut Client,
    request: Request<'_>,
    decision: Decision,
) -> Result<(), Obstacle> {
    backlog::prepare(context, client, &decision)?;
    if let (Decision::Forward(_) | Decision::FanOut(_), Some(known)) = (&decision, request.known) {
        note_scripts(context, client, known.command, request.args);
    }
    match decision {
        Decision::Answer(reply) => client.answer(&reply),
        Decision::Refuse(text) => {
            client.count(Stat::Refused, context.stats);
            client.answer_error(&text);
        }
        Decision::Deny(text) => client.answer_error(&text),
        Decision::Forward(forward) if client.transaction.is_some() => forward::queue(client, request, &forward),
        Decision::Forward(Forward { target, edits, route, sharing: Sharing::Safe(shareable) }) => {
            return forward::over_shared(context, client, request, (target, &edits, route), shareable);
        }
        Decision::Forward(forward) => return dedicated::over_dedicated(context, client, request, &forward),
        Decision::Split(parts, owners, shareable) => {
            return forward::split(context, client, request, (&parts, owners), shareable);
        }
        Decision::FanOut(fan_out) => return fan_out::fan_out(context, client, &fan_out, request.args),
        Decision::Exec(transaction) => return exec(context, client, transaction),
        Decision::Unwatch(reply) => {
            dedicated::unwatch(context, client);
            client.answer(&reply);
        }
        Decision::Track(change) => return track::track(context, client, change),
        Decision::Set(name) => return track::set(context, client, name, request.args),
        Decision::Inquire(question) => return inquire::inquire(context, client, question),
        Decision::Hello(hello) => return hello::hello(context, client, *hello),
        Decision::Present(presented) => return login::present(context, client, presented),
        Decision::Select(index) => return login::select(context, client, index),
        Decision::Subscribe(change) => return subscribe::subscribe(context, client, change, request.args),
        Decision::Monitor => return subscribe::monitor(context, client),
        Decision::Reset => {
            if !client.output.queue.is_empty() {
                return Err(Obstacle::Wait(Wait::Answers));
            }
            // OFF ends with it, and SKIP holds for it.
            let is_skipped = client.session.reply_mode == ReplyMode::Skipping;
            dedicated::reset(context.upstreams, client, context.effects);
            if !is_skipped {
                client.answer(b"+RESET\r\n");
            }
        }
    }
    Ok(())
}

/// Takes in what a command says about scripts, for all servers to which commands of the client may
/// be sent.
fn note_scripts(context: &mut Context<'_>, client: &Client, command: &Command, args: &Args<'_>) {
    let targets = client.rules.config.targets.iter();
    let endpoints = targets.flat_map(|target| {
        target.mirrors.iter().map(|mirror| &mirror.upstream).chain(std::iter::once(&target.upstream))
    });
    context.upstreams.note_scripts(command, args, endpoints);
}
