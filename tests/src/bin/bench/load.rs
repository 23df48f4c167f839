//! The load generator: one thread that keeps a fixed number of requests outstanding on each of its
//! connections.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::samples::{Latencies, latencies, nanoseconds};
use crate::socket::{Socket, wait};
use crate::workload::{CHUNK, Workload};

/// The time without a reply after which the run fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// The results of a run.
#[derive(Debug)]
pub struct Outcome {
    /// The number of requests, all of which were answered.
    pub requests: u64,
    /// The time from the first request to the last reply.
    pub elapsed: Duration,
    /// The time from the write that sent a request to the read that returned the end of its reply.
    pub latency: Latencies,
}

#[derive(Debug)]
struct Connection {
    socket: Socket,
    /// The index of the next request in the workload.
    next: usize,
    /// The range of the workload's bytes that remain to be written.
    unsent: std::ops::Range<usize>,
    /// The number of replies of this batch that are outstanding.
    outstanding: usize,
    sent_at: Instant,
}

/// Open connections to one address.
#[derive(Debug)]
pub struct Load {
    connections: Vec<Connection>,
    chunk: Vec<u8>,
}

impl Load {
    /// Opens connections. With `resp3` each of them sends HELLO 3.
    pub fn connect(addr: SocketAddr, connections: usize, resp3: bool) -> Result<Load> {
        let connections = (0..connections)
            .map(|i| {
                let socket = Socket::connect(addr, resp3)?;
                // Every connection begins elsewhere, so that no two ask for the same key at the
                // same time.
                Ok(Connection { socket, next: i * 61, unsent: 0..0, outstanding: 0, sent_at: Instant::now() })
            })
            .collect::<Result<Vec<_>>>()
            .with_context(|| format!("can't open the connections to {addr}"))?;
        Ok(Load { connections, chunk: vec![0; CHUNK] })
    }

    /// The number of connections.
    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    /// Keeps `pipeline` requests outstanding on every connection for this time, then waits for the
    /// last replies. A new batch is sent after the last one has been answered.
    pub fn run(&mut self, workload: &Workload, pipeline: usize, duration: Duration) -> Result<Outcome> {
        ensure!(pipeline <= workload.len(), "a pipeline of {pipeline} needs as many requests");
        let mut latency = latencies()?;
        let start = Instant::now();
        let end = start + duration;
        for connection in &mut self.connections {
            connection.begin(workload, pipeline)?;
        }
        let mut busy = self.connections.len();
        let mut now = Instant::now();
        while busy > 0 {
            let mut polls: Vec<libc::pollfd> = self.connections.iter().map(Connection::poll).collect();
            ensure!(wait(&mut polls, PATIENCE)?, "no reply within {PATIENCE:?}");
            for (connection, poll) in self.connections.iter_mut().zip(polls) {
                if poll.revents == 0 {
                    continue;
                }
                connection.send(workload)?;
                if poll.revents & !libc::POLLOUT == 0 {
                    continue;
                }
                let answered = connection.socket.receive(workload, &mut self.chunk)?;
                now = Instant::now();
                latency.record_n(nanoseconds(now - connection.sent_at), answered as u64)?;
                connection.outstanding =
                    connection.outstanding.checked_sub(answered).context("more replies than requests")?;
                if connection.outstanding == 0 {
                    if now < end {
                        connection.begin(workload, pipeline)?;
                    } else {
                        busy -= 1;
                    }
                }
            }
        }
        Ok(Outcome { requests: latency.len(), elapsed: now - start, latency })
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
        self.unsent = workload.range(self.next, pipeline);
        self.next += pipeline;
        self.outstanding = pipeline;
        self.sent_at = Instant::now();
        self.send(workload)
    }

    fn send(&mut self, workload: &Workload) -> Result<()> {
        if !self.unsent.is_empty() {
            self.unsent.start += self.socket.write(workload.requests(self.unsent.clone()))?;
        }
        Ok(())
    }

    fn poll(&self) -> libc::pollfd {
        libc::pollfd {
            // poll passes over what is negative.
            fd: if self.outstanding > 0 { self.socket.descriptor() } else { -1 },
            events: if self.unsent.is_empty() { libc::POLLIN } else { libc::POLLIN | libc::POLLOUT },
            revents: 0,
        }
    }
}
