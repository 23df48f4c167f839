//! A multiplexer whose servers answer what a test says, command by command.

use redis_mesh_core::multiplexer::config::{HostConfig, ListenerConfig};
use redis_mesh_core::multiplexer::{ClientId, ConnectionId, Multiplexer, Output};
use redis_mesh_core::resp::encode;
use redis_mesh_core::resp::request::{Parser, Progress};
use redis_mesh_core::wire;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// A command that has come to a server.
#[derive(Clone, Debug)]
pub struct Arrived {
    pub connection: ConnectionId,
    /// The last number of the node's address; 0 without one.
    pub node: u8,
    pub words: String,
}

/// A multiplexer with a client.
pub struct Scripted {
    pub multiplexer: Multiplexer,
    pub client: ClientId,
    /// The open connections, with their nodes and the bytes that aren't a whole command.
    connections: BTreeMap<ConnectionId, (u8, Vec<u8>)>,
    /// The connections over which a command has come that the test is to answer.
    owing: BTreeSet<ConnectionId>,
    /// The commands of the multiplexer's own that have come, by their connections.
    own: BTreeMap<ConnectionId, Vec<String>>,
    received: Vec<u8>,
    waiting: Vec<u8>,
    now: Duration,
}

impl Scripted {
    /// Starts with a client of a host before this destination.
    pub fn new(cluster: bool) -> Scripted {
        let document = serde_json::json!({"name": "n", "revision": 1, "hosts": [{
            "host": "h:6379", "path": "native",
            "targets": [{"destination": "c:6379", "cluster": cluster, "upstream": {"cluster": "c"}}],
            "routes": [{"match": "any", "target": 0}],
        }]});
        let config: Arc<HostConfig> = ListenerConfig::from_json(document.to_string().as_bytes()).unwrap().host;
        let mut multiplexer = Multiplexer::new([3; 32]);
        let client = multiplexer.open(config);
        let connections = BTreeMap::new();
        Scripted {
            multiplexer,
            client,
            connections,
            owing: BTreeSet::new(),
            own: BTreeMap::new(),
            received: Vec::new(),
            waiting: Vec::new(),
            now: Duration::from_secs(1),
        }
    }

    /// The client sends commands as one pipeline.
    pub fn send(&mut self, lines: &[&str]) {
        for line in lines {
            let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
            encode::command(&mut self.waiting, &words);
        }
        self.offer();
    }

    fn offer(&mut self) {
        let waiting = std::mem::take(&mut self.waiting);
        let taken = self.multiplexer.read(self.client, &waiting, self.now);
        self.waiting.splice(0..0, waiting[taken..].iter().copied());
    }

    /// A server sends bytes.
    pub fn reply(&mut self, connection: ConnectionId, bytes: &[u8]) {
        self.owing.remove(&connection);
        self.now += Duration::from_millis(1);
        self.multiplexer.reply(connection, bytes, self.now);
    }

    /// Returns the commands that have come to servers, apart from the multiplexer's own ones that come
    /// before those of clients, which are answered: node 1 serves all slots, and node 2 is one of its replicas.
    pub fn arrived(&mut self) -> Vec<Arrived> {
        let mut all = Vec::new();
        loop {
            self.drain();
            let mut commands = Vec::new();
            for (connection, (node, bytes)) in &mut self.connections {
                while let Some(words) = next_command(bytes) {
                    commands.push(Arrived { connection: *connection, node: *node, words });
                }
            }
            if commands.is_empty() {
                return all;
            }
            for arrived in commands {
                let is_owing = self.owing.contains(&arrived.connection);
                match answer(&arrived.words).filter(|_| !is_owing) {
                    Some(reply) => {
                        self.own.entry(arrived.connection).or_default().push(arrived.words);
                        self.reply(arrived.connection, reply.as_bytes());
                    }
                    None => {
                        self.owing.insert(arrived.connection);
                        all.push(arrived);
                    }
                }
            }
        }
    }

    /// Returns the commands of the multiplexer's own that have come over a connection.
    pub fn own(&self, connection: ConnectionId) -> Vec<String> {
        self.own.get(&connection).cloned().unwrap_or_default()
    }

    fn drain(&mut self) {
        while let Some(output) = self.multiplexer.poll() {
            match output {
                Output::Open(id, address) => {
                    let node = address.node.map_or(0, |node| node.ip().to_string().as_bytes()[7] - b'0');
                    self.connections.insert(id, (node, Vec::new()));
                }
                Output::Send(id) => {
                    let bytes = self.multiplexer.take_upstream(id);
                    if let Some((_, sent)) = self.connections.get_mut(&id) {
                        sent.extend_from_slice(&bytes);
                    }
                    self.multiplexer.recycle(bytes);
                }
                Output::Write(id) => {
                    let bytes = self.multiplexer.take_downstream(id);
                    self.received.extend_from_slice(&bytes);
                    self.multiplexer.recycle(bytes);
                }
                Output::Resume(_) => self.offer(),
                Output::CloseUpstream(id) => drop(self.connections.remove(&id)),
                Output::CloseDownstream(_) | Output::AbortDownstream(_) => panic!("the client is closed"),
                Output::PauseUpstream(_)
                | Output::ResumeUpstream(_)
                | Output::FindMembers(_)
                | Output::Ask(..)
                | Output::Tell(..) => {}
            }
        }
    }

    /// Returns what the client has received since the last call, with a space in place of CRLF.
    pub fn received(&mut self) -> String {
        self.drain();
        String::from_utf8_lossy(&std::mem::take(&mut self.received)).replace("\r\n", " ")
    }
}

/// Removes the first command of these bytes.
fn next_command(bytes: &mut Vec<u8>) -> Option<String> {
    let mut parser = Parser::default();
    let Ok(Progress::Complete(length)) = parser.parse(bytes, &wire::Limits::default()) else { return None };
    let frame = parser.frame(bytes);
    let words: Vec<String> =
        parser.args().iter().map(|span| String::from_utf8_lossy(span.of(frame)).into_owned()).collect();
    bytes.drain(..length);
    Some(words.join(" "))
}

/// The reply to a command of the multiplexer's own.
fn answer(words: &str) -> Option<String> {
    let node = |number: u8| format!("*3\r\n$8\r\n10.0.0.{number}\r\n:6379\r\n$2\r\nid\r\n");
    Some(match words.split(' ').next()? {
        "PING" => "+PONG\r\n".to_owned(),
        "HELLO" => "%2\r\n$7\r\nversion\r\n$5\r\n7.2.0\r\n$6\r\nserver\r\n$5\r\nredis\r\n".to_owned(),
        "ASKING" | "READONLY" | "CLIENT" => "+OK\r\n".to_owned(),
        "ACL" => "-NOPERM no\r\n".to_owned(),
        "CLUSTER" if words.ends_with("INFO") => "$18\r\ncluster_state:ok\r\n\r\n".to_owned(),
        "CLUSTER" => format!("*1\r\n*4\r\n:0\r\n:16383\r\n{}{}", node(1), node(2)),
        _ => return None,
    })
}
