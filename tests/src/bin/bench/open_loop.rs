//! The load generator for latency: requests are due at fixed times, independent of replies, and a
//! latency begins when the request was due. So a stall of the proxy counts for all requests that
//! were due meanwhile.

use std::collections::VecDeque;
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
    /// The time from when a request was due to the read that returned the end of its reply.
    pub latency: Latencies,
    /// The delay with which the generator itself has sent requests, which is part of the latency.
    pub late: Latencies,
}

#[derive(Debug)]
struct Connection {
    socket: Socket,
    /// The index of the next request in the workload.
    next: usize,
    unsent: Vec<u8>,
    /// The times at which the outstanding requests were due.
    due: VecDeque<Instant>,
}

/// Open connections to one address.
#[derive(Debug)]
pub struct OpenLoop {
    connections: Vec<Connection>,
    chunk: Vec<u8>,
}

impl OpenLoop {
    /// Opens connections.
    pub fn connect(addr: SocketAddr, connections: usize) -> Result<OpenLoop> {
        // Sleeps end when they are to end, not up to 50 µs later.
        // SAFETY: no memory is involved.
        unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1) };
        let connect = |i| {
            let socket = Socket::connect(addr, false)?;
            Ok(Connection { socket, next: i * 61, unsent: Vec::new(), due: VecDeque::new() })
        };
        Ok(OpenLoop { connections: (0..connections).map(connect).collect::<Result<_>>()?, chunk: vec![0; CHUNK] })
    }

    /// Sends `rate` requests per second over the connections in turn for this time, then waits for
    /// the last replies.
    pub fn run(&mut self, workload: &Workload, rate: f64, duration: Duration) -> Result<Outcome> {
        let mut outcome = Outcome { latency: latencies()?, late: latencies()? };
        let total = (rate * duration.as_secs_f64()) as u64;
        let start = Instant::now();
        let due = |request: u64| start + Duration::from_secs_f64(request as f64 / rate);
        let mut sent = 0;
        let mut heard = start;
        while outcome.latency.len() < total {
            let mut now = Instant::now();
            while sent < total && due(sent) <= now {
                let i = (sent % self.connections.len() as u64) as usize;
                self.connections[i].send(workload, due(sent))?;
                now = Instant::now();
                outcome.late.record(nanoseconds(now - due(sent)))?;
                sent += 1;
            }
            let next = if sent < total { due(sent) } else { now + PATIENCE };
            let mut polls: Vec<libc::pollfd> = self.connections.iter().map(Connection::poll).collect();
            if !wait(&mut polls, next.saturating_duration_since(now))? {
                ensure!(heard.elapsed() < PATIENCE, "no reply within {PATIENCE:?}");
                continue;
            }
            for (connection, poll) in self.connections.iter_mut().zip(polls) {
                if poll.revents & libc::POLLOUT != 0 {
                    connection.flush()?;
                }
                if poll.revents & !libc::POLLOUT != 0 {
                    let answered = connection.socket.receive(workload, &mut self.chunk)?;
                    heard = Instant::now();
                    for _ in 0..answered {
                        let due = connection.due.pop_front().context("more replies than requests")?;
                        outcome.latency.record(nanoseconds(heard - due))?;
                    }
                }
            }
        }
        Ok(outcome)
    }
}

impl Connection {
    fn send(&mut self, workload: &Workload, due: Instant) -> Result<()> {
        self.next %= workload.len();
        self.unsent.extend_from_slice(workload.requests(workload.range(self.next, 1)));
        self.next += 1;
        self.due.push_back(due);
        self.flush()
    }

    fn flush(&mut self) -> Result<()> {
        let written = self.socket.write(&self.unsent)?;
        self.unsent.drain(..written);
        Ok(())
    }

    fn poll(&self) -> libc::pollfd {
        let events = if self.unsent.is_empty() { libc::POLLIN } else { libc::POLLIN | libc::POLLOUT };
        libc::pollfd { fd: self.socket.descriptor(), events, revents: 0 }
    }
}
