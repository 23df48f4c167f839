//! Random changes under load; a larger run with `CHANGES`, another one with `SEED`.

use anyhow::{Context, Result};
use redis_mesh_tests::native;

use super::Test;
use crate::chaos::run::{self, Scope};
use crate::mesh::Mesh;

/// The tests.
pub const TESTS: &[Test] = &[("chaos::random_changes", random_changes)];

/// Returns the number in an environment variable.
fn number(name: &str, default: u64) -> Result<u64> {
    match std::env::var(name) {
        Ok(text) => text.parse().with_context(|| format!("{name} is no number: {text}")),
        Err(_) => Ok(default),
    }
}

fn random_changes(mesh: &mut Mesh) -> Result<()> {
    let scope = Scope {
        seed: number("SEED", 1)?,
        changes: number("CHANGES", 30)? as usize,
        with_native: number("CHANGES", 30)? > 100,
    };
    let module = native::build()?;
    let module = module.to_str().context("a path that is no text")?;
    run::run(mesh, scope, ["--port", "6379", "--module-path", module].map(str::to_owned).into())
}
