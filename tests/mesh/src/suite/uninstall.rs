//! The installation with Helm and its end, by the commands of istio/README.md.

use anyhow::{Context, Result, ensure};
use redis_mesh_tests::{cli, tool};
use serde_json::Value;

use super::Test;
use super::conditions::{single, wait_condition};
use super::mission::{CLIENT_AUTH, SERVER_AUTH, redis_cluster, soon};
use super::outages::controller;
use crate::mesh::{Mesh, PATIENCE, eventually};
use crate::operator::controller::{NAMESPACE, Options};
use crate::operator::{Controller, Operator};
use crate::witness::Witness;

/// The tests.
pub const TESTS: &[Test] = &[("uninstall::leaves_nothing", |mesh| {
    let result = uninstall(mesh);
    restore(mesh)?;
    result
})];

const README: &str = include_str!("../../../../istio/README.md");
const DELETE_OBJECTS: &str = "delete rsvc,rd --all -A";
const LEFT: &str = "get wasmplugins,envoyfilters -A -l app.kubernetes.io/managed-by=redis-mesh";
const HELM_UNINSTALL: &str = "uninstall redis-mesh -n redis-mesh-system";

fn uninstall(mesh: &mut Mesh) -> Result<()> {
    let section = section("## Uninstall")?;
    for (program, command) in [("kubectl", DELETE_OBJECTS), ("kubectl", LEFT), ("helm", HELM_UNINSTALL)] {
        let command = format!("`{program} {command}`");
        ensure!(section.contains(&command), "istio/README.md doesn't say {command}");
    }
    helm(
        mesh,
        "install redis-mesh istio/helm/redis-mesh --namespace redis-mesh-system --create-namespace \
        --set image.repository=registry.example.com/redis-mesh --take-ownership --force-conflicts",
    )?;
    let witness = Witness::start(mesh)?;
    let result = end(mesh, &witness, section);
    witness.delete()?;
    result
}

/// Everything from objects in force to a cluster that knows nothing of redis-mesh.
fn end(mesh: &mut Mesh, witness: &Witness, section: &str) -> Result<()> {
    let arguments = |ports: &[&str]| -> Vec<String> {
        let witnessed = ["--witness", witness.url()];
        witnessed.iter().chain(ports).map(|argument| (*argument).to_owned()).collect()
    };
    controller(mesh)?.restart_as(Options { arguments: arguments(&["--port", "6379"]), ..Options::default() })?;
    mesh.apply(&format!("{SERVER_AUTH}---\n{CLIENT_AUTH}---\n{}", redis_cluster()))?;
    soon(mesh, "redis-single", &[("auth testredis123!", "OK"), ("set a a", "OK")])?;
    wait_condition(mesh, &single("RedisService"), "Programmed", "True")?;

    kubectl(mesh, DELETE_OBJECTS)?;
    mesh.wait_plain()?;
    // The declared port has its WasmPlugin as long as it is declared.
    wait_left(mesh, &["envoyfilter/redis-mesh-beacon", "envoyfilter/redis-mesh-marker", "wasmplugin/redis-mesh-6379"])?;
    controller(mesh)?.restart_as(Options { arguments: arguments(&[]), ..Options::default() })?;
    let left = ["envoyfilter/redis-mesh-beacon", "envoyfilter/redis-mesh-marker"];
    wait_left(mesh, &left)?;
    for name in left.iter().filter_map(|name| name.strip_prefix("envoyfilter/")) {
        ensure!(section.contains(&format!("`{name}`")), "istio/README.md doesn't say that {name} is left");
    }

    helm(mesh, HELM_UNINSTALL)?;
    controller(mesh)?.terminate();
    for command in console(section) {
        match command.strip_prefix("delete namespace ") {
            // Nothing here would finish it: that is the work of a controller of Kubernetes.
            Some(_) => kubectl(mesh, &format!("{command} --dry-run=server"))?,
            None => kubectl(mesh, command)?,
        };
    }
    let traces = traces(mesh)?;
    ensure!(traces.is_empty(), "there is still {traces:?}");
    mesh.wait_plain()
}

/// A section of the README, to the next one.
fn section(title: &str) -> Result<&'static str> {
    let (_, rest) = README.split_once(&format!("\n{title}\n")).context("istio/README.md has no such section")?;
    Ok(rest.split("\n## ").next().unwrap_or(rest))
}

/// The arguments of `kubectl` in the commands that a section shows in blocks.
fn console(section: &str) -> impl Iterator<Item = &str> {
    section.lines().filter_map(|line| line.strip_prefix("$ kubectl "))
}

fn kubectl(mesh: &Mesh, command: &str) -> Result<String> {
    mesh.plane.kubectl(&command.split(' ').collect::<Vec<_>>(), "")
}

fn helm(mesh: &Mesh, command: &str) -> Result<String> {
    let arguments: Vec<&str> = command.split_whitespace().collect();
    tool::helm_at(mesh.plane.kubeconfig(), &arguments)?.success().with_context(|| format!("helm {command}"))
}

/// Waits until what the README's command shows are these objects.
fn wait_left(mesh: &Mesh, names: &[&str]) -> Result<()> {
    eventually(PATIENCE, || {
        let shown = kubectl(mesh, &format!("{LEFT} -o json"))?;
        let shown: Value = serde_json::from_str(&shown)?;
        let mut left: Vec<String> = shown["items"].as_array().into_iter().flatten().map(named).collect();
        left.sort();
        ensure!(left == names, "there are {left:?}");
        Ok(())
    })
}

fn named(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    format!("{}/{}", text(&object["kind"]).to_lowercase(), text(&object["metadata"]["name"]))
}

/// The objects of all kinds that mention redis-mesh, but those in its namespace, which go with it.
fn traces(mesh: &Mesh) -> Result<Vec<String>> {
    let kinds = kubectl(mesh, "api-resources --verbs=list -o name")?;
    // What happened stays an hour.
    let kinds: Vec<&str> = kinds.lines().filter(|kind| !kind.starts_with("events")).collect();
    let all = kubectl(mesh, &format!("get {} -A -o json", kinds.join(",")))?;
    let all: Value = serde_json::from_str(&all)?;
    let mentions = |object: &&Value| {
        let (namespace, name) = (&object["metadata"]["namespace"], &object["metadata"]["name"]);
        let text = object.to_string();
        let is_trace = text.contains("redis-mesh") || text.contains("redis.aeraki.io");
        is_trace && namespace != NAMESPACE && !(object["kind"] == "Namespace" && name == NAMESPACE)
    };
    Ok(all["items"].as_array().into_iter().flatten().filter(mentions).map(named).collect())
}

/// Installs what the other tests need.
fn restore(mesh: &mut Mesh) -> Result<()> {
    let crds = cli::run(&["crds"])?.success()?.stdout;
    mesh.plane.kubectl(&["apply", "--server-side", "--force-conflicts", "-f", "-"], &crds)?;
    controller(mesh)?.terminate();
    mesh.operator = Operator::Controller(Controller::start(&mesh.plane, Options::default())?);
    Ok(())
}
