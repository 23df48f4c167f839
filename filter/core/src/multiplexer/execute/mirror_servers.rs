//! The servers of a mirror: which of them get a copy.

use crate::cluster::slot::slot;
use crate::command::{Args, Command};
use crate::multiplexer::client::Client;
use crate::multiplexer::config::MirrorConfig;
use crate::multiplexer::routing::fan_out::RequestPolicy;
use crate::multiplexer::routing::target::KeyEdit;
use crate::multiplexer::upstream::endpoint::UpstreamEndpoint;
use crate::multiplexer::upstream::pool_key::PoolKey;
use crate::multiplexer::upstream::unsent_copies::CopyRoute;
use std::collections::HashMap;

/// The servers of a mirror, as they are reached for one client.
pub struct MirrorServers<'m> {
    mirror: &'m MirrorConfig,
    database: u32,
}

/// Where a key is: its slot in a Redis Cluster, else the index of the member that has it.
pub type Place = usize;

/// What decides which servers get a command or a transaction.
#[derive(Default)]
pub struct Places {
    /// The places of keys, in order and each once, with their keys.
    pub parts: Vec<(Place, Vec<KeyEdit>)>,
    /// The index in `parts` of each place.
    by_place: HashMap<Place, usize>,
}

impl Places {
    fn add(&mut self, place: Place, key: KeyEdit) {
        let part = *self.by_place.entry(place).or_insert(self.parts.len());
        match self.parts.get_mut(part) {
            Some((_, keys)) => keys.push(key),
            None => self.parts.push((place, vec![key])),
        }
    }
}

impl<'m> MirrorServers<'m> {
    /// The servers of a mirror.
    pub fn of(client: &Client, mirror: &'m MirrorConfig) -> MirrorServers<'m> {
        MirrorServers { mirror, database: client.session.database }
    }

    /// True if a key decides which server gets a copy.
    pub fn are_several(&self) -> bool {
        self.mirror.is_cluster || self.mirror.placement.as_ref().is_some_and(|placement| placement.count() > 1)
    }

    /// Adds the places of keys, or of the channel of a message, to `places`: messages are heard where
    /// a key of the channel's name would be, but for PUBLISH in a Redis Cluster, whose nodes pass it
    /// on to each other.
    pub fn add_places(&self, command: &Command, args: &Args<'_>, keys: &[KeyEdit], places: &mut Places) {
        let has_channel = command.name == "spublish" || command.name == "publish" && !self.mirror.is_cluster;
        for (index, strip) in keys.iter().copied().chain(has_channel.then_some((1, 0))) {
            let key = args.get(index).get(strip..).unwrap_or_default();
            let place = match &self.mirror.placement {
                _ if self.mirror.is_cluster => usize::from(slot(key)),
                Some(placement) => placement.index(key),
                None => 0,
            };
            places.add(place, (index, strip));
        }
    }

    /// To the server of a place; without one, to the server that gets what no key decides about.
    pub fn at(&self, place: Option<Place>) -> CopyRoute {
        let upstream = &self.mirror.upstream;
        match &self.mirror.placement {
            _ if self.mirror.is_cluster => CopyRoute::Slot(upstream.clone(), place.map(|slot| slot as u16)),
            Some(placement) => CopyRoute::Plain(self.pool_key(placement.endpoint(upstream, place.unwrap_or_default()))),
            None => CopyRoute::Plain(self.pool_key(upstream.clone())),
        }
    }

    /// Where a command without a key goes.
    pub fn keyless(&self, command: &Command) -> CopyRoute {
        if RequestPolicy::of(command).is_for_all() { self.all() } else { self.at(None) }
    }

    /// To all servers, or all masters.
    pub fn all(&self) -> CopyRoute {
        let upstream = &self.mirror.upstream;
        match &self.mirror.placement {
            _ if self.mirror.is_cluster => CopyRoute::AllShards(upstream.clone()),
            Some(placement) => {
                let endpoints = placement.endpoints(upstream).into_iter();
                CopyRoute::AllMembers(endpoints.map(|endpoint| self.pool_key(endpoint)).collect())
            }
            None => self.at(None),
        }
    }

    fn pool_key(&self, endpoint: UpstreamEndpoint) -> PoolKey {
        PoolKey { database: self.database, ..PoolKey::new(endpoint, false) }
    }
}
