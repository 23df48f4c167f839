//! What becomes of the bytes that Redis sends.

use super::Upstreams;
use super::availability::{Outage, Peer};
use super::connection::Received;
use super::copies;
use super::discovery::away;
use super::events::{Confirmation, Event};
use super::failover;
use super::handshake::{HandshakeStep, Refusal};
use super::health::health_of;
use super::loss::{self, Loss};
use super::max_age;
use super::pending::{Control, PendingReply};
use super::pool::IDLE_TIMEOUT;
use super::pool_key::Purpose;
use super::redirect::Redirect;
use super::redirect_gate;
use super::retry::Retry;
use super::scripts;
use crate::downstream::maintenance;
use crate::multiplexer::client::pubsub_frame::PubSubFrame;
use crate::multiplexer::effects::Effects;
use crate::multiplexer::ids::{ClientId, ConnectionId};
use crate::resp::{encode, error_text};

/// Bytes of one connection that are being taken in.
#[derive(Debug)]
pub struct Receipt<'d> {
    connection: ConnectionId,
    input: &'d [u8],
    /// The handshake was complete before.
    was_established: bool,
    /// The bytes are not RESP, or answer nothing, so that replies can't be told apart any more.
    is_broken: bool,
}

/// Begins to take in bytes of a connection; `None` if it is closed.
pub fn begin<'d>(
    upstreams: &mut Upstreams,
    connection: ConnectionId,
    input: &'d [u8],
    effects: &Effects,
) -> Option<Receipt<'d>> {
    let known = upstreams.pool.get_mut(connection)?;
    known.last_activity = effects.now;
    Some(Receipt { connection, input, was_established: known.is_established(), is_broken: false })
}

/// Returns the next event that the bytes bring about; `None` when there is no more.
#[inline]
pub fn receive<'d>(upstreams: &mut Upstreams, receipt: &mut Receipt<'d>, effects: &mut Effects) -> Option<Event<'d>> {
    loop {
        if let Some(event) = upstreams.pool.events.pop_front() {
            return Some(event);
        }
        if receipt.input.is_empty() || receipt.is_broken {
            return None;
        }
        if upstreams.stranded.held().0 > 0 {
            on_beginning(upstreams, receipt.connection, receipt.input);
        }
        match upstreams.pool.get_mut(receipt.connection)?.receive(&mut receipt.input) {
            Ok(Received::Piece(PendingReply::Command(owner) | PendingReply::Exec(owner), bytes, is_complete)) => {
                return Some(Event::Piece { owner, bytes, is_complete });
            }
            Ok(Received::Piece(..) | Received::Nothing) => {}
            Ok(Received::Whole(reply)) => on_reply(upstreams, receipt.connection, reply, effects),
            Ok(Received::Push(client, frame)) => on_push(upstreams, receipt.connection, client, frame, effects),
            Err(_) => receipt.is_broken = true,
        }
    }
}

/// A reply may begin that isn't looked at as a whole: its command was executed.
fn on_beginning(upstreams: &mut Upstreams, id: ConnectionId, input: &[u8]) {
    let Some(connection) = upstreams.pool.get(id).filter(|connection| connection.reader.is_between_frames()) else {
        return;
    };
    let Some(in_flight) = connection.pending.front().copied() else { return };
    let is_about_another = matches!(input.first(), None | Some(b'-' | b'>'));
    if !is_about_another {
        failover::oldest_overtakes(upstreams, id, in_flight);
    }
}

/// All bytes have been taken in.
pub fn end(upstreams: &mut Upstreams, receipt: Receipt<'_>, effects: &mut Effects) {
    let Receipt { connection: id, was_established, is_broken, .. } = receipt;
    let Some(connection) = upstreams.pool.get(id) else { return };
    let is_established = connection.is_established() && !was_established;
    if is_established {
        let peer = Peer::new(&connection.key.endpoint, connection.key.node);
        let database = Peer::database(&connection.key);
        if upstreams.pool.availability.succeeded(&peer) {
            away::node_answered(&upstreams.discovery, &peer, &mut upstreams.pool);
        }
        upstreams.pool.availability.succeeded(&database);
    }
    let Some(connection) = upstreams.pool.get(id) else { return };
    if is_broken || connection.refused().is_some() {
        return loss::give_up(upstreams, id, Loss::Ended, effects);
    }
    let is_idle = connection.pending.is_empty();
    if is_idle && !matches!(connection.retirement, super::connection::Retirement::Serving) {
        return upstreams.pool.close(id, effects);
    }
    let (purpose, ends) = (connection.purpose, connection.ends_when_idle());
    if is_established {
        let endpoint = connection.key.endpoint.clone();
        max_age::established(&mut upstreams.pool, id, effects);
        if purpose != Purpose::Introduction {
            upstreams.introductions.logged_in(&endpoint, &mut upstreams.pool, effects);
        }
    }
    // What was staged behind the handshake, or a command that is sent once more.
    upstreams.pool.announce(id, effects);
    if !is_idle {
        return;
    }
    if ends {
        effects.timers.sweep_by(Some(effects.now + IDLE_TIMEOUT));
    }
    match purpose {
        Purpose::Dedicated(client) | Purpose::Pushes(client) if was_established => {
            upstreams.pool.events.push_back(Event::Idle { client, connection: id });
        }
        Purpose::Discovery(_) if was_established => upstreams.pool.close(id, effects),
        Purpose::HealthCheck | Purpose::Introduction => upstreams.pool.close(id, effects),
        _ => {}
    }
}

/// A whole reply has come.
fn on_reply(upstreams: &mut Upstreams, id: ConnectionId, reply: Vec<u8>, effects: &mut Effects) {
    let Some(connection) = upstreams.pool.get_mut(id) else { return };
    let Some(in_flight) = connection.pending.pop_front() else { return };
    match in_flight.what {
        PendingReply::Handshake(step) => {
            if let Some(refusal) = connection.handshake_reply(step, &reply) {
                on_refusal(upstreams, id, step, &refusal, effects);
            }
        }
        PendingReply::Queued => connection.note_queued(&reply),
        PendingReply::Topology => {
            if let Purpose::Discovery(cluster) = connection.purpose {
                upstreams.discovery.answered(cluster, id, reply, &mut upstreams.pool, effects);
                loss::give_up_replaced(upstreams, effects);
            }
        }
        PendingReply::Inquiry(question) => upstreams.pool.events.push_back(Event::ServerAnswered(question, reply)),
        PendingReply::Control(control) => on_control(upstreams, id, control, &reply, effects),
        PendingReply::Command(_) | PendingReply::Part(..) => {
            if in_flight.names_scripts && scripts::is_unknown(&reply) {
                connection.memory.scripts.clear();
            }
            redirect_gate::on_command_reply(upstreams, id, in_flight, reply, effects);
        }
        PendingReply::Exec(_) => {
            if in_flight.names_scripts && scripts::is_unknown_in_transaction(&reply) {
                // The reply is the client's: other commands of the transaction have been executed.
                connection.memory.scripts.clear();
            }
            let reply = match connection.memory.multi_refused.take() {
                Some(refused) => {
                    // What its commands were answered is what they did.
                    connection.memory.redirect = None;
                    refused
                }
                None => reply,
            };
            redirect_gate::on_command_reply(upstreams, id, in_flight, reply, effects);
        }
        PendingReply::Copy(_) | PendingReply::CopiedExec(_) => {
            copies::answered(upstreams, id, in_flight, &reply, effects);
        }
        PendingReply::Subscription(..) | PendingReply::SilentChange(_) | PendingReply::Ignored => {
            connection.drop_replay(in_flight);
        }
    }
}

/// Redis has refused the handshake.
fn on_refusal(upstreams: &mut Upstreams, id: ConnectionId, step: HandshakeStep, refusal: &Refusal, effects: &Effects) {
    let Some(connection) = upstreams.pool.get(id) else { return };
    if step == HandshakeStep::Hello {
        upstreams.introductions.forget(&connection.key.endpoint);
    }
    let endpoint = connection.key.endpoint.clone();
    let (peer, database) = (Peer::new(&endpoint, connection.key.node), Peer::database(&connection.key));
    // What is refused to the login of a client isn't refused to others.
    if refusal.concerns_database && (!endpoint.is_clients() || refusal.text.starts_with("ERR ")) {
        upstreams.pool.availability.back_off(database, Outage::Refuses(refusal.text.clone()), effects.now);
    }
    if !refusal.is_general {
        return;
    }
    away::node_answered(&upstreams.discovery, &peer, &mut upstreams.pool);
    upstreams.pool.availability.back_off(peer, Outage::Refuses(refusal.text.clone()), effects.now);
    // A login that a client presented is its own.
    if refusal.concerns_login && !endpoint.is_clients() {
        upstreams.pool.events.push_back(Event::LoginRefused(Box::new(endpoint)));
    }
}

/// A command of the multiplexer's own has been answered.
fn on_control(upstreams: &mut Upstreams, id: ConnectionId, control: Control, reply: &[u8], effects: &mut Effects) {
    let is_error = reply.first() == Some(&b'-');
    let Some(connection) = upstreams.pool.get_mut(id) else { return };
    match control {
        // Nothing is left of a transaction before.
        Control::Multi => {
            connection.memory.redirect = None;
            connection.memory.multi_refused = is_error.then(|| multi_refused(reply));
        }
        Control::Introduction(asked) => {
            if upstreams.introductions.answered(connection, asked, reply, effects.now) {
                let endpoint = Box::new(connection.key.endpoint.clone());
                upstreams.pool.events.push_back(Event::Introduced(endpoint));
            }
        }
        Control::HealthCheck => upstreams.health.answered(id, health_of(reply), effects),
        Control::Identity => {
            if let Some(identity) = &mut connection.memory.identity {
                identity.answered(reply);
            }
        }
        Control::Probe => connection.memory.probe = Redirect::parse(reply, connection.key.node),
        _ if !is_error => {}
        // What comes over it next would be in another form than the client expects, would go to
        // another database, or the client would miss changes.
        Control::Hello | Control::Select | Control::State => loss::give_up(upstreams, id, Loss::Ended, effects),
        Control::Unwatch => connection.is_tainted = true,
        // The command behind it says what is wrong.
        Control::Asking | Control::LoadScript | Control::Ping => {}
    }
}

/// A frame has come that isn't simply the next reply: to a client that has subscribed, tracks or
/// monitors.
fn on_push(upstreams: &mut Upstreams, id: ConnectionId, client: ClientId, frame: Vec<u8>, effects: &mut Effects) {
    let Some(connection) = upstreams.pool.get(id) else { return };
    let (pending, resp3) = (connection.pending.front().map(|next| next.what), connection.key.resp3);
    let (endpoint, node) = (connection.key.endpoint.clone(), connection.key.node);
    let mut frame = frame;
    let is_subscription = matches!(pending, Some(PendingReply::Subscription(..)));
    if is_subscription && node.is_some() && Redirect::parse(&frame, node) == Some(Redirect::ClusterDown) {
        return subscription_refused(upstreams, id, frame, effects);
    }
    if pending.is_some() && redirect_gate::note_moved_channel(upstreams, &endpoint, node, &frame, effects) {
        // The client is told so, and finds the right node the next time.
        frame = b"-TRYAGAIN redis-mesh: the channel's slot has just moved\r\n".to_vec();
    }
    let Some(connection) = upstreams.pool.get(id) else { return };
    let (event, answered) = match (PubSubFrame::of(&frame, resp3), pending) {
        (PubSubFrame::Confirmed(change, name), pending) => {
            let confirmed = name.map(<[u8]>::to_vec);
            let told = |sequence| Box::new(Confirmation { connection: id, sequence, change, name: confirmed });
            match pending {
                Some(PendingReply::Subscription(owner, _, of)) if of == change && connection.next_names(name) => {
                    (Event::SubscriptionChanged(client, told(Some(owner.sequence))), 1)
                }
                Some(PendingReply::SilentChange(of)) if of == change => (Event::ChangedSilently(client, told(None)), 1),
                // A node has given away a slot, and with it the channels in it.
                _ => (Event::SubscriptionChanged(client, told(None)), 0),
            }
        }
        // The only answer for all channels of the command.
        (PubSubFrame::Reply, Some(PendingReply::Subscription(owner, more, _))) => {
            (Event::SubscriptionFailed { owner, more, reply: frame }, 1 + more as usize)
        }
        (PubSubFrame::Reply, Some(PendingReply::SilentChange(_))) => {
            (Event::SilentChangeFailed { client, connection: id }, 1)
        }
        (PubSubFrame::Push, _) if maintenance::is_notification(&frame) => return,
        (PubSubFrame::Push | PubSubFrame::Reply, _) => (Event::Push { client, connection: id, frame }, 0),
    };
    upstreams.pool.events.push_back(event);
    if let Some(connection) = upstreams.pool.get_mut(id) {
        connection.skip(answered);
    }
}

/// A node has refused a command that begins subscriptions, since the cluster doesn't serve it at present.
fn subscription_refused(upstreams: &mut Upstreams, id: ConnectionId, reply: Vec<u8>, effects: &mut Effects) {
    let Some(connection) = upstreams.pool.get_mut(id) else { return };
    let Some(in_flight) = connection.pending.pop_front() else { return };
    let PendingReply::Subscription(_, more, _) = in_flight.what else { return };
    let bytes = connection.take_replay(in_flight);
    // The only answer for all channels of the command.
    connection.skip(more as usize);
    let (purpose, key) = (connection.purpose, connection.key.clone());
    failover::refused(upstreams, (id, purpose, reply), Retry { in_flight, bytes, key }, effects);
}

/// What a client is told whose transaction was none.
fn multi_refused(reply: &[u8]) -> Vec<u8> {
    let text = error_text(reply);
    let text = format!("ERR redis-mesh: MULTI was refused ({text}); the commands may have been executed one by one");
    let mut told = Vec::new();
    encode::error(&mut told, text.as_bytes());
    told
}
