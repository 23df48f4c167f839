//! A controller that may read some Secrets by their names, and no others.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::Test;
use super::conditions::wait_condition;
use super::outages::controller;
use super::strangers;
use crate::api::ObjectName;
use crate::mesh::{Mesh, PASSWORD, PATIENCE, eventually};
use crate::operator::controller::NAMESPACE;

/// The tests.
pub const TESTS: &[Test] = &[("permissions::named_secrets", named_secrets)];

/// The number of Secrets in one namespace above which the controller would rather watch all of them.
const NAMED: usize = 17;

/// A Secret, and a RedisDestination that names it.
fn login(number: usize, password: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Secret
metadata: {{name: login-{number}, namespace: redis}}
stringData: {{password: {password}}}
---
apiVersion: redis.aeraki.io/v1alpha1
kind: RedisDestination
metadata: {{name: many-{number}, namespace: redis}}
spec:
  host: many-{number}
  trafficPolicy: {{connectionPool: {{redis: {{auth: {{secret: {{name: login-{number}}}}}}}}}}}
---
"
    )
}

fn destination(number: usize) -> ObjectName {
    ObjectName::new("RedisDestination", "redis", &format!("many-{number}"))
}

/// The Role and the RoleBinding that the chart writes for `rbac.secrets.namespaces` with names.
fn permission() -> [Value; 2] {
    let metadata = json!({"name": "redis-mesh-secrets", "namespace": "redis"});
    let names: Vec<String> = (0..NAMED).map(|number| format!("login-{number}")).collect();
    let rule =
        json!({"apiGroups": [""], "resources": ["secrets"], "resourceNames": names, "verbs": ["get", "list", "watch"]});
    let version = "rbac.authorization.k8s.io/v1";
    let subject = json!({"kind": "ServiceAccount", "name": "redis-mesh", "namespace": NAMESPACE});
    let role = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "redis-mesh-secrets"});
    [
        json!({"apiVersion": version, "kind": "Role", "metadata": metadata, "rules": [rule]}),
        json!({"apiVersion": version, "kind": "RoleBinding", "metadata": metadata, "roleRef": role, "subjects": [subject]}),
    ]
}

/// Takes the permission to read all Secrets from the controller while a test runs.
fn confined(mesh: &mut Mesh, test: impl FnOnce(&mut Mesh) -> Result<()>) -> Result<()> {
    let role = ObjectName::new("ClusterRole", "", &format!("redis-mesh-{NAMESPACE}"));
    let object = mesh.api().get(&role)?.context("the controller has no ClusterRole")?;
    let all = object["rules"].as_array().context("no rules")?;
    let is_of_secrets = |rule: &&Value| rule["resources"].as_array().is_some_and(|all| all.contains(&"secrets".into()));
    ensure!(all.iter().any(|rule| is_of_secrets(&rule)), "the ClusterRole has nothing to take away");
    let rest: Vec<&Value> = all.iter().filter(|rule| !is_of_secrets(rule)).collect();
    mesh.api().merge(&role, &json!({"rules": rest}))?;
    let permission = permission();
    permission.iter().try_for_each(|object| mesh.api().apply_object(object).map(drop))?;
    // An API server obeys a change of permissions a moment later.
    let result = controller(mesh)?.restart().and_then(|()| test(mesh));
    mesh.api().merge(&role, &json!({"rules": all}))?;
    permission.iter().try_for_each(|object| mesh.api().delete(&ObjectName::of(object)?))?;
    result
}

/// Every one of more Secrets than the controller watches by their names is read, and so are their changes,
/// by the controller that has seen them come and by one that finds them. One that it may not read concerns
/// only the object that names it.
fn named_secrets(mesh: &mut Mesh) -> Result<()> {
    confined(mesh, |mesh| {
        for number in 0..=NAMED {
            mesh.apply(&strangers::service(
                "redis",
                &format!("many-{number}"),
                &format!("10.96.1.{}", number + 1),
                20,
            ))?;
        }
        mesh.apply(&(0..NAMED).map(|number| login(number, PASSWORD)).collect::<String>())?;
        for number in 0..NAMED {
            wait_condition(mesh, &destination(number), "ResolvedRefs", "True")?;
        }
        rotated(mesh, "once")?;
        controller(mesh)?.restart()?;
        rotated(mesh, "twice")?;

        mesh.apply(&login(NAMED, PASSWORD))?;
        let (reason, message) = wait_condition(mesh, &destination(NAMED), "ResolvedRefs", "False")?;
        ensure!(reason == "RefNotFound" && message.contains("can't be read by the controller"), "{reason}: {message}");
        ensure!(message.contains("forbidden"), "{message}");
        rotated(mesh, "thrice")?;
        mesh.delete(&(0..=NAMED).map(destination).collect::<Vec<_>>())
    })
}

/// Changes the first Secret and the last one, and waits until the mesh has the new passwords.
fn rotated(mesh: &mut Mesh, word: &str) -> Result<()> {
    for number in [0, NAMED - 1] {
        let password = format!("rotated-{word}-{number}");
        mesh.apply(&login(number, &password))?;
        eventually(PATIENCE, || {
            let written = mesh.plane.kubectl(&["-n", "istio-system", "get", "envoyfilters", "-o", "yaml"], "")?;
            ensure!(written.contains(&password), "Secret login-{number} has changed, and nothing has followed");
            Ok(())
        })?;
        wait_condition(mesh, &destination(number), "ResolvedRefs", "True")?;
    }
    Ok(())
}
