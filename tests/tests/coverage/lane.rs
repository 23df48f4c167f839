//! The invocations of one server in one protocol, at the server itself and through a topology.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use redis_mesh_tests::client::Client;
use redis_mesh_tests::cluster::{Cluster, Shape};
use redis_mesh_tests::line;
use redis_mesh_tests::redis::{Options, Redis};
use redis_mesh_tests::reply::Reply;

use crate::facts;
use crate::invocation::{Invocation, Kind, Request, is_key};
use crate::normal;
use crate::topology::{Behind, Place, Topology};

/// The time that a reply may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// The answer to a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Reply(Reply),
    Closed,
    Silence,
}

impl Answer {
    /// Formats the answer in one line.
    pub fn text(&self) -> String {
        match self {
            Answer::Reply(reply) => reply.encode().strip_suffix(b"\r\n").unwrap_or_default().escape_ascii().to_string(),
            Answer::Closed => "(closed)".to_owned(),
            Answer::Silence => "(nothing)".to_owned(),
        }
    }

    pub fn is_error(&self) -> bool {
        match self {
            Answer::Reply(reply) => reply.is_error(),
            Answer::Closed | Answer::Silence => true,
        }
    }
}

/// An invocation with the sent commands and both answers.
#[derive(Debug)]
pub struct Comparison {
    pub invocation: Invocation,
    pub server: String,
    pub protocol: &'static str,
    pub sent: Vec<Request>,
    pub expected: Vec<Vec<Answer>>,
    pub answers: Vec<Vec<Answer>>,
    /// What the client has changed of a connection that stays when it goes, as `CLIENT LIST` tells
    /// it.
    pub left_behind: Option<String>,
}

impl Comparison {
    /// The first answers that differ, the server's and the other's.
    pub fn difference(&self) -> Option<(String, String)> {
        let text = |answers: &[Answer]| answers.iter().map(Answer::text).collect::<Vec<_>>().join(" ");
        let pairs = self.sent.iter().zip(self.expected.iter().zip(&self.answers));
        let is_same = |sent: &Request, expected: &[Answer], answers: &[Answer]| {
            let command = if sent[0] == b"HELLO" { "hello" } else { &self.invocation.command };
            normal::same(command, expected, answers)
        };
        let mut different = pairs.filter(|(sent, (expected, answers))| !is_same(sent, expected, answers));
        different.next().map(|(_, (expected, answers))| (text(expected), text(answers)))
    }

    /// Whether the server's last answers are no errors.
    pub fn is_success(&self) -> bool {
        self.expected.last().is_some_and(|answers| !answers.iter().any(Answer::is_error))
    }

    fn without_answers(&self) -> Comparison {
        Comparison {
            invocation: self.invocation.clone(),
            server: self.server.clone(),
            protocol: self.protocol,
            sent: self.sent.clone(),
            expected: Vec::new(),
            answers: Vec::new(),
            left_behind: None,
        }
    }

    /// Formats the commands as for redis-cli.
    pub fn line(&self) -> String {
        let show = |request: &Request| {
            request.iter().map(|word| word.escape_ascii().to_string()).collect::<Vec<_>>().join(" ")
        };
        self.sent.iter().map(show).collect::<Vec<_>>().join("; ")
    }
}

/// One server in one protocol.
#[derive(Debug)]
pub struct Lane {
    topology: &'static Topology,
    title: String,
    protocol: &'static str,
    listens: SocketAddr,
    servers: Vec<Redis>,
    controls: Vec<Client>,
    /// The traces that clients have left on the servers.
    left_behind: BTreeSet<String>,
}

impl Lane {
    /// Starts the servers of a place.
    pub fn start(
        topology: &'static Topology,
        place: &Place,
        title: &str,
        binary: &std::path::Path,
        protocol: &'static str,
    ) -> Result<Lane> {
        let config = ["slowlog-log-slower-than -1", "enable-debug-command yes"].map(str::to_owned).to_vec();
        let start = |addr: &SocketAddr| {
            let binary = Some(binary.to_owned());
            Redis::start_with(Options { addr: Some(*addr), config: config.clone(), binary, ..Options::default() })
        };
        let servers = match topology.behind {
            Behind::One | Behind::Several => place.servers.iter().map(start).collect::<Result<Vec<_>>>()?,
            Behind::Cluster => {
                let (nodes, others) = place.servers.split_at(topology.behind.servers());
                let (addrs, binary) = (Some(nodes.to_vec()), Some(binary.to_owned()));
                let shape = Shape {
                    masters: nodes.len(),
                    replicas: 0,
                    addrs,
                    binary,
                    config: config.clone(),
                    ..Shape::default()
                };
                let mut servers = Cluster::start_with(shape)?.nodes;
                for addr in others {
                    servers.push(start(addr)?);
                }
                servers
            }
        };
        let controls = servers.iter().map(Redis::client).collect::<Result<_>>()?;
        let title = title.to_owned();
        let (listens, left_behind) = (place.listens, BTreeSet::new());
        Ok(Lane { topology, title, protocol, listens, servers, controls, left_behind })
    }

    /// Makes all invocations.
    pub fn run(&mut self, invocations: &[Invocation]) -> Result<Vec<Comparison>> {
        let several = self.topology.behind != Behind::One;
        let is_fitting = |one: &&Invocation| {
            (several || one.kind != Kind::Crossing) && (!one.is_harmful || self.topology.refuses_harm)
        };
        let fitting: Vec<&Invocation> = invocations.iter().filter(is_fitting).collect();
        let mut comparisons = Vec::new();
        for one in fitting {
            let comparison = self.one(one).with_context(|| format!("{}: {:?}", self.title, one))?;
            comparisons.push(comparison);
        }
        Ok(comparisons)
    }

    fn one(&mut self, invocation: &Invocation) -> Result<Comparison> {
        let reference = self.topology.behind.reference();
        let sent: Vec<Request> = self.named(&invocation.session, invocation.kind);
        self.prepare(invocation, Some(reference))?;
        let expected = match invocation.is_harmful {
            true => vec![vec![Answer::Silence]],
            false => self.session(self.servers[reference].addr(), &sent, invocation, None)?,
        };
        self.prepare(invocation, None)?;
        let answers = self.session(self.listens, &sent, invocation, Some(&expected))?;
        Ok(Comparison {
            invocation: invocation.clone(),
            server: self.title.clone(),
            protocol: self.protocol,
            sent,
            expected,
            answers,
            left_behind: if self.topology.keeps_clients_apart { self.left_behind()? } else { None },
        })
    }

    /// What went right one by one again, many in one write: the servers are emptied and set up by
    /// the same client. Returns what is different.
    pub fn run_pipelined(&mut self, comparisons: &[Comparison]) -> Result<Vec<String>> {
        const AT_ONCE: usize = 40;
        let fitting: Vec<&Comparison> = comparisons.iter().filter(|one| is_for_pipelines(one)).collect();
        let mut wrong = Vec::new();
        for batch in fitting.chunks(AT_ONCE) {
            let mut client = Client::connect(self.listens)?;
            if self.protocol == "3" {
                client.ok(&["HELLO", "3"])?;
            }
            let mut requests = Vec::new();
            for one in batch {
                requests.push(vec![b"FLUSHALL".to_vec()]);
                requests.extend(self.named(&one.invocation.setup, one.invocation.kind));
                requests.extend(one.sent.iter().cloned());
            }
            let mut replies = client.pipeline(&requests)?.into_iter();
            for one in batch {
                let before = replies.by_ref().take(1 + one.invocation.setup.len());
                let is_prepared = before.filter(Reply::is_error).count() == 0;
                let answers = replies.by_ref().take(one.sent.len()).map(|reply| vec![Answer::Reply(reply)]).collect();
                // What a path refuses can't be set up through it.
                if !is_prepared {
                    continue;
                }
                let again = Comparison { answers, expected: one.expected.clone(), ..one.without_answers() };
                if let Some((expected, answers)) = again.difference() {
                    wrong.push(format!(
                        "{} {}: {}\n    {expected:.300}\n    {answers:.300}",
                        self.title,
                        self.protocol,
                        one.line()
                    ));
                }
            }
        }
        Ok(wrong)
    }

    /// What is odd about connections to the servers, now that there are no clients, and wasn't
    /// before.
    fn left_behind(&mut self) -> Result<Option<String>> {
        let end = Instant::now() + PATIENCE;
        loop {
            let mut odd = BTreeSet::new();
            for control in &mut self.controls {
                let list = control.ok(&["CLIENT", "LIST"])?.text();
                odd.extend(list.lines().filter_map(oddity));
            }
            let Some(new) = odd.difference(&self.left_behind).next().cloned() else { return Ok(None) };
            // A connection that was a client's own may take a moment to close.
            if Instant::now() > end {
                self.left_behind.insert(new.clone());
                return Ok(Some(new.split_once(' ').map(|(_, fields)| fields.to_owned()).unwrap_or_default()));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn named(&self, requests: &[Request], kind: Kind) -> Vec<Request> {
        let name = |word: &Vec<u8>| match is_key(word) {
            true => self.topology.key(&String::from_utf8_lossy(&word[1..]), kind == Kind::Crossing).into_bytes(),
            false => word.clone(),
        };
        requests.iter().map(|request| request.iter().map(name).collect()).collect()
    }

    /// Returns the request that the server gets for a client's request.
    fn stripped(&self, mut request: Request) -> Request {
        let removed = self.topology.removed.as_bytes();
        for word in request.iter_mut().filter(|word| !removed.is_empty() && word.starts_with(removed)) {
            word.drain(..removed.len());
        }
        request
    }

    /// Empties the servers and sets up what an invocation needs: all of it at one of them, or
    /// everything where it belongs.
    fn prepare(&mut self, invocation: &Invocation, at: Option<usize>) -> Result<()> {
        let mut each: Vec<Vec<Request>> = vec![vec![vec![b"FLUSHALL".to_vec()]]; self.controls.len()];
        let requests = self.named(&invocation.setup, invocation.kind);
        for (generic, request) in invocation.setup.iter().zip(requests) {
            if request[0] == b"%quiet" {
                self.controls.iter_mut().try_for_each(quiet)?;
                continue;
            }
            let key = generic.iter().position(|word| is_key(word));
            match (at, key) {
                (Some(server), _) => each[server].push(request),
                (None, Some(key)) => each[self.topology.behind.owner(&request[key])].push(self.stripped(request)),
                // What has no key is for all.
                (None, None) => {
                    let behind = each.iter_mut().take(self.topology.behind.servers());
                    behind.for_each(|requests| requests.push(request.clone()));
                }
            }
        }
        for (control, requests) in self.controls.iter_mut().zip(each) {
            for (request, reply) in requests.iter().zip(control.pipeline(&requests)?) {
                ensure!(!reply.is_error(), "{}: {}", line::shown(request), reply.text());
            }
        }
        Ok(())
    }

    /// What a new client is told, command by command, up to where it is an error that nobody
    /// expects.
    fn session(
        &self,
        addr: SocketAddr,
        sent: &[Request],
        invocation: &Invocation,
        expected: Option<&[Vec<Answer>]>,
    ) -> Result<Vec<Vec<Answer>>> {
        let mut client = Client::connect(addr)?;
        client.set_patience(PATIENCE)?;
        if self.protocol == "3" {
            client.ok(&["HELLO", "3"])?;
        }
        let mut all = Vec::new();
        let protocol = usize::from(self.protocol == "3");
        for (request, counts) in sent.iter().zip(&invocation.replies) {
            let mut answers = Vec::new();
            if client.send(request).is_err() {
                answers.push(Answer::Closed);
            }
            // Who is refused waits for nothing more.
            while answers.len() < counts[protocol] && !answers.last().is_some_and(Answer::is_error) {
                answers.push(answer(client.read())?);
            }
            let is_error = |answers: &[Answer]| answers.iter().any(Answer::is_error);
            let is_expected =
                expected.and_then(|all_expected| all_expected.get(all.len())).is_none_or(|one| is_error(one));
            let is_over = is_error(&answers) && !is_expected;
            all.push(answers);
            if is_over {
                break;
            }
        }
        Ok(all)
    }
}

fn answer(read: Result<Reply>) -> Result<Answer> {
    match read {
        Ok(reply) => Ok(Answer::Reply(reply)),
        Err(error) => match error.downcast_ref::<io::Error>().map(io::Error::kind) {
            Some(io::ErrorKind::InvalidData) => Err(error),
            Some(_) => Ok(Answer::Closed),
            None => Ok(Answer::Silence),
        },
    }
}

/// Whether an invocation went right, depends on nothing but what it sets up, and does nothing to
/// its connection that those behind it would meet.
fn is_for_pipelines(one: &Comparison) -> bool {
    let command = &one.invocation.command;
    let is_by_hand = facts::by_hand(command).next().is_some();
    let is_of_connection = command.starts_with("client|") || command == "script|debug";
    // A server tells its commands in an order that changes, and with time other sections of INFO.
    let is_by_time = command.starts_with("command") || command == "info";
    let is_prepared = one.invocation.setup.iter().any(|request| request[0].starts_with(b"%"));
    one.difference().is_none() && !is_by_hand && !is_of_connection && !is_by_time && !is_prepared
}

/// The number of a connection and those of its fields that aren't as with a new one.
fn oddity(line: &str) -> Option<String> {
    let usual = |field: &&str| match field.split_once('=').unwrap_or((field, "")) {
        ("db" | "sub" | "psub" | "ssub" | "watch", value) => value == "0",
        ("redir", value) => value == "-1",
        ("name" | "capa" | "lib-name" | "lib-ver", value) => value.is_empty(),
        ("flags", value) => value == "N",
        ("user", value) => value == "default",
        _ => true,
    };
    let odd: Vec<&str> = line.split(' ').filter(|field| !usual(field)).collect();
    let number = line.split(' ').next()?;
    (!odd.is_empty()).then(|| format!("{number} {}", odd.join(" ")))
}

/// Waits until a server neither saves nor rewrites its AOF.
fn quiet(client: &mut Client) -> Result<()> {
    loop {
        let info = client.ok(&["INFO", "persistence"])?.text();
        let is_quiet = ["rdb_bgsave_in_progress:0", "aof_rewrite_in_progress:0", "aof_rewrite_scheduled:0"]
            .iter()
            .all(|line| info.contains(line));
        if is_quiet {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
