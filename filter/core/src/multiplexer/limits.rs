//! The limits of what clients may send, before they have logged in and after.

use crate::wire;

/// The limits of what clients may send.
#[derive(Debug)]
pub struct ClientLimits {
    /// Of those who may command.
    pub logged_in: wire::Limits,
    /// Of those who have to log in first. Redis has the same limits, which AUTH and HELLO stay below:
    /// whoever doesn't log in can't have much memory kept.
    pub before_login: wire::Limits,
}

impl ClientLimits {
    /// The limits of a host whose clients may send this much once they have logged in.
    pub fn new(limits: &wire::Limits) -> ClientLimits {
        let before_login = wire::Limits {
            max_arguments: limits.max_arguments.min(10),
            max_bulk_bytes: limits.max_bulk_bytes.min(16 * 1024),
            ..limits.clone()
        };
        ClientLimits { logged_in: limits.clone(), before_login }
    }
}
