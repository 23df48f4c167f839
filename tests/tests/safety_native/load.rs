//! Clients that check every reply.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use redis_mesh_tests::client::{Client, encode};
use redis_mesh_tests::relay;
use redis_mesh_tests::reply::Reply;

use crate::history::{History, Operation};

/// The longest time that a reply may take: no client is forgotten.
const PATIENCE: Duration = Duration::from_secs(30);
/// The pause between two rounds of a client, which keeps histories short enough for the check.
pub const PAUSE: Duration = Duration::from_millis(4);
/// The number of keys of each kind that clients share.
pub const SHARED: usize = 12;
/// The key that the slow reader writes and reads.
pub const SLOW: &str = "slow";

/// The number of subscribers, each of which has a channel of its own.
const LISTENERS: usize = 3;

/// The state that all clients share.
pub struct Load {
    pub addr: SocketAddr,
    pub history: History,
    ends: AtomicBool,
    reconnected: AtomicUsize,
}

/// Returns a pseudo-random number, the same in every run.
pub struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

impl Load {
    /// Runs clients of all kinds during `faults` and checks their observations.
    pub fn run(addr: SocketAddr, clients: usize, faults: impl FnOnce(&Load) -> Result<()>) -> Result<Load> {
        let load =
            Load { addr, history: History::new(), ends: AtomicBool::new(false), reconnected: AtomicUsize::new(0) };
        std::thread::scope(|scope| -> Result<()> {
            let load = &load;
            let mut threads: Vec<_> = (0..clients).map(|number| scope.spawn(move || load.ask(number))).collect();
            threads.extend((clients..clients + 3).map(|number| scope.spawn(move || load.transact(number))));
            threads.extend((0..LISTENERS).map(|number| scope.spawn(move || load.listen(number))));
            threads.push(scope.spawn(|| load.publish(LISTENERS)));
            threads.push(scope.spawn(|| load.vanish()));
            threads.push(scope.spawn(|| load.read_slowly()));
            let happened = faults(load);
            load.ends.store(true, Ordering::Relaxed);
            let ended: Vec<Result<()>> = threads
                .into_iter()
                .map(|thread| thread.join().unwrap_or_else(|_| anyhow::bail!("a client panicked")))
                .collect();
            // A client that has given up is why nobody is served, rather than the other way round.
            ended.into_iter().collect::<Result<()>>()?;
            happened
        })?;
        Ok(load)
    }

    /// Waits until clients have received this number of further replies.
    pub fn wait_served(&self, times: usize) -> Result<()> {
        let from = self.history.numbers().done;
        redis_mesh_tests::process::wait_until("clients are served", PATIENCE, || {
            self.history.numbers().done >= from + times
        })
    }

    pub fn has_ended(&self) -> bool {
        self.ends.load(Ordering::Relaxed)
    }

    /// Runs a client that uses its own and shared keys in small pipelines.
    fn ask(&self, number: usize) -> Result<()> {
        let mut dice = Dice(number as u64 + 1);
        let mut client = self.connect()?;
        let own = format!("own:{number}");
        let mut round = 0;
        while !self.has_ended() {
            round += 1;
            let token = format!("{number}-{round}");
            let key = dice.below(SHARED as u64);
            let (shared, operation) = match dice.below(4) {
                0 => (format!("register:{key}"), Operation::Get),
                1 => (format!("register:{key}"), Operation::Set(token.clone())),
                2 => (format!("counter:{key}"), Operation::Get),
                _ => (format!("counter:{key}"), Operation::Incr),
            };
            let asked = [
                (own.as_str(), Operation::Set(format!("{own}:{round}"))),
                (shared.as_str(), operation),
                (own.as_str(), Operation::Get),
            ];
            let mut bytes = encode(&["ECHO", &token]);
            for (key, operation) in &asked {
                bytes.extend(encode(&operation.command(key)));
            }
            let call = Instant::now();
            // Sent in two pieces, which cut a command apart.
            let cut = dice.below(bytes.len() as u64) as usize;
            let sent = client.write(&bytes[..cut]).and_then(|()| client.write(&bytes[cut..]));
            let mut is_over = sent.is_err();
            if !is_over {
                match client.read() {
                    Ok(reply) => ensure!(
                        reply == Reply::bulk(&token) || reply.is_error(),
                        "{number}: ECHO {token} gave {reply:?}"
                    ),
                    Err(error) => is_over = ended(&error)?,
                }
            }
            for (key, operation) in &asked {
                let mut reply = None;
                if !is_over {
                    match client.read() {
                        Ok(read) => reply = Some(read),
                        Err(error) => is_over = ended(&error)?,
                    }
                }
                if let (Some(Reply::Bulk(value)), true) = (&reply, *key == own) {
                    let value = String::from_utf8_lossy(value);
                    ensure!(value.starts_with(&format!("{own}:")), "{number} got {value}, which is another's");
                }
                self.history.add(number, key, operation, call, reply.as_ref())?;
            }
            if is_over {
                self.reconnected.fetch_add(1, Ordering::Relaxed);
                client = self.connect()?;
            }
            std::thread::sleep(PAUSE);
        }
        // Nothing comes that nobody asked for, and the client is still served.
        let silent = client.read_within(Duration::from_millis(100))?;
        ensure!(silent.is_none(), "{number}: {silent:?} answers nothing");
        Ok(())
    }

    pub fn connect(&self) -> Result<Client> {
        let client = Client::connect(self.addr)?;
        client.set_patience(PATIENCE)?;
        Ok(client)
    }

    /// Runs clients that connect, send, and disconnect without reading, most with a reset, some in
    /// the middle of a command.
    fn vanish(&self) -> Result<()> {
        let mut dice = Dice(99);
        while !self.has_ended() {
            let mut client = self.connect()?;
            let asked: Vec<u8> = (0..20).flat_map(|i| encode(&["GET", &format!("register:{}", i % SHARED)])).collect();
            let cut = dice.below(asked.len() as u64) as usize;
            let _ = client.write(&asked[..cut]);
            if dice.below(3) > 0 {
                relay::linger(client.stream());
            }
            drop(client);
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// Runs a client that requests large replies and reads them late.
    fn read_slowly(&self) -> Result<()> {
        const COUNT: usize = 300;
        let value = slow_value();
        while !self.has_ended() {
            let mut client = self.connect()?;
            if client.cmd(&["SET", SLOW, &value]).map_or(true, |reply| reply.is_error()) {
                std::thread::sleep(Duration::from_millis(20));
                continue;
            }
            // What doesn't fit anywhere waits until it is read.
            let stream = client.stream().try_clone()?;
            let writer = std::thread::spawn(move || (&stream).write_all(&encode(&["GET", SLOW]).repeat(COUNT)));
            let end = Instant::now() + Duration::from_millis(1500);
            while Instant::now() < end && !self.has_ended() {
                std::thread::sleep(Duration::from_millis(20));
            }
            for _ in 0..COUNT {
                match client.read() {
                    Ok(reply) => ensure!(
                        reply == Reply::bulk(&value) || reply.is_error(),
                        "a slow reader got {} bytes",
                        reply.text().len()
                    ),
                    Err(error) => {
                        ended(&error)?;
                        break;
                    }
                }
            }
            drop(client);
            let _ = writer.join();
        }
        Ok(())
    }

    /// The number of connections that have ended.
    pub fn reconnected(&self) -> usize {
        self.reconnected.load(Ordering::Relaxed)
    }
}

/// Returns the value that the slow reader writes: large replies, which don't fit anywhere unread.
pub fn slow_value() -> String {
    SLOW.repeat(25_000)
}

/// Whether an error means that the connection has ended. A missing reply is an error: no client is
/// forgotten.
pub fn ended(error: &anyhow::Error) -> Result<bool> {
    ensure!(!error.to_string().contains("no reply in time"), "a client was forgotten");
    Ok(true)
}
