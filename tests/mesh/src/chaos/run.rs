//! Random changes under load.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use redis_mesh_tests::workspace;

use super::change::Fate;
use super::settled::settle;
use super::world::World;
use crate::mesh::Mesh;
use crate::operator::controller::Options;

/// How large a run is.
#[derive(Clone, Copy, Debug)]
pub struct Scope {
    /// The seed.
    pub seed: u64,
    /// The number of changes.
    pub changes: usize,
    /// Whether a second client's sidecar has the dynamic module.
    pub with_native: bool,
}

/// Makes random changes under load, and checks all that clients see.
pub fn run(mesh: &mut Mesh, scope: Scope, arguments: Vec<String>) -> Result<()> {
    let options = Options { arguments, ..Options::default() };
    let mut world = World::start(mesh, options, scope.with_native)?;
    let crowd = world.crowd(scope.seed)?;
    let mut said = Vec::new();
    let result = changes(&mut world, scope, &mut said);
    let (answers, values) = world.board.counts();
    let text = said.join("\n  ");
    result.with_context(|| {
        let log = world.controller().map(|controller| controller.log()).unwrap_or_default();
        let log: Vec<&str> = log.lines().rev().take(80).collect();
        let log: Vec<&str> = log.into_iter().rev().collect();
        format!("SEED={} CHANGES={}\n  {text}\nthe controller said:\n{}", scope.seed, scope.changes, log.join("\n"))
    })?;
    crowd.stop()?;
    workspace::progress(&format!("seed {}: {} changes, {answers} answers, {values} values", scope.seed, scope.changes));
    world.end()
}

fn changes(world: &mut World<'_>, scope: Scope, said: &mut Vec<String>) -> Result<()> {
    let mut fate = Fate::new(scope.seed);
    let begin = Instant::now();
    for number in 0..scope.changes {
        let what = fate.change(world)?;
        said.push(format!("{number} after {:.1?}: {what}", begin.elapsed()));
        std::thread::sleep(Duration::from_millis(fate.dice().below(300) as u64));
        world.board.ensure_clean()?;
        if fate.dice().chance(12) {
            fate.bring_back(world)?;
            let took = settle(world)?;
            said.push(format!("settled after {took:.1?}"));
        }
    }
    fate.bring_back(world)?;
    fate.heal(world)?;
    let took = settle(world)?;
    said.push(format!("settled after {took:.1?}"));
    Ok(())
}
