//! What servers say to clients that have subscribed.

use super::EventDelivery;
use super::key_names::KeyNames;
use crate::command::glob::{Case, glob};
use crate::multiplexer::client::Client;
use crate::multiplexer::client::held_pushes::PushOrder;
use crate::multiplexer::client::notification::Notification;
use crate::multiplexer::client::pubsub_frame::PublishedMessage;
use crate::multiplexer::client::source::{SeveralServers, SubscriptionSource};
use crate::multiplexer::client::subscription::{SubscriptionChange, SubscriptionKind};
use crate::multiplexer::execute::{dedicated, follow, state, track};
use crate::multiplexer::ids::{ClientId, ClusterId, ConnectionId};
use crate::multiplexer::reply::scan_cursor::ScanPosition;
use crate::multiplexer::upstream::Upstreams;
use crate::multiplexer::upstream::events::Confirmation;
use crate::multiplexer::upstream::pending::Owner;

/// How a server begins to tell of keys that have changed.
const INVALIDATE: &[u8] = b">2\r\n$10\r\ninvalidate\r\n";

impl EventDelivery<'_> {
    /// A subscription of a client has begun or ended.
    pub(super) fn subscription_changed(&mut self, id: ClientId, confirmation: &Confirmation) {
        let Confirmation { connection, sequence, change, name } = confirmation;
        let (clients, mut context) = self.split();
        let Some(client) = clients.get_mut(id) else { return };
        if sequence.is_some() && client.subscriptions.joint() == *sequence {
            client.subscriptions.answer_joint(None);
            self.finish_joint(id);
            return self.announce(id);
        }
        if sequence.is_none() && change.kind == SubscriptionKind::Shard && !change.begins {
            let is_of_node = context.upstreams.pool.get(*connection).is_some_and(|known| known.key.node.is_some());
            if is_of_node {
                // The node has given the slot away; or the client has unsubscribed meanwhile.
                follow::channel_moved(&mut context, client, name.as_deref().unwrap_or_default(), *connection);
                return dedicated::on_idle(context.upstreams, client, *connection, context.effects);
            }
        }
        let kept_by = sequence.map(|_| SubscriptionSource::One(*connection));
        let resp3 = client.session.resp3;
        let told = client.subscriptions.confirm(*change, name.as_deref(), kept_by, resp3);
        match sequence {
            Some(sequence) => client.output.queue.reply(*sequence, &told, true, &mut client.output.out),
            None => self.push(id, &told, PushOrder::AtOnce),
        }
        self.announce(id);
    }

    /// A server has refused a command that begins or ends subscriptions.
    pub(super) fn subscription_failed(&mut self, owner: Owner, more: u32, reply: &[u8]) {
        if let Some(client) = self.clients.get_mut(owner.client) {
            if client.subscriptions.joint() == Some(owner.sequence) {
                client.subscriptions.answer_joint(Some(reply));
                self.finish_joint(owner.client);
                return self.announce(owner.client);
            }
            let output = &mut client.output;
            output.queue.replace(owner.sequence, reply, &mut output.out);
            for next in 1..=u64::from(more) {
                output.queue.reply(owner.sequence + next, b"", true, &mut output.out);
            }
        }
        self.announce(owner.client);
    }

    /// Tells the client of a command that several servers had to confirm, if all have answered.
    pub(super) fn finish_joint(&mut self, id: ClientId) {
        let (clients, mut context) = self.split();
        let Some(client) = clients.get_mut(id) else { return };
        let Some(finished) = client.subscriptions.finish_joint(client.session.resp3) else { return };
        client.output.queue.replace(finished.sequence, &finished.reply, &mut client.output.out);
        for source in &finished.undone {
            follow::undo(&mut context, client, finished.change, source);
        }
        if client.subscriptions.is_stale {
            self.follow(id);
        }
    }

    /// A client's subscriptions may have to be kept at other servers from now on.
    pub(super) fn follow(&mut self, id: ClientId) {
        let (clients, mut context) = self.split();
        let Some(client) = clients.get_mut(id) else { return };
        state::forget_keys(client);
        if !track::follow(&mut context, client) || !follow::follow(&mut context, client) {
            client.cut_off(&mut context.effects.outbox);
        }
        self.announce(id);
    }

    /// A subscription has begun or ended without a command of its client.
    pub(super) fn changed_silently(&mut self, id: ClientId, confirmation: &Confirmation) {
        let Confirmation { connection, change, name, .. } = confirmation;
        let (clients, mut context) = self.split();
        let Some(client) = clients.get_mut(id) else { return };
        let name = name.as_deref().unwrap_or_default();
        if !follow::changed(client, *change, name, *connection) {
            follow::send(&mut context, SubscriptionChange { begins: false, ..*change }, name, *connection);
        }
    }

    /// A server has refused a subscription that was to begin or end there without a command of its
    /// client.
    pub(super) fn silent_change_failed(&mut self, id: ClientId, connection: ConnectionId) {
        let (clients, mut context) = self.split();
        let Some(client) = clients.get_mut(id) else { return };
        match client.subscriptions.has_not_moved_to(connection) {
            true => follow::ask(&mut context, client),
            // The client would miss what that server tells.
            false => client.cut_off(&mut context.effects.outbox),
        }
    }

    /// The nodes of a cluster have said which slots they serve.
    pub(super) fn cluster_answered(&mut self, cluster: ClusterId) {
        let (mut moving, mut stale) = (Vec::new(), Vec::new());
        for (id, client) in self.clients.iter().filter(|(_, client)| client.rules.lead_to(cluster)) {
            moving.extend(client.subscriptions.has_moving().then_some(id));
            let is_stale = client.subscriptions.is_stale && client.subscriptions.has_several();
            let tracks = client.dedicated.tracking().is_some_and(|tracking| tracking.is_stale);
            stale.extend((is_stale || tracks).then_some(id));
        }
        for id in moving {
            let (clients, mut context) = self.split();
            let Some(client) = clients.get_mut(id) else { continue };
            if !follow::resettle(&mut context, client) {
                client.cut_off(&mut context.effects.outbox);
            }
        }
        stale.into_iter().for_each(|id| self.follow(id));
    }

    /// Sends a client what a server pushes, with the names of keys that the client knows.
    pub(super) fn rename_and_push(&mut self, id: ClientId, connection: ConnectionId, frame: &[u8]) {
        let Some(client) = self.clients.get(id) else { return };
        let config = &client.rules.config;
        if let Some(tracking) = client.dedicated.tracking().filter(|_| client.dedicated.has_told(connection)) {
            let target = state::target_of(self.upstreams, config, connection);
            let names = target.filter(|_| KeyNames::decide(config));
            let names = names.map(|target| KeyNames::new(config.clone(), vec![target], None, ScanPosition::default()));
            let is_wanted = |key: &[u8]| tracking.options.concern(key);
            return match names.and_then(|names| names.invalidated(frame, is_wanted)) {
                Some(renamed) if renamed.is_empty() => {}
                Some(renamed) => self.push(id, &renamed, PushOrder::BehindHeard),
                None => self.push(id, frame, PushOrder::BehindHeard),
            };
        }
        if frame.starts_with(INVALIDATE) {
            // It was under way when the client ended to track.
            return;
        }
        let has_several = client.subscriptions.has_several() || client.subscriptions.joint().is_some();
        let message = PublishedMessage::parse(frame).filter(|_| has_several);
        match message.map(|message| told(self.upstreams, client, connection, &message)) {
            None | Some(Told::AsItIs) => self.push(id, frame, PushOrder::AtOnce),
            Some(Told::These(frames)) => frames.iter().for_each(|frame| self.push(id, frame, PushOrder::AtOnce)),
        }
    }
}

/// What a client is told of a message.
enum Told {
    /// The very frame.
    AsItIs,
    /// These frames.
    These(Vec<Vec<u8>>),
}

/// What a client is told of a message that has come over a connection.
fn told(upstreams: &Upstreams, client: &Client, connection: ConnectionId, message: &PublishedMessage<'_>) -> Told {
    let subscriptions = &client.subscriptions;
    let Some(names) = subscriptions.of_server_name(message.kind, message.subscription) else {
        return match subscriptions.source(message.kind, message.subscription) {
            Some(SubscriptionSource::One(_)) => Told::AsItIs,
            // The client hasn't been told that the subscription has begun, or ends it.
            Some(SubscriptionSource::Moving(_) | SubscriptionSource::Several(_)) | None => Told::These(Vec::new()),
        };
    };
    let mut frames = Vec::new();
    for name in names {
        if let Some(SubscriptionSource::Several(servers)) = subscriptions.source(message.kind, name) {
            tell(upstreams, client, (connection, servers), (name, message), &mut frames);
        }
    }
    Told::These(frames)
}

/// Appends what a client is told of a message to one of its subscriptions.
fn tell(
    upstreams: &Upstreams,
    client: &Client,
    (connection, servers): (ConnectionId, &SeveralServers),
    (name, message): (&[u8], &PublishedMessage<'_>),
    frames: &mut Vec<Vec<u8>>,
) {
    let mut add = |channel: &[u8], text: &[u8]| {
        let is_meant = match message.kind {
            SubscriptionKind::Pattern => glob(name, channel, Case::Sensitive),
            SubscriptionKind::Channel | SubscriptionKind::Shard => name == channel,
        };
        if is_meant {
            let mut frame = Vec::new();
            let message = PublishedMessage { kind: message.kind, subscription: name, channel, message: text };
            message.write(client.session.resp3, &mut frame);
            frames.push(frame);
        }
    };
    let Some(notification) = Notification::parse(message.channel, message.message) else {
        if servers.published.contains(&connection) {
            add(message.channel, message.message);
        }
        return;
    };
    if !servers.notified.contains(&connection) {
        return;
    }
    let config = &client.rules.config;
    let Some(target) = state::target_of(upstreams, config, connection) else { return };
    for key in KeyNames::of_key(config.clone(), target, notification.key) {
        let (channel, text) = notification.with_key(&key);
        add(&channel, &text);
    }
}
