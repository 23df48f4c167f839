//! What Redis answers, and to whom it goes; what becomes of commands whose connection is lost, or that another node has to get.

pub(in crate::multiplexer) mod aggregate;
pub(in crate::multiplexer) mod key_names;
pub(in crate::multiplexer) mod key_rewrite;

use crate::command::each_command;
use crate::multiplexer::config::Endpoint;
use crate::multiplexer::upstream::connection::{InFlight, PendingReply, Purpose, Refusal, UpstreamConnection};
use crate::multiplexer::upstream::pool::{Loss, PARKED, may_end, peer};
use crate::multiplexer::upstream::redirect::Redirect;
use crate::multiplexer::upstream::retry::{AGAIN, Retry};
use crate::multiplexer::{ClientId, ConnectionId, Multiplexer, Output};
use crate::resp::encode;
use crate::stats::Stat;
use std::net::SocketAddr;
use std::time::Duration;

/// RequestPolicy often a command may be sent on to another node.
const HOPS: u8 = 8;
impl Multiplexer {
    /// Bytes of Redis.
    pub fn reply(&mut self, id: ConnectionId, data: &[u8], now: Duration) {
        self.clock = now;
        let Some(mut carrier) = self.carriers.lend(id) else { return };
        carrier.progress = now;
        let was_greeted = carrier.is_greeted;
        let is_right = self.distribute(id, &mut carrier, data, now);
        if carrier.is_greeted && !was_greeted {
            self.down.remove(&peer(&carrier.line.upstream, carrier.line.node));
        }
        let (is_refused, begins) = (carrier.refusal.is_some(), carrier.is_greeted && !was_greeted);
        let is_over = carrier.is_retired && carrier.expected.is_empty();
        let ends = may_end(&carrier);
        let (is_idle, purpose, deadline) = (carrier.expected.is_empty(), carrier.purpose, carrier.deadline());
        self.carriers.give_back(id, carrier);
        if !is_right || is_refused {
            self.outputs.push_back(Output::CloseUpstream(id));
            return self.lost_because(id, Loss::Ended, now);
        }
        if is_over {
            return self.drop_carrier(id);
        }
        if begins {
            self.take_over(id, now);
        }
        // What has been waiting for the greeting, or a command that is sent once more.
        self.announce_upstream(id);
        self.patrol_by(deadline);
        if is_idle && ends {
            self.patrol_by(Some(now + PARKED));
        }
        if is_idle && was_greeted {
            match purpose {
                Purpose::Dedicated(client) | Purpose::Pushes(client) => self.release(client, id, now),
                Purpose::Probe(_) => self.drop_carrier(id),
                Purpose::Shared | Purpose::Parked => {}
            }
        }
    }

    /// Gives replies to whom they belong. False: they can't be told.
    fn distribute(&mut self, id: ConnectionId, carrier: &mut UpstreamConnection, data: &[u8], now: Duration) -> bool {
        // Who has got replies and not been told yet: replies to one client come one after another.
        let mut told = None;
        let is_right = self.distribute_to(id, carrier, data, &mut told, now);
        self.tell(&mut told, None);
        is_right
    }

    /// Tells the client that has got replies before, unless it is this one again.
    #[inline]
    fn tell(&mut self, told: &mut Option<ClientId>, next: Option<ClientId>) {
        if *told != next
            && let Some(before) = std::mem::replace(told, next)
        {
            self.answered(before);
        }
    }

    fn distribute_to(
        &mut self,
        id: ConnectionId,
        carrier: &mut UpstreamConnection,
        data: &[u8],
        told: &mut Option<ClientId>,
        now: Duration,
    ) -> bool {
        let mut at = 0;
        while at < data.len() {
            let rest = data.get(at..).unwrap_or_default();
            let expected = carrier.expected.front().copied();
            if !carrier.framer.is_open() && carrier.whole.is_empty() {
                let first = rest.first().copied().unwrap_or_default();
                let what = expected.map(|expected| expected.what);
                carrier.pushes_to = Multiplexer::is_pushed(carrier.purpose, carrier.line.resp3, what, first);
                carrier.is_collected = match what {
                    // An error may say that another node has to get it.
                    Some(PendingReply::Client(..) | PendingReply::Exec(..)) => {
                        let names_scripts = expected.is_some_and(|expected| expected.names_scripts);
                        let is_exec = matches!(what, Some(PendingReply::Exec(..)));
                        (carrier.line.node.is_some() || names_scripts) && first == b'-' || names_scripts && is_exec
                    }
                    Some(PendingReply::Nobody) | None => false,
                    Some(_) => true,
                };
            }
            let Ok((used, is_complete)) = carrier.framer.feed(rest) else { return false };
            let piece = rest.get(..used).unwrap_or_default();
            at += used;
            if let Some(client) = carrier.pushes_to {
                self.tell(told, None);
                carrier.whole.extend_from_slice(piece);
                if is_complete {
                    let frame = std::mem::take(&mut carrier.whole);
                    self.pushed(id, carrier, client, &frame, now);
                }
                continue;
            }
            let Some(expected) = expected else { return false };
            if carrier.is_collected {
                self.tell(told, None);
                carrier.whole.extend_from_slice(piece);
                if is_complete {
                    let reply = std::mem::take(&mut carrier.whole);
                    carrier.expected.pop_front();
                    self.whole(id, carrier, expected, reply, now);
                }
                continue;
            }
            if let PendingReply::Client(client, sequence) | PendingReply::Exec(client, sequence) = expected.what {
                if let Some(to) = self.clients.get_mut(client) {
                    to.queue.reply(sequence, piece, is_complete, &mut to.out);
                    to.window.count(piece.len(), is_complete);
                }
                self.tell(told, Some(client));
            }
            if is_complete {
                carrier.expected.pop_front();
                carrier.drop_kept(expected);
            }
        }
        true
    }

    /// Something whole has come that isn't simply the next reply.
    fn pushed(
        &mut self,
        id: ConnectionId,
        carrier: &mut UpstreamConnection,
        client: ClientId,
        frame: &[u8],
        now: Duration,
    ) {
        let expected = carrier.expected.front().copied();
        if let Some(expected) = expected
            && carrier.line.node.is_some()
            && let Some(Redirect::Moved(slot, Some(to))) = Redirect::parse(frame, carrier.line.node)
        {
            // A subscription by a slot that has moved: the client is told so, and finds the right node the next time.
            self.moved(&carrier.line.upstream.clone(), slot, to, now);
            let text = b"-TRYAGAIN redis-mesh: the channel's slot has just moved\r\n";
            let used = self.arrived(client, id, Some(expected.what), carrier.line.resp3, text);
            carrier.skip(used);
        } else {
            let used = self.arrived(client, id, expected.map(|expected| expected.what), carrier.line.resp3, frame);
            carrier.skip(used);
        }
        self.answered(client);
    }

    /// A reply has come that is needed as a whole.
    fn whole(
        &mut self,
        id: ConnectionId,
        carrier: &mut UpstreamConnection,
        expected: InFlight,
        reply: Vec<u8>,
        now: Duration,
    ) {
        match expected.what {
            PendingReply::HandshakeStep(greeting) => {
                let was_refused = carrier.refusal.is_some();
                carrier.greeted(greeting, &reply);
                if let (false, Some(refusal)) = (was_refused, carrier.refusal.clone()) {
                    self.refused(carrier, &refusal, now);
                }
            }
            PendingReply::Queued => {
                if reply.first() == Some(&b'-') && carrier.redirect.is_none() {
                    carrier.redirect = Redirect::parse(&reply, carrier.line.node);
                }
            }
            PendingReply::Topology => {
                if let Purpose::Probe(cluster) = carrier.purpose {
                    self.told(cluster, id, carrier.line.node, reply, now);
                }
            }
            PendingReply::Client(..) | PendingReply::SubCommand(..) | PendingReply::Exec(..) => {
                if expected.names_scripts && self.is_asked_in_full(carrier, expected, &reply, now) {
                    return;
                }
                let redirect = match carrier.redirect.take() {
                    Some(redirect) if matches!(expected.what, PendingReply::Exec(..)) => Some(redirect),
                    _ if carrier.line.node.is_some() => Redirect::parse(&reply, carrier.line.node),
                    _ => None,
                };
                match redirect {
                    Some(redirect) => self.redirect((id, carrier), expected, redirect, &reply, now),
                    None => {
                        carrier.drop_kept(expected);
                        self.give(expected.what, reply);
                    }
                }
            }
            PendingReply::Subscription(..) | PendingReply::Nobody => {}
        }
    }

    /// A whole reply goes to whom it belongs.
    fn give(&mut self, expected: PendingReply, reply: Vec<u8>) {
        match expected {
            PendingReply::Client(client, sequence) | PendingReply::Exec(client, sequence) => {
                if let Some(to) = self.clients.get_mut(client) {
                    to.window.count(reply.len(), true);
                    to.queue.replace(sequence, &reply, &mut to.out);
                }
                self.answered(client);
            }
            PendingReply::SubCommand(client, sequence, part) => {
                if let Some(to) = self.clients.get_mut(client) {
                    to.window.count(reply.len(), true);
                    if reply.first() == Some(&b'-') {
                        to.selecting = None;
                    }
                    to.heard(&reply);
                    to.queue.part(sequence, part, reply, &mut to.out);
                }
                self.answered(client);
            }
            PendingReply::Subscription(client, sequence, _) => {
                if let Some(to) = self.clients.get_mut(client) {
                    to.queue.replace(sequence, &reply, &mut to.out);
                }
                self.answered(client);
            }
            PendingReply::HandshakeStep(_) | PendingReply::Queued | PendingReply::Topology | PendingReply::Nobody => {}
        }
    }

    /// A node hasn't executed a command, and says who would.
    fn redirect(
        &mut self,
        (id, carrier): (ConnectionId, &mut UpstreamConnection),
        expected: InFlight,
        redirect: Redirect,
        reply: &[u8],
        now: Duration,
    ) {
        let bytes = carrier.take_kept(expected);
        let mut line = carrier.line.clone();
        let (awaited, is_exhausted) = match redirect {
            // While keys are on their way, each try may lead from node to node.
            Redirect::TryAgain => {
                (InFlight { hops: 0, tries: expected.tries.saturating_add(1), ..expected }, expected.tries >= AGAIN.0)
            }
            _ => (InFlight { hops: expected.hops + 1, ..expected }, expected.hops >= HOPS),
        };
        let to: Option<(SocketAddr, bool)> = match redirect {
            Redirect::Moved(slot, Some(to)) => {
                self.moved(&line.upstream, slot, to, now);
                Some((to, false))
            }
            Redirect::Ask(Some(to)) => Some((to, true)),
            Redirect::Moved(_, None) | Redirect::Ask(None) | Redirect::Backoff => {
                self.suspect(&line.upstream, now);
                None
            }
            Redirect::TryAgain => {
                if !is_exhausted
                    && carrier.purpose == Purpose::Shared
                    && !self.is_followed(carrier, expected.what, &bytes)
                {
                    self.hold_behind(expected.what);
                    self.try_again(Retry { awaited, bytes, line, patience: carrier.patience }, now);
                    return;
                }
                None
            }
        };
        let Some((node, asks)) = to.filter(|_| !is_exhausted && !bytes.is_empty()) else {
            return self.give(expected.what, told_plainly(redirect, reply));
        };
        self.hold_behind(expected.what);
        if let (Purpose::Dedicated(_) | Purpose::Pushes(_), PendingReply::Exec(client, _)) =
            (carrier.purpose, expected.what)
        {
            // What was watched has gone to another node, unwatched: as after a change, the client tries again.
            let resp3 = self.clients.get(client).is_some_and(|client| client.resp3);
            return self.give(expected.what, if resp3 { b"_\r\n".to_vec() } else { b"*-1\r\n".to_vec() });
        }
        (line.node, line.readonly) = (Some(node), false);
        let retry = Retry { awaited, bytes, line, patience: carrier.patience };
        match carrier.purpose {
            Purpose::Dedicated(client) | Purpose::Pushes(client) => {
                self.send_over_another(client, (id, carrier), retry, asks, now)
            }
            Purpose::Shared | Purpose::Parked | Purpose::Probe(_) => self.send_on(retry, asks, now),
        }
    }

    /// What a client says next waits until those are answered that may have to follow this one: the order of its commands stays,
    /// whichever node executes them.
    pub(in crate::multiplexer) fn hold_behind(&mut self, what: PendingReply) {
        if let PendingReply::Client(client, _) | PendingReply::Exec(client, _) | PendingReply::SubCommand(client, ..) =
            what
            && let Some(client) = self.clients.get_mut(client)
            && !matches!(client.waits_for, Some(crate::multiplexer::client::Wait::Answers))
        {
            client.waits_for = Some(crate::multiplexer::client::Wait::AnswersBefore(client.queue.end()));
        }
    }

    /// Sends a command once more, over a shared connection.
    pub(in crate::multiplexer) fn send_on(&mut self, retry: Retry, asks: bool, now: Duration) {
        let Retry { awaited, bytes, line, patience } = retry;
        match self.line(line, now) {
            Ok(link) => {
                self.bring_all(link, awaited, &bytes, patience, now);
                if asks {
                    self.send(link, PendingReply::Nobody.into(), patience, now, |out| {
                        encode::command(out, &[b"ASKING"])
                    });
                }
                self.send_burst(link, awaited, &bytes, patience, now);
            }
            Err(crate::multiplexer::upstream::pool::Missing::Error(text)) => self.fail(awaited.what, &text),
            Err(crate::multiplexer::upstream::pool::Missing::Wait(_)) => {
                self.fail(awaited.what, "ERR redis-mesh: the cluster is changing; try again")
            }
        }
    }

    /// What a client does over a connection of its own has to be done at another node.
    fn send_over_another(
        &mut self,
        id: ClientId,
        (from, carrier): (ConnectionId, &mut UpstreamConnection),
        retry: Retry,
        asks: bool,
        now: Duration,
    ) {
        let Retry { awaited, bytes, line, patience } = retry;
        let Some(own) = self.clients.get(id).and_then(|client| client.own) else {
            return self.fail(awaited.what, "ERR redis-mesh: the cluster is changing; try again");
        };
        // What was sent before it may have led there already.
        let is_there = self.carriers.get(own.carrier).is_some_and(|other| other.line.node == line.node);
        let link = if is_there { Ok(own.carrier) } else { self.own_carrier(id, line, false, now) };
        match link {
            Ok(link) => {
                if link != own.carrier
                    && let Some(client) = self.clients.get_mut(id)
                {
                    // Keys that were watched before, if there were any, aren't watched there.
                    client.lost_watch |= own.is_watching;
                    client.own = Some(crate::multiplexer::client::Dedicated { carrier: link, ..own });
                    // Replies may be to come over the one before. Nobody else is to have it then.
                    carrier.is_changed = true;
                    if own.carrier != from {
                        self.retire_own(own.carrier);
                    }
                }
                self.bring_all(link, awaited, &bytes, patience, now);
                if asks {
                    self.send(link, PendingReply::Nobody.into(), patience, now, |out| {
                        encode::command(out, &[b"ASKING"])
                    });
                }
                self.send_burst(link, awaited, &bytes, patience, now);
            }
            Err(crate::multiplexer::upstream::pool::Missing::Error(text)) => self.fail(awaited.what, &text),
            Err(crate::multiplexer::upstream::pool::Missing::Wait(_)) => {
                self.fail(awaited.what, "ERR redis-mesh: the cluster is changing; try again")
            }
        }
    }

    /// A connection of a client's own ends when nothing is to come over it any more.
    fn retire_own(&mut self, id: ConnectionId) {
        let Some(carrier) = self.carriers.get_mut(id) else { return };
        carrier.is_changed = true;
        if carrier.expected.is_empty() {
            self.drop_carrier(id);
        }
    }

    /// A command, or a transaction, whose replies but the last are nobody's.
    fn send_burst(
        &mut self,
        link: ConnectionId,
        awaited: InFlight,
        bytes: &[u8],
        patience: Option<Duration>,
        now: Duration,
    ) {
        if let PendingReply::Exec(..) = awaited.what {
            // As many replies as it has commands.
            let mut commands = 0;
            each_command(bytes, |_| commands += 1);
            self.send(link, PendingReply::Nobody.into(), patience, now, |_| {});
            for _ in 2..commands {
                self.send(link, PendingReply::Queued.into(), patience, now, |_| {});
            }
        }
        self.send(link, awaited, patience, now, |out| out.extend_from_slice(bytes));
    }

    /// Redis refuses what a connection begins with.
    fn refused(&mut self, carrier: &UpstreamConnection, refusal: &Refusal, now: Duration) {
        if !refusal.is_general {
            return;
        }
        // Where clients log in themselves, it is theirs.
        let leads_there = |upstream: &Endpoint| !upstream.is_clients() && *upstream == carrier.line.upstream;
        self.hosts.count_where(Stat::LoginFailures, |config| {
            config.targets.iter().any(|target| {
                leads_there(&target.upstream) || target.mirrors.iter().any(|mirror| leads_there(&mirror.upstream))
            })
        });
        self.hold_off(peer(&carrier.line.upstream, carrier.line.node), refusal.text.clone(), now);
    }

    /// A connection could not be opened, or is gone.
    pub fn lost(&mut self, id: ConnectionId, now: Duration) {
        self.lost_because(id, Loss::Ended, now);
    }

    pub(in crate::multiplexer) fn lost_because(&mut self, id: ConnectionId, how: Loss, now: Duration) {
        self.clock = now;
        let Some(mut carrier) = self.carriers.remove(id) else { return };
        self.forget(id, &carrier);
        let cluster = carrier.line.upstream.cluster.clone();
        let text = match (&carrier.refusal, carrier.is_greeted, how) {
            (Some(refusal), ..) => refusal.text.clone(),
            (None, false, _) => format!("ERR redis-mesh: {cluster} can't be reached"),
            (None, true, Loss::Silent) => {
                format!("ERR redis-mesh: {cluster} didn't answer in time; the command may have been executed")
            }
            (None, true, Loss::Ended | Loss::Replaced) => {
                format!("ERR redis-mesh: the connection to {cluster} was lost; the command may have been executed")
            }
        };
        if !carrier.is_greeted && carrier.refusal.is_none() {
            self.hold_off(peer(&carrier.line.upstream, carrier.line.node), text.clone(), now);
        }
        if let Purpose::Probe(index) = carrier.purpose {
            return self.probe_lost(index, id, text.trim_start_matches("ERR redis-mesh: "), now);
        }
        if carrier.line.node.is_some() {
            self.suspect(&carrier.line.upstream, now);
        }
        let mut is_begun = carrier.framer.is_open() && carrier.whole.is_empty();
        let is_cut = self.is_cut_with(id, carrier.purpose);
        let mut is_told = false;
        while let Some(expected) = carrier.expected.pop_front() {
            let bytes = carrier.take_kept(expected);
            if std::mem::take(&mut is_begun)
                && let PendingReply::Client(client, sequence) | PendingReply::Exec(client, sequence) = expected.what
                && let Some(to) = self.clients.get_mut(client)
                && to.queue.has_begun(sequence)
            {
                // Half a reply is out; nothing that could follow would be understood.
                self.cut_off(client);
                continue;
            }
            if self.may_try_elsewhere(&carrier, expected, &bytes) {
                let line = carrier.line.clone();
                self.elsewhere(Retry { awaited: expected, bytes, line, patience: carrier.patience }, &text, now);
                continue;
            }
            if let PendingReply::Subscription(.., more) = expected.what {
                // Who is cut off hears nothing more; otherwise, one error answers a command for several channels.
                if is_cut {
                    continue;
                }
                if std::mem::replace(&mut is_told, more > 0) {
                    self.give(expected.what, Vec::new());
                    continue;
                }
            }
            self.fail(expected.what, &text);
        }
        match carrier.purpose {
            Purpose::Pushes(client) if is_cut => self.cut_off(client),
            Purpose::Dedicated(client) => {
                if let Some(client) = self.clients.get_mut(client)
                    && let Some(own) = client.own.filter(|own| own.carrier == id)
                {
                    client.lost_watch |= own.is_watching;
                    client.own = None;
                }
            }
            Purpose::Pushes(_) | Purpose::Shared | Purpose::Parked | Purpose::Probe(_) => {}
        }
    }

    /// Subscriptions, and what a client is to be told, are lost with a connection; the client has to know.
    fn is_cut_with(&self, id: ConnectionId, purpose: Purpose) -> bool {
        let Purpose::Pushes(client) = purpose else { return false };
        self.clients.get(client).is_some_and(|client| {
            client.is_monitor || client.own.is_some_and(|own| own.carrier == id) || !client.subscriptions.spares(id)
        })
    }

    /// Whether a command whose connection was lost may be sent to another node of its shard: it only reads, and others may answer.
    fn may_try_elsewhere(&self, carrier: &UpstreamConnection, expected: InFlight, bytes: &[u8]) -> bool {
        carrier.purpose == Purpose::Shared
            && carrier.line.readonly
            && expected.is_read
            && expected.hops < HOPS
            && !bytes.is_empty()
            && carrier.refusal.is_none()
    }

    /// Sends a read to the node that the cluster says is the master: a replica that is asked for a key says who that is.
    fn elsewhere(&mut self, retry: Retry, text: &str, now: Duration) {
        let awaited = InFlight { hops: retry.awaited.hops + 1, ..retry.awaited };
        match self.sibling(&retry.line) {
            Some(line) => self.send_on(Retry { awaited, line, ..retry }, false, now),
            None => self.fail(retry.awaited.what, text),
        }
    }

    /// A client's connection is closed, since nothing true could be said over it any more.
    pub(in crate::multiplexer) fn cut_off(&mut self, id: ClientId) {
        if let Some(client) = self.clients.get_mut(id).filter(|client| !client.is_closed) {
            (client.is_closing, client.is_closed) = (true, true);
            self.outputs.push_back(Output::CloseDownstream(id));
        }
    }

    /// A client doesn't need a connection of its own any more, and nothing that comes over it.
    pub(in crate::multiplexer) fn orphan(&mut self, id: ConnectionId) {
        self.drop_carrier(id);
    }

    /// What was expected fails.
    pub(in crate::multiplexer) fn fail(&mut self, expected: PendingReply, text: &str) {
        let mut reply = Vec::new();
        encode::error(&mut reply, text.as_bytes());
        self.give(expected, reply);
    }
}

/// What a client is told instead of a redirection that it could do nothing with.
fn told_plainly(redirect: Redirect, reply: &[u8]) -> Vec<u8> {
    match redirect {
        Redirect::TryAgain | Redirect::Backoff => reply.to_vec(),
        Redirect::Moved(..) | Redirect::Ask(_) => {
            b"-ERR redis-mesh: the Redis Cluster sends the command from node to node; try again\r\n".to_vec()
        }
    }
}
