//! When bytes have come of a client that couldn't be taken at once.
//!
//! A command waits for a node of a Redis Cluster for as long as it may, counted from when it has come:
//! those behind it have waited just as long, and don't wait anew.

use std::collections::VecDeque;
use std::time::Duration;

/// Bytes that have come within this time count as one piece.
const PIECE: Duration = Duration::from_millis(20);

/// The bytes of a client that wait to be taken.
#[derive(Debug, Default)]
pub struct Arrivals {
    /// How many have come at which time, the oldest first.
    pieces: VecDeque<(Duration, usize)>,
    /// Since when commands before them have waited for a node, in vain.
    waited_since: Option<Duration>,
}

impl Arrivals {
    /// True if nothing waits.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// So many bytes wait now.
    pub fn note(&mut self, bytes: usize, now: Duration) {
        let known: usize = self.pieces.iter().map(|(_, bytes)| bytes).sum();
        let more = bytes.saturating_sub(known);
        match self.pieces.back_mut() {
            _ if more == 0 => {}
            Some((time, last)) if now.saturating_sub(*time) < PIECE => *last += more,
            _ => self.pieces.push_back((now, more)),
        }
    }

    /// So many of the first bytes were taken.
    pub fn taken(&mut self, mut bytes: usize) {
        while let Some((_, first)) = self.pieces.front_mut() {
            if *first > bytes {
                *first -= bytes;
                return;
            }
            bytes -= *first;
            self.pieces.pop_front();
        }
        *self = Arrivals::default();
    }

    /// A command has waited for a node since then, and none has executed it.
    pub fn waited_in_vain(&mut self, since: Duration) {
        if !self.is_empty() {
            self.waited_since = Some(self.waited_since.map_or(since, |before| before.min(since)));
        }
    }

    /// Since when a command has waited for a node whose last byte has this place: since it has come,
    /// but not longer than those before it. `None`: nothing has waited.
    pub fn since(&self, end: usize) -> Option<Duration> {
        let waited_since = self.waited_since?;
        let mut before = 0;
        let piece = self.pieces.iter().find(|(_, bytes)| {
            before += bytes;
            end <= before
        });
        piece.map(|(time, _)| waited_since.max(*time))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn what_has_come_later_waits_for_longer() {
        let (mut arrivals, at) = (Arrivals::default(), Duration::from_millis);
        arrivals.waited_in_vain(at(1));
        arrivals.note(100, at(1000));
        assert_eq!(arrivals.since(10), None);
        arrivals.waited_in_vain(at(900));
        arrivals.note(100, at(1500));
        arrivals.note(150, at(2000));
        arrivals.note(160, at(2010));
        let since =
            |arrivals: &Arrivals, ends: [usize; 4]| ends.map(|end| arrivals.since(end).map(|at| at.as_millis()));
        assert_eq!(since(&arrivals, [1, 100, 101, 161]), [Some(1000), Some(1000), Some(2000), None]);
        arrivals.taken(30);
        assert_eq!(since(&arrivals, [70, 71, 130, 131]), [Some(1000), Some(2000), Some(2000), None]);
        // Those before have waited since later.
        let mut late = Arrivals::default();
        late.note(10, at(500));
        late.waited_in_vain(at(800));
        assert_eq!(late.since(10), Some(at(800)));
        arrivals.taken(130);
        assert!(arrivals.is_empty() && arrivals.since(1).is_none());
    }
}
