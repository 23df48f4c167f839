//! The goals of the native path, and the results.

use crate::idle::Idle;
use crate::kind::Kind;
use crate::memory::{self, Memory};
use crate::paths::Paths;
use crate::samples::Spread;
use crate::work::{Request, WORKS};

/// A goal.
#[derive(Debug)]
pub struct Goal {
    /// The measured quantity.
    pub what: String,
    /// The highest value that reaches the goal.
    pub most: f64,
    /// The result, or `None` if it wasn't measured.
    pub found: Option<Found>,
}

/// The result for a goal.
#[derive(Debug)]
pub enum Found {
    /// A value for each round.
    Rounds(Spread),
    /// One value.
    Once(f64),
}

impl Goal {
    /// Whether the goal is reached, or `None` if it wasn't measured.
    pub fn verdict(&self) -> &'static str {
        match self.found.as_ref().map(|found| found.value() <= self.most) {
            Some(true) => "reached",
            Some(false) => "**missed**",
            None => "not measured",
        }
    }
}

impl Found {
    fn value(&self) -> f64 {
        match self {
            Found::Rounds(spread) => spread.median,
            Found::Once(value) => *value,
        }
    }

    /// Formats the result for the report.
    pub fn text(&self) -> String {
        match self {
            // Finer than the goals, so that none seems to be missed by what it allows.
            Found::Rounds(Spread { low, median, high }) => format!("{median:.3} ({low:.3}–{high:.3})"),
            Found::Once(value) if value.fract() == 0.0 => format!("{value}"),
            Found::Once(value) => format!("{value:.3}"),
        }
    }
}

/// Returns all goals.
pub fn goals(paths: Option<&Paths>, memory: Option<&Memory>, idle: Option<&Idle>) -> Vec<Goal> {
    let mut goals = Vec::new();
    for work in WORKS {
        if let Some(most) = work.goal {
            let found = paths
                .and_then(|paths| paths.samples(work, Kind::Native)?.cpu_ratio(paths.samples(work, Kind::RedisProxy)?));
            let what = format!("{}: CPU time per request, native : redis_proxy", work.title());
            goals.push(Goal { what, most, found: found.map(Found::Rounds) });
        }
        if work.request == Request::Transaction {
            let found = paths.and_then(|paths| paths.samples(work, Kind::Native)?.connections());
            let what = "new connections to Redis per 1,000 transactions".to_string();
            goals.push(Goal { what, most: 0.0, found: found.map(|found| Found::Once(found * 1000.0)) });
        }
    }
    let row = memory.and_then(|memory| memory.row(Kind::Native));
    let megabytes = |bytes: u64| Found::Once(bytes as f64 / f64::from(1 << 20));
    let what = |what| format!("{what}: resident memory above idle, MB");
    let unread = row.map(|row| megabytes(row.unread));
    goals.push(Goal { what: what("replies of 1 GB that a client doesn't read"), most: memory::GOAL, found: unread });
    let stopped = row.map(|row| megabytes(row.stopped));
    goals.push(Goal { what: what("1 GB of SETs while Redis stands still"), most: memory::GOAL, found: stopped });
    let ratio = idle.and_then(|idle| Some(idle.row(Kind::Native)?.resident / idle.row(Kind::RedisProxy)?.resident));
    let what = "resident memory of an idle client, native : redis_proxy".to_string();
    goals.push(Goal { what, most: 1.0, found: ratio.map(Found::Once) });
    goals
}
