//! The progress of watches: what they list, and which of them are broken.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use tracing::{debug, info, warn};

use crate::inventory::NamespacedName;

use super::source::WatchSource;

/// The time after which the log repeats that a watch is broken.
const REMIND: Duration = Duration::from_secs(600);

/// The progress of all watches.
#[derive(Default)]
pub struct Listings {
    /// Sources that have never been listed as a whole.
    unlisted: BTreeSet<WatchSource>,
    /// The objects that sources which are being listed have shown so far.
    listing: BTreeMap<WatchSource, BTreeSet<NamespacedName>>,
    /// The last error of broken watches, and when it was logged.
    broken: BTreeMap<WatchSource, (String, Instant)>,
}

impl Listings {
    /// Adds a source whose list is needed before anything is written.
    pub fn require(&mut self, source: WatchSource) {
        self.unlisted.insert(source);
    }

    /// True if every required source has been listed.
    pub fn is_complete(&self) -> bool {
        self.unlisted.is_empty()
    }

    /// Records that a source begins to list its objects.
    pub fn begin(&mut self, source: WatchSource) {
        self.listing.insert(source, BTreeSet::new());
    }

    /// Records that a source has shown an object.
    pub fn show(&mut self, source: &WatchSource, name: &NamespacedName) {
        if let Some(shown) = self.listing.get_mut(source) {
            shown.insert(name.clone());
        }
    }

    /// Records that a source has listed all of its objects. Returns their names.
    pub fn end(&mut self, source: &WatchSource) -> BTreeSet<NamespacedName> {
        let shown = self.listing.remove(source).unwrap_or_default();
        if self.broken.remove(source).is_some() {
            info!(source = source.name(), "the watch works again");
        }
        if self.unlisted.remove(source) {
            debug!(source = source.name(), objects = shown.len(), "listed");
        }
        shown
    }

    /// Logs that a watch is broken: once for each error, and now and then while it lasts.
    pub fn fail(&mut self, source: &WatchSource, error: &str) {
        let known = self.broken.get(source);
        if known.is_some_and(|(known, logged)| known == error && logged.elapsed() < REMIND) {
            debug!(source = source.name(), error, "the watch is still broken");
            return;
        }
        warn!(source = source.name(), error, "the watch is broken and will be opened again");
        self.broken.insert(source.clone(), (error.to_owned(), Instant::now()));
    }

    /// Forgets a source whose watch was closed.
    pub fn close(&mut self, source: &WatchSource) {
        self.broken.remove(source);
    }
}
