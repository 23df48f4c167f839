//! The suite: tests that share one mesh.

mod mission;

use std::sync::{Mutex, PoisonError};

use anyhow::Result;
use libtest_mimic::{Arguments, Conclusion, Trial};

use crate::mesh::Mesh;

/// A test: its name, and what it does with a mesh that is as new.
pub type Test = (&'static str, fn(&mut Mesh) -> Result<()>);

/// Every test.
pub fn all() -> Vec<Test> {
    [mission::TESTS].concat()
}

/// Runs those that are asked for, one after the other.
pub fn run(arguments: &Arguments, mesh: Mesh) -> Conclusion {
    let mesh = std::sync::Arc::new(Mutex::new(mesh));
    let trials = all().into_iter().map(|(name, test)| {
        let mesh = mesh.clone();
        Trial::test(name, move || {
            let mut mesh = mesh.lock().unwrap_or_else(PoisonError::into_inner);
            let result = mesh.reset().and_then(|()| test(&mut mesh));
            result.map_err(|error| format!("{error:?}").into())
        })
    });
    let trials = trials.collect();
    let arguments = Arguments { test_threads: Some(1), ..arguments.clone() };
    libtest_mimic::run(&arguments, trials)
}
