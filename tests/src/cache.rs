//! The tool cache: `$REDIS_MESH_CACHE`, or else `.cache` in the checkout.

use std::fs::File;
use std::path::{Path, PathBuf};

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

/// A lock on one entry of the cache while it is being made. Dropping it, or the end of the
/// process, releases it.
#[derive(Debug)]
pub struct Lock(#[allow(dead_code, reason = "the open file is the lock")] File);

/// Waits until no other process makes the thing called `name`.
pub fn lock(name: &str) -> Result<Lock> {
    let path = dir()?.join(format!("{name}.lock"));
    let file = File::create(&path).with_context(|| format!("can't create {}", path.display()))?;
    file.lock().with_context(|| format!("can't lock {}", path.display()))?;
    Ok(Lock(file))
}

/// A directory in the cache that `make` fills from `source`, once for each content of these files
/// of it.
pub fn made_of(
    source: &Path,
    name: &str,
    files: &[&str],
    make: impl FnOnce(&Path, &Path) -> Result<()>,
) -> Result<PathBuf> {
    let mut content = Vec::new();
    for file in files {
        let path = source.join(file);
        content.extend(std::fs::read(&path).with_context(|| format!("can't read {}", path.display()))?);
    }
    let path = dir()?.join(format!("{name}-{:016x}", fnv(&content)));
    let _lock = lock(name)?;
    if path.is_dir() {
        return Ok(path);
    }
    // A directory that exists is complete: it gets its name when everything is in it.
    let unfinished = path.with_extension("unfinished");
    let _ = std::fs::remove_dir_all(&unfinished);
    make(source, &unfinished)?;
    std::fs::rename(&unfinished, &path).with_context(|| format!("can't create {}", path.display()))?;
    Ok(path)
}

/// Where Go keeps the modules that it fetches and what it has compiled, as environment variables.
pub fn go_environment() -> Result<[(&'static str, PathBuf); 2]> {
    let go = dir()?.join("go");
    Ok([("GOMODCACHE", go.join("modules")), ("GOCACHE", go.join("build"))])
}

/// FNV-1a: the same in every build, unlike the standard library's hashers.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}
