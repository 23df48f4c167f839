//! Replies in the order in which a client asked, whoever answers first.

use crate::multiplexer::reply::aggregate::Aggregation;
use crate::multiplexer::reply::key_rewrite::KeyRewrite;
use std::collections::VecDeque;

/// The number of a command of a client.
pub type Sequence = u64;

#[derive(Debug)]
enum QueuedReply {
    /// Somebody is to answer it. What has come so far, unless it could go out at once.
    Waiting(Vec<u8>),
    /// Several are to answer it.
    Parts(Box<Aggregation>),
    /// Somebody is to answer it, and keys in the answer get other names. What has come so far.
    Renamed(Vec<u8>, Box<KeyRewrite>),
    /// Its reply waits for those before it.
    Ready(Vec<u8>),
    /// So many are to answer it, and the client has said that it doesn't want to hear (CLIENT REPLY OFF).
    Mute(u32),
}

/// Commands that have been taken and not yet answered.
#[derive(Debug, Default)]
pub struct ReplyQueue {
    slots: VecDeque<QueuedReply>,
    /// The number of the first of them.
    first: Sequence,
    /// Bytes of replies that wait.
    held: usize,
    /// SubCommand of the first one's reply has gone out.
    is_begun: bool,
    /// What is no reply and waits until that one is complete.
    pushes: Vec<u8>,
    /// The numbers of replies that have gone out, or begun to, and are errors.
    failed: Vec<Sequence>,
}

impl ReplyQueue {
    /// RequestPolicy many wait for an answer.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// True if none does.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// The number of the next command to be answered.
    pub fn next(&self) -> Sequence {
        self.first
    }

    /// The number that the next command gets.
    pub fn end(&self) -> Sequence {
        self.first + self.slots.len() as u64
    }

    /// Bytes that wait for others.
    pub fn held(&self) -> usize {
        self.held + self.pushes.len()
    }

    /// A command that somebody is to answer.
    #[inline]
    pub fn expect(&mut self, is_mute: bool) -> Sequence {
        self.add(if is_mute { QueuedReply::Mute(1) } else { QueuedReply::Waiting(Vec::new()) })
    }

    /// A command that somebody is to answer with names of keys that the client knows otherwise.
    pub fn expect_renamed(&mut self, renames: KeyRewrite, is_mute: bool) -> Sequence {
        self.add(if is_mute { QueuedReply::Mute(1) } else { QueuedReply::Renamed(Vec::new(), Box::new(renames)) })
    }

    /// A command that several are to answer.
    pub fn expect_parts(&mut self, merge: Aggregation, is_mute: bool) -> Sequence {
        self.add(if is_mute { QueuedReply::Mute(merge.parts()) } else { QueuedReply::Parts(Box::new(merge)) })
    }

    fn add(&mut self, slot: QueuedReply) -> Sequence {
        self.slots.push_back(slot);
        self.end() - 1
    }

    /// A command that is answered already.
    pub fn answered(&mut self, reply: &[u8], out: &mut Vec<u8>) {
        if self.slots.is_empty() {
            self.note(reply);
            self.first += 1;
            out.extend_from_slice(reply);
        } else {
            self.held += reply.len();
            self.slots.push_back(QueuedReply::Ready(reply.to_vec()));
        }
    }

    /// Something that answers no command. It goes out as soon as it comes between two replies.
    pub fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        let to = if self.is_begun { &mut self.pushes } else { out };
        to.extend_from_slice(bytes);
    }

    /// Bytes of a reply; `complete` with its last ones. What can go out is appended to `out`.
    #[inline]
    pub fn reply(&mut self, sequence: Sequence, bytes: &[u8], complete: bool, out: &mut Vec<u8>) {
        let Some(index) = sequence.checked_sub(self.first) else { return };
        let Some(slot) = self.slots.get_mut(index as usize) else { return };
        let held = match slot {
            QueuedReply::Waiting(held) => held,
            QueuedReply::Renamed(held, renames) => {
                self.held += bytes.len();
                held.extend_from_slice(bytes);
                if complete {
                    let renamed = renames.apply(held);
                    self.held = self.held - held.len() + renamed.len();
                    *slot = QueuedReply::Ready(renamed);
                    self.flush(out);
                }
                return;
            }
            QueuedReply::Mute(_) => {
                return if complete {
                    self.unheard(index as usize, out)
                };
            }
            QueuedReply::Parts(_) | QueuedReply::Ready(_) => return,
        };
        if index == 0 {
            if !held.is_empty() {
                self.held -= held.len();
                out.append(held);
            }
            out.extend_from_slice(bytes);
            if !self.is_begun {
                self.note(bytes);
            }
            self.is_begun |= !bytes.is_empty();
            if complete {
                self.pop(out);
                self.flush(out);
            }
            return;
        }
        self.held += bytes.len();
        held.extend_from_slice(bytes);
        if complete {
            let held = std::mem::take(held);
            *slot = QueuedReply::Ready(held);
        }
    }

    /// What goes out begins with this.
    #[inline]
    fn note(&mut self, bytes: &[u8]) {
        if bytes.first() == Some(&b'-') {
            self.failed.push(self.first);
        }
    }

    /// Commands whose replies have gone out and are errors, since this was taken.
    pub fn failed(&self) -> &[Sequence] {
        &self.failed
    }

    /// Takes [`ReplyQueue::failed`].
    pub fn take_failed(&mut self) -> Vec<Sequence> {
        std::mem::take(&mut self.failed)
    }

    /// A whole reply in the place of one of which something may have come.
    pub fn replace(&mut self, sequence: Sequence, bytes: &[u8], out: &mut Vec<u8>) {
        let index = sequence.checked_sub(self.first).map(|index| index as usize);
        if let Some(QueuedReply::Waiting(held) | QueuedReply::Renamed(held, _)) =
            index.and_then(|index| self.slots.get_mut(index))
        {
            self.held -= held.len();
            held.clear();
        }
        self.reply(sequence, bytes, true, out);
    }

    /// A whole reply to one of several parts.
    pub fn part(&mut self, sequence: Sequence, part: u32, bytes: Vec<u8>, out: &mut Vec<u8>) {
        let Some(index) = sequence.checked_sub(self.first) else { return };
        let Some(slot) = self.slots.get_mut(index as usize) else { return };
        let merge = match slot {
            QueuedReply::Parts(merge) => merge,
            QueuedReply::Mute(_) => return self.unheard(index as usize, out),
            QueuedReply::Waiting(_) | QueuedReply::Renamed(..) | QueuedReply::Ready(_) => return,
        };
        let Some(reply) = merge.part(part as usize, bytes) else { return };
        self.held += reply.len();
        *slot = QueuedReply::Ready(reply);
        self.flush(out);
    }

    fn unheard(&mut self, index: usize, out: &mut Vec<u8>) {
        let Some(slot) = self.slots.get_mut(index) else { return };
        match slot {
            QueuedReply::Mute(left) if *left > 1 => *left -= 1,
            _ => *slot = QueuedReply::Ready(Vec::new()),
        }
        self.flush(out);
    }

    /// True if bytes of this reply have gone out, so that nothing else can take its place.
    pub fn has_begun(&self, sequence: Sequence) -> bool {
        self.is_begun && sequence == self.first
    }

    #[inline]
    fn pop(&mut self, out: &mut Vec<u8>) {
        self.slots.pop_front();
        self.first += 1;
        self.is_begun = false;
        if !self.pushes.is_empty() {
            out.append(&mut self.pushes);
        }
    }

    fn flush(&mut self, out: &mut Vec<u8>) {
        while let Some(slot) = self.slots.front_mut() {
            let is_whole = matches!(slot, QueuedReply::Ready(_));
            // Of one that somebody is to answer, the beginning can go out.
            let (QueuedReply::Ready(bytes) | QueuedReply::Waiting(bytes)) = slot else { return };
            if !bytes.is_empty() {
                let mut bytes = std::mem::take(bytes);
                self.held -= bytes.len();
                self.note(&bytes);
                self.is_begun = true;
                out.append(&mut bytes);
            }
            if !is_whole {
                return;
            }
            self.pop(out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_go_out_in_the_order_of_the_commands() {
        let (mut queue, mut out) = (ReplyQueue::default(), Vec::new());
        let (first, second) = (queue.expect(false), queue.expect(false));
        queue.answered(b"+3\r\n", &mut out);
        let fourth = queue.expect(false);
        queue.reply(fourth, b"+4", false, &mut out);
        queue.reply(second, b"+2\r\n", true, &mut out);
        assert!(out.is_empty());
        queue.reply(first, b"+1", false, &mut out);
        assert_eq!(out, b"+1");
        queue.reply(first, b"\r\n", true, &mut out);
        assert_eq!(out, b"+1\r\n+2\r\n+3\r\n+4");
        queue.reply(fourth, b"\r\n", true, &mut out);
        queue.answered(b"+5\r\n", &mut out);
        assert_eq!(out, b"+1\r\n+2\r\n+3\r\n+4\r\n+5\r\n");
        assert!(queue.is_empty() && queue.held() == 0);
        // Nobody waits for these any more.
        queue.reply(first, b"+1\r\n", true, &mut out);
        assert_eq!(out.len(), 20);
    }

    #[test]
    fn pushes_come_between_replies() {
        let (mut queue, mut out) = (ReplyQueue::default(), Vec::new());
        queue.push(b">0\r\n", &mut out);
        let (first, second) = (queue.expect(false), queue.expect(false));
        queue.push(b">1\r\n", &mut out);
        queue.reply(first, b"$1\r\n", false, &mut out);
        queue.push(b">2\r\n", &mut out);
        assert_eq!((out.as_slice(), queue.held()), (&b">0\r\n>1\r\n$1\r\n"[..], 4));
        out.clear();
        queue.reply(second, b"$1\r\n", false, &mut out);
        queue.reply(first, b"x\r\n", true, &mut out);
        queue.push(b">3\r\n", &mut out);
        queue.reply(second, b"y\r\n", true, &mut out);
        assert_eq!(out, b"x\r\n>2\r\n$1\r\ny\r\n>3\r\n");
        assert!(queue.is_empty() && queue.held() == 0);
    }

    #[test]
    fn a_mute_command_has_its_place_and_no_reply() {
        let (mut queue, mut out) = (ReplyQueue::default(), Vec::new());
        let (first, second, third) = (queue.expect(false), queue.expect(true), queue.expect(false));
        queue.reply(third, b"+3\r\n", true, &mut out);
        queue.reply(second, b"$9\r\n", false, &mut out);
        queue.reply(first, b"+1\r\n", true, &mut out);
        assert_eq!(out, b"+1\r\n");
        queue.reply(second, b"123456789\r\n", true, &mut out);
        assert_eq!(out, b"+1\r\n+3\r\n");
        assert!(queue.is_empty());
    }
}
