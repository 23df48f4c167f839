//! Directories (the checkout, Cargo's target directory, the files of this run) and builds with
//! `cargo`.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail};

/// The root of the checkout.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// Cargo's target directory, into which this program was built.
///
/// A relative `CARGO_TARGET_DIR` is relative to where Cargo was started, which a test can't know;
/// the directory that holds this executable is marked by Cargo's `CACHEDIR.TAG`.
pub fn target_dir() -> PathBuf {
    let from_executable = std::env::current_exe()
        .ok()
        .and_then(|exe| exe.ancestors().find(|dir| dir.join("CACHEDIR.TAG").is_file()).map(Path::to_path_buf));
    from_executable
        .or_else(|| std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from))
        .unwrap_or_else(|| root().join("target"))
}

/// Builds what `cargo build ARGS` makes at `artefact` (below the target directory), and returns
/// its path. Cargo does nothing where nothing has changed. The first build, which takes its time,
/// shows Cargo's progress.
pub fn build(what: &str, artefact: &str, args: &[&str]) -> Result<PathBuf> {
    let path = target_dir().join(artefact);
    let quiet = path.is_file().then_some("--quiet");
    if quiet.is_none() {
        progress(&format!("building {what}"));
    }
    cargo(std::iter::once("build").chain(quiet).chain(args.iter().copied()))?;
    if !path.is_file() {
        bail!("the build left no {}", path.display());
    }
    Ok(path)
}

/// Runs `cargo` in the checkout with the same target directory. Its output goes to stderr.
fn cargo<I: IntoIterator<Item = S>, S: Into<OsString>>(args: I) -> Result<()> {
    let args: Vec<OsString> = args.into_iter().map(Into::into).collect();
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root()).args(&args).env("CARGO_TARGET_DIR", target_dir());
    // What Cargo tells a program about its own package must not reach the nested build, which
    // would see it change.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"].iter().any(|p| text.starts_with(p)) {
            command.env_remove(&name);
        }
    }
    command.stdout(std::io::stderr());
    let status = command.status().context("can't start cargo")?;
    if !status.success() {
        bail!("cargo {} failed: {status}", args.join(std::ffi::OsStr::new(" ")).to_string_lossy());
    }
    Ok(())
}

/// Reports a step that takes long. It writes to stderr itself: the test harness holds back what
/// `eprintln` prints, and a person who waits for a download should see it.
pub fn progress(what: &str) {
    let _ = writeln!(std::io::stderr(), "{what} …");
}

/// The directory of this process's files (logs, configurations, data). It stays until a later run
/// finds that this process is gone, so that the logs of a failed test can be read.
pub fn run_dir() -> Result<&'static Path> {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    if let Some(dir) = DIR.get() {
        return Ok(dir);
    }
    // SAFETY: getuid has no preconditions and cannot fail.
    let uid = unsafe { libc::getuid() };
    let base = std::env::temp_dir().join(format!("redis-mesh-testbed-{uid}"));
    sweep(&base);
    let dir = base.join(std::process::id().to_string());
    std::fs::create_dir_all(&dir).with_context(|| format!("can't create {}", dir.display()))?;
    Ok(DIR.get_or_init(|| dir))
}

/// Creates a new directory under [`run_dir`].
pub fn scratch(name: &str) -> Result<PathBuf> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let dir = run_dir()?.join(format!("{:03}-{name}", COUNT.fetch_add(1, Ordering::Relaxed)));
    std::fs::create_dir_all(&dir).with_context(|| format!("can't create {}", dir.display()))?;
    Ok(dir)
}

/// Removes the directories of processes that no longer exist.
fn sweep(base: &Path) {
    let Ok(entries) = std::fs::read_dir(base) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if name.to_str().is_some_and(|pid| pid.parse::<u32>().is_ok()) && !Path::new("/proc").join(&name).exists() {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}
