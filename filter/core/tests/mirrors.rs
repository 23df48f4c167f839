//! What arrives at mirrors, and what is counted of it.

#![allow(clippy::panic, clippy::unwrap_used, reason = "a test fails by it")]

use redis_mesh_core::cluster::slot::slot;
use redis_mesh_core::maglev::key_hash::key_hash;
use redis_mesh_core::maglev::table::{MaglevTable, Member};
use redis_mesh_core::multiplexer::config::{HostConfig, ListenerConfig};
use redis_mesh_core::multiplexer::{ClientId, ConnectionId, HostStats, Multiplexer, Output};
use redis_mesh_core::resp::encode;
use redis_mesh_core::resp::request::{Parser, Progress};
use redis_mesh_core::stats::Stat;
use redis_mesh_core::wire;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// A host whose destination `main` has the mirror `copy`; the arguments are further fields of both.
fn host(target: Value, mirror: Value) -> Arc<HostConfig> {
    host_with_routes(target, mirror, json!([{"match": "any", "target": 0}]))
}

fn host_with_routes(target: Value, mirror: Value, routes: Value) -> Arc<HostConfig> {
    let mut of_mirror = json!({"destination": "copy:6379", "perMillion": 1_000_000, "upstream": {"cluster": "copy"}});
    of_mirror.as_object_mut().unwrap().extend(mirror.as_object().unwrap().clone());
    let mut of_target = json!({"destination": "main:6379", "upstream": {"cluster": "main"}, "mirrors": [of_mirror]});
    of_target.as_object_mut().unwrap().extend(target.as_object().unwrap().clone());
    let document = json!({"name": "n", "revision": 1, "hosts": [{
        "host": "h:6379", "path": "native", "targets": [of_target],
        "routes": routes,
    }]});
    ListenerConfig::from_json(document.to_string().as_bytes()).unwrap().host
}

/// A multiplexer before servers that execute nothing and answer as the test says.
struct World {
    multiplexer: Multiplexer,
    client: ClientId,
    connections: BTreeMap<ConnectionId, Connection>,
    opened: usize,
    /// What has arrived at each server, but for handshakes.
    arrived: BTreeMap<String, Vec<String>>,
    /// The replies of servers by the server and the first word; all others are `+OK`.
    replies: BTreeMap<(String, String), String>,
    /// Servers that answer nothing at present.
    silent: BTreeSet<String>,
    waiting: Vec<u8>,
    received: String,
    now: Duration,
}

/// A connection to a server.
struct Connection {
    server: String,
    /// Commands that weren't answered.
    unread: Vec<Vec<String>>,
    is_in_transaction: bool,
    queued: usize,
}

fn commands(bytes: &[u8]) -> Vec<Vec<String>> {
    let (mut at, mut all) = (0, Vec::new());
    while at < bytes.len() {
        let mut parser = Parser::default();
        let Ok(Progress::Complete(length)) = parser.parse(&bytes[at..], &wire::Limits::default()) else { panic!() };
        let frame = parser.frame(&bytes[at..]);
        let word = |span: &redis_mesh_core::resp::request::Span| String::from_utf8_lossy(span.of(frame)).into_owned();
        all.push(parser.args().iter().map(word).collect());
        at += length;
    }
    all
}

impl World {
    fn new(config: &Arc<HostConfig>) -> World {
        let mut multiplexer = Multiplexer::new([5; 32]);
        let client = multiplexer.open(config.clone());
        World {
            multiplexer,
            client,
            connections: BTreeMap::new(),
            opened: 0,
            arrived: BTreeMap::new(),
            replies: BTreeMap::new(),
            silent: BTreeSet::new(),
            waiting: Vec::new(),
            received: String::new(),
            now: Duration::from_secs(1),
        }
    }

    /// Sends commands of the client, whose arguments are separated by spaces, and returns the
    /// replies.
    fn send(&mut self, lines: &[&str]) -> String {
        for line in lines {
            let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
            encode::command(&mut self.waiting, &words);
        }
        self.offer();
        self.drain();
        std::mem::take(&mut self.received).replace("\r\n", " ")
    }

    fn offer(&mut self) {
        let taken = self.multiplexer.read(self.client, &self.waiting, self.now);
        self.waiting.drain(..taken);
    }

    fn drain(&mut self) {
        while let Some(output) = self.multiplexer.poll() {
            match output {
                Output::Open(id, address) => {
                    self.opened += 1;
                    let node = address.node.map(|node| format!(" {}", node.port())).unwrap_or_default();
                    let server = format!("{}{node}", address.cluster);
                    let connection = Connection { server, unread: Vec::new(), is_in_transaction: false, queued: 0 };
                    self.connections.insert(id, connection);
                }
                Output::Send(id) => {
                    let bytes = self.multiplexer.take_upstream(id);
                    if let Some(connection) = self.connections.get_mut(&id) {
                        connection.unread.extend(commands(&bytes));
                    }
                    self.answer(id);
                }
                Output::Write(id) => {
                    let bytes = self.multiplexer.take_downstream(id);
                    self.received.push_str(&String::from_utf8_lossy(&bytes));
                }
                Output::Resume(_) => self.offer(),
                Output::CloseUpstream(id) => drop(self.connections.remove(&id)),
                Output::PauseUpstream(_) | Output::ResumeUpstream(_) => {}
                Output::FindMembers(_) | Output::Ask(..) | Output::Tell(..) => {}
                Output::CloseDownstream(_) | Output::AbortDownstream(_) => panic!("the client is closed"),
            }
        }
    }

    /// The server of a connection answers what it has got.
    fn answer(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if self.silent.contains(&connection.server) {
            return;
        }
        let mut out = String::new();
        for words in std::mem::take(&mut connection.unread) {
            let server = connection.server.clone();
            let name = words[0].to_ascii_uppercase();
            let fixed = self.replies.get(&(server.clone(), name.clone())).cloned();
            let is_handshake = matches!(name.as_str(), "PING" | "CLUSTER" | "SELECT");
            if !is_handshake {
                self.arrived.entry(server).or_default().push(words.join(" "));
            }
            match name.as_str() {
                "CLUSTER" if words[1] == "INFO" => out.push_str("$16\r\ncluster_state:ok\r\n"),
                "CLUSTER" => out.push_str(
                    "*2\r\n*3\r\n:0\r\n:8191\r\n*3\r\n$9\r\n127.0.0.1\r\n:7001\r\n$1\r\na\r\n\
                     *3\r\n:8192\r\n:16383\r\n*3\r\n$9\r\n127.0.0.1\r\n:7002\r\n$1\r\nb\r\n",
                ),
                "MULTI" => {
                    (connection.is_in_transaction, connection.queued) = (true, 0);
                    out.push_str("+OK\r\n");
                }
                "EXEC" => {
                    connection.is_in_transaction = false;
                    let all = format!("*{}\r\n{}", connection.queued, "+OK\r\n".repeat(connection.queued));
                    out.push_str(&fixed.unwrap_or(all));
                }
                _ if connection.is_in_transaction => {
                    connection.queued += 1;
                    out.push_str("+QUEUED\r\n");
                }
                _ => out.push_str(fixed.as_deref().unwrap_or("+OK\r\n")),
            }
        }
        self.multiplexer.reply(id, out.as_bytes(), self.now);
    }

    /// All servers answer what they haven't answered.
    fn catch_up(&mut self) {
        self.silent.clear();
        for id in self.connections.keys().copied().collect::<Vec<_>>() {
            self.answer(id);
        }
        self.drain();
    }

    fn reply(&mut self, server: &str, name: &str, reply: &str) {
        self.replies.insert((server.to_owned(), name.to_owned()), reply.to_owned());
    }

    fn at(&mut self, server: &str) -> Vec<String> {
        self.arrived.remove(server).unwrap_or_default()
    }

    /// Commands mirrored, copies that have failed, and copies that were dropped.
    fn counted(&mut self) -> (u64, u64, u64) {
        let (mut sum, mut host) = ((0, 0, 0), HostStats::default());
        while self.multiplexer.counted(&mut host).is_some() {
            sum.0 += host.stats.of(Stat::Mirrored);
            sum.1 += host.mirror_errors;
            sum.2 += host.mirror_dropped;
        }
        sum
    }
}

#[test]
fn what_concerns_a_server_is_copied_only_where_that_is_asked_for() {
    let admin =
        ["FLUSHALL", "FLUSHDB", "CONFIG SET a b", "SCRIPT LOAD x", "SCRIPT FLUSH", "FUNCTION LOAD x", "SWAPDB 0 1"];
    let data = ["SET k v", "EVAL x 0", "EVAL x 1 k", "FCALL f 1 k", "PUBLISH c m"];
    let mut world = World::new(&host(json!({}), json!({})));
    world.send(&admin);
    assert_eq!((world.at("main").len(), world.at("copy")), (admin.len(), vec![]));
    world.send(&data);
    assert_eq!(world.at("copy"), data);
    assert_eq!(world.counted(), (data.len() as u64, 0, 0));
    let mut world = World::new(&host(json!({}), json!({"includeAdmin": true})));
    world.send(&admin);
    assert_eq!(world.at("copy"), admin);
    // Never: what would make a server of the mirror that the destination is.
    world.send(&["REPLICAOF a 1", "MIGRATE h 1 k 0 1", "KEYS *", "CLIENT LIST", "WAIT 0 0"]);
    assert_eq!(world.at("copy"), Vec::<String>::new());
}

#[test]
fn to_a_redis_cluster_as_well_as_from_one() {
    // All masters, if all are concerned.
    let cluster = json!({"cluster": true});
    let mut world = World::new(&host(cluster.clone(), json!({"includeAdmin": true})));
    world.send(&["FLUSHALL", "EVAL x 0"]);
    assert_eq!(world.at("copy"), ["FLUSHALL", "EVAL x 0"]);
    let mut world = World::new(&host(cluster.clone(), json!({"includeAdmin": true, "cluster": true})));
    world.send(&["FLUSHALL", "EVAL x 0"]);
    assert_eq!(
        (world.at("copy 7001"), world.at("copy 7002")),
        (vec!["FLUSHALL".into(), "EVAL x 0".into()], vec!["FLUSHALL".into()])
    );
    // In parts, if the mirror is a cluster and the destination is none.
    assert!(slot(b"b") < 8192 && slot(b"a") > 8191);
    let mut world = World::new(&host(json!({}), cluster));
    world.send(&["MSET a 1 b 2", "DEL a b", "RENAME a b", "GET a"]);
    assert_eq!(world.at("main"), ["MSET a 1 b 2", "DEL a b", "RENAME a b", "GET a"]);
    assert_eq!(world.at("copy 7001"), ["MSET b 2", "DEL b"]);
    assert_eq!(world.at("copy 7002"), ["MSET a 1", "DEL a", "GET a"]);
    // RENAME can't be executed there.
    assert_eq!(world.counted(), (3, 0, 1));
}

/// A server with these ports, on whose members keys are placed, and the key of each that is the
/// first number there.
fn placed(ports: [u16; 2]) -> (Vec<Member>, [String; 2]) {
    let member = |port: u16| Member { address: ([127, 0, 0, 1], port).into(), weight: 1 };
    let members = ports.map(member).to_vec();
    let table = MaglevTable::new(&members).unwrap();
    let is_at = |key: &String, index| table.member(key_hash(wire::KeyHash::Key, key.as_bytes())) == index;
    let key = |index| (0..).map(|key: u32| key.to_string()).find(|key| is_at(key, index)).unwrap();
    (members, [key(0), key(1)])
}

#[test]
fn to_several_servers_that_are_no_redis_cluster() {
    let (members, [a, b]) = placed([7001, 7002]);
    let placed_copy = json!({"includeAdmin": true, "upstream": {"cluster": "copy", "keyHash": "key"}});
    let place = |world: &mut World| world.multiplexer.set_members("copy", members.clone(), world.now);
    let both = |world: &mut World| (world.at("copy 7001"), world.at("copy 7002"));
    let mut world = World::new(&host(json!({}), placed_copy.clone()));
    place(&mut world);
    // All of them, if all are concerned; else the one that a client's command without a key goes to.
    let all = ["FLUSHALL", "SCRIPT LOAD x", "FUNCTION FLUSH", "CONFIG SET a b"];
    world.send(&all);
    assert_eq!(both(&mut world), (all.map(String::from).to_vec(), all.map(String::from).to_vec()));
    world.send(&["EVAL x 0"]);
    assert_eq!(both(&mut world), (vec!["EVAL x 0".into()], vec![]));
    assert_eq!(world.counted(), (5, 0, 0));
    // In parts.
    world.send(&[&format!("MSET {a} 1 {b} 2"), &format!("DEL {a} {b}"), &format!("RENAME {a} {b}")]);
    assert_eq!(
        both(&mut world),
        (vec![format!("MSET {a} 1"), format!("DEL {a}")], vec![format!("MSET {b} 2"), format!("DEL {b}")])
    );
    assert_eq!(world.counted(), (2, 0, 1));
    // Where those are who have subscribed.
    let publish = |channel: &str| format!("PUBLISH {channel} m");
    world.send(&[&publish(&a), &publish(&b), &format!("SPUBLISH {b} m")]);
    assert_eq!(both(&mut world), (vec![publish(&a)], vec![publish(&b), format!("SPUBLISH {b} m")]));
    // A transaction is copied where all of it belongs.
    world.counted();
    let set = format!("SET {b} 1");
    world.send(&["MULTI", "FLUSHALL", "EXEC", "MULTI", &set, "EXEC", "MULTI", &publish(&b), "EXEC"]);
    let transaction = |line: &str| ["MULTI", line, "EXEC"].map(String::from);
    let of_b = [transaction("FLUSHALL"), transaction(&set), transaction(&publish(&b))].concat();
    assert_eq!(both(&mut world), (transaction("FLUSHALL").to_vec(), of_b));
    assert_eq!(world.counted(), (3, 0, 0));
    world.send(&["MULTI", "FLUSHALL", &set, "EXEC", "MULTI", &publish(&a), &set, "EXEC"]);
    assert_eq!((both(&mut world), world.counted()), ((vec![], vec![]), (0, 0, 2)));
    // Without one of them, what concerns all is dropped.
    let mut world = World::new(&host(json!({}), placed_copy.clone()));
    world.multiplexer.set_members("copy", members[..1].to_vec(), world.now);
    world.send(&["FLUSHALL", &publish(&b), &format!("MSET {a} 1 {b} 2"), "MULTI", "FLUSHALL", &set, "EXEC"]);
    let whole = ["FLUSHALL", &publish(&b), &format!("MSET {a} 1 {b} 2"), "MULTI", "FLUSHALL", &set, "EXEC"];
    assert_eq!(both(&mut world), (whole.map(String::from).to_vec(), vec![]));
    // From several servers, too, which have the keys in other ways.
    let (sources, [c, d]) = placed([8001, 8002]);
    let mut world = World::new(&host(json!({"upstream": {"cluster": "main", "keyHash": "key"}}), placed_copy));
    place(&mut world);
    world.multiplexer.set_members("main", sources, world.now);
    world.drain();
    world.send(&["FLUSHALL", "EVAL x 0", &publish(&b)]);
    assert_eq!(both(&mut world), (vec!["FLUSHALL".into(), "EVAL x 0".into()], vec!["FLUSHALL".into(), publish(&b)]));
    world.send(&[&format!("MSET {a} 1 {b} 2 {c} 3 {d} 4")]);
    let (at_a, at_b) = both(&mut world);
    let keys = |lines: Vec<String>| {
        let words: Vec<String> = lines.iter().flat_map(|line| line.split(' ').skip(1)).map(String::from).collect();
        words.chunks(2).map(|pair| pair[0].clone()).collect::<BTreeSet<String>>()
    };
    assert_eq!(keys([at_a.clone(), at_b.clone()].concat()), BTreeSet::from([a.clone(), b.clone(), c, d]));
    assert!(keys(at_a).contains(&a) && keys(at_b).contains(&b));
}

#[test]
fn a_command_with_very_many_keys_is_copied() {
    // A look through all keys, or all slots, for each key would take minutes.
    const COUNT: usize = 300_000;
    let route = json!([{"match": {"prefix": "p:"}, "target": 0, "removePrefix": true}, {"match": "any", "target": 0}]);
    let line = |prefix: &str| "DEL".to_owned() + &(0..COUNT).map(|key| format!(" {prefix}{key}")).collect::<String>();
    for mirror in [json!({}), json!({"cluster": true})] {
        let is_cluster = mirror != json!({});
        let mut world = World::new(&host_with_routes(json!({}), mirror, route.clone()));
        // Its nodes are known.
        world.send(&["SET k v"]);
        world.arrived.clear();
        world.send(&[&line("p:")]);
        match is_cluster {
            false => assert!(world.at("copy") == [line("")]),
            true => {
                let copies = [world.at("copy 7001"), world.at("copy 7002")].concat();
                // Some are dropped where more would wait for the server than may.
                let (_, _, dropped) = world.counted();
                assert_eq!(copies.len() as u64 + dropped, 16_384);
                assert!(copies.len() > 8_000 && copies.iter().all(|copy| !copy.contains("p:")));
            }
        }
    }
}

#[test]
fn copies_wait_until_the_nodes_of_the_mirror_are_known() {
    let mut world = World::new(&host(json!({}), json!({"cluster": true})));
    world.silent.insert("copy".into());
    assert_eq!(world.send(&["SET a 1", "SET b 1", "SET a 2"]), "+OK +OK +OK ");
    assert_eq!(world.at("copy 7002"), Vec::<String>::new());
    world.catch_up();
    assert_eq!(
        (world.at("copy 7001"), world.at("copy 7002")),
        (vec!["SET b 1".into()], vec!["SET a 1".into(), "SET a 2".into()])
    );
    assert_eq!(world.counted(), (3, 0, 0));
    // No more than there is room for.
    let mut world = World::new(&host(json!({}), json!({"cluster": true})));
    world.silent.insert("copy".into());
    let large = format!("SET a {}", "x".repeat(400_000));
    world.send(&[&large, &large, &large, "SET a 1"]);
    world.catch_up();
    let lengths: Vec<usize> = world.at("copy 7002").iter().map(String::len).collect();
    assert_eq!((lengths, world.counted()), (vec![large.len(), large.len(), 7], (3, 0, 1)));
}

#[test]
fn a_transaction_is_copied_as_one_when_it_was_executed() {
    let mut world = World::new(&host(json!({}), json!({})));
    let whole = ["MULTI", "SET k v", "BLPOP k 0", "EXEC"];
    world.send(&["MULTI", "SET k v", "FLUSHALL", "BLPOP k 0", "TIME", "EXEC"]);
    assert_eq!(world.at("copy"), whole);
    assert_eq!(world.counted(), (2, 0, 0));
    // Nothing overtakes it, though its copy is sent after EXEC was answered.
    world.silent.insert("main".into());
    world.send(&["MULTI", "SET k 1", "EXEC", "SET k 2"]);
    assert_eq!(world.at("copy"), Vec::<String>::new());
    world.catch_up();
    assert_eq!(world.at("copy"), ["MULTI", "SET k 1", "EXEC", "SET k 2"]);
    // What wasn't executed isn't copied.
    for reply in ["*-1\r\n", "-EXECABORT Transaction discarded because of previous errors.\r\n"] {
        world.reply("main", "EXEC", reply);
        world.send(&["WATCH k", "MULTI", "SET k v", "EXEC", "MULTI", "SET k v", "DISCARD"]);
        assert_eq!(world.at("copy"), Vec::<String>::new());
    }
    world.replies.clear();
    // A transaction without anything for the mirror.
    world.send(&["MULTI", "TIME", "EXEC"]);
    assert_eq!(world.at("copy"), Vec::<String>::new());
    // Reads are left out where reads are.
    let mut world = World::new(&host(json!({}), json!({"excludeReadCommands": true})));
    world.send(&["MULTI", "GET k", "SET k v", "EXEC", "MULTI", "GET k", "EXEC"]);
    assert_eq!(world.at("copy"), ["MULTI", "SET k v", "EXEC"]);
    // A cluster gets it at one node, or not at all.
    let mut world = World::new(&host(json!({}), json!({"cluster": true})));
    world.send(&["MULTI", "SET a v", "SET {a}b v", "EXEC", "MULTI", "SET a v", "SET b v", "EXEC"]);
    assert_eq!(world.at("copy 7002"), ["MULTI", "SET a v", "SET {a}b v", "EXEC"]);
    assert_eq!((world.at("copy 7001"), world.counted()), (vec![], (2, 0, 1)));
}

#[test]
fn a_transaction_is_copied_although_its_client_is_gone() {
    let mut world = World::new(&host(json!({}), json!({})));
    world.send(&["SET k 0"]);
    world.silent.insert("main".into());
    world.send(&["MULTI", "SET k 1", "EXEC"]);
    world.multiplexer.closed(world.client);
    world.catch_up();
    assert_eq!(world.at("copy"), ["SET k 0", "MULTI", "SET k 1", "EXEC"]);
    assert_eq!(world.counted(), (2, 0, 0));
}

#[test]
fn copies_of_a_transaction_are_dropped_where_its_end_is_not_told() {
    let mut world = World::new(&host(json!({}), json!({})));
    world.send(&["WATCH k"]);
    world.silent.insert("main".into());
    world.send(&["MULTI", "SET k 1", "EXEC"]);
    world.multiplexer.closed(world.client);
    world.drain();
    assert_eq!((world.at("copy"), world.counted()), (vec![], (0, 0, 1)));
    assert_eq!(world.multiplexer.load().pending, 0);
}

#[test]
fn errors_of_a_mirror_are_counted_although_the_client_is_gone() {
    let config = host(json!({}), json!({}));
    let mut world = World::new(&config);
    world.reply("copy", "SET", "-OOM no memory\r\n");
    world.reply("copy", "EXEC", "*2\r\n+OK\r\n-WRONGTYPE no\r\n");
    assert_eq!(
        world.send(&["SET k v", "GET k", "MULTI", "SET k v", "INCR k", "EXEC"]),
        "+OK +OK +OK +QUEUED +QUEUED *2 +OK +OK "
    );
    assert_eq!(world.counted(), (4, 2, 0));
    world.silent.insert("copy".into());
    world.send(&["SET k v"]);
    world.multiplexer.closed(world.client);
    assert_eq!(world.counted(), (1, 0, 0));
    world.catch_up();
    assert_eq!(world.counted(), (0, 1, 0));
    // A connection that is lost with copies that weren't answered.
    world.client = world.multiplexer.open(config);
    world.silent.insert("copy".into());
    world.send(&["SET k v", "SET k w"]);
    let copy = |(id, of): (&ConnectionId, &Connection)| (of.server == "copy").then_some(*id);
    let id = world.connections.iter().find_map(copy).unwrap();
    world.connections.remove(&id);
    world.multiplexer.lost(id, world.now);
    assert_eq!(world.counted(), (2, 2, 0));
}

#[test]
fn scripts_that_the_mirror_lacks_are_loaded_there() {
    let mut world = World::new(&host(json!({}), json!({})));
    let sha = "e0e1f9fabfc9d4800c877a703b823ac0578ff8db";
    let (call, load) = (format!("EVALSHA {sha} 1 k"), "SCRIPT LOAD return 1");
    let mut request = Vec::new();
    encode::command(&mut request, &[b"SCRIPT", b"LOAD", b"return 1"]);
    world.waiting = request;
    world.send(&[&call, "MULTI", &call, "EXEC"]);
    assert_eq!(world.at("copy"), [load, &call, "MULTI", &call, "EXEC"]);
    // It has lost them.
    world.reply("copy", "EVALSHA", "-NOSCRIPT No matching script.\r\n");
    world.send(&[&call]);
    world.replies.clear();
    world.send(&[&call]);
    assert_eq!(world.at("copy"), [&call, load, &call]);
    assert_eq!(world.counted().1, 1);
}

#[test]
fn a_database_that_the_mirror_lacks_is_asked_for_now_and_then() {
    let mut world = World::new(&host(json!({}), json!({})));
    world.reply("copy", "SELECT", "-ERR DB index is out of range\r\n");
    world.send(&["SELECT 5"]);
    for _ in 0..300 {
        assert_eq!(world.send(&["SET k v"]), "+OK ");
        world.now += Duration::from_millis(1);
    }
    assert!(world.opened < 10, "{}", world.opened);
    let (mirrored, errors, dropped) = world.counted();
    assert!(errors + dropped >= 300 && mirrored < 10, "{mirrored} {errors} {dropped}");
    // Other databases of it are copied to.
    world.send(&["SELECT 0", "SET k w"]);
    assert_eq!(world.at("copy"), ["SET k w"]);
}
