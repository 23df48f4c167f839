//! Random sessions of several clients with the multiplexer, before servers that fail, lose
//! connections and move slots, under one clock.
//!
//! Each run follows from its seed. The servers are a small reference of Redis that records what
//! it executes; commands contain tokens by which their executions are found. Each client has to
//! receive the reply to what was executed for it, in order and once, or an error if there was
//! trouble; at the end of a run nothing may be left over in the multiplexer.
//!
//! | variable | meaning |
//! |---|---|
//! | `RUNS=20000` | the number of runs, 1,000 if absent (about a minute) |
//! | `FIRST=1000` | the seed of the first run, 0 if absent |
//! | `SEED=7` | one run with this seed, which prints each event |
//!
//! A run that fails prints the command that replays it:
//! `SEED=7 cargo test -p redis-mesh-core --test sessions -- --nocapture`.
//!
//! `world` has the clock and the events, `setup` the random configuration, `script` and `caller`
//! the clients, `servers`, `cluster`, `connection`, `tracking`, `store` and `journal` the servers, `trouble`
//! the failures, and `check`, `commands`, `keyless` and `caching` the checks at the end of a run.
#![allow(clippy::panic, clippy::unwrap_used, clippy::expect_used, reason = "a test fails by it")]
#![allow(missing_docs, reason = "no other crate uses it")]
#![cfg(not(target_arch = "wasm32"))]

mod caching;
mod caller;
mod check;
mod cluster;
mod commands;
mod connection;
mod journal;
mod keyless;
mod script;
mod servers;
mod setup;
mod store;
mod tracking;
mod trouble;
mod world;

use std::time::Duration;
use world::World;

/// The number of runs.
const RUNS: u64 = 1_000;

/// Prints how to replay the run if it panics.
struct ReplayHint(u64);

impl Drop for ReplayHint {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("run {0}: SEED={0} cargo test -p redis-mesh-core --test sessions -- --nocapture", self.0);
        }
    }
}

/// The sum over all runs, so that the test fails if it has checked too little.
#[derive(Debug, Default)]
struct Totals {
    commands: usize,
    replies: usize,
    messages: usize,
    errors: usize,
    executions: usize,
    copies: usize,
    invalidations: usize,
}

fn run(seed: u64, is_verbose: bool, totals: &mut Totals) {
    let _hint = ReplayHint(seed);
    let mut world = World::new(seed, is_verbose);
    for _ in 0..2 + world.random.below(4) {
        world.connect();
    }
    world.plan();
    world.run(Duration::from_secs(60));
    for (number, caller) in world.callers.iter().enumerate() {
        match check::Checker::new(&world, caller).check() {
            Ok(errors) => totals.errors += errors,
            Err(text) => panic!("client {number}: {text}"),
        }
        totals.commands += caller.sent.len();
        totals.replies += caller.replies.len();
        totals.messages += caller.messages.len();
        totals.invalidations += caller.invalidations.len();
    }
    totals.executions += world.servers.journal.executions.len();
    totals.copies += world.servers.copies.executions.len();
    world.disconnect_all();
    world.run(Duration::from_secs(260));
    let load = world.multiplexer.load();
    assert!(load.is_idle(), "left over: {load:?}");
}

#[test]
fn random_sessions() {
    let mut totals = Totals::default();
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    if let Some(seed) = number("SEED") {
        return run(seed, true, &mut totals);
    }
    let (first, runs) = (number("FIRST").unwrap_or(0), number("RUNS").unwrap_or(RUNS));
    for seed in first..first + runs {
        run(seed, false, &mut totals);
    }
    println!("{totals:?}");
    if runs < RUNS {
        // The bounds below are for the usual number of runs.
        return;
    }
    assert!(totals.commands > 40_000 && totals.executions > 20_000 && totals.replies > 40_000, "{totals:?}");
    assert!(totals.messages > 200 && totals.errors > 400 && totals.copies > 400, "{totals:?}");
    assert!(totals.invalidations > 4_000, "{totals:?}");
}
