//! The objects that have to be evaluated again.

use std::collections::BTreeSet;

use super::names::{ObjectKey, ObjectKind};
use super::store::Store;

/// Objects that have to be evaluated again, each once.
#[derive(Default)]
pub struct EvaluationQueue {
    keys: BTreeSet<ObjectKey>,
}

impl EvaluationQueue {
    /// Adds objects.
    pub fn add(&mut self, keys: impl IntoIterator<Item = ObjectKey>) {
        self.keys.extend(keys);
    }

    /// Returns the objects and leaves the queue empty.
    pub fn take(&mut self, store: &Store) -> BTreeSet<ObjectKey> {
        // A RedisDestination is part of the evaluation of the objects that route to its
        // host.
        let destinations = self.keys.iter().filter(|key| key.kind == ObjectKind::Destination);
        let affected: Vec<ObjectKey> = destinations.flat_map(|key| store.affected_by(key)).collect();
        self.keys.extend(affected);
        std::mem::take(&mut self.keys)
    }
}
