//! The tool cache: `$REDIS_MESH_CACHE`, or else `.cache` in the checkout.

use std::fs::File;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::workspace;

/// The cache directory; created if missing.
pub fn dir() -> Result<PathBuf> {
    let dir = match std::env::var_os("REDIS_MESH_CACHE") {
        Some(dir) if !dir.is_empty() => PathBuf::from(dir),
        _ => workspace::root().join(".cache"),
    };
    std::fs::create_dir_all(&dir).with_context(|| format!("can't create the cache directory {}", dir.display()))?;
    Ok(dir)
}

/// Held while something in the cache is being made; the lock goes with the value, or with the process.
#[derive(Debug)]
pub struct Lock(#[allow(dead_code, reason = "the open file is the lock")] File);

/// Waits until no other process makes the thing called `name`.
pub fn lock(name: &str) -> Result<Lock> {
    let path = dir()?.join(format!("{name}.lock"));
    let file = File::create(&path).with_context(|| format!("can't create {}", path.display()))?;
    file.lock().with_context(|| format!("can't lock {}", path.display()))?;
    Ok(Lock(file))
}
