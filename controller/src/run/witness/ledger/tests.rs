use super::*;
use crate::inventory::NamespacedName;
use crate::run::names::ObjectKind;

type Ledger = BatchLedger<&'static str>;

fn key(name: &str) -> ObjectKey {
    ObjectKey { kind: ObjectKind::Service, name: NamespacedName::new("a", name) }
}

fn undo(names: &[&'static str]) -> BTreeMap<ObjectKey, Option<&'static str>> {
    names.iter().map(|name| (key(name), Some(*name))).collect()
}

/// A witness with a clock, which takes and refuses as a test says.
struct Scene {
    ledger: Ledger,
    sighting: Sighting,
    now: Instant,
    /// The witness's clock in milliseconds.
    clock: u64,
}

impl Scene {
    fn new(policy: WitnessPolicy) -> Scene {
        let now = Instant::now();
        Scene { ledger: BatchLedger::new(policy, now), sighting: Sighting::default(), now, clock: 1000 }
    }

    /// One that has judged a first batch.
    fn begun() -> Scene {
        let mut scene = Scene::new(WitnessPolicy::Prefer);
        assert_eq!(scene.look(), None);
        scene.ledger.begin(1, BTreeMap::new(), scene.now);
        scene.push(1, &[]);
        assert_eq!(scene.look(), Some(Judgment::Taken(1)));
        scene
    }

    fn pass(&mut self, milliseconds: u64) {
        self.now += Duration::from_millis(milliseconds);
        self.clock += milliseconds;
    }

    /// A push that brings a marker, and in which updates of these types are refused.
    fn push(&mut self, number: u64, refused: &[ResourceType]) {
        self.pass(10);
        if self.sighting.marker.is_none_or(|marker| marker.number != number) {
            self.sighting.marker = Some(ShownMarker { number, at: self.clock });
        }
        for of in [ResourceType::Clusters, ResourceType::Listeners] {
            match refused.contains(&of) {
                true => self.sighting.counts[of as usize].rejected += 1,
                false => self.sighting.counts[of as usize].accepted_at = self.clock,
            }
        }
    }

    fn look(&mut self) -> Option<Judgment<&'static str>> {
        self.pass(50);
        self.ledger.see(Sightings(vec![self.sighting]), self.now)
    }
}

const CDS: ResourceType = ResourceType::Clusters;
const LDS: ResourceType = ResourceType::Listeners;

#[test]
fn what_the_witness_shows_and_accepts_is_taken() {
    let mut scene = Scene::begun();
    scene.ledger.begin(2, undo(&["x"]), scene.now);
    assert_eq!(scene.ledger.claim(&key("x")), Claim::Awaited);
    assert_eq!(scene.ledger.claim(&key("y")), Claim::Taken);
    assert_eq!(scene.look(), None);
    // A push that has the batch in part only.
    scene.push(1, &[]);
    assert_eq!(scene.look(), None);
    scene.push(2, &[]);
    assert_eq!(scene.look(), Some(Judgment::Taken(2)));
    assert_eq!(scene.ledger.claim(&key("x")), Claim::Taken);
}

#[test]
fn clusters_alone_are_not_all_of_a_push() {
    let mut scene = Scene::begun();
    scene.ledger.begin(2, undo(&["x"]), scene.now);
    let listeners = scene.sighting.counts[LDS as usize];
    scene.push(2, &[]);
    let after = std::mem::replace(&mut scene.sighting.counts[LDS as usize], listeners);
    assert_eq!(scene.look(), None);
    scene.sighting.counts[LDS as usize] = after;
    assert_eq!(scene.look(), Some(Judgment::Taken(2)));
    // Where none come, that is all.
    scene.ledger.begin(3, undo(&["x"]), scene.now);
    scene.push(3, &[]);
    scene.sighting.counts[LDS as usize] = after;
    assert_eq!(scene.look(), None);
    scene.pass(1500);
    assert_eq!(scene.look(), Some(Judgment::Taken(3)));
}

#[test]
fn what_is_refused_goes_back_to_the_last_state_that_was_taken() {
    for types in [&[CDS][..], &[LDS], &[CDS, LDS]] {
        let mut scene = Scene::begun();
        scene.ledger.begin(2, undo(&["x"]), scene.now);
        scene.ledger.begin(3, [(key("x"), Some("later")), (key("y"), Some("y")), (key("z"), None)].into(), scene.now);
        scene.push(2, types);
        let expected = [(key("x"), "x"), (key("y"), "y")].into();
        assert_eq!(
            scene.look(),
            Some(Judgment::Refused { undo: expected, types: types.iter().map(|of| (0, *of)).collect() })
        );
        assert!(scene.ledger.awaits_return());
        // What was under way may still come.
        scene.push(3, types);
        assert_eq!(scene.look(), None);
        scene.ledger.returned(4);
        assert_eq!(scene.look(), None);
        scene.push(4, &[]);
        assert_eq!(scene.look(), Some(Judgment::Returned));
        assert!(!scene.ledger.is_returning() && scene.ledger.others_refused().is_empty());
    }
}

#[test]
fn what_all_witnesses_show_is_taken_and_what_one_refuses_is_refused() {
    let mut scene = Scene::begun();
    let mut late = scene.sighting;
    scene.ledger.see(Sightings(vec![scene.sighting, late]), scene.now);
    scene.ledger.begin(2, undo(&["x"]), scene.now);
    scene.push(2, &[]);
    assert_eq!(scene.ledger.see(Sightings(vec![scene.sighting, late]), scene.now), None);
    late = scene.sighting;
    assert_eq!(scene.ledger.see(Sightings(vec![scene.sighting, late]), scene.now), Some(Judgment::Taken(2)));
    scene.ledger.begin(3, undo(&["x"]), scene.now);
    scene.push(3, &[]);
    late.counts[CDS as usize].rejected += 1;
    let expected = Judgment::Refused { undo: [(key("x"), "x")].into(), types: [(1, CDS)].into() };
    assert_eq!(scene.ledger.see(Sightings(vec![scene.sighting, late]), scene.now), Some(expected));
    scene.ledger.returned(4);
    scene.push(4, &[]);
    assert_eq!(scene.ledger.see(Sightings(vec![scene.sighting, late]), scene.now), None);
    late = Sighting { marker: scene.sighting.marker, counts: late.counts };
    late.counts.iter_mut().for_each(|counts| counts.accepted_at = scene.clock);
    assert_eq!(scene.ledger.see(Sightings(vec![scene.sighting, late]), scene.now), Some(Judgment::Returned));
}

#[test]
fn what_a_predecessor_wrote_last_is_not_of_others() {
    let mut scene = Scene::begun();
    scene.push(2, &[CDS]);
    assert_eq!(scene.look(), Some(Judgment::StaysRefused));
    scene.ledger.inherit();
    scene.ledger.begin(3, undo(&["x"]), scene.now);
    scene.push(3, &[CDS]);
    assert!(matches!(scene.look(), Some(Judgment::Refused { .. })));
}

#[test]
fn what_stays_refused_is_of_others() {
    let mut scene = Scene::begun();
    scene.ledger.begin(2, undo(&["x"]), scene.now);
    scene.push(2, &[CDS]);
    assert!(matches!(scene.look(), Some(Judgment::Refused { .. })));
    scene.ledger.returned(3);
    scene.push(3, &[CDS]);
    assert_eq!(scene.look(), None);
    scene.pass(1500);
    assert_eq!(scene.look(), Some(Judgment::StaysRefused));
    // Batches aren't blamed for it, and aren't said to be taken.
    scene.ledger.begin(4, undo(&["x"]), scene.now);
    scene.push(4, &[CDS]);
    assert_eq!(scene.look(), Some(Judgment::Unclear(4)));
    assert_eq!(scene.ledger.claim(&key("x")), Claim::OthersRefused);
    // What is refused besides is a batch's.
    scene.ledger.begin(5, undo(&["y"]), scene.now);
    scene.push(5, &[CDS, LDS]);
    assert!(matches!(scene.look(), Some(Judgment::Refused { types, .. }) if types == [(0, LDS)].into()));
    scene.ledger.returned(6);
    scene.push(6, &[]);
    assert_eq!(scene.look(), Some(Judgment::Returned));
    assert!(scene.ledger.others_refused().is_empty());
}

#[test]
fn what_is_refused_while_nothing_is_on_its_way_is_of_others() {
    let mut scene = Scene::begun();
    scene.push(1, &[CDS]);
    assert_eq!(scene.look(), Some(Judgment::StaysRefused));
    assert_eq!(scene.look(), None);
    scene.ledger.begin(2, undo(&["x"]), scene.now);
    scene.push(2, &[CDS]);
    assert_eq!(scene.look(), Some(Judgment::Unclear(2)));
    scene.push(2, &[]);
    assert_eq!(scene.look(), Some(Judgment::Taken(2)));
    assert_eq!(scene.ledger.claim(&key("x")), Claim::Taken);
}

#[test]
fn what_can_not_be_taken_back_is_not_taken_back() {
    let mut scene = Scene::new(WitnessPolicy::Prefer);
    scene.look();
    scene.ledger.begin(1, [(key("x"), None)].into(), scene.now);
    scene.push(1, &[CDS]);
    assert_eq!(scene.look(), Some(Judgment::StaysRefused));
}

#[test]
fn a_witness_that_was_not_seen_before_tells_by_what_it_has_accepted() {
    let mut scene = Scene::new(WitnessPolicy::Prefer);
    scene.ledger.begin(1, undo(&["x"]), scene.now);
    scene.push(1, &[CDS]);
    assert_eq!(scene.look(), None);
    scene.pass(1500);
    assert!(matches!(scene.look(), Some(Judgment::Refused { .. })));
}

#[test]
fn an_envoy_that_was_started_again_counts_from_nothing() {
    let mut scene = Scene::begun();
    scene.sighting.counts[CDS as usize].rejected = 5;
    assert_eq!(scene.look(), Some(Judgment::StaysRefused));
    scene.push(1, &[]);
    scene.look();
    scene.sighting = Sighting::default();
    assert_eq!(scene.look(), None);
    scene.ledger.begin(2, undo(&["x"]), scene.now);
    scene.push(2, &[CDS]);
    assert!(matches!(scene.look(), Some(Judgment::Refused { .. })));
}

#[test]
fn a_witness_that_does_not_answer_is_waited_for_and_passed_over_or_not() {
    for (policy, last) in [(WitnessPolicy::Prefer, Claim::Unreachable), (WitnessPolicy::Require, Claim::Late)] {
        let mut scene = Scene::new(policy);
        assert_eq!(scene.ledger.forbids_writing(), policy == WitnessPolicy::Require);
        scene.look();
        assert!(!scene.ledger.forbids_writing());
        scene.ledger.begin(1, undo(&["x"]), scene.now);
        assert_eq!(scene.ledger.lose(scene.now), None);
        assert_eq!(scene.ledger.forbids_writing(), policy == WitnessPolicy::Require);
        scene.pass(2000);
        assert_eq!(scene.ledger.lose(scene.now), Some(Judgment::Later));
        assert_eq!(scene.ledger.claim(&key("x")), Claim::Late);
        scene.pass(8000);
        let later = scene.ledger.lose(scene.now);
        assert_eq!(later, (policy == WitnessPolicy::Prefer).then_some(Judgment::Later));
        assert_eq!(scene.ledger.claim(&key("x")), last);
        scene.push(1, &[]);
        assert_eq!(scene.look(), Some(Judgment::Taken(1)));
        assert_eq!(scene.ledger.claim(&key("x")), Claim::Taken);
    }
}

#[test]
fn what_was_taken_back_is_not_waited_for_without_end() {
    let mut scene = Scene::begun();
    scene.ledger.begin(2, undo(&["x"]), scene.now);
    scene.push(2, &[CDS]);
    assert!(matches!(scene.look(), Some(Judgment::Refused { .. })));
    scene.ledger.returned(3);
    scene.pass(15_000);
    assert_eq!(scene.look(), Some(Judgment::Returned));
}

#[test]
fn many_batches_are_told_apart_as_far_as_needed() {
    let mut scene = Scene::begun();
    for number in 2..100 {
        scene.ledger.begin(number, undo(&["x"]), scene.now);
    }
    scene.push(50, &[]);
    assert_eq!(scene.look(), Some(Judgment::Taken(50)));
    assert_eq!(scene.ledger.claim(&key("x")), Claim::Awaited);
    scene.push(99, &[]);
    assert_eq!(scene.look(), Some(Judgment::Taken(99)));
    assert_eq!(scene.ledger.claim(&key("x")), Claim::Taken);
}

/// Whatever Envoy and others do, in any order: what is said to be taken has been accepted, and what is
/// refused and ours is taken back.
#[test]
fn whatever_happens_nothing_refused_is_said_to_be_taken() {
    for seed in 0..2000 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut scene = Scene::begun();
        let (mut number, mut is_ours_bad, mut is_others_bad) = (1, false, false);
        for _ in 0..60 {
            match random.u8(0..8) {
                0 if !scene.ledger.is_returning() => {
                    number += 1;
                    is_ours_bad = random.u8(0..3) == 0;
                    scene.ledger.begin(number, undo(&["x"]), scene.now);
                }
                1 => is_others_bad = random.u8(0..4) == 0,
                2 => drop(scene.ledger.lose(scene.now)),
                3..=5 => scene.push(number, if is_ours_bad || is_others_bad { &[CDS] } else { &[] }),
                _ => scene.pass(random.u64(0..3000)),
            }
            match scene.look() {
                Some(Judgment::Taken(taken)) if taken == number && is_ours_bad => {
                    panic!("seed {seed}: batch {number} is refused, and said to be taken")
                }
                Some(Judgment::Refused { .. }) => {
                    number += 1;
                    is_ours_bad = false;
                    scene.ledger.returned(number);
                }
                _ => {}
            }
        }
    }
}
