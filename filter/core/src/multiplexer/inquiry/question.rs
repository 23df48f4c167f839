//! What a worker asks all workers of its process, itself among them, about their clients.

use std::net::SocketAddr;

/// Names a question among those of the worker that asks it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct InquiryId(pub u64);

/// Whom a worker answers: another worker, by the host's number of that, and its question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InquiryOrigin {
    /// The host's number of the worker that asks.
    pub worker: u64,
    /// Its question.
    pub id: InquiryId,
}

/// A question about clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientInquiry {
    /// The clients that it may be about. To whoever asks there are no others.
    pub scope: InquiryScope,
    /// What is asked.
    pub question: ClientQuestion,
}

/// The clients of one host that the servers take for one user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InquiryScope {
    /// The host.
    pub host: String,
    /// The user as whom they have logged in at the servers; `None`: as nobody, or with the login of
    /// the configuration.
    pub user: Option<Vec<u8>>,
}

/// What is asked about clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientQuestion {
    /// The lines of CLIENT LIST.
    List(ClientFilter),
    /// Their connections are closed.
    Kill(ClientFilter, KillForm),
    /// The client of this number is to wait no longer at a server.
    Unblock(u64, UnblockReason),
}

/// What a command that no longer waits is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnblockReason {
    /// As if its time were over.
    Timeout,
    /// An error.
    Error,
}

/// How CLIENT KILL was written, by which its reply differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KillForm {
    /// An address alone.
    Address,
    /// Filters.
    Filters,
}

/// Which clients of a scope are meant: those that meet all of what is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientFilter {
    /// The numbers that are named, in their order.
    pub numbers: Option<NumberList>,
    /// The kind.
    pub kind: Option<ClientKind>,
    /// The address from which the client has connected.
    pub remote: Option<SocketAddr>,
    /// The address to which it has connected.
    pub local: Option<SocketAddr>,
    /// For how many seconds it has been connected at least.
    pub age: Option<u64>,
    /// The number of a client that isn't meant.
    pub except: Option<u64>,
    /// The clients of another user are meant.
    pub is_of_others: bool,
}

/// The kinds of clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientKind {
    /// It has no subscription.
    Normal,
    /// It has subscriptions.
    PubSub,
    /// It is a replica or a master, as no client of a proxy is.
    Replication,
}

/// Numbers of clients.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NumberList {
    named: Vec<u64>,
    sorted: Vec<u64>,
}

impl NumberList {
    /// The numbers in the order in which they were named.
    pub fn new(named: Vec<u64>) -> NumberList {
        let mut sorted = named.clone();
        sorted.sort_unstable();
        sorted.dedup();
        NumberList { named, sorted }
    }

    /// True if the number is one of them.
    pub fn contains(&self, number: u64) -> bool {
        self.sorted.binary_search(&number).is_ok()
    }

    /// The numbers in their order, each once.
    pub fn sorted(&self) -> &[u64] {
        &self.sorted
    }

    /// The numbers in the order in which they were named.
    pub fn named(&self) -> &[u64] {
        &self.named
    }
}

/// What a worker answers about its clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The lines of CLIENT LIST by the clients' numbers.
    Listed(Vec<(u64, String)>),
    /// The lines would be too long.
    TooLong,
    /// So many connections are closed, or will be.
    Killed(u64),
    /// Whether the client waits no longer.
    Unblocked(bool),
    /// The error with which a server refuses to unblock it, or why it can't be asked.
    Refused(String),
}
