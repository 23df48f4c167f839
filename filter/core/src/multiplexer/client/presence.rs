//! What a client is to others: its number, its addresses, and since when it is there.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The next number for CLIENT ID. No connection of a server has one that large, so a client that ends
/// connections by number never ends a stranger's; and it is exact where numbers are doubles.
static NEXT_NUMBER: AtomicU64 = AtomicU64::new(1 << 52);

/// What CLIENT LIST tells of a client beside its session.
#[derive(Debug)]
pub struct Presence {
    /// What CLIENT ID answers: no other client of this process has had it.
    pub number: u64,
    /// The address from which it has connected, if the host tells it.
    pub remote: Option<SocketAddr>,
    /// The address to which it has connected, if the host tells it.
    pub local: Option<SocketAddr>,
    /// When it connected.
    pub since: Duration,
    /// When it was heard last.
    pub heard: Duration,
    /// The name of its last command in lower case.
    pub command: &'static str,
}

impl Presence {
    /// A client that has just connected.
    pub fn new() -> Presence {
        Presence {
            number: NEXT_NUMBER.fetch_add(1, Ordering::Relaxed),
            remote: None,
            local: None,
            since: Duration::ZERO,
            heard: Duration::ZERO,
            command: "NULL",
        }
    }
}
