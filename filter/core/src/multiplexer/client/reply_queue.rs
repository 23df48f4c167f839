//! The reply queue of a client: replies leave in the order of the client's commands, whichever
//! connection answers first.

use super::held_pushes::{HeldPushes, PushOrder};
use crate::multiplexer::reply::aggregate::Aggregation;
use crate::multiplexer::reply::key_rewrite::KeyRewrite;
use std::collections::VecDeque;

/// The number of a command of one client. The first command has the number 0.
pub type Sequence = u64;

/// The number of replies for which memory is kept.
const SHRUNK: usize = 1024;

/// The reply to one command, as far as it has arrived.
#[derive(Debug)]
enum QueuedReply {
    /// One reply is outstanding. Holds the bytes that have arrived and couldn't be written yet.
    Waiting(Vec<u8>),
    /// Several replies are outstanding, which are aggregated into one.
    Parts(Box<Aggregation>),
    /// One reply is outstanding, whose keys are rewritten at its end. Holds the bytes so far.
    Renamed(Vec<u8>, Box<KeyRewrite>),
    /// The complete reply, which waits for the replies before it.
    Ready(Vec<u8>),
    /// The number of outstanding replies, all of which are discarded, since replies are turned off.
    Mute(u32),
}

/// The replies to the commands of one client that are in flight, in the order of the commands.
/// Methods that take `out` append to it the bytes that can be written to the client now.
#[derive(Debug, Default)]
pub struct ReplyQueue {
    slots: VecDeque<QueuedReply>,
    /// The number of the command in the first slot.
    first: Sequence,
    /// Bytes in all slots, but for those of parts.
    held: usize,
    /// Bytes of replies to parts of commands whose other parts are outstanding.
    parts: usize,
    /// True if a part of the first reply has been written.
    is_begun: bool,
    /// The number after that of the last command of whose reply a server has sent something.
    heard: Sequence,
    /// Pushes that wait for the end of a reply.
    pushes: HeldPushes,
    /// The numbers of the error replies that have been written, wholly or in part.
    failed: Vec<Sequence>,
}

impl ReplyQueue {
    /// Returns the number of commands in flight.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Returns true if no command is in flight.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Returns the number of the command whose reply is written next.
    pub fn next(&self) -> Sequence {
        self.first
    }

    /// Returns the number that the next command will have.
    pub fn end(&self) -> Sequence {
        self.first + self.slots.len() as u64
    }

    /// Returns the number of bytes that are buffered here behind outstanding replies.
    pub fn held(&self) -> usize {
        self.held + self.pushes.bytes()
    }

    /// Returns the same with the replies to parts of commands whose other parts are outstanding.
    pub fn held_with_parts(&self) -> usize {
        self.held() + self.parts
    }

    /// Returns the number of bytes of pushes that wait for the end of a reply.
    pub fn held_pushes(&self) -> usize {
        self.pushes.bytes()
    }

    /// Adds a command that one reply answers.
    #[inline]
    pub fn expect(&mut self, is_mute: bool) -> Sequence {
        self.add(if is_mute { QueuedReply::Mute(1) } else { QueuedReply::Waiting(Vec::new()) })
    }

    /// Adds a command that one reply answers, in which keys have to be rewritten.
    pub fn expect_rewritten(&mut self, rewrite: KeyRewrite, is_mute: bool) -> Sequence {
        self.add(if is_mute { QueuedReply::Mute(1) } else { QueuedReply::Renamed(Vec::new(), Box::new(rewrite)) })
    }

    /// Adds a command that several replies answer, one for each part of the aggregation.
    pub fn expect_parts(&mut self, aggregation: Aggregation, is_mute: bool) -> Sequence {
        self.add(if is_mute {
            QueuedReply::Mute(aggregation.parts())
        } else {
            QueuedReply::Parts(Box::new(aggregation))
        })
    }

    fn add(&mut self, slot: QueuedReply) -> Sequence {
        self.slots.push_back(slot);
        self.end() - 1
    }

    /// Adds a command together with its complete reply.
    pub fn answered(&mut self, reply: &[u8], out: &mut Vec<u8>) {
        if self.slots.is_empty() {
            self.note_error(reply);
            self.first += 1;
            out.extend_from_slice(reply);
        } else {
            self.held += reply.len();
            self.slots.push_back(QueuedReply::Ready(reply.to_vec()));
        }
    }

    /// Takes a push (<https://redis.io/docs/latest/develop/reference/protocol-spec/#pushes>).
    pub fn push(&mut self, bytes: &[u8], order: PushOrder, out: &mut Vec<u8>) {
        let heard = self.heard.checked_sub(1).filter(|last| *last >= self.first);
        match heard {
            Some(last) if order == PushOrder::BehindHeard => self.pushes.hold(last, bytes),
            _ if self.is_begun => self.pushes.hold(self.first, bytes),
            _ => out.extend_from_slice(bytes),
        }
        if order == PushOrder::Twice && !self.slots.is_empty() {
            self.pushes.hold(self.end() - 1, bytes);
        }
    }

    /// Takes bytes of the reply to a command; `complete` says that they are the last ones. Bytes
    /// for a command that isn't in flight, or that has several parts, are ignored.
    #[inline]
    pub fn reply(&mut self, sequence: Sequence, bytes: &[u8], complete: bool, out: &mut Vec<u8>) {
        let Some(index) = sequence.checked_sub(self.first) else { return };
        let Some(slot) = self.slots.get_mut(index as usize) else { return };
        self.heard = self.heard.max(sequence + 1);
        let held = match slot {
            QueuedReply::Waiting(held) => held,
            QueuedReply::Renamed(held, rewrite) => {
                self.held += bytes.len();
                held.extend_from_slice(bytes);
                if complete {
                    let rewritten = rewrite.apply(held);
                    self.held = self.held - held.len() + rewritten.len();
                    *slot = QueuedReply::Ready(rewritten);
                    self.flush(out);
                }
                return;
            }
            QueuedReply::Mute(_) => {
                return if complete {
                    self.discard(index as usize, out)
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
                self.note_error(bytes);
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

    /// Notes that the first reply is an error, if `bytes`, its beginning, say so.
    #[inline]
    fn note_error(&mut self, bytes: &[u8]) {
        if bytes.first() == Some(&b'-') {
            self.failed.push(self.first);
        }
    }

    /// Returns the numbers of the commands whose replies were errors, written since
    /// [`ReplyQueue::take_failed`] was called last.
    pub fn failed(&self) -> &[Sequence] {
        &self.failed
    }

    /// Returns [`ReplyQueue::failed`], and forgets it.
    pub fn take_failed(&mut self) -> Vec<Sequence> {
        std::mem::take(&mut self.failed)
    }

    /// Takes a complete reply in place of one of which some bytes may have arrived, but none may
    /// have been written (see [`ReplyQueue::has_begun`]).
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

    /// Takes the complete reply to one part of a command, if that is in flight and has parts.
    pub fn part(&mut self, sequence: Sequence, part: u32, bytes: Vec<u8>, out: &mut Vec<u8>) {
        let Some(index) = sequence.checked_sub(self.first) else { return };
        let Some(slot) = self.slots.get_mut(index as usize) else { return };
        self.heard = self.heard.max(sequence + 1);
        let aggregation = match slot {
            QueuedReply::Parts(aggregation) => aggregation,
            QueuedReply::Mute(_) => return self.discard(index as usize, out),
            QueuedReply::Waiting(_) | QueuedReply::Renamed(..) | QueuedReply::Ready(_) => return,
        };
        let before = aggregation.held();
        let reply = aggregation.part(part as usize, bytes);
        self.parts = self.parts - before + aggregation.held();
        let Some(reply) = reply else { return };
        self.held += reply.len();
        *slot = QueuedReply::Ready(reply);
        self.flush(out);
    }

    /// Counts a complete reply to a mute command. The last one leaves a reply without bytes.
    fn discard(&mut self, index: usize, out: &mut Vec<u8>) {
        let Some(slot) = self.slots.get_mut(index) else { return };
        match slot {
            QueuedReply::Mute(left) if *left > 1 => *left -= 1,
            _ => *slot = QueuedReply::Ready(Vec::new()),
        }
        self.flush(out);
    }

    /// Returns true if bytes of this reply have been written, so that no other one can replace it.
    pub fn has_begun(&self, sequence: Sequence) -> bool {
        self.is_begun && sequence == self.first
    }

    /// Gives up the replies to all commands in flight.
    pub fn abandon(&mut self) {
        *self = ReplyQueue { first: self.end(), failed: std::mem::take(&mut self.failed), ..ReplyQueue::default() };
    }

    /// Gives back the memory of a long queue that has become empty.
    pub fn shrink(&mut self) {
        if self.slots.is_empty() {
            self.slots.shrink_to(SHRUNK);
        }
    }

    /// Removes the first reply, all of which has been written.
    #[inline]
    fn pop(&mut self, out: &mut Vec<u8>) {
        self.slots.pop_front();
        self.first += 1;
        self.is_begun = false;
        self.pushes.release(self.first, out);
    }

    /// Writes the complete replies at the front, and what has arrived of the one after them.
    fn flush(&mut self, out: &mut Vec<u8>) {
        while let Some(slot) = self.slots.front_mut() {
            let is_complete = matches!(slot, QueuedReply::Ready(_));
            // The beginning of a reply that nothing has to change can be written before its end.
            let (QueuedReply::Ready(bytes) | QueuedReply::Waiting(bytes)) = slot else { return };
            if !bytes.is_empty() {
                let mut bytes = std::mem::take(bytes);
                self.held -= bytes.len();
                self.note_error(&bytes);
                self.is_begun = true;
                out.append(&mut bytes);
            }
            if !is_complete {
                return;
            }
            self.pop(out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::multiplexer::reply::aggregate::ResponsePolicy;
    use crate::multiplexer::reply::key_rewrite::{ClientNames, KeyPositions};

    /// Rewrites the key `k` at the beginning of an array.
    fn rewrite() -> KeyRewrite {
        KeyRewrite::Of(KeyPositions::First, ClientNames::new(vec![(b"k".to_vec(), b"r:k".to_vec())]))
    }

    fn sum(parts: usize) -> Aggregation {
        Aggregation::new(ResponsePolicy::Sum, parts, false)
    }

    #[test]
    fn replies_leave_in_the_order_of_the_commands() {
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
        // The command isn't in flight any more.
        queue.reply(first, b"+1\r\n", true, &mut out);
        assert_eq!(out.len(), 20);
    }

    #[test]
    fn commands_are_numbered_from_zero() {
        let (mut queue, mut out) = (ReplyQueue::default(), Vec::new());
        assert_eq!((queue.len(), queue.next(), queue.end()), (0, 0, 0));
        queue.answered(b"+0\r\n", &mut out);
        assert_eq!((queue.len(), queue.next(), queue.end()), (0, 1, 1));
        assert_eq!((queue.expect(false), queue.expect(true)), (1, 2));
        queue.answered(b"+3\r\n", &mut out);
        assert_eq!((queue.len(), queue.next(), queue.end()), (3, 1, 4));
        queue.reply(1, b"+1\r\n", true, &mut out);
        assert_eq!((queue.len(), queue.next(), queue.end()), (2, 2, 4));
        // A number that hasn't been given yet.
        queue.reply(4, b"+4\r\n", true, &mut out);
        assert_eq!((queue.len(), queue.held()), (2, 4));
    }

    #[test]
    fn a_mute_command_has_a_number_and_no_reply() {
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

    #[test]
    fn keys_are_rewritten_when_the_reply_is_complete() {
        let (mut queue, mut out) = (ReplyQueue::default(), Vec::new());
        let (first, second, third) =
            (queue.expect_rewritten(rewrite(), false), queue.expect_rewritten(rewrite(), false), queue.expect(false));
        queue.reply(third, b"+3\r\n", true, &mut out);
        queue.reply(first, b"*2\r\n$1\r\nk", false, &mut out);
        assert_eq!((out.len(), queue.held(), queue.has_begun(first)), (0, 13, false));
        queue.reply(second, b"*2\r\n$1\r\nk\r\n$1\r\nv\r\n", true, &mut out);
        // The rewritten reply of 20 bytes waits, too.
        assert_eq!((out.len(), queue.held()), (0, 33));
        queue.reply(first, b"\r\n$1\r\nw\r\n", true, &mut out);
        assert_eq!(out, b"*2\r\n$3\r\nr:k\r\n$1\r\nw\r\n*2\r\n$3\r\nr:k\r\n$1\r\nv\r\n+3\r\n");
        assert!(queue.is_empty() && queue.held() == 0);
    }

    #[test]
    fn a_mute_command_whose_keys_would_be_rewritten_has_no_reply() {
        let (mut queue, mut out) = (ReplyQueue::default(), Vec::new());
        let first = queue.expect_rewritten(rewrite(), true);
        queue.answered(b"+2\r\n", &mut out);
        queue.reply(first, b"*1\r\n$1\r\n", false, &mut out);
        queue.reply(first, b"k\r\n", true, &mut out);
        assert_eq!((out.as_slice(), queue.len(), queue.held()), (&b"+2\r\n"[..], 0, 0));
    }

    #[test]
    fn parts_are_written_as_one_reply_in_order() {
        let (mut queue, mut out) = (ReplyQueue::default(), Vec::new());
        let (first, second) = (queue.expect(false), queue.expect_parts(sum(2), false));
        queue.answered(b"+3\r\n", &mut out);
        queue.part(second, 1, b":1\r\n".to_vec(), &mut out);
        assert_eq!(queue.held(), 4);
        queue.part(second, 0, b":2\r\n".to_vec(), &mut out);
        assert_eq!((out.len(), queue.held()), (0, 8));
        queue.reply(first, b"+1\r\n", true, &mut out);
        assert_eq!(out, b"+1\r\n:3\r\n+3\r\n");
        assert!(queue.is_empty() && queue.held() == 0);
        // The command isn't in flight any more.
        queue.part(second, 0, b":2\r\n".to_vec(), &mut out);
        assert_eq!(out.len(), 12);
    }

    #[test]
    fn a_reply_to_the_wrong_kind_of_command_is_ignored() {
        let (mut queue, mut out) = (ReplyQueue::default(), Vec::new());
        let (whole, parts) = (queue.expect(false), queue.expect_parts(sum(1), false));
        queue.part(whole, 0, b":1\r\n".to_vec(), &mut out);
        queue.reply(parts, b":1\r\n", true, &mut out);
        queue.part(parts, 1, b":1\r\n".to_vec(), &mut out);
        assert_eq!((out.len(), queue.len(), queue.held()), (0, 2, 0));
        queue.part(parts, 0, b":2\r\n".to_vec(), &mut out);
        // The reply is complete, so that no other can follow.
        queue.part(parts, 0, b":3\r\n".to_vec(), &mut out);
        queue.reply(parts, b":3\r\n", true, &mut out);
        queue.reply(whole, b"+1\r\n", true, &mut out);
        assert_eq!(out, b"+1\r\n:2\r\n");
    }

    #[test]
    fn a_mute_command_waits_for_all_its_parts() {
        let (mut queue, mut out) = (ReplyQueue::default(), Vec::new());
        let first = queue.expect_parts(sum(3), true);
        queue.answered(b"+2\r\n", &mut out);
        for part in [2, 0] {
            queue.part(first, part, b":1\r\n".to_vec(), &mut out);
            assert_eq!((out.len(), queue.len()), (0, 2));
        }
        queue.part(first, 1, b"-ERR x\r\n".to_vec(), &mut out);
        assert_eq!((out.as_slice(), queue.len()), (&b"+2\r\n"[..], 0));
        assert!(queue.failed().is_empty());
    }

    #[test]
    fn a_reply_is_replaced_until_it_has_begun() {
        let (mut queue, mut out) = (ReplyQueue::default(), Vec::new());
        let (first, second, third) =
            (queue.expect(false), queue.expect(false), queue.expect_rewritten(rewrite(), false));
        let fourth = queue.expect(true);
        queue.reply(second, b"$9\r\n12", false, &mut out);
        queue.reply(third, b"*2\r\n$1\r\nk", false, &mut out);
        assert_eq!(queue.held(), 15);
        assert!([first, second, third].iter().all(|sequence| !queue.has_begun(*sequence)));
        queue.replace(second, b"-ERR x\r\n", &mut out);
        queue.replace(third, b"-ERR yy\r\n", &mut out);
        queue.replace(fourth, b"-ERR z\r\n", &mut out);
        assert_eq!((out.len(), queue.held()), (0, 17));
        queue.reply(first, b"+", false, &mut out);
        assert!(queue.has_begun(first) && !queue.has_begun(second));
        queue.reply(first, b"1\r\n", true, &mut out);
        assert_eq!(out, b"+1\r\n-ERR x\r\n-ERR yy\r\n");
        assert_eq!((queue.is_empty(), queue.held(), queue.failed()), (true, 0, &[1, 2][..]));
        // None of them is in flight any more.
        queue.replace(second, b"-ERR x\r\n", &mut out);
        assert_eq!((out.len(), queue.has_begun(queue.next())), (21, false));
    }

    #[test]
    fn a_reply_that_waited_has_begun_when_it_is_first() {
        let (mut queue, mut out) = (ReplyQueue::default(), Vec::new());
        let (first, second) = (queue.expect(false), queue.expect(false));
        queue.reply(first, b"", false, &mut out);
        assert!(!queue.has_begun(first));
        queue.reply(second, b"+", false, &mut out);
        queue.reply(first, b"+1\r\n", true, &mut out);
        assert!(queue.has_begun(second));
        queue.reply(second, b"2\r\n", true, &mut out);
        assert_eq!(out, b"+1\r\n+2\r\n");
    }

    #[test]
    fn the_numbers_of_errors_are_noted_when_they_are_written() {
        let (mut queue, mut out) = (ReplyQueue::default(), Vec::new());
        queue.answered(b"-ERR 0\r\n", &mut out);
        let (first, second, third) = (queue.expect(false), queue.expect(false), queue.expect_parts(sum(1), false));
        queue.answered(b"-ERR 4\r\n", &mut out);
        queue.reply(second, b"-ERR 2\r\n", true, &mut out);
        queue.part(third, 0, b"-ERR 3\r\n".to_vec(), &mut out);
        assert_eq!(queue.failed(), [0]);
        queue.reply(first, b"-ERR", false, &mut out);
        // The error is noted with its first bytes, and once.
        assert_eq!(queue.take_failed(), [0, 1]);
        queue.reply(first, b"-1\r\n", true, &mut out);
        assert_eq!(queue.take_failed(), [2, 3, 4]);
        assert!(queue.failed().is_empty());
    }
}
