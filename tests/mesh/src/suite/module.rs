//! The delivery of the dynamic module from the controller into pods, and the upgrade to another
//! version.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use redis_mesh_tests::{native, workspace};
use serde_json::Value;

use super::Test;
use super::mission::{PREFIX_ROUTING, SERVER_AUTH, redis_cluster, session};
use crate::api::ObjectName;
use crate::mesh::{Mesh, PATIENCE, eventually};
use crate::operator::{Operator, controller};
use crate::traffic::Traffic;

/// The tests.
pub const TESTS: &[Test] = &[("module::versions", |mesh| {
    let result = versions(mesh);
    for (kind, name) in
        [("ConfigMap", CURRENT), ("ConfigMap", PREVIOUS), ("RoleBinding", PERMISSION), ("Role", PERMISSION)]
    {
        mesh.api().delete(&ObjectName::new(kind, "redis", name))?;
    }
    result
})];

const CURRENT: &str = "redis-mesh-module";
const PREVIOUS: &str = "redis-mesh-module-previous";
const PERMISSION: &str = "redis-mesh-module";

/// As the chart grants them with `native.namespaces: [redis]`.
const PERMISSIONS: &str = "
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: redis-mesh-module, namespace: redis}
rules:
  - {apiGroups: [''], resources: [configmaps], verbs: [create]}
  - apiGroups: ['']
    resources: [configmaps]
    resourceNames: [redis-mesh-module, redis-mesh-module-previous]
    verbs: [get, update]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: redis-mesh-module, namespace: redis}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: redis-mesh-module}
subjects: [{kind: ServiceAccount, name: redis-mesh, namespace: redis-mesh-system}]
";

fn restart(mesh: &mut Mesh, module: &Path, directory: &Path) -> Result<()> {
    let Operator::Controller(controller) = &mut mesh.operator else { return Ok(()) };
    let text = |path: &Path| path.to_str().map(str::to_owned).context("a path that is no text");
    let arguments = ["--module-namespace", "redis", "--module-delay", "3s", "--module", &text(module)?]
        .into_iter()
        .chain(["--module-directory", &text(directory)?])
        .map(str::to_owned)
        .collect();
    controller.restart_as(controller::Options { arguments, ..Default::default() })
}

/// Returns the files of a ConfigMap.
fn files(mesh: &Mesh, name: &str) -> Result<Vec<(String, Vec<u8>)>> {
    let map = mesh.api().get(&ObjectName::new("ConfigMap", "redis", name))?.with_context(|| format!("no {name}"))?;
    let files = map["binaryData"].as_object().into_iter().flatten();
    files.map(|(name, data)| Ok((name.clone(), STANDARD.decode(data.as_str().unwrap_or_default())?))).collect()
}

/// Mounts both ConfigMaps as the kubelet mounts a projected volume. The second one is optional.
fn mount(mesh: &Mesh, directory: &Path) -> Result<()> {
    for (name, file) in files(mesh, CURRENT)?.into_iter().chain(files(mesh, PREVIOUS).unwrap_or_default()) {
        let (path, new) = (directory.join(&name), directory.join(format!(".{name}")));
        if !path.exists() {
            std::fs::write(&new, file)?;
            std::fs::rename(&new, &path)?;
        }
    }
    Ok(())
}

/// Returns the EnvoyFilter of a host for sidecars with the module, as text.
fn overlay(mesh: &Mesh) -> Result<String> {
    let name = ObjectName::new("EnvoyFilter", "istio-system", "redis-mesh-redis-cluster.redis.svc-6379-native");
    Ok(mesh.api().get(&name)?.map(|object| object.to_string()).unwrap_or_default())
}

fn modules(mesh: &Mesh) -> Result<usize> {
    let is_module =
        |object: &Value| object["metadata"]["name"].as_str().unwrap_or_default().starts_with("redis-mesh-module-");
    Ok(mesh.api().list("EnvoyFilter")?.iter().filter(|object| is_module(object)).count())
}

/// Returns a version of the module that a ConfigMap carries whatever the size of the module's code:
/// a shared object that holds nothing and needs a file of its own with the code. The dynamic linker
/// loads that one with it, and looks up the functions that Envoy calls in both.
fn small_module(version: &str) -> Result<PathBuf> {
    let directory = workspace::scratch(version)?;
    let (code, module) = (directory.join("code.so"), directory.join("libredis_mesh_native.so"));
    std::fs::copy(native::build()?, &code)?;
    let mut linker = Command::new("cc");
    linker.args(["-shared", "-nostdlib", "-Wl,--no-as-needed", "-o"]).arg(&module).arg(&code);
    let output = linker.output().context("can't start cc")?;
    ensure!(output.status.success(), "cc: {}", String::from_utf8_lossy(&output.stderr));
    Ok(module)
}

fn versions(mesh: &mut Mesh) -> Result<()> {
    mesh.api().apply(PERMISSIONS)?;
    let directory = workspace::scratch("mounted")?;
    let (old, second) = (small_module("module-old")?, small_module("module-new")?);
    restart(mesh, &old, &directory)?;
    let first = eventually(PATIENCE, || files(mesh, CURRENT)?.pop().context("no file"))?;
    ensure!(first.1 == std::fs::read(&old)?, "the ConfigMap holds something else");
    mount(mesh, &directory)?;
    mesh.with_native_client(|mesh, _| {
        mesh.apply(SERVER_AUTH)?;
        mesh.apply(&redis_cluster())?;
        mesh.apply(PREFIX_ROUTING)?;
        eventually(PATIENCE, || {
            let lines = [("set elsewhere 1", "OK"), ("watch elsewhere", "OK"), ("unwatch", "OK")];
            session(mesh, "redis-cluster", &lines)?;
            ensure!(mesh.single.cmd(&["GET", "elsewhere"])?.text() == "1");
            ensure!(overlay(mesh)?.contains(&first.0));
            Ok(())
        })?;
        let traffic = Traffic::start(&mesh.client, "redis-cluster", None, &["cluster-", "other-"])?;
        // A change of policy reaches connections that are open, and closes none.
        let spec = "  settings: {caseInsensitive: true}\n  redis:";
        mesh.apply(&PREFIX_ROUTING.replacen("  redis:", spec, 1))?;
        eventually(PATIENCE, || {
            session(mesh, "redis-cluster", &[("set CLUSTER-upper 1", "OK")])?;
            ensure!(mesh.cluster.get("CLUSTER-upper")?.text() == "1");
            Ok(())
        })?;
        traffic.wait_right(100)?;
        traffic.seen().ensure_calm()?;

        restart(mesh, &second, &directory)?;
        let new = eventually(PATIENCE, || {
            let new = files(mesh, CURRENT)?.pop().context("no file")?;
            ensure!(new.0 != first.0, "still the first");
            Ok(new)
        })?;
        // On its way into the pod it isn't named yet, and what was rendered for the first is
        // there.
        ensure!(files(mesh, PREVIOUS)?.pop().as_ref() == Some(&first));
        ensure!(overlay(mesh)?.contains(&first.0), "what was rendered is gone");
        mount(mesh, &directory)?;
        eventually(PATIENCE, || {
            ensure!(overlay(mesh)?.contains(&new.0), "still the first");
            let listener = mesh.client.sidecar()?.get("/config_dump")?;
            ensure!(listener.contains(&new.0), "the sidecar hasn't got it");
            Ok(())
        })?;
        ensure!(modules(mesh)? == 2, "{} modules", modules(mesh)?);
        session(mesh, "redis-cluster", &[("set cluster-new 1", "OK"), ("get elsewhere", "\"1\"")])?;
        ensure!(mesh.cluster.get("cluster-new")?.text() == "1");
        traffic.wait_right(100)?;
        traffic.stop()?.ensure_calm()
    })
}
