//! A worker with its clients and servers, under one clock.

use crate::config::{compiled, two};
use crate::redis::{Connection, Redis};
use redis_mesh_core::multiplexer::config::HostConfig;
use redis_mesh_core::multiplexer::{
    Address, Answer, ClientId, ClientInquiry, ConnectionId, InquiryId, InquiryOrigin, Multiplexer, Output,
};
use redis_mesh_core::random::Random;
use redis_mesh_core::resp::encode;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// A multiplexer with the connections that it has opened, its clients, and the servers.
pub struct World {
    pub multiplexer: Multiplexer,
    pub random: Random,
    /// The servers by the names of their clusters in Envoy.
    pub redis: BTreeMap<String, Redis>,
    /// The open connections, each with its cluster in Envoy.
    pub connections: BTreeMap<ConnectionId, (String, Connection)>,
    /// The connections over which Redis is kept from sending.
    pub paused: BTreeSet<ConnectionId>,
    pub clients: BTreeMap<ClientId, Caller>,
    /// What other workers are asked.
    pub asked: Vec<(InquiryId, Arc<ClientInquiry>)>,
    /// What other workers are answered.
    pub told: Vec<(InquiryOrigin, Answer)>,
    /// The number of connections that have been opened.
    pub opened: usize,
    pub now: Duration,
}

/// A client's end of its connection.
#[derive(Default)]
pub struct Caller {
    /// Bytes that the multiplexer hasn't taken.
    pub waiting: Vec<u8>,
    received: Vec<u8>,
    pub is_closed: bool,
}

impl World {
    pub fn new(seed: u64) -> World {
        let mut key = [7; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        let one = Redis { password: Some(b"secret".to_vec()), ..Redis::default() };
        World {
            multiplexer: Multiplexer::new(key),
            random: Random::new(key),
            redis: [("one".to_owned(), one), ("two".to_owned(), Redis::default())].into(),
            connections: BTreeMap::new(),
            paused: BTreeSet::new(),
            clients: BTreeMap::new(),
            asked: Vec::new(),
            told: Vec::new(),
            opened: 0,
            now: Duration::from_secs(1),
        }
    }

    /// Connects a client.
    pub fn client(&mut self, config: &Arc<HostConfig>) -> ClientId {
        let id = self.multiplexer.open(config.clone());
        self.clients.insert(id, Caller::default());
        id
    }

    /// Sends bytes of a client, in pieces of random size.
    pub fn send(&mut self, id: ClientId, data: &[u8]) {
        self.clients.get_mut(&id).unwrap().waiting.extend_from_slice(data);
        self.offer(id);
    }

    /// Offers the multiplexer what a client has sent, until it takes no more.
    fn offer(&mut self, id: ClientId) {
        let Some(caller) = self.clients.get_mut(&id) else { return };
        let data = std::mem::take(&mut caller.waiting);
        let mut at = 0;
        loop {
            let end = (at + 1 + self.random.below(60) as usize).min(data.len());
            let taken = self.multiplexer.read(id, &data[at..end], self.now);
            at += taken;
            self.drain();
            if at < end || at == data.len() {
                break;
            }
        }
        if let Some(caller) = self.clients.get_mut(&id) {
            caller.waiting.splice(0..0, data[at..].iter().copied());
        }
    }

    /// Does what the multiplexer asks for, until nothing is left.
    pub fn drain(&mut self) {
        while let Some(output) = self.multiplexer.poll() {
            match output {
                Output::Open(id, Address { cluster, node }) => {
                    self.opened += 1;
                    let name = node.map_or_else(|| cluster.to_string(), |node| node.to_string());
                    self.connections.insert(id, (name.clone(), Connection::default()));
                    if self.redis[&name].is_down {
                        self.connections.remove(&id);
                        self.multiplexer.lost(id, self.now);
                    }
                }
                Output::Send(id) => {
                    let bytes = self.multiplexer.take_upstream(id);
                    if let Some((_, connection)) = self.connections.get_mut(&id) {
                        connection.sent.extend_from_slice(&bytes);
                    }
                    self.multiplexer.recycle(bytes);
                }
                Output::Write(id) => {
                    let bytes = self.multiplexer.take_downstream(id);
                    self.clients.get_mut(&id).unwrap().received.extend_from_slice(&bytes);
                    self.multiplexer.recycle(bytes);
                }
                Output::Resume(id) => self.offer(id),
                Output::CloseDownstream(id) | Output::AbortDownstream(id) => {
                    self.clients.get_mut(&id).unwrap().is_closed = true
                }
                Output::PauseUpstream(id) => drop(self.paused.insert(id)),
                Output::ResumeUpstream(id) => drop(self.paused.remove(&id)),
                Output::FindMembers(_) => {}
                Output::Ask(inquiry, question) => self.asked.push((inquiry, question)),
                Output::Tell(origin, answer) => self.told.push((origin, answer)),
                Output::CloseUpstream(id) => drop(self.connections.remove(&id)),
            }
        }
    }

    /// Lets bytes of one random connection arrive, at the server or at the multiplexer. Returns
    /// false if no bytes are under way.
    pub fn arrive(&mut self) -> bool {
        let waiting: Vec<ConnectionId> = self
            .connections
            .iter()
            .filter(|(id, (_, connection))| {
                !connection.sent.is_empty() || !connection.output.is_empty() && !self.paused.contains(id)
            })
            .map(|(id, _)| *id)
            .collect();
        if waiting.is_empty() {
            return false;
        }
        let id = waiting[self.random.below(waiting.len() as u32) as usize];
        let size = 1 + self.random.below(40) as usize;
        let (name, connection) = self.connections.get_mut(&id).unwrap();
        let has_reply = !connection.output.is_empty() && !self.paused.contains(&id);
        if !has_reply || !connection.sent.is_empty() && self.random.below(2) == 0 {
            let sent = std::mem::take(&mut connection.sent);
            self.redis.get_mut(name).unwrap().serve(connection, &sent);
            return true;
        }
        let piece: Vec<u8> = connection.output.drain(..size.min(connection.output.len())).collect();
        self.multiplexer.reply(id, &piece, self.now);
        self.drain();
        true
    }

    /// Lets everything arrive.
    pub fn settle(&mut self) {
        while self.arrive() {}
    }

    /// Returns what a client has received since the last call, with a space in place of CRLF.
    pub fn received(&mut self, id: ClientId) -> String {
        let received = std::mem::take(&mut self.clients.get_mut(&id).unwrap().received);
        String::from_utf8_lossy(&received).replace("\r\n", " ")
    }
}

/// Returns a command as an array of bulk strings.
pub fn command(args: &[&str]) -> Vec<u8> {
    let mut out = Vec::new();
    encode::command(&mut out, &args.iter().map(|arg| arg.as_bytes()).collect::<Vec<_>>());
    out
}

/// Checks the replies to a pipeline of commands whose arguments are separated by spaces.
pub fn check(lines: &[&str], expected: &str) {
    for seed in 0..20 {
        let mut world = World::new(seed);
        let id = world.client(&compiled(&two()));
        let all: Vec<u8> = lines.iter().flat_map(|line| command(&line.split(' ').collect::<Vec<_>>())).collect();
        world.send(id, &all);
        world.settle();
        assert_eq!(world.received(id), expected, "{lines:?}, seed {seed}");
    }
}
