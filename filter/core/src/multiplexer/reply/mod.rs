//! What the Redis side tells: replies, pushes, losses and changes, delivered to the clients that
//! they concern.

pub mod aggregate;
pub mod key_names;
pub mod key_rewrite;
mod pubsub;
pub mod scan_cursor;

use super::client::held_pushes::PushOrder;
use super::client::{Client, Life, Wait};
use super::effects::Effects;
use super::execute::context::Context;
use super::execute::{backlog, dedicated, follow, state};
use super::ids::{ClientId, ClientTag, ClusterId, ConnectionId};
use super::inquiry::table::InquiryTable;
use super::slot_map::SlotMap;
use super::stats::StatsTable;
use super::unread;
use super::upstream::Upstreams;
use super::upstream::availability::Outage;
use super::upstream::copies;
use super::upstream::endpoint::UpstreamEndpoint;
use super::upstream::events::{Event, LostConnection};
use super::upstream::failover;
use super::upstream::pending::{Owner, PendingReply};
use super::upstream::redirect_gate;
use super::upstream::retry::Retry;
use crate::resp::encode;
use crate::stats::Stat;

/// Bytes of pushes that may wait for a client that doesn't read, or behind a reply whose rest doesn't
/// come.
const MAX_UNREAD: usize = 8 * 1024 * 1024;

/// The clients of a worker.
pub type Clients = SlotMap<ClientTag, Client>;

/// Delivers events to clients.
pub struct EventDelivery<'a> {
    /// The clients.
    pub clients: &'a mut Clients,
    /// The Redis side, for what a client has of its own there.
    pub upstreams: &'a mut Upstreams,
    /// Time, randomness, outputs and timers.
    pub effects: &'a mut Effects,
    /// Counters.
    pub stats: &'a mut StatsTable,
    /// What workers ask each other.
    pub inquiries: &'a mut InquiryTable,
}

impl EventDelivery<'_> {
    /// The clients, and what is done for one of them works with.
    fn split(&mut self) -> (&mut Clients, Context<'_>) {
        let EventDelivery { clients, upstreams, effects, stats, inquiries } = self;
        (clients, Context { upstreams, effects, stats, inquiries })
    }

    /// Delivers all that has happened.
    pub fn deliver_all(&mut self) {
        while let Some(event) = self.upstreams.next_event() {
            self.deliver(event);
        }
    }

    /// Delivers an event.
    pub fn deliver(&mut self, event: Event<'_>) {
        match event {
            Event::Piece { owner, bytes, is_complete } => {
                if let Some(client) = self.clients.get_mut(owner.client) {
                    client.output.reply(owner.sequence, bytes, is_complete);
                }
                self.announce(owner.client);
            }
            Event::Reply { to, reply } => self.reply(to, reply),
            Event::Failed { to, outage } => self.failed(to, &outage),
            Event::Truncated { owner, error } => self.truncated(owner, &error),
            Event::SubscriptionChanged(id, confirmation) => self.subscription_changed(id, &confirmation),
            Event::ChangedSilently(id, confirmation) => self.changed_silently(id, &confirmation),
            Event::SilentChangeFailed { client, connection } => self.silent_change_failed(client, connection),
            Event::SubscriptionFailed { owner, more, reply } => self.subscription_failed(owner, more, &reply),
            Event::Push { client, connection, frame } => {
                self.rename_and_push(client, connection, &frame);
                self.announce(client);
            }
            Event::Redirected(owner) => self.change(owner.client, Client::wait_for_answers_so_far),
            Event::WaitedInVain(id, since) => {
                self.change(id, |client| client.input.arrivals.waited_in_vain(since));
            }
            Event::RedirectedDedicated { client, from, retry, asks } => {
                self.redirected_dedicated(client, from, (*retry, asks));
            }
            Event::Idle { client, connection } => match self.clients.get_mut(client) {
                Some(client) => dedicated::on_idle(self.upstreams, client, connection, self.effects),
                None => self.upstreams.release(connection, self.effects),
            },
            Event::Closed { client, connection } => {
                if let Some(client) = self.clients.get_mut(client) {
                    client.subscriptions.forget_connection(connection);
                    client.dedicated.backlog.forget_connection(connection);
                }
            }
            Event::Lost(client, lost) => self.lost(client, &lost),
            Event::Writable(connection) => self.wake_all(Wait::Connection(connection)),
            Event::ClusterAnswered(cluster) => {
                redirect_gate::release(self.upstreams, cluster, self.effects);
                copies::release(self.upstreams, cluster, self.effects);
                self.wake_all(Wait::Topology(cluster));
                self.cluster_answered(cluster);
            }
            Event::NodeAnswered(cluster) => self.go_on_after_failover(cluster),
            Event::SlotsServed(cluster) => failover::release(self.upstreams, cluster, self.effects),
            Event::SlotsMoved(cluster) => {
                self.slots_moved(cluster);
                self.go_on_after_failover(cluster);
            }
            Event::RulesChanged(client) => self.follow(client),
            Event::Introduced(endpoint) => self.introduced(*endpoint),
            Event::LoginRefused(endpoint) => self.login_refused(&endpoint),
            Event::ServerAnswered(question, reply) => self.inquiries.server_answers.push_back((question, Ok(reply))),
            Event::ExecAbandoned(owner) => copies::exec_failed(self.upstreams, owner),
            Event::Copies(host, fate, times) => self.stats.count_copies(host, fate, times),
        }
    }

    /// Changes what is known of a client.
    fn change(&mut self, id: ClientId, change: impl FnOnce(&mut Client)) {
        if let Some(client) = self.clients.get_mut(id) {
            change(client);
        }
    }

    /// A command over a client's own connection has to be sent to another node.
    fn redirected_dedicated(&mut self, id: ClientId, from: ConnectionId, retry: (Retry, bool)) {
        let (clients, mut context) = self.split();
        let Some(client) = clients.get_mut(id) else { return };
        dedicated::follow_redirect(&mut context, client, from, retry);
        self.announce(id);
    }

    /// A client has got something: the host is told, and the client goes on if it has waited for
    /// it.
    pub fn announce(&mut self, id: ClientId) {
        if let Some(client) = self.clients.get_mut(id) {
            if client.dedicated.state.is_some() && state::settle(self.upstreams, client, self.effects) {
                state::forget_answered(client);
            }
            client.announce(&mut self.effects.outbox, self.stats, self.effects.now);
            backlog::regulate(self.upstreams, client, self.effects);
            client.wake(&mut self.effects.outbox);
            if client.output.kept() >= unread::SMALL {
                unread::bound(self.clients, id, self.upstreams.backlogs.most_kept, self.stats, self.effects);
            }
        }
    }

    /// No reply will come.
    fn failed(&mut self, to: PendingReply, outage: &Outage) {
        if let PendingReply::Inquiry(question) = to {
            self.inquiries.server_answers.push_back((question, Err(outage.text().to_owned())));
        }
        let Some(owner) = to.command() else { return };
        let is_exec = matches!(to, PendingReply::Exec(_));
        if is_exec {
            copies::exec_failed(self.upstreams, owner);
        }
        // Redis, too, ends the connection of a client whose transaction it can't tell the end of.
        if let Some(client) = self.clients.get_mut(owner.client)
            && (is_exec || client.is_unserved())
            && matches!(outage, Outage::Unreachable(_))
        {
            return client.cut_off(&mut self.effects.outbox);
        }
        let mut error = Vec::new();
        encode::error(&mut error, outage.text().as_bytes());
        self.answer(to, owner, error);
    }

    /// A whole reply has come.
    fn reply(&mut self, to: PendingReply, reply: Vec<u8>) {
        let Some(owner) = to.command() else { return };
        if let PendingReply::Exec(_) = to {
            copies::executed(self.upstreams, owner, &reply, self.effects);
        }
        if let Some(client) = self.clients.get_mut(owner.client) {
            client.output.is_served = true;
        }
        self.answer(to, owner, reply);
    }

    fn answer(&mut self, to: PendingReply, owner: Owner, reply: Vec<u8>) {
        if let Some(client) = self.clients.get_mut(owner.client) {
            match to {
                PendingReply::Part(_, part) => {
                    if client.note_part(&reply) {
                        dedicated::stay_in_database(self.upstreams, client, self.effects);
                    }
                    if let Some(state) = &mut client.dedicated.state {
                        state.answered(owner.sequence, reply.first() == Some(&b'-'));
                    }
                    client.output.part(owner.sequence, part, reply);
                }
                _ => client.output.replace(owner.sequence, &reply),
            }
        }
        self.announce(owner.client);
    }

    /// The rest of a reply will never come.
    fn truncated(&mut self, owner: Owner, error: &[u8]) {
        let Some(client) = self.clients.get_mut(owner.client) else { return };
        match client.output.queue.has_begun(owner.sequence) {
            // Half a reply is out; nothing that could follow would be understood.
            true => client.cut_off(&mut self.effects.outbox),
            false => {
                client.output.replace(owner.sequence, error);
                self.announce(owner.client);
            }
        }
    }

    /// Sends a client something that answers no command.
    fn push(&mut self, id: ClientId, frame: &[u8], order: PushOrder) {
        let Some(client) = self.clients.get_mut(id) else { return };
        let output = &mut client.output;
        output.unread_pushes = if output.is_full { output.unread_pushes + frame.len() } else { 0 };
        let unread = output.unread_pushes.max(output.queue.held_pushes());
        if unread > MAX_UNREAD && client.life != Life::Closed {
            // As Redis does with clients that don't read (`client-output-buffer-limit pubsub`).
            if let Some(host) = self.stats.host(client.rules.stats) {
                host.cut_off += 1;
            }
            return client.abort(&mut self.effects.outbox);
        }
        client.output.queue.push(frame, order, &mut client.output.out);
    }

    /// A connection that belonged to a client was lost.
    fn lost(&mut self, id: ClientId, lost: &LostConnection) {
        let (clients, mut context) = self.split();
        let Some(client) = clients.get_mut(id) else { return };
        let dedicated = client.dedicated.connection.filter(|own| own.connection.id() == lost.connection);
        // Subscriptions, and what a client is to be told, are lost with the connection; the client
        // has to know.
        let subscriptions = &client.subscriptions;
        let has_pushes = subscriptions.is_monitor
            || dedicated.is_some()
            || client.dedicated.has_told(lost.connection)
            || !subscriptions.spares(lost.connection);
        let is_held = lost.is_awaited || dedicated.is_some_and(|own| own.is_held());
        let is_gone = is_held && matches!(lost.outage, Outage::Unreachable(_));
        if is_gone || lost.is_for_pushes && has_pushes {
            return client.cut_off(&mut context.effects.outbox);
        }
        client.dedicated.others.retain(|other| other.id() != lost.connection);
        if client.subscriptions.has_not_moved_to(lost.connection) {
            follow::ask(&mut context, client);
        }
        if let Some(dedicated) = dedicated {
            client.dedicated.lost_watch |= dedicated.is_watching;
            client.dedicated.connection = None;
        }
        let mut error = Vec::new();
        encode::error(&mut error, lost.outage.text().as_bytes());
        // One error answers a command for several channels.
        let mut is_told = false;
        for (sequence, more) in &lost.subscriptions {
            if client.subscriptions.joint() == Some(*sequence) {
                client.subscriptions.answer_joint(Some(&error));
                continue;
            }
            let is_of_same_command = std::mem::replace(&mut is_told, *more > 0);
            let reply: &[u8] = if is_of_same_command { b"" } else { &error };
            client.output.queue.replace(*sequence, reply, &mut client.output.out);
        }
        self.finish_joint(id);
        self.announce(id);
    }

    /// Commands lead to other nodes from now on. Those under way may have to follow there, and
    /// must not be overtaken.
    fn slots_moved(&mut self, cluster: ClusterId) {
        let mut followers = Vec::new();
        for (id, client) in self.clients.iter_mut() {
            if !client.rules.lead_to(cluster) {
                continue;
            }
            if !client.output.queue.is_empty() {
                client.wait_for_answers_so_far();
            }
            followers.extend(client.follows().then_some(id));
        }
        followers.into_iter().for_each(|client| self.follow(client));
    }

    /// Commands that have waited for a node of a cluster go on, those first that were taken of their
    /// clients already.
    fn go_on_after_failover(&mut self, cluster: ClusterId) {
        failover::release(self.upstreams, cluster, self.effects);
        self.wake_all(Wait::Failover(cluster));
    }

    /// Clients that have waited for something go on.
    pub fn wake_all(&mut self, wait: Wait) {
        for (_, client) in self.clients.iter_mut().filter(|(_, client)| client.pause.wait == Some(wait)) {
            client.pause.wait = None;
            client.wake(&mut self.effects.outbox);
        }
    }

    /// A server has said what it speaks and what the login may do, or won't.
    fn introduced(&mut self, endpoint: UpstreamEndpoint) {
        if let Some(allowed) = self.upstreams.introductions.allowed(&endpoint) {
            self.stats.examined(endpoint, allowed);
        }
        self.wake_all(Wait::Introduction);
    }

    /// Counts for all hosts that log in there.
    fn login_refused(&mut self, endpoint: &UpstreamEndpoint) {
        self.stats.count_where(Stat::LoginFailures, |config| {
            config.targets.iter().any(|target| {
                target.upstream.leads_to(endpoint)
                    || target.mirrors.iter().any(|mirror| mirror.upstream.leads_to(endpoint))
            })
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::multiplexer::config::ListenerConfig;
    use crate::multiplexer::outbox::Output;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn pushes_behind_a_stalled_reply_are_bounded() {
        let document = serde_json::json!({"name": "n", "revision": 1, "hosts": [{
            "host": "h:6379", "path": "native",
            "targets": [{"destination": "a:6379", "upstream": {"cluster": "a"}}],
            "routes": [{"match": "any", "target": 0}],
        }]});
        let config = ListenerConfig::from_json(document.to_string().as_bytes()).unwrap().host;
        let (mut clients, mut upstreams) = (Clients::default(), Upstreams::default());
        let (mut effects, mut stats) = (Effects::new([1; 32]), StatsTable::default());
        let host = stats.enter(&config);
        let id = clients.insert_with(|id| Client::new(id, config, host));
        let client = clients.get_mut(id).unwrap();
        let sequence = client.output.queue.expect(false);
        client.output.reply(sequence, b"$100\r\nbegun", false);
        let mut pushed = 0;
        let frame = [&b">1\r\n$1000\r\n"[..], &[b'x'; 1000], b"\r\n"].concat();
        let is_aborted = |effects: &mut Effects| {
            std::iter::from_fn(|| effects.outbox.pop()).any(|output| output == Output::AbortDownstream(id))
        };
        while !is_aborted(&mut effects) {
            let push = Event::Push { client: id, connection: ConnectionId::of_number(1), frame: frame.clone() };
            let (clients, upstreams, effects) = (&mut clients, &mut upstreams, &mut effects);
            let mut inquiries = InquiryTable::default();
            let (stats, inquiries) = (&mut stats, &mut inquiries);
            EventDelivery { clients, upstreams, effects, stats, inquiries }.deliver(push);
            pushed += frame.len();
            assert!(pushed <= MAX_UNREAD + 2 * frame.len());
        }
        assert!(pushed > MAX_UNREAD);
    }
}
