//! Clients that ask without end, and hold every answer against what is possible.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use redis_mesh_tests::client::Client;
use redis_mesh_tests::netns::Namespace;

use super::behaviour::{CALM, HOSTS, KEYS, Possible};
use super::dice::Dice;

const PATIENCE: Duration = Duration::from_secs(5);

/// An address of a host, and how often the host has moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Address {
    /// The ClusterIP, while the host has a Service and every sidecar knows it.
    pub ip: Option<Ipv4Addr>,
    /// The number of moves.
    pub moves: u64,
}

/// What clients and the run share.
#[derive(Debug)]
pub struct Board {
    possible: Mutex<Possible>,
    addresses: Mutex<Vec<Address>>,
    violations: Mutex<Vec<String>>,
    stop: AtomicBool,
    answers: AtomicU64,
    values: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Board {
    /// The board at the start: no rules, no addresses.
    pub fn new() -> Board {
        Board {
            possible: Mutex::new(Possible::at_first()),
            addresses: Mutex::new(vec![Address::default(); HOSTS.len()]),
            violations: Mutex::default(),
            stop: AtomicBool::new(false),
            answers: AtomicU64::new(0),
            values: AtomicU64::new(0),
        }
    }

    /// What is possible.
    pub fn possible(&self) -> MutexGuard<'_, Possible> {
        lock(&self.possible)
    }

    /// Where a host is.
    pub fn address(&self, host: usize) -> Address {
        lock(&self.addresses)[host]
    }

    /// Tells clients where a host is; `None`: they don't connect.
    pub fn set_address(&self, host: usize, ip: Option<Ipv4Addr>) {
        let mut addresses = lock(&self.addresses);
        addresses[host] = Address { ip, moves: addresses[host].moves + 1 };
    }

    /// Notes what must not be.
    pub fn violation(&self, text: String) {
        lock(&self.violations).push(text);
    }

    /// Fails if there was anything that must not be.
    pub fn ensure_clean(&self) -> Result<()> {
        let violations = lock(&self.violations);
        ensure!(
            violations.is_empty(),
            "{} violations: {}",
            violations.len(),
            violations[..violations.len().min(5)].join("\n  ")
        );
        Ok(())
    }

    /// The number of answers, and of those that were values.
    pub fn counts(&self) -> (u64, u64) {
        (self.answers.load(Ordering::Relaxed), self.values.load(Ordering::Relaxed))
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

impl Default for Board {
    fn default() -> Board {
        Board::new()
    }
}

/// Clients in pods. Dropping this value ends them.
#[derive(Debug)]
pub struct Crowd {
    board: Arc<Board>,
    threads: Vec<JoinHandle<()>>,
}

impl Crowd {
    /// Starts clients of all hosts in these network namespaces.
    pub fn start(board: &Arc<Board>, pods: &[Namespace], calm: Ipv4Addr, seed: u64) -> Crowd {
        let mut threads = Vec::new();
        for (number, pod) in pods.iter().enumerate() {
            for host in 0..HOSTS.len() {
                let asker = Asker { board: board.clone(), pod: pod.clone(), host };
                let dice = Dice::new(seed ^ (1 << (40 + number * HOSTS.len() + host)));
                threads.push(std::thread::spawn(move || asker.work(dice)));
            }
            let (board, pod) = (board.clone(), pod.clone());
            threads.push(std::thread::spawn(move || {
                if let Err(error) = stay(&board, &pod, calm, &format!("counter-{number}")) {
                    board.violation(format!("a client of {CALM} in {}: {error:#}", pod.name()));
                }
            }));
        }
        Crowd { board: board.clone(), threads }
    }

    /// Ends the clients.
    pub fn stop(mut self) -> Result<()> {
        self.board.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            ensure!(thread.join().is_ok(), "a client panicked");
        }
        self.board.ensure_clean()
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.board.stop.store(true, Ordering::Relaxed);
    }
}

/// Counts over one connection, which must never end.
fn stay(board: &Board, pod: &Namespace, calm: Ipv4Addr, key: &str) -> Result<()> {
    let mut client = Client::over(pod.connect(SocketAddr::new(calm.into(), 6379), PATIENCE)?)?;
    let mut count = 0;
    while !board.is_stopped() {
        count += 1;
        let reply = client.cmd(&["INCR", key]).with_context(|| format!("after {count} commands"))?.tty();
        ensure!(reply == format!("(integer) {count}"), "{reply} instead of {count}");
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// A client of a host.
struct Asker {
    board: Arc<Board>,
    pod: Namespace,
    host: usize,
}

impl Asker {
    fn work(&self, mut dice: Dice) {
        while !self.board.is_stopped() {
            match self.board.address(self.host).ip {
                // What fails, fails: only answers are judged.
                Some(ip) => drop(self.converse(ip, &mut dice)),
                None => std::thread::sleep(Duration::from_millis(5)),
            }
            std::thread::sleep(Duration::from_millis(3));
        }
    }

    /// One connection: a read, sometimes an AUTH, and more reads.
    fn converse(&self, ip: Ipv4Addr, dice: &mut Dice) -> Result<()> {
        let before = self.board.address(self.host);
        let then = Instant::now();
        let mut client = Client::over(self.pod.connect(SocketAddr::new(ip.into(), 6379), PATIENCE)?)?;
        client.set_patience(PATIENCE)?;
        ensure!(self.board.address(self.host) == before && before.ip == Some(ip), "the host has moved meanwhile");
        let mut accepted = None;
        self.read(&mut client, then, dice.below(2), accepted.as_deref())?;
        if dice.chance(70) {
            accepted = self.log_in(&mut client, then, dice)?;
        }
        let reads = if dice.chance(10) { 100 } else { dice.below(4) };
        for _ in 0..reads {
            self.read(&mut client, then, dice.below(2), accepted.as_deref())?;
            if reads > 4 {
                std::thread::sleep(Duration::from_millis(20));
            }
            if self.board.is_stopped() {
                break;
            }
        }
        Ok(())
    }

    fn log_in(&self, client: &mut Client, then: Instant, dice: &mut Dice) -> Result<Option<String>> {
        let known: Vec<String> = {
            let possible = self.board.possible();
            let behaviours = possible.hosts[self.host].since(then);
            behaviours.filter_map(|behaviour| behaviour.password.clone()).collect()
        };
        let password = match dice.chance(80) && !known.is_empty() {
            true => dice.one_of(&known),
            false => format!("p{}", dice.below(40)),
        };
        let reply = client.cmd(&["AUTH", &password])?;
        self.board.answers.fetch_add(1, Ordering::Relaxed);
        if reply.is_error() {
            return Ok(None);
        }
        if !self.board.possible().accepts(then, self.host, &password) {
            self.violation(&format!("AUTH {password}: {}", reply.tty()), then);
        }
        Ok(Some(password))
    }

    fn read(&self, client: &mut Client, then: Instant, key: usize, accepted: Option<&str>) -> Result<()> {
        let reply = client.cmd(&["GET", KEYS[key]])?;
        self.board.answers.fetch_add(1, Ordering::Relaxed);
        if reply.is_error() {
            return Ok(());
        }
        self.board.values.fetch_add(1, Ordering::Relaxed);
        if !self.board.possible().explains(then, (self.host, key), &reply.text(), accepted) {
            let text = format!("GET {} after the password {accepted:?}: {}", KEYS[key], reply.tty());
            self.violation(&text, then);
            bail!("a violation");
        }
        Ok(())
    }

    fn violation(&self, text: &str, then: Instant) {
        let possible = self.board.possible();
        let behaviours: Vec<_> = possible.hosts[self.host].since(then).collect();
        let logins: Vec<_> = possible.login.since(then).collect();
        let age = then.elapsed();
        self.board.violation(format!(
            "{} in {} (connected {age:.1?} ago at {:?}): {text}; possible: {behaviours:?}, logins {logins:?}",
            HOSTS[self.host],
            self.pod.name(),
            self.board.address(self.host),
        ));
    }
}
