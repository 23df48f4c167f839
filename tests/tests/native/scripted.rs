//! Nodes of a Redis Cluster that say what a test wants them to say.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use redis_mesh_core::resp::request::{Parser, Progress};
use redis_mesh_core::wire::{Host, KeyMatch, Limits};
use redis_mesh_tests::client::Client;
use redis_mesh_tests::envoy::Envoy;
use redis_mesh_tests::listener::{self, Config, route};
use redis_mesh_tests::native;
use redis_mesh_tests::net::Subnet;
use redis_mesh_tests::process::wait_until;
use redis_mesh_tests::workspace;

const PATIENCE: Duration = Duration::from_secs(10);

/// What a node answers to a command, in RESP; `None`: what a node that is well answers.
pub type Answer = Box<dyn FnMut(&[String]) -> Option<Vec<u8>> + Send>;

/// A node.
#[derive(Clone)]
pub struct Node {
    pub addr: SocketAddr,
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    answer: Answer,
    received: Vec<Vec<String>>,
    /// The node that serves all slots.
    master: SocketAddr,
}

impl Node {
    /// Starts a node that is well, and serves all slots.
    pub fn start(addr: SocketAddr) -> Result<Node> {
        let listener = TcpListener::bind(addr)?;
        let inner = Inner { answer: Box::new(|_| None), received: Vec::new(), master: addr };
        let node = Node { addr, inner: Arc::new(Mutex::new(inner)) };
        let served = node.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let node = served.clone();
                std::thread::spawn(move || node.serve(stream));
            }
        });
        Ok(node)
    }

    /// Has it answer so from now on.
    pub fn answers(&self, answer: impl FnMut(&[String]) -> Option<Vec<u8>> + Send + 'static) {
        self.lock().answer = Box::new(answer);
    }

    /// Has it say from now on that this node serves all slots.
    pub fn names(&self, master: SocketAddr) {
        self.lock().master = master;
    }

    /// How many commands with this name have come.
    pub fn count(&self, name: &str) -> usize {
        self.lock().received.iter().filter(|words| words[0].eq_ignore_ascii_case(name)).count()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, mut stream: TcpStream) {
        let (mut received, mut piece) = (Vec::new(), [0; 16 * 1024]);
        while let Ok(length @ 1..) = stream.read(&mut piece) {
            received.extend_from_slice(&piece[..length]);
            let (mut out, mut ends) = (Vec::new(), false);
            while let Some((words, used)) = command(&received) {
                received.drain(..used);
                let answer = self.answer(&words);
                ends |= answer.is_empty();
                out.extend_from_slice(&answer);
            }
            if stream.write_all(&out).is_err() || ends {
                return;
            }
        }
    }

    /// Nothing: the connection is to be closed.
    fn answer(&self, words: &[String]) -> Vec<u8> {
        let mut inner = self.lock();
        if inner.received.len() < 1_000_000 {
            inner.received.push(words.to_vec());
        }
        match (inner.answer)(words) {
            Some(answer) => answer,
            None => well(inner.master, words),
        }
    }
}

/// What a node that is well answers.
pub fn well(master: SocketAddr, words: &[String]) -> Vec<u8> {
    let upper: Vec<String> = words.iter().take(2).map(|word| word.to_uppercase()).collect();
    let upper: Vec<&str> = upper.iter().map(String::as_str).collect();
    match upper.as_slice() {
        ["CLUSTER", "INFO"] => bulk("cluster_state:ok\r\ncluster_current_epoch:1\r\n"),
        ["CLUSTER", "SLOTS"] => slots(master),
        ["CLUSTER", "NODES"] => {
            bulk(&format!("{:040} {master}@{} master - 0 0 1 connected 0-16383\n", 1, master.port() + 1))
        }
        ["HELLO", _] => b"%2\r\n$6\r\nserver\r\n$5\r\nredis\r\n$5\r\nproto\r\n:3\r\n".to_vec(),
        ["PING", ..] => b"+PONG\r\n".to_vec(),
        ["GET", _] => bulk("v"),
        ["CLIENT", "ID"] => b":7\r\n".to_vec(),
        ["EXEC"] => b"*1\r\n+OK\r\n".to_vec(),
        _ => b"+OK\r\n".to_vec(),
    }
}

pub fn bulk(text: &str) -> Vec<u8> {
    format!("${}\r\n{text}\r\n", text.len()).into_bytes()
}

/// The reply to CLUSTER SLOTS: this node serves all.
pub fn slots(master: SocketAddr) -> Vec<u8> {
    let (host, port) = (master.ip().to_string(), master.port());
    format!("*1\r\n*3\r\n:0\r\n:16383\r\n*3\r\n${}\r\n{host}\r\n:{port}\r\n${}\r\n{:040}\r\n", host.len(), 40, port)
        .into_bytes()
}

/// The first command, and how many bytes it has.
pub fn command(bytes: &[u8]) -> Option<(Vec<String>, usize)> {
    let mut parser = Parser::default();
    let Ok(Progress::Complete(length)) = parser.parse(bytes, &Limits::default()) else { return None };
    let frame = parser.frame(bytes);
    let words = parser.args().iter().map(|word| String::from_utf8_lossy(word.of(frame)).into_owned());
    Some((words.collect(), length))
}

/// Two such nodes behind an Envoy, the first of which serves all slots.
pub struct Scene {
    pub envoy: Envoy,
    pub nodes: [Node; 2],
    /// The only node of another cluster.
    _other: Node,
    host: Host,
    listeners: PathBuf,
    revision: u64,
    subnet: Subnet,
}

impl Scene {
    pub fn start(change: impl FnOnce(&mut Host)) -> Result<Scene> {
        let subnet = Subnet::claim()?;
        let nodes = [Node::start(subnet.redis(21))?, Node::start(subnet.redis(22))?];
        nodes[1].names(nodes[0].addr);
        let other = Node::start(subnet.redis(23))?;
        let mut host = native::host(&["one"], vec![route(KeyMatch::Any, 0)]);
        host.targets[0].cluster = true;
        host.op_timeout_ms = Some(1500);
        change(&mut host);
        let listeners = workspace::scratch("listeners")?.join("listeners.json");
        let (first, second) = (nodes[0].addr, nodes[1].addr);
        let clusters = Config::new().clusters(&[
            native::redis_cluster("one.test:6379", &[first, second]),
            native::redis_cluster("two.test:6379", &[other.addr]),
        ]);
        let scene = Scene {
            envoy: native::start_with(
                &{
                    write(&listeners, 1, &host, &subnet)?;
                    clusters.text_with_listeners_in(&listeners)
                },
                1,
            )?,
            nodes,
            _other: other,
            host,
            listeners,
            revision: 1,
            subnet,
        };
        wait_until("a listener", PATIENCE, || scene.client().is_ok())?;
        Ok(scene)
    }

    /// Gives the host other rules.
    pub fn change(&mut self, change: impl FnOnce(&mut Host)) -> Result<()> {
        change(&mut self.host);
        self.revision += 1;
        write(&self.listeners, self.revision, &self.host, &self.subnet)?;
        let said = format!("redis-mesh: redis revision {}", self.revision);
        wait_until("new rules", PATIENCE, || self.envoy.log().contains(&said))
    }

    /// The rules of the host.
    pub fn host(&self) -> Host {
        self.host.clone()
    }

    pub fn address(&self) -> SocketAddr {
        self.subnet.redis(1)
    }

    pub fn client(&self) -> Result<Client> {
        Client::connect(self.address())
    }

    /// The file descriptors that Envoy has open.
    pub fn descriptors(&self) -> Result<usize> {
        Ok(std::fs::read_dir(format!("/proc/{}/fd", self.envoy.process().pid()))?.count())
    }

    /// How much of a processor Envoy takes in this time.
    pub fn share(&self, time: Duration) -> Result<f64> {
        let before = self.envoy.process().cpu_time_fine()?;
        std::thread::sleep(time);
        Ok((self.envoy.process().cpu_time_fine()? - before).as_secs_f64() / time.as_secs_f64())
    }
}

fn write(listeners: &Path, revision: u64, host: &Host, subnet: &Subnet) -> Result<()> {
    let filters = vec![native::proxy(&listener::config("redis", revision, host.clone()))?];
    Config::new().listener("redis", subnet.redis(1), filters).write_listeners(listeners)
}
