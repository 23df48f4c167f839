//! Doing what was decided about a command.

pub(in crate::multiplexer) mod dedicated;
pub(in crate::multiplexer) mod login;

use crate::cluster::slot::slot;
use crate::command::Args;
use crate::command::Command;
use crate::command::script::{self, ScriptDigest};
use crate::multiplexer::client::subscription::SubscriptionChange;
use crate::multiplexer::client::transaction::{Transaction, TransactionError};
use crate::multiplexer::client::{Client, ReplyMode, Wait};
use crate::multiplexer::config::MirrorConfig;
use crate::multiplexer::reply::aggregate::Aggregation;
use crate::multiplexer::reply::key_rewrite::KeyRewrite;
use crate::multiplexer::routing::decide::{CROSS, CROSS_SLOT, Decision, Over, directly};
use crate::multiplexer::routing::target::{Edit, RouteTarget, SubCommand, write, write_part};
use crate::multiplexer::upstream::connection::PoolKey;
use crate::multiplexer::upstream::connection::{InFlight, PendingReply};
use crate::multiplexer::upstream::pool::{Access, Missing};
use crate::multiplexer::{ClientId, ConnectionId, Multiplexer, Step, Timer};
use crate::request::known::Known;
use crate::resp::encode;
use crate::stats::Stat;
use crate::wire::ReadPolicy;
use std::time::Duration;

/// Bytes that a transaction may hold.
const HELD_TRANSACTION: usize = 64 * 1024 * 1024;

/// A command as it came.
#[derive(Clone, Copy)]
pub(in crate::multiplexer) struct Request<'a> {
    pub(in crate::multiplexer) known: Option<Known>,
    pub(in crate::multiplexer) args: &'a Args<'a>,
    /// Its bytes, if it came as an array.
    pub(in crate::multiplexer) raw: Option<&'a [u8]>,
}

impl Request<'_> {
    fn is_read(&self) -> bool {
        self.known.is_none_or(|known| known.command.is_read())
    }

    /// The script that it names.
    fn script(&self) -> Option<ScriptDigest> {
        let command = self.known?.command;
        if command.has_one_key { None } else { script::named(command, self.args) }
    }

    fn renames(&self, edits: &[Edit]) -> Option<KeyRewrite> {
        KeyRewrite::of(self.known?.command, self.args, edits)
    }
}

impl Multiplexer {
    /// Decides a command and does what was decided. `raw` is the command as it came, if it came as an array.
    pub(in crate::multiplexer) fn command(
        &mut self,
        id: ClientId,
        client: &mut Client,
        args: &Args<'_>,
        raw: Option<&[u8]>,
        now: Duration,
    ) -> Step {
        client.waits_for = None;
        let known = Known::of(args);
        if client.is_subscribing() && known.is_none_or(|known| SubscriptionChange::of(known.command.name).is_none()) {
            // It goes over another connection than the subscriptions before it.
            self.wait_for(client, Wait::Answers);
            return Step::Waits;
        }
        let request = Request { known, args, raw };
        if let Some((place, route, strip)) = known.and_then(|known| directly(client, known.command, args)) {
            client.run.command();
            let edit = [(1, strip)];
            let edits = if strip > 0 { &edit[..] } else { &[] };
            let step = self.pass_on(id, client, request, (place, edits, Some(route)), now);
            let step = self.or_missing(client, step);
            match step {
                Step::Waits => client.drawn = Some(None),
                Step::Taken => self.went_by(client, route),
            }
            return step;
        }
        if client.hearing == ReplyMode::Skip {
            client.hearing = ReplyMode::Skipping;
        }
        let mut decision = self.decide(id, client, known, args);
        let first_time = client.drawn.is_none();
        if first_time {
            client.run.command();
        }
        if let Some(watch) = &mut client.watch {
            watch.begin(now);
        }
        let route = match &decision {
            Decision::Forward { route, .. } => Some(*route),
            Decision::Split(..) | Decision::FanOut(_) | Decision::Exec(_) | Decision::Subscribe(_) => Some(None),
            _ => None,
        };
        if let Some(route) = route {
            let drawn = match client.drawn.take() {
                Some(drawn) => drawn,
                None => {
                    let of_route = route.and_then(|route| client.config.routes.get(route));
                    let of_route = of_route.and_then(|route| route.faults.draw(args.get(0), &mut self.random));
                    of_route.or_else(|| client.config.faults.draw(args.get(0), &mut self.random))
                }
            };
            if let Some(fault) = drawn {
                if first_time && !fault.delay.is_zero() {
                    self.count(client, Stat::FaultDelays);
                    client.until = Some(now + fault.delay);
                    self.alarms.insert((now + fault.delay, Timer::Client(id)));
                    client.drawn = Some(drawn);
                    if let Decision::Exec(transaction) = decision {
                        client.transaction = Some(transaction);
                    }
                    return Step::Waits;
                }
                if fault.error {
                    self.count(client, Stat::FaultErrors);
                    if let Decision::Exec(_) = decision {
                        self.unwatch(client, now);
                    }
                    if let Some(transaction) = &mut client.transaction {
                        // As after any other error in it.
                        transaction.is_doomed = true;
                    }
                    decision = Decision::Deny("Fault Injected: Error".into());
                }
            }
        }
        let sequence = client.queue.end();
        let to = match &decision {
            Decision::Forward { route, .. } => *route,
            _ => None,
        };
        let step = self.perform(id, client, request, decision, now);
        let step = self.or_missing(client, step);
        match step {
            // It is decided again, without a second draw.
            Step::Waits => client.drawn = client.drawn.or(Some(None)),
            Step::Taken => {
                client.drawn = None;
                if let Some(to) = to {
                    self.went_by(client, to);
                }
                let end = client.queue.end();
                if let Some(watch) = &mut client.watch {
                    match known {
                        Some(known) if end > sequence => watch.taken(end - 1, known.container),
                        _ => watch.unanswered(),
                    }
                }
                if client.hearing == ReplyMode::Skipping {
                    client.hearing = ReplyMode::On;
                }
            }
        }
        step
    }

    fn or_missing(&mut self, client: &mut Client, step: Result<Step, Missing>) -> Step {
        match step {
            Ok(step) => step,
            Err(Missing::Wait(wait)) => {
                self.wait_for(client, wait);
                Step::Waits
            }
            Err(Missing::Error(text)) => {
                answer_error(client, &text);
                Step::Taken
            }
        }
    }

    /// Counts a command for its route.
    #[inline]
    fn went_by(&mut self, client: &mut Client, route: usize) {
        if !client.run.goes_by(route) {
            self.count_run(client);
            let _ = client.run.goes_by(route);
        }
    }

    fn perform(
        &mut self,
        id: ClientId,
        client: &mut Client,
        request: Request<'_>,
        decision: Decision,
        now: Duration,
    ) -> Result<Step, Missing> {
        if let (Decision::Forward { .. } | Decision::FanOut(_), Some(known)) = (&decision, request.known) {
            self.note_scripts(client, known.command, request.args);
        }
        match decision {
            Decision::Answer(reply) => client.answer(&reply),
            Decision::Refuse(text) => {
                self.count(client, Stat::Refused);
                answer_error(client, &text);
            }
            Decision::Deny(text) => answer_error(client, &text),
            Decision::Forward { place, edits, .. } if client.transaction.is_some() => {
                // A command without a key goes wherever the others go, but for one that is to be heard.
                let is_told =
                    |command: &Command| matches!(command.name, "publish" | "spublish") && !client.config.single;
                let is_bound = request.known.is_some_and(|known| known.command.has_keys() || is_told(known.command));
                let has_place = place.slot.is_some() || !edits.is_empty() || is_bound;
                if let Some(transaction) = client.transaction.as_mut() {
                    transaction.scripts.extend(request.script());
                }
                queue(client, has_place.then_some(place), &written(request, &edits), request.renames(&edits));
            }
            Decision::Forward { place, edits, over: Over::Shared, route } => {
                return self.pass_on(id, client, request, (place, &edits, route), now);
            }
            Decision::Forward { place, edits, over, .. } => {
                return self.over_own(id, client, request, (place, &edits, over), now);
            }
            Decision::Split(parts, owners) => return self.split(id, client, request, &parts, owners, now),
            Decision::FanOut(gather) => return self.gather(id, client, &gather, request.args, now),
            Decision::Exec(mut transaction) => {
                if let Err(missing) = self.exec(id, client, &mut transaction, now) {
                    if let Missing::Wait(_) = missing {
                        client.transaction = Some(transaction);
                    }
                    return Err(missing);
                }
            }
            Decision::Unwatch(reply) => {
                self.unwatch(client, now);
                client.answer(&reply);
            }
            Decision::Present(presented) => return self.present(id, client, presented, now),
            Decision::Select(index) => return self.select(id, client, index, now),
            Decision::Subscribe(change) => return self.subscribe(id, client, change, request.args, now),
            Decision::Monitor => return self.monitor(id, client, now),
            Decision::Reset => {
                if !client.queue.is_empty() {
                    return Err(Missing::Wait(Wait::Answers));
                }
                self.reset(client);
                client.answer(b"+RESET\r\n");
            }
        }
        Ok(Step::Taken)
    }

    /// A command goes over a connection that clients share.
    fn pass_on(
        &mut self,
        id: ClientId,
        client: &mut Client,
        request: Request<'_>,
        (place, edits, route): (RouteTarget, &[Edit], Option<usize>),
        now: Duration,
    ) -> Result<Step, Missing> {
        let policy = route.and_then(|route| client.config.routes.get(route)).map(|route| route.read_policy);
        let access = match policy {
            Some(policy) if policy != ReadPolicy::Master && request.is_read() => Access::Read(policy),
            _ => Access::Write,
        };
        let link = self.link(client, place, access, now)?;
        if self.is_full(link) {
            return Err(Missing::Wait(Wait::UpstreamConnection(link)));
        }
        let what = expect(id, client, request, edits);
        self.forward(client, link, what, request, now, |out| write(request.args, edits, request.raw, out));
        self.mirror(client, place.target, request, edits, now, |out| write(request.args, edits, request.raw, out));
        Ok(Step::Taken)
    }

    /// Sends a command of a client.
    #[inline]
    pub(in crate::multiplexer) fn forward(
        &mut self,
        client: &Client,
        link: ConnectionId,
        what: PendingReply,
        request: Request<'_>,
        now: Duration,
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        let script = request.script();
        if let Some(script) = script {
            self.bring(link, script, client.config.op_timeout, now);
        }
        let awaited = InFlight { is_read: request.is_read(), names_scripts: script.is_some(), ..what.into() };
        self.send(link, awaited, client.config.op_timeout, now, write);
    }

    fn split(
        &mut self,
        id: ClientId,
        client: &mut Client,
        request: Request<'_>,
        parts: &[SubCommand],
        owners: Vec<usize>,
        now: Duration,
    ) -> Result<Step, Missing> {
        let Some(Known { command, .. }) = request.known else { return Ok(Step::Taken) };
        let mut links = Vec::with_capacity(parts.len());
        for part in parts {
            let access = self.access_of(client, command, request, part);
            let link = self.link(client, part.place, access, now)?;
            if self.is_full(link) {
                return Err(Missing::Wait(Wait::UpstreamConnection(link)));
            }
            links.push(link);
        }
        let merge = Aggregation::of_keys(command.split, owners, parts.len(), client.resp3);
        let sequence = client.queue.expect_parts(merge, client.is_mute());
        for (number, (part, link)) in parts.iter().zip(links).enumerate() {
            let mut out = Vec::new();
            write_part(command, request.args, part, &mut out);
            self.forward(client, link, PendingReply::SubCommand(id, sequence, number as u32), request, now, |to| {
                to.extend_from_slice(&out);
            });
            self.mirror(client, part.place.target, request, &part.keys, now, |to| to.extend_from_slice(&out));
            let first = part.keys.first().map(|(index, _)| request.args.get(*index)).unwrap_or_default();
            if let Some((matched, _)) = client.config.route(first)
                && let Some(tally) = self.hosts.tally(client.host)
            {
                tally.route(matched.route as usize, 1);
            }
        }
        Ok(Step::Taken)
    }

    fn access_of(&self, client: &Client, command: &Command, request: Request<'_>, part: &SubCommand) -> Access {
        let key = part.keys.first().map(|(index, _)| request.args.get(*index)).unwrap_or_default();
        match client.config.route(key) {
            Some((_, route)) if route.read_policy != ReadPolicy::Master && command.is_read() => {
                Access::Read(route.read_policy)
            }
            _ => Access::Write,
        }
    }

    fn exec(
        &mut self,
        id: ClientId,
        client: &mut Client,
        transaction: &mut Transaction,
        now: Duration,
    ) -> Result<(), Missing> {
        let place = match transaction.place() {
            Some(place) => place,
            None => RouteTarget { target: client.config.home().unwrap_or_default(), slot: None },
        };
        let link = self.link(client, place, Access::Write, now)?;
        if self.is_full(link) {
            return Err(Missing::Wait(Wait::UpstreamConnection(link)));
        }
        let sequence = match transaction.renames() {
            None => client.queue.expect(client.is_mute()),
            Some(renames) => client.queue.expect_renamed(renames, client.is_mute()),
        };
        let patience = client.config.op_timeout;
        for script in &transaction.scripts {
            self.bring(link, *script, patience, now);
        }
        self.send(link, PendingReply::Nobody.into(), patience, now, |_| {});
        for _ in 0..transaction.len() {
            self.send(link, PendingReply::Queued.into(), patience, now, |_| {});
        }
        let awaited =
            InFlight { names_scripts: !transaction.scripts.is_empty(), ..PendingReply::Exec(id, sequence).into() };
        self.send(link, awaited, patience, now, |out| transaction.write(out));
        if let Some(own) = client.own.as_mut().filter(|own| own.carrier == link) {
            // EXEC ends it, whatever comes of it. What follows may go over another connection and mustn't overtake it.
            own.is_watching = false;
            client.waits_for = Some(Wait::Answers);
        }
        Ok(())
    }

    /// Sends copies. Nobody waits for their replies.
    #[inline]
    pub(in crate::multiplexer) fn mirror(
        &mut self,
        client: &mut Client,
        target: usize,
        request: Request<'_>,
        keys: &[Edit],
        now: Duration,
        write: impl Fn(&mut Vec<u8>),
    ) {
        if client.config.targets.get(target).is_none_or(|target| target.mirrors.is_empty()) {
            return;
        }
        let config = client.config.clone();
        let mirrors = config.targets.get(target).map(|target| target.mirrors.as_slice()).unwrap_or_default();
        let mut is_mirrored = false;
        for mirror in mirrors {
            if mirror.exclude_read_commands && request.is_read() || !self.random.chance(mirror.per_million) {
                continue;
            }
            let Ok(link) = self.mirror_link(client, mirror, request, keys, now) else { continue };
            // A mirror that doesn't keep up misses copies; it holds up nobody.
            if self.is_full(link) {
                continue;
            }
            is_mirrored = true;
            if let Some(script) = request.script() {
                self.bring(link, script, config.op_timeout, now);
            }
            self.send(link, PendingReply::Nobody.into(), config.op_timeout, now, &write);
        }
        if is_mirrored {
            self.count(client, Stat::Mirrored);
        }
    }
}

impl Multiplexer {
    /// The connection to a mirror.
    fn mirror_link(
        &mut self,
        client: &Client,
        mirror: &MirrorConfig,
        request: Request<'_>,
        keys: &[Edit],
        now: Duration,
    ) -> Result<ConnectionId, Missing> {
        let upstream = mirror.upstream.clone();
        if !mirror.is_cluster {
            let line = PoolKey { upstream, node: None, resp3: false, database: client.database, readonly: false };
            return self.line(line, now);
        }
        let first = || {
            let found = request.known?.command.keys(request.args).ok()?.first()?;
            Some((found.index, keys.iter().find(|(index, _)| *index == found.index).map_or(0, |(_, strip)| *strip)))
        };
        let key = keys.first().copied().or_else(first);
        let slot = key.map(|(index, strip)| slot(request.args.get(index).get(strip..).unwrap_or_default()));
        let cluster = self.cluster_of(&upstream);
        let shard = self.shard(cluster, slot, now)?;
        self.node(cluster, shard, Access::Write, false, now)
    }
}

impl Client {
    /// It gets this reply, unless it doesn't want to hear.
    pub(in crate::multiplexer) fn answer(&mut self, reply: &[u8]) {
        if !self.is_mute() {
            self.queue.answered(reply, &mut self.out);
        }
    }
}

pub(in crate::multiplexer) fn answer_error(client: &mut Client, text: &str) {
    let mut reply = Vec::new();
    encode::error(&mut reply, text.as_bytes());
    client.answer(&reply);
}

/// Makes room for the reply to a command that goes to one place.
#[inline]
pub(in crate::multiplexer) fn expect(
    id: ClientId,
    client: &mut Client,
    request: Request<'_>,
    edits: &[Edit],
) -> PendingReply {
    let is_mute = client.is_mute();
    let sequence = match request.renames(edits) {
        None => client.queue.expect(is_mute),
        Some(renames) => client.queue.expect_renamed(renames, is_mute),
    };
    PendingReply::Client(id, sequence)
}

fn queue(client: &mut Client, place: Option<RouteTarget>, command: &[u8], renames: Option<KeyRewrite>) {
    let config = client.config.clone();
    let Some(transaction) = &mut client.transaction else { return };
    if transaction.held() + command.len() > HELD_TRANSACTION {
        transaction.is_doomed = true;
        return answer_error(client, "ERR redis-mesh: too big a transaction");
    }
    match transaction.queue(&config, place, command, renames) {
        Ok(()) => client.answer(b"+QUEUED\r\n"),
        Err(TransactionError::Destinations) => answer_error(client, CROSS),
        Err(TransactionError::Slots) => answer_error(client, CROSS_SLOT),
    }
}

fn written(request: Request<'_>, edits: &[Edit]) -> Vec<u8> {
    let mut out = Vec::new();
    write(request.args, edits, request.raw, &mut out);
    out
}
