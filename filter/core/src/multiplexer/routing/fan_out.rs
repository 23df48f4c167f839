//! Commands without a key: which servers get them, and how the replies become one.
//!
//! Servers say both in the command's tips
//! (<https://redis.io/docs/latest/develop/reference/command-tips/>).

use crate::command::sharing::{Sharing, sharing};
use crate::command::{Args, Command, Tips};
use crate::multiplexer::config::HostConfig;
use crate::multiplexer::reply::aggregate::ResponsePolicy;
use crate::multiplexer::reply::key_names::KeyNames;
use crate::multiplexer::reply::scan_cursor::ScanPosition;
use crate::resp::encode;
use std::sync::Arc;

/// A command that goes to all servers that it concerns.
#[derive(Debug)]
pub struct FanOut {
    /// The row that rules the command.
    pub command: &'static Command,
    /// Which servers get it.
    pub policy: RequestPolicy,
    /// What kind of connection it needs.
    pub sharing: Sharing,
}

/// Which servers get a command, and what becomes of their replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestPolicy {
    /// All; their integers are added.
    Sum,
    /// All; they answer the same.
    Same,
    /// All; the least integer counts.
    Least,
    /// All; true is what is true everywhere.
    All,
    /// All; integers behind the same names are added.
    SumPairs,
    /// All; the first reply that is no error counts.
    Any,
    /// All; the elements of all arrays, each once.
    Union,
    /// All; names of keys (KEYS).
    Keys,
    /// One after the other; names of keys behind a cursor (SCAN).
    Scan,
    /// All; one of the keys (RANDOMKEY).
    Random,
    /// Any one. What INFO says of being part of a Redis Cluster is left out.
    One,
}

impl RequestPolicy {
    /// By the command's tips, and by name where a tip says no more than that it is special.
    pub fn of(command: &Command) -> RequestPolicy {
        match command.name {
            "keys" => return RequestPolicy::Keys,
            "scan" => return RequestPolicy::Scan,
            "randomkey" => return RequestPolicy::Random,
            "pubsub|channels" | "pubsub|shardchannels" => return RequestPolicy::Union,
            "pubsub|numsub" | "pubsub|shardnumsub" => return RequestPolicy::SumPairs,
            "pubsub|numpat" => return RequestPolicy::Sum,
            "client|pause" | "client|unpause" => return RequestPolicy::Same,
            // Tips say nothing of these; one server of several would be saved, loaded or swapped.
            "save" | "bgsave" | "bgrewriteaof" | "acl|load" | "swapdb" => return RequestPolicy::Same,
            // The time since when all is saved.
            "lastsave" => return RequestPolicy::Least,
            "ping" => return RequestPolicy::One,
            _ => {}
        }
        let has = |tip: Tips| command.tips.contains(tip);
        if !has(Tips::REQUEST_ALL_SHARDS) && !has(Tips::REQUEST_ALL_NODES) {
            return RequestPolicy::One;
        }
        let tips = [
            (Tips::RESPONSE_AGG_SUM, RequestPolicy::Sum),
            (Tips::RESPONSE_ALL_SUCCEEDED, RequestPolicy::Same),
            (Tips::RESPONSE_AGG_MIN, RequestPolicy::Least),
            (Tips::RESPONSE_AGG_LOGICAL_AND, RequestPolicy::All),
            (Tips::RESPONSE_ONE_SUCCEEDED, RequestPolicy::Any),
        ];
        tips.into_iter().find(|(tip, _)| has(*tip)).map_or(RequestPolicy::One, |(_, policy)| policy)
    }

    /// True if the command concerns what clients of all destinations have stored, not only one of
    /// these.
    pub fn is_for_all(self) -> bool {
        !matches!(self, RequestPolicy::One | RequestPolicy::Union | RequestPolicy::SumPairs)
    }

    /// True if names of keys come back.
    pub fn returns_key_names(self) -> bool {
        matches!(self, RequestPolicy::Keys | RequestPolicy::Scan | RequestPolicy::Random)
    }
}

impl HostConfig {
    /// The target of commands that no key decides about, such as PUBLISH: the one that takes all
    /// other keys.
    pub fn home(&self) -> Option<usize> {
        self.router.default_route().map(|route| route.target as usize).or_else(|| self.single.then_some(0))
    }
}

impl FanOut {
    /// A command about connections to several servers.
    pub fn of_clients(command: &'static Command, args: &Args<'_>) -> FanOut {
        FanOut { command, policy: RequestPolicy::of(command), sharing: sharing(command, args) }
    }

    /// The targets that get it, each once.
    pub fn targets(&self, config: &HostConfig) -> Vec<usize> {
        let home = config.home();
        if self.policy == RequestPolicy::One {
            return home.into_iter().collect();
        }
        let mut targets: Vec<usize> = Vec::new();
        for (index, target) in config.targets.iter().enumerate() {
            if !self.policy.is_for_all() && home.is_none_or(|home| config.origin(index) != home) {
                continue;
            }
            let is_new =
                |other: &usize| config.targets.get(*other).is_none_or(|other| other.upstream != target.upstream);
            // A destination that no route leads to any more is nobody's.
            if config.routes.iter().any(|route| route.target == config.origin(index)) && targets.iter().all(is_new) {
                targets.push(index);
            }
        }
        targets
    }

    /// How the replies of these targets become one. `position` is where a SCAN stands.
    pub fn response_policy(
        &self,
        config: &Arc<HostConfig>,
        targets: Vec<usize>,
        args: &Args<'_>,
        position: ScanPosition,
    ) -> ResponsePolicy {
        let names =
            |pattern: Option<Vec<u8>>| Box::new(KeyNames::new(config.clone(), targets.clone(), pattern, position));
        match self.policy {
            RequestPolicy::Sum => ResponsePolicy::Sum,
            RequestPolicy::Same => ResponsePolicy::Same,
            RequestPolicy::Least => ResponsePolicy::Least,
            RequestPolicy::All => ResponsePolicy::All,
            RequestPolicy::SumPairs => ResponsePolicy::SumPairs,
            RequestPolicy::Any => ResponsePolicy::Any,
            RequestPolicy::Union => ResponsePolicy::Union,
            RequestPolicy::Keys => ResponsePolicy::KeyNames(names(Some(args.get(1).to_vec()))),
            RequestPolicy::Scan => {
                ResponsePolicy::Scan(names(scan_pattern(args).map(|index| args.get(index).to_vec())))
            }
            RequestPolicy::Random => ResponsePolicy::Random(names(None)),
            RequestPolicy::One if self.command.name == "info" => ResponsePolicy::Standalone,
            RequestPolicy::One => ResponsePolicy::Same,
        }
    }

    /// Appends the command: where names are looked at here, it asks for all of them.
    pub fn write(&self, config: &HostConfig, args: &Args<'_>, cursor: u64, out: &mut Vec<u8>) {
        let looks_at_names = KeyNames::decide(config);
        let pattern = match self.policy {
            RequestPolicy::Keys => Some(1),
            RequestPolicy::Scan => scan_pattern(args),
            _ => None,
        };
        encode::array(out, args.count);
        for index in 0..args.count {
            if Some(index) == pattern && looks_at_names {
                encode::bulk(out, b"*");
            } else if index == 1 && self.policy == RequestPolicy::Scan {
                encode::bulk(out, cursor.to_string().as_bytes());
            } else {
                encode::bulk(out, args.get(index));
            }
        }
    }
}

/// The argument of SCAN that is the pattern.
fn scan_pattern(args: &Args<'_>) -> Option<usize> {
    let options = (2..args.count.saturating_sub(1)).step_by(2);
    options.into_iter().find(|index| args.is_word(*index, b"match")).map(|at| at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn policies_follow_from_the_tips_of_servers() {
        for (name, policy) in [
            ("dbsize", RequestPolicy::Sum),
            ("flushall", RequestPolicy::Same),
            ("wait", RequestPolicy::Least),
            ("keys", RequestPolicy::Keys),
            ("info", RequestPolicy::One),
            ("publish", RequestPolicy::One),
            ("bgsave", RequestPolicy::Same),
            ("lastsave", RequestPolicy::Least),
        ] {
            assert_eq!(RequestPolicy::of(command::lookup(name.as_bytes()).unwrap()), policy, "{name}");
        }
        let script = command::lookup(b"script").unwrap();
        let of = |name: &str| RequestPolicy::of(command::lookup_subcommand(script, name.as_bytes()).unwrap());
        assert_eq!(
            (of("exists"), of("load"), of("kill")),
            (RequestPolicy::All, RequestPolicy::Same, RequestPolicy::Any)
        );
    }
}
