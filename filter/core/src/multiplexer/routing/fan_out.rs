//! Commands without a key: which of those behind get them, and how their answers become one.

use crate::command::Args;
use crate::command::script;
use crate::command::{Command, Tips};
use crate::multiplexer::client::Client;
use crate::multiplexer::config::HostConfig;
use crate::multiplexer::reply::aggregate::{Aggregation, ResponsePolicy};
use crate::multiplexer::reply::key_names::{KeyNames, cursor};
use crate::multiplexer::routing::decide::{Decision, Over, shown};
use crate::multiplexer::routing::target::{self, RouteTarget};
use crate::multiplexer::upstream::connection::{InFlight, PendingReply};
use crate::multiplexer::upstream::pool::Missing;
use crate::multiplexer::{ClientId, ConnectionId, Multiplexer, Step};
use crate::resp::encode;
use std::time::Duration;

/// A command that concerns all that stands behind.
#[derive(Debug)]
pub(in crate::multiplexer) struct FanOut {
    command: &'static Command,
    how: RequestPolicy,
}

/// RequestPolicy answers become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RequestPolicy {
    Sum,
    Same,
    Least,
    All,
    SumPairs,
    Any,
    Union,
    Keys,
    Scan,
    Random,
    /// One after the other.
    Text,
    /// One is asked, whichever. What it says of being part of a Redis Cluster is left out.
    One,
}

impl RequestPolicy {
    /// By what servers hint to proxies, and by name where a hint says no more than that it is special.
    fn of(command: &Command) -> RequestPolicy {
        match command.name {
            "keys" => return RequestPolicy::Keys,
            "scan" => return RequestPolicy::Scan,
            "randomkey" => return RequestPolicy::Random,
            "pubsub|channels" | "pubsub|shardchannels" => return RequestPolicy::Union,
            "pubsub|numsub" | "pubsub|shardnumsub" => return RequestPolicy::SumPairs,
            "pubsub|numpat" => return RequestPolicy::Sum,
            "client|list" => return RequestPolicy::Text,
            "client|pause" | "client|unpause" => return RequestPolicy::Same,
            // In a transaction; otherwise it is answered here.
            "ping" => return RequestPolicy::One,
            _ => {}
        }
        let has = |tip: Tips| command.tips.contains(tip);
        if !has(Tips::REQUEST_ALL_SHARDS) && !has(Tips::REQUEST_ALL_NODES) {
            return RequestPolicy::One;
        }
        let hints = [
            (Tips::RESPONSE_AGG_SUM, RequestPolicy::Sum),
            (Tips::RESPONSE_ALL_SUCCEEDED, RequestPolicy::Same),
            (Tips::RESPONSE_AGG_MIN, RequestPolicy::Least),
            (Tips::RESPONSE_AGG_LOGICAL_AND, RequestPolicy::All),
            (Tips::RESPONSE_ONE_SUCCEEDED, RequestPolicy::Any),
        ];
        hints.into_iter().find(|(tip, _)| has(*tip)).map_or(RequestPolicy::One, |(_, how)| how)
    }

    /// True if it concerns what clients of all destinations have stored, not only one of these.
    fn is_for_all(self) -> bool {
        !matches!(self, RequestPolicy::One | RequestPolicy::Union | RequestPolicy::SumPairs)
    }
}

impl HostConfig {
    /// The target of commands that no key decides about, such as PUBLISH: the one that takes all other keys.
    pub fn home(&self) -> Option<usize> {
        let of_any = || self.routes.get(self.router.any()? as usize).map(|route| route.target);
        of_any().or_else(|| self.single.then_some(0))
    }
}

/// What becomes of a command without a key.
pub(in crate::multiplexer) fn keyless(client: &Client, command: &'static Command, args: &Args<'_>) -> Decision {
    let config = &client.config;
    let how = RequestPolicy::of(command);
    let names =
        matches!(how, RequestPolicy::Keys | RequestPolicy::Scan | RequestPolicy::Random) && KeyNames::decide(config);
    if names && how != RequestPolicy::Keys && client.transaction.is_some() {
        return Decision::Refuse(format!("ERR redis-mesh: {} isn't served inside a transaction here", shown(command)));
    }
    let home = config.home();
    let is_cluster = |target: usize| config.is_cluster(target);
    if let Some(target) = home
        && !is_cluster(target)
        && !names
        && (config.single || !how.is_for_all())
    {
        let route = config.router.any().map(|any| any as usize);
        let place = RouteTarget { target, slot: None };
        return Decision::Forward { place, route, edits: Vec::new(), over: Over::Shared };
    }
    if home.is_none() && !how.is_for_all() {
        return Decision::Refuse(format!(
            "ERR redis-mesh: {} has no key, and none of the destinations served here is the one for all other keys",
            shown(command)
        ));
    }
    if how == RequestPolicy::Scan && cursor(args.get(1)).is_none() {
        return Decision::Deny("ERR invalid cursor".into());
    }
    Decision::FanOut(FanOut { command, how })
}

impl FanOut {
    /// CLIENT KILL: connections to several servers.
    pub(in crate::multiplexer) fn kill(command: &'static Command, args: &Args<'_>) -> FanOut {
        // An address alone is of one connection.
        FanOut { command, how: if args.count == 3 { RequestPolicy::Any } else { RequestPolicy::Sum } }
    }

    /// A command about connections to several servers.
    pub(in crate::multiplexer) fn of_clients(command: &'static Command) -> FanOut {
        FanOut { command, how: RequestPolicy::of(command) }
    }

    /// What becomes of it in a transaction, which goes to one place.
    pub(in crate::multiplexer) fn anywhere(&self, client: &Client) -> Decision {
        match (self.how.is_for_all(), client.config.home()) {
            (false, Some(target)) => Decision::Forward {
                place: RouteTarget { target, slot: None },
                route: None,
                edits: Vec::new(),
                over: Over::Shared,
            },
            _ => Decision::Refuse(format!(
                "ERR redis-mesh: {} concerns several servers here, and a transaction goes to one",
                shown(self.command)
            )),
        }
    }

    /// Whom it goes to: destinations, each once.
    fn targets(&self, config: &HostConfig) -> Vec<usize> {
        if !self.how.is_for_all() {
            return config.home().into_iter().collect();
        }
        let mut targets: Vec<usize> = Vec::new();
        for (index, target) in config.targets.iter().enumerate() {
            let is_new =
                |other: &usize| config.targets.get(*other).is_none_or(|other| other.upstream != target.upstream);
            // A destination that no route leads to any more is nobody's.
            if config.routes.iter().any(|route| route.target == index) && targets.iter().all(is_new) {
                targets.push(index);
            }
        }
        targets
    }

    fn combine(
        &self,
        config: &std::sync::Arc<HostConfig>,
        targets: Vec<usize>,
        args: &Args<'_>,
        leg: (u64, u64),
    ) -> ResponsePolicy {
        let names = |pattern: Option<Vec<u8>>| Box::new(KeyNames::new(config.clone(), targets.clone(), pattern, leg));
        match self.how {
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
            RequestPolicy::Text => ResponsePolicy::Text,
            RequestPolicy::One => ResponsePolicy::Standalone,
        }
    }

    /// What is asked: where names are looked at here, all of them.
    fn write(&self, config: &HostConfig, args: &Args<'_>, cursor: u64, out: &mut Vec<u8>) {
        let renames = KeyNames::decide(config);
        let pattern = match self.how {
            RequestPolicy::Keys => Some(1),
            RequestPolicy::Scan => scan_pattern(args),
            _ => None,
        };
        encode::array(out, args.count);
        for index in 0..args.count {
            if Some(index) == pattern && renames {
                encode::bulk(out, b"*");
            } else if index == 1 && self.how == RequestPolicy::Scan {
                encode::bulk(out, cursor.to_string().as_bytes());
            } else {
                encode::bulk(out, args.get(index));
            }
        }
    }
}

/// Which argument of SCAN is the pattern.
fn scan_pattern(args: &Args<'_>) -> Option<usize> {
    (2..args.count.saturating_sub(1))
        .step_by(2)
        .find(|index| args.get(*index).eq_ignore_ascii_case(b"match"))
        .map(|at| at + 1)
}

impl Multiplexer {
    /// Sends a command to all whom it concerns.
    pub(in crate::multiplexer) fn gather(
        &mut self,
        id: ClientId,
        client: &mut Client,
        gather: &FanOut,
        args: &Args<'_>,
        now: Duration,
    ) -> Result<Step, Missing> {
        let config = client.config.clone();
        let mut legs: Vec<(usize, Option<usize>)> = Vec::new();
        for target in gather.targets(&config) {
            match self.shards(client, target, now)? {
                None => legs.push((target, None)),
                Some(shards) if gather.how == RequestPolicy::One => {
                    legs.extend((shards > 0).then_some((target, Some(0))))
                }
                Some(shards) => legs.extend((0..shards).map(|shard| (target, Some(shard)))),
            }
        }
        let (mut asked, mut leg) = (0, (0, 0));
        if gather.how == RequestPolicy::Scan {
            let Some((next, cursor)) = cursor(args.get(1)) else { return Ok(Step::Taken) };
            leg = (next, legs.len() as u64);
            asked = cursor;
            // Fewer than when the cursor was given: there is nothing more to be found.
            let Some(one) = legs.get(next as usize).copied() else {
                client.answer(b"*2\r\n$1\r\n0\r\n*0\r\n");
                return Ok(Step::Taken);
            };
            legs = vec![one];
        }
        let mut links: Vec<ConnectionId> = Vec::with_capacity(legs.len());
        for (target, shard) in &legs {
            let link = self.link_to(client, *target, *shard, now)?;
            if self.is_full(link) {
                return Err(Missing::Wait(crate::multiplexer::client::Wait::UpstreamConnection(link)));
            }
            links.push(link);
        }
        if legs.is_empty() {
            return Err(Missing::Error("ERR redis-mesh: no route leads anywhere".into()));
        }
        let targets: Vec<usize> = legs.iter().map(|(target, _)| *target).collect();
        let merge = Aggregation::new(gather.combine(&config, targets, args, leg), legs.len(), client.resp3);
        let sequence = client.queue.expect_parts(merge, client.is_mute());
        let script = script::named(gather.command, args);
        for (part, link) in links.into_iter().enumerate() {
            if let Some(script) = script {
                self.bring(link, script, config.op_timeout, now);
            }
            let expected = PendingReply::SubCommand(id, sequence, part as u32);
            let awaited = InFlight { names_scripts: script.is_some(), ..expected.into() };
            self.send(link, awaited, config.op_timeout, now, |out| match gather.how {
                RequestPolicy::Keys | RequestPolicy::Scan => gather.write(&config, args, asked, out),
                _ => target::write(args, &[], None, out),
            });
        }
        Ok(Step::Taken)
    }
}
