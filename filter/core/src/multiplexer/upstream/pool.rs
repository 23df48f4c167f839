//! The connection pool: connections by their pool keys, shared ones and idle ones.

use super::availability::{Availability, Outage, Peer};
use super::connection::{HANDSHAKE_TIMEOUT, Retirement, SLOW_HANDSHAKE, Stage, UpstreamConnection};
use super::endpoint::{EndpointMember, UpstreamEndpoint};
use super::events::Event;
use super::later::SentCommands;
use super::patience::SILENCE;
use super::pending::{InFlight, Owner, PendingReply};
use super::pool_key::{PoolKey, Purpose};
use crate::multiplexer::effects::Effects;
use crate::multiplexer::ids::{ClientId, ConnectionId, ConnectionTag};
use crate::multiplexer::outbox::Output;
use crate::multiplexer::slot_map::SlotMap;
use crate::multiplexer::stats::CopyFate;
use crate::resp::encode;
use std::collections::{HashMap, VecDeque};
use std::time::Duration;

/// How long a connection that nobody uses waits for somebody who needs it.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// How many idle connections of one pool key are kept.
const MAX_IDLE: usize = 64;

/// A connection that many clients share. Only the pool hands them out; what may be sent over one
/// is a [`Shareable`](crate::command::sharing::Shareable) command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SharedConnection(ConnectionId);

/// A connection that one client has for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DedicatedConnection(ConnectionId);

impl SharedConnection {
    /// The connection's number.
    #[inline]
    pub fn id(self) -> ConnectionId {
        self.0
    }
}

impl DedicatedConnection {
    /// The connection's number.
    pub fn id(self) -> ConnectionId {
        self.0
    }
}

/// The connections of a worker.
#[derive(Default)]
pub struct Pool {
    connections: SlotMap<ConnectionTag, UpstreamConnection>,
    shared: HashMap<PoolKey, ConnectionId>,
    idle: HashMap<PoolKey, Vec<ConnectionId>>,
    /// Which peers can't be reached at present.
    pub availability: Availability,
    /// Connections to nodes that have lost their role and don't answer. They are given up next.
    pub replaced: Vec<ConnectionId>,
    /// What clients have to be told.
    pub events: VecDeque<Event<'static>>,
    /// What clients have sent to nodes last.
    pub sent: SentCommands,
}

impl Pool {
    /// Returns a connection, or `None` if it is closed.
    #[inline]
    pub fn get(&self, id: ConnectionId) -> Option<&UpstreamConnection> {
        self.connections.get(id)
    }

    /// Returns a connection, or `None` if it is closed.
    #[inline]
    pub fn get_mut(&mut self, id: ConnectionId) -> Option<&mut UpstreamConnection> {
        self.connections.get_mut(id)
    }

    /// Visits all connections.
    pub fn iter(&self) -> impl Iterator<Item = (ConnectionId, &UpstreamConnection)> {
        self.connections.iter()
    }

    /// Visits all connections.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (ConnectionId, &mut UpstreamConnection)> {
        self.connections.iter_mut()
    }

    /// The numbers of all connections.
    pub fn ids(&self) -> Vec<ConnectionId> {
        self.connections.ids()
    }

    /// The shared connection that new commands for this key go over at present.
    pub fn current(&self, key: &PoolKey) -> Option<ConnectionId> {
        self.shared.get(key).copied()
    }

    /// The shared connection of a key, opened if there is none.
    ///
    /// # Errors
    /// The peer is backed off from.
    pub fn shared(&mut self, key: PoolKey, effects: &mut Effects) -> Result<SharedConnection, Outage> {
        if let Some(id) = self.current(&key) {
            return Ok(SharedConnection(id));
        }
        let id = self.open(key.clone(), Purpose::Shared, effects)?;
        self.shared.insert(key, id);
        Ok(SharedConnection(id))
    }

    /// The shared connection of a key, unless it leads to a node of a Redis Cluster that couldn't be
    /// reached the last time: that is tried over a connection that carries nothing until the node has
    /// answered, so that no command is bound to it.
    ///
    /// # Errors
    /// The node hasn't answered since, or the peer is backed off from.
    pub fn reached(&mut self, key: PoolKey, effects: &mut Effects) -> Result<SharedConnection, Outage> {
        if key.node.is_none() || self.availability.is_all_up() {
            return self.shared(key, effects);
        }
        let unreached = self.availability.unreached(&Peer::new(&key.endpoint, key.node)).cloned();
        let connection = self.shared(key, effects)?;
        let is_established = self.get(connection.id()).is_some_and(UpstreamConnection::is_established);
        unreached.filter(|_| !is_established).map_or(Ok(connection), Err)
    }

    /// Makes a connection the one over which new commands for its key go. Returns the one whose
    /// place it takes.
    pub fn make_current(&mut self, id: ConnectionId) -> Option<ConnectionId> {
        let key = self.get(id)?.key.clone();
        self.shared.insert(key, id).filter(|before| *before != id)
    }

    /// A connection for one client alone, an idle one where there is one.
    ///
    /// # Errors
    /// The peer is backed off from.
    pub fn dedicated(
        &mut self,
        key: PoolKey,
        purpose: Purpose,
        effects: &mut Effects,
    ) -> Result<DedicatedConnection, Outage> {
        while let Some(id) = self.idle.get_mut(&key).and_then(Vec::pop) {
            if let Some(connection) = self.get_mut(id).filter(|connection| connection.is_as_new()) {
                connection.purpose = purpose;
                return Ok(DedicatedConnection(id));
            }
        }
        self.open(key, purpose, effects).map(DedicatedConnection)
    }

    /// Makes a shared connection over which nothing is pending for others a client's own, for its
    /// commands of any kind that may be shared. `None`: another connection waits for its end.
    pub fn take_over(&mut self, id: ConnectionId, client: ClientId) -> Option<DedicatedConnection> {
        let connection = self.connections.get_mut(id)?;
        let is_awaited = matches!(connection.retirement, Retirement::Draining { successor: Some(_) });
        if connection.purpose != Purpose::Shared || !matches!(connection.stage, Stage::Ready) || is_awaited {
            return None;
        }
        connection.purpose = Purpose::Backlog(client);
        connection.retirement = Retirement::Serving;
        if self.shared.get(&connection.key) == Some(&id) {
            self.shared.remove(&connection.key);
        }
        Some(DedicatedConnection(id))
    }

    /// Opens a connection.
    ///
    /// # Errors
    /// The peer is backed off from.
    pub fn open(&mut self, key: PoolKey, purpose: Purpose, effects: &mut Effects) -> Result<ConnectionId, Outage> {
        self.check_available(&key, effects)?;
        Ok(self.add(UpstreamConnection::new(key, purpose, effects.now), effects))
    }

    fn add(&mut self, connection: UpstreamConnection, effects: &mut Effects) -> ConnectionId {
        let address = connection.key.address();
        let is_slow_after = connection.key.node.map_or(HANDSHAKE_TIMEOUT, |_| SLOW_HANDSHAKE);
        let id = self.connections.insert(connection);
        effects.outbox.push(Output::Open(id, address));
        self.announce(id, effects);
        effects.timers.sweep_by(Some(effects.now + is_slow_after));
        id
    }

    /// Opens a connection in the place of a shared one that was lost before its handshake was
    /// complete.
    pub fn reopen(&mut self, lost: UpstreamConnection, effects: &mut Effects) {
        let is_serving = lost.retirement == Retirement::Serving;
        let connection = UpstreamConnection::in_place_of(lost, effects.now);
        let key = connection.key.clone();
        let id = self.add(connection, effects);
        if is_serving {
            self.shared.entry(key).or_insert(id);
        } else {
            self.retire(id, None);
        }
    }

    /// Checks that the peer of a key is known and isn't backed off from.
    ///
    /// # Errors
    /// It isn't known, or is backed off from.
    pub fn check_available(&self, key: &PoolKey, effects: &mut Effects) -> Result<(), Outage> {
        if key.endpoint.member == EndpointMember::Unknown {
            effects.outbox.push(Output::FindMembers(key.endpoint.cluster.clone()));
            let shown = key.endpoint.shown();
            return Err(Outage::Unreachable(format!("ERR redis-mesh: {shown} can't be reached: no server is known")));
        }
        if self.availability.is_all_up() {
            return Ok(());
        }
        let why = self.availability.reason(&Peer::new(&key.endpoint, key.node), effects.now);
        let of_database = || self.availability.reason(&Peer::database(key), effects.now).filter(|_| key.database != 0);
        why.or_else(of_database).map_or(Ok(()), |why| Err(why.clone()))
    }

    /// Queues a command that `write` appends. `keeps`: see [`UpstreamConnection::send`].
    #[inline]
    pub fn send(
        &mut self,
        id: ConnectionId,
        in_flight: InFlight,
        effects: &mut Effects,
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        let Some(connection) = self.connections.get_mut(id) else {
            self.events.extend(answer_for_none(in_flight.what));
            return;
        };
        let is_repeatable = in_flight.is_repeatable() && connection.purpose == Purpose::Shared;
        let may_be_repeated = connection.key.node.is_some() || in_flight.names_scripts || is_repeatable;
        let keeps = may_be_repeated && in_flight.what.is_replayable();
        connection.send(in_flight, keeps, effects.now, write);
        if keeps {
            self.sent.note(connection);
        }
        if connection.send.announce() {
            effects.outbox.push(Output::Send(id));
        }
        if !in_flight.patience.is_waiting() {
            let limit = in_flight.patience.limit().map_or(SILENCE, |limit| limit.min(SILENCE));
            effects.timers.sweep_by(Some(effects.now + limit));
        }
    }

    /// Tells the host that there is something to send, if it has to be told.
    pub fn announce(&mut self, id: ConnectionId, effects: &mut Effects) {
        if self.connections.get_mut(id).is_some_and(|connection| connection.send.announce()) {
            effects.outbox.push(Output::Send(id));
        }
    }

    /// True if new commands may go over a connection.
    #[inline]
    pub fn is_usable(&self, id: ConnectionId) -> bool {
        self.get(id).is_some_and(UpstreamConnection::is_usable)
    }

    /// True if a client's command has to wait until there is room.
    #[inline]
    pub fn is_full(&self, id: ConnectionId) -> bool {
        self.get(id).is_some_and(|connection| connection.send.has_no_room())
    }

    /// True if a client has sent another command to a node for a slot since it has sent this one.
    pub fn has_later(&mut self, command: (Owner, Option<u16>), endpoint: &UpstreamEndpoint) -> bool {
        self.sent.has_later(command, endpoint, self.connections.iter().map(|(_, connection)| connection))
    }

    /// The shared connection of this number, if it is one that serves.
    #[inline]
    pub fn usable_shared(&self, id: ConnectionId) -> Option<SharedConnection> {
        let is_shared =
            |connection: &&UpstreamConnection| connection.is_usable() && connection.purpose == Purpose::Shared;
        self.get(id).filter(is_shared).map(|_| SharedConnection(id))
    }

    /// Keeps a dedicated connection that its client doesn't need any more, if it is in the state
    /// of a new one. Returns false if it has to be closed instead.
    pub fn make_idle(&mut self, id: ConnectionId, effects: &mut Effects) -> bool {
        let Some(connection) = self.connections.get_mut(id) else { return true };
        let idle = self.idle.entry(connection.key.clone()).or_default();
        if !connection.is_as_new() || idle.len() >= MAX_IDLE {
            return false;
        }
        connection.purpose = Purpose::Idle;
        connection.last_activity = effects.now;
        idle.push(id);
        effects.timers.sweep_by(Some(effects.now + IDLE_TIMEOUT));
        true
    }

    /// Sees to it that no new commands go over a connection. Returns true if nothing is pending,
    /// so that it can be closed.
    pub fn retire(&mut self, id: ConnectionId, successor: Option<ConnectionId>) -> bool {
        let Some(connection) = self.connections.get_mut(id) else { return false };
        let known = match connection.retirement {
            Retirement::Draining { successor } => successor,
            Retirement::Serving => None,
        };
        // A successor waits for the end of this connection, whatever else retires it.
        connection.retirement = Retirement::Draining { successor: successor.or(known) };
        if self.shared.get(&connection.key) == Some(&id) {
            self.shared.remove(&connection.key);
        }
        connection.pending.is_empty()
    }

    /// Closes a connection that nobody needs. What becomes of copies for mirrors is counted although
    /// nobody waits for it.
    pub fn close(&mut self, id: ConnectionId, effects: &mut Effects) {
        let Some(connection) = self.remove(id, effects) else { return };
        effects.outbox.push(Output::CloseUpstream(id));
        self.events.extend(connection.pending.iter().filter_map(|in_flight| match in_flight.what {
            PendingReply::Copy(host) | PendingReply::CopiedExec(host) => {
                Some(Event::Copies(host, CopyFate::Dropped, 1))
            }
            PendingReply::Exec(owner) if in_flight.is_mirrored => Some(Event::ExecAbandoned(owner)),
            _ => None,
        }));
    }

    /// Removes a connection, and tells those who wait for it. The host isn't told.
    pub fn remove(&mut self, id: ConnectionId, effects: &mut Effects) -> Option<Box<UpstreamConnection>> {
        let connection = self.connections.remove(id)?;
        if let Retirement::Draining { successor: Some(successor) } = connection.retirement
            && let Some(next) = self.connections.get_mut(successor)
        {
            next.become_ready();
            self.announce(successor, effects);
        }
        if connection.send.is_awaited() {
            self.events.push_back(Event::Writable(id));
        }
        if let Some(client) = connection.purpose.owner() {
            self.events.push_back(Event::Closed { client, connection: id });
        }
        if self.shared.get(&connection.key) == Some(&id) {
            self.shared.remove(&connection.key);
        }
        if let Some(idle) = self.idle.get_mut(&connection.key) {
            idle.retain(|idle| *idle != id);
            if idle.is_empty() {
                self.idle.remove(&connection.key);
            }
        }
        Some(connection)
    }
}

/// The answer to a command that was to go over a connection that is gone: nobody else would give one.
fn answer_for_none(to: PendingReply) -> Option<Event<'static>> {
    to.owner()?;
    let mut reply = Vec::new();
    encode::error(&mut reply, b"ERR redis-mesh: the connection has ended; the command was not sent");
    Some(Event::Reply { to, reply })
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn key(cluster: &str) -> PoolKey {
        PoolKey::new(
            UpstreamEndpoint { cluster: cluster.into(), login: None, nodes: None, member: Default::default() },
            false,
        )
    }

    /// Answers the handshake.
    fn establish(pool: &mut Pool, id: ConnectionId) {
        let connection = pool.get_mut(id).unwrap();
        connection.pending.clear();
        connection.become_ready();
        assert!(matches!(connection.stage, Stage::Ready));
    }

    #[test]
    fn clients_with_the_same_key_share_a_connection() {
        let (mut pool, mut effects) = (Pool::default(), Effects::new([1; 32]));
        let first = pool.shared(key("a"), &mut effects).unwrap();
        assert_eq!(pool.shared(key("a"), &mut effects), Ok(first));
        assert_ne!(pool.shared(PoolKey { database: 1, ..key("a") }, &mut effects), Ok(first));
        assert!(!pool.retire(first.id(), None), "the reply of the handshake is to come");
        assert!(!pool.is_usable(first.id()));
        assert_ne!(pool.shared(key("a"), &mut effects), Ok(first));
    }

    #[test]
    fn a_dedicated_connection_is_used_again_only_in_the_state_of_a_new_one() {
        let (mut pool, mut effects) = (Pool::default(), Effects::new([1; 32]));
        let client = ClientId::of_number(7);
        let take = |pool: &mut Pool, effects: &mut Effects| {
            pool.dedicated(key("a"), Purpose::Dedicated(client), effects).unwrap().id()
        };
        let first = take(&mut pool, &mut effects);
        establish(&mut pool, first);
        assert!(pool.make_idle(first, &mut effects));
        assert_eq!(take(&mut pool, &mut effects), first);
        pool.get_mut(first).unwrap().is_tainted = true;
        assert!(!pool.make_idle(first, &mut effects));
        pool.close(first, &mut effects);
        assert_eq!(pool.events.pop_front(), Some(Event::Closed { client, connection: first }));
        assert_ne!(take(&mut pool, &mut effects), first);
    }

    #[test]
    fn a_successor_begins_when_its_predecessor_is_closed() {
        let (mut pool, mut effects) = (Pool::default(), Effects::new([1; 32]));
        let old = pool.shared(key("a"), &mut effects).unwrap().id();
        let new = pool.open(key("a"), Purpose::Shared, &mut effects).unwrap();
        establish(&mut pool, new);
        pool.get_mut(new).unwrap().stage = Stage::AwaitsPredecessor;
        assert_eq!(pool.make_current(new), Some(old));
        pool.retire(old, Some(new));
        // Rules that don't lead there any more retire it once more.
        pool.retire(old, None);
        assert_eq!(pool.current(&key("a")), Some(new));
        pool.close(old, &mut effects);
        assert!(matches!(pool.get(new).unwrap().stage, Stage::Ready));
    }

    #[test]
    fn a_peer_that_is_backed_off_from_is_not_tried() {
        let (mut pool, mut effects) = (Pool::default(), Effects::new([1; 32]));
        let down = Outage::Unreachable("ERR down".into());
        pool.availability.back_off(Peer::new(&key("a").endpoint, None), down.clone(), effects.now);
        assert_eq!(pool.shared(key("a"), &mut effects), Err(down));
        assert!(pool.shared(key("b"), &mut effects).is_ok());
        effects.now += Duration::from_secs(1);
        assert!(pool.shared(key("a"), &mut effects).is_ok());
    }
}
