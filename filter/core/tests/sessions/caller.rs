//! A client of the multiplexer: it sends the commands of its script and notes the replies.

use super::script::{Step, script};
use super::store::Args;
use super::world::{Event, World, micros};
use redis_mesh_core::multiplexer::ClientId;
use redis_mesh_core::resp::encode;
use redis_mesh_core::resp::framer::Framer;
use redis_mesh_core::resp::value::Value;
use std::collections::VecDeque;
use std::time::Duration;

/// A command that was sent.
#[derive(Debug)]
pub struct Sent {
    pub token: u64,
    pub args: Args,
    pub at: Duration,
}

/// A complete reply or message, with the time of its arrival.
#[derive(Debug)]
pub struct Frame {
    /// The number of frames that the client has received before.
    pub number: u64,
    pub at: Duration,
    pub bytes: Vec<u8>,
}

/// A client.
pub struct Caller {
    pub id: ClientId,
    script: VecDeque<Step>,
    pub sent: Vec<Sent>,
    pub replies: Vec<Frame>,
    /// The published messages.
    pub messages: Vec<Frame>,
    /// What servers say of keys that the client has read.
    pub invalidations: Vec<Frame>,
    /// The number of frames that have arrived.
    frames: u64,
    framer: Framer,
    /// The beginning of a reply that isn't complete.
    frame: Vec<u8>,
    /// Bytes that the multiplexer hasn't taken.
    waiting: Vec<u8>,
    /// The number of those bytes that have been offered already: the next offer is no shorter.
    offered: usize,
    /// The text of a reply that the client waits for, and the time at which it stops to wait.
    awaits: Option<(Vec<u8>, Duration)>,
    /// The number of replies when the client last sent SCAN.
    scans: Option<usize>,
    /// True if the client doesn't read.
    pub is_full: bool,
    /// The time at which the multiplexer closed the connection.
    pub closed: Option<Duration>,
    /// The time at which the client closed the connection.
    pub left: Option<Duration>,
}

impl Caller {
    /// Returns true if the client is connected.
    pub fn is_connected(&self) -> bool {
        self.closed.is_none() && self.left.is_none()
    }

    /// Returns the beginning of a reply that isn't complete.
    pub fn rest(&self) -> &[u8] {
        &self.frame
    }
}

/// Returns true for a published message, which is no reply.
fn is_message(frame: &[u8]) -> bool {
    matches!(frame.first(), Some(b'>' | b'*'))
        && frame.get(1..).is_some_and(|rest| rest.starts_with(b"3\r\n$7\r\nmessage\r\n"))
}

impl World {
    /// Connects a client with a new script.
    pub fn connect(&mut self) {
        let id = self.multiplexer.open(self.config.clone());
        let number = self.callers.len();
        let caller = Caller {
            id,
            script: script(self),
            sent: Vec::new(),
            replies: Vec::new(),
            messages: Vec::new(),
            invalidations: Vec::new(),
            frames: 0,
            framer: Framer::default(),
            frame: Vec::new(),
            waiting: Vec::new(),
            offered: 0,
            awaits: None,
            scans: None,
            is_full: false,
            closed: None,
            left: None,
        };
        self.callers.push(caller);
        self.by_id.insert(id, number);
        self.after(50_000, Event::Act(number));
    }

    /// Closes the connections of all clients.
    pub fn disconnect_all(&mut self) {
        for id in std::mem::take(&mut self.by_id).into_keys() {
            self.multiplexer.closed(id);
        }
        self.drain();
    }

    /// Lets a client take its next step, unless it waits for something.
    pub fn act(&mut self, number: usize) {
        if !self.callers[number].is_connected() {
            return;
        }
        if !self.callers[number].waiting.is_empty() {
            // A part of a command hasn't been taken.
            self.offer(number);
            return self.after(10_000, Event::Act(number));
        }
        if self.is_waiting(number) || self.continues_scan(number) {
            return self.after(10_000, Event::Act(number));
        }
        let think = [100, 3_000, 60_000][self.random.below(3) as usize];
        match self.callers[number].script.pop_front() {
            Some(Step::Send(commands)) => self.send_commands(number, commands),
            Some(Step::Pause) => {
                return self.after(600_000, Event::Act(number));
            }
            Some(Step::Sync(token)) => {
                let text = format!("#{token}");
                self.callers[number].awaits =
                    Some((format!("{text}\r\n").into_bytes(), self.now + Duration::from_secs(4)));
                self.send_commands(number, vec![vec![b"ECHO".to_vec(), text.into_bytes()]]);
            }
            Some(Step::Scan(token)) => {
                let caller = &mut self.callers[number];
                caller.scans = Some(caller.replies.len());
                self.send_commands(number, vec![scan(b"0", token)]);
            }
            Some(Step::Leave) => {
                self.log(|| format!("client {number} leaves"));
                let caller = &mut self.callers[number];
                caller.left = Some(self.now);
                self.by_id.remove(&caller.id);
                self.multiplexer.closed(caller.id);
                return;
            }
            None => return,
        }
        self.after(think, Event::Act(number));
    }

    /// Returns true if a client waits for the reply to a [`Step::Sync`].
    fn is_waiting(&mut self, number: usize) -> bool {
        let caller = &mut self.callers[number];
        let Some((text, until)) = &caller.awaits else { return false };
        let has_arrived =
            caller.replies.iter().rev().take(20).any(|frame| memchr::memmem::find(&frame.bytes, text).is_some());
        if !has_arrived && *until > self.now {
            return true;
        }
        caller.awaits = None;
        if !has_arrived {
            caller.scans = None;
        }
        false
    }

    /// Sends the next SCAN if the reply to the last one has arrived and has a cursor. Returns
    /// true while the scan isn't over.
    fn continues_scan(&mut self, number: usize) -> bool {
        let caller = &mut self.callers[number];
        let Some(before) = caller.scans else { return false };
        let Some(reply) = caller.replies.get(before) else { return true };
        let next = match Value::parse(&reply.bytes) {
            Some(Value::Array(parts)) => parts.first().and_then(Value::text).unwrap_or(b"0").to_vec(),
            _ => b"0".to_vec(),
        };
        caller.scans = None;
        if next == b"0" {
            return false;
        }
        caller.scans = Some(caller.replies.len());
        self.token += 1;
        let token = self.token;
        self.send_commands(number, vec![scan(&next, token)]);
        true
    }

    /// Sends commands as one pipeline.
    fn send_commands(&mut self, number: usize, commands: Vec<Args>) {
        for args in commands {
            self.log(|| {
                let words: Vec<String> = args.iter().map(|arg| arg.escape_ascii().to_string()).collect();
                format!("client {number}: {}", words.join(" "))
            });
            let caller = &mut self.callers[number];
            encode::command(&mut caller.waiting, &args.iter().map(Vec::as_slice).collect::<Vec<_>>());
            let token = super::journal::token(&args).unwrap_or_default();
            caller.sent.push(Sent { token, args, at: self.now });
        }
        self.offer(number);
    }

    /// Offers the multiplexer the bytes of a client, in pieces. An offer without bytes lets the
    /// multiplexer look again at what it has taken.
    pub fn offer(&mut self, number: usize) {
        let id = self.callers[number].id;
        loop {
            let waiting = std::mem::take(&mut self.callers[number].waiting);
            if !self.callers[number].is_connected() {
                return;
            }
            let least = self.callers[number].offered.max(1);
            let end = (least + self.random.below(150) as usize).min(waiting.len());
            let taken = self.multiplexer.read(id, &waiting[..end], self.now);
            let caller = &mut self.callers[number];
            let rest = waiting[taken..].to_vec();
            // The multiplexer hasn't asked for bytes within the call.
            assert!(caller.waiting.is_empty());
            (caller.waiting, caller.offered) = (rest, end - taken);
            self.drain();
            // The rest is offered later, or when the multiplexer asks for it.
            if taken < end || self.callers[number].waiting.is_empty() || self.random.below(10) == 0 {
                return;
            }
        }
    }

    /// Takes bytes that a client receives.
    pub fn received(&mut self, id: ClientId, bytes: &[u8]) {
        let Some(number) = self.by_id.get(&id).copied() else { return };
        let mut rest = bytes;
        let now = self.now;
        while !rest.is_empty() {
            let caller = &mut self.callers[number];
            let (used, is_complete) = caller.framer.feed(rest).expect("a client receives bytes that aren't RESP");
            caller.frame.extend_from_slice(&rest[..used]);
            rest = &rest[used..];
            if is_complete {
                let bytes = std::mem::take(&mut caller.frame);
                self.log(|| format!("client {number} receives {}", bytes.escape_ascii()));
                let caller = &mut self.callers[number];
                caller.frames += 1;
                let frame = Frame { number: caller.frames, at: now, bytes };
                let to = match &frame.bytes {
                    bytes if is_message(bytes) => &mut caller.messages,
                    bytes if bytes.starts_with(b">2\r\n$10\r\ninvalidate\r\n") => &mut caller.invalidations,
                    _ => &mut caller.replies,
                };
                to.push(frame);
            }
        }
        if !self.callers[number].is_full && self.random.below(40) == 0 {
            self.callers[number].is_full = true;
            self.multiplexer.downstream_full(id, true);
            let longest = [10_000, 30_000, 400_000][self.random.below(3) as usize];
            let time = self.now + micros(self.random.below(longest));
            self.at(time, Event::Reads(number));
        }
    }
}

/// Returns a SCAN. The COUNT is the token by which its execution is found.
fn scan(cursor: &[u8], token: u64) -> Args {
    vec![b"SCAN".to_vec(), cursor.to_vec(), b"COUNT".to_vec(), token.to_string().into_bytes()]
}
