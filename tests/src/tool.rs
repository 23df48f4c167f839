//! Helm and kustomize, built from their Go modules.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::{cache, wheel, workspace};

/// The programs of `tests/go/helm`: name, package, and the time of the first build on two cores.
const PROGRAMS: [(&str, &str, &str); 2] = [
    ("helm", "helm.sh/helm/v4/cmd/helm", "2 minutes"),
    ("kustomize", "sigs.k8s.io/kustomize/kustomize/v5", "some seconds"),
];

/// The result of a run.
#[derive(Clone, Debug)]
pub struct ToolOutput {
    /// The text on stdout if the run succeeded, else that on stderr.
    pub result: Result<String, String>,
}

/// Runs `helm` without a cluster.
pub fn helm<S: AsRef<OsStr>>(args: &[S]) -> Result<ToolOutput> {
    helm_at(Path::new("/dev/null"), args)
}

/// Runs `helm` in the cluster of a kubeconfig.
pub fn helm_at<S: AsRef<OsStr>>(kubeconfig: &Path, args: &[S]) -> Result<ToolOutput> {
    run("helm", kubeconfig, args)
}

/// Runs `kustomize`.
pub fn kustomize<S: AsRef<OsStr>>(args: &[S]) -> Result<ToolOutput> {
    run("kustomize", Path::new("/dev/null"), args)
}

/// Builds the programs that aren't in the cache.
pub fn build() -> Result<()> {
    programs().map(drop)
}

fn run<S: AsRef<OsStr>>(name: &str, kubeconfig: &Path, args: &[S]) -> Result<ToolOutput> {
    let dir = programs()?;
    let mut command = Command::new(dir.join(name));
    command.current_dir(workspace::root()).args(args).stdin(Stdio::null());
    // Nothing of the person who runs the tests: no plugins, no repositories, no cluster of theirs.
    for variable in ["HELM_CONFIG_HOME", "HELM_CACHE_HOME", "HELM_DATA_HOME"] {
        command.env(variable, dir.join("home"));
    }
    command.env("KUBECONFIG", kubeconfig);
    let output = command.output().with_context(|| format!("can't start {name}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let result = if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) };
    Ok(ToolOutput { result })
}

/// Returns the directory of the programs and builds those that aren't in the cache.
fn programs() -> Result<PathBuf> {
    let source = workspace::root().join("tests/go/helm");
    cache::made_of(&source, "helm", &["go.mod", "go.sum"], |from, to| {
        let Some(go) = wheel::on_path("go") else {
            bail!("the chart's tests build Helm and need Go 1.26 or later on the PATH: https://go.dev/doc/install");
        };
        std::fs::create_dir_all(to)?;
        for (name, package, takes) in PROGRAMS {
            workspace::progress(&format!("building {name} (about {takes}, once)"));
            let mut build = Command::new(&go);
            build
                .args(["build", "-trimpath", "-modcacherw", "-ldflags", "-s -w", "-o"])
                .arg(to.join(name))
                .arg(package);
            build.current_dir(from).envs(cache::go_environment()?).stdin(Stdio::null());
            let output = build.output().context("can't start go")?;
            if !output.status.success() {
                bail!("go can't build {name}:\n{}", String::from_utf8_lossy(&output.stderr).trim_end());
            }
        }
        Ok(())
    })
}

impl ToolOutput {
    /// Returns the text on stdout, or an error with that on stderr.
    pub fn success(self) -> Result<String> {
        self.result.map_err(|stderr| anyhow::anyhow!("{}", stderr.trim_end()))
    }

    /// Returns the text on stderr of a run that was to fail.
    pub fn failure(self) -> Result<String> {
        match self.result {
            Ok(stdout) => bail!("it succeeded:\n{stdout}"),
            Err(stderr) => Ok(stderr),
        }
    }
}
