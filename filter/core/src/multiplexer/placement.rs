//! Destinations that have several servers and are no Redis Cluster: each key is on one of them, by
//! its hash.
//!
//! Such a destination is as many targets as its cluster in Envoy has healthy members. A compiled
//! configuration doesn't know these; each worker places it anew whenever it is told of others.

use super::config::{HostConfig, MirrorConfig, TargetConfig};
use super::members::{Members, Placement, ServerTargets};
use super::outbox::{Outbox, Output};
use super::upstream::endpoint::{EndpointMember, UpstreamEndpoint};
use crate::maglev::table::Member;
use crate::wire::KeyHash;
use std::collections::HashMap;
use std::sync::Arc;

impl HostConfig {
    /// All upstreams of targets and mirrors.
    pub fn endpoints(&self) -> impl Iterator<Item = UpstreamEndpoint> + '_ {
        let of_mirror = |mirror: &MirrorConfig| {
            let servers = mirror.placement.as_ref().map(|placement| placement.endpoints(&mirror.upstream));
            servers.unwrap_or_else(|| vec![mirror.upstream.clone()])
        };
        self.targets.iter().flat_map(move |target| {
            std::iter::once(target.upstream.clone()).chain(target.mirrors.iter().flat_map(of_mirror))
        })
    }

    /// The clusters in Envoy on whose members keys are placed.
    fn placed_clusters(&self) -> impl Iterator<Item = &Arc<str>> {
        let upstreams = self.targets.iter().flat_map(|target| {
            let mirrors = target.mirrors.iter().map(|mirror| (mirror.key_hash, &mirror.upstream));
            std::iter::once((target.key_hash, &target.upstream)).chain(mirrors)
        });
        upstreams.filter(|(key_hash, _)| key_hash.is_some()).map(|(_, upstream)| &upstream.cluster)
    }

    /// The target of the configuration whose keys this target has, or some of them.
    pub fn origin(&self, target: usize) -> usize {
        self.targets.get(target).and_then(|target| target.origin).unwrap_or(target)
    }

    /// True if a destination has several servers.
    pub fn has_servers(&self, target: usize) -> bool {
        self.targets.get(target).is_some_and(|target| target.servers.is_some())
    }

    /// True if a destination has several servers or has had them, so that clients may have cursors of
    /// a SCAN over these.
    pub fn has_had_servers(&self, target: usize) -> bool {
        self.targets.get(target).is_some_and(|target| target.has_had_servers)
    }

    /// The upstreams of all servers of a target's destination.
    pub fn servers(&self, target: usize) -> Vec<&UpstreamEndpoint> {
        let servers = self.targets.get(target).and_then(|target| target.servers.as_ref());
        let targets = servers.map_or_else(|| vec![target], |servers| servers.targets.clone());
        targets.into_iter().filter_map(|target| self.targets.get(target)).map(|target| &target.upstream).collect()
    }

    /// The configuration with a target for each member.
    fn placed(&self, members: &HashMap<Arc<str>, Arc<Members>>) -> HostConfig {
        let mut placed = self.clone();
        let placement = |hashed: Option<KeyHash>, upstream: &UpstreamEndpoint| {
            Some(Placement { hashed: hashed?, members: members.get(&upstream.cluster)?.clone() })
        };
        for target in &mut placed.targets {
            for mirror in &mut target.mirrors {
                mirror.placement = placement(mirror.key_hash, &mirror.upstream);
            }
        }
        for index in 0..self.targets.len() {
            let Some(target) = placed.targets.get(index).cloned() else { continue };
            let Some(placement) = placement(target.key_hash, &target.upstream) else { continue };
            let (mut targets, has_had_servers) = (vec![index], placement.members.were_several());
            let mut endpoints = placement.endpoints(&target.upstream).into_iter();
            let first = endpoints.next();
            for upstream in endpoints {
                targets.push(placed.targets.len());
                placed.targets.push(TargetConfig { upstream, origin: Some(index), ..target.clone() });
            }
            if let Some((target, first)) = placed.targets.get_mut(index).zip(first) {
                (target.upstream, target.has_had_servers) = (first, has_had_servers);
                target.servers = (targets.len() > 1).then_some(ServerTargets { placement, targets });
            }
        }
        placed.single = HostConfig::is_single(&placed.targets);
        placed
    }
}

/// The members of clusters as far as they were told, and the configurations that are placed on
/// them.
#[derive(Default)]
pub struct Placements {
    members: HashMap<Arc<str>, Arc<Members>>,
    /// Compiled configurations by their addresses, each with its placed form. An address isn't used
    /// again while an entry holds its configuration.
    configs: HashMap<usize, (Arc<HostConfig>, Arc<HostConfig>)>,
}

impl Placements {
    /// Takes in the healthy members of a cluster. Returns false if nothing changes by it. While a
    /// cluster has none, keys stay where they are: they have no other place.
    pub fn set(&mut self, cluster: &str, members: Vec<Member>) -> bool {
        let known = self.members.get(cluster);
        let Some(members) = Members::new(members, known.map(|known| &**known)) else { return false };
        if known.is_some_and(|known| known.is_same(&members)) {
            return false;
        }
        self.members.insert(cluster.into(), Arc::new(members));
        self.configs.retain(|_, (config, _)| config.placed_clusters().all(|placed| **placed != *cluster));
        true
    }

    /// True if a member of a cluster has this address.
    pub fn has_member(&self, endpoint: &UpstreamEndpoint) -> bool {
        let EndpointMember::At(address) = endpoint.member else { return true };
        self.members.get(&endpoint.cluster).is_some_and(|members| members.has(address))
    }

    /// True if keys of a configuration are placed on members of a cluster.
    pub fn concerns(config: &HostConfig, cluster: &str) -> bool {
        config.placed_clusters().any(|placed| **placed == *cluster)
    }

    /// The clusters of a configuration whose members weren't told.
    fn unknown<'c>(&self, config: &'c HostConfig) -> impl Iterator<Item = &'c Arc<str>> {
        config.placed_clusters().filter(|cluster| !self.members.contains_key(*cluster))
    }

    /// The placed form of a compiled configuration. Members that aren't known are asked for.
    pub fn place(&mut self, config: &Arc<HostConfig>, outbox: &mut Outbox) -> Arc<HostConfig> {
        self.unknown(config).cloned().map(Output::FindMembers).for_each(|output| outbox.push(output));
        if config.placed_clusters().next().is_none() {
            return config.clone();
        }
        let address = Arc::as_ptr(config).addr();
        if !self.configs.contains_key(&address) {
            // Those that nobody else holds are of no use any more.
            self.configs.retain(|_, (config, _)| Arc::strong_count(config) > 1);
        }
        let members = &self.members;
        let place = || (config.clone(), Arc::new(config.placed(members)));
        self.configs.entry(address).or_insert_with(place).1.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::multiplexer::Multiplexer;
    use std::time::Duration;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn what_a_member_has_said_is_forgotten_with_it() {
        let mut multiplexer = Multiplexer::new([1; 32]);
        let member = |number: u8| Member { address: ([10, 0, 0, number], 6379).into(), weight: 1 };
        let tell = |multiplexer: &mut Multiplexer, numbers: &[u8]| {
            let members = numbers.iter().map(|number| member(*number)).collect();
            multiplexer.set_members("c", members, Duration::ZERO);
        };
        tell(&mut multiplexer, &[1, 2]);
        let endpoint =
            UpstreamEndpoint { cluster: "c".into(), login: None, nodes: None, member: EndpointMember::default() };
        for number in [1, 2] {
            let endpoint = endpoint.at(EndpointMember::At(member(number).address));
            let asked = multiplexer.upstreams.spoken(&endpoint, &mut multiplexer.effects);
            assert!(matches!(asked, Ok(None)));
            let mut opened = Vec::new();
            while let Some(output) = multiplexer.poll() {
                opened.extend(if let Output::Open(id, _) = output { Some(id) } else { None });
            }
            multiplexer.lost(opened[0], Duration::ZERO);
        }
        let known = |multiplexer: &Multiplexer| multiplexer.upstreams.introductions.endpoints().len();
        assert_eq!(known(&multiplexer), 2);
        tell(&mut multiplexer, &[2, 3]);
        assert_eq!(known(&multiplexer), 1);
    }
}
