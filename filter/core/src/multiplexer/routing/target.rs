//! Where the keys of a command live, and the command as it is sent there.

use crate::cluster::slot::slot;
use crate::command::{Args, Command, Split};
use crate::multiplexer::config::HostConfig;
use crate::multiplexer::upstream::endpoint::UpstreamEndpoint;
use crate::request::errors::{CROSS_DESTINATION, CROSS_SERVER, CROSSSLOT};
use crate::request::keys::{KeyRefusal, KeyRules, RoutedKey, route_keys};
use crate::resp::encode;
use std::collections::HashMap;

/// A destination or one of its servers, and in a Redis Cluster a slot of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteTarget {
    /// Index into [`HostConfig::targets`].
    pub target: usize,
    /// The slot; absent outside of a cluster, and for what has no key.
    pub slot: Option<u16>,
}

/// An argument, and how many bytes are to be removed from its beginning.
pub type KeyEdit = (usize, usize);

/// A part of a command.
#[derive(Debug)]
pub struct SubCommand {
    /// Where it goes.
    pub target: RouteTarget,
    /// Its keys.
    pub keys: Vec<KeyEdit>,
}

/// Where a command goes by its keys.
#[derive(Debug)]
pub enum Routing {
    /// It has none.
    Keyless,
    /// To one target. `route` is the route of the first key.
    One { target: RouteTarget, route: usize, edits: Vec<KeyEdit> },
    /// To several: the parts, and for each key in order the index of its part.
    Several(Vec<SubCommand>, Vec<usize>),
    /// Nowhere: its keys can't be routed.
    Refused(KeyRefusal),
}

impl HostConfig {
    /// Where a key lives, its route, and how many bytes are to be removed from its beginning.
    #[inline]
    pub fn place(&self, key: &[u8]) -> Option<(RouteTarget, usize, usize)> {
        let found = self.router.find(key)?;
        let (target, strip) = (found.target as usize, found.strip as usize);
        Some((self.target_of(target, key.get(strip..).unwrap_or_default()), found.route as usize, strip))
    }

    /// The target to whose servers connections of an endpoint lead, whatever their logins.
    pub fn target_at(&self, endpoint: &UpstreamEndpoint) -> Option<usize> {
        self.targets.iter().position(|target| target.upstream.is_same_place(endpoint))
    }

    /// Where a key lives that leads to a target, without what is removed from its beginning.
    #[inline]
    pub fn target_of(&self, target: usize, key: &[u8]) -> RouteTarget {
        match self.targets.get(target) {
            Some(found) if found.is_cluster => RouteTarget { target, slot: Some(slot(key)) },
            found => {
                let server = found.and_then(|found| found.servers.as_ref()).and_then(|servers| servers.of_key(key));
                RouteTarget { target: server.unwrap_or(target), slot: None }
            }
        }
    }

    /// The error for a command, or a transaction, whose keys live in these two places.
    pub fn apart(&self, a: RouteTarget, b: RouteTarget) -> &'static str {
        match (a.target == b.target, self.origin(a.target) == self.origin(b.target)) {
            (true, _) => CROSSSLOT,
            (false, true) => CROSS_SERVER,
            (false, false) => CROSS_DESTINATION,
        }
    }

    /// True if these are the same.
    pub fn is_same(&self, a: RouteTarget, b: RouteTarget) -> bool {
        a.slot == b.slot
            && (a.target == b.target
                || match (self.targets.get(a.target), self.targets.get(b.target)) {
                    (Some(a), Some(b)) => a.upstream == b.upstream,
                    _ => false,
                })
    }

    /// Where a command goes by its keys.
    pub fn routing(&self, command: &'static Command, args: &Args<'_>) -> Routing {
        let rules = KeyRules {
            host: &self.host,
            router: &self.router,
            has_one_destination: self.single,
            renames_replies: true,
        };
        let mut collected = CollectedKeys::default();
        let routed = route_keys(&rules, command, args, |RoutedKey { index, to }| {
            let strip = to.strip as usize;
            let target = self.target_of(to.target as usize, args.get(index).get(strip..).unwrap_or_default());
            collected.add(self, target, to.route as usize, (index, strip));
        });
        match routed {
            Ok(()) => collected.finish(),
            Err(refusal) => Routing::Refused(refusal),
        }
    }
}

/// The keys of a command by where they go.
#[derive(Default)]
struct CollectedKeys {
    route: usize,
    parts: Vec<SubCommand>,
    owners: Vec<usize>,
    /// The part of each slot of a target, or of a target without slots: of many keys in a cluster,
    /// most are in parts of their own.
    by_place: HashMap<(usize, Option<u16>), usize>,
}

impl CollectedKeys {
    fn add(&mut self, config: &HostConfig, target: RouteTarget, route: usize, edit: KeyEdit) {
        if self.parts.is_empty() {
            self.route = route;
        }
        let known = self.by_place.get(&(target.target, target.slot)).copied();
        let owner = known.unwrap_or_else(|| self.part(config, target));
        self.owners.push(owner);
        if let Some(part) = self.parts.get_mut(owner) {
            part.keys.push(edit);
        }
    }

    /// The part of a target that had no key yet: that of another target which is the same place, or
    /// a new one.
    fn part(&mut self, config: &HostConfig, target: RouteTarget) -> usize {
        let others = (0..config.targets.len()).map(|other| RouteTarget { target: other, ..target });
        let same = others.filter(|other| config.is_same(*other, target));
        let known = same.filter_map(|other| self.by_place.get(&(other.target, other.slot)).copied()).next();
        let part = known.unwrap_or(self.parts.len());
        if known.is_none() {
            self.parts.push(SubCommand { target, keys: Vec::new() });
        }
        self.by_place.insert((target.target, target.slot), part);
        part
    }

    fn finish(mut self) -> Routing {
        match self.parts.as_mut_slice() {
            [] => Routing::Keyless,
            [one] => {
                let mut edits = std::mem::take(&mut one.keys);
                edits.retain(|(_, strip)| *strip > 0);
                // In the order of the arguments, which isn't that of the keys everywhere.
                edits.sort_unstable();
                Routing::One { target: one.target, route: self.route, edits }
            }
            _ => Routing::Several(self.parts, self.owners),
        }
    }
}

/// The command, with what is to be removed from its keys removed; `raw` is the command as it came,
/// if it came as an array.
#[inline]
pub fn write(args: &Args<'_>, edits: &[KeyEdit], raw: Option<&[u8]>, out: &mut Vec<u8>) {
    if let Some(raw) = raw.filter(|_| edits.is_empty()) {
        return out.extend_from_slice(raw);
    }
    encode::array(out, args.count);
    let mut edits = edits.iter().peekable();
    for index in 0..args.count {
        let strip = edits.next_if(|(key, _)| *key == index).map_or(0, |(_, strip)| *strip);
        encode::bulk(out, args.get(index).get(strip..).unwrap_or_default());
    }
}

/// The command of a part: the name, and each of its keys with what belongs to it.
pub fn write_part(command: &Command, args: &Args<'_>, part: &SubCommand, out: &mut Vec<u8>) {
    let belongs = usize::from(command.split == Split::Ok);
    encode::array(out, 1 + part.keys.len() * (1 + belongs));
    encode::bulk(out, args.get(0));
    for (index, strip) in &part.keys {
        encode::bulk(out, args.get(*index).get(*strip..).unwrap_or_default());
        if belongs > 0 {
            encode::bulk(out, args.get(index + 1));
        }
    }
}
