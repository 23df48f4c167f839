//! What the controller knows of the witness and of the batches that it is to take.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::watch;

use crate::render::prepared_service::PreparedService;
use crate::run::http::HttpState;
use crate::run::names::{ObjectKey, RenderedKey};
use crate::run::state::StateChange;

use super::admin::WitnessAdmin;
use super::evidence::Suspects;
use super::journal::UndoJournal;
use super::ledger::{BatchLedger, Claim, Judgment, PATIENCE, ResourceType, Sightings};
use super::lookout::{self, Look};
use super::settings::WitnessPolicy;

/// The services in force of an object.
pub type ServicesInForce = Vec<Arc<PreparedService>>;

/// What an object was before a batch.
#[derive(Clone)]
pub enum FormerState {
    /// These services were in force.
    InForce(ServicesInForce),
    /// What was in force isn't known; the journal has what was rendered.
    InJournal,
}

/// Changes that aren't all written yet.
#[derive(Default)]
struct OpenChanges {
    /// What changed objects were before, as long as not all of the change is written; none where
    /// nothing can be taken back.
    before: BTreeMap<ObjectKey, Option<FormerState>>,
    /// Objects of which something is about to be written.
    begun: BTreeSet<ObjectKey>,
    /// Objects of which something was written since the last marker.
    touched: BTreeSet<ObjectKey>,
    /// Objects whose changes the predecessor had written and hadn't seen taken, until this replica has.
    inherited: BTreeSet<ObjectKey>,
    /// Objects of which it isn't known what was in force before a change that hasn't been taken yet.
    unknown: BTreeSet<ObjectKey>,
    has_written: bool,
    /// True when all objects have been in force once since this replica leads.
    is_complete: bool,
}

/// The witness, and the changes that it hasn't been seen with.
pub struct Witness {
    /// The admin interfaces of the proxies: one for each revision of Istio.
    pub admins: Arc<[WitnessAdmin]>,
    /// The batches on their way.
    pub ledger: BatchLedger<FormerState>,
    /// What was there before them.
    pub journal: UndoJournal,
    /// What follows from the last look and is still to be carried out.
    pub judgment: Option<Judgment<FormerState>>,
    /// The objects of the refused batches, while these are being taken back.
    pub suspects: Suspects,
    /// The root namespace in which the marker was written that the witness has shown.
    pub proven_root: Option<String>,
    /// For each proxy, the time of the last update of clusters that it accepted while nothing was on its
    /// way, in milliseconds since 1970 by its clock.
    pub taken_at: Vec<u64>,
    changes: OpenChanges,
    looks: watch::Receiver<Look>,
    haste: watch::Sender<bool>,
}

impl Witness {
    /// Begins to look at the proxies.
    pub fn start(
        admins: Vec<WitnessAdmin>,
        policy: WitnessPolicy,
        journal: UndoJournal,
        http: Arc<HttpState>,
    ) -> Witness {
        let (sender, looks) = watch::channel(None);
        let (haste, hasty) = watch::channel(true);
        let tell = move |is_up| http.metrics.set_witness_up(is_up);
        let admins: Arc<[WitnessAdmin]> = admins.into();
        tokio::spawn(lookout::run(admins.clone(), sender, hasty, tell));
        Witness {
            taken_at: vec![0; admins.len()],
            admins,
            ledger: BatchLedger::new(policy, Instant::now()),
            journal,
            judgment: None,
            suspects: Suspects::default(),
            proven_root: None,
            changes: OpenChanges::default(),
            looks,
            haste,
        }
    }

    /// Returns after the next look.
    pub async fn looked(&mut self) {
        if self.looks.changed().await.is_err() {
            std::future::pending().await
        }
    }

    /// Takes in the last look. True if there is something to be done.
    pub fn take_look(&mut self) -> bool {
        let look = self.looks.borrow_and_update().clone();
        match look {
            None => false,
            Some(Ok(sighting)) => self.take(Some(sighting)),
            Some(Err(_)) => self.take(None),
        }
    }

    /// Looks at once, before anything is written: what has changed until now isn't of the next batch.
    pub async fn look(&mut self) {
        if !self.ledger.is_waiting()
            && self.ledger.silent_since().is_none()
            && let Ok(sighting) = lookout::look(&self.admins).await
        {
            self.take(Some(sighting));
        }
    }

    fn take(&mut self, sightings: Option<Sightings>) -> bool {
        let now = Instant::now();
        let accepted = |sightings: &Sightings| {
            sightings.0.iter().map(|one| one.of(ResourceType::Clusters).accepted_at).collect::<Vec<u64>>()
        };
        let accepted = sightings.as_ref().map(accepted);
        let judgment = match sightings {
            Some(sightings) => self.ledger.see(sightings, now),
            None => self.ledger.lose(now),
        };
        if let Some(accepted) = accepted
            && !self.ledger.is_waiting()
        {
            self.taken_at = accepted;
        }
        // A judgment of changes that is still to be carried out is the last one before a sync.
        self.judgment = judgment.or(self.judgment.take());
        self.hurry();
        self.judgment.is_some()
    }

    /// Why the witness hasn't answered the last time.
    pub fn silence(&self) -> Option<Arc<str>> {
        self.looks.borrow().clone()?.err()
    }

    /// Records that this replica doesn't write any more, so that it doesn't know what is written.
    pub fn rest(&mut self) {
        self.changes = OpenChanges::default();
        self.judgment = None;
        self.suspects = Suspects::default();
        self.ledger.forget();
        self.journal.rest();
    }

    /// Takes over changes that the predecessor hadn't seen taken.
    pub fn inherit(&mut self, changed: BTreeSet<ObjectKey>) {
        if changed.is_empty() {
            return;
        }
        self.ledger.inherit();
        self.changes.inherited.clone_from(&changed);
        // Some of it may have been written.
        self.changes.touched.extend(changed.iter().cloned());
        self.changes.before.extend(changed.into_iter().map(|key| (key, Some(FormerState::InJournal))));
    }

    /// The objects whose changes the predecessor had written and hadn't seen taken.
    pub fn inherited(&self) -> &BTreeSet<ObjectKey> {
        &self.changes.inherited
    }

    /// Records that what is in force of an object isn't known.
    pub fn doubt(&mut self, key: ObjectKey) {
        self.changes.unknown.insert(key);
    }

    /// Records changes that are about to be written.
    pub fn note(&mut self, changes: &[(ObjectKey, StateChange)]) {
        for (key, change) in changes {
            let is_known = self.changes.is_complete && !self.changes.unknown.contains(key);
            let before = match change.after.is_empty() {
                true => None,
                false if is_known => Some(FormerState::InForce(change.before.clone())),
                false => Some(FormerState::InJournal),
            };
            self.changes.before.entry(key.clone()).or_insert(before);
        }
    }

    /// Records that something is about to be written that follows from these.
    pub fn begin(&mut self, subjects: impl Iterator<Item = ObjectKey>) {
        self.changes.begun.extend(subjects);
    }

    /// Records that a rendered object was written or deleted, which follows from these.
    pub fn touch(&mut self, rendered: &RenderedKey, subjects: &[ObjectKey]) {
        self.changes.has_written = true;
        self.changes.touched.extend(subjects.iter().cloned());
        self.journal.performed(rendered);
    }

    /// True if a marker is to be written.
    pub fn is_marker_due(&self, is_finished: bool) -> bool {
        let is_first = is_finished && !self.changes.is_complete;
        match self.ledger.is_returning() {
            true => is_finished && self.ledger.awaits_return() && self.suspects.restoring.is_empty(),
            false => self.changes.has_written || is_first,
        }
    }

    /// Records that the marker with this number was written.
    pub fn marked(&mut self, number: u64) {
        if self.ledger.is_returning() {
            self.ledger.returned(number);
        } else {
            let touched = self.changes.before.iter().filter(|(key, _)| self.changes.touched.contains(*key));
            let is_whole = self.journal.is_whole();
            let possible = |before: &FormerState| is_whole || matches!(before, FormerState::InForce(_));
            let undo = touched.map(|(key, before)| (key.clone(), before.clone().filter(possible))).collect();
            self.ledger.begin(number, undo, Instant::now());
        }
        self.journal.marked(number);
        self.changes.has_written = false;
        self.hurry();
    }

    /// Records that no operation is left for the next sync. Where any has failed, only objects of which
    /// something was written are known to have been written.
    pub fn finished(&mut self, is_clean: bool) {
        let touched = std::mem::take(&mut self.changes.touched);
        self.changes.before.retain(|key, _| !is_clean && !touched.contains(key));
        self.changes.is_complete = true;
        self.changes.begun.clear();
        self.journal.finished();
    }

    /// Stores what is on its way, so that another replica can take it back.
    pub async fn store(&mut self) {
        let changes = &self.changes;
        let changed = changes.begun.iter().chain(&changes.touched).filter(|key| changes.before.contains_key(*key));
        let changed: BTreeSet<ObjectKey> = changed.chain(self.ledger.on_their_way()).cloned().collect();
        self.journal.store(changed.iter()).await;
    }

    /// Records that the witness has taken the batches up to this number, or refuses things of others. What
    /// is in force is known then of all objects but these.
    pub async fn settle(&mut self, number: Option<u64>, is_withheld: impl Fn(&ObjectKey) -> bool) {
        match number {
            Some(number) => self.journal.taken(number),
            None => self.journal.clear(),
        }
        self.changes.inherited.clear();
        if !self.ledger.is_waiting() {
            self.changes.unknown.retain(is_withheld);
        }
        self.store().await;
    }

    /// What can be said of an object whose configuration was written, or is to be.
    pub fn claim(&self, key: &ObjectKey) -> Claim {
        match self.ledger.is_returning() {
            true => Claim::Awaited,
            false if self.changes.before.contains_key(key) && self.ledger.forbids_writing() => Claim::Forbidden,
            false => self.ledger.claim(key),
        }
    }

    /// True from when this replica begins to lead until all objects have been in force once.
    pub fn is_beginning(&self) -> bool {
        !self.changes.is_complete
    }

    /// True if the witness hasn't answered for so long that it isn't waited for any more.
    pub fn is_silent(&self) -> bool {
        self.ledger.silent_since().is_some_and(|since| since.elapsed() >= PATIENCE)
    }

    fn hurry(&self) {
        let is_hasty = self.ledger.is_waiting() || self.ledger.silent_since().is_some();
        self.haste.send_if_modified(|known| std::mem::replace(known, is_hasty) != is_hasty);
    }
}
