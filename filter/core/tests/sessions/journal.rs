//! The journal of executed commands. Commands contain tokens by which their executions are found.

use super::store::{Args, Key};
use std::collections::BTreeMap;
use std::time::Duration;

/// The execution of a command.
#[derive(Clone, Debug)]
pub struct Execution {
    /// The number of the execution in the order of all executions.
    pub number: u64,
    pub at: Duration,
    /// The index of the site.
    pub site: usize,
    /// True if a master executed the command.
    pub by_master: bool,
    pub db: u32,
    pub resp3: bool,
    pub args: Args,
    pub reply: Vec<u8>,
    /// The number of the transaction that the command was part of.
    pub transaction: Option<u64>,
}

/// The numbers and times of the executions that changed a key.
pub type Changes = Vec<(u64, Duration)>;

/// The executions at all sites, or at all mirrors.
#[derive(Default)]
pub struct Journal {
    number: u64,
    pub executions: Vec<Execution>,
    by_token: BTreeMap<u64, Vec<usize>>,
    /// For each key the executions that changed it.
    changes: BTreeMap<(usize, Key), Changes>,
}

/// Returns the token of a command: the digits after `#` in an argument, or a number that can have
/// any value.
pub fn token(args: &Args) -> Option<u64> {
    let number = |text: &[u8]| std::str::from_utf8(text).ok()?.parse::<u64>().ok();
    match args[0].to_ascii_lowercase().as_slice() {
        b"incrby" => number(args.get(2)?),
        b"getrange" | b"lrange" => number(args.get(3)?),
        b"scan" => number(args.last()?),
        _ => args.iter().find_map(|arg| number(arg.split(|byte| *byte == b'#').nth(1)?)),
    }
}

impl Journal {
    /// Returns the next number.
    pub fn next(&mut self) -> u64 {
        self.number += 1;
        self.number
    }

    /// Records an execution.
    pub fn add(&mut self, execution: Execution) {
        if let Some(token) = token(&execution.args) {
            self.by_token.entry(token).or_default().push(self.executions.len());
        }
        self.executions.push(execution);
    }

    /// Returns the executions of the command with this token.
    pub fn of(&self, token: u64) -> Vec<&Execution> {
        let found = self.by_token.get(&token).map(Vec::as_slice).unwrap_or_default();
        found.iter().map(|index| &self.executions[*index]).collect()
    }

    /// Records that the execution with the last number has changed a key.
    pub fn changed(&mut self, site: usize, key: Key, now: Duration) {
        let number = self.number;
        self.changes.entry((site, key)).or_default().push((number, now));
    }

    /// Returns true if a key was changed after one execution and before another.
    pub fn has_changed(&self, site: usize, key: &Key, after: u64, before: u64) -> bool {
        self.changes(site, key).iter().any(|(number, _)| (after + 1..before).contains(number))
    }

    /// Returns the executions that changed a key.
    pub fn changes(&self, site: usize, key: &Key) -> &[(u64, Duration)] {
        self.changes.get(&(site, key.clone())).map(Vec::as_slice).unwrap_or_default()
    }

    /// Returns the executions that changed keys, for all keys of all sites.
    pub fn all_changes(&self) -> impl Iterator<Item = (&(usize, Key), &Changes)> {
        self.changes.iter()
    }

    /// Returns true if a key of this name was changed by then, in any database.
    pub fn has_changed_by(&self, site: usize, name: &[u8], until: Duration) -> bool {
        let is_early = |changes: &Changes| changes.iter().any(|(_, at)| *at <= until);
        self.all_changes().any(|((of, (_, key)), changes)| *of == site && key == name && is_early(changes))
    }
}
