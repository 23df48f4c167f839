//! The network of a cluster on one machine: a network namespace for the node and for each pod.
//!
//! This program moves into the node's namespace. So the machine's own network is neither changed
//! nor in the way: addresses are those of the manifests, every port is free, and runs beside each
//! other don't meet. Pods are wired as Calico does it (a /32 address, everything through the
//! node), so that the node can do kube-proxy's work for them.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use redis_mesh_tests::netns::Namespace;

use crate::dns::{self, Dns, Zone};
use crate::services::Services;

/// The node: the control plane, this program, and the pods' gateway.
pub const NODE: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 1);
/// The subnet of the services' addresses.
pub const SERVICE_RANGE: &str = "10.96.0.0/16";

const PREFIX: &str = "redis-mesh-";

/// The node's namespace and those of the pods. Dropping it removes them.
#[derive(Debug)]
pub struct Network {
    node: Namespace,
    dns: Dns,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    pods: Vec<Wire>,
    /// The services that were set up last.
    services: Option<Services>,
    /// Names of hosts outside of the cluster.
    outside: Zone,
    /// Answers for applications that differ from those of the DNS server.
    captured: BTreeMap<String, Ipv4Addr>,
}

impl State {
    fn zone(&self) -> Zone {
        let mut zone = self.services.as_ref().map(Services::zone).unwrap_or_default();
        for name in ["istiod", "istiod-canary"] {
            for domain in ["istio-system.svc", "istio-system.svc.cluster.local"] {
                zone.insert(format!("{name}.{domain}"), vec![NODE.into()]);
            }
        }
        zone.extend(self.outside.clone());
        zone
    }
}

/// The connection of a pod to the node.
#[derive(Clone, Debug)]
pub struct Wire {
    /// The pod's network namespace.
    pub namespace: Namespace,
    /// The pod's address.
    pub ip: Ipv4Addr,
}

impl Network {
    /// Creates the node, removes the namespaces of dead runs, and moves the calling thread into
    /// the node. It must be the main thread, before anything else is started.
    pub fn start() -> Result<Network> {
        // What runs whose process is gone have left.
        remove_those_of(|pid| !Path::new("/proc").join(pid.to_string()).exists());
        let node = Namespace::named(format!("{PREFIX}{}-node", std::process::id()));
        ip(&["netns", "add", node.name()])?;
        // From here on it is removed again if anything fails.
        let mut network = Network { node, dns: Dns::default(), state: Mutex::default() };
        etc_files(&network.node, "default")?;
        network.node.enter()?;
        ip(&["link", "set", "lo", "up"])?;
        for address in [NODE, dns::ADDRESS] {
            ip(&["addr", "add", &format!("{address}/32"), "dev", "lo"])?;
        }
        // Of this network namespace: it is the one of the thread that opens the file.
        fs::write("/proc/sys/net/ipv4/ip_forward", "1")
            .context("can't switch on forwarding in the node's namespace")?;
        network.dns = Dns::start()?;
        network.serve(Services::default())?;
        Ok(network)
    }

    /// The node's network namespace.
    pub fn node(&self) -> &Namespace {
        &self.node
    }

    /// Creates the network namespace of a pod.
    pub fn attach(&self, name: &str, kubernetes_namespace: &str, address: Ipv4Addr) -> Result<Wire> {
        let namespace = Namespace::named(format!("{PREFIX}{}-{name}", std::process::id()));
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(other) = state.pods.iter().find(|wire| wire.ip == address) {
            bail!("{address} is already the address of {}", other.namespace.name());
        }
        let wire = Wire { namespace, ip: address };
        let (pod, text) = (wire.namespace.name(), address.to_string());
        let host_end = host_end(address);
        ip(&["netns", "add", pod])?;
        state.pods.push(wire.clone());
        etc_files(&wire.namespace, kubernetes_namespace)?;
        ip(&["link", "add", &host_end, "type", "veth", "peer", "name", "eth0", "netns", pod])?;
        ip(&["link", "set", &host_end, "up"])?;
        ip(&["route", "add", &text, "dev", &host_end, "src", &NODE.to_string()])?;
        ip(&["-n", pod, "link", "set", "lo", "up"])?;
        ip(&["-n", pod, "addr", "add", &format!("{text}/32"), "dev", "eth0"])?;
        ip(&["-n", pod, "link", "set", "eth0", "up"])?;
        ip(&["-n", pod, "route", "add", &NODE.to_string(), "dev", "eth0", "scope", "link"])?;
        ip(&["-n", pod, "route", "add", "default", "via", &NODE.to_string()])?;
        Ok(wire)
    }

    /// Removes the network namespace of a pod.
    pub fn detach(&self, wire: &Wire) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.pods.retain(|other| other.namespace != wire.namespace);
        // With the last process in it gone, the kernel takes the namespace's links away, but
        // later; the address may be wanted at once.
        let _ = ip(&["link", "del", &host_end(wire.ip)]);
        remove(wire.namespace.name());
    }

    /// Makes services reachable by their addresses, as kube-proxy does, and by their names.
    pub fn serve(&self, services: Services) -> Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.services.as_ref() == Some(&services) {
            return Ok(());
        }
        restore(&self.node, &services.nat())?;
        state.services = Some(services);
        self.dns.serve(state.zone());
        Ok(())
    }

    /// Adds the name of a host outside of the cluster.
    pub fn know(&self, name: &str, addresses: &[Ipv4Addr]) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.outside.insert(name.to_string(), addresses.iter().map(|&ip| ip.into()).collect());
        self.dns.serve(state.zone());
    }

    /// Sets the answer that applications get for a name, as Istio's DNS capture does. Proxies get
    /// that of the DNS server.
    pub fn capture(&self, name: &str, address: Ipv4Addr) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.captured.insert(name.to_string(), address);
    }

    /// Returns the address of a name as a pod in this Kubernetes namespace resolves it.
    pub fn resolve(&self, name: &str, kubernetes_namespace: &str) -> Result<IpAddr> {
        if let Ok(ip) = name.parse() {
            return Ok(ip);
        }
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(&address) = state.captured.get(name) {
            return Ok(address.into());
        }
        let found = self.dns.resolve(name, kubernetes_namespace).first().copied();
        found.with_context(|| format!("a pod in {kubernetes_namespace} knows no host {name}"))
    }
}

/// Writes the files in `/etc/netns` that differ from the machine's own.
fn etc_files(namespace: &Namespace, kubernetes_namespace: &str) -> Result<()> {
    let dir = etc(namespace.name());
    fs::create_dir_all(&dir).with_context(|| format!("can't create {}", dir.display()))?;
    let search = dns::search(kubernetes_namespace).join(" ");
    let resolver = format!("nameserver {}\nsearch {search}\noptions ndots:5\n", dns::ADDRESS);
    for (file, text) in [("hosts", "127.0.0.1 localhost\n"), ("resolv.conf", resolver.as_str())] {
        fs::write(dir.join(file), text).with_context(|| format!("can't write {}", dir.join(file).display()))?;
    }
    Ok(())
}

impl Drop for Network {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        for wire in &state.pods {
            remove(wire.namespace.name());
        }
        remove(self.node.name());
    }
}

/// Removes the namespaces of this run, for a program that is about to end without dropping their
/// owner.
pub fn abandon() {
    remove_those_of(|pid| pid == std::process::id());
}

/// Replaces the rules of a table by iptables-restore's text.
pub fn restore(namespace: &Namespace, rules: &str) -> Result<()> {
    let mut command = namespace.command("iptables-restore");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    child.stdin.take().context("no stdin")?.write_all(rules.as_bytes())?;
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("iptables-restore: {}\n{rules}", String::from_utf8_lossy(&output.stderr).trim_end());
    }
    Ok(())
}

/// The name of the node's end of a pod's veth pair. Interface names have at most 15 characters.
fn host_end(ip: Ipv4Addr) -> String {
    let [_, _, c, d] = ip.octets();
    format!("pod-{c}-{d}")
}

fn etc(name: &str) -> PathBuf {
    Path::new("/etc/netns").join(name)
}

/// Removes a namespace and kills all processes in it, such as the Envoy of a killed pilot-agent.
fn remove(name: &str) {
    let pids =
        Command::new("ip").args(["netns", "pids", name]).output().map(|output| output.stdout).unwrap_or_default();
    for pid in String::from_utf8_lossy(&pids).split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()) {
        if pid != std::process::id() {
            // SAFETY: a signal to a process in a namespace of ours; no memory is involved.
            unsafe { libc::kill(pid as libc::pid_t, libc::SIGKILL) };
        }
    }
    let _ = ip(&["netns", "del", name]);
    let _ = fs::remove_dir_all(etc(name));
}

/// Removes the namespaces of runs by their process ids.
fn remove_those_of(is_wanted: impl Fn(u32) -> bool) {
    for dir in ["/run/netns", "/etc/netns"] {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
            if pid.is_some_and(&is_wanted) {
                remove(&name);
            }
        }
    }
}

fn ip(args: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(args).stdin(Stdio::null()).output().context("can't start ip")?;
    if !output.status.success() {
        bail!("ip {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim_end());
    }
    Ok(())
}
