//! What the controller knows of the witness and of the batches that it is to take.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::watch;

use crate::render::prepared_service::PreparedService;
use crate::run::http::HttpState;
use crate::run::names::ObjectKey;
use crate::run::state::StateChange;

use super::admin::WitnessAdmin;
use super::evidence::Suspects;
use super::ledger::{BatchLedger, Claim, Judgment, PATIENCE, ResourceType, Sighting};
use super::lookout::{self, Look};
use super::settings::WitnessPolicy;

/// The services in force of an object.
pub type ServicesInForce = Vec<Arc<PreparedService>>;

/// The witness, and the changes that it hasn't been seen with.
pub struct Witness {
    /// The admin interface of the proxy.
    pub admin: WitnessAdmin,
    /// The batches on their way.
    pub ledger: BatchLedger<ServicesInForce>,
    /// What follows from the last look and is still to be carried out.
    pub judgment: Option<Judgment<ServicesInForce>>,
    /// The objects of the refused batches, while these are being taken back.
    pub suspects: Suspects,
    /// The root namespace in which the marker was written that the witness has shown.
    pub proven_root: Option<String>,
    /// The time of the last update of clusters that the witness accepted while nothing was on its way,
    /// in milliseconds since 1970 by its clock.
    pub taken_at: u64,
    /// What changed objects were before, as long as not all of the change is written; none where
    /// that isn't known.
    open: BTreeMap<ObjectKey, Option<ServicesInForce>>,
    /// Objects of which something was written since the last marker.
    touched: BTreeSet<ObjectKey>,
    has_written: bool,
    /// True when all objects have been in force once since this replica leads.
    is_complete: bool,
    looks: watch::Receiver<Look>,
    haste: watch::Sender<bool>,
}

impl Witness {
    /// Begins to look at the proxy.
    pub fn start(admin: WitnessAdmin, policy: WitnessPolicy, http: Arc<HttpState>) -> Witness {
        let (sender, looks) = watch::channel(None);
        let (haste, hasty) = watch::channel(true);
        let tell = move |is_up| http.metrics.set_witness_up(is_up);
        tokio::spawn(lookout::run(admin.clone(), sender, hasty, tell));
        Witness {
            admin,
            ledger: BatchLedger::new(policy, Instant::now()),
            judgment: None,
            suspects: Suspects::default(),
            proven_root: None,
            taken_at: 0,
            open: BTreeMap::new(),
            touched: BTreeSet::new(),
            has_written: false,
            is_complete: false,
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
            && let Ok(sighting) = self.admin.look().await
        {
            self.take(Some(sighting));
        }
    }

    fn take(&mut self, sighting: Option<Sighting>) -> bool {
        let now = Instant::now();
        let judgment = match sighting {
            Some(sighting) => self.ledger.see(sighting, now),
            None => self.ledger.lose(now),
        };
        if let Some(sighting) = sighting
            && !self.ledger.is_waiting()
        {
            self.taken_at = sighting.of(ResourceType::Clusters).accepted_at;
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
        self.open.clear();
        self.touched.clear();
        self.judgment = None;
        self.ledger.forget();
        (self.has_written, self.is_complete) = (false, false);
    }

    /// Records changes that are about to be written.
    pub fn note(&mut self, changes: &[(ObjectKey, StateChange)]) {
        for (key, change) in changes {
            let is_gone = change.after.is_empty();
            let before = (self.is_complete && !is_gone).then(|| change.before.clone());
            self.open.entry(key.clone()).or_insert(before);
        }
    }

    /// Records that an object was written or deleted.
    pub fn touch(&mut self, subjects: &[ObjectKey]) {
        self.has_written = true;
        self.touched.extend(subjects.iter().cloned());
    }

    /// True if a marker is to be written.
    pub fn is_marker_due(&self, is_finished: bool) -> bool {
        let is_first = is_finished && !self.is_complete;
        match self.ledger.is_returning() {
            true => is_finished && self.ledger.awaits_return(),
            false => self.has_written || is_first,
        }
    }

    /// Records that the marker with this number was written.
    pub fn marked(&mut self, number: u64) {
        if self.ledger.is_returning() {
            self.ledger.returned(number);
        } else {
            let touched = self.open.iter().filter(|(key, _)| self.touched.contains(*key));
            let undo = touched.map(|(key, before)| (key.clone(), before.clone())).collect();
            self.ledger.begin(number, undo, Instant::now());
        }
        self.has_written = false;
        self.hurry();
    }

    /// Records that no operation is left for the next sync. Where any has failed, only objects of which
    /// something was written are known to have been written.
    pub fn finished(&mut self, is_clean: bool) {
        let touched = std::mem::take(&mut self.touched);
        self.open.retain(|key, _| !is_clean && !touched.contains(key));
        self.is_complete = true;
    }

    /// What can be said of an object whose configuration was written, or is to be.
    pub fn claim(&self, key: &ObjectKey) -> Claim {
        match self.ledger.is_returning() {
            true => Claim::Awaited,
            false if self.open.contains_key(key) && self.ledger.forbids_writing() => Claim::Forbidden,
            false => self.ledger.claim(key),
        }
    }

    /// True from when this replica begins to lead until all objects have been in force once.
    pub fn is_beginning(&self) -> bool {
        !self.is_complete
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
