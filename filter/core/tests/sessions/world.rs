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

/// An event that happens at a certain time.
pub enum Event {
    /// A client takes its next step.
    Act(usize),
    /// An attempt to connect succeeds or fails.
    Opened(ConnectionId),
    /// Bytes arrive at a server.
    ToServer(ConnectionId, Vec<u8>),
    /// Bytes of a server arrive at the multiplexer.
    FromServer(ConnectionId, Vec<u8>),
    /// A connection that was paused goes on.
    Resumed(ConnectionId),
    /// A server gets to know that a connection has ended.
    Ended(ConnectionId),
    /// The multiplexer gets to know that a connection has ended.
    Lost(ConnectionId),
    /// A connection takes bytes again.
    Unfull(ConnectionId),
    /// A client reads again.
    Reads(usize),
    /// The time of a client that is blocked at a server is over.
    TimeOut(ConnectionId, u64),
    /// A failure happens, or a step of the recovery from one.
    Trouble(Trouble),
}

/// A connection between the multiplexer and a server, as the network sees it.
pub struct Transport {
    address: Address,
    /// The node at the other end; absent until the connection is open.
    pub node: Option<usize>,
    is_open: bool,
    /// True if the connection has broken, so that no bytes of the server arrive any more.
    pub is_broken: bool,
    /// The multiplexer takes no bytes at present.
    pub is_paused: bool,
    /// Bytes that have arrived meanwhile.
    pub kept: Vec<u8>,
    /// The times at which the last bytes arrive at either end, so that no bytes overtake others.
    to_server: Duration,
    from_server: Duration,
    /// The longest time under way, in microseconds.
    latency: u32,
}

/// A multiplexer with its clients and servers. Events happen in the order of their times.
pub struct World {
    pub setup: Setup,
    pub config: Arc<HostConfig>,
    pub multiplexer: Multiplexer,
    pub random: Random,
    pub servers: Servers,
    pub transports: BTreeMap<ConnectionId, Transport>,
    pub callers: Vec<Caller>,
    /// The indexes of the clients that are connected.
    pub by_id: BTreeMap<ClientId, usize>,
    events: BTreeMap<(Duration, u64), Event>,
    /// The number of events that have been scheduled, which orders those of one time.
    scheduled: u64,
    pub now: Duration,
    /// The times from which and until which a site had a failure.
    pub troubles: Vec<(usize, Duration, Duration)>,
    /// The slots that moved, with the times of the beginning and the end.
    pub moves: Vec<(u16, Duration, Duration)>,
    /// The times at which the multiplexer got the configuration anew.
    pub updates: Vec<Duration>,
    /// True if each event is printed.
    pub is_verbose: bool,
    /// The last token that a command has got.
    pub token: u64,
}

pub fn micros(count: u32) -> Duration {
    Duration::from_micros(count.into())
}

impl World {
    pub fn new(seed: u64, is_verbose: bool) -> World {
        let mut key = [7; 32];
        key[..8].copy_from_slice(&seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
        let mut random = Random::new(key);
        let setup = Setup::new(&mut random);
        key[0] ^= 1;
        let mut multiplexer = Multiplexer::new(key);
        // The values in these sessions are small.
        multiplexer.backlogs().tolerated = [10, 100, 1000][random.below(3) as usize];
        World {
            config: setup.compiled(),
            setup,
            multiplexer,
            servers: setup::servers(Random::new(key)),
            random,
            transports: BTreeMap::new(),
            callers: Vec::new(),
            by_id: BTreeMap::new(),
            events: BTreeMap::new(),
            scheduled: 0,
            now: Duration::from_secs(1),
            troubles: Vec::new(),
            moves: Vec::new(),
            updates: Vec::new(),
            is_verbose,
            token: 1_000_000,
        }
    }

    /// Prints what happens, if that is wanted.
    pub fn log(&self, what: impl FnOnce() -> String) {
        if self.is_verbose {
            println!("{:>12?} {}", self.now, what());
        }
    }

    /// Schedules an event.
    pub fn at(&mut self, time: Duration, event: Event) {
        self.scheduled += 1;
        self.events.insert((time.max(self.now), self.scheduled), event);
    }

    /// Schedules an event after a random time of less than `most` microseconds.
    pub fn after(&mut self, most: u32, event: Event) {
        let time = self.now + micros(self.random.below(most));
        self.at(time, event);
    }

    /// Lets events happen until then.
    pub fn run(&mut self, end: Duration) {
        let mut turns = 0;
        loop {
            turns += 1;
            assert!(turns < 1_000_000, "the events never end");
            let event = self.events.first_key_value().map(|((time, _), _)| *time);
            let tick = self.multiplexer.next_tick();
            let Some(next) = event.into_iter().chain(tick).min().filter(|next| *next <= end) else { break };
            self.now = self.now.max(next);
            self.servers.now = self.now;
            if tick.is_some_and(|tick| tick <= self.now) {
                self.multiplexer.tick(self.now);
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
                self.log(|| format!("{id:?} → {}", bytes.escape_ascii()));
                if let Some(connection) = self.servers.connections.get_mut(&id) {
                    connection.is_abandoned = !self.transports.contains_key(&id);
                }
                self.servers.receive(id, &bytes);
            }
            Event::FromServer(id, bytes) => {
                let Some(transport) = self.transports.get_mut(&id).filter(|transport| !transport.is_broken) else {
                    return;
                };
                if transport.is_paused || !transport.kept.is_empty() {
                    transport.kept.extend_from_slice(&bytes);
                } else {
                    self.log(|| format!("{id:?} ← {}", bytes.escape_ascii()));
                    self.multiplexer.reply(id, &bytes, self.now);
                }
            }
            Event::Resumed(id) => {
                if let Some(transport) = self.transports.get_mut(&id).filter(|transport| !transport.is_paused) {
                    let kept = std::mem::take(&mut transport.kept);
                    self.log(|| format!("{id:?} ← {}", kept.escape_ascii()));
                    self.multiplexer.reply(id, &kept, self.now);
                }
            }
            Event::Ended(id) => drop(self.servers.connections.remove(&id)),
            Event::Lost(id) => {
                if self.transports.remove(&id).is_some() {
                    self.log(|| format!("{id:?} lost"));
                    self.multiplexer.lost(id, self.now);
                }
            }
            Event::Unfull(id) => {
                if self.transports.contains_key(&id) {
                    self.multiplexer.upstream_full(id, false);
                    self.send(id);
                }
            }
            Event::Reads(caller) => {
                self.callers[caller].is_full = false;
                self.multiplexer.downstream_full(self.callers[caller].id, false);
            }
            Event::TimeOut(id, number) => self.servers.time_out(id, number),
            Event::Trouble(trouble) => self.disrupt(trouble),
        }
    }

    fn opened(&mut self, id: ConnectionId) {
        let Some(transport) = self.transports.get(&id) else { return };
        let Address { cluster, node } = transport.address.clone();
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
            self.log(|| format!("{id:?} can't be opened"));
            self.transports.remove(&id);
            return self.multiplexer.lost(id, self.now);
        };
        self.log(|| format!("{id:?} leads to node {node}"));
        let has_password = self.servers.sites[self.servers.nodes[node].site].password.is_some();
        self.servers.connections.insert(id, Connection::new(node, !has_password));
        if let Some(transport) = self.transports.get_mut(&id) {
            (transport.is_open, transport.node) = (true, Some(node));
        }
        self.send(id);
    }

    /// Takes the bytes that the multiplexer has for a connection, and sends them in pieces.
    fn send(&mut self, id: ConnectionId) {
        let Some(transport) = self.transports.get_mut(&id).filter(|transport| transport.is_open) else { return };
        let bytes = self.multiplexer.take_upstream(id);
        let mut rest = bytes.as_slice();
        let mut pieces = Vec::new();
        while !rest.is_empty() {
            let (piece, after) = rest.split_at((1 + self.random.below(200) as usize).min(rest.len()));
            transport.to_server = transport.to_server.max(self.now + micros(self.random.below(transport.latency)));
            pieces.push((transport.to_server, piece.to_vec()));
            rest = after;
        }
        for (time, piece) in pieces {
            self.at(time, Event::ToServer(id, piece));
        }
        self.multiplexer.recycle(bytes);
    }

    /// Takes the bytes that servers have written, and sends them in pieces.
    fn take_from_servers(&mut self) {
        self.servers.push_all();
        let mut written: Vec<(ConnectionId, Vec<u8>)> = Vec::new();
        for (id, connection) in &mut self.servers.connections {
            if !connection.output.is_empty() {
                written.push((*id, std::mem::take(&mut connection.output)));
            }
        }
        for (id, bytes) in written {
            let Some(transport) = self.transports.get_mut(&id) else { continue };
            let mut rest = bytes.as_slice();
            let mut pieces = Vec::new();
            while !rest.is_empty() {
                let (piece, after) = rest.split_at((1 + self.random.below(120) as usize).min(rest.len()));
                transport.from_server =
                    transport.from_server.max(self.now + micros(self.random.below(transport.latency)));
                pieces.push((transport.from_server, piece.to_vec()));
                rest = after;
            }
            for (time, piece) in pieces {
                self.at(time, Event::FromServer(id, piece));
            }
        }
        for (time, id, number) in std::mem::take(&mut self.servers.alarms) {
            self.at(time, Event::TimeOut(id, number));
        }
    }

    /// Ends a connection at the server after the bytes under way have arrived there.
    pub fn hang_up(&mut self, id: ConnectionId, transport: &Transport) {
        self.at(transport.to_server, Event::Ended(id));
    }

    /// Does what the multiplexer asks for, until nothing is left.
    pub fn drain(&mut self) {
        while let Some(output) = self.multiplexer.poll() {
            match output {
                Output::Open(id, address) => {
                    let latency = [200, 2_000, 20_000][self.random.below(3) as usize];
                    let transport = Transport {
                        address,
                        node: None,
                        is_open: false,
                        is_broken: false,
                        is_paused: false,
                        kept: Vec::new(),
                        to_server: Duration::ZERO,
                        from_server: Duration::ZERO,
                        latency,
                    };
                    self.transports.insert(id, transport);
                    self.after(latency, Event::Opened(id));
                }
                Output::Send(id) => {
                    let is_open = self.transports.get(&id).is_some_and(|transport| transport.is_open);
                    if is_open && self.random.below(12) == 0 {
                        self.multiplexer.upstream_full(id, true);
                        self.after(5_000, Event::Unfull(id));
                    } else {
                        self.send(id);
                    }
                }
                Output::PauseUpstream(id) => {
                    self.log(|| format!("{id:?} pauses"));
                    if let Some(transport) = self.transports.get_mut(&id) {
                        transport.is_paused = true;
                    }
                }
                Output::ResumeUpstream(id) => {
                    self.log(|| format!("{id:?} goes on"));
                    if let Some(transport) = self.transports.get_mut(&id) {
                        transport.is_paused = false;
                        self.at(self.now, Event::Resumed(id));
                    }
                }
                Output::FindMembers(_) | Output::Tell(..) => {}
                Output::Ask(inquiry, _) => self.multiplexer.desk(self.now).sent(inquiry, 0),
                Output::CloseUpstream(id) => {
                    self.log(|| format!("{id:?} is closed"));
                    if let Some(transport) = self.transports.remove(&id) {
                        self.hang_up(id, &transport);
                    }
                }
                Output::Write(id) => {
                    let bytes = self.multiplexer.take_downstream(id);
                    self.received(id, &bytes);
                    self.multiplexer.recycle(bytes);
                }
                Output::Resume(id) => {
                    if let Some(caller) = self.by_id.get(&id) {
                        self.offer(*caller);
                    }
                }
                Output::CloseDownstream(id) | Output::AbortDownstream(id) => {
                    if let Some(caller) = self.by_id.remove(&id) {
                        self.log(|| format!("client {caller} is closed"));
                        self.callers[caller].closed = Some(self.now);
                        self.multiplexer.closed(id);
                    }
                }
            }
        }
    }
}
