//! Pub/sub: the cost of a message to many subscribers.

use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use redis_mesh_tests::client::{Client, encode};
use redis_mesh_tests::redis::Redis;
use redis_mesh_tests::reply::Reply;

use crate::kind::{Artefacts, Behind, Kind};
use crate::options::Options;
use crate::running::Running;
use crate::samples::{Sample, Samples};
use crate::socket::wait;

/// The number of subscribers of the channel.
pub const SUBSCRIBERS: usize = 100;
/// The size of a message in bytes.
pub const MESSAGE: usize = 64;
/// The number of messages that are published at once, before subscribers read them.
pub const BURST: usize = 16;
/// The measured paths. The others are compared with the first, `tcp_proxy`. `redis_proxy` and
/// twemproxy have no pub/sub.
const KINDS: [Kind; 4] = [Kind::TcpProxy, Kind::Native, Kind::FilterTcp, Kind::Direct];
const CHANNEL: &[u8] = b"news";
const PATIENCE: Duration = Duration::from_secs(20);

/// The samples of each path. A request is a message that one subscriber has received.
#[derive(Debug)]
pub struct Fanout {
    /// The paths.
    pub rows: Vec<(Kind, Samples)>,
}

struct Audience {
    kind: Kind,
    running: Running,
    subscribers: Vec<TcpStream>,
    samples: Samples,
}

/// Measures in rounds, every path in each of them.
pub fn measure(options: &Options, redis: &Redis, filter_file: &Path) -> Result<Fanout> {
    let mut audiences = Vec::new();
    for kind in KINDS {
        let running = kind.start(&Artefacts::of_filter(filter_file), Behind::Server, &[redis.addr()])?;
        let subscribers = (0..SUBSCRIBERS).map(|_| subscribe(&running)).collect::<Result<Vec<_>>>();
        let subscribers = subscribers.with_context(|| format!("subscribing by {}", kind.name()))?;
        audiences.push(Audience { kind, running, subscribers, samples: Samples::default() });
    }
    let mut publisher = redis.client()?;
    for round in 0..options.rounds {
        options.progress(&format!("round {} of {}: {SUBSCRIBERS} subscribers", round + 1, options.rounds));
        for step in 0..audiences.len() {
            let at = if round % 2 == 0 { step } else { audiences.len() - 1 - step };
            let audience = &mut audiences[at];
            audience.publish(&mut publisher, options.duration / 5)?;
            let before = audience.running.cpu_time_at_rest()?;
            let begin = Instant::now();
            let messages = audience.publish(&mut publisher, options.duration)?;
            let rate = messages / begin.elapsed().as_secs_f64();
            let after = audience.running.cpu_time_at_rest()?;
            let cpu = before.zip(after).map(|(before, after)| (after - before).as_secs_f64() * 1e6 / messages);
            audience.samples.push(Sample { rate, latency: [0.0; 3], cpu, connections: None });
        }
    }
    Ok(Fanout { rows: audiences.into_iter().map(|audience| (audience.kind, audience.samples)).collect() })
}

fn subscribe(running: &Running) -> Result<TcpStream> {
    let mut client = Client::connect(running.addr)?;
    let channel = String::from_utf8_lossy(&channel_of(running)).into_owned();
    client.send(&["SUBSCRIBE", &channel])?;
    client.read()?;
    let stream = client.stream().try_clone()?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}

/// Each path has a channel of its own, because all of them lead to the same server.
fn channel_of(running: &Running) -> Vec<u8> {
    [CHANNEL, b":", running.addr.to_string().as_bytes()].concat()
}

impl Audience {
    /// Publishes bursts for this time, each after all subscribers have read the one before.
    /// Returns the number of messages that have arrived.
    fn publish(&mut self, publisher: &mut Client, duration: Duration) -> Result<f64> {
        let channel = channel_of(&self.running);
        let text = vec![b'x'; MESSAGE];
        let burst = encode(&[b"PUBLISH".as_slice(), &channel, &text]).repeat(BURST);
        let expected = encode(&[b"message".as_slice(), &channel, &text]).repeat(BURST);
        let end = Instant::now() + duration;
        let mut bursts = 0;
        while Instant::now() < end {
            publisher.write(&burst)?;
            for _ in 0..BURST {
                let reached = publisher.read()?;
                ensure!(reached == Reply::Integer(SUBSCRIBERS as i64), "a message reached {}", reached.tty());
            }
            self.read(&expected)?;
            bursts += 1;
        }
        Ok((bursts * BURST * SUBSCRIBERS) as f64)
    }

    fn read(&mut self, expected: &[u8]) -> Result<()> {
        let mut got = vec![0; self.subscribers.len()];
        let mut chunk = vec![0; expected.len()];
        while got.iter().any(|&n| n < expected.len()) {
            let descriptor = |(stream, &n): (&TcpStream, &usize)| libc::pollfd {
                fd: if n < expected.len() { stream.as_raw_fd() } else { -1 },
                events: libc::POLLIN,
                revents: 0,
            };
            let mut polls: Vec<libc::pollfd> = self.subscribers.iter().zip(&got).map(descriptor).collect();
            ensure!(wait(&mut polls, PATIENCE)?, "no message within {PATIENCE:?}");
            for ((stream, n), poll) in self.subscribers.iter_mut().zip(&mut got).zip(polls) {
                if poll.revents == 0 {
                    continue;
                }
                match stream.read(&mut chunk[..expected.len() - *n]) {
                    Ok(0) => anyhow::bail!("a subscriber was closed"),
                    Ok(len) => {
                        ensure!(chunk[..len] == expected[*n..*n + len], "a wrong message");
                        *n += len;
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error).context("can't receive"),
                }
            }
        }
        Ok(())
    }
}
