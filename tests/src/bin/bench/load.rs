//! The load generator: one thread that keeps a fixed number of requests outstanding on each of its connections, and compares
//! every byte of the replies with what they must be.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use redis_mesh_tests::client::{Client, encode};

use crate::histogram::Histogram;

/// Silence for so long is an error.
const PATIENCE: Duration = Duration::from_secs(20);
/// Bytes that are read at once.
const CHUNK: usize = 256 * 1024;

/// What is asked, over and over, and what each answer must be.
#[derive(Debug)]
pub struct Workload {
    requests: Vec<u8>,
    /// Where each request begins; and the end of the last.
    bounds: Vec<usize>,
    /// One reply, repeated so often that a chunk that begins anywhere in the first can be compared with it.
    replies: Vec<u8>,
    reply: usize,
}

impl Workload {
    /// GET of each key in turn; all of them hold this value.
    pub fn get(keys: &[String], value: &[u8]) -> Workload {
        let reply = [format!("${}\r\n", value.len()).as_bytes(), value, b"\r\n"].concat();
        Workload::new(keys.iter().map(|key| encode(&["GET", key])), &reply)
    }

    /// SET of each key in turn to this value.
    pub fn set(keys: &[String], value: &[u8]) -> Workload {
        Workload::new(keys.iter().map(|key| encode(&[b"SET", key.as_bytes(), value])), b"+OK\r\n")
    }

    fn new(requests: impl Iterator<Item = Vec<u8>>, reply: &[u8]) -> Workload {
        let mut all = Vec::new();
        let mut bounds = vec![0];
        for request in requests {
            all.extend_from_slice(&request);
            bounds.push(all.len());
        }
        Workload { requests: all, bounds, replies: reply.repeat(CHUNK / reply.len() + 2), reply: reply.len() }
    }

    fn len(&self) -> usize {
        self.bounds.len() - 1
    }
}

/// What a run has shown.
#[derive(Debug)]
pub struct Outcome {
    /// Requests that were answered: all that were sent.
    pub requests: u64,
    /// From the first request to the last reply.
    pub elapsed: Duration,
    /// From the write that sent a request to the read that brought the end of its reply.
    pub latency: Histogram,
}

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    /// The next request of the workload.
    next: usize,
    /// Bytes of the workload's requests that are to be written.
    unsent: std::ops::Range<usize>,
    /// Replies of this batch that are still to come.
    outstanding: usize,
    /// Bytes of the current reply that have come.
    partial: usize,
    sent_at: Instant,
}

/// Open connections to one address.
#[derive(Debug)]
pub struct Load {
    connections: Vec<Connection>,
    chunk: Vec<u8>,
}

impl Load {
    /// Opens connections; with `resp3` each of them says HELLO 3.
    pub fn connect(addr: SocketAddr, connections: usize, resp3: bool) -> Result<Load> {
        let connections = (0..connections)
            .map(|i| {
                let mut client = Client::connect(addr)?;
                if resp3 {
                    client.ok(&["HELLO", "3"])?;
                }
                client.ok(&["PING"])?;
                let stream = client.stream().try_clone()?;
                stream.set_nonblocking(true)?;
                // Every connection begins elsewhere, so that no two ask for the same key at the same time.
                Ok(Connection {
                    stream,
                    next: i * 61,
                    unsent: 0..0,
                    outstanding: 0,
                    partial: 0,
                    sent_at: Instant::now(),
                })
            })
            .collect::<Result<Vec<_>>>()
            .with_context(|| format!("can't open the connections to {addr}"))?;
        Ok(Load { connections, chunk: vec![0; CHUNK] })
    }

    /// Keeps `pipeline` requests outstanding on every connection for this long, then waits for the last replies. A new batch
    /// is sent when the last one has been answered.
    pub fn run(&mut self, workload: &Workload, pipeline: usize, duration: Duration) -> Result<Outcome> {
        ensure!(pipeline <= workload.len(), "a pipeline of {pipeline} needs as many requests");
        let mut latency = Histogram::default();
        let start = Instant::now();
        let end = start + duration;
        for connection in &mut self.connections {
            connection.begin(workload, pipeline)?;
        }
        let mut busy = self.connections.len();
        let mut now = Instant::now();
        while busy > 0 {
            let ready = wait(&self.connections)?;
            for (connection, poll) in self.connections.iter_mut().zip(ready) {
                if poll.revents == 0 {
                    continue;
                }
                connection.send(workload)?;
                if poll.revents & !libc::POLLOUT == 0 {
                    continue;
                }
                let answered = connection.receive(workload, &mut self.chunk)?;
                now = Instant::now();
                latency.record(now - connection.sent_at, answered as u64);
                if connection.outstanding == 0 {
                    if now < end {
                        connection.begin(workload, pipeline)?;
                    } else {
                        busy -= 1;
                    }
                }
            }
        }
        Ok(Outcome { requests: latency.count(), elapsed: now - start, latency })
    }
}

impl Connection {
    fn begin(&mut self, workload: &Workload, pipeline: usize) -> Result<()> {
        if self.next + pipeline > workload.len() {
            self.next %= workload.len();
            if self.next + pipeline > workload.len() {
                self.next = 0;
            }
        }
        self.unsent = workload.bounds[self.next]..workload.bounds[self.next + pipeline];
        self.next += pipeline;
        self.outstanding = pipeline;
        self.sent_at = Instant::now();
        self.send(workload)
    }

    fn send(&mut self, workload: &Workload) -> Result<()> {
        while !self.unsent.is_empty() {
            match self.stream.write(&workload.requests[self.unsent.clone()]) {
                Ok(n) => self.unsent.start += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error).context("can't send"),
            }
        }
        Ok(())
    }

    /// Reads what is there; how many replies have become complete.
    fn receive(&mut self, workload: &Workload, chunk: &mut [u8]) -> Result<usize> {
        let n = match self.stream.read(chunk) {
            Ok(0) => bail!("the connection was closed"),
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(0),
            Err(error) => return Err(error).context("can't receive"),
        };
        let expected = &workload.replies[self.partial..self.partial + n];
        if chunk[..n] != *expected {
            let at = chunk.iter().zip(expected).position(|(found, expected)| found != expected).unwrap_or(0);
            let around = at.saturating_sub(40)..(at + 100).min(n);
            bail!(
                "a wrong reply: '{}' instead of '{}'",
                chunk[around.clone()].escape_ascii(),
                expected[around].escape_ascii()
            );
        }
        let answered = (self.partial + n) / workload.reply;
        self.partial = (self.partial + n) % workload.reply;
        self.outstanding = self.outstanding.checked_sub(answered).context("more replies than requests")?;
        Ok(answered)
    }
}

/// Waits until something can be read, or written where something is to be.
fn wait(connections: &[Connection]) -> Result<Vec<libc::pollfd>> {
    let mut polls: Vec<libc::pollfd> = connections
        .iter()
        .map(|connection| libc::pollfd {
            // poll passes over what is negative.
            fd: if connection.outstanding > 0 { connection.stream.as_raw_fd() } else { -1 },
            events: if connection.unsent.is_empty() { libc::POLLIN } else { libc::POLLIN | libc::POLLOUT },
            revents: 0,
        })
        .collect();
    loop {
        // SAFETY: the pointer and the length are those of a vector that lives through the call.
        let n = unsafe { libc::poll(polls.as_mut_ptr(), polls.len() as libc::nfds_t, PATIENCE.as_millis() as i32) };
        match n {
            1.. => return Ok(polls),
            0 => bail!("no reply within {PATIENCE:?}"),
            _ => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error).context("poll");
                }
            }
        }
    }
}
