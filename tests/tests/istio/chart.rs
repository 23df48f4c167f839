//! The Helm chart: its output for several values, and the values that it refuses.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use redis_mesh_tests::{cli, tool, workspace};
use serde_json::Value;

use crate::{golden, yaml};

/// The directory of the chart.
pub const CHART: &str = "istio/helm/redis-mesh";
/// The value that is required.
const IMAGE: &str = "image.repository=registry.example.com/redis-mesh";
/// The namespace of the installation.
pub const NAMESPACE: &str = "redis-mesh-system";

/// Kinds without a namespace.
const CLUSTER_WIDE: [&str; 3] = ["ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition"];

/// The files of `values/`, each with a golden of the output beside it. The kustomize base is the
/// golden of the chart's own values.
fn values() -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(workspace::root().join("tests/tests/istio/values"))? {
        let name = entry?.file_name().into_string().unwrap_or_default();
        names.extend(name.strip_suffix(".values.yaml").map(str::to_owned));
    }
    names.sort();
    Ok(names)
}

fn path_of(name: &str) -> String {
    format!("tests/tests/istio/values/{name}.values.yaml")
}

#[test]
fn what_is_rendered_is_what_is_meant() -> Result<()> {
    let names = values()?;
    ensure!(!names.is_empty(), "there are no values to render from");
    for name in names {
        let values = path_of(&name);
        tool::helm(&["lint", "--strict", CHART, "-f", &values])?.success().with_context(|| name.clone())?;
        let rendered = tool::helm(&["template", "redis-mesh", CHART, "-n", NAMESPACE, "-f", &values])?.success()?;
        let documents = yaml::documents(&rendered)?;
        for document in &documents {
            let title = yaml::title(document);
            let kind = document["kind"].as_str().unwrap_or_default();
            let namespaced = document["metadata"]["namespace"].is_string();
            ensure!(namespaced != CLUSTER_WIDE.contains(&kind), "{name}: the namespace of {title}");
            ensure!(!yaml::has_null(document), "{name}: a null in {title}");
            let latest = yaml::texts(document).into_iter().find(|text| text.ends_with(":latest"));
            ensure!(latest.is_none(), "{name}: {latest:?} in {title}");
        }
        let titles: BTreeSet<String> = documents.iter().map(yaml::title).collect();
        ensure!(titles.len() == documents.len(), "{name}: an object comes twice");
        golden::check(&format!("tests/tests/istio/values/{name}.out.yaml"), &without_definitions(&rendered))?;
    }
    Ok(())
}

/// The definitions have a test of their own.
fn without_definitions(rendered: &str) -> String {
    let documents = rendered.split("---\n").filter(|document| !document.contains("\nkind: CustomResourceDefinition\n"));
    // The dashboard's JSON would be most of the golden.
    let shortened = documents.map(|document| match document.split_once("redis-mesh.json: |\n") {
        Some((before, _)) => format!("{before}redis-mesh.json: | # …\n"),
        None => document.to_owned(),
    });
    shortened.collect::<Vec<_>>().join("---\n")
}

#[test]
fn the_chart_carries_the_definitions_as_they_are() -> Result<()> {
    let mut given = Vec::new();
    for name in ["redisdestinations", "redisservices"] {
        let generated = std::fs::read_to_string(workspace::root().join(format!("istio/crds/{name}.yaml")))?;
        golden::check(&format!("{CHART}/files/crds/{name}.yaml"), &generated)?;
        given.push(yaml::file(&format!("istio/crds/{name}.yaml"))?);
    }
    let render = |set: &str| {
        let rendered = tool::helm(&["template", "redis-mesh", CHART, "--set", IMAGE, "--set", set])?.success()?;
        let documents = yaml::documents(&rendered)?;
        Ok::<_, anyhow::Error>(
            documents.into_iter().filter(|document| document["kind"] == "CustomResourceDefinition").collect::<Vec<_>>(),
        )
    };
    for (set, policy) in [("crds.keep=true", Some("keep")), ("crds.keep=false", None)] {
        let rendered = render(set)?;
        for (given, rendered) in given.iter().zip(&rendered) {
            ensure!(
                given["metadata"]["name"] == rendered["metadata"]["name"],
                "another name: {}",
                yaml::title(rendered)
            );
            ensure!(given["spec"] == rendered["spec"], "another definition: {}", yaml::title(rendered));
            let annotation = rendered["metadata"]["annotations"]["helm.sh/resource-policy"].as_str();
            ensure!(annotation == policy, "{set}: {annotation:?} of {}", yaml::title(rendered));
        }
        ensure!(rendered.len() == given.len(), "{set}: {} definitions", rendered.len());
    }
    ensure!(render("crds.install=false")?.is_empty(), "definitions though crds.install is false");
    Ok(())
}

#[test]
fn values_that_make_no_sense_are_refused() -> Result<()> {
    // What is set, and what the complaint speaks of.
    let refused = [
        ("image.repository=", "image.repository is needed"),
        ("image.tag=latest", "/image/tag"),
        ("image.digest=sha256:short", "/image/digest"),
        ("image.pullPolicy=Sometimes", "/image/pullPolicy"),
        ("image.name=redis-mesh", "'name' not allowed"),
        ("replicas=-1", "/replicas"),
        ("replicas=two", "/replicas"),
        ("replicaCount=3", "'replicaCount' not allowed"),
        ("istio.rootNamespace=", "/istio/rootNamespace"),
        ("ports={0}", "/ports/0"),
        ("filter.delivery=sometimes", "/filter/delivery"),
        ("filter.url=registry.example.com/filter", "/filter/url"),
        ("filter.sha256=abc", "/filter/sha256"),
        ("filter.advertiseUrl=redis-mesh:8080", "/filter/advertiseUrl"),
        ("native.namespaces={Shop}", "/native/namespaces/0"),
        ("native.directory=etc", "/native/directory"),
        ("native.delay=long", "/native/delay"),
        ("native.path=module.so", "/native/path"),
        ("native.path=/module.so,native.namespaces={shop}", "give one of them"),
        ("crds.keep=maybe", "/crds/keep"),
        ("debounce=5", "/debounce"),
        ("maxDebounce=soon", "/maxDebounce"),
        ("log.format=xml", "/log/format"),
        ("rbac.secrets.namespaces={redis}", "/rbac/secrets/namespaces/0"),
        ("podDisruptionBudget.maxUnavailable=0", "/podDisruptionBudget/maxUnavailable"),
        ("networkPolicy.apiServer.ports={}", "/networkPolicy/apiServer/ports"),
        ("networkPolicy.apiServer.ports={70000}", "/networkPolicy/apiServer/ports/0"),
        ("metrics.podMonitor.interval=often", "/metrics/podMonitor/interval"),
        ("topologySpreadConstraints[0].topologyKey=zone", "/topologySpreadConstraints/0"),
        ("extraArgs=--debug", "/extraArgs"),
        ("serviceAccount.create=false", "serviceAccount.name is needed"),
        (&format!("filter.sha256={}", "a".repeat(64)), "give both"),
    ];
    for (set, complaint) in refused {
        let stderr = tool::helm(&["template", "redis-mesh", CHART, "--set", IMAGE, "--set", set])?
            .failure()
            .context(set.to_owned())?;
        ensure!(stderr.contains(complaint), "{set}: {stderr}");
    }
    Ok(())
}

/// What the schema allows has a default with its comment, so that the file of values is the
/// manual.
#[test]
fn every_value_is_described() -> Result<()> {
    let text = std::fs::read_to_string(workspace::root().join(CHART).join("values.yaml"))?;
    let values: Value = serde_saphyr::from_str(&text)?;
    let schema: Value =
        serde_json::from_str(&std::fs::read_to_string(workspace::root().join(CHART).join("values.schema.json"))?)?;
    let mut missing = Vec::new();
    compare(&schema, &schema, &values, "", &mut missing);
    ensure!(missing.is_empty(), "in values.schema.json but not in values.yaml: {missing:?}");
    let lines: Vec<&str> = text.lines().collect();
    for (number, line) in lines.iter().enumerate() {
        let key = line.trim_start().split_once(':').map_or("", |(key, _)| key);
        let indentation = line.len() - line.trim_start().len();
        // Objects of Kubernetes are described there.
        let is_ours =
            indentation <= 4 && !key.is_empty() && !key.contains([' ', '#', '-']) && !inside_kubernetes(&lines, number);
        let opens = line.trim_end().ends_with(':');
        let described = lines[..number].last().is_some_and(|before| before.trim_start().starts_with('#'));
        ensure!(!is_ours || opens || described, "line {} of values.yaml says nothing of {key}", number + 1);
    }
    Ok(())
}

/// Below one of the values that are passed on to Kubernetes as they are.
fn inside_kubernetes(lines: &[&str], number: usize) -> bool {
    let top = lines[..=number].iter().rev().find(|line| line.starts_with(|c: char| c.is_ascii_alphabetic()));
    let passed_on = ["resources:", "podSecurityContext:", "securityContext:", "topologySpreadConstraints:"];
    top.is_some_and(|top| passed_on.contains(top))
}

fn compare(root: &Value, schema: &Value, values: &Value, path: &str, missing: &mut Vec<String>) {
    let schema = match schema["$ref"].as_str() {
        Some(reference) => root.pointer(reference.trim_start_matches('#')).unwrap_or(schema),
        None => schema,
    };
    for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}/{name}");
        match values.get(name) {
            Some(value) => compare(root, schema, value, &path, missing),
            // Helm's own, and what Kubernetes has more.
            None if path == "/global" || path == "/resources/claims" => {}
            None => missing.push(path),
        }
    }
}

/// The chart has no argument that the program doesn't know.
#[test]
fn the_program_knows_the_arguments() -> Result<()> {
    let help = cli::run(&["controller", "--help"])?.success()?.stdout;
    let mut seen = 0;
    for name in values()? {
        let rendered =
            tool::helm(&["template", "redis-mesh", CHART, "-f", &path_of(&name), "-s", "templates/deployment.yaml"])?;
        for document in yaml::documents(&rendered.success()?)? {
            let container = &document["spec"]["template"]["spec"]["containers"][0];
            for argument in container["args"].as_array().into_iter().flatten().filter_map(Value::as_str).skip(1) {
                let flag = argument.split('=').next().unwrap_or_default();
                ensure!(help.split_whitespace().any(|word| word == flag), "{name}: {flag} isn't in\n{help}");
                seen += 1;
            }
        }
    }
    ensure!(seen > 10, "only {seen} arguments");
    Ok(())
}

/// The README's table of permissions names every resource of the roles.
#[test]
fn the_readme_says_what_the_controller_may_do() -> Result<()> {
    let readme = std::fs::read_to_string(workspace::root().join("istio/README.md"))?;
    let rendered =
        tool::helm(&["template", "redis-mesh", CHART, "--set", IMAGE, "-s", "templates/rbac.yaml"])?.success()?;
    for document in yaml::documents(&rendered)? {
        for rule in document["rules"].as_array().into_iter().flatten() {
            let words = |field: &str| {
                let words = rule[field].as_array().into_iter().flatten().filter_map(Value::as_str);
                words.map(str::to_owned).collect::<Vec<_>>()
            };
            let verbs = words("verbs").join(" ");
            for resource in words("resources") {
                let told = readme.lines().any(|line| {
                    line.starts_with('|') && line.contains(&format!("`{resource}`")) && line.contains(&verbs)
                });
                ensure!(told, "istio/README.md doesn't say that the controller may {verbs} {resource}");
            }
        }
    }
    Ok(())
}

/// The README's table of the status names every reason that the controller reports.
#[test]
fn the_readme_says_what_the_reasons_mean() -> Result<()> {
    let readme = std::fs::read_to_string(workspace::root().join("istio/README.md"))?;
    let source = std::fs::read_to_string(workspace::root().join("controller/src/run/update_status.rs"))?;
    let source = source.split("#[cfg(test)]").next().unwrap_or_default();
    let is_reason = |text: &&str| {
        text.starts_with(|c: char| c.is_ascii_uppercase())
            && text.len() > 5
            && text.chars().all(|c| c.is_ascii_alphabetic())
    };
    let reasons: BTreeSet<&str> = source.split('"').skip(1).step_by(2).filter(is_reason).collect();
    ensure!(reasons.contains("LastGoodKept") && reasons.len() > 8, "only {reasons:?}");
    // What an Event says was done is no reason.
    for reason in reasons.into_iter().filter(|reason| *reason != "Reconcile") {
        let told = readme.lines().any(|line| line.starts_with('|') && line.contains(&format!("`{reason}`")));
        ensure!(told, "istio/README.md doesn't say what {reason} means");
    }
    Ok(())
}
