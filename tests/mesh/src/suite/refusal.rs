//! An API server that refuses what the controller writes in a namespace.

use anyhow::{Result, ensure};

use crate::mesh::{Mesh, PATIENCE, eventually};

/// The words of the API server.
pub const REFUSED: &str = "nothing of Istio's is taken in this namespace";

/// Runs a test while every WasmPlugin and EnvoyFilter is refused in a namespace. An API server obeys a
/// policy a little later than it stores or deletes it, so that is waited for.
pub fn while_refused(mesh: &mut Mesh, namespace: &str, test: impl FnOnce(&mut Mesh) -> Result<()>) -> Result<()> {
    let policy = policy(namespace);
    mesh.plane.kubectl(&["apply", "--server-side", "-f", "-"], &policy)?;
    let result = wait(mesh, namespace, true).and_then(|()| test(mesh));
    mesh.plane.kubectl(&["delete", "-f", "-"], &policy)?;
    wait(mesh, namespace, false)?;
    result
}

fn wait(mesh: &Mesh, namespace: &str, is_refused: bool) -> Result<()> {
    let tried = format!(
        "
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {{name: any, namespace: {namespace}}}
spec: {{configPatches: []}}
"
    );
    eventually(PATIENCE, || {
        let tried = mesh.plane.kubectl(&["apply", "--server-side", "--dry-run=server", "-f", "-"], &tried);
        let error = tried.err().map(|error| format!("{error:#}")).unwrap_or_default();
        ensure!(error.contains(REFUSED) == is_refused && (is_refused || error.is_empty()), "the API server: {error}");
        Ok(())
    })
}

fn policy(namespace: &str) -> String {
    format!(
        "
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {{name: refusal}}
spec:
  failurePolicy: Fail
  matchConstraints:
    resourceRules:
      - apiGroups: [extensions.istio.io, networking.istio.io]
        apiVersions: ['*']
        operations: [CREATE, UPDATE]
        resources: [wasmplugins, envoyfilters]
  validations: [{{expression: 'false', message: {REFUSED:?}}}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {{name: refusal}}
spec:
  policyName: refusal
  validationActions: [Deny]
  matchResources: {{namespaceSelector: {{matchLabels: {{kubernetes.io/metadata.name: {namespace}}}}}}}
"
    )
}
