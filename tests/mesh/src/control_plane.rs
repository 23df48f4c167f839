//! etcd, kube-apiserver and istiod.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use redis_mesh_tests::http::{self, Request};
use redis_mesh_tests::process::{self, Process};
use redis_mesh_tests::workspace;

use serde_json::json;

use crate::api::Api;
use crate::network::{NODE, SERVICE_RANGE};
use crate::program::Programs;
use crate::revision::{DEFAULT, Revision};

/// Istio's root namespace.
pub const ROOT_NAMESPACE: &str = "istio-system";

// Ports of the node, which is a network namespace of its own: all are free.
const ETCD: u16 = 2379;
const API_SERVER: u16 = 6443;
const PROXY: u16 = 8001;
const ISTIOD_MONITORING: u16 = 15014;
const ISTIOD_HTTP: u16 = 18080;

const PATIENCE: Duration = Duration::from_secs(60);
const TOKEN: &str = "administrator";

/// Istio's mesh configuration.
pub const MESH: &str = "\
rootNamespace: istio-system
trustDomain: cluster.local
defaultConfig:
  discoveryAddress: istiod.istio-system.svc:15012
";

/// Disables Istio's metrics filter, which only Istio's own build of Envoy contains.
const TELEMETRY: &str = "
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: none, namespace: istio-system}
spec:
  metrics:
    - providers: [{name: prometheus}]
      overrides: [{disabled: true}]
";

/// A running control plane. Dropping it ends its processes.
#[derive(Debug)]
pub struct ControlPlane {
    // In this order they end.
    istiod: Process,
    _proxy: Process,
    api_server: Process,
    _etcd: Process,
    programs: Programs,
    dir: PathBuf,
    kubeconfig: PathBuf,
    api: Api,
}

impl ControlPlane {
    /// Starts all programs in the node, which this program must have entered, and waits until
    /// istiod is ready.
    pub fn start(programs: &Programs) -> Result<ControlPlane> {
        let dir = workspace::scratch("control-plane")?;
        let etcd = start_etcd(programs, &dir)?;
        keys(&dir)?;
        let mut api_server = start_api_server(programs, &dir)?;
        let kubeconfig = dir.join("kubeconfig");
        api_server.wait_until("certificate", PATIENCE, || certificate(&dir).exists().then_some(()))?;
        fs::write(&kubeconfig, kubeconfig_of(&dir, TOKEN)?)?;
        let mut command = Command::new(&programs.kubectl);
        command.arg("--kubeconfig").arg(&kubeconfig).args(["proxy", "--port", &PROXY.to_string(), "--reject-paths=^$"]);
        let proxy = Process::start("kubectl proxy", command, &dir.join("proxy.log"))?;
        let api = Api::through(PROXY);
        api_server.wait_until("answer of /readyz", PATIENCE, || api.is_ready().then_some(()))?;

        api.apply(&format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: {ROOT_NAMESPACE}}}}}"))?;
        let crds = fs::read_to_string(&programs.istio_crds)?;
        let names = api.apply(&crds)?;
        process::wait_until("establishment of Istio's CRDs", PATIENCE, || {
            names.iter().all(|name| {
                let crd = api.get(name).ok().flatten().unwrap_or_default();
                crate::api::condition(&crd, "Established").is_some_and(|condition| condition["status"] == "True")
            })
        })?;
        api.apply(TELEMETRY)?;
        // istiod reads the same text from a file, which takes precedence.
        publish_mesh_config(&api, &DEFAULT.config_map(), MESH)?;
        let istiod = start_istiod(programs, &dir, &kubeconfig, &DEFAULT)?;
        let programs = programs.clone();
        let mut plane = ControlPlane { istiod, _proxy: proxy, api_server, _etcd: etcd, programs, dir, kubeconfig, api };
        wait_istiod(&mut plane.istiod, &DEFAULT)?;
        Ok(plane)
    }

    /// The API server.
    pub fn api(&self) -> &Api {
        &self.api
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Writes a kubeconfig for a bearer of this token.
    pub fn kubeconfig_for(&self, name: &str, token: &str) -> Result<PathBuf> {
        let path = self.dir.join(format!("kubeconfig-{name}"));
        fs::write(&path, kubeconfig_of(&self.dir, token)?)?;
        Ok(path)
    }

    /// The programs of the control plane.
    pub fn programs(&self) -> &Programs {
        &self.programs
    }

    /// The directory of logs and data.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Runs `kubectl ARGS` with this text on stdin and returns its output.
    pub fn kubectl(&self, args: &[&str], stdin: &str) -> Result<String> {
        let mut command = Command::new(&self.programs.kubectl);
        command.arg("--kubeconfig").arg(&self.kubeconfig).args(args);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        child.stdin.take().context("no stdin")?.write_all(stdin.as_bytes())?;
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!("kubectl {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim_end());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Kills the API server and starts it again, with its data and on the same port.
    pub fn restart_api_server(&mut self) -> Result<()> {
        self.stop_api_server();
        self.start_api_server()
    }

    /// Kills the API server.
    pub fn stop_api_server(&mut self) {
        self.api_server.kill();
    }

    /// Starts the API server again after [`ControlPlane::stop_api_server`].
    pub fn start_api_server(&mut self) -> Result<()> {
        self.api_server = start_api_server(&self.programs, &self.dir)?;
        let api = &self.api;
        self.api_server.wait_until("answer of /readyz", PATIENCE, || api.is_ready().then_some(()))
    }

    /// Kills istiod and starts it again.
    pub fn restart_istiod(&mut self) -> Result<()> {
        self.istiod.kill();
        self.istiod = start_istiod(&self.programs, &self.dir, &self.kubeconfig, &DEFAULT)?;
        wait_istiod(&mut self.istiod, &DEFAULT)
    }

    /// Starts an istiod of another revision beside the mesh's own, and waits until it is ready. Dropping the
    /// process ends it.
    pub fn start_revision(&self, revision: &Revision) -> Result<Process> {
        publish_mesh_config(&self.api, &revision.config_map(), MESH)?;
        let mut istiod = start_istiod(&self.programs, &self.dir, &self.kubeconfig, revision)?;
        wait_istiod(&mut istiod, revision)?;
        Ok(istiod)
    }

    /// Gives Istio's mesh configuration these settings in addition, in the file that istiod watches and in the
    /// ConfigMap that others read.
    pub fn configure_istio(&self, settings: &str) -> Result<()> {
        let text = format!("{MESH}{settings}");
        fs::write(self.dir.join(format!("mesh-{}.yaml", DEFAULT.name)), &text)?;
        publish_mesh_config(&self.api, &DEFAULT.config_map(), &text)
    }

    /// Returns istiod's log.
    pub fn istiod_log(&self) -> String {
        self.istiod.log_text()
    }

    /// Returns the sum of a metric of istiod over its labels, such as `pilot_total_xds_rejects`,
    /// or 0 if there is none.
    pub fn istiod_metric(&self, name: &str) -> Result<f64> {
        let addr = (NODE, ISTIOD_MONITORING).into();
        let response = http::request(addr, &Request { path: "/metrics", ..Request::default() })?;
        Ok(http::metric(&response.body, name))
    }
}

/// Writes the ConfigMap of Istio's mesh configuration.
pub fn publish_mesh_config(api: &Api, name: &str, text: &str) -> Result<()> {
    let metadata = json!({"name": name, "namespace": ROOT_NAMESPACE});
    let data = json!({"mesh": text});
    api.apply_object(&json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})).map(drop)
}

fn start_etcd(programs: &Programs, dir: &Path) -> Result<Process> {
    let url = format!("http://127.0.0.1:{ETCD}");
    let mut command = Command::new(&programs.etcd);
    command.arg("--data-dir").arg(dir.join("etcd"));
    command.args(["--listen-client-urls", &url, "--advertise-client-urls", &url]);
    command.args(["--listen-peer-urls", "http://127.0.0.1:2380", "--unsafe-no-fsync", "--log-level", "warn"]);
    Process::start("etcd", command, &dir.join("etcd.log"))
}

/// The key by which the API server signs the tokens of ServiceAccounts.
fn keys(dir: &Path) -> Result<()> {
    let key = rcgen::KeyPair::generate()?;
    fs::write(dir.join("sa.key"), key.serialize_pem())?;
    fs::write(dir.join("sa.pub"), key.public_key_pem())?;
    fs::write(dir.join("tokens.csv"), format!("{TOKEN},admin,admin,\"system:masters\"\n"))?;
    Ok(())
}

fn start_api_server(programs: &Programs, dir: &Path) -> Result<Process> {
    let mut command = Command::new(&programs.kube_apiserver);
    command.arg(format!("--etcd-servers=http://127.0.0.1:{ETCD}"));
    command.arg(format!("--secure-port={API_SERVER}")).arg(format!("--bind-address={NODE}"));
    for (flag, file) in [
        ("cert-dir", ""),
        ("service-account-key-file", "sa.pub"),
        ("service-account-signing-key-file", "sa.key"),
        ("token-auth-file", "tokens.csv"),
    ] {
        command.arg(format!("--{flag}={}", dir.join(file).display()));
    }
    command.arg("--service-account-issuer=https://kubernetes.default.svc");
    command.arg(format!("--service-cluster-ip-range={SERVICE_RANGE}"));
    command.args(["--authorization-mode=RBAC", "--disable-admission-plugins=ServiceAccount"]);
    command.arg("--enable-priority-and-fairness=false");
    Process::start("kube-apiserver", command, &dir.join("kube-apiserver.log"))
}

fn start_istiod(programs: &Programs, dir: &Path, kubeconfig: &Path, revision: &Revision) -> Result<Process> {
    let mesh = dir.join(format!("mesh-{}.yaml", revision.name));
    fs::write(&mesh, MESH)?;
    let mut command = Command::new(&programs.pilot_discovery);
    command.current_dir(dir).envs([
        ("POD_NAMESPACE", ROOT_NAMESPACE),
        ("POD_NAME", &format!("istiod-{}", revision.name)),
        ("CLUSTER_ID", "Kubernetes"),
        ("REVISION", revision.name),
        ("ISTIOD_CUSTOM_HOST", revision.host),
        ("PILOT_CERT_PROVIDER", "istiod"),
        ("JWT_POLICY", "third-party-jwt"),
        ("TOKEN_AUDIENCES", "istio-ca"),
        ("PILOT_ENABLE_METADATA_EXCHANGE", "false"),
        ("PILOT_ENABLE_ALPN_FILTER", "false"),
        ("PILOT_ENABLE_ANALYSIS", "false"),
        ("INJECTION_WEBHOOK_CONFIG_NAME", ""),
        ("VALIDATION_WEBHOOK_CONFIG_NAME", ""),
    ]);
    let port = |port: u16| port + revision.offset;
    command.arg("discovery").arg(format!("--kubeconfig={}", kubeconfig.display()));
    command.arg(format!("--meshConfig={}", mesh.display()));
    command.arg(format!("--monitoringAddr={NODE}:{}", port(ISTIOD_MONITORING)));
    command.arg(format!("--httpAddr={NODE}:{}", port(ISTIOD_HTTP)));
    command.arg(format!("--httpsAddr={NODE}:{}", port(15017)));
    command.arg(format!("--grpcAddr=:{}", port(15010))).arg(format!("--secureGRPCAddr=:{}", port(15012)));
    command.args(["--domain", "cluster.local"]);
    Process::start(&format!("istiod of {}", revision.name), command, &dir.join(format!("istiod-{}.log", revision.name)))
}

/// Waits until an istiod is ready.
fn wait_istiod(istiod: &mut Process, revision: &Revision) -> Result<()> {
    let addr = (NODE, ISTIOD_HTTP + revision.offset).into();
    istiod.wait_until("answer of istiod's /ready", PATIENCE, || {
        let response = http::request(addr, &Request { path: "/ready", ..Request::default() }).ok()?;
        (response.status == 200).then_some(())
    })
}

/// The API server's self-signed certificate.
fn certificate(dir: &Path) -> PathBuf {
    dir.join("apiserver.crt")
}

fn kubeconfig_of(dir: &Path, token: &str) -> Result<String> {
    let ca = certificate(dir);
    Ok(format!(
        "apiVersion: v1
kind: Config
clusters:
  - name: mesh
    cluster: {{server: \"https://{NODE}:{API_SERVER}\", certificate-authority: {}}}
users:
  - name: user
    user: {{token: {token}}}
contexts:
  - name: mesh
    context: {{cluster: mesh, user: user}}
current-context: mesh
",
        ca.to_str().context("the directory for temporary files has a name that is no text")?
    ))
}
