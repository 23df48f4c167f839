//! The search for the objects from which a refusal comes, where what the proxy lacks doesn't tell: half of them
//! are applied again, and of a half that is refused, again half.
//!
//! There is no clock and no request in here. The time is bounded, since what is refused in a search
//! keeps pods waiting for a moment, and the objects that are still to be tried aren't in force.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::run::names::ObjectKey;

/// The time after which no other half is tried.
pub const LONGEST: Duration = Duration::from_secs(90);

/// A search by halves.
#[derive(Debug, Default)]
pub struct HalvesSearch {
    /// The groups that are to be tried, the next one last.
    waiting: Vec<BTreeSet<ObjectKey>>,
    began: Option<Instant>,
}

impl HalvesSearch {
    /// Takes in that the objects of a group are refused when they are applied together, and that nothing tells which
    /// of them. Returns those that are to be blamed: none if the search goes on, else all that are left.
    pub fn refused(&mut self, group: BTreeSet<ObjectKey>, now: Instant) -> BTreeSet<ObjectKey> {
        let began = *self.began.get_or_insert(now);
        if now.duration_since(began) >= LONGEST {
            return self.end().into_iter().chain(group).collect();
        }
        let half = group.len() / 2;
        if half == 0 {
            if self.waiting.is_empty() {
                self.began = None;
            }
            return group;
        }
        let first = group.iter().take(half).cloned().collect();
        self.waiting.push(group.into_iter().skip(half).collect());
        self.waiting.push(first);
        BTreeSet::new()
    }

    /// True if there are objects to be tried.
    pub fn is_going_on(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// The objects that are to be applied next.
    pub fn next(&mut self) -> BTreeSet<ObjectKey> {
        self.waiting.pop().unwrap_or_default()
    }

    /// Ends the search. Returns the objects that weren't tried.
    pub fn end(&mut self) -> BTreeSet<ObjectKey> {
        self.began = None;
        std::mem::take(&mut self.waiting).into_iter().flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::NamespacedName;
    use crate::run::names::ObjectKind;

    fn key(number: usize) -> ObjectKey {
        ObjectKey { kind: ObjectKind::Service, name: NamespacedName::new("a", &format!("{number:03}")) }
    }

    /// Searches among a hundred objects with a witness that refuses what this says. Returns those that are blamed
    /// and the number of batches.
    fn search(is_refused: impl Fn(&BTreeSet<ObjectKey>) -> bool, step: Duration) -> (BTreeSet<ObjectKey>, usize) {
        let (mut search, mut now) = (HalvesSearch::default(), Instant::now());
        let (mut in_force, mut blamed, mut batches) = (BTreeSet::new(), BTreeSet::new(), 0);
        let mut group: BTreeSet<ObjectKey> = (0..100).map(key).collect();
        loop {
            batches += 1;
            now += step;
            let together: BTreeSet<ObjectKey> = in_force.union(&group).cloned().collect();
            if is_refused(&together) {
                blamed.extend(search.refused(group, now));
            } else {
                in_force = together;
            }
            if !search.is_going_on() {
                assert_eq!(in_force.len() + blamed.len(), 100, "some are neither in force nor blamed");
                return (blamed, batches);
            }
            group = search.next();
        }
    }

    #[test]
    fn the_culprits_are_found_among_many() {
        let second = Duration::from_secs(1);
        for culprits in [&[0][..], &[99], &[50], &[3, 4], &[7, 90]] {
            let culprits: BTreeSet<ObjectKey> = culprits.iter().map(|number| key(*number)).collect();
            let (blamed, batches) = search(|together| !together.is_disjoint(&culprits), second);
            assert_eq!(blamed, culprits);
            assert!(batches <= 16 * culprits.len(), "{batches} batches");
        }
    }

    #[test]
    fn of_objects_that_are_refused_only_together_one_is_blamed() {
        let pair: BTreeSet<ObjectKey> = [key(3), key(90)].into();
        let (blamed, _) = search(|together| pair.is_subset(together), Duration::from_secs(1));
        assert_eq!(blamed.len(), 1);
        assert!(blamed.is_subset(&pair));
    }

    #[test]
    fn a_search_ends() {
        let (blamed, batches) = search(|_| true, Duration::from_secs(3));
        assert_eq!((blamed.len(), batches), (100, 31));
    }
}
