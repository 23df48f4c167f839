//! The command line `redis-mesh`, built once and run.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

use anyhow::{Context, Result, bail};

use crate::{cache, filter, workspace};

/// The result of a run of the command line.
#[derive(Clone, Debug)]
pub struct Output {
    /// The exit status; -1 where a signal ended it.
    pub status: i32,
    /// The text on stdout.
    pub stdout: String,
    /// The text on stderr.
    pub stderr: String,
}

impl Output {
    /// Returns this output if the status is 0, and otherwise an error with the text on stderr.
    pub fn success(self) -> Result<Output> {
        if self.status != 0 {
            bail!("redis-mesh failed ({}):\n{}{}", self.status, self.stdout, self.stderr.trim_end());
        }
        Ok(self)
    }
}

/// Builds the command line and returns its path. Cargo does nothing if nothing has changed.
pub fn build() -> Result<PathBuf> {
    static BUILT: Mutex<Option<PathBuf>> = Mutex::new(None);
    let mut built = BUILT.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if let Some(path) = &*built {
        return Ok(path.clone());
    }
    let _lock = cache::lock("build-cli")?;
    let path = workspace::build("redis-mesh", "debug/redis-mesh", &["-p", "redis-mesh"])?;
    Ok(built.insert(path).clone())
}

/// Runs `redis-mesh` with these arguments in the checkout.
pub fn run<S: AsRef<OsStr>>(args: &[S]) -> Result<Output> {
    run_in(workspace::root(), args)
}

/// Runs `redis-mesh` with these arguments in a directory.
pub fn run_in<S: AsRef<OsStr>>(dir: &Path, args: &[S]) -> Result<Output> {
    run_binary(&build()?, dir, args)
}

/// Runs a given `redis-mesh` binary.
pub fn run_binary<S: AsRef<OsStr>>(binary: &Path, dir: &Path, args: &[S]) -> Result<Output> {
    let mut command = Command::new(binary);
    command.current_dir(dir).args(args).stdin(Stdio::null());
    let output = command.output().context("can't start redis-mesh")?;
    Ok(Output {
        status: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// Returns the configuration that `redis-mesh render envoy -f INPUT … --filter BUILT ARGS…`
/// prints.
pub fn render_envoy<P: AsRef<Path>>(inputs: &[P], args: &[&str]) -> Result<String> {
    let mut all: Vec<std::ffi::OsString> = vec!["render".into(), "envoy".into()];
    for input in inputs {
        all.extend(["-f".into(), input.as_ref().into()]);
    }
    all.extend(["--filter".into(), filter::build()?.into()]);
    all.extend(args.iter().map(Into::into));
    Ok(run(&all)?.success()?.stdout)
}

/// Does what [`render_envoy`] does for manifests given as text.
pub fn render_envoy_text(manifests: &str, args: &[&str]) -> Result<String> {
    let path = workspace::scratch("manifests")?.join("manifests.yaml");
    std::fs::write(&path, manifests)?;
    render_envoy(&[path], args)
}
