//! The wasm filter, built once.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;

use anyhow::{Context, Result, bail};

use crate::{cache, workspace};

const TARGET: &str = "wasm32-wasip1";

/// Builds the filter and returns its path. Cargo does nothing if nothing has changed.
pub fn build() -> Result<PathBuf> {
    static BUILT: Mutex<Option<PathBuf>> = Mutex::new(None);
    let mut built = BUILT.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if let Some(path) = &*built {
        return Ok(path.clone());
    }
    let _lock = cache::lock("build-filter")?;
    add_target()?;
    let args = ["--profile", "filter", "-p", "redis-mesh-wasm", "--target", TARGET];
    let path = workspace::build("the filter", "wasm32-wasip1/filter/redis_mesh.wasm", &args)?;
    Ok(built.insert(path).clone())
}

/// Adds the target to the toolchain if it is missing.
fn add_target() -> Result<()> {
    let output = Command::new("rustc")
        .current_dir(workspace::root())
        .args(["--print", "target-libdir", "--target", TARGET])
        .output()
        .context("can't start rustc")?;
    let dir = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    if output.status.success() && dir.is_dir() {
        return Ok(());
    }
    workspace::progress(&format!("adding the Rust target {TARGET}"));
    let status = Command::new("rustup")
        .current_dir(workspace::root())
        .args(["target", "add", TARGET])
        .stdout(std::io::stderr())
        .status()
        .with_context(|| format!("the Rust target {TARGET} is missing and rustup can't be started"))?;
    if !status.success() {
        bail!("rustup can't add the target {TARGET}: {status}");
    }
    Ok(())
}
