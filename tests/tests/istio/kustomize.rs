//! The kustomize base: the chart rendered with its own values, without Helm's labels.

use anyhow::{Result, ensure};
use redis_mesh_tests::{tool, workspace};

use crate::chart::{CHART, NAMESPACE};
use crate::{golden, yaml};

const BASE: &str = "istio/kustomize/base";

#[test]
fn the_base_is_what_the_chart_renders() -> Result<()> {
    let args = [
        "template",
        "redis-mesh",
        CHART,
        "-n",
        NAMESPACE,
        "--set",
        "crds.keep=false",
        "--set",
        "image.repository=redis-mesh",
    ];
    let rendered = tool::helm(&args)?.success()?;
    let is_helms = |line: &&str| {
        let line = line.trim_start();
        ["# Source: ", "helm.sh/chart: ", "app.kubernetes.io/managed-by: Helm"].iter().any(|own| line.starts_with(own))
    };
    let mut text =
        "# Generated from istio/helm/redis-mesh: BLESS=1 cargo test -p redis-mesh-tests --test istio\n".to_owned();
    let mut last = "";
    for line in rendered.lines().filter(|line| !is_helms(line)) {
        // Templates leave blank lines where they render nothing.
        if !(line.is_empty() || line == "---" && last == "---") {
            text += line;
            text += "\n";
            last = line;
        }
    }
    golden::check(&format!("{BASE}/redis-mesh.yaml"), &text)
}

#[test]
fn kustomize_builds_the_base_and_the_overlay() -> Result<()> {
    let base = yaml::documents(&tool::kustomize(&["build", BASE])?.success()?)?;
    let namespace = base.iter().find(|document| document["kind"] == "Namespace");
    ensure!(namespace.is_some_and(|namespace| namespace["metadata"]["name"] == NAMESPACE), "no namespace");
    let generated = std::fs::read_to_string(workspace::root().join(BASE).join("redis-mesh.yaml"))?;
    ensure!(base.len() == 1 + yaml::documents(&generated)?.len(), "{} documents", base.len());

    let overlay = yaml::documents(&tool::kustomize(&["build", "istio/kustomize/overlays/example"])?.success()?)?;
    ensure!(overlay.len() == base.len(), "{} documents instead of {}", overlay.len(), base.len());
    let deployment =
        overlay.iter().find(|document| document["kind"] == "Deployment").unwrap_or(&serde_json::Value::Null);
    let container = &deployment["spec"]["template"]["spec"]["containers"][0];
    ensure!(deployment["spec"]["replicas"] == 3, "{}", deployment["spec"]["replicas"]);
    ensure!(container["image"].as_str().is_some_and(|image| image.starts_with("registry.example.com/")), "{container}");
    let class = &deployment["spec"]["template"]["spec"]["priorityClassName"];
    ensure!(class == "system-cluster-critical", "{class}");
    Ok(())
}
