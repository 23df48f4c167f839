//! Markers: commands whose replies give way to answers of the filter's own. And the RESP3 forms of
//! other replies.
//!
//! A filter that may only edit can't write to the client by itself. For an answer of its own it
//! sends a marker in the command's place, a command that carries a nonce, and replaces the reply.
//! To redis_proxy the marker is an `ECHO` of the nonce, to a Redis an unknown command that is the
//! nonce. A nonce begins with 96 random bits of the connection, so that no stored value can
//! imitate it, and replies needn't be parsed or counted while no marker is pending.

use crate::downstream::auth::has_no_password;
use crate::downstream::server_info;
use crate::hex::write_upper;
use crate::random::Random;
use crate::request::privileges::{self, PRIVILEGED};
use crate::resp::encode;
use crate::resp::resp3::{self, ConversionError, HeadForm};
use crate::resp::shape::Shape;
use std::collections::VecDeque;

/// Length of a nonce: 24 hexadecimal digits of the connection, 8 of the marker's number.
const NONCE: usize = 32;
const SECRET: usize = 24;
/// The longest error line that can carry a nonce back.
const LONGEST_ERROR: usize = 256;

/// The command that carries a nonce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MarkerForm {
    /// `ECHO nonce`.
    Echo,
    /// `nonce`, a command that no server knows. The error comes back even inside MULTI (which it
    /// aborts, as an error there should), to a subscriber, and before a login.
    Unknown,
    /// `HELLO 2 nonce`, whose error quotes the unknown option. The error comes back before a login
    /// on every server (Valkey answers unknown commands with NOAUTH there), but not inside MULTI
    /// or to a subscriber.
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

/// What happens, besides the answer, when a marker's reply comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// Nothing.
    Nothing,
    /// Commands that were held may go on.
    OpenGate,
    /// The connection is to be closed.
    Close,
    /// Replies up to the next marker don't reach the client.
    Capture,
    /// The reply up to the next marker doesn't reach the client as it is.
    CaptureWhole,
    /// Ends the capture of the reply to INFO, which goes to the client as that of one Redis.
    Info,
    /// Ends the capture of the reply to a read in place of PING. The marker's answer is for the client
    /// unless the reply says that Redis isn't there.
    Pong,
    /// Ends a capture whose last reply, that to a login, must be `+OK`. Commands that were held
    /// may go on.
    Verify,
    /// Ends the capture of the reply to `ACL DRYRUN` of the privileged command of this index, and begins
    /// that of the next one.
    DryRun(u8),
    /// Replies from here on get their RESP3 form (true) or stay as they are (false).
    Shaping(bool),
}

#[derive(Debug)]
struct PendingMarker {
    number: u32,
    reply: Vec<u8>,
    then: Then,
}

/// A reply from upstream that is to come, where every reply has to be followed.
#[derive(Debug)]
pub enum ExpectedReply {
    /// The reply to a command.
    Reply(Shape),
    /// The reply to EXEC, with the shapes of its elements.
    Transaction(Vec<Shape>),
    /// The reply to the next pending marker.
    Marker,
}

/// The effects of replies on the connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReplyEffects {
    /// Commands that were held may go on.
    pub open_gate: bool,
    /// The connection is to be closed when the bytes are out.
    pub close: bool,
    /// A login in mid-connection was refused.
    pub login_refused: bool,
    /// What the login may do: a bit for each of the privileged commands.
    pub allowed: Option<u8>,
}

/// The state of the direction from upstream to the client.
#[derive(Debug, Default)]
pub struct Replies {
    secret: Option<Box<[u8; SECRET]>>,
    next: u32,
    pending: VecDeque<PendingMarker>,
    /// Number of bytes of the replies in `pending`.
    answers: usize,
    expected: VecDeque<ExpectedReply>,
    shaping: bool,
    tail: Vec<u8>,
    capture: Option<Capture>,
    /// Which privileged commands the login may execute, as far as that was answered.
    allowed: u8,
}

/// Replies that don't reach the client.
#[derive(Debug, Default)]
struct Capture {
    bytes: Vec<u8>,
    /// All bytes are kept, not only the end that tells whether the last reply is `+OK`.
    whole: bool,
}

impl Capture {
    /// The captured reply if it is an error that says that Redis can't be asked. Whoever may not read
    /// a key is answered by a Redis that is there.
    fn outage(&self) -> Option<&[u8]> {
        let is_outage = self.bytes.starts_with(b"-") && !self.bytes.starts_with(b"-NOPERM");
        is_outage.then_some(&self.bytes)
    }
}

impl Replies {
    /// Writes a marker to `out`. Its reply gives way to `reply`.
    pub fn inject(&mut self, random: &mut Random, form: MarkerForm, reply: Vec<u8>, then: Then, out: &mut Vec<u8>) {
        let nonce = self.nonce(random);
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        form.write(&nonce, out);
        self.answers += reply.len();
        self.pending.push_back(PendingMarker { number, reply, then });
    }

    /// Writes a marker whose reply won't come, or may pass.
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

    /// Notes a reply that is to come, while replies get their RESP3 form.
    pub fn expect(&mut self, expected: ExpectedReply) {
        self.expected.push_back(expected);
    }

    /// Returns the number of replies that are outstanding, as far as they are followed.
    pub fn outstanding(&self) -> usize {
        self.pending.len().max(self.expected.len())
    }

    /// Returns the number of bytes of the answers that are outstanding.
    pub fn answers(&self) -> usize {
        self.answers
    }

    /// True if the next bytes from upstream must be read; otherwise they may pass unread.
    pub fn must_read(&self) -> bool {
        self.shaping || !self.pending.is_empty() || !self.tail.is_empty()
    }

    /// True if replies get their RESP3 form.
    pub fn shaping(&self) -> bool {
        self.shaping
    }

    /// Takes the beginning of `total` bytes from upstream, while replies get their RESP3 form. If
    /// the bytes are one reply whose shape concerns only its head, returns how many bytes of
    /// `head` the bytes appended to `out` replace. `None`: all bytes are needed.
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

    /// Takes bytes from upstream, and appends the bytes for the client to `out`.
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
            // A marker may have changed how the rest is to be read.
            if at == before || at == data.len() {
                break;
            }
        }
        self.tail = data[at..].to_vec();
        outcome
    }

    /// Looks for the replies to pending markers from `at`, and passes everything else. Stops
    /// behind a marker that changes [`Replies::shaping`].
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
            // Replies to older markers won't come, such as those that the client had switched off.
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

    /// The reply to the first pending marker has arrived.
    fn matched(&mut self, out: &mut Vec<u8>, outcome: &mut ReplyEffects) {
        let Some(pending) = self.pending.pop_front() else {
            return;
        };
        self.answers = self.answers.saturating_sub(pending.reply.len());
        let captured = self.capture.take();
        match captured.as_ref().filter(|_| pending.then == Then::Pong).and_then(Capture::outage) {
            Some(outage) => out.extend_from_slice(outage),
            None => out.extend_from_slice(&pending.reply),
        }
        match pending.then {
            Then::Nothing | Then::Pong => {}
            Then::OpenGate => outcome.open_gate = true,
            Then::Close => outcome.close = true,
            Then::Capture => self.capture = Some(Capture::default()),
            Then::CaptureWhole => self.capture = Some(Capture { whole: true, ..Capture::default() }),
            Then::Info => {
                if let Some(captured) = captured {
                    out.extend_from_slice(&server_info::standalone(&captured.bytes));
                }
            }
            Then::Verify => {
                outcome.open_gate = true;
                outcome.login_refused |= !captured.is_some_and(|c| let_in(&c.bytes));
            }
            Then::DryRun(index) => {
                let is_allowed = captured.is_some_and(|c| privileges::is_allowed(&c.bytes));
                self.allowed |= u8::from(is_allowed) << index;
                if usize::from(index) + 1 < PRIVILEGED.len() {
                    self.capture = Some(Capture::default());
                } else {
                    outcome.allowed = Some(std::mem::take(&mut self.allowed));
                }
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

    /// Converts reply by reply from `at`.
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
                    // The replies behind can't be told apart: they pass, and the connection is
                    // closed.
                    out.extend_from_slice(rest);
                    outcome.close = true;
                    return data.len();
                }
            }
        }
        at
    }
}

/// Returns where `needle` is found first. A simple search is enough, since it runs only while a
/// marker is pending.
fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    let first = needle.first()?;
    memchr::memchr_iter(*first, haystack).find(|&at| haystack[at..].starts_with(needle))
}

/// Whether the last captured line, the reply to a login, says that the connection is logged in.
fn let_in(captured: &[u8]) -> bool {
    let Some(lines) = captured.strip_suffix(b"\r\n") else { return false };
    let line = memchr::memrchr(b'\n', lines).map_or(lines, |i| &lines[i + 1..]);
    line == b"+OK" || has_no_password(line)
}

/// Returns where the reply around a nonce found at `found` begins and ends, and the marker's
/// number if the nonce has one. `None`: the reply isn't complete.
fn frame_of(data: &[u8], from: usize, found: usize) -> Option<(usize, usize, Option<u32>)> {
    let digits = data.get(found + SECRET..found + NONCE)?;
    let number = std::str::from_utf8(digits).ok().and_then(|d| u32::from_str_radix(d, 16).ok());
    let bulk_head: &[u8] = b"$32\r\n";
    if data[from..found].ends_with(bulk_head) {
        let end = found + NONCE + 2;
        return (data.len() >= end).then_some((found - bulk_head.len(), end, number));
    }
    let Some(newline) = memchr::memchr(b'\n', &data[found..]) else {
        // No reply to a marker is that long.
        return (data.len() - found > LONGEST_ERROR).then_some((found, found, None));
    };
    Some((line_start(data, from, found), found + newline + 1, number))
}

/// Returns the beginning of the line, or of the bulk string's header, around `found`.
fn line_start(data: &[u8], from: usize, found: usize) -> usize {
    if data[from..found].ends_with(b"$32\r\n") {
        return found - 5;
    }
    memchr::memrchr(b'\n', &data[from..found]).map_or(from, |i| from + i + 1)
}

/// Returns where a marker's reply may begin of which `data` holds only the beginning;
/// `data.len()`: nowhere.
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
