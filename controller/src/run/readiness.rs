//! Whether a replica is ready, and what keeps it from writing.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Instant;

/// A condition that has to hold before a replica may write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum WriteObstacle {
    /// The root namespace isn't known.
    Root,
    /// Another installation writes to the mesh.
    Installation,
    /// Not every kind has been listed.
    Listing,
}

/// The readiness of a replica.
///
/// A replica that has become ready stays ready: sidecars that start fetch the filter from it,
/// whether or not it may write at the moment.
pub struct Readiness(Mutex<ReadinessState>);

struct ReadinessState {
    has_been_ready: bool,
    found_ready: Option<Instant>,
    obstacles: BTreeMap<WriteObstacle, String>,
}

impl Default for Readiness {
    fn default() -> Readiness {
        let obstacles = [
            (WriteObstacle::Root, "Istio's mesh configuration hasn't been read yet"),
            (WriteObstacle::Installation, "the Lease of the mesh hasn't been read yet"),
            (WriteObstacle::Listing, "not every kind has been listed yet; the log names watches that are broken"),
        ];
        let obstacles = obstacles.map(|(obstacle, words)| (obstacle, words.to_owned()));
        Readiness(Mutex::new(ReadinessState { has_been_ready: false, found_ready: None, obstacles: obstacles.into() }))
    }
}

impl Readiness {
    /// Sets an obstacle in words, or takes it away.
    pub fn set(&self, obstacle: WriteObstacle, words: Option<String>) {
        let mut state = self.state();
        match words {
            Some(words) => drop(state.obstacles.insert(obstacle, words)),
            None => drop(state.obstacles.remove(&obstacle)),
        }
        state.has_been_ready |= state.obstacles.is_empty();
    }

    /// The words about a replica that is ready, or as the error about one that isn't.
    pub fn words(&self) -> Result<String, String> {
        let state = self.state();
        let obstacles: Vec<&str> = state.obstacles.values().map(String::as_str).collect();
        let obstacles = obstacles.join("\n");
        match (state.has_been_ready, obstacles.is_empty()) {
            (true, true) => Ok("ok\n".to_owned()),
            (true, false) => Ok(format!("serving the filter, and nothing else:\n{obstacles}\n")),
            (false, _) => Err(format!("{obstacles}\n")),
        }
    }

    /// The words for somebody who has asked, and who counts on the replica from now on if it is ready.
    pub fn answer(&self) -> Result<String, String> {
        let words = self.words();
        if words.is_ok() {
            self.state().found_ready.get_or_insert_with(Instant::now);
        }
        words
    }

    /// The time at which somebody first found that the replica is ready.
    pub fn found_ready(&self) -> Option<Instant> {
        self.state().found_ready
    }

    fn state(&self) -> std::sync::MutexGuard<'_, ReadinessState> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_is_ready_from_when_nothing_keeps_it_from_writing() {
        let readiness = Readiness::default();
        readiness.set(WriteObstacle::Listing, None);
        readiness.set(WriteObstacle::Root, None);
        readiness.set(WriteObstacle::Installation, Some("another one writes".to_owned()));
        assert_eq!(readiness.words(), Err("another one writes\n".to_owned()));
        readiness.set(WriteObstacle::Installation, None);
        assert_eq!(readiness.words(), Ok("ok\n".to_owned()));
        assert_eq!(readiness.found_ready(), None);
        assert!(readiness.answer().is_ok() && readiness.found_ready().is_some());
        readiness.set(WriteObstacle::Root, Some("no root".to_owned()));
        assert!(readiness.words().is_ok_and(|words| words.contains("no root")));
    }
}
