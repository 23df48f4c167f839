//! What workers ask each other about their clients. Every worker that has clients has a mailbox, and
//! whoever puts something into it wakes the worker.

use crate::timer;
use redis_mesh_core::multiplexer::{Answer, ClientInquiry, InquiryId, InquiryOrigin, Multiplexer};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How many letters may wait for a worker. Clients ask for one thing at a time, so more wait only for a
/// worker that has been stuck for long.
const MAX_LETTERS: usize = 64 * 1024;

/// A question, or an answer to one.
enum Letter {
    Question(InquiryOrigin, Arc<ClientInquiry>),
    Answer(InquiryId, Answer),
}

/// The mailboxes of the workers that have clients, by the keys of their timers.
static MAILBOXES: Mutex<BTreeMap<u64, VecDeque<Letter>>> = Mutex::new(BTreeMap::new());

/// Locks the mailboxes. Every change under this lock is one call of a collection, so a panic leaves no
/// change half done. The lock isn't held while a worker is woken.
fn mailboxes() -> MutexGuard<'static, BTreeMap<u64, VecDeque<Letter>>> {
    MAILBOXES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A worker's mail.
pub struct Mail {
    /// The key of the worker's timer.
    key: u64,
    is_open: Cell<bool>,
}

impl Mail {
    /// The mail of a worker that has no clients yet; `key` is that of its timer.
    pub fn new(key: u64) -> Mail {
        Mail { key, is_open: Cell::new(false) }
    }

    /// The worker has clients from now on.
    pub fn open(&self) {
        if !self.is_open.replace(true) {
            mailboxes().insert(self.key, VecDeque::new());
        }
    }

    /// The worker has no clients any more. What others have asked so far is still answered.
    pub fn close(&self, multiplexer: &RefCell<Multiplexer>, now: Duration) {
        if self.is_open.replace(false) {
            let letters = mailboxes().remove(&self.key).unwrap_or_default();
            deliver(letters, multiplexer, now);
        }
    }

    /// True if something waits for the worker.
    pub fn is_waiting(&self) -> bool {
        mailboxes().get(&self.key).is_some_and(|letters| !letters.is_empty())
    }

    /// Hands the multiplexer what waits for the worker.
    pub fn read(&self, multiplexer: &RefCell<Multiplexer>, now: Duration) {
        let letters = mailboxes().get_mut(&self.key).map(std::mem::take).unwrap_or_default();
        deliver(letters, multiplexer, now);
    }

    /// Carries a question to all other workers, and tells how many these are.
    pub fn ask(&self, id: InquiryId, inquiry: &Arc<ClientInquiry>, multiplexer: &RefCell<Multiplexer>, now: Duration) {
        let origin = InquiryOrigin { worker: self.key, id };
        let others: Vec<u64> = mailboxes().keys().copied().filter(|key| *key != self.key).collect();
        let is_sent = |key: &&u64| put(**key, Letter::Question(origin, inquiry.clone()));
        let sent = others.iter().filter(is_sent).count();
        multiplexer.borrow_mut().desk(now).sent(id, sent);
    }
}

/// Carries an answer to the worker that has asked, unless it has no clients any more.
pub fn tell(origin: InquiryOrigin, answer: Answer) {
    put(origin.worker, Letter::Answer(origin.id, answer));
}

/// Puts a letter into a mailbox and wakes the worker. False: the worker has no clients, or is stuck.
fn put(key: u64, letter: Letter) -> bool {
    match mailboxes().get_mut(&key).filter(|letters| letters.len() < MAX_LETTERS) {
        Some(letters) => letters.push_back(letter),
        None => return false,
    }
    timer::wake(key);
    true
}

fn deliver(letters: VecDeque<Letter>, multiplexer: &RefCell<Multiplexer>, now: Duration) {
    for letter in letters {
        let mut multiplexer = multiplexer.borrow_mut();
        match letter {
            Letter::Question(origin, inquiry) => multiplexer.desk(now).asked(origin, inquiry),
            Letter::Answer(id, answer) => multiplexer.desk(now).answered(id, answer),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::standin::{self, settle};
    use crate::worker::tick;
    use std::sync::mpsc;
    use std::time::{Duration, Instant};

    /// Lets the worker of this thread do what it is woken for, until `is_done`.
    fn until(connection: &standin::StandinConnection, is_done: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut seen = 0;
        while !is_done() && Instant::now() < deadline {
            if connection.wake_ups() > seen {
                seen = connection.wake_ups();
                tick();
                settle();
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(is_done(), "nothing came");
    }

    #[test]
    fn a_client_sees_and_ends_one_of_another_worker() {
        let _end = standin::begin();
        let config = standin::listener("mail");
        let client = standin::connect("client", config);
        let (tell, hear) = mpsc::channel();
        let listener = config as usize;
        let other = std::thread::spawn(move || {
            let client = standin::connect("client", listener as *const crate::config::FilterKind);
            client.received(b"CLIENT SETNAME other\r\n");
            tell.send(()).unwrap();
            until(&client, || client.closed.get());
            standin::bury();
        });
        hear.recv().unwrap();
        client.received(b"CLIENT LIST\r\n");
        settle();
        // Clients log in at the server here, so it is asked what they may do.
        let server = standin::connections("redis_carrier").pop().unwrap();
        server.replied(b"+PONG\r\n$0\r\n\r\n");
        assert!(client.written.borrow().is_empty(), "the other worker is asked");
        until(&client, || !client.written.borrow().is_empty());
        let lines = String::from_utf8(client.written.take()).unwrap();
        assert!(lines.contains("addr=10.0.0.1:5000 laddr=10.0.0.2:6379 fd=0 name=other "), "{lines}");
        assert_eq!(lines.matches("id=").count(), 2);
        client.received(b"CLIENT KILL TYPE normal\r\n");
        server.replied(b":0\r\n");
        until(&client, || !client.written.borrow().is_empty());
        assert_eq!(client.written.take(), b":1\r\n");
        other.join().unwrap();
        client.received(b"CLIENT KILL TYPE normal\r\n");
        server.replied(b":0\r\n");
        assert_eq!(client.written.take(), b":0\r\n", "no other worker has clients");
    }
}
