//! Clients under constant load, and what they have observed.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use redis_mesh_tests::client::{Client, PATIENCE};
use redis_mesh_tests::netns::Namespace;
use redis_mesh_tests::process;

use crate::pod::Pod;

/// The observations of the clients.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Keys that were set and read back as they were set.
    pub right: u64,
    /// Values that differ from what was set, with their keys.
    pub wrong: Vec<String>,
    /// The number of error replies, by their text.
    pub errors: BTreeMap<String, u64>,
    /// The number of connections that have ended.
    pub closed: u64,
    /// The number of connections that failed or were refused a login.
    pub refused: u64,
}

/// Threads that set and get keys over persistent connections. Dropping this value ends them.
#[derive(Debug)]
pub struct Traffic {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    namespace: Namespace,
    addr: SocketAddr,
    password: Option<String>,
    prefixes: Vec<String>,
    stop: AtomicBool,
    seen: Mutex<Seen>,
}

impl Traffic {
    /// Starts two clients in a pod, on keys with each of these prefixes in turn.
    pub fn start(pod: &Pod, host: &str, password: Option<&str>, prefixes: &[&str]) -> Result<Traffic> {
        let shared = Arc::new(Shared {
            namespace: pod.network_namespace().clone(),
            addr: SocketAddr::new(pod.resolve(host)?, 6379),
            password: password.map(str::to_string),
            prefixes: prefixes.iter().map(|prefix| prefix.to_string()).collect(),
            stop: AtomicBool::new(false),
            seen: Mutex::default(),
        });
        let threads = (0..2).map(|client| {
            let shared = shared.clone();
            std::thread::spawn(move || shared.work(client))
        });
        let traffic = Traffic { threads: threads.collect(), shared };
        traffic.wait_right(100)?;
        Ok(traffic)
    }

    /// Returns the observations so far.
    pub fn seen(&self) -> Seen {
        self.shared.seen().clone()
    }

    /// Waits until this number of further keys was read back correctly, whatever else is observed.
    pub fn wait_right(&self, more: u64) -> Result<()> {
        let goal = self.seen().right + more;
        let arrived = process::wait_until("traffic that flows", Duration::from_secs(20), || self.seen().right >= goal);
        arrived.with_context(|| format!("the clients saw {:?}", self.seen()))
    }

    /// Ends the clients and returns their observations.
    pub fn stop(mut self) -> Result<Seen> {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            ensure!(thread.join().is_ok(), "a client panicked");
        }
        Ok(self.seen())
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

impl Seen {
    /// Fails unless the clients have observed neither errors nor closed connections.
    pub fn ensure_calm(&self) -> Result<()> {
        let calm = self.wrong.is_empty() && self.errors.is_empty() && self.closed == 0 && self.refused == 0;
        ensure!(calm, "the clients saw {self:?}");
        Ok(())
    }
}

impl Shared {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self, client: usize) {
        let mut connection = None;
        let mut count = 0;
        while !self.stop.load(Ordering::Relaxed) {
            let Some(open) = &mut connection else {
                match self.connect() {
                    Ok(new) => connection = Some(new),
                    Err(_) => {
                        self.seen().refused += 1;
                        std::thread::sleep(Duration::from_millis(10));
                    }
                }
                continue;
            };
            count += 1;
            let prefix = &self.prefixes[count % self.prefixes.len()];
            let (key, value) = (format!("{prefix}{client}-{count}"), format!("{client}-{count}"));
            let replies = open.pipeline(&[vec!["SET", &key, &value], vec!["GET", &key]]);
            let mut seen = self.seen();
            match replies {
                Err(_) => {
                    seen.closed += 1;
                    connection = None;
                }
                Ok(replies) => match replies.iter().find(|reply| reply.is_error()) {
                    Some(error) => *seen.errors.entry(error.text()).or_default() += 1,
                    None if replies[1].text() == value => seen.right += 1,
                    None => seen.wrong.push(format!("{key}: {}", replies[1].tty())),
                },
            }
            drop(seen);
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn connect(&self) -> Result<Client> {
        let mut client = Client::over(self.namespace.connect(self.addr, PATIENCE)?)?;
        if let Some(password) = &self.password {
            client.ok(&["AUTH", password])?;
        }
        Ok(client)
    }
}
