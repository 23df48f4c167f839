//! The upgrade from an earlier version with objects that were stored and rendered then.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Test;
use super::conditions::wait_condition;
use super::mission::{CLIENT_AUTH, PREFIX_ROUTING, SERVER_AUTH, ensure_routed, redis_cluster, session};
use super::outages::controller;
use crate::api::ObjectName;
use crate::mesh::{Mesh, PATIENCE, eventually};
use crate::old_version::OldVersion;
use crate::operator::Controller;
use crate::operator::controller::Options;
use crate::traffic::{Seen, Traffic};

/// The tests.
pub const TESTS: &[Test] = &[("upgrade::stored_objects", stored_objects)];

/// The number of connections of [`Traffic`].
const CLIENTS: u64 = 2;
const LEASE: [&str; 7] =
    ["-n", "istio-system", "delete", "lease", "redis-mesh-installation", "--ignore-not-found", "--wait=false"];

/// The objects of then stay as they are stored, and the replica of now takes over what the one of then has
/// rendered. Clients notice nothing, or next to nothing before a Redis Cluster.
fn stored_objects(mesh: &mut Mesh) -> Result<()> {
    let old = OldVersion::build()?;
    // As if nothing of this version had ever been there.
    controller(mesh)?.terminate();
    let label = "app.kubernetes.io/managed-by=redis-mesh";
    mesh.plane.kubectl(&["delete", "wasmplugins,envoyfilters", "-A", "-l", label], "")?;
    mesh.plane.kubectl(&LEASE, "")?;
    install(mesh, &std::fs::read_to_string(&old.installation)?)?;
    let options = Options { program: Some(old.program), filter: Some(old.filter), ..Options::default() };
    controller(mesh)?.begin_as(options)?;

    mesh.apply(&format!("{SERVER_AUTH}---\n{CLIENT_AUTH}---\n{}---\n{PREFIX_ROUTING}", redis_cluster()))?;
    eventually(PATIENCE, || ensure_routed(mesh)).context("under the earlier version")?;
    let before = rendered(mesh)?;
    let direct = Traffic::start(&mesh.client, "redis-single", Some("testredis123!"), &["k-"])?;
    let routed = Traffic::start(&mesh.client, "redis-cluster", None, &["cluster-", "k-"])?;

    // The definitions and permissions of now, and a replica beside that of then, as a Deployment is updated.
    let next = Options { name: "redis-mesh-1".into(), port: 8081, ..Options::default() };
    install(mesh, crate::operator::controller::INSTALLATION)?;
    let mut second = Controller::start(&mesh.plane, next)?;
    controller(mesh)?.terminate();
    let result = taken_over(mesh, &second, &before);
    direct.wait_right(200)?;
    routed.wait_right(200)?;
    second.terminate();
    result?;
    direct.stop()?.ensure_calm().context("clients of redis-single noticed the upgrade")?;
    ensure_brief(&routed.stop()?)
}

/// The cluster of a Redis Cluster has other settings than in the earlier version, so Envoy replaces it and
/// finds out about the nodes anew. Until then it has no host for a command, and says so.
fn ensure_brief(seen: &Seen) -> Result<()> {
    let errors = seen.errors.iter().filter(|(text, _)| *text != "no upstream host").count();
    let brief = seen.errors.values().sum::<u64>() < 2000 && seen.closed <= CLIENTS && seen.refused == 0;
    ensure!(seen.wrong.is_empty() && errors == 0 && brief, "clients of redis-cluster saw {seen:?}");
    Ok(())
}

/// Everything is rendered anew, and the statuses say so.
fn taken_over(mesh: &mut Mesh, second: &Controller, before: &BTreeSet<ObjectName>) -> Result<()> {
    for (kind, namespace, name) in [
        ("RedisService", "redis", "redis-single"),
        ("RedisDestination", "redis", "redis-single"),
        ("RedisService", "redis", "redis-cluster"),
        ("RedisDestination", "redis", "redis-cluster"),
    ] {
        let name = ObjectName::new(kind, namespace, name);
        for condition in ["Accepted", "ResolvedRefs", "Programmed"] {
            wait_condition(mesh, &name, condition, "True")?;
        }
    }
    let filter = second.filter_path()?;
    let sha256 = filter.trim_start_matches("/filter/").trim_end_matches(".wasm");
    eventually(PATIENCE, || {
        let objects = objects(mesh)?;
        for object in &objects {
            let text = object["spec"].to_string();
            let is_old = text.contains(".wasm") && !text.contains(sha256);
            ensure!(!is_old, "{} has the filter of the earlier version", object["metadata"]["name"]);
        }
        // Names that this version doesn't give are gone, and those that it gives are there.
        let lasting = before.intersection(&rendered(mesh)?).count();
        ensure!(lasting > 0 && objects.len() >= before.len(), "{} objects of {before:?}", objects.len());
        Ok(())
    })?;
    ensure_routed(mesh)?;
    session(mesh, "redis-single", &[("get elsewhere", "(error) NOAUTH Authentication required.")])?;
    // What follows from nothing goes.
    mesh.delete(&[ObjectName::new("RedisService", "redis", "redis-single")])?;
    eventually(PATIENCE, || session(mesh, "redis-single", &[("get elsewhere", "\"1\"")]))
}

fn objects(mesh: &Mesh) -> Result<Vec<Value>> {
    let objects = [mesh.api().list("WasmPlugin")?, mesh.api().list("EnvoyFilter")?].concat();
    let is_ours = |object: &Value| object["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "redis-mesh";
    Ok(objects.into_iter().filter(is_ours).collect())
}

fn rendered(mesh: &Mesh) -> Result<BTreeSet<ObjectName>> {
    objects(mesh)?.iter().map(ObjectName::of).collect()
}

/// Installs definitions and permissions; what only a kubelet could start is left out.
fn install(mesh: &Mesh, installation: &str) -> Result<()> {
    let permissions =
        ["CustomResourceDefinition", "ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"];
    for object in crate::api::documents(installation)? {
        if permissions.iter().any(|kind| object["kind"] == *kind) {
            mesh.plane.kubectl(&["apply", "--server-side", "--force-conflicts", "-f", "-"], &object.to_string())?;
        }
    }
    Ok(())
}
