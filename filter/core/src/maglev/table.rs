//! The table of a load balancer: which server has which hashes
//! (<https://research.google/pubs/maglev-a-fast-and-reliable-software-network-load-balancer/>,
//! section 3.4).

use super::xx_hash::xx_hash;
use std::net::SocketAddr;

/// The number of entries. It is Envoy's default, and prime.
const SIZE: u64 = 65_537;

/// A server of a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// The address. Envoy hashes its text, which is the one that Rust gives it.
    pub address: SocketAddr,
    /// The weight among the members, at least 1.
    pub weight: u32,
}

/// For each hash, modulo their number, the server that has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MaglevTable {
    /// Indexes of members.
    entries: Box<[u32]>,
}

/// The turns of a member while the table is filled.
struct Turns {
    member: u32,
    offset: u64,
    skip: u64,
    /// The number of entries that it has looked at.
    next: u64,
    weight: f64,
    /// It has no turn before the product of its weight and the number of the round reaches this.
    target: f64,
}

impl Turns {
    /// The next entry in the member's order of preference that is free.
    fn take(&mut self, entries: &[Option<u32>]) -> usize {
        loop {
            let entry = ((self.offset + self.skip * self.next) % SIZE) as usize;
            self.next += 1;
            if entries.get(entry).is_none_or(Option::is_none) {
                return entry;
            }
        }
    }
}

impl MaglevTable {
    /// Returns the table of these members; `None` if there are none.
    pub fn new(members: &[Member]) -> Option<MaglevTable> {
        let sum: u64 = members.iter().map(|member| u64::from(member.weight.max(1))).sum();
        let mut named: Vec<(String, Turns)> =
            members.iter().zip(0..).map(|(member, at)| turns(member, at, sum)).collect();
        named.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        let mut all: Vec<Turns> = named.into_iter().map(|(_, turns)| turns).collect();
        let heaviest = all.iter().map(|turns| turns.weight).fold(0.0, f64::max);
        let mut entries: Vec<Option<u32>> = vec![None; SIZE as usize];
        let mut left = if all.is_empty() { 0 } else { SIZE };
        for round in 1u32.. {
            for turns in &mut all {
                if left == 0 {
                    break;
                }
                if f64::from(round) * turns.weight < turns.target {
                    continue;
                }
                turns.target += heaviest;
                let entry = turns.take(&entries);
                if let Some(free) = entries.get_mut(entry) {
                    *free = Some(turns.member);
                }
                left -= 1;
            }
            if left == 0 {
                break;
            }
        }
        let entries: Option<Vec<u32>> = entries.into_iter().collect();
        entries.map(|entries| MaglevTable { entries: entries.into() })
    }

    /// The index of the member that has this hash.
    #[inline]
    pub fn member(&self, hash: u64) -> usize {
        self.entries.get((hash % SIZE) as usize).map_or(0, |member| *member as usize)
    }
}

fn turns(member: &Member, index: u32, sum: u64) -> (String, Turns) {
    let name = member.address.to_string();
    let (offset, skip) = (xx_hash(name.as_bytes(), 0) % SIZE, xx_hash(name.as_bytes(), 1) % (SIZE - 1) + 1);
    let weight = f64::from(member.weight.max(1)) / sum as f64;
    (name, Turns { member: index, offset, skip, next: 0, weight, target: 0.0 })
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn members(weights: &[u32]) -> Vec<Member> {
        let member =
            |(number, weight): (u8, &u32)| Member { address: ([10, 0, 0, number], 6379).into(), weight: *weight };
        (1..).zip(weights).map(member).collect()
    }

    fn shares(weights: &[u32]) -> Vec<usize> {
        let table = MaglevTable::new(&members(weights)).unwrap();
        (0..weights.len()).map(|of| (0..SIZE).filter(|hash| table.member(*hash) == of).count()).collect()
    }

    #[test]
    fn members_have_shares_by_their_weights() {
        assert_eq!(MaglevTable::new(&[]), None);
        assert_eq!(shares(&[1]), [65_537]);
        assert_eq!(shares(&[1, 1, 1]), [21_846, 21_846, 21_845]);
        let [light, heavy] = shares(&[1, 3])[..] else { panic!() };
        assert!(heavy.abs_diff(3 * light) < 10, "{light} {heavy}");
    }

    #[test]
    fn the_order_of_members_is_of_no_account() {
        let ordered = members(&[1, 2, 3]);
        let mut turned = ordered.clone();
        turned.reverse();
        let (a, b) = (MaglevTable::new(&ordered).unwrap(), MaglevTable::new(&turned).unwrap());
        assert!((0..SIZE).all(|hash| ordered[a.member(hash)] == turned[b.member(hash)]));
    }

    #[test]
    fn few_keys_move_when_a_member_leaves() {
        let all = members(&[1, 1, 1]);
        let (before, after) = (MaglevTable::new(&all).unwrap(), MaglevTable::new(&all[..2]).unwrap());
        let moved = (0..SIZE).filter(|hash| before.member(*hash) < 2 && before.member(*hash) != after.member(*hash));
        assert!(moved.count() < SIZE as usize / 20);
    }
}
