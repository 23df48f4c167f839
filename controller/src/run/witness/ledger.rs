//! The batches that are on their way to the witness, and what its answers mean.
//!
//! There is no clock and no request in here: the caller tells what was written ([`BatchLedger::begin`],
//! [`BatchLedger::returned`]) and what the witness shows ([`BatchLedger::see`]), or that it doesn't
//! answer ([`BatchLedger::lose`]), and does what the [`Judgment`] says.
//!
//! Envoy counts the updates that it refuses, and notes when it has accepted one. It takes the good
//! clusters of an update that it refuses, so the marker arrives in either case. An update that was sent
//! after the marker and accepted is therefore the proof that nothing of the batch is refused; a
//! refusal that was counted since the batch began is the proof of the contrary, unless it stays when
//! the batch has been taken back. Then it is another's.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use super::settings::WitnessPolicy;
use crate::run::names::ObjectKey;

/// The time after which a status says that the witness is waited for.
pub const LATE: Duration = Duration::from_secs(2);
/// The time for which a witness that doesn't answer is waited for.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// The time in which the other updates of a push follow the one with the marker.
const SETTLED: Duration = Duration::from_millis(1500);
/// The time after which what was taken back counts as taken, though the witness doesn't show it.
const LONGEST_RETURN: Duration = Duration::from_secs(15);
/// The greatest number of batches that are told apart.
const MANY: usize = 16;

/// A type of resource, updates of which Envoy accepts or refuses as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ResourceType {
    /// Clusters (CDS).
    Clusters,
    /// Listeners (LDS).
    Listeners,
    /// Configurations of filters that are delivered separately (ECDS).
    Extensions,
}

impl ResourceType {
    /// All of them.
    pub const ALL: [ResourceType; 3] = [ResourceType::Clusters, ResourceType::Listeners, ResourceType::Extensions];

    /// The name as Istio and Envoy write it.
    pub fn name(self) -> &'static str {
        match self {
            ResourceType::Clusters => "CDS",
            ResourceType::Listeners => "LDS",
            ResourceType::Extensions => "ECDS",
        }
    }
}

/// The counts of the updates of a type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UpdateCounts {
    /// The updates that were refused.
    pub rejected: u64,
    /// The time of the last one that was accepted, in milliseconds since 1970 by the witness's clock.
    pub accepted_at: u64,
}

/// A marker as the witness has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShownMarker {
    /// The number of the batch.
    pub number: u64,
    /// The time at which the witness got it, in milliseconds since 1970 by its clock.
    pub at: u64,
}

/// A type of resource at one of the witnesses, by the place of that among them.
pub type WitnessedType = (usize, ResourceType);

/// The answer of a witness.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sighting {
    /// The marker; none if it has none.
    pub marker: Option<ShownMarker>,
    /// The counts for each of [`ResourceType::ALL`].
    pub counts: [UpdateCounts; 3],
}

impl Sighting {
    /// The counts of a type.
    pub fn of(&self, of: ResourceType) -> UpdateCounts {
        self.counts[of as usize]
    }

    /// True if more updates were refused than before. An Envoy that was started again counts from
    /// nothing.
    fn has_refused(&self, of: ResourceType, before: &Sighting) -> bool {
        let (before, now) = (before.of(of).rejected, self.of(of).rejected);
        if now < before { now > 0 } else { now > before }
    }
}

/// The answers of all witnesses. What all of them show is shown, and what one refuses is refused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sightings(pub Vec<Sighting>);

impl Sightings {
    /// The number of the last batch that all of them show.
    pub fn shown(&self) -> Option<u64> {
        let numbers: Option<Vec<u64>> = self.0.iter().map(|one| one.marker.map(|marker| marker.number)).collect();
        numbers?.into_iter().min()
    }

    fn refused_since(&self, before: &Sightings) -> BTreeSet<WitnessedType> {
        self.differing(before, |of, now, before| now.has_refused(of, before))
    }

    fn accepted_since(&self, before: &Sightings) -> BTreeSet<WitnessedType> {
        self.differing(before, |of, now, before| now.of(of).accepted_at > before.of(of).accepted_at)
    }

    fn differing(
        &self,
        before: &Sightings,
        is_it: impl Fn(ResourceType, &Sighting, &Sighting) -> bool,
    ) -> BTreeSet<WitnessedType> {
        let pairs = self.0.iter().zip(&before.0).enumerate();
        let types = pairs.flat_map(|(place, pair)| ResourceType::ALL.map(|of| (place, of, pair)));
        types.filter(|(_, of, (now, before))| is_it(*of, now, before)).map(|(place, of, _)| (place, of)).collect()
    }
}

/// What follows from an answer of the witness.
#[derive(Debug, PartialEq, Eq)]
pub enum Judgment<Undo> {
    /// The witness has taken all that was written up to this batch.
    Taken(u64),
    /// The witness has this batch, but whether it refuses anything of it can't be told, since it
    /// refuses what others have written.
    Unclear(u64),
    /// The witness refuses something, and batches are on their way: they are to be taken back.
    Refused {
        /// What the objects of the batches were before.
        undo: BTreeMap<ObjectKey, Undo>,
        /// The types of updates that were refused.
        types: BTreeSet<WitnessedType>,
    },
    /// The witness has taken what was there before the refused batches.
    Returned,
    /// The witness refuses something though the batches were taken back: it is another's.
    StaysRefused,
    /// What statuses say of the batches on their way has changed.
    Later,
}

/// What can be said of an object whose configuration was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// A proxy has taken it.
    Taken,
    /// The witness is about to be seen with it, so nothing is said yet.
    Awaited,
    /// The witness has been waited for in vain so far.
    Late,
    /// It was written, and the witness doesn't answer.
    Unreachable,
    /// It was written, and the witness refuses what others have written.
    OthersRefused,
    /// It wasn't written, since the witness doesn't answer.
    Forbidden,
    /// It was written, and there is no witness.
    NoWitness,
}

/// A batch on its way.
struct Batch<Undo> {
    number: u64,
    began: Instant,
    undo: BTreeMap<ObjectKey, Option<Undo>>,
}

/// Batches that are being taken back.
struct Return {
    since: Instant,
    /// The number of the batch that takes them back; none before all of it was written.
    number: Option<u64>,
}

/// The batches on their way.
pub struct BatchLedger<Undo> {
    policy: WitnessPolicy,
    in_flight: VecDeque<Batch<Undo>>,
    seen: Option<Sightings>,
    /// The types of updates of which something of others is refused.
    others: BTreeSet<WitnessedType>,
    /// The greatest number that was shown, since when, and the sighting before that.
    shown: Option<(u64, Instant, Sightings)>,
    /// Since when the witness hasn't answered.
    silent_since: Option<Instant>,
    returning: Option<Return>,
    /// Objects that were in batches of which it couldn't be told whether they were taken.
    unclear: BTreeSet<ObjectKey>,
    /// True if no batch has been judged since the start.
    is_new: bool,
    /// The claim for what is on its way, as it was said last.
    said: Claim,
}

impl<Undo: Clone> BatchLedger<Undo> {
    /// Has seen nothing.
    pub fn new(policy: WitnessPolicy, now: Instant) -> BatchLedger<Undo> {
        BatchLedger {
            policy,
            in_flight: VecDeque::new(),
            seen: None,
            others: BTreeSet::new(),
            shown: None,
            silent_since: Some(now),
            returning: None,
            unclear: BTreeSet::new(),
            is_new: true,
            said: Claim::Awaited,
        }
    }

    /// Forgets the batches: another one writes.
    pub fn forget(&mut self) {
        self.in_flight.clear();
        self.returning = None;
        self.unclear.clear();
        (self.is_new, self.said) = (true, Claim::Awaited);
    }

    /// Counts what is refused as what may be the predecessor's, who hadn't seen yet whether it is.
    pub fn inherit(&mut self) {
        self.others.clear();
    }

    /// Records a batch that has been written, and what its objects were before, as far as that is
    /// known.
    pub fn begin(&mut self, number: u64, undo: BTreeMap<ObjectKey, Option<Undo>>, now: Instant) {
        if self.in_flight.is_empty() {
            self.said = Claim::Awaited;
        }
        if self.in_flight.len() >= MANY
            && let Some(last) = self.in_flight.back_mut()
        {
            last.number = number;
            for (key, before) in undo {
                last.undo.entry(key).or_insert(before);
            }
            return;
        }
        self.in_flight.push_back(Batch { number, began: now, undo });
    }

    /// Records that what was there before the refused batches has been written, with this number.
    pub fn returned(&mut self, number: u64) {
        if let Some(returning) = &mut self.returning {
            returning.number = Some(number);
        }
    }

    /// The objects of the batches on their way.
    pub fn on_their_way(&self) -> impl Iterator<Item = &ObjectKey> {
        self.in_flight.iter().flat_map(|batch| batch.undo.keys())
    }

    /// True from the refusal of batches until it is known what the witness says when they have been
    /// taken back. Nothing else may be written meanwhile.
    pub fn is_returning(&self) -> bool {
        self.returning.is_some()
    }

    /// True while batches are being taken back and not all of that is written.
    pub fn awaits_return(&self) -> bool {
        self.returning.as_ref().is_some_and(|returning| returning.number.is_none())
    }

    /// True if the answers of the witness are waited for.
    pub fn is_waiting(&self) -> bool {
        !self.in_flight.is_empty() || self.returning.is_some()
    }

    /// The types of updates of which the witness refuses something that others have written.
    pub fn others_refused(&self) -> &BTreeSet<WitnessedType> {
        &self.others
    }

    /// True if nothing may be applied, since the witness doesn't answer.
    pub fn forbids_writing(&self) -> bool {
        self.policy == WitnessPolicy::Require && self.silent_since.is_some()
    }

    /// Since when the witness hasn't answered.
    pub fn silent_since(&self) -> Option<Instant> {
        self.silent_since
    }

    /// What can be said of an object whose configuration was written.
    pub fn claim(&self, key: &ObjectKey) -> Claim {
        let is_in_flight = self.is_new || self.in_flight.iter().any(|batch| batch.undo.contains_key(key));
        match is_in_flight {
            true => self.said,
            false if self.unclear.contains(key) => Claim::OthersRefused,
            false => Claim::Taken,
        }
    }

    /// Takes in that the witness doesn't answer.
    pub fn lose(&mut self, now: Instant) -> Option<Judgment<Undo>> {
        self.silent_since.get_or_insert(now);
        self.late(now)
    }

    /// Takes in the answers of the witnesses.
    pub fn see(&mut self, sighting: Sightings, now: Instant) -> Option<Judgment<Undo>> {
        let was_silent = self.silent_since.take().is_some();
        let judgment = self.judge(&sighting, now);
        // What was held back is applied now.
        judgment.or_else(|| (was_silent && self.policy == WitnessPolicy::Require).then_some(Judgment::Later))
    }

    fn judge(&mut self, sighting: &Sightings, now: Instant) -> Option<Judgment<Undo>> {
        let before = self.seen.replace(sighting.clone());
        let refused = before.as_ref().map(|before| sighting.refused_since(before)).unwrap_or_default();
        let accepted = before.as_ref().map(|before| sighting.accepted_since(before)).unwrap_or_default();
        let others = self.others.clone();
        self.others.retain(|of| refused.contains(of) || !accepted.contains(of));
        if let Some(number) = sighting.shown()
            && self.shown.as_ref().is_none_or(|(known, ..)| *known != number)
        {
            self.shown = Some((number, now, before.unwrap_or_else(|| sighting.clone())));
        }
        if self.returning.is_some() {
            return self.judge_return(sighting, now);
        }
        if self.in_flight.is_empty() {
            self.others.extend(refused);
            return self.judge_others(&others, sighting).or_else(|| self.late(now));
        }
        let types: BTreeSet<WitnessedType> = refused.difference(&self.others).copied().collect();
        if !types.is_empty() {
            return Some(self.refuse(types, now));
        }
        self.judge_shown(sighting, now).or_else(|| self.late(now))
    }

    /// What follows from whether others' updates are refused, while nothing is on its way.
    fn judge_others(&mut self, before: &BTreeSet<WitnessedType>, sighting: &Sightings) -> Option<Judgment<Undo>> {
        if !self.others.is_subset(before) {
            return Some(Judgment::StaysRefused);
        }
        if !self.others.is_empty() || before.is_empty() {
            return None;
        }
        let number = sighting.shown();
        let is_unclear = !std::mem::take(&mut self.unclear).is_empty();
        Some(number.filter(|_| is_unclear).map_or(Judgment::Later, Judgment::Taken))
    }

    /// Takes in that something was refused while batches are on their way.
    fn refuse(&mut self, types: BTreeSet<WitnessedType>, now: Instant) -> Judgment<Undo> {
        let mut undo = BTreeMap::new();
        for batch in std::mem::take(&mut self.in_flight) {
            for (key, before) in batch.undo {
                undo.entry(key).or_insert(before);
            }
        }
        let undo: BTreeMap<_, _> = undo.into_iter().filter_map(|(key, before)| Some((key, before?))).collect();
        self.is_new = false;
        if undo.is_empty() {
            // There is nothing that could be taken back.
            self.others.extend(types);
            return Judgment::StaysRefused;
        }
        self.returning = Some(Return { since: now, number: None });
        Judgment::Refused { undo, types }
    }

    /// Takes in that changes of the predecessor are refused, though the witness has accepted what came since.
    pub fn refuse_after_all(
        &mut self,
        undo: BTreeMap<ObjectKey, Undo>,
        types: BTreeSet<WitnessedType>,
        now: Instant,
    ) -> Judgment<Undo> {
        let undo = undo.into_iter().map(|(key, before)| (key, Some(before))).collect();
        self.in_flight.push_front(Batch { number: 0, began: now, undo });
        self.refuse(types, now)
    }

    /// Judges the batches up to the one that the witness shows.
    fn judge_shown(&mut self, sighting: &Sightings, now: Instant) -> Option<Judgment<Undo>> {
        let shown = sighting.shown()?;
        let first = self.in_flight.front()?.number;
        if shown < first {
            return None;
        }
        match self.standing_of(sighting, now)? {
            refused if refused.is_empty() => {}
            refused => return Some(self.refuse(refused, now)),
        }
        self.is_new = false;
        let taken = self.in_flight.partition_point(|batch| batch.number <= shown);
        for batch in self.in_flight.drain(..taken) {
            if !self.others.is_empty() {
                self.unclear.extend(batch.undo.into_keys());
            }
        }
        self.said = Claim::Awaited;
        Some(match self.others.is_empty() {
            true => {
                self.unclear.clear();
                Judgment::Taken(shown)
            }
            false => Judgment::Unclear(shown),
        })
    }

    /// The types of which the push with the marker was refused; none while more of the push is to come.
    fn standing_of(&self, sighting: &Sightings, now: Instant) -> Option<BTreeSet<WitnessedType>> {
        let mut awaited = BTreeSet::new();
        for (place, one) in sighting.0.iter().enumerate() {
            let at = one.marker.map(|marker| marker.at).unwrap_or_default();
            let types = [ResourceType::Clusters, ResourceType::Listeners].into_iter();
            let types = types.filter(|of| !self.others.contains(&(place, *of)) && one.of(*of).accepted_at < at);
            awaited.extend(types.map(|of| (place, of)));
        }
        if awaited.is_empty() {
            return Some(awaited);
        }
        let (.., before) = self.shown.as_ref().filter(|(_, since, _)| now.duration_since(*since) >= SETTLED)?;
        // Clusters have come, since the marker is one. Listeners may not have.
        let refused = sighting.refused_since(before);
        awaited.retain(|of| of.1 == ResourceType::Clusters || refused.contains(of));
        Some(awaited)
    }

    fn judge_return(&mut self, sighting: &Sightings, now: Instant) -> Option<Judgment<Undo>> {
        let returning = self.returning.as_ref()?;
        let is_over = now.duration_since(returning.since) >= LONGEST_RETURN;
        let shown = sighting.shown().filter(|shown| returning.number.is_some_and(|number| *shown >= number));
        let refused = match shown {
            Some(_) => self.standing_of(sighting, now)?,
            None if is_over => BTreeSet::new(),
            None => return None,
        };
        self.returning = None;
        if refused.is_empty() {
            return Some(Judgment::Returned);
        }
        self.others.extend(refused);
        Some(Judgment::StaysRefused)
    }

    /// Whether something else can be said of what is on its way, as time passes.
    fn late(&mut self, now: Instant) -> Option<Judgment<Undo>> {
        let is_silent = self.silent_since.is_some_and(|since| now.duration_since(since) >= PATIENCE);
        let began = self.in_flight.front().map(|batch| batch.began);
        let is_late = began.is_some_and(|began| now.duration_since(began) >= LATE);
        let claim = match (is_silent, is_late) {
            (true, _) if self.policy == WitnessPolicy::Prefer => Claim::Unreachable,
            (true, _) | (_, true) => Claim::Late,
            (false, false) => Claim::Awaited,
        };
        if claim == self.said || claim == Claim::Awaited {
            return None;
        }
        self.said = claim;
        Some(Judgment::Later)
    }
}

#[cfg(test)]
mod tests;
