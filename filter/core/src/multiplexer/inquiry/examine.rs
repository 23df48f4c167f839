//! What becomes of inquiries: a worker looks through its clients, asks servers about those that wait,
//! and answers.

use super::line::line;
use super::question::{
    Answer, ClientFilter, ClientKind, ClientQuestion, InquiryScope, KillForm, NumberList, UnblockReason,
};
use super::table::{Asker, Examination, Gathering, MAX_LINES, ServerQuestion};
use crate::multiplexer::client::{Client, Life, Wait};
use crate::multiplexer::ids::{ClientId, ConnectionId};
use crate::multiplexer::reply::EventDelivery;
use crate::multiplexer::upstream::Upstreams;
use crate::multiplexer::upstream::connection::UpstreamConnection;
use crate::multiplexer::upstream::pending::PendingReply;
use crate::resp::{encode, error_text};
use std::time::Duration;

/// The error of CLIENT LIST where there would be too much to tell.
const TOO_LONG: &str =
    "ERR redis-mesh: the lines of CLIENT LIST would have more than 16 MB; TYPE or ID makes them fewer";
/// How many clients are looked through at a time.
const PART: usize = 1000;

/// The scope of a client's inquiries.
pub fn scope_of(client: &Client) -> InquiryScope {
    InquiryScope { host: client.rules.config.host.clone(), user: client.session.user() }
}

/// Does what is to be done about inquiries. Returns false if there was nothing.
pub fn proceed(worker: &mut EventDelivery<'_>) -> bool {
    let mut has_done = false;
    for _ in 0..worker.inquiries.work.len() {
        let Some(examination) = worker.inquiries.work.pop_front() else { break };
        has_done = true;
        examine(worker, examination);
    }
    while let Some((question, reply)) = worker.inquiries.server_answers.pop_front() {
        has_done = true;
        server_answered(worker, question, reply);
    }
    while let Some((gathering, is_complete)) = worker.inquiries.next_complete(worker.effects) {
        has_done = true;
        finish(worker, gathering, is_complete);
    }
    has_done
}

fn examine(worker: &mut EventDelivery<'_>, mut examination: Examination) {
    let (asker, inquiry) = (examination.asker, examination.inquiry.clone());
    match &inquiry.question {
        ClientQuestion::List(filter) => {
            if let Some(answer) = list(worker, &mut examination, filter) {
                return worker.inquiries.tell(asker, answer);
            }
            worker.inquiries.pause(examination, worker.effects);
        }
        ClientQuestion::Kill(filter, _) => {
            let killed = kill(worker, asker, &inquiry.scope, filter);
            worker.inquiries.tell(asker, Answer::Killed(killed));
        }
        ClientQuestion::Unblock(number, reason) => unblock(worker, asker, &inquiry.scope, (*number, *reason)),
    }
}

/// True if the client is one of those that an inquiry may be about.
fn is_in(scope: &InquiryScope, client: &Client) -> bool {
    client.rules.config.host == scope.host
        && client.life != Life::Closed
        && client.may_command()
        && client.session.user() == scope.user
}

/// True if the client is one of those that are meant.
fn is_meant(filter: &ClientFilter, client: &Client, now: Duration) -> bool {
    let presence = &client.presence;
    let kind = || match client.subscriptions.is_empty() {
        true => ClientKind::Normal,
        false => ClientKind::PubSub,
    };
    let age = || now.saturating_sub(presence.since).as_secs();
    !filter.is_of_others
        && filter.except != Some(presence.number)
        && filter.numbers.as_ref().is_none_or(|numbers| numbers.contains(presence.number))
        && filter.remote.is_none_or(|remote| presence.remote == Some(remote))
        && filter.local.is_none_or(|local| presence.local == Some(local))
        && filter.kind.is_none_or(|wanted| wanted == kind())
        && filter.age.is_none_or(|wanted| wanted <= age())
}

/// The clients that are named by their numbers, if these are few; others are looked through.
fn candidates(worker: &EventDelivery<'_>, filter: &ClientFilter) -> Option<Vec<ClientId>> {
    let numbers = filter.numbers.as_ref().map(NumberList::sorted).filter(|numbers| numbers.len() <= PART)?;
    Some(numbers.iter().filter_map(|number| worker.inquiries.numbers.get(number).copied()).collect())
}

/// Adds the lines of the next clients; `None`: there are more clients.
fn list(worker: &EventDelivery<'_>, examination: &mut Examination, filter: &ClientFilter) -> Option<Answer> {
    let (now, scope) = (worker.effects.now, &examination.inquiry.scope);
    let candidates = candidates(worker, filter);
    let is_end = candidates.is_some() || examination.next + PART >= worker.clients.slots();
    let named = candidates.iter().flatten().filter_map(|id| worker.clients.get(*id));
    let all = if candidates.is_some() { 0 } else { PART };
    let others = worker.clients.part(examination.next, all).map(|(_, client)| client);
    for client in named.chain(others) {
        if is_in(scope, client) && is_meant(filter, client, now) {
            let is_blocked = blocked(worker.upstreams, client).next().is_some();
            let line = line(client, now, is_blocked);
            examination.size += line.len();
            examination.lines.push((client.presence.number, line));
        }
    }
    examination.next += PART;
    if examination.size > MAX_LINES {
        return Some(Answer::TooLong);
    }
    is_end.then(|| Answer::Listed(std::mem::take(&mut examination.lines)))
}

/// Closes the connections of the clients that are meant. Returns their number.
fn kill(worker: &mut EventDelivery<'_>, asker: Asker, scope: &InquiryScope, filter: &ClientFilter) -> u64 {
    let own = worker.inquiries.owner(asker).map(|owner| owner.client);
    let now = worker.effects.now;
    let mut killed = 0;
    for id in candidates(worker, filter).unwrap_or_else(|| worker.clients.ids()) {
        let client = worker.clients.get_mut(id);
        let Some(client) = client.filter(|client| is_in(scope, client) && is_meant(filter, client, now)) else {
            continue;
        };
        killed += 1;
        if own == Some(id) {
            // It gets its reply first.
            client.begin_closing();
        } else {
            client.abort(&mut worker.effects.outbox);
        }
    }
    killed
}

/// The connections over which a client waits at servers.
fn blocked<'c>(
    upstreams: &'c Upstreams,
    client: &'c Client,
) -> impl Iterator<Item = (ConnectionId, &'c UpstreamConnection)> {
    let own = client.dedicated_connections();
    own.filter_map(|own| Some((own.id(), upstreams.pool.get(own.id())?))).filter(|(_, known)| known.is_blocked())
}

/// Asks the servers at which a client waits.
fn unblock(worker: &mut EventDelivery<'_>, asker: Asker, scope: &InquiryScope, (number, reason): (u64, UnblockReason)) {
    let client = worker.inquiries.numbers.get(&number).and_then(|id| worker.clients.get(*id));
    let client = client.filter(|client| is_in(scope, client));
    let identified = |(id, known): (ConnectionId, &UpstreamConnection)| {
        let identity = known.memory.identity.as_ref()?;
        Some((id, known.key.clone(), identity.name.clone(), identity.number.clone()?))
    };
    let blocked: Vec<_> =
        client.into_iter().flat_map(|client| blocked(worker.upstreams, client)).filter_map(identified).collect();
    if blocked.is_empty() {
        return worker.inquiries.tell(asker, Answer::Unblocked(false));
    }
    let unblocking = worker.inquiries.begin_unblocking(asker, reason, blocked.len());
    for (id, key, name, number) in blocked {
        let asked = number.map_err(|refusal| refused(&refusal)).and_then(|number| {
            let over = worker.upstreams.pool.shared(key, worker.effects);
            let over = over.map_err(|outage| outage.text().to_owned())?.id();
            Ok((number, over))
        });
        match asked {
            Err(refusal) => worker.inquiries.server_done(unblocking, Err(refusal)),
            Ok((number, over)) => {
                let question = ServerQuestion { unblocking, blocked: id, number, name, over, is_told: false };
                ask(worker, question, &[b"CLIENT", b"LIST", b"ID", number.to_string().as_bytes()]);
            }
        }
    }
}

/// Sends a server a question.
fn ask(worker: &mut EventDelivery<'_>, question: ServerQuestion, words: &[&[u8]]) {
    let over = question.over;
    let id = worker.inquiries.ask_server(question);
    let to = PendingReply::Inquiry(id).into();
    worker.upstreams.pool.send(over, to, worker.effects, |out| encode::command(out, words));
}

/// A server has answered a question, or won't (`Err`).
fn server_answered(worker: &mut EventDelivery<'_>, id: u64, reply: Result<Vec<u8>, String>) {
    let refusal = match reply.as_deref() {
        Ok(reply) => reply.starts_with(b"-").then(|| error_text(reply).into_owned()),
        Err(text) => Some(text.clone()),
    };
    if worker.inquiries.permitted(id, refusal.clone(), worker.effects) {
        return;
    }
    let Some(question) = worker.inquiries.take_question(id) else { return };
    let unblocking = question.unblocking;
    let outcome = match (reply.as_deref(), refusal) {
        (Err(text), _) => Err(text.clone()),
        (Ok(_), Some(refusal)) => Err(refused(&refusal)),
        (Ok(reply), None) if question.is_told => Ok(reply == b":1\r\n"),
        (Ok(reply), None) => match tell_to_unblock(worker, question, reply) {
            Some(outcome) => outcome,
            None => return,
        },
    };
    worker.inquiries.server_done(unblocking, outcome);
}

/// A server has told which connection has the number over which a client waits. `None`: it is the
/// client's, and the server is told to unblock it.
fn tell_to_unblock(
    worker: &mut EventDelivery<'_>,
    question: ServerQuestion,
    reply: &[u8],
) -> Option<Result<bool, String>> {
    let pool = &mut worker.upstreams.pool;
    if !pool.get(question.blocked).is_some_and(UpstreamConnection::is_blocked) {
        return Some(Ok(false));
    }
    let name = format!(" name={} ", question.name);
    if memchr::memmem::find(reply, name.as_bytes()).is_none() {
        return Some(Err("ERR redis-mesh: the server at which the client waits can't be asked: others answer behind the same address".into()));
    }
    if pool.get(question.over).is_none() {
        return Some(Err("ERR redis-mesh: the connection to the server was lost".into()));
    }
    // Nobody else is to wait over it when the server is told.
    if let Some(blocked) = pool.get_mut(question.blocked) {
        blocked.is_tainted = true;
    }
    let reason = worker.inquiries.reason(question.unblocking)?;
    let reason: &[u8] = match reason {
        UnblockReason::Timeout => b"TIMEOUT",
        UnblockReason::Error => b"ERROR",
    };
    let number = question.number.to_string();
    ask(worker, ServerQuestion { is_told: true, ..question }, &[b"CLIENT", b"UNBLOCK", number.as_bytes(), reason]);
    None
}

/// What a client is told if a server refuses what is needed to unblock another one.
fn refused(error: &str) -> String {
    format!("ERR redis-mesh: the server refuses what CLIENT UNBLOCK needs: {error}")
}

/// Answers the command of a client to which all workers have answered; `is_complete` is false if some
/// haven't in time.
fn finish(worker: &mut EventDelivery<'_>, gathering: Gathering, is_complete: bool) {
    let Gathering { owner, inquiry, answers, .. } = gathering;
    if let Some(client) = worker.clients.get_mut(owner.client) {
        let mut reply = Vec::new();
        match outcome(&inquiry.question, answers, is_complete) {
            Ok(Gathered::Lines(lines)) => encode::text(&mut reply, client.session.resp3, &lines),
            Ok(Gathered::Number(number)) => encode::integer(&mut reply, number),
            Ok(Gathered::Done) => reply.extend_from_slice(b"+OK\r\n"),
            Err(text) => encode::error(&mut reply, text.as_bytes()),
        }
        client.output.replace(owner.sequence, &reply);
        worker.announce(owner.client);
    }
    if matches!(inquiry.question, ClientQuestion::List(_)) {
        worker.wake_all(Wait::Inquiry);
    }
}

/// What a client is answered if it isn't an error.
enum Gathered {
    /// The lines of CLIENT LIST.
    Lines(String),
    /// So many connections.
    Number(u64),
    /// The one connection that was named is closed.
    Done,
}

/// What all answers come to.
fn outcome(question: &ClientQuestion, answers: Vec<Answer>, is_complete: bool) -> Result<Gathered, String> {
    let (mut lines, mut number, mut refusal, mut is_too_long) = (Vec::new(), 0, None, false);
    for answer in answers {
        match answer {
            Answer::Listed(more) => lines.extend(more),
            Answer::TooLong => is_too_long = true,
            Answer::Killed(more) => number += more,
            Answer::Unblocked(is_unblocked) => number += u64::from(is_unblocked),
            Answer::Refused(text) => refusal = Some(text),
        }
    }
    match (question, refusal) {
        (ClientQuestion::Unblock(..), _) if number > 0 => Ok(Gathered::Number(1)),
        (_, Some(refusal)) => Err(refusal),
        (ClientQuestion::Kill(_, KillForm::Address), _) if number > 0 => Ok(Gathered::Done),
        _ if !is_complete => Err(
            "ERR redis-mesh: a worker of Envoy, or Redis, hasn't answered in time; the command may have been executed"
                .into(),
        ),
        (ClientQuestion::Kill(_, KillForm::Address), _) => Err("ERR No such client".into()),
        (ClientQuestion::Kill(..) | ClientQuestion::Unblock(..), _) => Ok(Gathered::Number(number)),
        (ClientQuestion::List(filter), _) => match is_too_long {
            true => Err(TOO_LONG.into()),
            false => in_order(filter, lines).map(Gathered::Lines),
        },
    }
}

/// The lines in the order in which clients were named, else in that in which they have connected.
fn in_order(filter: &ClientFilter, mut lines: Vec<(u64, String)>) -> Result<String, String> {
    lines.sort_unstable_by_key(|(number, _)| *number);
    let mut text = String::new();
    let mut add = |line: &str| {
        text.push_str(line);
        if text.len() > MAX_LINES { Err(TOO_LONG.to_owned()) } else { Ok(()) }
    };
    match &filter.numbers {
        None => lines.iter().try_for_each(|(_, line)| add(line))?,
        Some(numbers) => {
            for number in numbers.named() {
                if let Ok(at) = lines.binary_search_by_key(number, |(number, _)| *number)
                    && let Some((_, line)) = lines.get(at)
                {
                    add(line)?;
                }
            }
        }
    }
    Ok(text)
}
