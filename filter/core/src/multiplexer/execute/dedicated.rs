//! Connections of a client's own: to wait, to watch keys, to subscribe.

use crate::cluster::slot::slot;
use crate::command::Args;
use crate::multiplexer::client::subscription::{PubSubFrame, SubscriptionChange, SubscriptionKind};
use crate::multiplexer::client::{Client, Dedicated, Wait};
use crate::multiplexer::execute::{Request, expect};
use crate::multiplexer::reply::aggregate::{Aggregation, ResponsePolicy};
use crate::multiplexer::reply::key_names::KeyNames;
use crate::multiplexer::routing::decide::Over;
use crate::multiplexer::routing::target::{Edit, RouteTarget, write};
use crate::multiplexer::upstream::connection::{PendingReply, Purpose};
use crate::multiplexer::upstream::pool::{Access, Missing};
use crate::multiplexer::{ClientId, ConnectionId, Multiplexer, Output, Step};
use crate::resp::encode;
use std::time::Duration;

impl Multiplexer {
    /// Sends a command over a connection of the client's own. Nothing overtakes anything: what was sent before has been
    /// answered, and what comes after waits for the answer.
    pub(in crate::multiplexer) fn over_own(
        &mut self,
        id: ClientId,
        client: &mut Client,
        request: Request<'_>,
        (place, edits, over): (RouteTarget, &[Edit], Over),
        now: Duration,
    ) -> Result<Step, Missing> {
        let own = match client.own {
            Some(own) if own.is_held() && client.config.is_same(own.place, place) => {
                self.agree(client, own.carrier, now);
                own
            }
            // What is watched in one place can't be carried out in another.
            Some(own) if own.is_watching && over == Over::Watching => {
                let is_elsewhere = own.place.target != place.target;
                return Err(Missing::Error(
                    (if is_elsewhere {
                        crate::multiplexer::routing::decide::CROSS
                    } else {
                        crate::multiplexer::routing::decide::CROSS_SLOT
                    })
                    .into(),
                ));
            }
            _ if !client.queue.is_empty() => return Err(Missing::Wait(Wait::Answers)),
            Some(own) if own.is_held() => {
                // A command that blocks elsewhere: a second connection would have to be kept beside this one.
                let text = "ERR redis-mesh: a client that watches keys or tracks can't wait at another place";
                let _ = own;
                return Err(Missing::Error(text.into()));
            }
            _ => {
                let line = self.own_line(client, place, now)?;
                let pushes = over == Over::Special && client.resp3;
                let carrier = self.own_carrier(id, line, pushes, now)?;
                Dedicated { carrier, place, is_watching: false, is_special: false }
            }
        };
        if over == Over::Caught {
            // Redis counts from the last command of this connection, which then is after all that the client has written.
            self.send(own.carrier, PendingReply::Nobody.into(), None, now, |out| encode::command(out, &[b"PING"]));
        }
        let what = expect(id, client, request, edits);
        // It waits as long as it says itself.
        let patience = if matches!(over, Over::Dedicated | Over::Caught) { None } else { client.config.op_timeout };
        self.send(own.carrier, what.into(), patience, now, |out| write(request.args, edits, request.raw, out));
        client.own = Some(Dedicated {
            is_watching: own.is_watching || over == Over::Watching,
            is_special: own.is_special || over == Over::Special,
            ..own
        });
        client.waits_for = Some(Wait::Answers);
        if !matches!(over, Over::Watching | Over::Special) {
            self.mirror(client, place.target, request, edits, now, |out| write(request.args, edits, request.raw, out));
        }
        Ok(Step::Taken)
    }

    /// The client may have chosen the other protocol since it has a connection of its own.
    pub(in crate::multiplexer) fn agree(&mut self, client: &Client, link: ConnectionId, now: Duration) {
        let Some(carrier) = self.carriers.get_mut(link).filter(|carrier| carrier.line.resp3 != client.resp3) else {
            return;
        };
        carrier.line.resp3 = client.resp3;
        let version: &[u8] = if client.resp3 { b"3" } else { b"2" };
        self.send(link, PendingReply::Nobody.into(), None, now, |out| encode::command(out, &[b"HELLO", version]));
    }

    /// Keys are watched no more.
    pub(in crate::multiplexer) fn unwatch(&mut self, client: &mut Client, now: Duration) {
        client.lost_watch = false;
        let Some(own) = client.own.as_mut().filter(|own| own.is_watching) else { return };
        own.is_watching = false;
        let carrier = own.carrier;
        // What follows may go over another connection and mustn't overtake what went over this one.
        client.waits_for = Some(Wait::Answers);
        self.send(carrier, PendingReply::Nobody.into(), None, now, |out| encode::command(out, &[b"UNWATCH"]));
    }

    /// A connection of a client's own has nothing left to do.
    pub(in crate::multiplexer) fn release(&mut self, id: ClientId, carrier: ConnectionId, now: Duration) {
        if !self.carriers.get(carrier).is_some_and(|carrier| carrier.expected.is_empty()) {
            return;
        }
        match self.clients.get_mut(id) {
            None => self.park(carrier, now),
            Some(client) => {
                if client.own.is_some_and(|own| own.carrier == carrier) {
                    if client.own.is_some_and(|own| own.is_held()) {
                        return;
                    }
                    client.own = None;
                    return self.park(carrier, now);
                }
                let subscriptions = &mut client.subscriptions;
                if subscriptions.carriers.contains(&carrier) && (client.is_monitor || !subscriptions.spares(carrier)) {
                    return;
                }
                // Or it has been replaced, while it had still to hear that nothing is watched any more.
                subscriptions.carriers.retain(|kept| *kept != carrier);
                self.park(carrier, now);
            }
        }
    }

    /// What a client has of its own ends with it. Redis notices by the end of the connection.
    pub(in crate::multiplexer) fn disown(&mut self, client: &mut Client) {
        let is_nobodys = |own: &Dedicated| {
            let expected = self.carriers.get(own.carrier).map(|carrier| &carrier.expected);
            !own.is_held() && expected.is_some_and(|all| all.iter().all(|next| next.what == PendingReply::Nobody))
        };
        // One that has only to hear that nothing is watched any more is used again.
        let own = client.own.take().filter(|own| !is_nobodys(own)).map(|own| own.carrier);
        for carrier in own.into_iter().chain(std::mem::take(&mut client.subscriptions).carriers) {
            self.drop_carrier(carrier);
        }
    }

    /// RESET.
    pub(in crate::multiplexer) fn reset(&mut self, client: &mut Client) {
        self.disown(client);
        (client.resp3, client.is_authenticated, client.transaction) = (false, false, None);
        (client.database, client.selecting, client.lost_watch, client.is_monitor) = (0, None, false, false);
        (client.login, client.presented) = (None, None);
        client.hearing = crate::multiplexer::client::ReplyMode::On;
        client.name.clear();
        client.unlink();
    }

    /// Asks all servers for a database.
    pub(in crate::multiplexer) fn select(
        &mut self,
        id: ClientId,
        client: &mut Client,
        index: u32,
        now: Duration,
    ) -> Result<Step, Missing> {
        if !client.queue.is_empty() {
            return Err(Missing::Wait(Wait::Answers));
        }
        let before = client.database;
        client.database = index;
        client.unlink();
        let targets = client.config.targets.len();
        let links: Result<Vec<ConnectionId>, Missing> = (0..targets)
            .map(|target| self.link(client, RouteTarget { target, slot: None }, Access::Write, now))
            .collect();
        client.database = before;
        client.unlink();
        let links = links?;
        let merge = Aggregation::new(ResponsePolicy::Same, links.len(), client.resp3);
        let sequence = client.queue.expect_parts(merge, client.is_mute());
        for (part, link) in links.into_iter().enumerate() {
            if let Some(own) = self.carriers.get_mut(link).filter(|link| link.purpose != Purpose::Shared) {
                own.is_changed = true;
            }
            let expected = PendingReply::SubCommand(id, sequence, part as u32);
            self.send(link, expected.into(), client.config.op_timeout, now, |out| {
                encode::command(out, &[b"SELECT", index.to_string().as_bytes()]);
            });
        }
        client.selecting = Some(index);
        client.waits_for = Some(Wait::Answers);
        Ok(Step::Taken)
    }

    /// SUBSCRIBE and its like.
    pub(in crate::multiplexer) fn subscribe(
        &mut self,
        id: ClientId,
        client: &mut Client,
        change: SubscriptionChange,
        args: &Args<'_>,
        now: Duration,
    ) -> Result<Step, Missing> {
        let is_first = change.begins && client.subscriptions.carriers.is_empty();
        let is_for_all = !change.begins && args.count == 1;
        let follows_others = !client.queue.is_empty() && !client.is_subscribing();
        if follows_others
            || (is_first || is_for_all || change.kind == SubscriptionKind::Shard) && !client.queue.is_empty()
        {
            // Nothing overtakes anything; by then it is known what there is; and a client of RESP2 that has subscribed gets
            // nothing out of turn.
            return Err(Missing::Wait(Wait::Answers));
        }
        self.change_all(id, client, change, args, now)?;
        client.subscribed = client.queue.end();
        Ok(Step::Taken)
    }

    fn change_all(
        &mut self,
        id: ClientId,
        client: &mut Client,
        change: SubscriptionChange,
        args: &Args<'_>,
        now: Duration,
    ) -> Result<(), Missing> {
        let names: Vec<Vec<u8>> = match !change.begins && args.count == 1 {
            true => client.subscriptions.names(change.kind),
            false => (1..args.count).map(|index| args.get(index).to_vec()).collect(),
        };
        if !client.resp3 {
            // What comes after depends on whether there is a subscription by then.
            client.waits_for = Some(Wait::Answers);
        }
        if names.is_empty() {
            let reply = client.subscriptions.confirm(change, None, None, client.resp3);
            client.answer(&reply);
            return Ok(());
        }
        if change.begins {
            let carrier = self.subscriber(id, client, change, &names, now)?;
            self.change(id, client, change, &names, carrier, now);
            return Ok(());
        }
        for name in names {
            match client.subscriptions.carrier(change.kind, &name).or(client.subscriptions.carriers.first().copied()) {
                Some(carrier) => self.change(id, client, change, &[name], carrier, now),
                None => {
                    let reply = client.subscriptions.confirm(change, Some(&name), None, client.resp3);
                    client.answer(&reply);
                }
            }
        }
        Ok(())
    }

    fn change(
        &mut self,
        id: ClientId,
        client: &mut Client,
        change: SubscriptionChange,
        names: &[Vec<u8>],
        carrier: ConnectionId,
        now: Duration,
    ) {
        let mut words: Vec<&[u8]> = vec![change.name().as_bytes()];
        words.extend(names.iter().map(Vec::as_slice));
        for index in 0..names.len() {
            // Each is confirmed by itself.
            let sequence = client.queue.expect(client.is_mute());
            let expected = PendingReply::Subscription(id, sequence, (names.len() - 1 - index) as u32);
            self.send(carrier, expected.into(), None, now, |out| {
                if index == 0 {
                    encode::command(out, &words);
                }
            });
        }
    }

    /// The connection on which a client subscribes: one for channels and patterns, and in a cluster one for each node that has
    /// channels of shards.
    fn subscriber(
        &mut self,
        id: ClientId,
        client: &mut Client,
        change: SubscriptionChange,
        names: &[Vec<u8>],
        now: Duration,
    ) -> Result<ConnectionId, Missing> {
        let Some(target) = client.config.home() else {
            return Err(Missing::Error(format!(
                "ERR redis-mesh: {} needs a destination that is the one for all other keys, and there is none",
                change.name().to_ascii_uppercase()
            )));
        };
        let is_cluster = client.config.is_cluster(target);
        let of = (is_cluster && change.kind == SubscriptionKind::Shard)
            .then(|| names.first().map(|name| slot(name)))
            .flatten();
        if is_cluster && change.kind == SubscriptionKind::Shard && names.iter().any(|name| Some(slot(name)) != of) {
            return Err(Missing::Error(crate::multiplexer::routing::decide::CROSS_SLOT.into()));
        }
        let line = self.own_line(client, RouteTarget { target, slot: of }, now)?;
        let fits = |carrier: &&ConnectionId| {
            let known = self.carriers.get(**carrier);
            known.is_some_and(|known| of.is_none() || known.line.node == line.node)
        };
        if let Some(known) = client.subscriptions.carriers.iter().find(fits) {
            return Ok(*known);
        }
        let carrier = self.own_carrier(id, line, true, now)?;
        client.subscriptions.carriers.push(carrier);
        Ok(carrier)
    }

    /// MONITOR: all servers tell.
    pub(in crate::multiplexer) fn monitor(
        &mut self,
        id: ClientId,
        client: &mut Client,
        now: Duration,
    ) -> Result<Step, Missing> {
        if !client.queue.is_empty() {
            return Err(Missing::Wait(Wait::Answers));
        }
        let mut lines = Vec::new();
        for target in 0..client.config.targets.len() {
            let line = self.own_line(client, RouteTarget { target, slot: None }, now)?;
            match self.shards(client, target, now)? {
                None => lines.push(line),
                Some(shards) => {
                    for shard in 0..shards {
                        let node = self.master_of(client, target, shard);
                        lines.push(crate::multiplexer::upstream::connection::PoolKey { node, ..line.clone() });
                    }
                }
            }
        }
        lines.dedup();
        let merge = Aggregation::new(ResponsePolicy::Same, lines.len(), client.resp3);
        let sequence = client.queue.expect_parts(merge, client.is_mute());
        for (part, line) in lines.into_iter().enumerate() {
            let expected = PendingReply::SubCommand(id, sequence, part as u32);
            match self.own_carrier(id, line, true, now) {
                Ok(carrier) => {
                    client.subscriptions.carriers.push(carrier);
                    self.send(carrier, expected.into(), None, now, |out| encode::command(out, &[b"MONITOR"]));
                }
                Err(Missing::Error(text)) => {
                    let mut reply = Vec::new();
                    encode::error(&mut reply, text.as_bytes());
                    client.queue.part(sequence, part as u32, reply, &mut client.out);
                }
                Err(Missing::Wait(_)) => {}
            }
        }
        client.is_monitor = true;
        Ok(Step::Taken)
    }

    /// Something whole has come over a connection on which a client has subscribed. Returns how many of the expected replies it
    /// answers.
    pub(in crate::multiplexer) fn arrived(
        &mut self,
        id: ClientId,
        carrier: ConnectionId,
        expected: Option<PendingReply>,
        resp3: bool,
        frame: &[u8],
    ) -> usize {
        let Some(client) = self.clients.get_mut(id) else { return 1 };
        let arrival = PubSubFrame::of(frame, resp3);
        match (arrival, expected) {
            (PubSubFrame::Confirmed(change, name), Some(PendingReply::Subscription(_, sequence, _))) => {
                let reply = client.subscriptions.confirm(change, name, Some(carrier), resp3);
                client.queue.reply(sequence, &reply, true, &mut client.out);
                1
            }
            // A node has given away a slot, and with it the channels in it.
            (PubSubFrame::Confirmed(change, name), _) => {
                let told = client.subscriptions.confirm(change, name, None, resp3);
                self.push(id, &told);
                0
            }
            (PubSubFrame::Reply, Some(PendingReply::Subscription(_, sequence, more))) => {
                // An error: the only answer for all of them.
                client.queue.replace(sequence, frame, &mut client.out);
                for next in 1..=u64::from(more) {
                    client.queue.reply(sequence + next, b"", true, &mut client.out);
                }
                1 + more as usize
            }
            (PubSubFrame::Push | PubSubFrame::Reply, _) => {
                let config = &client.config;
                let names = client.own.filter(|own| own.carrier == carrier && KeyNames::decide(config));
                let names = names.map(|own| KeyNames::new(config.clone(), vec![own.place.target], None, (0, 0)));
                match names.and_then(|names| names.invalidated(frame)) {
                    Some(renamed) => self.push(id, &renamed),
                    None => self.push(id, frame),
                }
                0
            }
        }
    }

    /// A client is told something that is no reply.
    fn push(&mut self, id: ClientId, frame: &[u8]) {
        let Some(client) = self.clients.get_mut(id) else { return };
        client.unread = if client.is_full { client.unread + frame.len() } else { 0 };
        if client.unread > UNREAD && !client.is_closed {
            // As Redis does with those who don't read (`client-output-buffer-limit pubsub`).
            (client.is_closing, client.is_closed) = (true, true);
            if let Some(tally) = self.hosts.tally(client.host) {
                tally.cut_off += 1;
            }
            self.outputs.push_back(Output::AbortDownstream(id));
            return;
        }
        client.queue.push(frame, &mut client.out);
    }

    /// True if what begins now, on a connection of this purpose, isn't simply the next reply.
    pub(in crate::multiplexer) fn is_pushed(
        purpose: Purpose,
        resp3: bool,
        expected: Option<PendingReply>,
        first: u8,
    ) -> Option<ClientId> {
        let Purpose::Pushes(client) = purpose else { return None };
        let is_pushed = match expected {
            Some(PendingReply::HandshakeStep(_)) => false,
            None | Some(PendingReply::Subscription(..)) => true,
            Some(_) => resp3 && first == b'>',
        };
        is_pushed.then_some(client)
    }
}

/// Bytes of pushes that may wait for a client that doesn't read.
const UNREAD: usize = 8 * 1024 * 1024;
