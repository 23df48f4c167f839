//! Where the keys of a command live, and the command as it is sent there.

use crate::cluster::slot::slot;
use crate::command::Args;
use crate::command::{Command, Key, Split};
use crate::multiplexer::config::HostConfig;
use crate::resp::encode;

/// A destination, and in a Redis Cluster a slot of it.
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
    /// All of them live together. `route` is the route of the first one.
    One { target: RouteTarget, route: usize, edits: Vec<KeyEdit> },
    /// They don't: the parts, and for each key in order its part.
    Several(Vec<SubCommand>, Vec<usize>),
    /// No route takes the key that is this argument.
    Nowhere(usize),
    /// The arguments don't say which the keys are; what Redis would answer.
    Unclear(String),
}

impl HostConfig {
    /// Where a key lives, its route, and how many bytes are to be removed from its beginning.
    #[inline]
    pub fn place(&self, key: &[u8]) -> Option<(RouteTarget, usize, usize)> {
        let (matched, route) = self.route(key)?;
        let strip = if route.remove_prefix { matched.prefix as usize } else { 0 };
        let is_cluster = self.is_cluster(route.target);
        let slot = is_cluster.then(|| slot(key.get(strip..).unwrap_or_default()));
        Some((RouteTarget { target: route.target, slot }, matched.route as usize, strip))
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
    pub fn routing(&self, command: &Command, args: &Args<'_>) -> Routing {
        let keys = match command.keys(args) {
            Ok(keys) => keys,
            Err(error) => return Routing::Unclear(format!("ERR {error}")),
        };
        let mut keys = keys.iter();
        let Some(first) = keys.next() else { return Routing::Keyless };
        let Some((place, route, strip)) = self.place(args.get(first.index)) else {
            return Routing::Nowhere(first.index);
        };
        let edit = (first.index, strip);
        let Some(second) = keys.next() else {
            return Routing::One { target: place, route, edits: if strip > 0 { vec![edit] } else { Vec::new() } };
        };
        self.several(args, SubCommand { target: place, keys: vec![edit] }, route, std::iter::once(second).chain(keys))
    }

    fn several(&self, args: &Args<'_>, first: SubCommand, route: usize, keys: impl Iterator<Item = Key>) -> Routing {
        let (mut parts, mut owners) = (vec![first], vec![0]);
        // Of many keys in a cluster, most are in parts of their own.
        let mut by_slot: std::collections::HashMap<(usize, u16), usize> = std::collections::HashMap::new();
        if let Some(SubCommand { target: RouteTarget { target, slot: Some(slot) }, .. }) = parts.first() {
            by_slot.insert((*target, *slot), 0);
        }
        for key in keys {
            let Some((place, _, strip)) = self.place(args.get(key.index)) else { return Routing::Nowhere(key.index) };
            let known = match place.slot.and_then(|slot| by_slot.get(&(place.target, slot))) {
                Some(known) => Some(*known),
                None if place.slot.is_some() && self.targets.len() == 1 => None,
                None => parts.iter().position(|part| self.is_same(part.target, place)),
            };
            let owner = known.unwrap_or_else(|| {
                parts.push(SubCommand { target: place, keys: Vec::new() });
                parts.len() - 1
            });
            if let Some(slot) = place.slot {
                by_slot.insert((place.target, slot), owner);
            }
            owners.push(owner);
            if let Some(part) = parts.get_mut(owner) {
                part.keys.push((key.index, strip));
            }
        }
        match parts.as_mut_slice() {
            [one] => {
                let mut edits = std::mem::take(&mut one.keys);
                edits.retain(|(_, strip)| *strip > 0);
                // In the order of the arguments, which isn't that of the keys everywhere.
                edits.sort_unstable();
                Routing::One { target: one.target, route, edits }
            }
            _ => Routing::Several(parts, owners),
        }
    }
}

/// The command, with what is to be removed from its keys removed; `raw` is the command as it came, if it came as an array.
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
