//! A few services on one loopback subnet, as manifests, and the Envoy that serves them.

use std::fmt::Write as _;

use anyhow::Result;

use crate::cli;
use crate::envoy::{Envoy, Options};
use crate::net::Subnet;

/// Manifests of services on a subnet. Every service listens on one address, its servers on others,
/// and the port is the same for all.
#[derive(Debug)]
pub struct Scene<'a> {
    subnet: &'a Subnet,
    manifests: String,
}

impl<'a> Scene<'a> {
    /// Creates a scene without services.
    pub fn on(subnet: &'a Subnet) -> Scene<'a> {
        Scene { subnet, manifests: String::new() }
    }

    /// Adds a Service in the namespace `redis` that listens on one address and whose servers have
    /// others.
    pub fn service(&mut self, name: &str, listens: u8, servers: &[u8]) -> &mut Scene<'a> {
        let (port, listens) = (self.subnet.port(), self.subnet.ip(listens));
        let _ = write!(
            self.manifests,
            "---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: redis}}
spec:
  clusterIP: {listens}
  ports:
    - {{name: tcp-redis, port: {port}}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}-1, namespace: redis, labels: {{kubernetes.io/service-name: {name}}}}}
addressType: IPv4
ports:
  - {{name: tcp-redis, port: {port}}}
endpoints:
"
        );
        for server in servers {
            let _ = writeln!(self.manifests, "  - addresses: [{}]", self.subnet.ip(*server));
        }
        self
    }

    /// Adds a RedisService for one host. `spec` follows `host`, in YAML's flow style without
    /// braces.
    pub fn rules(&mut self, host: &str, data_path: &str, spec: &str) -> &mut Scene<'a> {
        let _ = write!(
            self.manifests,
            "---
apiVersion: redis.aeraki.io/v1alpha1
kind: RedisService
metadata: {{name: {host}, namespace: redis, annotations: {{redis-mesh.io/data-path: {data_path}}}}}
spec: {{host: [{host}], {spec}}}
"
        );
        self
    }

    /// Adds a RedisDestination for one host. `redis` is its `connectionPool.redis`, in YAML's flow
    /// style without braces.
    pub fn destination(&mut self, host: &str, redis: &str) -> &mut Scene<'a> {
        let _ = write!(
            self.manifests,
            "---
apiVersion: redis.aeraki.io/v1alpha1
kind: RedisDestination
metadata: {{name: {host}, namespace: redis}}
spec: {{host: {host}, trafficPolicy: {{connectionPool: {{redis: {{{redis}}}}}}}}}
"
        );
        self
    }

    /// Returns the manifests.
    pub fn manifests(&self) -> &str {
        &self.manifests
    }

    /// Renders the manifests and starts an Envoy with the result.
    pub fn start(&self, concurrency: u32) -> Result<Envoy> {
        let config = cli::render_envoy_text(&self.manifests, &[])?;
        Envoy::start_with(&config, &Options { concurrency, ..Options::default() })
    }
}
