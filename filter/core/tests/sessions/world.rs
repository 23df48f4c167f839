//! A worker with its clients and servers, under one clock.

use super::caller::Caller;
use super::connection::Connection;
use super::servers::Servers;
use super::setup::{self, Setup};
use super::trouble::Trouble;
use redis_mesh_core::multiplexer::config::HostConfig;
use redis_mesh_core::multiplexer::{Address, ClientId, ConnectionId, Multiplexer, Output};
use redis_mesh_core::random::Random;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// What happens at a certain time.
pub enum Event {
    /// A client goes on.
    Act(usize),
    /// A connection has come about, or hasn't.
    Opened(ConnectionId),
    /// Bytes come to a server.
    ToServer(ConnectionId, Vec<u8>),
    /// Bytes come from a server.
    FromServer(ConnectionId, Vec<u8>),
    /// A server hears that a connection has ended.
    Ended(ConnectionId),
    /// The proxy hears it.
    Lost(ConnectionId),
    /// A connection takes something again.
    Unfull(ConnectionId),
    /// A client takes something again.
    Reads(usize),
    /// A client that waits at a server waits no longer.
    GiveUp(ConnectionId, u64),
    /// Something goes wrong, or right again.
    Trouble(Trouble),
}

/// A connection from the proxy to a server.
pub struct Link {
    address: Address,
    pub node: Option<usize>,
    is_open: bool,
    /// It has broken, so that nothing comes from the server any more.
    pub is_broken: bool,
    /// When the last bytes arrive at either end: none overtake others.
    to_server: Duration,
    from_server: Duration,
    /// Microseconds that bytes need, at most.
    slowness: u32,
}

pub struct World {
    pub setup: Setup,
    pub config: Arc<HostConfig>,
    pub proxy: Multiplexer,
    pub random: Random,
    pub servers: Servers,
    pub links: BTreeMap<ConnectionId, Link>,
    pub callers: Vec<Caller>,
    pub by_id: BTreeMap<ClientId, usize>,
    events: BTreeMap<(Duration, u64), Event>,
    scheduled: u64,
    pub now: Duration,
    /// From when to when something was wrong with a site.
    pub troubles: Vec<(usize, Duration, Duration)>,
    /// Slots that moved, from when to when.
    pub moves: Vec<(u16, Duration, Duration)>,
    /// When rules were told anew.
    pub updates: Vec<Duration>,
    /// Tells what happens, for whoever looks for a mistake.
    pub is_told: bool,
    pub token: u64,
}

pub fn micros(count: u32) -> Duration {
    Duration::from_micros(count.into())
}

impl World {
    pub fn new(seed: u64, is_told: bool) -> World {
        let mut key = [7; 32];
        key[..8].copy_from_slice(&seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
        let mut random = Random::new(key);
        let setup = Setup::new(&mut random);
        key[0] ^= 1;
        World {
            config: setup.compiled(),
            setup,
            proxy: Multiplexer::new(key),
            servers: setup::servers(Random::new(key)),
            random,
            links: BTreeMap::new(),
            callers: Vec::new(),
            by_id: BTreeMap::new(),
            events: BTreeMap::new(),
            scheduled: 0,
            now: Duration::from_secs(1),
            troubles: Vec::new(),
            moves: Vec::new(),
            updates: Vec::new(),
            is_told,
            token: 1_000_000,
        }
    }

    pub fn tell(&self, what: impl FnOnce() -> String) {
        if self.is_told {
            println!("{:>12?} {}", self.now, what());
        }
    }

    pub fn at(&mut self, time: Duration, event: Event) {
        self.scheduled += 1;
        self.events.insert((time.max(self.now), self.scheduled), event);
    }

    pub fn after(&mut self, most: u32, event: Event) {
        let time = self.now + micros(self.random.below(most));
        self.at(time, event);
    }

    /// Lets time pass until then.
    pub fn run(&mut self, end: Duration) {
        let mut turns = 0;
        loop {
            turns += 1;
            assert!(turns < 1_000_000, "it never ends");
            let event = self.events.first_key_value().map(|((time, _), _)| *time);
            let tick = self.proxy.next_tick();
            let Some(next) = event.into_iter().chain(tick).min().filter(|next| *next <= end) else { break };
            self.now = self.now.max(next);
            self.servers.now = self.now;
            if tick.is_some_and(|tick| tick <= self.now) {
                self.proxy.tick(self.now);
            } else if let Some((_, event)) = self.events.pop_first() {
                self.happen(event);
            }
            self.drain();
            self.take_from_servers();
        }
        self.now = end;
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Act(caller) => self.act(caller),
            Event::Opened(id) => self.opened(id),
            Event::ToServer(id, bytes) => {
                self.tell(|| format!("{id:?} → {}", bytes.escape_ascii()));
                self.servers.receive(id, &bytes);
            }
            Event::FromServer(id, bytes) => {
                if self.links.get(&id).is_some_and(|link| !link.is_broken) {
                    self.tell(|| format!("{id:?} ← {}", bytes.escape_ascii()));
                    self.proxy.reply(id, &bytes, self.now);
                }
            }
            Event::Ended(id) => drop(self.servers.connections.remove(&id)),
            Event::Lost(id) => {
                if self.links.remove(&id).is_some() {
                    self.tell(|| format!("{id:?} lost"));
                    self.proxy.lost(id, self.now);
                }
            }
            Event::Unfull(id) => {
                if self.links.contains_key(&id) {
                    self.proxy.upstream_full(id, false);
                    self.send(id);
                }
            }
            Event::Reads(caller) => {
                self.callers[caller].is_full = false;
                self.proxy.downstream_full(self.callers[caller].id, false);
            }
            Event::GiveUp(id, number) => self.servers.give_up(id, number),
            Event::Trouble(trouble) => self.befall(trouble),
        }
    }

    fn opened(&mut self, id: ConnectionId) {
        let Some(link) = self.links.get(&id) else { return };
        let Address { cluster, node } = link.address.clone();
        let nodes = &self.servers.nodes;
        let fits = |index: &usize| {
            let of = &nodes[*index];
            match node {
                Some(address) => of.address == Some(address) && &*cluster == "nodes",
                None => self.servers.sites[of.site].name == &*cluster && (of.is_alive || of.address.is_none()),
            }
        };
        let found: Vec<usize> = (0..nodes.len()).filter(fits).collect();
        let node = found.get(self.random.below(found.len().max(1) as u32) as usize).copied();
        let Some(node) = node.filter(|node| self.servers.nodes[*node].is_alive) else {
            self.tell(|| format!("{id:?} can't be opened"));
            self.links.remove(&id);
            return self.proxy.lost(id, self.now);
        };
        self.tell(|| format!("{id:?} leads to node {node}"));
        let has_password = self.servers.sites[self.servers.nodes[node].site].password.is_some();
        self.servers.connections.insert(id, Connection::new(node, !has_password));
        if let Some(link) = self.links.get_mut(&id) {
            (link.is_open, link.node) = (true, Some(node));
        }
        self.send(id);
    }

    /// What the proxy has to send goes on its way.
    fn send(&mut self, id: ConnectionId) {
        let Some(link) = self.links.get_mut(&id).filter(|link| link.is_open) else { return };
        let bytes = self.proxy.take_upstream(id);
        let mut rest = bytes.as_slice();
        let mut pieces = Vec::new();
        while !rest.is_empty() {
            let (piece, after) = rest.split_at((1 + self.random.below(200) as usize).min(rest.len()));
            link.to_server = link.to_server.max(self.now + micros(self.random.below(link.slowness)));
            pieces.push((link.to_server, piece.to_vec()));
            rest = after;
        }
        for (time, piece) in pieces {
            self.at(time, Event::ToServer(id, piece));
        }
        self.proxy.recycle(bytes);
    }

    fn take_from_servers(&mut self) {
        let mut said: Vec<(ConnectionId, Vec<u8>)> = Vec::new();
        for (id, connection) in &mut self.servers.connections {
            if !connection.output.is_empty() {
                said.push((*id, std::mem::take(&mut connection.output)));
            }
        }
        for (id, bytes) in said {
            let Some(link) = self.links.get_mut(&id) else { continue };
            let mut rest = bytes.as_slice();
            let mut pieces = Vec::new();
            while !rest.is_empty() {
                let (piece, after) = rest.split_at((1 + self.random.below(120) as usize).min(rest.len()));
                link.from_server = link.from_server.max(self.now + micros(self.random.below(link.slowness)));
                pieces.push((link.from_server, piece.to_vec()));
                rest = after;
            }
            for (time, piece) in pieces {
                self.at(time, Event::FromServer(id, piece));
            }
        }
        for (time, id, number) in std::mem::take(&mut self.servers.alarms) {
            self.at(time, Event::GiveUp(id, number));
        }
    }

    /// A connection ends at the server, when what is on its way there has come.
    pub fn hang_up(&mut self, id: ConnectionId, link: &Link) {
        self.at(link.to_server, Event::Ended(id));
    }

    pub fn drain(&mut self) {
        while let Some(output) = self.proxy.poll() {
            match output {
                Output::Open(id, address) => {
                    let slowness = [200, 2_000, 20_000][self.random.below(3) as usize];
                    let link = Link {
                        address,
                        node: None,
                        is_open: false,
                        is_broken: false,
                        to_server: Duration::ZERO,
                        from_server: Duration::ZERO,
                        slowness,
                    };
                    self.links.insert(id, link);
                    self.after(slowness, Event::Opened(id));
                }
                Output::Send(id) => {
                    let is_open = self.links.get(&id).is_some_and(|link| link.is_open);
                    if is_open && self.random.below(12) == 0 {
                        self.proxy.upstream_full(id, true);
                        self.after(5_000, Event::Unfull(id));
                    } else {
                        self.send(id);
                    }
                }
                Output::CloseUpstream(id) => {
                    self.tell(|| format!("{id:?} is closed"));
                    if let Some(link) = self.links.remove(&id) {
                        self.hang_up(id, &link);
                    }
                }
                Output::Write(id) => {
                    let bytes = self.proxy.take_downstream(id);
                    self.heard(id, &bytes);
                    self.proxy.recycle(bytes);
                }
                Output::Resume(id) => {
                    if let Some(caller) = self.by_id.get(&id) {
                        self.offer(*caller);
                    }
                }
                Output::CloseDownstream(id) | Output::AbortDownstream(id) => {
                    if let Some(caller) = self.by_id.remove(&id) {
                        self.tell(|| format!("client {caller} is closed"));
                        self.callers[caller].closed = Some(self.now);
                        self.proxy.closed(id);
                    }
                }
            }
        }
    }
}
