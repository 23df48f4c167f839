//! How long the commands of one client take.

use super::stats::AnsweredCommand;
use crate::command::{self, Command};
use std::collections::VecDeque;
use std::time::Duration;

/// The times at which those commands of one client were read whose replies haven't been written.
#[derive(Debug, Default)]
pub struct LatencyTracker {
    /// The time at which the next command was read. It may be decided several times before it is
    /// taken, if it has to wait.
    begun: Option<Duration>,
    /// For each command in flight the number of its reply, its index in [`command::all`], and the
    /// time.
    in_flight: VecDeque<(u64, u16, Duration)>,
}

impl LatencyTracker {
    /// Notes that a command was read, unless that was noted already.
    pub fn begin(&mut self, now: Duration) {
        self.begun.get_or_insert(now);
    }

    /// Notes that the command was taken, and the number of its reply.
    pub fn taken(&mut self, sequence: u64, command: &'static Command) {
        if let (Some(begun), Some(index)) = (self.begun.take(), index(command)) {
            self.in_flight.push_back((sequence, index, begun));
        }
    }

    /// Notes that the command was taken and has no reply.
    pub fn unanswered(&mut self) {
        self.begun = None;
    }

    /// Records the commands whose numbers are less than `next`, since their replies have been
    /// written. `failed` has the numbers of those replies that were errors.
    pub fn stop(&mut self, next: u64, failed: &[u64], now: Duration, answered: &mut Vec<AnsweredCommand>) {
        while let Some((sequence, command, begun)) = self.in_flight.front().copied().filter(|(of, ..)| *of < next) {
            self.in_flight.pop_front();
            answered.push(AnsweredCommand {
                command,
                took: now.saturating_sub(begun),
                is_error: failed.contains(&sequence),
            });
        }
    }
}

/// Returns the index of a command in [`command::all`]; subcommands have none.
fn index(command: &'static Command) -> Option<u16> {
    let all = command::all();
    let offset = (std::ptr::from_ref(command) as usize).checked_sub(all.as_ptr() as usize)?;
    let index = offset / size_of::<Command>();
    (index < all.len()).then_some(index as u16)
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn rows_of_the_command_table_have_indexes() {
        for (number, command) in command::all().iter().enumerate() {
            assert_eq!(index(command), Some(number as u16));
            // Rows of subcommands are in other tables: the index would be that of another
            // command.
            assert!(command.subcommands.iter().all(|sub| index(sub).is_none()));
        }
    }

    #[test]
    fn replies_are_timed_in_their_order() {
        let get = command::lookup(b"get").unwrap();
        let at = Duration::from_millis;
        let (mut latency, mut answered) = (LatencyTracker::default(), Vec::new());
        latency.begin(at(1));
        // The command had to wait, and is decided again.
        latency.begin(at(2));
        latency.taken(7, get);
        latency.begin(at(3));
        latency.unanswered();
        latency.begin(at(4));
        latency.taken(8, get);
        latency.stop(7, &[], at(5), &mut answered);
        assert!(answered.is_empty());
        latency.stop(9, &[8], at(6), &mut answered);
        let found: Vec<(Duration, bool)> = answered.iter().map(|one| (one.took, one.is_error)).collect();
        assert_eq!(found, [(at(5), false), (at(2), true)]);
    }

    #[test]
    fn commands_without_a_time_or_an_index_are_not_recorded() {
        let (mut latency, mut answered) = (LatencyTracker::default(), Vec::new());
        latency.taken(0, command::lookup(b"get").unwrap());
        latency.begin(Duration::from_millis(1));
        latency.taken(1, command::lookup(b"client").unwrap().subcommands.first().unwrap());
        latency.stop(9, &[], Duration::from_millis(2), &mut answered);
        assert!(answered.is_empty());
        // A clock that goes back gives no negative time.
        latency.begin(Duration::from_millis(3));
        latency.taken(2, command::lookup(b"get").unwrap());
        latency.stop(9, &[], Duration::from_millis(2), &mut answered);
        assert_eq!(answered.first().map(|one| one.took), Some(Duration::ZERO));
    }
}
