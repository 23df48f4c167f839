//! Random sessions of several clients, before servers that fail, lose connections and move slots, under one clock.
//!
//! Every run follows from a number, its seed. The servers are a small reference of Redis that notes down what it executes; commands
//! bear tokens by which they are found there. So it is seen whether each client has heard what was executed for it, in order, once,
//! or an error where something went wrong; and that in the end nothing is left over.
//!
//! `SEED=7 cargo test -p redis-mesh-core --test sessions -- --nocapture` replays one and tells what happens;
//! `FIRST` and `RUNS` choose others.
#![allow(clippy::panic, clippy::unwrap_used, clippy::expect_used, reason = "a test fails by it")]
#![allow(missing_docs, reason = "nobody else uses it")]
#![cfg(not(target_arch = "wasm32"))]

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
mod trouble;
mod world;

use std::time::Duration;
use world::World;

/// How many runs.
const RUNS: u64 = 2_500;

/// Names the run if it panics.
struct Named(u64);

impl Drop for Named {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("run {0}: SEED={0} cargo test -p redis-mesh-core --test sessions -- --nocapture", self.0);
        }
    }
}

/// What many runs have seen, so that a test that sees nothing fails.
#[derive(Debug, Default)]
struct Seen {
    commands: usize,
    replies: usize,
    messages: usize,
    errors: usize,
    executions: usize,
    copies: usize,
}

fn run(seed: u64, is_told: bool, seen: &mut Seen) {
    let _named = Named(seed);
    let mut world = World::new(seed, is_told);
    for _ in 0..2 + world.random.below(4) {
        world.come();
    }
    world.plan();
    world.run(Duration::from_secs(60));
    for (number, caller) in world.callers.iter().enumerate() {
        match check::Checker::new(&world, caller).check() {
            Ok(errors) => seen.errors += errors,
            Err(text) => panic!("client {number}: {text}"),
        }
        seen.commands += caller.sent.len();
        seen.replies += caller.replies.len();
        seen.messages += caller.messages.len();
    }
    seen.executions += world.servers.journal.executions.len();
    seen.copies += world.servers.copies.executions.len();
    world.leave();
    world.run(Duration::from_secs(260));
    let load = world.proxy.load();
    assert!(load.is_idle(), "left over: {load:?}");
}

#[test]
fn random_sessions() {
    let mut seen = Seen::default();
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    if let Some(seed) = number("SEED") {
        return run(seed, true, &mut seen);
    }
    let first = number("FIRST").unwrap_or(0);
    for seed in first..first + number("RUNS").unwrap_or(RUNS) {
        run(seed, false, &mut seen);
    }
    println!("{seen:?}");
    assert!(seen.commands > 100_000 && seen.executions > 50_000 && seen.replies > 100_000, "{seen:?}");
    assert!(seen.messages > 500 && seen.errors > 1_000 && seen.copies > 1_000, "{seen:?}");
}
