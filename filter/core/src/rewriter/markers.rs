//! The reply direction: local answers put in their place, and replies given their RESP3 shape.
//!
//! A filter that may only edit can't write to the client. A local answer therefore travels as an `ECHO` of a nonce before
//! redis_proxy, before a Redis as an unknown command that carries the nonce, and what comes back is replaced. The nonce
//! begins with 96 random bits of the connection, so no stored value can imitate it, and nothing has to be parsed or counted
//! while no answer is pending.

use crate::downstream::auth::has_no_password;
use crate::downstream::server_info;
use crate::hex::write_upper;
use crate::random::Random;
use crate::resp::encode;
use crate::resp::resp3::{self, ConversionError, HeadForm};
use crate::resp::shape::Shape;
use std::collections::VecDeque;

/// Length of a nonce: 24 hexadecimal digits of the connection, 8 of the answer's number.
const NONCE: usize = 32;
const SECRET: usize = 24;
/// The longest error line that can carry a nonce back.
const LONGEST_ERROR: usize = 256;

/// How a nonce is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MarkerForm {
    /// `ECHO nonce`.
    Echo,
    /// `nonce`, a command that no server knows: its error comes back even inside MULTI (which it aborts, as an error
    /// there should), to a subscriber, and before a login.
    Unknown,
    /// `HELLO 2 nonce`, whose error quotes the option that isn't one. It comes back before a login on every server (Valkey
    /// answers unknown commands with NOAUTH there), but not inside MULTI or to a subscriber.
    Hello,
}

impl MarkerForm {
    fn write(self, nonce: &[u8], out: &mut Vec<u8>) {
        match self {
            MarkerForm::Echo => encode::command(out, &[b"ECHO", nonce]),
            MarkerForm::Unknown => encode::command(out, &[nonce]),
            MarkerForm::Hello => encode::command(out, &[b"HELLO", b"2", nonce]),
        }
    }
}

/// What else happens when a nonce comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// Nothing.
    Nothing,
    /// Commands that were held back may go on.
    OpenGate,
    /// The connection is to be closed.
    Close,
    /// What follows, up to the next nonce, doesn't reach the client.
    Capture,
    /// What follows, up to the next nonce, is the reply of INFO.
    CaptureInfo,
    /// Ends the capture of INFO: it goes to the client as that of one Redis.
    Info,
    /// Ends a capture whose last reply must be `+OK`, that of a login. Opens the gate.
    Verify,
    /// From here on replies are shaped to RESP3, or no longer.
    Shaping(bool),
}

#[derive(Debug)]
struct PendingMarker {
    number: u32,
    reply: Vec<u8>,
    then: Then,
}

/// What the next reply from upstream is, where every reply has to be followed.
#[derive(Debug)]
pub enum ExpectedReply {
    /// The reply of a command.
    Reply(Shape),
    /// The reply of EXEC, with the shapes of its elements.
    Transaction(Vec<Shape>),
    /// The next pending nonce.
    Marker,
}

/// What replies have brought about.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReplyEffects {
    /// Held commands may go on.
    pub open_gate: bool,
    /// Close the connection when the bytes are out.
    pub close: bool,
    /// A login in mid-connection was refused.
    pub login_refused: bool,
}

/// The state of the reply direction.
#[derive(Debug, Default)]
pub struct Replies {
    secret: Option<Box<[u8; SECRET]>>,
    next: u32,
    pending: VecDeque<PendingMarker>,
    /// Bytes of the replies in `pending`.
    answers: usize,
    expected: VecDeque<ExpectedReply>,
    shaping: bool,
    tail: Vec<u8>,
    capture: Option<Capture>,
}

/// What is kept from the client.
#[derive(Debug, Default)]
struct Capture {
    bytes: Vec<u8>,
    /// All of it is wanted, not only whether it is `+OK`.
    whole: bool,
}

impl Replies {
    /// Writes a nonce to `out` and remembers what it stands for.
    pub fn inject(&mut self, random: &mut Random, form: MarkerForm, reply: Vec<u8>, then: Then, out: &mut Vec<u8>) {
        let nonce = self.nonce(random);
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        form.write(&nonce, out);
        self.answers += reply.len();
        self.pending.push_back(PendingMarker { number, reply, then });
    }

    /// Writes a nonce that nobody waits for.
    pub fn inject_unanswered(&mut self, random: &mut Random, form: MarkerForm, out: &mut Vec<u8>) {
        let nonce = self.nonce(random);
        self.next = self.next.wrapping_add(1);
        form.write(&nonce, out);
    }

    fn nonce(&mut self, random: &mut Random) -> [u8; NONCE] {
        let secret = self.secret.get_or_insert_with(|| {
            let mut text = [0u8; SECRET];
            write_upper(&random.secret()[..SECRET / 2], &mut text);
            Box::new(text)
        });
        let mut nonce = [0u8; NONCE];
        nonce[..SECRET].copy_from_slice(&secret[..]);
        write_upper(&self.next.to_be_bytes(), &mut nonce[SECRET..]);
        nonce
    }

    /// Notes a reply that is to come, while replies are shaped.
    pub fn expect(&mut self, expected: ExpectedReply) {
        self.expected.push_back(expected);
    }

    /// Replies and answers that are outstanding, as far as they are followed.
    pub fn outstanding(&self) -> usize {
        self.pending.len().max(self.expected.len())
    }

    /// Bytes of the answers that are outstanding.
    pub fn answers(&self) -> usize {
        self.answers
    }

    /// True if the next bytes from upstream must be read; otherwise they may pass unread.
    pub fn must_read(&self) -> bool {
        self.shaping || !self.pending.is_empty() || !self.tail.is_empty()
    }

    /// True if replies are shaped.
    pub fn shaping(&self) -> bool {
        self.shaping
    }

    /// Takes the beginning of `total` bytes from upstream, while replies are shaped. If these are one reply whose shape touches no
    /// more than its head: how many bytes of `head` the bytes appended to `out` replace. `None`: all of them are needed.
    pub fn take_head(&mut self, head: &[u8], total: usize, out: &mut Vec<u8>) -> Option<usize> {
        if !self.tail.is_empty() || self.capture.is_some() {
            return None;
        }
        let &ExpectedReply::Reply(shape) = self.expected.front()? else { return None };
        let alone = self.expected.len() == 1;
        if !(alone || resp3::length_by_head(head) == Some(total)) {
            return None;
        }
        let Ok(HeadForm::Replaced(consumed)) = resp3::to_resp3_head(head, shape, out) else { return None };
        self.expected.pop_front();
        if out[..] == head[..consumed] {
            out.clear();
            return Some(0);
        }
        Some(consumed)
    }

    /// Takes bytes from upstream, appends what the client gets to `out`.
    pub fn take(&mut self, input: &[u8], out: &mut Vec<u8>) -> ReplyEffects {
        let mut outcome = ReplyEffects::default();
        let joined;
        let data = if self.tail.is_empty() {
            input
        } else {
            let mut tail = std::mem::take(&mut self.tail);
            tail.extend_from_slice(input);
            joined = tail;
            joined.as_slice()
        };
        let mut at = 0;
        loop {
            let before = at;
            at = if self.shaping {
                self.follow(data, at, out, &mut outcome)
            } else {
                self.search(data, at, out, &mut outcome)
            };
            // A nonce may have changed how the rest is to be read.
            if at == before || at == data.len() {
                break;
            }
        }
        self.tail = data[at..].to_vec();
        outcome
    }

    /// Looks for the pending nonces from `at`, passing everything else; stops behind one that changes the mode.
    fn search(&mut self, data: &[u8], mut at: usize, out: &mut Vec<u8>, outcome: &mut ReplyEffects) -> usize {
        let Some(secret) = self.secret.clone() else {
            self.emit(&data[at..], out);
            return data.len();
        };
        let mut from = at;
        while !self.pending.is_empty() {
            let Some(found) = data.get(from..).and_then(|rest| find(rest, &secret[..])).map(|i| i + from) else {
                break;
            };
            let Some((start, end, number)) = frame_of(data, at, found) else {
                // The rest of the nonce is still to come.
                self.emit(&data[at..line_start(data, at, found)], out);
                return line_start(data, at, found);
            };
            let Some(index) = number.and_then(|n| self.pending.iter().position(|p| p.number == n)) else {
                from = found + 1;
                continue;
            };
            self.emit(&data[at..start], out);
            at = end;
            from = end;
            // Older nonces got lost on the way (a reply that the client had switched off): they are dead.
            for dead in self.pending.drain(..index) {
                outcome.open_gate |= dead.then == Then::OpenGate;
                self.answers = self.answers.saturating_sub(dead.reply.len());
            }
            let shaping = self.shaping;
            self.matched(out, outcome);
            if shaping != self.shaping {
                return at;
            }
        }
        let keep = if self.pending.is_empty() { data.len() } else { possible_nonce(data, at, &secret[..]) };
        self.emit(&data[at..keep], out);
        keep
    }

    /// The first pending answer has arrived.
    fn matched(&mut self, out: &mut Vec<u8>, outcome: &mut ReplyEffects) {
        let Some(pending) = self.pending.pop_front() else {
            return;
        };
        self.answers = self.answers.saturating_sub(pending.reply.len());
        let captured = self.capture.take();
        out.extend_from_slice(&pending.reply);
        match pending.then {
            Then::Nothing => {}
            Then::OpenGate => outcome.open_gate = true,
            Then::Close => outcome.close = true,
            Then::Capture => self.capture = Some(Capture::default()),
            Then::CaptureInfo => self.capture = Some(Capture { whole: true, ..Capture::default() }),
            Then::Info => {
                if let Some(captured) = captured {
                    out.extend_from_slice(&server_info::standalone(&captured.bytes));
                }
            }
            Then::Verify => {
                outcome.open_gate = true;
                outcome.login_refused |= !captured.is_some_and(|c| let_in(&c.bytes));
            }
            Then::Shaping(on) => self.shaping = on,
        }
    }

    fn emit(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        match &mut self.capture {
            None => out.extend_from_slice(bytes),
            Some(captured) if captured.whole => captured.bytes.extend_from_slice(bytes),
            Some(captured) => {
                captured.bytes.extend_from_slice(&bytes[bytes.len().saturating_sub(LONGEST_ERROR)..]);
                let superfluous = captured.bytes.len().saturating_sub(LONGEST_ERROR);
                captured.bytes.drain(..superfluous);
            }
        }
    }

    /// Follows reply by reply from `at`.
    fn follow(&mut self, data: &[u8], mut at: usize, out: &mut Vec<u8>, outcome: &mut ReplyEffects) -> usize {
        while self.shaping && at < data.len() {
            let rest = &data[at..];
            let before = out.len();
            let length = match self.expected.front() {
                Some(ExpectedReply::Transaction(shapes)) => resp3::exec_to_resp3(rest, shapes, out),
                Some(&ExpectedReply::Reply(shape)) => resp3::to_resp3(rest, shape, out),
                Some(ExpectedReply::Marker) | None => resp3::to_resp3(rest, Shape::Plain, out),
            };
            match length {
                Ok(length) => {
                    at += length;
                    let reply = &rest[..length];
                    let nonce = matches!(self.expected.pop_front(), Some(ExpectedReply::Marker));
                    if nonce && self.secret.as_ref().is_some_and(|s| find(reply, &s[..]).is_some()) {
                        out.truncate(before);
                        self.matched(out, outcome);
                    } else if self.capture.is_some() {
                        let shaped = out.split_off(before);
                        self.emit(&shaped, out);
                    }
                }
                Err(ConversionError::Incomplete) => return at,
                Err(ConversionError::Malformed) => {
                    // Nothing that could be followed any further: let it pass and have the connection closed.
                    out.extend_from_slice(rest);
                    outcome.close = true;
                    return data.len();
                }
            }
        }
        at
    }
}

/// Where `needle` is found first. It is searched for only while an answer is pending, so that a small search will do.
fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    let first = needle.first()?;
    memchr::memchr_iter(*first, haystack).find(|&at| haystack[at..].starts_with(needle))
}

/// Whether the last line of what was captured, the reply to a login, says that we are in.
fn let_in(captured: &[u8]) -> bool {
    let Some(lines) = captured.strip_suffix(b"\r\n") else { return false };
    let line = memchr::memrchr(b'\n', lines).map_or(lines, |i| &lines[i + 1..]);
    line == b"+OK" || has_no_password(line)
}

/// The reply around a nonce found at `found`: where it begins and ends, and the nonce's number if it has one. `None`: not
/// all of it is there.
fn frame_of(data: &[u8], from: usize, found: usize) -> Option<(usize, usize, Option<u32>)> {
    let digits = data.get(found + SECRET..found + NONCE)?;
    let number = std::str::from_utf8(digits).ok().and_then(|d| u32::from_str_radix(d, 16).ok());
    let bulk_head: &[u8] = b"$32\r\n";
    if data[from..found].ends_with(bulk_head) {
        let end = found + NONCE + 2;
        return (data.len() >= end).then_some((found - bulk_head.len(), end, number));
    }
    let Some(newline) = memchr::memchr(b'\n', &data[found..]) else {
        // No error of ours is that long.
        return (data.len() - found > LONGEST_ERROR).then_some((found, found, None));
    };
    Some((line_start(data, from, found), found + newline + 1, number))
}

/// Where the line, or the bulk string's header, begins that `found` lies in.
fn line_start(data: &[u8], from: usize, found: usize) -> usize {
    if data[from..found].ends_with(b"$32\r\n") {
        return found - 5;
    }
    memchr::memrchr(b'\n', &data[from..found]).map_or(from, |i| from + i + 1)
}

/// Where a nonce's reply may begin that `data` holds only the beginning of; `data.len()` if there is none.
fn possible_nonce(data: &[u8], from: usize, secret: &[u8]) -> usize {
    let mut head = [0u8; 5 + SECRET];
    head[..5].copy_from_slice(b"$32\r\n");
    head[5..].copy_from_slice(secret);
    let longest = head.len().min(data.len() - from);
    let bulk = (1..=longest).rev().map(|n| data.len() - n).find(|&at| head.starts_with(&data[at..]));
    let line = memchr::memrchr(b'\n', &data[from..]).map_or(from, |i| from + i + 1);
    let text = &data[line..];
    let begins = |form: &[u8]| form.starts_with(text) || text.starts_with(form);
    let error = !text.is_empty()
        && text.len() < LONGEST_ERROR
        && (begins(b"-ERR unknown command") || begins(b"-ERR Syntax error in HELLO option"));
    let error = error.then_some(line);
    bulk.into_iter().chain(error).min().unwrap_or(data.len())
}
