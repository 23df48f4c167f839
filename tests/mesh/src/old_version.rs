//! An earlier version of redis-mesh, built from this repository's history.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use redis_mesh_tests::{cache, workspace};

/// The commit from which an upgrade is tested: the first version that was announced.
const COMMIT: &str = "138eb680e3da91fea2b837b096a890e6698ccc97";

/// The programs of the earlier version, and its installation.
#[derive(Clone, Debug)]
pub struct OldVersion {
    /// `redis-mesh`.
    pub program: PathBuf,
    /// The wasm filter.
    pub filter: PathBuf,
    /// The base of kustomize, as one file: the definitions and the permissions among others.
    pub installation: PathBuf,
}

impl OldVersion {
    /// Builds what isn't in the cache, which takes minutes, and needs the repository's history.
    pub fn build() -> Result<OldVersion> {
        let name = format!("redis-mesh-{}", &COMMIT[..7]);
        let dir = cache::dir()?.join(&name);
        let _lock = cache::lock(&name)?;
        if !dir.is_dir() {
            let unfinished = dir.with_extension("unfinished");
            let _ = std::fs::remove_dir_all(&unfinished);
            make(&unfinished)?;
            std::fs::rename(&unfinished, &dir).with_context(|| format!("can't create {}", dir.display()))?;
        }
        Ok(OldVersion {
            program: dir.join("redis-mesh"),
            filter: dir.join("redis_mesh.wasm"),
            installation: dir.join("redis-mesh.yaml"),
        })
    }
}

fn make(dir: &Path) -> Result<()> {
    workspace::progress(&format!("building redis-mesh as of {} (some minutes, once)", &COMMIT[..7]));
    let source = dir.join("source");
    std::fs::create_dir_all(&source)?;
    let archive = dir.join("source.tar");
    let archived = ["archive", "--output", text(&archive)?, COMMIT];
    run("git", &archived, workspace::root())
        .context("the upgrade's test needs the history of this repository (git fetch --unshallow)")?;
    run("tar", &["-xf", text(&archive)?], &source)?;
    let filter = ["build", "--profile", "filter", "-p", "redis-mesh-wasm", "--target", "wasm32-wasip1"];
    run("cargo", &filter, &source)?;
    run("cargo", &["build", "-p", "redis-mesh"], &source)?;
    for (from, to) in [
        ("target/debug/redis-mesh", "redis-mesh"),
        ("target/wasm32-wasip1/filter/redis_mesh.wasm", "redis_mesh.wasm"),
        ("istio/kustomize/base/redis-mesh.yaml", "redis-mesh.yaml"),
    ] {
        std::fs::copy(source.join(from), dir.join(to)).with_context(|| format!("can't copy {from}"))?;
    }
    std::fs::remove_dir_all(&source)?;
    std::fs::remove_file(&archive)?;
    Ok(())
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is no text")
}

fn run(program: &str, arguments: &[&str], dir: &Path) -> Result<()> {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(dir).stdin(Stdio::null());
    for name in ["CARGO_TARGET_DIR", "RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "RUSTUP_TOOLCHAIN"] {
        command.env_remove(name);
    }
    let output = command.output().with_context(|| format!("can't start {program}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{program} {} failed: {}", arguments.join(" "), said.trim_end());
    }
    Ok(())
}
