//! `cargo mesh --keep`: a mesh for interactive use.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use redis_mesh_tests::workspace;

use crate::interrupt;
use crate::mesh::Mesh;

/// Prints how to use the mesh and keeps it until Ctrl-C.
pub fn keep(mut mesh: Mesh) -> Result<()> {
    let script = script(&mesh)?;
    println!(
        "
The mesh is up: Kubernetes with Istio, and the namespace redis with redis-single (its password is {password}),
redis-cluster (six nodes) and redis-client (with a sidecar). In another terminal, as root:

  . {script}

  kubectl -n redis get pods                                 kubectl of this cluster
  pod redis-client redis-cli -h redis-single                a program in a pod
  kubectl apply -f {manifests}/mission/server-auth.yaml
  pod redis-client redis-cli -h redis-single set foo bar
  sidecar redis-client config_dump                          Envoy's admin port: stats, clusters, listeners, …
  log redis-client                                          the log of a sidecar; also istiod, kube-apiserver
  log controller

Ctrl-C ends and removes everything.",
        password = crate::mesh::PASSWORD,
        script = script.display(),
        manifests = workspace::root().join("tests/mesh/manifests").display(),
    );
    while !interrupt::within(Duration::from_millis(500)) {
        // Services become reachable, and where nobody else does it, what is applied is rendered.
        if let Err(error) = mesh.sync() {
            eprintln!("{error:#}");
        }
    }
    Ok(())
}

/// Shell functions that run commands in the mesh.
fn script(mesh: &Mesh) -> Result<PathBuf> {
    let dir = mesh.plane.dir();
    let path = dir.join("mesh.sh");
    let node = mesh.node().name();
    let prefix = node.trim_end_matches("node");
    let text = format!(
        "# Functions for a shell in which `cargo mesh --keep` is used.
export KUBECONFIG={kubeconfig}
kubectl() {{ ip netns exec {node} {kubectl} \"$@\"; }}
pod() {{ local name=$1; shift; ip netns exec {prefix}\"$name\" \"$@\"; }}
sidecar() {{ pod \"$1\" curl -s \"http://127.0.0.1:15000/$2\"; }}
log() {{
    case $1 in
        istiod | kube-apiserver | etcd) cat {dir}/\"$1\".log ;;
        controller) cat {run}/*redis-mesh-*/controller.log ;;
        *) cat {run}/*-sidecar-\"$1\"/sidecar.log ;;
    esac
}}
",
        kubeconfig = mesh.plane.kubeconfig().display(),
        kubectl = mesh.plane.programs().kubectl.display(),
        dir = dir.display(),
        run = workspace::run_dir()?.display(),
    );
    fs::write(&path, text)?;
    Ok(path)
}
