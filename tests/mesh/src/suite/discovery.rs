//! Namespaces at which istiod doesn't look, since no `discoverySelectors` of the mesh configuration
//! select them.

use anyhow::{Result, ensure};

use super::Test;
use super::conditions::wait_condition;
use super::installations::wait_unready;
use super::mission::{NOAUTH, session, soon};
use super::outages::controller;
use super::strangers::{of_service, service};
use crate::api::ObjectName;
use crate::control_plane::{MESH, ROOT_NAMESPACE, publish_mesh_config};
use crate::mesh::{Mesh, PASSWORD};
use crate::operator::controller::Options;

/// The tests.
pub const TESTS: &[Test] =
    &[("discovery::unseen_namespace", unseen_namespace), ("discovery::unseen_root_namespace", unseen_root_namespace)];

/// All namespaces but those with a label.
const SELECTORS: &str = "discoverySelectors: [{matchExpressions: [{key: hidden, operator: DoesNotExist}]}]\n";
const HIDDEN: &str = "{apiVersion: v1, kind: Namespace, metadata: {name: web, labels: {hidden: 'true'}}}";
const UNHIDE: [&str; 4] = ["label", "namespace", "web", "hidden-"];

/// Rules of a host in the unseen namespace, and rules elsewhere that lead there.
fn rules() -> String {
    format!(
        "
apiVersion: redis.aeraki.io/v1alpha1
kind: RedisService
metadata: {{name: unseen, namespace: web}}
spec:
  host: [unseen]
  settings: {{auth: {{plain: {{password: of-unseen}}}}}}
---
apiVersion: redis.aeraki.io/v1alpha1
kind: RedisDestination
metadata: {{name: unseen, namespace: web}}
spec:
  host: unseen
  trafficPolicy: {{connectionPool: {{redis: {{auth: {{plain: {{password: {PASSWORD}}}}}}}}}}}
---
apiVersion: redis.aeraki.io/v1alpha1
kind: RedisService
metadata: {{name: leads-there, namespace: redis}}
spec:
  host: [redis-cluster]
  redis: [{{route: {{host: seen-from-nowhere.web.svc.cluster.local}}}}]
"
    )
}

/// The status says why no rule takes effect, and what it names as the remedy is one.
fn unseen_namespace(mesh: &mut Mesh) -> Result<()> {
    mesh.api().apply(HIDDEN)?;
    mesh.plane.configure_istio(SELECTORS)?;
    let result = (|| {
        controller(mesh)?.restart_as(Options::default())?;
        mesh.apply(&service("web", "unseen", "10.96.0.53", 20))?;
        mesh.apply(&service("web", "seen-from-nowhere", "10.96.0.54", 20))?;
        mesh.apply(&rules())?;
        let objects = [("web", "unseen"), ("redis", "leads-there")]
            .map(|(namespace, name)| ObjectName::new("RedisService", namespace, name));
        for object in &objects {
            let (reason, message) = wait_condition(mesh, object, "ResolvedRefs", "False")?;
            ensure!(reason == "RefNotFound" && message.contains("[unseen-namespace]"), "{reason}: {message}");
            ensure!(message.contains("label namespace web") && message.contains("`!hidden`"), "{message}");
            wait_condition(mesh, object, "Programmed", "False")?;
        }
        session(mesh, "unseen.web", &[("get a", NOAUTH), (&format!("auth {PASSWORD}"), "OK")])?;

        mesh.plane.kubectl(&UNHIDE, "")?;
        for object in &objects {
            wait_condition(mesh, object, "Programmed", "True")?;
        }
        soon(mesh, "unseen.web", &[("get a", NOAUTH), ("auth of-unseen", "OK"), ("set a a", "OK")])?;
        mesh.delete(&objects)?;
        mesh.delete(&[ObjectName::new("RedisDestination", "web", "unseen")])?;
        mesh.delete(&[of_service("web", "unseen"), of_service("web", "seen-from-nowhere")].concat())
    })();
    mesh.plane.kubectl(&UNHIDE, "")?;
    mesh.plane.configure_istio("")?;
    controller(mesh)?.restart_as(Options::default())?;
    result
}

/// What stands in a root namespace at which istiod doesn't look reaches no sidecar.
fn unseen_root_namespace(mesh: &mut Mesh) -> Result<()> {
    // Only where the controller reads it: without its root namespace, istiod would lose more than our rules.
    let selectors = "discoverySelectors: [{matchLabels: {istio-discovery: enabled}}]\n";
    publish_mesh_config(mesh.api(), "istio", &format!("{MESH}{selectors}"))?;
    controller(mesh)?.begin_as(Options::default())?;
    let words = ["doesn't look at its root namespace istio-system", "`istio-discovery=enabled`"];
    let result = wait_unready(controller(mesh)?, &words);
    let label = |label: &str| mesh.plane.kubectl(&["label", "namespace", ROOT_NAMESPACE, label], "").map(drop);
    label("istio-discovery=enabled")?;
    let remedied = controller(mesh)?.restart();
    mesh.plane.kubectl(&["label", "namespace", ROOT_NAMESPACE, "istio-discovery-"], "")?;
    publish_mesh_config(mesh.api(), "istio", MESH)?;
    controller(mesh)?.restart_as(Options::default())?;
    result.and(remedied)
}
