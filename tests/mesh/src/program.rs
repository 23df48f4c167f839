//! The programs of a control plane, built from their Go modules and kept in the cache.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use redis_mesh_tests::{cache, wheel, workspace};

/// A folder of `tests/mesh/go` and the programs that are built from it.
struct Module {
    folder: &'static str,
    /// The Go module that gives the programs their version.
    path: &'static str,
    programs: &'static [Program],
    /// Files of the module that are kept beside the programs.
    files: &'static [&'static str],
}

struct Program {
    name: &'static str,
    package: &'static str,
    /// How long the first build takes on two cores.
    takes: &'static str,
}

const CRDS: &str = "manifests/charts/base/files/crd-all.gen.yaml";
const BOOTSTRAP: &str = "tools/packaging/common/envoy_bootstrap.json";

const ETCD: Module = Module {
    folder: "etcd",
    path: "go.etcd.io/etcd/server/v3",
    programs: &[Program { name: "etcd", package: "go.etcd.io/etcd/server/v3", takes: "1 minute" }],
    files: &[],
};

const KUBERNETES: Module = Module {
    folder: "kubernetes",
    path: "k8s.io/kubernetes",
    programs: &[
        Program { name: "kube-apiserver", package: "k8s.io/kubernetes/cmd/kube-apiserver", takes: "3 minutes" },
        Program { name: "kubectl", package: "k8s.io/kubernetes/cmd/kubectl", takes: "half a minute" },
    ],
    files: &[],
};

const ISTIO: Module = Module {
    folder: "istio",
    path: "istio.io/istio",
    programs: &[
        Program { name: "pilot-discovery", package: "istio.io/istio/pilot/cmd/pilot-discovery", takes: "4 minutes" },
        Program { name: "pilot-agent", package: "istio.io/istio/pilot/cmd/pilot-agent", takes: "10 seconds" },
    ],
    files: &[CRDS, BOOTSTRAP],
};

/// The paths of the programs and of files that belong to them.
#[derive(Clone, Debug)]
pub struct Programs {
    /// etcd.
    pub etcd: PathBuf,
    /// kube-apiserver.
    pub kube_apiserver: PathBuf,
    /// kubectl.
    pub kubectl: PathBuf,
    /// istiod.
    pub pilot_discovery: PathBuf,
    /// pilot-agent, which runs Envoy in a sidecar.
    pub pilot_agent: PathBuf,
    /// Istio's CustomResourceDefinitions.
    pub istio_crds: PathBuf,
    /// The template of a sidecar's bootstrap configuration.
    pub envoy_bootstrap: PathBuf,
}

impl Programs {
    /// Builds the programs that aren't in the cache. The first build takes minutes and reports its
    /// progress.
    pub fn build() -> Result<Programs> {
        let (etcd, kubernetes, istio) = (ETCD.build()?, KUBERNETES.build()?, ISTIO.build()?);
        Ok(Programs {
            etcd: etcd.join("etcd"),
            kube_apiserver: kubernetes.join("kube-apiserver"),
            kubectl: kubernetes.join("kubectl"),
            pilot_discovery: istio.join("pilot-discovery"),
            pilot_agent: istio.join("pilot-agent"),
            istio_crds: istio.join(file_name(CRDS)),
            envoy_bootstrap: istio.join(file_name(BOOTSTRAP)),
        })
    }
}

impl Module {
    fn build(&self) -> Result<PathBuf> {
        let source = workspace::root().join("tests/mesh/go").join(self.folder);
        cache::made_of(&source, &format!("mesh-{}", self.folder), &["go.mod", "go.sum"], |from, to| {
            std::fs::create_dir_all(to)?;
            let version = go(from, &["list", "-m", "-f", "{{.Version}}", self.path])?;
            // kubectl compares versions, and can't do without one.
            let flags = format!("-s -w -X k8s.io/component-base/version.gitVersion={version}");
            for Program { name, package, takes } in self.programs {
                workspace::progress(&format!("building {name} {} (about {takes}, once)", short(&version)));
                let out = to.join(name);
                let out = out.to_str().context("the cache directory's name is no text")?;
                go(from, &["build", "-trimpath", "-modcacherw", "-ldflags", &flags, "-o", out, package])?;
            }
            let module = PathBuf::from(go(from, &["list", "-m", "-f", "{{.Dir}}", self.path])?);
            for file in self.files {
                let path = module.join(file);
                std::fs::copy(&path, to.join(file_name(file)))
                    .with_context(|| format!("can't copy {}", path.display()))?;
            }
            Ok(())
        })
    }
}

/// Shortens a pseudo-version to its date.
fn short(version: &str) -> &str {
    version.rsplit_once('-').map_or(version, |(date, _commit)| date)
}

fn file_name(path: &str) -> &Path {
    Path::new(path.rsplit('/').next().unwrap_or(path))
}

fn go(dir: &Path, args: &[&str]) -> Result<String> {
    let go = wheel::on_path("go").context("there is no go on the PATH")?;
    let mut command = Command::new(go);
    command.args(args).current_dir(dir).envs(cache::go_environment()?).stdin(Stdio::null());
    let output = command.output().context("can't start go")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("go {} in {} failed: {}\n{}", args[0], dir.display(), output.status, said.trim_end());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_string())
}
