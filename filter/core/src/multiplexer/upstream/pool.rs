//! Which connection a command goes over; connections are opened as they are needed, and not again and again where nobody answers.

use crate::multiplexer::client::{Client, Link, Wait};
use crate::multiplexer::config::Endpoint;
use crate::multiplexer::routing::target::RouteTarget;
use crate::multiplexer::upstream::connection::{InFlight, PendingReply, PoolKey, Purpose, UpstreamConnection};
use crate::multiplexer::{ClientId, ConnectionId, Multiplexer, Output, STAGED, Timer};
use crate::wire::ReadPolicy;
use std::net::SocketAddr;
use std::time::Duration;

/// Why there is no connection.
#[derive(Debug)]
pub(in crate::multiplexer) enum Missing {
    /// The command waits for something.
    Wait(Wait),
    /// What the client is told.
    Error(String),
}

/// The first wait before a Redis that can't be reached is tried again, and the longest.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// A Redis that can't be reached, or refuses everybody.
pub(in crate::multiplexer) struct Backoff {
    pub(in crate::multiplexer) until: Duration,
    wait: Duration,
    why: String,
}

/// A Redis, or a node of a cluster.
pub(in crate::multiplexer) type Peer = (Endpoint, Option<SocketAddr>);

/// What is known of a Redis or a node, is known by this.
pub(in crate::multiplexer) fn peer(upstream: &Endpoint, node: Option<SocketAddr>) -> Peer {
    (upstream.of_any_login(), node)
}

/// RequestPolicy a command is to be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::multiplexer) enum Access {
    /// By the master.
    Write,
    /// By whom this policy allows.
    Read(ReadPolicy),
}

impl Multiplexer {
    /// The connection over which a client's command goes to a place.
    #[inline]
    pub(in crate::multiplexer) fn link(
        &mut self,
        client: &mut Client,
        place: RouteTarget,
        access: Access,
        now: Duration,
    ) -> Result<ConnectionId, Missing> {
        match self.at_hand(client, place, access) {
            Some(link) => Ok(link),
            None => self.find_link(client, place, access, now),
        }
    }

    fn find_link(
        &mut self,
        client: &mut Client,
        place: RouteTarget,
        access: Access,
        now: Duration,
    ) -> Result<ConnectionId, Missing> {
        if let Some(own) = client.own.filter(|own| own.is_held())
            && client.config.is_same(own.place, place)
        {
            self.agree(client, own.carrier, now);
            return Ok(own.carrier);
        }
        match self.known(client, place.target)? {
            Link::UpstreamConnection(link) => Ok(link),
            Link::Cluster(cluster) => {
                let shard = self.shard(cluster, place.slot, now)?;
                self.node(cluster, shard, access, client.resp3, now)
            }
            Link::Unknown => {
                let line = self.line_of(client, place.target)?;
                let link = self.line(line, now)?;
                if let Some(known) = client.links.get_mut(place.target) {
                    *known = Link::UpstreamConnection(link);
                }
                Ok(link)
            }
        }
    }

    /// The same, if there is nothing to be found out or opened.
    #[inline]
    fn at_hand(&self, client: &Client, place: RouteTarget, access: Access) -> Option<ConnectionId> {
        if client.own.is_some() || access != Access::Write {
            return None;
        }
        let link = match client.links.get(place.target)? {
            Link::UpstreamConnection(link) => *link,
            Link::Cluster(cluster) => self.clusters.get(*cluster)?.at_hand(place.slot?, client.resp3)?,
            Link::Unknown => return None,
        };
        self.is_usable(link).then_some(link)
    }

    /// RequestPolicy a target is reached, as far as it is known and still so.
    fn known(&mut self, client: &mut Client, target: usize) -> Result<Link, Missing> {
        match client.links.get(target).copied() {
            Some(Link::UpstreamConnection(link)) if self.is_usable(link) => Ok(Link::UpstreamConnection(link)),
            Some(Link::Cluster(cluster)) => Ok(Link::Cluster(cluster)),
            _ => {
                let Some(found) = client.config.targets.get(target) else { return Err(nowhere()) };
                if !found.is_cluster {
                    return Ok(Link::Unknown);
                }
                let upstream = found.upstream.presented(client.login.as_ref());
                let link = Link::Cluster(self.cluster_of(&upstream));
                if let Some(known) = client.links.get_mut(target) {
                    *known = link;
                }
                Ok(link)
            }
        }
    }

    fn line_of(&self, client: &Client, target: usize) -> Result<PoolKey, Missing> {
        let upstream = &client.config.targets.get(target).ok_or_else(nowhere)?.upstream;
        let upstream = upstream.presented(client.login.as_ref());
        Ok(PoolKey { upstream, node: None, resp3: client.resp3, database: client.database, readonly: false })
    }

    /// The line that a client's own connection to a place has to have.
    pub(in crate::multiplexer) fn own_line(
        &mut self,
        client: &mut Client,
        place: RouteTarget,
        now: Duration,
    ) -> Result<PoolKey, Missing> {
        let line = self.line_of(client, place.target)?;
        match self.known(client, place.target)? {
            Link::Cluster(cluster) => {
                let shard = self.shard(cluster, place.slot, now)?;
                let node = self.clusters.get(cluster).and_then(|cluster| cluster.master(shard));
                Ok(PoolKey { node, ..line })
            }
            Link::UpstreamConnection(_) | Link::Unknown => Ok(line),
        }
    }

    /// The shared connection to a target, or to the master of a shard of it.
    pub(in crate::multiplexer) fn link_to(
        &mut self,
        client: &mut Client,
        target: usize,
        shard: Option<usize>,
        now: Duration,
    ) -> Result<ConnectionId, Missing> {
        match (self.known(client, target)?, shard) {
            (Link::Cluster(cluster), Some(shard)) => self.node(cluster, shard, Access::Write, client.resp3, now),
            _ => self.link(client, RouteTarget { target, slot: None }, Access::Write, now),
        }
    }

    /// RequestPolicy many shards a target has; none: it is no cluster.
    pub(in crate::multiplexer) fn shards(
        &mut self,
        client: &mut Client,
        target: usize,
        now: Duration,
    ) -> Result<Option<usize>, Missing> {
        match self.known(client, target)? {
            Link::Cluster(cluster) => self.shard_count(cluster, now).map(Some),
            Link::UpstreamConnection(_) | Link::Unknown => Ok(None),
        }
    }

    /// True if new commands may go over a connection.
    #[inline]
    pub(in crate::multiplexer) fn is_usable(&self, link: ConnectionId) -> bool {
        self.carriers.get(link).is_some_and(|carrier| carrier.refusal.is_none() && !carrier.is_retired)
    }

    /// The connection that clients share, opened if there is none.
    pub(in crate::multiplexer) fn line(&mut self, line: PoolKey, now: Duration) -> Result<ConnectionId, Missing> {
        if let Some(link) = self.lines.get(&line).copied() {
            return Ok(link);
        }
        let id = self.open_line(line.clone(), Purpose::Shared, now)?;
        self.lines.insert(line, id);
        Ok(id)
    }

    /// Opens a connection, unless it is too early to try again.
    pub(in crate::multiplexer) fn open_line(
        &mut self,
        line: PoolKey,
        purpose: Purpose,
        now: Duration,
    ) -> Result<ConnectionId, Missing> {
        if let Some(down) = self.down.get(&peer(&line.upstream, line.node)).filter(|down| down.until > now) {
            return Err(Missing::Error(down.why.clone()));
        }
        let carrier = UpstreamConnection::new(line, purpose, now);
        let address = carrier.address();
        let deadline = carrier.deadline();
        let id = self.carriers.insert(carrier);
        self.outputs.push_back(Output::Open(id, address));
        self.announce_upstream(id);
        self.patrol_by(deadline);
        Ok(id)
    }

    /// True if a Redis or a node isn't known not to answer.
    pub(in crate::multiplexer) fn is_up(&self, peer: &Peer, now: Duration) -> bool {
        self.down.get(peer).is_none_or(|down| down.until <= now)
    }

    /// Nobody answers there; it isn't tried again for a while.
    pub(in crate::multiplexer) fn hold_off(&mut self, peer: Peer, why: String, now: Duration) {
        let wait = self.down.get(&peer).map_or(BACK_OFF.0, |down| (down.wait * 2).min(BACK_OFF.1));
        self.down.insert(peer, Backoff { until: now + wait, wait, why });
    }

    /// Sends a command over a connection.
    #[inline]
    pub(in crate::multiplexer) fn send(
        &mut self,
        link: ConnectionId,
        awaited: InFlight,
        patience: Option<Duration>,
        now: Duration,
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        let Some(carrier) = self.carriers.get_mut(link) else { return };
        // Another node may have to get it.
        let keeps = (carrier.line.node.is_some() || awaited.names_scripts)
            && matches!(
                awaited.what,
                PendingReply::Client(..)
                    | PendingReply::SubCommand(..)
                    | PendingReply::Exec(..)
                    | PendingReply::Subscription(..)
            );
        // Otherwise somebody looks after it already.
        let is_new = carrier.expected.is_empty() || carrier.patience != patience;
        carrier.patience = patience;
        carrier.send(awaited, keeps, now, write);
        let deadline = if is_new { carrier.deadline() } else { None };
        if carrier.is_to_announce() {
            self.outputs.push_back(Output::Send(link));
        }
        self.patrol_by(deadline);
    }

    /// Sees to it that somebody looks after connections at that time.
    pub(in crate::multiplexer) fn patrol_by(&mut self, deadline: Option<Duration>) {
        if let Some(deadline) = deadline
            && self.patrol.is_none_or(|patrol| patrol > deadline)
        {
            if let Some(patrol) = self.patrol.replace(deadline) {
                self.alarms.remove(&(patrol, Timer::Patrol));
            }
            self.alarms.insert((deadline, Timer::Patrol));
        }
    }

    pub(in crate::multiplexer) fn is_full(&self, link: ConnectionId) -> bool {
        self.carriers.get(link).is_some_and(|carrier| carrier.is_full || carrier.waiting() > STAGED)
    }

    /// A client's command waits.
    pub(in crate::multiplexer) fn wait_for(&mut self, client: &mut Client, wait: Wait) {
        client.waits_for = Some(wait);
        match wait {
            Wait::UpstreamConnection(link) => {
                if let Some(carrier) = self.carriers.get_mut(link) {
                    carrier.is_awaited = true;
                }
            }
            Wait::Cluster(cluster) => {
                if let Some(cluster) = self.clusters.get_mut(cluster) {
                    cluster.is_awaited = true;
                }
            }
            Wait::Answers | Wait::AnswersBefore(_) => {}
        }
    }

    /// Looks after connections: whether Redis has been silent for too long, and whether they are still needed.
    pub(in crate::multiplexer) fn patrol(&mut self, now: Duration) {
        self.patrol = None;
        for id in self.carriers.ids().collect::<Vec<_>>() {
            let Some(carrier) = self.carriers.get(id) else { continue };
            let is_idle = carrier.expected.is_empty() && carrier.waiting() == 0;
            match carrier.deadline() {
                Some(deadline) if deadline <= now => {
                    self.outputs.push_back(Output::CloseUpstream(id));
                    self.lost_because(id, Loss::Silent, now);
                }
                Some(deadline) => self.patrol_by(Some(deadline)),
                None if is_idle && may_end(carrier) => {
                    let end = carrier.progress + PARKED;
                    if end <= now { self.drop_carrier(id) } else { self.patrol_by(Some(end)) }
                }
                None => {}
            }
        }
    }

    /// Closes a connection that nobody needs.
    pub(in crate::multiplexer) fn drop_carrier(&mut self, id: ConnectionId) {
        if let Some(carrier) = self.carriers.remove(id) {
            self.forget(id, &carrier);
            self.outputs.push_back(Output::CloseUpstream(id));
        }
    }

    /// A connection is no longer to be found by others.
    pub(in crate::multiplexer) fn forget(&mut self, id: ConnectionId, carrier: &UpstreamConnection) {
        if let Some(successor) = carrier.successor {
            self.succeed(successor);
        }
        if carrier.is_awaited {
            self.wake_those_who_wait_for(Wait::UpstreamConnection(id));
        }
        if self.lines.get(&carrier.line) == Some(&id) {
            self.lines.remove(&carrier.line);
        }
        if let Some(parked) = self.parked.get_mut(&carrier.line) {
            parked.retain(|parked| *parked != id);
            if parked.is_empty() {
                self.parked.remove(&carrier.line);
            }
        }
        if let Purpose::Pushes(client) | Purpose::Dedicated(client) = carrier.purpose
            && let Some(client) = self.clients.get_mut(client)
        {
            client.subscriptions.carriers.retain(|carrier| *carrier != id);
        }
    }

    /// A connection for one client alone.
    pub(in crate::multiplexer) fn own_carrier(
        &mut self,
        id: ClientId,
        line: PoolKey,
        pushes: bool,
        now: Duration,
    ) -> Result<ConnectionId, Missing> {
        let purpose = if pushes { Purpose::Pushes(id) } else { Purpose::Dedicated(id) };
        while let Some(parked) = self.parked.get_mut(&line).and_then(Vec::pop) {
            if let Some(carrier) = self.carriers.get_mut(parked).filter(|carrier| carrier.is_as_new()) {
                carrier.purpose = purpose;
                return Ok(parked);
            }
        }
        self.open_line(line, purpose, now)
    }

    /// A connection is as new, and nobody's any more.
    pub(in crate::multiplexer) fn park(&mut self, id: ConnectionId, now: Duration) {
        let Some(carrier) = self.carriers.get_mut(id) else { return };
        let parked = self.parked.entry(carrier.line.clone()).or_default();
        if !carrier.is_as_new() || parked.len() >= MOST_PARKED {
            return self.drop_carrier(id);
        }
        (carrier.purpose, carrier.progress, carrier.patience) = (Purpose::Parked, now, None);
        parked.push(id);
        self.patrol_by(Some(now + PARKED));
    }
}

/// Whether a connection ends when it isn't used for a while: nobody may come who needs it.
pub(in crate::multiplexer) fn may_end(carrier: &UpstreamConnection) -> bool {
    let has_clients_login = carrier.line.upstream.is_clients() && carrier.line.upstream.login_command().is_some();
    carrier.purpose == Purpose::Parked || carrier.purpose == Purpose::Shared && has_clients_login
}

/// RequestPolicy a connection was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::multiplexer) enum Loss {
    /// It ended.
    Ended,
    /// Redis said nothing for too long.
    Silent,
    /// Its node is no longer what it was.
    Replaced,
}

/// RequestPolicy long a connection waits for somebody who needs it.
pub(in crate::multiplexer) const PARKED: Duration = Duration::from_secs(60);
/// RequestPolicy many of one kind may wait.
const MOST_PARKED: usize = 64;

fn nowhere() -> Missing {
    Missing::Error("ERR redis-mesh: the rules have changed under way; try again".to_owned())
}
