//! Arbitrary bytes from clients and servers, in any order: no panic, no endless loop, and no more
//! memory than the bytes that came explain.
#![no_main]

use libfuzzer_sys::fuzz_target;
use redis_mesh_core::multiplexer::config::{HostConfig, ListenerConfig};
use redis_mesh_core::multiplexer::{ConnectionId, ClientId, Output, Multiplexer};
use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

const HOSTS: [&str; 4] = [
    r#"{"host": "h:1", "path": "native", "targets": [{"destination": "a:1", "upstream": {"cluster": "a"}}], "routes": [{"match": "any", "target": 0}]}"#,
    r#"{"host": "h:1", "path": "native", "targets": [{"destination": "c:1", "cluster": true, "upstream": {"cluster": "c"}}], "routes": [{"match": "any", "target": 0}], "readPolicy": "preferReplica", "opTimeoutMs": 40}"#,
    r#"{"host": "h:1", "path": "native", "guardCredentials": true, "targets": [{"destination": "a:1", "upstream": {"cluster": "a", "login": {"password": "p"}}, "mirrors": [{"destination": "m:1", "perMillion": 1000000, "upstream": {"cluster": "m"}}]}, {"destination": "c:1", "cluster": true, "upstream": {"cluster": "c", "nodes": "n"}}], "routes": [{"match": {"prefix": "c:"}, "target": 1}, {"match": {"prefix": "p:"}, "target": 0, "removePrefix": true}, {"match": "any", "target": 0}], "faults": [{"type": "delay", "perMillion": 200000, "delayMs": 5}, {"type": "error", "perMillion": 100000}]}"#,
    r#"{"host": "h:1", "path": "native", "commandStats": true, "targets": [{"destination": "a:1", "upstream": {"cluster": "a"}}, {"destination": "b:1", "upstream": {"cluster": "b"}}], "routes": [{"match": {"prefix": "a:"}, "target": 0}, {"match": {"prefix": "b:"}, "target": 1}], "opTimeoutMs": 100}"#,
];

/// Commands of clients, which arbitrary bytes would hardly ever be.
const COMMANDS: [&str; 48] = [
    "GET a:1",
    "SET {1}k v",
    "MGET a:1 b:1 {2}k p:3",
    "MSET a:1 x b:1 y c:2 z",
    "DEL a:1 {1}k c:2",
    "INCR {1}k",
    "MULTI",
    "EXEC",
    "DISCARD",
    "WATCH {1}k",
    "UNWATCH",
    "BLPOP {1}l 1",
    "BLPOP p:l p:m 0",
    "SUBSCRIBE x y",
    "UNSUBSCRIBE",
    "PSUBSCRIBE p*",
    "SSUBSCRIBE {1}s",
    "SUNSUBSCRIBE",
    "PUBLISH x y",
    "SPUBLISH {1}s y",
    "HELLO 3",
    "HELLO 2",
    "SELECT 1",
    "SELECT 0",
    "CLIENT REPLY OFF",
    "CLIENT REPLY SKIP",
    "CLIENT REPLY ON",
    "CLIENT TRACKING ON",
    "MONITOR",
    "RESET",
    "QUIT",
    "SCAN 0",
    "SCAN 4097 MATCH a*",
    "KEYS *",
    "DBSIZE",
    "RANDOMKEY",
    "FLUSHALL",
    "INFO",
    "WAIT 1 0",
    "EVALSHA e0e1f9fabfc9d4800c877a703b823ac0578ff8db 1 {1}k",
    "EVAL return 1 {1}k",
    "SCRIPT LOAD x",
    "SCRIPT EXISTS x",
    "XREAD BLOCK 0 STREAMS {1}x 0",
    "AUTH p",
    "PING",
    "RENAME a:1 b:1",
    "LMPOP 2 p:a p:b LEFT",
];

/// Replies of servers.
const REPLIES: [&str; 32] = [
    "+OK\r\n",
    "+PONG\r\n",
    "+QUEUED\r\n",
    ":1\r\n",
    "$1\r\nx\r\n",
    "$-1\r\n",
    "_\r\n",
    "*-1\r\n",
    "*0\r\n",
    "*2\r\n$1\r\na\r\n$1\r\nb\r\n",
    "-ERR x\r\n",
    "-MOVED 9842 10.0.0.2:7000\r\n",
    "-ASK 9842 10.0.0.1:7000\r\n",
    "-MOVED 1 host:1\r\n",
    "-TRYAGAIN x\r\n",
    "-CLUSTERDOWN x\r\n",
    "-EXECABORT x\r\n",
    "-NOSCRIPT No matching script.\r\n",
    "-NOAUTH x\r\n",
    "$43\r\ncluster_state:ok\r\ncluster_current_epoch:7\r\n\r\n",
    "$45\r\ncluster_state:fail\r\ncluster_current_epoch:8\r\n\r\n",
    "*2\r\n*4\r\n:0\r\n:8000\r\n*2\r\n$8\r\n10.0.0.1\r\n:7000\r\n*2\r\n$8\r\n10.0.0.3\r\n:7000\r\n*3\r\n:8001\r\n:16383\r\n*2\r\n$8\r\n10.0.0.2\r\n:7000\r\n",
    "*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n$0\r\n\r\n:7000\r\n",
    "*3\r\n$9\r\nsubscribe\r\n$1\r\nx\r\n:1\r\n",
    ">3\r\n$9\r\nsubscribe\r\n$1\r\ny\r\n:2\r\n",
    "*3\r\n$11\r\nunsubscribe\r\n$1\r\nx\r\n:0\r\n",
    "*3\r\n$7\r\nmessage\r\n$1\r\nx\r\n$1\r\nm\r\n",
    ">2\r\n$10\r\ninvalidate\r\n*1\r\n$3\r\np:1\r\n",
    "*2\r\n$1\r\n5\r\n*1\r\n$3\r\na:1\r\n",
    "%1\r\n+proto\r\n:3\r\n",
    "*1000000000\r\n",
    "$536870912\r\n",
];

struct World {
    proxy: Multiplexer,
    config: Arc<HostConfig>,
    clients: Vec<(ClientId, Vec<u8>)>,
    connections: Vec<ConnectionId>,
    now: Duration,
    /// Number of bytes that have come.
    came: usize,
}

impl World {
    fn drain(&mut self) {
        let mut outputs = 0;
        while let Some(output) = self.proxy.poll() {
            outputs += 1;
            assert!(outputs < 100_000, "it never ends");
            match output {
                Output::Open(id, _) => self.connections.push(id),
                Output::Send(id) => {
                    let bytes = self.proxy.take_upstream(id);
                    self.proxy.recycle(bytes);
                }
                Output::PauseUpstream(_) | Output::ResumeUpstream(_) | Output::FindMembers(_) => {}
                Output::Ask(inquiry, _) => self.proxy.desk(self.now).sent(inquiry, 0),
                Output::Tell(..) => {}
                Output::CloseUpstream(id) => self.connections.retain(|connection| *connection != id),
                Output::Write(id) => {
                    let bytes = self.proxy.take_downstream(id);
                    self.proxy.recycle(bytes);
                }
                Output::Resume(id) => self.offer(id),
                Output::CloseDownstream(id) | Output::AbortDownstream(id) => {
                    self.clients.retain(|(client, _)| *client != id);
                    self.proxy.closed(id);
                }
            }
        }
    }

    fn offer(&mut self, id: ClientId) {
        let Some((_, waiting)) = self.clients.iter_mut().find(|(client, _)| *client == id) else { return };
        let taken = self.proxy.read(id, waiting, self.now);
        waiting.drain(..taken);
    }

    fn say(&mut self, at: usize, bytes: &[u8]) {
        let count = self.clients.len().max(1);
        if let Some((id, waiting)) = self.clients.get_mut(at % count) {
            waiting.extend_from_slice(bytes);
            self.came += bytes.len();
            let id = *id;
            self.offer(id);
        }
    }

    fn connection(&self, at: usize) -> Option<ConnectionId> {
        // The newest first: most of what happens concerns it.
        self.connections.iter().rev().nth(at % self.connections.len().max(1)).copied()
    }

    fn answer(&mut self, at: usize, bytes: &[u8]) {
        if let Some(id) = self.connection(at) {
            self.came += bytes.len();
            self.proxy.reply(id, bytes, self.now);
        }
    }
}

thread_local! {
    static CONFIGS: RefCell<Vec<Arc<HostConfig>>> = RefCell::new(
        HOSTS
            .iter()
            .map(|host| format!(r#"{{"name": "n", "revision": 1, "limits": {{"maxHeldBytes": 100000, "maxArguments": 1000, "maxBulkBytes": 1000000}}, "hosts": [{host}]}}"#))
            .map(|json| ListenerConfig::from_json(json.as_bytes()).expect("it compiles").host)
            .collect()
    );
}

fuzz_target!(|data: &[u8]| {
    let Some((&choice, rest)) = data.split_first() else { return };
    let config = CONFIGS.with_borrow(|all| all[usize::from(choice) % all.len()].clone());
    let mut world = World {
        proxy: Multiplexer::new([choice; 32]),
        config,
        clients: Vec::new(),
        connections: Vec::new(),
        now: Duration::from_secs(1),
        came: 0,
    };
    for _ in 0..2 {
        let id = world.proxy.open(world.config.clone());
        world.clients.push((id, Vec::new()));
    }
    let mut at = 0;
    while let Some(&head) = rest.get(at) {
        let argument = usize::from(rest.get(at + 1).copied().unwrap_or_default());
        let piece = |at: usize| &rest[(at + 2).min(rest.len())..(at + 2 + argument).min(rest.len())];
        let whom = usize::from(head >> 4);
        at += 2;
        match head & 0xf {
            0..=3 => world.say(whom, format!("{}\r\n", COMMANDS[argument % COMMANDS.len()]).as_bytes()),
            4..=8 => world.answer(whom, REPLIES[argument % REPLIES.len()].as_bytes()),
            9 => {
                world.say(whom, piece(at - 2));
                at += argument;
            }
            10 => {
                world.answer(whom, piece(at - 2));
                at += argument;
            }
            11 => {
                world.now += Duration::from_millis(1 << (argument % 15));
                world.proxy.tick(world.now);
            }
            12 => {
                if let Some(id) = world.connection(whom) {
                    world.connections.retain(|connection| *connection != id);
                    world.proxy.lost(id, world.now);
                }
            }
            13 => {
                if let Some(id) = world.connection(whom) {
                    world.proxy.upstream_full(id, argument % 2 == 0);
                }
            }
            14 => {
                if let Some((id, _)) = world.clients.get(whom % world.clients.len().max(1)) {
                    world.proxy.downstream_full(*id, argument % 2 == 0);
                }
            }
            _ => match argument % 4 {
                0 if world.clients.len() < 8 => {
                    let id = world.proxy.open(world.config.clone());
                    world.clients.push((id, Vec::new()));
                }
                1 => {
                    let gone = world.clients.pop();
                    gone.into_iter().for_each(|(id, _)| world.proxy.closed(id));
                }
                _ => world.proxy.update(&world.config.clone()),
            },
        }
        world.drain();
        let load = world.proxy.load();
        assert!(load.bytes <= 64 * world.came + 100_000, "{load:?} for {} bytes", world.came);
        assert!(load.pending <= 16 * world.came + 1_000, "{load:?} for {} bytes", world.came);
    }
    for (id, _) in std::mem::take(&mut world.clients) {
        world.proxy.closed(id);
        world.drain();
    }
    // Servers that come back are silent from now on.
    for _ in 0..8 {
        for id in std::mem::take(&mut world.connections) {
            world.proxy.lost(id, world.now);
            world.drain();
        }
        world.now += Duration::from_secs(100);
        world.proxy.tick(world.now);
        world.drain();
    }
    let load = world.proxy.load();
    assert!(load.clients == 0 && load.idle == 0 && load.shared == 0, "left over: {load:?}");
});
