//! Redis outside of the cluster, by the name that a ServiceEntry makes known with an address of
//! its own. Applications get that address where Istio answers their DNS queries (DNS capture); the
//! proxy asks the DNS server itself.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Result, ensure};
use redis_mesh_tests::cluster::{self, Cluster};

use super::Test;
use super::mission::{session, soon};
use crate::api::ObjectName;
use crate::mesh::{Mesh, PATIENCE, eventually};
use crate::pod::Pod;

/// The tests.
pub const TESTS: &[Test] = &[("external::service_entry", service_entry), ("external::cluster", cluster)];

const HOST: &str = "redis.example.com";
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 90);

const ENTRY: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: cloud, namespace: redis}
spec:
  hosts: [redis.example.com]
  location: MESH_EXTERNAL
  addresses: [10.96.0.90]
  resolution: DNS
  ports: [{number: 6379, name: tcp-redis, protocol: TCP}]
";

const LOGIN: &str = "
apiVersion: redis.aeraki.io/v1alpha1
kind: RedisService
metadata: {name: cloud, namespace: redis}
spec:
  host: [redis.example.com]
  settings: {auth: {plain: {password: of-clients}}}
---
apiVersion: redis.aeraki.io/v1alpha1
kind: RedisDestination
metadata: {name: cloud, namespace: redis}
spec:
  host: redis.example.com
  trafficPolicy: {connectionPool: {redis: {auth: {plain: {password: of-the-cloud}}}}}
";

fn remove(mesh: &mut Mesh) -> Result<()> {
    mesh.delete(&["RedisService", "RedisDestination"].map(|kind| ObjectName::new(kind, "redis", "cloud")))
}

fn service_entry(mesh: &mut Mesh) -> Result<()> {
    let pod = mesh.pod("cloud", "outside", "cloud", 27, false)?;
    let redis = pod.redis(Some("of-the-cloud"))?;
    mesh.network.know(HOST, &[pod.ip()]);
    mesh.network.capture(HOST, ADDRESS);
    mesh.apply(ENTRY)?;
    soon(mesh, HOST, &[("auth of-the-cloud", "OK"), ("set a a", "OK")])?;
    mesh.apply(LOGIN)?;
    soon(
        mesh,
        HOST,
        &[("get a", "(error) NOAUTH Authentication required."), ("auth of-clients", "OK"), ("get a", "\"a\"")],
    )?;
    // Services of the cluster on the same port are none of its business.
    session(mesh, "redis-single", &[("auth testredis", "OK")])?;
    remove(mesh)?;
    soon(mesh, HOST, &[("auth of-the-cloud", "OK"), ("get a", "\"a\"")])?;
    drop(redis);
    pod.delete()
}

const CLUSTER: &str = "
apiVersion: redis.aeraki.io/v1alpha1
kind: RedisDestination
metadata: {name: cloud, namespace: redis}
spec:
  host: redis.example.com
  trafficPolicy: {connectionPool: {redis: {mode: CLUSTER}}}
";

fn cluster(mesh: &mut Mesh) -> Result<()> {
    let pods = (27..30).map(|host| mesh.pod(&format!("cloud-{host}"), "outside", "cloud", host, false));
    let pods = pods.collect::<Result<Vec<Pod>>>()?;
    let nodes = Cluster::start_with(cluster::Shape {
        replicas: 0,
        addrs: Some(pods.iter().map(|pod| SocketAddr::new(pod.ip().into(), 6379)).collect()),
        namespaces: pods.iter().map(|pod| pod.network_namespace().clone()).collect(),
        ..cluster::Shape::default()
    })?;
    mesh.network.know(HOST, &pods.iter().map(Pod::ip).collect::<Vec<_>>());
    mesh.network.capture(HOST, ADDRESS);
    mesh.apply(ENTRY)?;
    mesh.apply(CLUSTER)?;
    eventually(PATIENCE, || (0..20).try_for_each(|i| session(mesh, HOST, &[(&format!("set key-{i} {i}"), "OK")])))?;
    for i in 0..20 {
        ensure!(nodes.get(&format!("key-{i}"))?.text() == i.to_string());
    }
    remove(mesh)?;
    drop(nodes);
    pods.into_iter().try_for_each(Pod::delete)
}
