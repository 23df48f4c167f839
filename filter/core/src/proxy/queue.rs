//! Replies in the order in which a client asked, whoever answers first.

use super::split::Merge;
use std::collections::VecDeque;

/// The number of a command of a client.
pub type Sequence = u64;

#[derive(Debug)]
enum Slot {
    /// Somebody is to answer it. What has come so far, unless it could go out at once.
    Waiting(Vec<u8>),
    /// Several are to answer it.
    Parts(Box<Merge>),
    /// Its reply waits for those before it.
    Ready(Vec<u8>),
}

/// Commands that have been taken and not yet answered.
#[derive(Debug, Default)]
pub struct ReplyQueue {
    slots: VecDeque<Slot>,
    /// The number of the first of them.
    first: Sequence,
    /// Bytes of replies that wait.
    held: usize,
}

impl ReplyQueue {
    /// How many wait for an answer.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// True if none does.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Bytes of replies that wait for others.
    pub fn held(&self) -> usize {
        self.held
    }

    /// A command that somebody is to answer.
    pub fn expect(&mut self) -> Sequence {
        self.slots.push_back(Slot::Waiting(Vec::new()));
        self.first + self.slots.len() as u64 - 1
    }

    /// A command that several are to answer.
    pub fn expect_parts(&mut self, merge: Merge) -> Sequence {
        self.slots.push_back(Slot::Parts(Box::new(merge)));
        self.first + self.slots.len() as u64 - 1
    }

    /// A command that is answered already.
    pub fn answered(&mut self, reply: &[u8], out: &mut Vec<u8>) {
        if self.slots.is_empty() {
            self.first += 1;
            out.extend_from_slice(reply);
        } else {
            self.held += reply.len();
            self.slots.push_back(Slot::Ready(reply.to_vec()));
        }
    }

    /// Bytes of a reply; `complete` with its last ones. What can go out is appended to `out`.
    pub fn reply(&mut self, sequence: Sequence, bytes: &[u8], complete: bool, out: &mut Vec<u8>) {
        let Some(index) = sequence.checked_sub(self.first) else { return };
        let Some(slot) = self.slots.get_mut(index as usize) else { return };
        let Slot::Waiting(held) = slot else { return };
        if index == 0 {
            self.held -= held.len();
            out.append(held);
            out.extend_from_slice(bytes);
            if complete {
                self.pop();
                self.flush(out);
            }
            return;
        }
        self.held += bytes.len();
        held.extend_from_slice(bytes);
        if complete {
            let held = std::mem::take(held);
            *slot = Slot::Ready(held);
        }
    }

    /// A whole reply in the place of one of which something may have come.
    pub fn replace(&mut self, sequence: Sequence, bytes: &[u8], out: &mut Vec<u8>) {
        let index = sequence.checked_sub(self.first).map(|index| index as usize);
        if let Some(Slot::Waiting(held)) = index.and_then(|index| self.slots.get_mut(index)) {
            self.held -= held.len();
            held.clear();
        }
        self.reply(sequence, bytes, true, out);
    }

    /// A whole reply to one of several parts.
    pub fn part(&mut self, sequence: Sequence, part: usize, bytes: Vec<u8>, out: &mut Vec<u8>) {
        let Some(index) = sequence.checked_sub(self.first) else { return };
        let Some(slot) = self.slots.get_mut(index as usize) else { return };
        let Slot::Parts(merge) = slot else { return };
        let Some(reply) = merge.part(part, bytes) else { return };
        self.held += reply.len();
        *slot = Slot::Ready(reply);
        self.flush(out);
    }

    /// True if bytes of this reply have gone out, so that nothing else can take its place.
    pub fn has_begun(&self, sequence: Sequence, is_open: bool) -> bool {
        is_open && sequence == self.first
    }

    fn pop(&mut self) {
        self.slots.pop_front();
        self.first += 1;
    }

    fn flush(&mut self, out: &mut Vec<u8>) {
        while let Some(slot) = self.slots.front_mut() {
            match slot {
                Slot::Ready(reply) => {
                    self.held -= reply.len();
                    out.append(reply);
                    self.pop();
                }
                // Its beginning can go out.
                Slot::Waiting(held) => {
                    self.held -= held.len();
                    out.append(held);
                    return;
                }
                Slot::Parts(_) => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_go_out_in_the_order_of_the_commands() {
        let (mut queue, mut out) = (ReplyQueue::default(), Vec::new());
        let (first, second) = (queue.expect(), queue.expect());
        queue.answered(b"+3\r\n", &mut out);
        let fourth = queue.expect();
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
}
