//! The wasm filter, built once per process; and the way in which the tests build what Envoy loads.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Mutex;

use anyhow::{Context, Result, bail};

use crate::{cache, workspace};

/// Builds the filter and returns its path. Cargo does nothing where nothing changed.
pub fn build() -> Result<PathBuf> {
    static BUILT: Mutex<Option<PathBuf>> = Mutex::new(None);
    let mut built = BUILT.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if let Some(path) = &*built {
        return Ok(path.clone());
    }
    let _lock = cache::lock("build-filter")?;
    let path = build_artefact("the filter", "wasm", "wasm32-wasip1/filter/redis_mesh.wasm")?;
    Ok(built.insert(path).clone())
}

/// Runs `filter/build KIND`, the one way in which everything in this repository builds what Envoy
/// loads, and returns the path of `artefact`, which is relative to the target directory. The first
/// build, which takes its time, shows Cargo's progress.
pub(crate) fn build_artefact(what: &str, kind: &str, artefact: &str) -> Result<PathBuf> {
    let path = workspace::target_dir().join(artefact);
    let quiet = path.is_file().then_some("--quiet");
    if quiet.is_none() {
        workspace::progress(&format!("building {what}"));
    }
    let script = workspace::root().join("filter/build");
    let status = Command::new(&script)
        .arg(kind)
        .args(quiet)
        .env("CARGO_TARGET_DIR", workspace::target_dir())
        .stdout(Stdio::null())
        .status()
        .with_context(|| format!("can't start {}", script.display()))?;
    if !status.success() {
        bail!("{} {kind} failed: {status}", script.display());
    }
    if !path.is_file() {
        bail!("the build left no {}", path.display());
    }
    Ok(path)
}
