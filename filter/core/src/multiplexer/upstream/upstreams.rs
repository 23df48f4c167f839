//! The Redis side of a worker as the rest of the multiplexer sees it.

use super::availability::Outage;
use super::backlogs::Backlogs;
use super::cluster_queue::ClusterQueue;
use super::connection::Retirement;
use super::discovery::{ClusterDiscovery, Missing, NodeAccess};
use super::endpoint::UpstreamEndpoint;
use super::events::Event;
use super::health::HealthChecks;
use super::held::Refused;
use super::identity::ServerIdentity;
use super::introduction::{Introductions, Spoken};
use super::pending::{Control, InFlight, Owner, PendingReply};
use super::pool::{DedicatedConnection, Pool, SharedConnection};
use super::pool_key::{PoolKey, Purpose};
use super::retry::{Retry, RetryQueue};
use super::scripts::Scripts;
use super::stranded::Stranded;
use super::unsent_copies::UnsentCopies;
use crate::command::blocking;
use crate::command::script::ScriptDigest;
use crate::command::sharing::Shareable;
use crate::command::{Args, Command};
use crate::multiplexer::effects::Effects;
use crate::multiplexer::ids::{ClientId, ClusterId, ConnectionId};
use crate::resp::encode;
use std::net::SocketAddr;

/// The Redis side of a worker.
#[derive(Default)]
pub struct Upstreams {
    /// The connections.
    pub pool: Pool,
    /// Who serves which slots of which Redis Cluster.
    pub discovery: ClusterDiscovery,
    /// Which silent servers are being asked over new connections.
    pub health: HealthChecks,
    /// What servers have said of themselves.
    pub introductions: Introductions,
    /// Commands that wait to be sent again.
    pub retries: RetryQueue,
    /// Commands that wait until nodes have said who executes them.
    pub held: ClusterQueue<Refused>,
    /// Commands that couldn't be sent to their nodes.
    pub stranded: ClusterQueue<Stranded>,
    /// How much is held for clients that don't read.
    pub backlogs: Backlogs,
    /// Copies for mirrors that aren't sent yet.
    pub copies: UnsentCopies,
    scripts: Scripts,
}

/// Which connection a command goes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionRoute {
    /// One that clients share.
    Shared(SharedConnection),
    /// The client's own.
    Dedicated(DedicatedConnection),
}

impl ConnectionRoute {
    /// The connection's number.
    #[inline]
    pub fn id(self) -> ConnectionId {
        match self {
            ConnectionRoute::Shared(connection) => connection.id(),
            ConnectionRoute::Dedicated(connection) => connection.id(),
        }
    }
}

impl Upstreams {
    /// The shared connection of a pool key, opened if there is none.
    ///
    /// # Errors
    /// Redis is backed off from.
    pub fn shared(&mut self, key: PoolKey, effects: &mut Effects) -> Result<SharedConnection, Missing> {
        self.pool.shared(key, effects).map_err(Missing::from)
    }

    /// A connection for one client alone. With `pushes`, frames that are no replies are for the
    /// client.
    ///
    /// # Errors
    /// Redis is backed off from.
    pub fn dedicated(
        &mut self,
        client: ClientId,
        key: PoolKey,
        pushes: bool,
        effects: &mut Effects,
    ) -> Result<DedicatedConnection, Missing> {
        let purpose = if pushes { Purpose::Pushes(client) } else { Purpose::Dedicated(client) };
        self.pool.dedicated(key, purpose, effects).map_err(Missing::from)
    }

    /// Which protocols a server speaks; `None`: it is being asked, and [`Event::Introduced`] follows.
    ///
    /// # Errors
    /// It can't be reached, or refuses to answer.
    pub fn spoken(&mut self, endpoint: &UpstreamEndpoint, effects: &mut Effects) -> Result<Option<Spoken>, Missing> {
        self.introductions.spoken(endpoint, &mut self.pool, effects).map_err(Missing::from)
    }

    /// A connection for the commands of a client that doesn't read, in the place of the shared one
    /// of this key.
    ///
    /// # Errors
    /// Redis is backed off from.
    pub fn separate(
        &mut self,
        client: ClientId,
        key: PoolKey,
        effects: &mut Effects,
    ) -> Result<DedicatedConnection, Missing> {
        let cluster = key.node.and_then(|_| self.discovery.clusters.find(&key.endpoint));
        self.pool.dedicated(key, Purpose::Backlog(client), effects).map_err(|outage| match (outage, cluster) {
            (Outage::Unreachable(text), Some(cluster)) => Missing::Unreached(cluster, text),
            (outage, _) => outage.into(),
        })
    }

    /// New commands go over another connection than this one. Those of clients that wait for
    /// something over it must not overtake it.
    pub fn set_aside(&mut self, id: ConnectionId) {
        let Some(connection) = self.pool.get(id) else { return };
        let is_shared = connection.purpose == Purpose::Shared && connection.retirement == Retirement::Serving;
        if !is_shared || !connection.is_established() {
            return;
        }
        let owners: Vec<Owner> = connection.pending.iter().filter_map(|in_flight| in_flight.what.command()).collect();
        self.pool.retire(id, None);
        self.pool.events.extend(owners.into_iter().map(Event::Redirected));
    }

    /// The number of shards of a Redis Cluster.
    ///
    /// # Errors
    /// The topology isn't known.
    pub fn shard_count(&mut self, cluster: ClusterId, effects: &mut Effects) -> Result<usize, Missing> {
        self.discovery.shard_count(cluster, &mut self.pool, effects)
    }

    /// The shard that serves a slot; without a slot, the first one that can be reached.
    ///
    /// # Errors
    /// The topology isn't known, or no node serves the slot.
    pub fn shard(&mut self, cluster: ClusterId, slot: Option<u16>, effects: &mut Effects) -> Result<usize, Missing> {
        self.discovery.shard(cluster, slot, &mut self.pool, effects)
    }

    /// The shared connection to a node of a shard.
    ///
    /// # Errors
    /// No node of the shard may answer, or the one that may is backed off from.
    pub fn node(
        &mut self,
        cluster: ClusterId,
        shard: usize,
        access: NodeAccess,
        resp3: bool,
        effects: &mut Effects,
    ) -> Result<SharedConnection, Missing> {
        self.discovery.node((cluster, shard), access, resp3, &mut self.pool, effects)
    }

    /// The master of a shard, as far as it is known.
    pub fn master(&self, cluster: ClusterId, shard: usize) -> Option<SocketAddr> {
        Some(self.discovery.known_topology(cluster)?.shards().get(shard)?.master)
    }

    /// Sends a client's command over a shared connection. `write` appends it.
    #[inline]
    pub fn send(
        &mut self,
        (connection, _): (SharedConnection, Shareable),
        in_flight: InFlight,
        effects: &mut Effects,
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        self.pool.send(connection.id(), in_flight, effects, write);
    }

    /// Sends a client's command over a connection of its own. `write` appends it.
    pub fn send_dedicated(
        &mut self,
        connection: DedicatedConnection,
        in_flight: InFlight,
        effects: &mut Effects,
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        if in_flight.patience.is_waiting() {
            identify(&mut self.pool, connection.id(), effects);
        }
        self.pool.send(connection.id(), in_flight, effects, write);
    }

    /// Sends AUTH or SELECT over a connection that is in that very state already, to hear whether
    /// the server lets the client in.
    pub fn verify(&mut self, connection: ConnectionId, in_flight: InFlight, effects: &mut Effects, command: &[u8]) {
        self.pool.send(connection, in_flight, effects, |out| out.extend_from_slice(command));
    }

    /// Sends a command of the multiplexer's own over a dedicated connection.
    pub fn control(
        &mut self,
        connection: DedicatedConnection,
        control: Control,
        effects: &mut Effects,
        words: &[&[u8]],
    ) {
        let to = PendingReply::Control(control).into();
        self.pool.send(connection.id(), to, effects, |out| encode::command(out, words));
    }

    /// Sends a PING, whose reply no client gets, before a WAIT: Redis counts from the last command
    /// of the connection, which then is after all that the client has written over others.
    pub fn precede_wait(&mut self, connection: DedicatedConnection, effects: &mut Effects) {
        self.control(connection, Control::Ping, effects, &[b"PING"]);
    }

    /// Sees to it that the server knows a script before it is named over the connection for the
    /// first time.
    pub fn ensure_loaded(&mut self, connection: ConnectionId, script: ScriptDigest, effects: &mut Effects) {
        self.scripts.ensure_loaded(connection, script, &mut self.pool, effects);
    }

    /// Takes in what a client's command says about scripts; it may be sent to any of these
    /// endpoints.
    pub fn note_scripts<'e>(
        &mut self,
        command: &Command,
        args: &Args<'_>,
        endpoints: impl Iterator<Item = &'e UpstreamEndpoint>,
    ) {
        self.scripts.note(command, args, endpoints, &mut self.pool);
    }

    /// Takes back a connection that its client doesn't need any more: it is used again if it is in
    /// the state of a new one.
    pub fn release(&mut self, connection: ConnectionId, effects: &mut Effects) {
        if !self.pool.make_idle(connection, effects) {
            self.pool.close(connection, effects);
        }
    }

    /// Takes back a connection whose client is gone or has been reset. Redis notices by the end of
    /// the connection, unless only commands of the multiplexer's own are pending: then it is used
    /// again when they are answered.
    pub fn abandon(&mut self, connection: ConnectionId, effects: &mut Effects) {
        let is_clients = |in_flight: &InFlight| !matches!(in_flight.what, PendingReply::Control(_));
        if self
            .pool
            .get(connection)
            .is_some_and(|known| known.pending.iter().any(is_clients) || known.pending.is_empty())
        {
            self.pool.close(connection, effects);
        }
    }

    /// Marks a connection as changed for good. It is closed when nothing is pending any more.
    pub fn retire_dedicated(&mut self, connection: ConnectionId, effects: &mut Effects) {
        let Some(known) = self.pool.get_mut(connection) else { return };
        known.is_tainted = true;
        if known.pending.is_empty() {
            self.pool.close(connection, effects);
        }
    }

    /// Removes and returns the next event.
    pub fn next_event(&mut self) -> Option<Event<'static>> {
        self.pool.events.pop_front()
    }

    /// Sends a command, or a transaction, again over a connection. With `asks`, ASKING goes before
    /// it.
    pub fn resend_over(&mut self, connection: ConnectionId, retry: Retry, asks: bool, effects: &mut Effects) {
        self.scripts.ensure_all_loaded(connection, &retry, &mut self.pool, effects);
        let Retry { in_flight, mut bytes, .. } = retry;
        if in_flight.patience.is_waiting() {
            identify(&mut self.pool, connection, effects);
            let waited = in_flight.sent.elapsed(effects.now);
            bytes = blocking::with_rest_of_time(&bytes, waited).unwrap_or(bytes);
        }
        if asks {
            let asking = PendingReply::Control(Control::Asking).into();
            self.pool.send(connection, asking, effects, |out| encode::command(out, &[b"ASKING"]));
        }
        if let PendingReply::Exec(_) = in_flight.what {
            let mut commands = 0usize;
            crate::command::each_command(&bytes, |_| commands += 1);
            // MULTI and EXEC are two of them.
            self.expect_queued(connection, commands.saturating_sub(2), effects);
        }
        self.pool.send(connection, in_flight, effects, |out| out.extend_from_slice(&bytes));
    }

    /// Expects the replies to MULTI and to this number of queued commands, which are sent in one
    /// piece with EXEC.
    pub fn expect_queued(&mut self, connection: ConnectionId, commands: usize, effects: &mut Effects) {
        let multi = PendingReply::Control(Control::Multi);
        for to in std::iter::once(multi).chain(std::iter::repeat_n(PendingReply::Queued, commands)) {
            self.pool.send(connection, to.into(), effects, |_| {});
        }
    }

    /// Tells a client that its command has failed.
    pub fn fail(&mut self, to: PendingReply, text: &str) {
        let mut reply = Vec::new();
        encode::error(&mut reply, text.as_bytes());
        self.pool.events.push_back(Event::Reply { to, reply });
    }

    /// Connections whose endpoints aren't wanted any more are closed when they have nothing left to
    /// do.
    pub fn retire(&mut self, is_wanted: impl Fn(&UpstreamEndpoint) -> bool, effects: &mut Effects) {
        for id in self.pool.ids() {
            let Some(connection) = self.pool.get(id) else { continue };
            let is_common = matches!(connection.purpose, Purpose::Shared | Purpose::Idle);
            if is_common && !is_wanted(&connection.key.endpoint) && self.pool.retire(id, None) {
                self.pool.close(id, effects);
            }
        }
    }
}

/// Names a connection over which a client is about to wait, and asks for its number, unless that was
/// done before.
fn identify(pool: &mut Pool, id: ConnectionId, effects: &mut Effects) {
    let Some(connection) = pool.get_mut(id).filter(|connection| connection.memory.identity.is_none()) else { return };
    let identity = connection.memory.identity.insert(ServerIdentity::new(&mut effects.random));
    let name = identity.name.clone();
    let questions: [&[&[u8]]; 2] = [&[b"CLIENT", b"SETNAME", name.as_bytes()], &[b"CLIENT", b"ID"]];
    for words in questions {
        let to = PendingReply::Control(Control::Identity).into();
        pool.send(id, to, effects, |out| encode::command(out, words));
    }
}
