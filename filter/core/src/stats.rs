//! The counters of a filter.

/// A counter. [`Stat::name`] is the name under which it is exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Stat {
    /// Commands that clients sent.
    Commands,
    /// Commands refused because they can't be served correctly or safely.
    Refused,
    /// Commands refused because the client isn't logged in.
    Unauthenticated,
    /// Logins of clients that failed.
    AuthFailures,
    /// Logins at Redis, or handshakes with redis_proxy, that were refused.
    LoginFailures,
    /// Connections that weren't logged in at Redis, since they lead to another service.
    LoginsWithheld,
    /// Errors injected by a fault.
    FaultErrors,
    /// Delays injected by a fault.
    FaultDelays,
    /// Commands that went to at least one mirror as well.
    Mirrored,
    /// Connections closed because of bytes that aren't RESP.
    ProtocolErrors,
}

impl Stat {
    /// All counters, in the order of their numbers.
    pub const ALL: [Stat; 10] = [
        Stat::Commands,
        Stat::Refused,
        Stat::Unauthenticated,
        Stat::AuthFailures,
        Stat::LoginFailures,
        Stat::LoginsWithheld,
        Stat::FaultErrors,
        Stat::FaultDelays,
        Stat::Mirrored,
        Stat::ProtocolErrors,
    ];

    /// Returns the counter's name, by the conventions of Prometheus.
    pub fn name(self) -> &'static str {
        match self {
            Stat::Commands => "commands_total",
            Stat::Refused => "commands_refused_total",
            Stat::Unauthenticated => "commands_unauthenticated_total",
            Stat::AuthFailures => "client_auth_failures_total",
            Stat::LoginFailures => "upstream_login_failures_total",
            Stat::LoginsWithheld => "upstream_logins_withheld_total",
            Stat::FaultErrors => "fault_errors_total",
            Stat::FaultDelays => "fault_delays_total",
            Stat::Mirrored => "commands_mirrored_total",
            Stat::ProtocolErrors => "protocol_errors_total",
        }
    }
}

/// Increments of the counters since the host last took them.
#[derive(Clone, Debug, Default)]
pub struct Stats([u64; Stat::ALL.len()]);

impl Stats {
    /// Increments a counter by one.
    pub fn count(&mut self, stat: Stat) {
        self.0[stat as usize] += 1;
    }

    /// Increments a counter by `times`.
    pub fn add(&mut self, stat: Stat, times: u64) {
        self.0[stat as usize] += times;
    }

    /// Returns the increment of a counter.
    pub fn of(&self, stat: Stat) -> u64 {
        self.0[stat as usize]
    }

    /// Gives every increment that isn't zero to `each`, and sets it to zero.
    pub fn take(&mut self, mut each: impl FnMut(Stat, u64)) {
        for stat in Stat::ALL {
            let n = std::mem::take(&mut self.0[stat as usize]);
            if n > 0 {
                each(stat, n);
            }
        }
    }
}
