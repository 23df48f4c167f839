//! One client: what it has said of itself, and what it waits for.

pub(in crate::multiplexer) mod reply_queue;
pub(in crate::multiplexer) mod subscription;
pub(in crate::multiplexer) mod transaction;

use crate::fault::Injected;
use crate::multiplexer::client::reply_queue::{ReplyQueue, Sequence};
use crate::multiplexer::client::subscription::Subscriptions;
use crate::multiplexer::client::transaction::Transaction;
use crate::multiplexer::config::HostConfig;
use crate::multiplexer::execute::login::PresentedLogin;
use crate::multiplexer::routing::target::RouteTarget;
use crate::multiplexer::slot_map::Id;
use crate::multiplexer::stats::{CommandRun, LatencyTracker, StatsEntry};
use crate::multiplexer::upstream::connection::UpstreamConnection;
use crate::resp::request::Parser;
use std::sync::Arc;
use std::time::Duration;

/// A client.
#[derive(Debug)]
pub struct Client {
    /// Its rules.
    pub config: Arc<HostConfig>,
    /// Where its counters are.
    pub(in crate::multiplexer) host: Id<StatsEntry>,
    /// What it has sent and nobody was told of.
    pub(in crate::multiplexer) run: CommandRun,
    /// When its commands were read; absent where nobody asks.
    pub(in crate::multiplexer) watch: Option<Box<LatencyTracker>>,
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
    /// The database that it has selected.
    pub database: u32,
    /// The database that it selects if no server objects.
    pub selecting: Option<u32>,
    /// What it has logged in with at the servers.
    pub login: Option<Arc<[u8]>>,
    /// What it wants to log in with.
    pub presented: Option<PresentedLogin>,
    /// What it hears of its commands (CLIENT REPLY).
    pub hearing: ReplyMode,
    /// A transaction that it has begun.
    pub transaction: Option<Transaction>,
    /// Replies that are to come.
    pub queue: ReplyQueue,
    /// RequestPolicy many may be to come.
    pub window: Window,
    /// Bytes for it.
    pub out: Vec<u8>,
    /// A host knows that there are some.
    pub is_announced: bool,
    /// RequestPolicy each target is reached, as far as it is known.
    pub links: Vec<Link>,
    /// A connection of its own.
    pub own: Option<Dedicated>,
    /// The connection on which it watched keys was lost, so that they may have changed unseen.
    pub lost_watch: bool,
    /// What it has subscribed to.
    pub subscriptions: Subscriptions,
    /// The end of its queue when it last began or ended a subscription.
    pub subscribed: Sequence,
    /// It is told of all commands (MONITOR).
    pub is_monitor: bool,
    /// It takes nothing more at the moment.
    pub is_full: bool,
    /// It has more to say than was taken.
    pub is_stalled: bool,
    /// Nothing is taken of it before this time.
    pub until: Option<Duration>,
    /// The fault that was drawn for the command that waits.
    pub drawn: Option<Option<Injected>>,
    /// What its next command waits for.
    pub waits_for: Option<Wait>,
    /// Bytes of pushes since it takes nothing more.
    pub unread: usize,
    /// There was more to say than was taken when it was listened to last, or than could be done.
    pub has_more: bool,
    /// It says nothing more than that.
    pub is_ended: bool,
    /// It is about to be closed.
    pub is_closing: bool,
    /// A host knows that.
    pub is_closed: bool,
}

/// What a client hears of its commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyMode {
    /// Everything.
    On,
    /// Nothing of the next one.
    Skip,
    /// Nothing of this one, and then everything.
    Skipping,
    /// Nothing.
    Off,
}

/// RequestPolicy a target is reached.
#[derive(Clone, Copy, Debug)]
pub enum Link {
    /// That isn't known yet.
    Unknown,
    /// Over this connection.
    UpstreamConnection(Id<UpstreamConnection>),
    /// It is the Redis Cluster of this number.
    Cluster(usize),
}

/// What a command waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// That this connection takes something.
    UpstreamConnection(Id<UpstreamConnection>),
    /// That the nodes of this Redis Cluster are known.
    Cluster(usize),
    /// That all commands before it are answered. So nothing overtakes what goes over another connection.
    Answers,
    /// That those before this one are answered.
    AnswersBefore(Sequence),
}

/// A connection of a client's own.
#[derive(Clone, Copy, Debug)]
pub struct Dedicated {
    /// It.
    pub carrier: Id<UpstreamConnection>,
    /// For which place it was opened.
    pub place: RouteTarget,
    /// The client watches keys over it.
    pub is_watching: bool,
    /// The client has changed its state for good (CLIENT TRACKING), so that all commands go over it.
    pub is_special: bool,
}

impl Dedicated {
    /// True if the client's commands for that place go over it.
    pub fn is_held(&self) -> bool {
        self.is_watching || self.is_special
    }
}

/// RequestPolicy many commands of a client may be under way: more and more, but no more than make a megabyte of replies of the size
/// that it gets. What is under way can't be stopped when the client doesn't read.
#[derive(Debug)]
pub struct Window {
    open: usize,
    /// As many as may ever be, with replies of that size.
    most: usize,
    /// The size of replies, as a moving average.
    size: usize,
    /// Bytes of the one that is coming.
    coming: usize,
}

impl Default for Window {
    fn default() -> Window {
        Window { open: 16, most: WINDOW, size: 0, coming: 0 }
    }
}

impl Window {
    /// Bytes of a reply have come, perhaps its last ones.
    #[inline]
    pub fn count(&mut self, bytes: usize, is_complete: bool) {
        self.coming += bytes;
        if is_complete {
            let size = std::mem::take(&mut self.coming);
            if size != self.size {
                self.size = (7 * self.size + size).div_ceil(8);
                self.most = (REPLIES / self.size.max(1)).clamp(1, WINDOW);
            }
            self.open = (self.open + 1).min(self.most);
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
    pub(in crate::multiplexer) fn new(config: Arc<HostConfig>, host: Id<StatsEntry>) -> Client {
        let mut client = Client {
            links: vec![Link::Unknown; config.targets.len()],
            own: None,
            lost_watch: false,
            subscriptions: Subscriptions::default(),
            subscribed: 0,
            is_monitor: false,
            config,
            host,
            run: CommandRun::default(),
            watch: None,
            parser: Parser::default(),
            buffer: Vec::new(),
            resp3: false,
            is_authenticated: false,
            name: Vec::new(),
            database: 0,
            selecting: None,
            login: None,
            presented: None,
            hearing: ReplyMode::On,
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
            unread: 0,
            has_more: false,
            is_ended: false,
            is_closing: false,
            is_closed: false,
        };
        client.follow_watch();
        client
    }

    /// Begins or ends to look how long its commands take, as its rules say.
    pub fn follow_watch(&mut self) {
        if self.config.command_stats != self.watch.is_some() {
            self.watch = self.config.command_stats.then(Box::default);
        }
    }

    /// True if another command may be taken of it.
    #[inline]
    pub fn may_go_on(&self) -> bool {
        !self.is_closing
            && !self.is_full
            && self.until.is_none()
            && !self.is_waiting()
            && self.queue.len() < self.window.open
            && self.queue.held() < HELD
    }

    fn is_waiting(&self) -> bool {
        match self.waits_for {
            None => false,
            Some(Wait::UpstreamConnection(_) | Wait::Cluster(_)) => true,
            Some(Wait::Answers) => !self.queue.is_empty(),
            Some(Wait::AnswersBefore(sequence)) => self.queue.next() < sequence,
        }
    }

    /// True if it hears nothing of the command under way.
    pub fn is_mute(&self) -> bool {
        self.hearing != ReplyMode::On
    }

    /// True if it has subscribed to something by RESP2, so that it may do little else.
    pub fn is_subscriber(&self) -> bool {
        !self.resp3 && !self.subscriptions.is_empty()
    }

    /// True if what it is to be answered are subscriptions that begin or end, and nothing else.
    pub fn is_subscribing(&self) -> bool {
        !self.queue.is_empty() && self.queue.end() == self.subscribed
    }

    /// Forgets how targets are reached.
    pub fn unlink(&mut self) {
        self.links = vec![Link::Unknown; self.config.targets.len()];
    }

    /// True if it may ask for anything.
    pub fn may_command(&self) -> bool {
        self.is_authenticated || self.config.client_auth.is_none()
    }
}
