//! What servers have executed. Commands bear tokens, by which they are found again.

use super::store::{Args, Key};
use std::collections::BTreeMap;
use std::time::Duration;

/// A command that was executed.
#[derive(Clone, Debug)]
pub struct Execution {
    /// Its number among all.
    pub number: u64,
    pub at: Duration,
    /// Which Redis, or Redis Cluster.
    pub site: usize,
    /// By a master.
    pub by_master: bool,
    pub db: u32,
    pub resp3: bool,
    pub args: Args,
    pub reply: Vec<u8>,
    /// The transaction that it was part of.
    pub transaction: Option<u64>,
}

#[derive(Default)]
pub struct Journal {
    number: u64,
    pub executions: Vec<Execution>,
    by_token: BTreeMap<u64, Vec<usize>>,
    /// When a key was changed, and by whom.
    changes: BTreeMap<(usize, Key), Vec<u64>>,
}

/// Whose a command is: what stands behind `#` in an argument, or the number that can be anything.
pub fn token(args: &Args) -> Option<u64> {
    let number = |text: &[u8]| std::str::from_utf8(text).ok()?.parse::<u64>().ok();
    match args[0].to_ascii_lowercase().as_slice() {
        b"incrby" => number(args.get(2)?),
        b"getrange" | b"lrange" => number(args.get(3)?),
        b"scan" => number(args.last()?),
        b"blpop" => {
            let text = args.last()?;
            number(text.get(text.len().checked_sub(7)?..)?)
        }
        _ => args.iter().find_map(|arg| number(arg.split(|byte| *byte == b'#').nth(1)?)),
    }
}

impl Journal {
    pub fn next(&mut self) -> u64 {
        self.number += 1;
        self.number
    }

    pub fn add(&mut self, execution: Execution) {
        if let Some(token) = token(&execution.args) {
            self.by_token.entry(token).or_default().push(self.executions.len());
        }
        self.executions.push(execution);
    }

    /// Where a command was executed.
    pub fn of(&self, token: u64) -> Vec<&Execution> {
        let found = self.by_token.get(&token).map(Vec::as_slice).unwrap_or_default();
        found.iter().map(|index| &self.executions[*index]).collect()
    }

    pub fn changed(&mut self, site: usize, key: Key) {
        let number = self.number;
        self.changes.entry((site, key)).or_default().push(number);
    }

    /// True if a key was changed after one execution and before another.
    pub fn has_changed(&self, site: usize, key: &Key, after: u64, before: u64) -> bool {
        let changes = self.changes.get(&(site, key.clone())).map(Vec::as_slice).unwrap_or_default();
        changes.iter().any(|number| (after + 1..before).contains(number))
    }
}
