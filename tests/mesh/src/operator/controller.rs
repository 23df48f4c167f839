//! `redis-mesh controller` as a process of the node.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use redis_mesh_tests::http::{self, Request};
use redis_mesh_tests::process::Process;
use redis_mesh_tests::{cli, filter, workspace};

use crate::api::documents;
use crate::control_plane::{ControlPlane, ROOT_NAMESPACE};
use crate::network::NODE;

/// The namespace of the controller.
pub const NAMESPACE: &str = "redis-mesh-system";
const PATIENCE: Duration = Duration::from_secs(30);

/// The kustomize base. The controller gets its permissions from it, and no others.
const NAMESPACE_MANIFEST: &str = include_str!("../../../../istio/kustomize/base/namespace.yaml");
/// All of it but the namespace.
pub const INSTALLATION: &str = include_str!("../../../../istio/kustomize/base/redis-mesh.yaml");
const PERMISSIONS: [&str; 5] = ["ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"];

/// Installs the permissions of a controller in a namespace. The API server validates the other
/// manifests in a dry run.
fn install(plane: &ControlPlane, namespace: &str) -> Result<()> {
    let [namespace, installation] = [NAMESPACE_MANIFEST, INSTALLATION].map(|text| text.replace(NAMESPACE, namespace));
    plane.kubectl(&["apply", "--server-side", "-f", "-"], &namespace)?;
    plane.kubectl(&["apply", "--server-side", "--force-conflicts", "--dry-run=server", "-f", "-"], &installation)?;
    for object in documents(&installation)? {
        if PERMISSIONS.iter().any(|kind| object["kind"] == *kind) {
            plane.kubectl(&["apply", "--server-side", "-f", "-"], &object.to_string())?;
        }
    }
    Ok(())
}

/// The options of a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The namespace of the controller.
    pub namespace: String,
    /// The value of `--root-namespace`; none: the argument is left out.
    pub root_namespace: Option<String>,
    /// The name of the replica, which is also that of its log.
    pub name: String,
    /// The port of the node on which it serves metrics and the filter.
    pub port: u16,
    /// The value of `--debounce`.
    pub debounce: String,
    /// The filter that the replica serves. By default the built one.
    pub filter: Option<PathBuf>,
    /// The program. By default the one that is built for tests.
    pub program: Option<PathBuf>,
    /// The value of `--advertise-url`. By default the node's address and the port.
    pub advertise: Option<String>,
    /// Further arguments.
    pub arguments: Vec<String>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            namespace: NAMESPACE.into(),
            root_namespace: Some(ROOT_NAMESPACE.into()),
            name: "redis-mesh-0".into(),
            port: 8080,
            debounce: "100ms".into(),
            filter: None,
            program: None,
            advertise: None,
            arguments: Vec::new(),
        }
    }
}

/// A replica of the controller, running or not.
#[derive(Debug)]
pub struct Controller {
    options: Options,
    kubeconfig: PathBuf,
    log: PathBuf,
    process: Option<Process>,
}

impl Controller {
    /// Installs the manifests of a replica, starts it, and waits until it is ready.
    pub fn start(plane: &ControlPlane, options: Options) -> Result<Controller> {
        let mut controller = Controller::launch(plane, options)?;
        controller.wait_ready()?;
        Ok(controller)
    }

    /// Installs the manifests of a replica and starts it, whether or not it becomes ready.
    pub fn launch(plane: &ControlPlane, options: Options) -> Result<Controller> {
        install(plane, &options.namespace)?;
        let token = plane.api().token(&options.namespace, "redis-mesh", None)?;
        let kubeconfig = plane.kubeconfig_for(&options.name, &token)?;
        let log = workspace::scratch(&options.name)?.join("controller.log");
        let mut controller = Controller { options, kubeconfig, log, process: None };
        controller.begin()?;
        Ok(controller)
    }

    /// Starts the replica and waits until it is ready.
    pub fn restart(&mut self) -> Result<()> {
        self.begin()?;
        self.wait_ready()
    }

    /// Restarts the replica with other options, whether or not it becomes ready.
    pub fn begin_as(&mut self, options: Options) -> Result<()> {
        self.terminate();
        self.options = options;
        self.begin()
    }

    /// The status code and the text of `/readyz`.
    pub fn readiness(&self) -> Result<(u16, String)> {
        let response = self.get("/readyz")?;
        Ok((response.status, response.body))
    }

    fn wait_ready(&mut self) -> Result<()> {
        let port = self.options.port;
        let process = self.process.as_mut().context("the controller isn't running")?;
        process.wait_until("answer of /readyz", PATIENCE, || {
            get(port, "/readyz").is_ok_and(|response| response.status == 200).then_some(())
        })
    }

    fn begin(&mut self) -> Result<()> {
        self.kill();
        let filter = match &self.options.filter {
            Some(filter) => filter.clone(),
            None => filter::build()?,
        };
        let Options { name, port, debounce, arguments, .. } = &self.options;
        let advertise = self.options.advertise.clone().unwrap_or_else(|| format!("http://{NODE}:{port}"));
        let program = match &self.options.program {
            Some(program) => program.clone(),
            None => cli::build()?,
        };
        let mut command = Command::new(program);
        command.arg("controller").arg("--kubeconfig").arg(&self.kubeconfig);
        command.args(["--namespace", &self.options.namespace]);
        if let Some(root_namespace) = &self.options.root_namespace {
            command.args(["--root-namespace", root_namespace]);
        }
        command.args(["--listen", &format!("0.0.0.0:{port}"), "--advertise-url", &advertise]);
        command.arg("--filter").arg(filter).args(["--lease", "redis-mesh", "--debounce", debounce]);
        command.args(arguments).env("POD_NAME", name).env("POD_NAMESPACE", &self.options.namespace);
        self.process = Some(Process::start(name, command, &self.log)?);
        Ok(())
    }

    /// Kills the replica (SIGKILL).
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Asks the replica to end, as the kubelet does, and waits for its end.
    pub fn terminate(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.terminate(PATIENCE);
        }
    }

    /// The process. Fails if the replica isn't running.
    pub fn process(&self) -> Result<&Process> {
        self.process.as_ref().context("the controller isn't running")
    }

    /// Returns the log, including that before restarts.
    pub fn log(&self) -> String {
        std::fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Returns the sum of a metric over its labels, or 0 if there is none.
    pub fn metric(&self, name: &str) -> Result<f64> {
        Ok(http::metric(&self.metrics()?, name))
    }

    /// Returns `/metrics`.
    pub fn metrics(&self) -> Result<String> {
        Ok(self.get("/metrics")?.body)
    }

    /// Restarts the replica with other options. It ends in order, so that its Lease is free at
    /// once.
    pub fn restart_as(&mut self, options: Options) -> Result<()> {
        self.terminate();
        self.options = options;
        self.restart()
    }

    /// Restarts the replica with its first options, unless it runs with them.
    pub fn restore(&mut self) -> Result<()> {
        if self.process.is_some() && self.options == Options::default() {
            return Ok(());
        }
        self.restart_as(Options::default())
    }

    /// The path under which the replica serves its own filter.
    pub fn filter_path(&self) -> Result<String> {
        let log = self.log();
        let line = log.lines().rfind(|line| line.contains("\"starting\"")).context("it hasn't started")?;
        let url =
            line.split("/filter/").nth(1).and_then(|rest| rest.split('"').next()).context("it serves no filter")?;
        Ok(format!("/filter/{url}"))
    }

    /// Returns the status code of a GET.
    pub fn status(&self, path: &str) -> Result<u16> {
        Ok(self.get(path)?.status)
    }

    fn get(&self, path: &str) -> Result<http::Response> {
        get(self.options.port, path)
    }
}

fn get(port: u16, path: &str) -> Result<http::Response> {
    http::request((NODE, port).into(), &Request { path, ..Request::default() })
}

/// Returns a filter with the same behaviour and another digest: it has a custom section at its end
/// (<https://webassembly.github.io/spec/core/binary/modules.html#custom-section>).
pub fn another_filter() -> Result<PathBuf> {
    let mut file = std::fs::read(filter::build()?)?;
    file.extend(b"\x00\x08\x07another");
    let path = workspace::scratch("another-filter")?.join("redis_mesh.wasm");
    std::fs::write(&path, file)?;
    Ok(path)
}
