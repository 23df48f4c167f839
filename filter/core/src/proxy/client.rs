//! One client: what it has said of itself, and what it waits for.

use super::carrier::Carrier;
use super::config::Config;
use super::queue::ReplyQueue;
use super::slab::Id;
use super::transaction::Transaction;
use crate::fault::Injected;
use crate::resp::request::Parser;
use std::sync::Arc;
use std::time::Duration;

/// A client.
#[derive(Debug)]
pub struct Client {
    /// Its rules.
    pub config: Arc<Config>,
    /// Where its counters are.
    pub stats: usize,
    /// The command under way.
    pub parser: Parser,
    /// Bytes that have been taken and not yet understood.
    pub buffer: Vec<u8>,
    /// It speaks RESP3.
    pub resp3: bool,
    /// It has logged in.
    pub is_authenticated: bool,
    /// The name that it gave itself.
    pub name: Vec<u8>,
    /// A transaction that it has begun.
    pub transaction: Option<Transaction>,
    /// Replies that are to come.
    pub queue: ReplyQueue,
    /// How many may be to come.
    pub window: Window,
    /// Bytes for it.
    pub out: Vec<u8>,
    /// A host knows that there are some.
    pub is_announced: bool,
    /// The connection to each target, as far as it is known.
    pub links: Vec<Option<Id<Carrier>>>,
    /// It takes nothing more at the moment.
    pub is_full: bool,
    /// It has more to say than was taken.
    pub is_stalled: bool,
    /// Nothing is taken of it before this time.
    pub until: Option<Duration>,
    /// The fault that was drawn for the command that waits.
    pub drawn: Option<Option<Injected>>,
    /// A connection that takes nothing more at the moment, and to which its next command goes.
    pub waits_for: Option<Id<Carrier>>,
    /// It is about to be closed.
    pub is_closing: bool,
    /// A host knows that.
    pub is_closed: bool,
}

/// How many commands of a client may be under way: more and more, but no more than make a megabyte of replies of the size
/// that it gets. What is under way can't be stopped when the client doesn't read.
#[derive(Debug)]
pub struct Window {
    open: usize,
    /// The size of replies, as a moving average.
    size: usize,
    /// Bytes of the one that is coming.
    coming: usize,
}

impl Default for Window {
    fn default() -> Window {
        Window { open: 16, size: 0, coming: 0 }
    }
}

impl Window {
    /// Bytes of a reply have come, perhaps its last ones.
    pub fn count(&mut self, bytes: usize, is_complete: bool) {
        self.coming += bytes;
        if is_complete {
            let size = std::mem::take(&mut self.coming);
            self.size = (7 * self.size + size).div_ceil(8);
            self.open = (self.open + 1).min(WINDOW).min((REPLIES / self.size.max(1)).max(1));
        }
    }
}

/// Commands of one client that may be under way.
const WINDOW: usize = 1024;
/// Bytes of replies that these may make.
const REPLIES: usize = 1024 * 1024;
/// Bytes of replies that may wait for others.
const HELD: usize = 1024 * 1024;

impl Client {
    /// One that has just come.
    pub fn new(config: Arc<Config>, stats: usize) -> Client {
        Client {
            links: vec![None; config.targets.len()],
            config,
            stats,
            parser: Parser::default(),
            buffer: Vec::new(),
            resp3: false,
            is_authenticated: false,
            name: Vec::new(),
            transaction: None,
            queue: ReplyQueue::default(),
            window: Window::default(),
            out: Vec::new(),
            is_announced: false,
            is_full: false,
            is_stalled: false,
            until: None,
            drawn: None,
            waits_for: None,
            is_closing: false,
            is_closed: false,
        }
    }

    /// True if another command may be taken of it.
    pub fn may_go_on(&self) -> bool {
        !self.is_closing
            && !self.is_full
            && self.until.is_none()
            && self.waits_for.is_none()
            && self.queue.len() < self.window.open
            && self.queue.held() < HELD
    }

    /// True if it may ask for anything.
    pub fn may_command(&self) -> bool {
        self.is_authenticated || self.config.client_auth.is_none()
    }
}
