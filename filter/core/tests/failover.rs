//! What clients see of the death of a master, by a clock that only the test moves: commands wait until
//! its replica has taken its place, or for as long as `opTimeout` says.

#![allow(clippy::panic, clippy::unwrap_used, reason = "a test fails by it")]

use redis_mesh_core::multiplexer::config::{HostConfig, ListenerConfig};
use redis_mesh_core::multiplexer::{ClientId, ConnectionId, Multiplexer, Output};
use redis_mesh_core::resp::encode;
use redis_mesh_core::resp::request::{Parser, Progress};
use redis_mesh_core::wire;
use serde_json::json;
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
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

/// A client's end of its connection.
#[derive(Default)]
struct Caller {
    /// Bytes that the multiplexer hasn't taken.
    waiting: Vec<u8>,
    received: Vec<u8>,
    is_closed: bool,
}

/// A multiplexer with clients before a Redis Cluster.
struct World {
    multiplexer: Multiplexer,
    clients: BTreeMap<ClientId, Caller>,
    connections: BTreeMap<ConnectionId, Connection>,
    now: Duration,
    /// True if node 1 is dead.
    is_dead: bool,
    /// True if node 3 is a master.
    is_promoted: bool,
    /// The number of times that nodes were asked for the slots.
    probes: usize,
    /// The number of connections that were opened.
    opened: usize,
    /// What masters have executed.
    executed: Vec<String>,
}

/// The configuration of a host before the cluster.
fn config(op_timeout: Option<u64>) -> Arc<HostConfig> {
    let document = json!({"name": "n", "revision": 1, "hosts": [{
        "host": "h:6379", "path": "native", "opTimeoutMs": op_timeout,
        "targets": [{"destination": "c:6379", "cluster": true, "upstream": {"cluster": "c"}}],
        "routes": [{"match": "any", "target": 0}],
    }]});
    ListenerConfig::from_json(document.to_string().as_bytes()).unwrap().host
}

/// A command with these words.
fn command(words: &str) -> Vec<u8> {
    let mut out = Vec::new();
    encode::command(&mut out, &words.split(' ').map(str::as_bytes).collect::<Vec<_>>());
    out
}

/// A key of the slots of node 1, and one of the slots of node 2.
const OF_1: &str = "{b}";
const OF_2: &str = "{a}";
const LOST: &str = "-ERR redis-mesh: c can't be reached ";

impl World {
    fn new(seed: u8) -> World {
        World {
            multiplexer: Multiplexer::new([seed; 32]),
            clients: BTreeMap::new(),
            connections: BTreeMap::new(),
            now: Duration::from_secs(1),
            is_dead: false,
            is_promoted: false,
            probes: 0,
            opened: 0,
            executed: Vec::new(),
        }
    }

    /// Connects a client that has been served by both masters.
    fn client(&mut self, config: &Arc<HostConfig>) -> ClientId {
        let id = self.multiplexer.open(config.clone());
        self.clients.insert(id, Caller::default());
        if !self.is_dead {
            self.send(id, &format!("INCR {OF_1}"));
            self.send(id, &format!("INCR {OF_2}"));
            assert_eq!(self.reply(id, Duration::from_secs(1)), ":1 :1 ");
        }
        id
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
                    let text = format!("cluster_state:{state}\r\ncluster_current_epoch:{epoch}\r\n");
                    encode::bulk(&mut out, text.as_bytes());
                }
                [b"CLUSTER", b"SLOTS"] => {
                    self.probes += 1;
                    let first = if self.is_promoted { vec![node(3)] } else { vec![node(1), node(3)] };
                    encode::array(&mut out, 2);
                    range(&mut out, 0, 8191, &first);
                    range(&mut out, 8192, 16383, &[node(2)]);
                }
                [b"MULTI"] => out.extend_from_slice(b"+OK\r\n"),
                [b"EXEC"] => out.extend_from_slice(b"*1\r\n:1\r\n"),
                [b"PUBLISH", ..] => out.extend_from_slice(b":0\r\n"),
                [b"DBSIZE"] => out.extend_from_slice(b":1\r\n"),
                [name, key, rest @ ..] => {
                    let master = if *key == OF_1.as_bytes() { self.master() } else { node(2) };
                    assert_eq!(of, master, "{}", data.escape_ascii());
                    let words = [&[*name, *key], rest].concat();
                    self.executed.push(words.iter().map(|word| word.escape_ascii().to_string() + " ").collect());
                    out.extend_from_slice(b":1\r\n");
                }
                other => panic!("{other:?}"),
            }
        }
        out
    }

    /// Sends a command of a client.
    fn send(&mut self, id: ClientId, words: &str) {
        self.clients.get_mut(&id).unwrap().waiting.extend_from_slice(&command(words));
        self.offer(id);
        self.drain();
    }

    fn offer(&mut self, id: ClientId) {
        let Some(caller) = self.clients.get_mut(&id) else { return };
        let taken = self.multiplexer.read(id, &caller.waiting, self.now);
        caller.waiting.drain(..taken);
    }

    fn drain(&mut self) {
        while let Some(output) = self.multiplexer.poll() {
            match output {
                Output::Open(id, address) => {
                    self.opened += 1;
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
                    self.clients.get_mut(&id).unwrap().received.extend_from_slice(&data);
                }
                Output::Resume(id) => self.offer(id),
                Output::PauseUpstream(_) | Output::ResumeUpstream(_) | Output::FindMembers(_) => {}
                Output::Ask(..) | Output::Tell(..) => panic!("nobody asks about clients"),
                Output::CloseUpstream(id) => drop(self.connections.remove(&id)),
                Output::CloseDownstream(id) => self.clients.get_mut(&id).unwrap().is_closed = true,
                Output::AbortDownstream(_) => panic!("the client is aborted"),
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

    /// Lets time pass.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.step();
        }
    }

    /// What a client has received by the time at which it has received all, with spaces for line ends;
    /// or nothing, if that takes longer than this.
    fn reply(&mut self, id: ClientId, within: Duration) -> String {
        let end = self.now + within;
        while self.now < end && (self.clients[&id].received.is_empty() || !self.clients[&id].waiting.is_empty()) {
            self.step();
        }
        // What else is under way.
        self.pass(LATENCY * 8);
        let received = std::mem::take(&mut self.clients.get_mut(&id).unwrap().received);
        String::from_utf8(received).unwrap().replace("\r\n", " ")
    }

    fn kill(&mut self) {
        self.is_dead = true;
        let all = self.connections.iter();
        let lost: Vec<ConnectionId> = all.filter(|(_, one)| one.to == node(1)).map(|(id, _)| *id).collect();
        for id in lost {
            self.connections.remove(&id);
            self.multiplexer.lost(id, self.now);
            self.drain();
        }
    }
}

#[test]
fn clients_see_no_error_and_are_served_soon_after_the_promotion() {
    let mut longest = Duration::ZERO;
    for seed in 0..24 {
        let mut world = World::new(seed);
        let config = config(None);
        let (early, late, other) = (world.client(&config), world.client(&config), world.client(&config));
        world.kill();
        // The promotion takes from a part of a second to many seconds.
        let promotion = world.now + Duration::from_millis(311 + u64::from(seed) * 173);
        for words in ["SET {b} 1", "SET {b} 2", "DBSIZE", "PUBLISH c m", "SET {b} 3"] {
            world.send(early, words);
        }
        world.pass(Duration::from_millis(300));
        world.send(late, "SET {b} 4");
        while world.now < promotion {
            assert_eq!(world.reply(early, STEP) + &world.reply(late, STEP), "", "by a master that is dead");
            // Other slots' keys are served all the time.
            world.send(other, "INCR {a}");
            assert_eq!(world.reply(other, STEP * 10), ":1 ");
        }
        (world.is_promoted, world.probes) = (true, 0);
        world.executed.clear();
        let begin = world.now;
        assert_eq!(world.reply(early, Duration::from_secs(1)), ":1 :1 :2 :0 :1 ", "seed {seed}");
        longest = longest.max(world.now - begin);
        assert_eq!(world.reply(late, Duration::from_secs(1)), ":1 ", "seed {seed}");
        // Two are enough: one may have been in flight at the promotion.
        assert!(world.probes <= 2, "seed {seed}: {} probes", world.probes);
        // What was taken of a client first is executed first, and a client's commands in their order.
        let values: String = world.executed.iter().filter_map(|words| words.split(' ').nth(2)).collect();
        assert_eq!(values.replace('4', ""), "123", "{values}");
        assert!(values.len() == 4 && !values.starts_with('4'), "{values}");
    }
    assert!(longest < Duration::from_millis(350), "{longest:?}");
}

#[test]
fn the_error_comes_after_op_timeout_where_nobody_takes_the_place() {
    for (op_timeout, expected) in [(Some(700), 700), (None, 5000), (Some(0), 5000), (Some(9000), 9000)] {
        let mut world = World::new(3);
        let config = config(op_timeout);
        let (first, second) = (world.client(&config), world.client(&config));
        world.kill();
        let expected = Duration::from_millis(expected);
        for client in [first, second, first] {
            let begun = world.now;
            world.send(client, "SET {b} 1");
            assert_eq!(world.reply(client, Duration::from_secs(20)), LOST);
            let waited = world.now - begun;
            assert!(waited >= expected && waited < expected + Duration::from_millis(110), "{waited:?}");
        }
        // All nodes are asked at most five times a second, and the dead one is tried seldom.
        let rounds = 3 * expected.as_millis() as usize / 200;
        assert!(world.opened < rounds * 4 + 30, "{} connections in three times {expected:?}", world.opened);
        // Nothing of a transaction is sent.
        for words in ["MULTI", "SET {b} 1", "EXEC"] {
            world.send(first, words);
        }
        world.pass(expected + Duration::from_millis(110));
        let abort = "-EXECABORT redis-mesh: nothing was executed, since c can't be reached ";
        assert_eq!(world.reply(first, STEP), format!("+OK +QUEUED {abort}"));
        assert!(!world.clients[&first].is_closed);
        world.pass(Duration::from_secs(12));
        world.opened = 0;
        world.pass(Duration::from_secs(60));
        // A round each second, since the nodes say that the cluster has failed.
        assert!(world.opened <= 60 * 4, "{}: nobody waits any more", world.opened);
    }
}

#[test]
fn a_master_that_comes_back_by_itself_goes_on() {
    let mut world = World::new(3);
    let config = config(None);
    let client = world.client(&config);
    world.kill();
    world.send(client, "SET {b} 1");
    world.send(client, "SET {b} 2");
    for _ in 0..3 {
        world.pass(Duration::from_millis(500));
        assert_eq!(world.reply(client, STEP), "");
        // It comes and goes.
        world.is_dead = false;
        world.pass(Duration::from_millis(1));
        world.kill();
    }
    world.is_dead = false;
    assert_eq!(world.reply(client, Duration::from_millis(2300)), ":1 :1 ");
}

#[test]
fn a_client_that_goes_away_leaves_nothing_behind_and_one_that_has_said_all_is_answered() {
    let mut world = World::new(3);
    let config = config(None);
    let [gone, other, ended, late] = [0; 4].map(|_| world.client(&config));
    world.kill();
    world.send(gone, "SET {b} gone");
    world.send(other, "SET {b} other");
    world.send(ended, "SET {b} ended");
    world.multiplexer.ended(ended, world.now);
    world.pass(Duration::from_millis(500));
    world.send(late, "SET {b} late");
    world.multiplexer.ended(late, world.now);
    world.multiplexer.closed(gone);
    world.pass(Duration::from_millis(500));
    (world.is_promoted, world.executed) = (true, Vec::new());
    assert_eq!(world.reply(other, Duration::from_secs(1)), ":1 ");
    for client in [ended, late] {
        assert_eq!(world.reply(client, Duration::from_secs(1)), ":1 ");
        assert!(world.clients[&client].is_closed);
    }
    assert_eq!(world.executed, ["SET {b} other ", "SET {b} ended ", "SET {b} late "]);
}

#[test]
fn new_rules_do_not_begin_the_wait_anew() {
    let mut world = World::new(3);
    let first = config(Some(3000));
    let client = world.client(&first);
    let second = world.client(&first);
    world.kill();
    let begun = world.now;
    world.send(client, "SET {b} 1");
    world.pass(Duration::from_millis(500));
    world.send(second, "SET {b} 2");
    world.pass(Duration::from_millis(500));
    // The wait of a command that wasn't taken yet is that of the new rules.
    world.multiplexer.update(&config(Some(2000)));
    world.drain();
    assert_eq!(world.reply(second, Duration::from_secs(5)), LOST);
    let waited = world.now - begun;
    assert!(waited >= Duration::from_millis(2500) && waited < Duration::from_millis(2620), "{waited:?}");
    assert_eq!(world.reply(client, Duration::from_secs(5)), LOST);
    let waited = world.now - begun;
    assert!(waited >= Duration::from_millis(3000) && waited < Duration::from_millis(3120), "{waited:?}");
}

#[test]
fn a_client_whose_login_was_forgotten_goes_on() {
    let mut world = World::new(1);
    let client = world.multiplexer.open(config(None));
    world.clients.insert(client, Caller::default());
    world.send(client, "AUTH u p");
    assert_eq!(world.reply(client, Duration::from_secs(1)), "+OK ");
    for _ in 0..3 {
        world.send(client, &format!("INCR {OF_1}"));
        assert_eq!(world.reply(client, Duration::from_secs(1)), ":1 ");
        assert_eq!(world.multiplexer.load().clusters, 1);
        // Its connections end, and then nobody seems to need the cluster.
        world.pass(Duration::from_secs(200));
        assert_eq!(world.multiplexer.load().clusters, 0);
    }
}

#[test]
fn a_pipeline_waits_once_and_what_has_come_later_for_all_of_its_time() {
    for op_timeout in [700, 2000] {
        let mut world = World::new(3);
        let config = config(Some(op_timeout));
        let client = world.client(&config);
        world.kill();
        let (begun, limit) = (world.now, Duration::from_millis(op_timeout));
        for _ in 0..3000 {
            world.send(client, "SET {b} 1");
        }
        world.pass(limit / 2);
        for _ in 0..10 {
            world.send(client, "SET {b} 2");
        }
        let waits_for = |world: &mut World, count: usize, limit: Duration| {
            let mut told = String::new();
            while told.matches(LOST).count() < count && world.now - begun < limit * 10 {
                told += &world.reply(client, STEP);
            }
            assert_eq!(told, LOST.repeat(count));
            let waited = world.now - begun;
            assert!(waited >= limit && waited < limit + Duration::from_millis(120), "{waited:?}");
        };
        waits_for(&mut world, 3000, limit);
        waits_for(&mut world, 10, limit * 3 / 2);
    }
}
