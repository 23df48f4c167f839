//! EnvoyFilters of users, which stay in force beside ours.

use anyhow::{Result, ensure};

use super::Test;
use super::mission::session;
use super::updates::prefix_routing_in_force;
use crate::mesh::{Mesh, PATIENCE, eventually};

/// The tests.
pub const TESTS: &[Test] = &[("envoy_filters::before_tcp_proxy", before_tcp_proxy)];

/// Denies every connection to a host, by a filter before `tcp_proxy`, with the priority of those that name none.
const DENY: &str = "
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {name: deny, namespace: NAMESPACE}
spec:
  configPatches:
    - applyTo: NETWORK_FILTER
      match:
        context: SIDECAR_OUTBOUND
        listener: {name: 10.96.0.22_6379, filterChain: {filter: {name: envoy.filters.network.tcp_proxy}}}
      patch:
        operation: INSERT_BEFORE
        value:
          name: envoy.filters.network.rbac
          typed_config:
            '@type': type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC
            stat_prefix: denied
            rules: {action: DENY, policies: {all: {permissions: [{any: true}], principals: [{any: true}]}}}
";

/// A filter that a user inserts before `tcp_proxy` works where `redis_proxy` takes the place of that, whether it
/// stands in the root namespace or in that of the clients.
fn before_tcp_proxy(mesh: &mut Mesh) -> Result<()> {
    prefix_routing_in_force(mesh)?;
    let answers = |mesh: &Mesh| session(mesh, "redis-cluster", &[("set other-0 0", "OK")]);
    for namespace in ["istio-system", "redis"] {
        eventually(PATIENCE, || answers(mesh))?;
        mesh.plane.kubectl(&["apply", "-f", "-"], &DENY.replace("NAMESPACE", namespace))?;
        let denied = eventually(PATIENCE, || {
            ensure!(answers(mesh).is_err(), "the user's filter in {namespace} denies nothing");
            Ok(())
        });
        // Other hosts of the port have nothing to do with it.
        let other = session(mesh, "redis-single", &[("set a a", "OK")]);
        mesh.plane.kubectl(&["-n", namespace, "delete", "envoyfilter", "deny"], "")?;
        denied?;
        other?;
    }
    eventually(PATIENCE, || answers(mesh))
}
