//! The time from the promotion of a replica until keys of the dead master are served again, by a
//! clock that only the test moves.

#![allow(clippy::panic, clippy::unwrap_used, reason = "a test fails by it")]

use redis_mesh_core::multiplexer::config::ListenerConfig;
use redis_mesh_core::multiplexer::{ClientId, ConnectionId, Multiplexer, Output};
use redis_mesh_core::resp::encode;
use redis_mesh_core::resp::request::{Parser, Progress};
use redis_mesh_core::wire;
use serde_json::json;
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

/// The time from the sending of a byte until its arrival.
const LATENCY: Duration = Duration::from_micros(200);
/// The step of the clock.
const STEP: Duration = Duration::from_micros(500);

/// Returns the address of a node. Node 1 serves the first half of the slots until it dies, then
/// its replica, node 3; node 2 serves the other half.
fn node(number: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, number], 6379))
}

/// Appends an entry of the reply to CLUSTER SLOTS.
fn range(out: &mut Vec<u8>, first: u64, last: u64, nodes: &[SocketAddr]) {
    encode::array(out, 2 + nodes.len());
    encode::integer(out, first);
    encode::integer(out, last);
    for node in nodes {
        encode::array(out, 3);
        encode::bulk(out, node.ip().to_string().as_bytes());
        encode::integer(out, u64::from(node.port()));
        encode::bulk(out, b"id");
    }
}

/// A connection to a node.
struct Connection {
    to: SocketAddr,
    /// Replies under way, with the times of their arrival.
    arriving: VecDeque<(Duration, Vec<u8>)>,
}

/// A multiplexer with one client before a Redis Cluster.
struct World {
    multiplexer: Multiplexer,
    client: ClientId,
    connections: BTreeMap<ConnectionId, Connection>,
    /// Bytes of the client that the multiplexer hasn't taken.
    waiting: Vec<u8>,
    received: Vec<u8>,
    now: Duration,
    /// True if node 1 is dead.
    is_dead: bool,
    /// True if node 3 is a master.
    is_promoted: bool,
    /// The number of times that nodes were asked for the slots.
    probes: usize,
}

impl World {
    fn new(seed: u8) -> World {
        let document = json!({"name": "n", "revision": 1, "hosts": [{
            "host": "h:6379", "path": "native",
            "targets": [{"destination": "c:6379", "cluster": true, "upstream": {"cluster": "c"}}],
            "routes": [{"match": "any", "target": 0}],
        }]});
        let mut multiplexer = Multiplexer::new([seed; 32]);
        let client = multiplexer.open(ListenerConfig::from_json(document.to_string().as_bytes()).unwrap().host);
        World {
            multiplexer,
            client,
            connections: BTreeMap::new(),
            waiting: Vec::new(),
            received: Vec::new(),
            now: Duration::from_secs(1),
            is_dead: false,
            is_promoted: false,
            probes: 0,
        }
    }

    fn master(&self) -> SocketAddr {
        node(if self.is_promoted { 3 } else { 1 })
    }

    /// Returns the replies of a node to complete commands.
    fn replies(&mut self, of: SocketAddr, data: &[u8]) -> Vec<u8> {
        let (mut out, mut at) = (Vec::new(), 0);
        while at < data.len() {
            let mut parser = Parser::default();
            let Ok(Progress::Complete(length)) = parser.parse(&data[at..], &wire::Limits::default()) else {
                panic!("an incomplete command: {}", data.escape_ascii())
            };
            let frame = parser.frame(&data[at..]).to_vec();
            let args: Vec<&[u8]> = parser.args().iter().map(|span| span.of(&frame)).collect();
            at += length;
            match args.as_slice() {
                [b"PING"] => out.extend_from_slice(b"+PONG\r\n"),
                [b"AUTH", _, _] => out.extend_from_slice(b"+OK\r\n"),
                [b"CLUSTER", b"INFO"] => {
                    let epoch = 3 + u8::from(self.is_promoted);
                    // A cluster isn't ok while no node serves a part of the slots.
                    let state = if self.is_dead && !self.is_promoted { "fail" } else { "ok" };
                    encode::bulk(
                        &mut out,
                        format!("cluster_state:{state}\r\ncluster_current_epoch:{epoch}\r\n").as_bytes(),
                    );
                }
                [b"CLUSTER", b"SLOTS"] => {
                    self.probes += 1;
                    let first = if self.is_promoted { vec![node(3)] } else { vec![node(1), node(3)] };
                    encode::array(&mut out, 2);
                    range(&mut out, 0, 8191, &first);
                    range(&mut out, 8192, 16383, &[node(2)]);
                }
                [b"INCR", key] => {
                    // The key's slot is in the first half.
                    assert_eq!(*key, b"{b}");
                    if of == self.master() {
                        out.extend_from_slice(b":1\r\n");
                    } else {
                        out.extend_from_slice(format!("-MOVED 3300 {}\r\n", self.master()).as_bytes());
                    }
                }
                other => panic!("{other:?}"),
            }
        }
        out
    }

    fn offer(&mut self) {
        let taken = self.multiplexer.read(self.client, &self.waiting, self.now);
        self.waiting.drain(..taken);
    }

    fn drain(&mut self) {
        while let Some(output) = self.multiplexer.poll() {
            match output {
                Output::Open(id, address) => {
                    let to = address.node.unwrap_or(node(2));
                    if self.is_dead && to == node(1) {
                        self.multiplexer.lost(id, self.now);
                    } else {
                        self.connections.insert(id, Connection { to, arriving: VecDeque::new() });
                    }
                }
                Output::Send(id) => {
                    let data = self.multiplexer.take_upstream(id);
                    let Some(to) = self.connections.get(&id).map(|connection| connection.to) else { continue };
                    let replies = self.replies(to, &data);
                    let at = self.now + LATENCY * 2;
                    self.connections.get_mut(&id).unwrap().arriving.push_back((at, replies));
                }
                Output::Write(id) => {
                    let data = self.multiplexer.take_downstream(id);
                    self.received.extend_from_slice(&data);
                }
                Output::Resume(_) => self.offer(),
                Output::PauseUpstream(_) | Output::ResumeUpstream(_) | Output::FindMembers(_) => {}
                Output::Ask(..) | Output::Tell(..) => panic!("nobody asks about clients"),
                Output::CloseUpstream(id) => drop(self.connections.remove(&id)),
                Output::CloseDownstream(_) | Output::AbortDownstream(_) => panic!("the client is closed"),
            }
        }
    }

    /// Moves the clock by one step, and delivers what is due.
    fn step(&mut self) {
        self.now += STEP;
        let now = self.now;
        for id in self.connections.keys().copied().collect::<Vec<_>>() {
            while let Some(connection) = self.connections.get_mut(&id)
                && let Some((_, data)) = connection.arriving.pop_front_if(|(at, _)| *at <= now)
            {
                self.multiplexer.reply(id, &data, now);
                self.drain();
            }
        }
        while self.multiplexer.next_tick().is_some_and(|due| due <= now) {
            self.multiplexer.tick(now);
            self.drain();
        }
    }

    /// Sends INCR again and again until the given time, or until a reply satisfies the condition.
    /// Returns true in the latter case.
    fn send_until(&mut self, end: Duration, is_over: impl Fn(&[u8]) -> bool) -> bool {
        while self.now < end {
            if self.received.is_empty() {
                self.waiting.extend_from_slice(b"*2\r\n$4\r\nINCR\r\n$3\r\n{b}\r\n");
                self.offer();
                self.drain();
            }
            for _ in 0..200 {
                if self.received.ends_with(b"\r\n") {
                    break;
                }
                self.step();
            }
            let reply = std::mem::take(&mut self.received);
            assert!(reply.ends_with(b"\r\n"), "no reply");
            if is_over(&reply) {
                return true;
            }
            self.step();
        }
        false
    }

    fn kill(&mut self) {
        self.is_dead = true;
        let lost: Vec<ConnectionId> =
            self.connections.iter().filter(|(_, one)| one.to == node(1)).map(|(id, _)| *id).collect();
        for id in lost {
            self.connections.remove(&id);
            self.multiplexer.lost(id, self.now);
            self.drain();
        }
    }
}

#[test]
fn a_key_is_served_less_than_a_hundred_milliseconds_after_the_promotion() {
    let mut longest = Duration::ZERO;
    for seed in 0..24 {
        let mut world = World::new(seed);
        assert!(world.send_until(Duration::from_secs(2), |reply| reply == b":1\r\n"));
        world.kill();
        // The promotion takes from a part of a second to many seconds.
        let promotion = world.now + Duration::from_millis(311 + u64::from(seed) * 173);
        let was_served = world.send_until(promotion, |reply| reply == b":1\r\n");
        assert!(!was_served, "by a master that is dead");
        (world.is_promoted, world.probes) = (true, 0);
        let begin = world.now;
        assert!(world.send_until(begin + Duration::from_secs(30), |reply| reply == b":1\r\n"), "seed {seed}");
        longest = longest.max(world.now - begin);
        // Two are enough: one may have been in flight at the promotion.
        assert!(world.probes <= 2, "seed {seed}: {} probes", world.probes);
    }
    assert!(longest < Duration::from_millis(100), "{longest:?}");
}

#[test]
fn a_client_whose_login_was_forgotten_goes_on() {
    let mut world = World::new(1);
    world.waiting.extend_from_slice(b"*3\r\n$4\r\nAUTH\r\n$1\r\nu\r\n$1\r\np\r\n");
    world.offer();
    world.drain();
    let is_right = |reply: &[u8]| reply == b":1\r\n";
    for _ in 0..3 {
        (0..20).for_each(|_| world.step());
        world.received.clear();
        let soon = world.now + Duration::from_secs(1);
        assert!(world.send_until(soon, is_right));
        assert_eq!(world.multiplexer.load().clusters, 1);
        // Its connections end, and then nobody seems to need the cluster.
        let later = world.now + Duration::from_secs(200);
        while world.now < later {
            world.step();
        }
        assert_eq!(world.multiplexer.load().clusters, 0);
    }
}
