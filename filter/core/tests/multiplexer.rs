//! The machine that opens connections itself, before stand-ins of Redis, in pieces of random size. Random sessions are in
//! `sessions`.

#![allow(clippy::panic, clippy::unwrap_used, reason = "a test fails by it")]

use redis_mesh_core::multiplexer::config::HostConfig;
use redis_mesh_core::multiplexer::{Address, ClientId, ConnectionId, Multiplexer, Output};
use redis_mesh_core::random::Random;
use redis_mesh_core::resp::encode;
use redis_mesh_core::resp::request::{Parser, Progress};
use redis_mesh_core::wire;
use sha1::Digest;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// As much of Redis as the tests ask for.
#[derive(Default)]
struct Redis {
    keys: BTreeMap<Vec<u8>, Vec<u8>>,
    password: Option<Vec<u8>>,
    /// Scripts by the hexadecimal digest. All of them append their argument to their key.
    scripts: BTreeMap<Vec<u8>, Vec<u8>>,
    /// It is gone.
    is_down: bool,
}

/// A connection to it.
#[derive(Default)]
struct Connection {
    parser: Parser,
    /// What hasn't reached Redis yet.
    sent: Vec<u8>,
    input: Vec<u8>,
    output: VecDeque<u8>,
    is_authenticated: bool,
    /// Commands since MULTI.
    queued: Option<Vec<Vec<Vec<u8>>>>,
}

impl Redis {
    fn serve(&mut self, connection: &mut Connection, data: &[u8]) {
        connection.input.extend_from_slice(data);
        let mut at = 0;
        while let Ok(progress) = connection.parser.parse(&connection.input[at..], &wire::Limits::default()) {
            match progress {
                Progress::Partial => break,
                Progress::Nothing(length) => at += length,
                Progress::Complete(length) => {
                    let frame = connection.parser.frame(&connection.input[at..]);
                    let args: Vec<Vec<u8>> =
                        connection.parser.args().iter().map(|span| span.of(frame).to_vec()).collect();
                    connection.parser.reset();
                    at += length;
                    let mut out = Vec::new();
                    self.answer(connection, args, &mut out);
                    connection.output.extend(out);
                }
            }
        }
        connection.input.drain(..at);
    }

    fn answer(&mut self, connection: &mut Connection, args: Vec<Vec<u8>>, out: &mut Vec<u8>) {
        let name = args[0].to_ascii_lowercase();
        match name.as_slice() {
            b"auth" if Some(&args[1]) == self.password.as_ref() => {
                connection.is_authenticated = true;
                out.extend_from_slice(b"+OK\r\n");
            }
            b"auth" if self.password.is_none() => out.extend_from_slice(
                b"-ERR AUTH <password> called without any password configured for the default user.\r\n",
            ),
            b"auth" => out.extend_from_slice(b"-WRONGPASS invalid username-password pair or user is disabled.\r\n"),
            _ if self.password.is_some() && !connection.is_authenticated => {
                out.extend_from_slice(b"-NOAUTH Authentication required.\r\n");
            }
            b"ping" => out.extend_from_slice(b"+PONG\r\n"),
            b"multi" => {
                connection.queued = Some(Vec::new());
                out.extend_from_slice(b"+OK\r\n");
            }
            b"exec" => {
                let queued = connection.queued.take().unwrap();
                encode::array(out, queued.len());
                queued.into_iter().for_each(|args| self.perform(&args, out));
            }
            _ => match &mut connection.queued {
                Some(queued) => {
                    queued.push(args);
                    out.extend_from_slice(b"+QUEUED\r\n");
                }
                None => self.perform(&args, out),
            },
        }
    }

    fn perform(&mut self, args: &[Vec<u8>], out: &mut Vec<u8>) {
        let value = |value: Option<&Vec<u8>>, out: &mut Vec<u8>| match value {
            Some(value) => encode::bulk(out, value),
            None => out.extend_from_slice(b"$-1\r\n"),
        };
        match args[0].to_ascii_lowercase().as_slice() {
            b"set" => {
                self.keys.insert(args[1].clone(), args[2].clone());
                out.extend_from_slice(b"+OK\r\n");
            }
            b"get" => value(self.keys.get(&args[1]), out),
            b"append" => {
                let held = self.keys.entry(args[1].clone()).or_default();
                held.extend_from_slice(&args[2]);
                encode::integer(out, held.len() as u64);
            }
            b"mset" => {
                for pair in args[1..].chunks(2) {
                    self.keys.insert(pair[0].clone(), pair[1].clone());
                }
                out.extend_from_slice(b"+OK\r\n");
            }
            b"mget" => {
                encode::array(out, args.len() - 1);
                args[1..].iter().for_each(|key| value(self.keys.get(key), out));
            }
            b"del" => {
                let gone = args[1..].iter().filter(|key| self.keys.remove(*key).is_some()).count();
                encode::integer(out, gone as u64);
            }
            b"script" if args[1].eq_ignore_ascii_case(b"load") => encode::bulk(out, &self.learn(&args[2])),
            b"script" => {
                self.scripts.clear();
                out.extend_from_slice(b"+OK\r\n");
            }
            b"evalsha" if !self.scripts.contains_key(&args[1]) => {
                out.extend_from_slice(b"-NOSCRIPT No matching script. Please use EVAL.\r\n");
            }
            name @ (b"eval" | b"evalsha") => {
                if name == b"eval" {
                    self.learn(&args[1]);
                }
                self.perform(&[b"append".to_vec(), args[3].clone(), args[4].clone()], out);
            }
            other => panic!("{}", other.escape_ascii()),
        }
    }

    fn learn(&mut self, body: &[u8]) -> Vec<u8> {
        let digest = sha1::Sha1::digest(body).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        self.scripts.insert(digest.clone().into_bytes(), body.to_vec());
        digest.into_bytes()
    }
}

/// A worker: the machine, what it has opened, and the clients.
struct World {
    proxy: Multiplexer,
    random: Random,
    redis: BTreeMap<String, Redis>,
    connections: BTreeMap<ConnectionId, (String, Connection)>,
    clients: BTreeMap<ClientId, Caller>,
    opened: usize,
    now: Duration,
}

/// A client's side.
#[derive(Default)]
struct Caller {
    /// Bytes that were not taken yet.
    waiting: Vec<u8>,
    received: Vec<u8>,
    is_closed: bool,
}

/// `one` asks for a password.
fn upstream(name: &str) -> Option<wire::Upstream> {
    let login = wire::UpstreamLogin { username: None, password: "secret".into() };
    Some(wire::Upstream { cluster: name.to_owned(), login: (name == "one").then_some(login), nodes: None })
}

fn host(routes: &[(wire::KeyMatch, u32)], destinations: &[&str]) -> wire::Host {
    let target = |name: &&str| wire::Target {
        destination: (*name).to_owned(),
        cluster: false,
        mirrors: Vec::new(),
        tags: Vec::new(),
        upstream: upstream(name),
    };
    let route = |(key, target): &(wire::KeyMatch, u32)| wire::Route {
        key: key.clone(),
        remove_prefix: false,
        target: *target,
        read_policy: None,
        faults: Vec::new(),
    };
    wire::Host {
        host: "h:6379".into(),
        selector: wire::Selector::default(),
        path: wire::DataPath::Native,
        client_auth: None,
        upstream_login: None,
        handshake: None,
        guard_credentials: false,
        allow_admin_commands: false,
        case_insensitive: false,
        read_policy: wire::ReadPolicy::default(),
        command_stats: false,
        op_timeout_ms: 0,
        targets: destinations.iter().map(target).collect(),
        routes: routes.iter().map(route).collect(),
        faults: Vec::new(),
    }
}

/// `a:` goes to one Redis, which asks for a password, everything else to another.
fn two() -> wire::Host {
    host(&[(wire::KeyMatch::Prefix("a:".into()), 0), (wire::KeyMatch::Any, 1)], &["one", "two"])
}

fn compiled(host: &wire::Host) -> Arc<HostConfig> {
    Arc::new(HostConfig::new(host, &wire::Limits::default()).unwrap())
}

impl World {
    fn new(seed: u64) -> World {
        let mut key = [7; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        let one = Redis { password: Some(b"secret".to_vec()), ..Redis::default() };
        World {
            proxy: Multiplexer::new(key),
            random: Random::new(key),
            redis: [("one".to_owned(), one), ("two".to_owned(), Redis::default())].into(),
            connections: BTreeMap::new(),
            clients: BTreeMap::new(),
            opened: 0,
            now: Duration::from_secs(1),
        }
    }

    fn client(&mut self, config: &Arc<HostConfig>) -> ClientId {
        let id = self.proxy.open(config.clone());
        self.clients.insert(id, Caller::default());
        id
    }

    /// A client says something, in pieces.
    fn say(&mut self, id: ClientId, data: &[u8]) {
        self.clients.get_mut(&id).unwrap().waiting.extend_from_slice(data);
        self.offer(id);
    }

    fn offer(&mut self, id: ClientId) {
        let Some(caller) = self.clients.get_mut(&id) else { return };
        let data = std::mem::take(&mut caller.waiting);
        let mut at = 0;
        loop {
            let end = (at + 1 + self.random.below(60) as usize).min(data.len());
            let taken = self.proxy.read(id, &data[at..end], self.now);
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

    fn drain(&mut self) {
        while let Some(output) = self.proxy.poll() {
            match output {
                Output::Open(id, Address { cluster, node: None }) => {
                    self.opened += 1;
                    self.connections.insert(id, (cluster.to_string(), Connection::default()));
                    if self.redis[&*cluster].is_down {
                        self.connections.remove(&id);
                        self.proxy.lost(id, self.now);
                    }
                }
                Output::Open(_, address) => panic!("{address:?}"),
                Output::Send(id) => {
                    let bytes = self.proxy.take_upstream(id);
                    if let Some((_, connection)) = self.connections.get_mut(&id) {
                        connection.sent.extend_from_slice(&bytes);
                    }
                    self.proxy.recycle(bytes);
                }
                Output::Write(id) => {
                    let bytes = self.proxy.take_downstream(id);
                    self.clients.get_mut(&id).unwrap().received.extend_from_slice(&bytes);
                    self.proxy.recycle(bytes);
                }
                Output::Resume(id) => self.offer(id),
                Output::CloseDownstream(id) | Output::AbortDownstream(id) => {
                    self.clients.get_mut(&id).unwrap().is_closed = true
                }
                Output::CloseUpstream(id) => drop(self.connections.remove(&id)),
            }
        }
    }

    /// Something reaches Redis, or some of what it has answered arrives; false where nothing is left.
    fn arrive(&mut self) -> bool {
        let waiting: Vec<ConnectionId> = self
            .connections
            .iter()
            .filter(|(_, (_, connection))| !connection.sent.is_empty() || !connection.output.is_empty())
            .map(|(id, _)| *id)
            .collect();
        if waiting.is_empty() {
            return false;
        }
        let id = waiting[self.random.below(waiting.len() as u32) as usize];
        let size = 1 + self.random.below(40) as usize;
        let (name, connection) = self.connections.get_mut(&id).unwrap();
        if connection.output.is_empty() || !connection.sent.is_empty() && self.random.below(2) == 0 {
            let sent = std::mem::take(&mut connection.sent);
            self.redis.get_mut(name).unwrap().serve(connection, &sent);
            return true;
        }
        let piece: Vec<u8> = connection.output.drain(..size.min(connection.output.len())).collect();
        self.proxy.reply(id, &piece, self.now);
        self.drain();
        true
    }

    fn settle(&mut self) {
        while self.arrive() {}
    }

    fn received(&mut self, id: ClientId) -> String {
        let received = std::mem::take(&mut self.clients.get_mut(&id).unwrap().received);
        String::from_utf8_lossy(&received).replace("\r\n", " ")
    }
}

fn command(args: &[&str]) -> Vec<u8> {
    let mut out = Vec::new();
    encode::command(&mut out, &args.iter().map(|arg| arg.as_bytes()).collect::<Vec<_>>());
    out
}

fn check(lines: &[&str], expected: &str) {
    for seed in 0..20 {
        let mut world = World::new(seed);
        let id = world.client(&compiled(&two()));
        let all: Vec<u8> = lines.iter().flat_map(|line| command(&line.split(' ').collect::<Vec<_>>())).collect();
        world.say(id, &all);
        world.settle();
        assert_eq!(world.received(id), expected, "{lines:?}, seed {seed}");
    }
}

#[test]
fn commands_go_where_their_keys_route() {
    check(&["SET a:1 x", "SET b y", "GET a:1", "GET b", "GET a:2"], "+OK +OK $1 x $1 y $-1 ");
    let mut world = World::new(1);
    let id = world.client(&compiled(&two()));
    world.say(id, b"SET a:1 x\r\nSET b y\r\n");
    world.settle();
    assert_eq!(world.redis["one"].keys.len(), 1);
    assert_eq!(world.redis["two"].keys.len(), 1);
    assert_eq!(world.opened, 2);
}

#[test]
fn commands_over_several_destinations_are_split() {
    check(
        &["MSET a:1 x b y a:2 z", "MGET b a:2 a:1 c", "DEL a:1 b c", "MGET a:1 b a:2"],
        "+OK *4 $1 y $1 z $1 x $-1 :2 *3 $-1 $-1 $1 z ",
    );
    check(&["RENAME a:1 b"], "-CROSSSLOT redis-mesh: keys route to different destinations ");
}

#[test]
fn transactions_go_in_one_piece() {
    check(&["MULTI", "SET a:1 x", "APPEND a:1 y", "EXEC", "GET a:1"], "+OK +QUEUED +QUEUED *2 +OK :2 $2 xy ");
    check(&["MULTI", "SET a:1 x", "DISCARD", "GET a:1"], "+OK +QUEUED +OK $-1 ");
    check(&["MULTI", "MULTI", "EXEC", "EXEC"], "+OK -ERR MULTI calls can not be nested *0 -ERR EXEC without MULTI ");
    check(
        &["MULTI", "SET a:1 x", "SET b y", "EXEC", "GET a:1"],
        "+OK +QUEUED -CROSSSLOT redis-mesh: keys route to different destinations -EXECABORT Transaction discarded because of previous errors. $-1 ",
    );
    check(
        &["MULTI", "GET", "EXEC"],
        "+OK -ERR wrong number of arguments for 'get' command -EXECABORT Transaction discarded because of previous errors. ",
    );
}

#[test]
fn a_client_is_answered_here_where_no_redis_is_needed() {
    check(
        &["PING", "PING x", "ECHO y", "CLIENT SETNAME me", "CLIENT GETNAME", "SELECT 0", "NOSUCH 1", "GET", "SYNC"],
        "+PONG $1 x $1 y +OK $2 me +OK -ERR unknown command 'NOSUCH', with args beginning with: '1'  -ERR wrong number of arguments for 'get' command -ERR redis-mesh: SYNC needs the direct data path ",
    );
    let mut world = World::new(1);
    let id = world.client(&compiled(&two()));
    world.say(id, b"SET b 1\r\nQUIT\r\nGET b\r\n");
    world.settle();
    assert_eq!(world.received(id), "+OK +OK ");
    assert!(world.clients[&id].is_closed);
}

#[test]
fn redis_that_is_down_is_told_at_once_and_tried_again() {
    let mut world = World::new(3);
    let id = world.client(&compiled(&two()));
    world.redis.get_mut("two").unwrap().is_down = true;
    for _ in 0..3 {
        world.say(id, b"SET b 1\r\n");
    }
    assert_eq!(world.received(id), "-ERR redis-mesh: two can't be reached ".repeat(3));
    assert_eq!(world.opened, 1, "it is not tried for every command");
    world.redis.get_mut("two").unwrap().is_down = false;
    world.now += Duration::from_secs(3);
    world.say(id, b"SET b 1\r\n");
    world.settle();
    assert_eq!(world.received(id), "+OK ");
}

#[test]
fn a_login_that_is_refused_is_told() {
    let mut world = World::new(3);
    world.redis.get_mut("one").unwrap().password = Some(b"other".to_vec());
    let id = world.client(&compiled(&two()));
    world.say(id, b"SET a:1 1\r\nSET b 1\r\nGET a:1\r\n");
    world.settle();
    assert_eq!(
        world.received(id),
        "-ERR redis-mesh: one refused the login +OK -ERR redis-mesh: one refused the login "
    );
    assert!(world.redis["one"].keys.is_empty());
}

#[test]
fn replies_to_a_client_that_is_gone_reach_nobody_else() {
    let mut world = World::new(5);
    let config = compiled(&two());
    let (first, second) = (world.client(&config), world.client(&config));
    world.say(first, b"SET b first\r\nGET b\r\n");
    world.say(second, b"SET c second\r\nGET c\r\n");
    world.proxy.closed(first);
    world.drain();
    let third = world.client(&config);
    world.say(third, b"GET c\r\n");
    world.settle();
    assert_eq!(world.received(second), "+OK $6 second ");
    assert_eq!(world.received(third), "$6 second ");
    assert_eq!(world.received(first), "");
}

#[test]
fn connections_are_renewed_and_nothing_is_overtaken() {
    for seed in 0..100 {
        let mut world = World::new(seed);
        let id = world.client(&compiled(&two()));
        let mut expected = String::new();
        let mut append = |world: &mut World, count: usize| {
            for _ in 0..count {
                expected.push(char::from(b'a' + world.random.below(26) as u8));
                let value = expected[expected.len() - 1..].to_owned();
                world.say(id, &command(&["APPEND", "b", &value]));
                for _ in 0..world.random.below(3) {
                    world.arrive();
                }
            }
        };
        append(&mut world, 5);
        world.settle();
        for _ in 0..3 {
            world.now += Duration::from_secs(59);
            append(&mut world, 5);
            world.now += Duration::from_secs(2);
            world.proxy.tick(world.now);
            world.drain();
            append(&mut world, 20);
            world.settle();
        }
        world.received(id);
        world.say(id, &command(&["GET", "b"]));
        world.settle();
        assert_eq!(world.received(id), format!("${} {expected} ", expected.len()), "seed {seed}");
        let open = world.connections.values().filter(|(name, _)| name == "two").count();
        assert_eq!((world.opened, open), (4, 1), "seed {seed}");
        // One that isn't used ends.
        world.now += Duration::from_secs(121);
        world.proxy.tick(world.now);
        world.drain();
        assert!(world.connections.is_empty(), "seed {seed}");
        world.say(id, &command(&["DEL", "b"]));
        world.settle();
        assert_eq!(world.received(id), ":1 ", "seed {seed}");
    }
}

#[test]
fn who_waits_for_a_connection_that_is_renewed_goes_on() {
    let mut world = World::new(1);
    let id = world.client(&compiled(&two()));
    world.say(id, &command(&["SET", "b", "1"]));
    world.settle();
    world.say(id, &command(&["GET", "b"]));
    // Envoy takes no more for it, and says nothing else until it ends.
    let carrier = *world.connections.keys().next().unwrap();
    world.proxy.upstream_full(carrier, true);
    world.say(id, &command(&["GET", "b"]));
    assert!(!world.clients[&id].waiting.is_empty());
    world.now += Duration::from_secs(61);
    world.proxy.tick(world.now);
    world.drain();
    world.settle();
    assert_eq!(world.received(id), "+OK $1 1 $1 1 ");
    assert!(!world.connections.contains_key(&carrier));
}

#[test]
fn another_login_overtakes_nothing() {
    for seed in 0..100 {
        let mut world = World::new(seed);
        let id = world.client(&compiled(&two()));
        let mut all = String::new();
        for number in 0..40 {
            let value = char::from(b'a' + number % 26).to_string();
            all.push_str(&value);
            world.say(id, &command(&["APPEND", "b", &value]));
            if world.random.below(4) == 0 {
                let mut host = two();
                let login = wire::UpstreamLogin { username: None, password: format!("secret {number}") };
                host.targets[1].upstream.as_mut().unwrap().login = Some(login);
                world.proxy.update(&compiled(&host));
                world.drain();
            }
            for _ in 0..world.random.below(3) {
                world.arrive();
            }
        }
        world.settle();
        world.received(id);
        world.say(id, &command(&["GET", "b"]));
        world.settle();
        assert_eq!(world.received(id), format!("$40 {all} "), "seed {seed}");
    }
}

#[test]
fn scripts_are_found_where_they_are_not_known() {
    let mut world = World::new(9);
    let id = world.client(&compiled(&two()));
    let say = |world: &mut World, lines: &[&str]| {
        let bytes: Vec<u8> = lines.iter().flat_map(|line| command(&line.split(' ').collect::<Vec<_>>())).collect();
        world.say(id, &bytes);
        world.settle();
        world.received(id)
    };
    let sha = "82e0e2f7ee9fb0b6b9e5ec1b4a0d1d2e8e4ab1d8";
    let missing = "-NOSCRIPT No matching script. Please use EVAL. ";
    assert_eq!(say(&mut world, &[&format!("EVALSHA {sha} 1 k x")]), missing);
    let sha = say(&mut world, &["SCRIPT LOAD append"]).split(' ').nth(1).unwrap().to_owned();
    let call = format!("EVALSHA {sha} 1 k x");
    let flush = |world: &mut World| world.redis.values_mut().for_each(|redis| redis.scripts.clear());
    // Another server, and one that has lost it: in a pipeline and in a transaction.
    flush(&mut world);
    let elsewhere = format!("EVALSHA {sha} 1 a:k x");
    assert_eq!(say(&mut world, &[&call, "GET k", &elsewhere, "GET a:k"]), ":1 $1 x :1 $1 x ");
    flush(&mut world);
    world.connections.keys().copied().collect::<Vec<_>>().into_iter().for_each(|id| {
        world.connections.remove(&id);
        world.proxy.lost(id, world.now);
        world.drain();
    });
    assert_eq!(say(&mut world, &["MULTI", &call, "GET k", "EXEC"]), "+OK +QUEUED +QUEUED *2 :2 $2 xx ");
    // One that has lost it while the connection stays.
    flush(&mut world);
    assert_eq!(say(&mut world, &[&call]), ":3 ");
    assert_eq!(say(&mut world, &[&call]), ":4 ");
    flush(&mut world);
    // What has been executed behind it isn't overtaken.
    assert_eq!(say(&mut world, &[&call, "GET k"]), format!("{missing}$4 xxxx "));
    assert_eq!(say(&mut world, &[&call, "GET k"]), ":5 $5 xxxxx ");
    flush(&mut world);
    assert_eq!(say(&mut world, &["MULTI", &call, "EXEC"]), format!("+OK +QUEUED *1 {missing}"));
    assert_eq!(say(&mut world, &["MULTI", &call, "EXEC"]), "+OK +QUEUED *1 :6 ");
    // What is to be forgotten is forgotten.
    assert_eq!(say(&mut world, &["SCRIPT FLUSH", &call]), format!("+OK {missing}"));
}
