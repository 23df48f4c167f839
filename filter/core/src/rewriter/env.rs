//! What a call of the rewriter needs from outside.

use super::config::{LoginCommand, RewriterConfig, RewriterHost};
use super::login_review::LoginReview;
use crate::random::Random;
use crate::stats::Stats;
use std::time::Duration;

/// What a host lends to the rewriter for one call.
pub struct Env<'a> {
    /// The current configuration.
    pub config: &'a RewriterConfig,
    /// The managed host that the connection belongs to, of that configuration.
    pub host: &'a RewriterHost,
    /// A monotonic clock.
    pub now: Duration,
    /// Time since 1970-01-01.
    pub unix: Duration,
    /// The client has sent its last byte: whatever goes on is followed by the end of the stream.
    pub ending: bool,
    /// Randomness.
    pub random: &'a mut Random,
    /// Counters.
    pub stats: &'a mut Stats,
    /// What the login of the host may do.
    pub review: &'a mut LoginReview,
    /// The connection leads where the host's login may be sent: [`LoginCommand::is_for`].
    pub may_log_in: bool,
}

impl<'a> Env<'a> {
    /// The login of the filter's own, if the connection is to be logged in.
    pub fn login(&self) -> Option<&'a LoginCommand> {
        self.host.login.as_ref().filter(|_| self.may_log_in)
    }
}
