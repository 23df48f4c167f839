//! mTLS in STRICT mode: Redis behind sidecars that accept nothing else, in a namespace of its own.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use redis_mesh_tests::cluster::{self, Cluster};

use super::Test;
use super::mission::soon;
use crate::api::ObjectName;
use crate::mesh::{Mesh, PATIENCE, eventually};
use crate::pod::Pod;

/// The tests.
pub const TESTS: &[Test] = &[("mtls::single", single), ("mtls::cluster", cluster)];

pub(super) const STRICT: &str = "
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: strict, namespace: secure}
spec: {mtls: {mode: STRICT}}
";

pub(super) fn service(name: &str, ip: &str, hosts: impl IntoIterator<Item = u8>) -> String {
    service_of(name, name, ip, hosts)
}

/// Returns a service of pods `POD-0`, `POD-1` and so on.
fn service_of(pod: &str, name: &str, ip: &str, hosts: impl IntoIterator<Item = u8>) -> String {
    let endpoints: String = hosts
        .into_iter()
        .enumerate()
        .map(|(i, host)| {
            format!(
                "  - {{addresses: [10.244.0.{host}], conditions: {{ready: true}}, targetRef: {{kind: Pod, name: {pod}-{i}, namespace: secure}}}}\n"
            )
        })
        .collect();
    format!(
        "apiVersion: v1
kind: Namespace
metadata: {{name: secure}}
---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: secure}}
spec:
  clusterIP: {ip}
  selector: {{app: {pod}}}
  ports: [{{name: tcp-redis, port: 6379}}, {{name: tcp-bus, port: 16379}}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}, namespace: secure, labels: {{kubernetes.io/service-name: {name}}}}}
addressType: IPv4
ports: [{{name: tcp-redis, port: 6379, protocol: TCP}}, {{name: tcp-bus, port: 16379, protocol: TCP}}]
endpoints:
{endpoints}"
    )
}

pub(super) fn remove(mesh: &mut Mesh, services: &[&str]) -> Result<()> {
    let mut names = vec![ObjectName::new("PeerAuthentication", "secure", "strict")];
    for name in services {
        names.extend(
            ["Service", "EndpointSlice", "RedisService", "RedisDestination"]
                .map(|kind| ObjectName::new(kind, "secure", name)),
        );
    }
    mesh.delete(&names)
}

/// The address of the service `front`.
const FRONT: &str = "10.96.0.32";

/// Checks that the pod's sidecar refuses connections without a certificate of the mesh.
pub(super) fn ensure_strict(pod: &Pod) -> Result<()> {
    eventually(PATIENCE, || {
        // From the node, which has no sidecar.
        let mut client = redis_mesh_tests::client::Client::connect(SocketAddr::new(pod.ip().into(), 6379))?;
        ensure!(client.line("ping").is_err(), "{} answers without mTLS", pod.name().name);
        Ok(())
    })
}

const SINGLE: &str = "
apiVersion: redis.aeraki.io/v1alpha1
kind: RedisService
metadata: {name: single, namespace: secure}
spec:
  host: [single.secure.svc.cluster.local]
  settings: {auth: {plain: {password: of-clients}}}
---
apiVersion: redis.aeraki.io/v1alpha1
kind: RedisDestination
metadata: {name: single, namespace: secure}
spec:
  host: single.secure.svc.cluster.local
  trafficPolicy: {connectionPool: {redis: {auth: {plain: {password: secret-of-single}}}}}
";

fn single(mesh: &mut Mesh) -> Result<()> {
    mesh.apply(&service("single", "10.96.0.31", [50]))?;
    let pod = mesh.pod("single-0", "secure", "single", 50, true)?;
    let redis = pod.redis(Some("secret-of-single"))?;
    mesh.apply(STRICT)?;
    ensure_strict(&pod)?;
    soon(mesh, "single.secure", &[("ping", "(error) NOAUTH Authentication required.")])?;
    for path in ["direct", "proxy"] {
        let annotation = format!("namespace: secure, annotations: {{redis-mesh.io/data-path: {path}}}");
        mesh.apply(&SINGLE.replacen("namespace: secure", &annotation, 1))?;
        let set = format!("set {path} 1");
        soon(
            mesh,
            "single.secure",
            &[("get a", "(error) NOAUTH Authentication required."), ("auth of-clients", "OK"), (&set, "OK")],
        )
        .with_context(|| format!("on the path {path}"))?;
        ensure!(redis.cmd(&["GET", path])?.text() == "1");
        mesh.delete(&[
            ObjectName::new("RedisService", "secure", "single"),
            ObjectName::new("RedisDestination", "secure", "single"),
        ])?;
        soon(mesh, "single.secure", &[("auth secret-of-single", "OK")])?;
    }
    remove(mesh, &["single"])?;
    drop(redis);
    pod.delete()
}

/// Nodes find each other by a headless service, as those of a StatefulSet do; so Istio knows that
/// their addresses speak mTLS.
const CLUSTER: &str = "
apiVersion: redis.aeraki.io/v1alpha1
kind: RedisDestination
metadata: {name: nodes, namespace: secure}
spec:
  host: nodes.secure.svc.cluster.local
  trafficPolicy:
    connectionPool: {redis: {mode: CLUSTER}}
    tls: {mode: ISTIO_MUTUAL}
";

fn cluster(mesh: &mut Mesh) -> Result<()> {
    with_nodes(mesh, |mesh, cluster| {
        mesh.apply(CLUSTER)?;
        ensure_served(mesh, "nodes.secure", cluster)
    })
}

/// A Redis Cluster whose nodes accept only mTLS.
fn with_nodes(mesh: &mut Mesh, task: impl FnOnce(&mut Mesh, &Cluster) -> Result<()>) -> Result<()> {
    let hosts = 51..54;
    mesh.apply(&service("nodes", "None", hosts.clone()))?;
    mesh.apply(&service_of("nodes", "front", FRONT, hosts.clone()))?;
    let pods =
        hosts.clone().enumerate().map(|(i, host)| mesh.pod(&format!("nodes-{i}"), "secure", "nodes", host, true));
    let pods = pods.collect::<Result<Vec<Pod>>>()?;
    let cluster = Cluster::start_with(cluster::Shape {
        replicas: 0,
        addrs: Some(pods.iter().map(|pod| SocketAddr::new(pod.ip().into(), 6379)).collect()),
        namespaces: pods.iter().map(|pod| pod.network_namespace().clone()).collect(),
        ..cluster::Shape::default()
    })?;
    mesh.apply(STRICT)?;
    for pod in &pods {
        ensure_strict(pod)?;
    }
    cluster.wait_ok(PATIENCE)?;
    task(mesh, &cluster)?;
    remove(mesh, &["nodes", "front"])?;
    drop(cluster);
    pods.into_iter().try_for_each(Pod::delete)
}

fn ensure_served(mesh: &Mesh, host: &str, cluster: &Cluster) -> Result<()> {
    let sets: Vec<String> = (0..20).map(|i| format!("set key-{i} {i}")).collect();
    let lines: Vec<(&str, &str)> = sets.iter().map(|set| (set.as_str(), "OK")).collect();
    soon(mesh, host, &lines)?;
    for i in 0..20 {
        ensure!(cluster.get(&format!("key-{i}"))?.text() == i.to_string());
    }
    Ok(())
}

/// The dynamic module uses Istio's own cluster of a service, and so mTLS without any
/// configuration.
pub(super) fn members(mesh: &mut Mesh) -> Result<()> {
    with_nodes(mesh, |mesh, cluster| {
        mesh.apply(&CLUSTER.replace("    tls: {mode: ISTIO_MUTUAL}\n", "").replace("nodes", "front"))?;
        ensure_served(mesh, "front.secure", cluster)?;
        let name = "outbound|6379||front.secure.svc.cluster.local";
        let stats = mesh.client.sidecar()?.stats("^cluster.outbound.6379..front.*upstream_cx_total$")?;
        ensure!(stats.iter().map(|(_, value)| value).sum::<u64>() >= 3, "{name}: {stats:?}");
        Ok(())
    })
}
