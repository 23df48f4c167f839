//! The choice of the node of a shard that gets a command.

use super::topology::Shard;
use crate::random::Random;
use crate::wire::ReadPolicy;
use std::net::SocketAddr;

/// A node, and whether commands go to it as to a replica (after READONLY).
pub type Choice = (SocketAddr, bool);

/// Chooses a node of a shard, by chance where the policy allows several. `is_up` tells whether a
/// node can be reached, as far as that is known; if none of the nodes that the policy allows is
/// up, one that isn't is chosen. `None`: the shard has no node that the policy allows.
pub fn choose(
    policy: ReadPolicy,
    shard: &Shard,
    is_up: impl Fn(SocketAddr) -> bool,
    random: &mut Random,
) -> Option<Choice> {
    let master = (shard.master, false);
    let mut replica = |or: Option<SocketAddr>| {
        let all = || or.into_iter().chain(shard.replicas.iter().copied());
        let up = all().filter(|node| is_up(*node)).count();
        let among = if up == 0 { all().count() } else { up };
        let chosen = random.below(among.max(1) as u32) as usize;
        all().filter(|node| up == 0 || is_up(*node)).nth(chosen).map(|node| (node, Some(node) != or))
    };
    match policy {
        ReadPolicy::Master => Some(master),
        ReadPolicy::Replica => replica(None),
        ReadPolicy::PreferMaster => {
            let other = if is_up(shard.master) { None } else { replica(None) };
            Some(other.filter(|(node, _)| is_up(*node)).unwrap_or(master))
        }
        ReadPolicy::PreferReplica => Some(replica(None).filter(|(node, _)| is_up(*node)).unwrap_or(master)),
        ReadPolicy::Any => replica(Some(shard.master)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn chosen(policy: ReadPolicy, replicas: u16, down: &[u16]) -> String {
        let node = |port| SocketAddr::from(([10, 0, 0, 1], port));
        let shard = Shard { master: node(0), replicas: (1..=replicas).map(node).collect() };
        let mut random = Random::new([1; 32]);
        let is_up = |node: SocketAddr| !down.contains(&node.port());
        let all: BTreeSet<Option<Choice>> = (0..100).map(|_| choose(policy, &shard, is_up, &mut random)).collect();
        let shown = all.iter().map(|choice| match choice {
            None => "none".to_owned(),
            Some((node, readonly)) => {
                assert_eq!(*readonly, node.port() != 0);
                node.port().to_string()
            }
        });
        shown.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn policies() {
        use ReadPolicy::{Any, Master, PreferMaster, PreferReplica, Replica};
        for (policy, replicas, down, expected) in [
            (Master, 2, &[][..], "0"),
            (Master, 2, &[0], "0"),
            (PreferMaster, 2, &[], "0"),
            (PreferMaster, 2, &[0], "1 2"),
            (PreferMaster, 2, &[0, 1], "2"),
            (PreferMaster, 2, &[0, 1, 2], "0"),
            (PreferMaster, 0, &[0], "0"),
            (Replica, 2, &[], "1 2"),
            (Replica, 2, &[1], "2"),
            (Replica, 1, &[1], "1"),
            (Replica, 0, &[], "none"),
            (PreferReplica, 2, &[], "1 2"),
            (PreferReplica, 2, &[1, 2], "0"),
            (PreferReplica, 0, &[], "0"),
            (Any, 2, &[], "0 1 2"),
            (Any, 2, &[0], "1 2"),
        ] {
            assert_eq!(chosen(policy, replicas, down), expected, "{policy:?} {replicas} {down:?}");
        }
    }
}
