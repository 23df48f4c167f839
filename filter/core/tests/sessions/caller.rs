//! A client: what it says, when, and what it hears.

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

/// A whole reply, or a message.
#[derive(Debug)]
pub struct Frame {
    pub at: Duration,
    pub bytes: Vec<u8>,
}

pub struct Caller {
    pub id: ClientId,
    script: VecDeque<Step>,
    pub sent: Vec<Sent>,
    pub replies: Vec<Frame>,
    /// What was published.
    pub messages: Vec<Frame>,
    framer: Framer,
    frame: Vec<u8>,
    /// Bytes that were not taken yet.
    waiting: Vec<u8>,
    /// How many of them have been offered already: no fewer are the next time.
    offered: usize,
    /// It goes on when it has heard this, or at that time.
    awaits: Option<(Vec<u8>, Duration)>,
    /// How many replies there were when it asked for the next part of a scan.
    scans: Option<usize>,
    pub is_full: bool,
    /// When the proxy closed it.
    pub closed: Option<Duration>,
    /// When it left.
    pub left: Option<Duration>,
}

impl Caller {
    pub fn is_there(&self) -> bool {
        self.closed.is_none() && self.left.is_none()
    }

    /// Bytes of a reply that isn't there as a whole.
    pub fn rest(&self) -> &[u8] {
        &self.frame
    }
}

/// True for what was published, which is no reply.
fn is_message(frame: &[u8]) -> bool {
    matches!(frame.first(), Some(b'>' | b'*'))
        && frame.get(1..).is_some_and(|rest| rest.starts_with(b"3\r\n$7\r\nmessage\r\n"))
}

impl World {
    pub fn come(&mut self) {
        let id = self.proxy.open(self.config.clone());
        let number = self.callers.len();
        let caller = Caller {
            id,
            script: script(self),
            sent: Vec::new(),
            replies: Vec::new(),
            messages: Vec::new(),
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

    /// All clients leave.
    pub fn leave(&mut self) {
        for id in std::mem::take(&mut self.by_id).into_keys() {
            self.proxy.closed(id);
        }
        self.drain();
    }

    /// A client goes on.
    pub fn act(&mut self, number: usize) {
        let caller = &mut self.callers[number];
        if !caller.is_there() {
            return;
        }
        if !caller.waiting.is_empty() {
            // In the middle of what it says.
            self.offer(number);
            return self.after(10_000, Event::Act(number));
        }
        if let Some((text, until)) = &caller.awaits {
            let is_heard =
                caller.replies.iter().rev().take(20).any(|frame| memchr::memmem::find(&frame.bytes, text).is_some());
            if !is_heard && *until > self.now {
                return self.after(10_000, Event::Act(number));
            }
            caller.awaits = None;
            if !is_heard {
                caller.scans = None;
            }
        }
        if let Some(before) = caller.scans {
            // The next part, if this one has come.
            let Some(reply) = caller.replies.get(before) else { return self.after(10_000, Event::Act(number)) };
            let next = match Value::parse(&reply.bytes) {
                Some(Value::Array(parts)) => parts.first().and_then(Value::text).unwrap_or(b"0").to_vec(),
                _ => b"0".to_vec(),
            };
            caller.scans = None;
            if next != b"0" {
                caller.scans = Some(caller.replies.len());
                self.token += 1;
                let token = self.token;
                self.say(number, vec![scan(&next, token)]);
                return self.after(10_000, Event::Act(number));
            }
        }
        let think = [100, 3_000, 60_000][self.random.below(3) as usize];
        match self.callers[number].script.pop_front() {
            Some(Step::Say(commands)) => self.say(number, commands),
            Some(Step::Pause) => {
                return self.after(600_000, Event::Act(number));
            }
            Some(Step::Sync(token)) => {
                let text = format!("#{token}");
                self.callers[number].awaits =
                    Some((format!("{text}\r\n").into_bytes(), self.now + Duration::from_secs(4)));
                self.say(number, vec![vec![b"PING".to_vec(), text.into_bytes()]]);
            }
            Some(Step::Scan(token)) => {
                let caller = &mut self.callers[number];
                caller.scans = Some(caller.replies.len());
                self.say(number, vec![scan(b"0", token)]);
            }
            Some(Step::Leave) => {
                self.tell(|| format!("client {number} leaves"));
                let caller = &mut self.callers[number];
                caller.left = Some(self.now);
                self.by_id.remove(&caller.id);
                self.proxy.closed(caller.id);
                return;
            }
            None => return,
        }
        self.after(think, Event::Act(number));
    }

    /// Commands in one go.
    fn say(&mut self, number: usize, commands: Vec<Args>) {
        for args in commands {
            self.tell(|| {
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

    /// Bytes of a client, in pieces; without any, what was taken before is looked at again.
    pub fn offer(&mut self, number: usize) {
        let id = self.callers[number].id;
        loop {
            let waiting = std::mem::take(&mut self.callers[number].waiting);
            if !self.callers[number].is_there() {
                return;
            }
            let least = self.callers[number].offered.max(1);
            let end = (least + self.random.below(150) as usize).min(waiting.len());
            let taken = self.proxy.read(id, &waiting[..end], self.now);
            let caller = &mut self.callers[number];
            let rest = waiting[taken..].to_vec();
            // Nothing else has been said meanwhile.
            assert!(caller.waiting.is_empty());
            (caller.waiting, caller.offered) = (rest, end - taken);
            self.drain();
            // The rest comes later, or when it is asked for.
            if taken < end || self.callers[number].waiting.is_empty() || self.random.below(10) == 0 {
                return;
            }
        }
    }

    /// A client hears something.
    pub fn heard(&mut self, id: ClientId, bytes: &[u8]) {
        let Some(number) = self.by_id.get(&id).copied() else { return };
        let mut rest = bytes;
        let now = self.now;
        while !rest.is_empty() {
            let caller = &mut self.callers[number];
            let (used, is_complete) = caller.framer.feed(rest).expect("a client hears no RESP");
            caller.frame.extend_from_slice(&rest[..used]);
            rest = &rest[used..];
            if is_complete {
                let bytes = std::mem::take(&mut caller.frame);
                self.tell(|| format!("client {number} hears {}", bytes.escape_ascii()));
                let caller = &mut self.callers[number];
                let to = if is_message(&bytes) { &mut caller.messages } else { &mut caller.replies };
                to.push(Frame { at: now, bytes });
            }
        }
        if !self.callers[number].is_full && self.random.below(40) == 0 {
            self.callers[number].is_full = true;
            self.proxy.downstream_full(id, true);
            let time = self.now + micros(self.random.below(30_000));
            self.at(time, Event::Reads(number));
        }
    }
}

/// A part of a scan. The number of keys that it asks for says whose it is.
fn scan(cursor: &[u8], token: u64) -> Args {
    vec![b"SCAN".to_vec(), cursor.to_vec(), b"COUNT".to_vec(), token.to_string().into_bytes()]
}
