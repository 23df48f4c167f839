//! The Grafana dashboard: every metric and label in its queries exists.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use redis_mesh_tests::client::Client;
use redis_mesh_tests::envoy::Envoy;
use redis_mesh_tests::native;
use redis_mesh_tests::net::Subnet;
use redis_mesh_tests::process::wait_until;
use redis_mesh_tests::redis::{Options, Redis};
use redis_mesh_tests::reply::Reply;
use redis_mesh_tests::scene::Scene;
use redis_mesh_tests::workspace;
use serde_json::Value;

use crate::chart::CHART;
use crate::golden;

const DASHBOARD: &str = "istio/dashboards/redis-mesh.json";
/// Labels that Prometheus adds when it scrapes.
const OF_THE_SCRAPE: [&str; 2] = ["namespace", "pod"];

#[test]
fn the_chart_carries_the_dashboard_as_it_is() -> Result<()> {
    let text = std::fs::read_to_string(workspace::root().join(DASHBOARD))?;
    golden::check(&format!("{CHART}/files/dashboards/redis-mesh.json"), &text)
}

#[test]
fn panels_are_whole() -> Result<()> {
    let dashboard = dashboard()?;
    let panels = dashboard["panels"].as_array().context("no panels")?;
    let ids: BTreeSet<u64> = panels.iter().filter_map(|panel| panel["id"].as_u64()).collect();
    ensure!(ids.len() == panels.len(), "two panels share an id");
    let mut cells = BTreeSet::new();
    for panel in panels {
        let title = panel["title"].as_str().unwrap_or_default();
        let at = |side: &str| panel["gridPos"][side].as_u64().with_context(|| format!("{title} is nowhere"));
        let (x, y, w, h) = (at("x")?, at("y")?, at("w")?, at("h")?);
        ensure!(x + w <= 24, "{title} is wider than the dashboard");
        for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
            ensure!(cells.insert(cell), "{title} lies on another panel");
        }
        ensure!(!title.is_empty(), "a panel without a title");
    }
    Ok(())
}

/// The metrics of the filter and redis_proxy exist after traffic of every kind.
#[test]
fn envoy_has_what_it_asks_for() -> Result<()> {
    let subnet = Subnet::claim()?;
    let (envoy, _servers) = traffic(&subnet)?;
    let wanted: Vec<Query> =
        queries(&dashboard()?)?.into_iter().filter(|query| !query.is_of_the_controller()).collect();
    ensure!(wanted.len() > 10, "the dashboard asks Envoy for {} things only", wanted.len());
    let mut missing = Vec::new();
    // The filter hands over what it has counted once a second.
    let complete = wait_until("all metrics", Duration::from_secs(10), || {
        let found = envoy.prometheus().map(|text| samples(&text)).unwrap_or_default();
        missing = wanted.iter().filter(|query| !query.is_in(&found)).map(|query| query.to_string()).collect();
        missing.is_empty()
    });
    complete.with_context(|| format!("Envoy has no {}", missing.join(", ")))
}

/// The metrics of the controller are among those that it registers.
#[test]
fn the_controller_has_what_it_asks_for() -> Result<()> {
    let source = std::fs::read_to_string(workspace::root().join("controller/src/run/telemetry.rs"))?;
    let registered: Vec<&str> = source
        .split("registry.register")
        .skip(1)
        .filter_map(|call| call.split('"').nth(1).map(|name| (name, call)))
        .map(|(name, _)| name)
        .collect();
    ensure!(registered.len() > 5, "only {registered:?}");
    let wanted: Vec<Query> = queries(&dashboard()?)?.into_iter().filter(Query::is_of_the_controller).collect();
    ensure!(wanted.len() > 10, "the dashboard asks the controller for {} things only", wanted.len());
    for query in wanted {
        let name = query.metric.strip_prefix("redis_mesh_controller_").unwrap_or_default();
        let stem = ["_total", "_seconds_bucket", "_info"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
        ensure!(registered.contains(&stem), "the controller has no {}, only {registered:?}", query.metric);
    }
    Ok(())
}

/// Sends traffic of every kind that is counted.
fn traffic(subnet: &Subnet) -> Result<(Envoy, Vec<Redis>)> {
    let mut scene = Scene::on(subnet);
    scene.service("direct", 100, &[10]).rules(
        "direct",
        "direct",
        "settings: {auth: {plain: {password: right}}}, \
         faults: [{type: ERROR, commands: [GET]}, {type: DELAY, delay: 1ms, commands: [INCR]}]",
    );
    scene.service("copy", 101, &[11]).service("proxy", 102, &[10]).rules(
        "proxy",
        "proxy",
        "settings: {enableCommandStats: true}, redis: [{route: {host: proxy}, mirror: [{route: {host: copy}}]}]",
    );
    // What only the module counts, by the module that lies in the workspace.
    native::build()?;
    scene.service("native", 104, &[10]).rules("native", "native", "settings: {enableCommandStats: true}");
    scene.service("closed", 103, &[12]).rules("closed", "direct", "");
    scene.destination("closed", "auth: {plain: {password: wrong}}");
    let login = Options { addr: Some(subnet.redis(12)), password: Some("another".into()), ..Options::default() };
    let servers =
        vec![Redis::start_at(subnet.redis(10))?, Redis::start_at(subnet.redis(11))?, Redis::start_with(login)?];
    let envoy = scene.start(1)?;

    let mut client = Client::connect(subnet.redis(100))?;
    ensure!(client.cmd(&["GET", "k"])?.is_error(), "GET without a login");
    ensure!(client.cmd(&["AUTH", "wrong"])?.is_error(), "AUTH with a wrong password");
    client.ok(&["AUTH", "right"])?;
    ensure!(client.cmd(&["GET", "k"])? == Reply::error("Fault Injected: Error"));
    client.ok(&["INCR", "n"])?;
    let mut client = Client::connect(subnet.redis(102))?;
    client.ok(&["SET", "k", "v"])?;
    client.ok(&["GET", "k"])?;
    ensure!(client.cmd(&["WATCH", "k"])?.is_error(), "WATCH on proxy");
    client.write(b"*1\r\n!\r\n")?;
    ensure!(client.read()?.is_error(), "what isn't RESP");
    let mut client = Client::connect(subnet.redis(104))?;
    client.ok(&["GET", "k"])?;
    // Redis refuses the login that is made for the client.
    let mut client = Client::connect(subnet.redis(103))?;
    let _ = client.cmd(&["GET", "k"]);
    Ok((envoy, servers))
}

fn dashboard() -> Result<Value> {
    Ok(serde_json::from_str(&std::fs::read_to_string(workspace::root().join(DASHBOARD))?)?)
}

/// A metric in a query, with the labels that the query names.
#[derive(Debug)]
struct Query {
    metric: String,
    labels: BTreeSet<String>,
}

impl Query {
    fn is_of_the_controller(&self) -> bool {
        self.metric.starts_with("redis_mesh_controller_")
    }

    fn is_in(&self, samples: &BTreeMap<String, BTreeSet<String>>) -> bool {
        let known = |label: &String| OF_THE_SCRAPE.contains(&label.as_str());
        samples
            .get(&self.metric)
            .is_some_and(|labels| self.labels.iter().all(|label| known(label) || labels.contains(label)))
    }
}

impl std::fmt::Display for Query {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} by {:?}", self.metric, self.labels)
    }
}

/// Returns the metrics in the queries of all panels and variables.
fn queries(dashboard: &Value) -> Result<Vec<Query>> {
    let mut expressions: Vec<&str> = Vec::new();
    for panel in dashboard["panels"].as_array().into_iter().flatten() {
        let targets = panel["targets"].as_array().into_iter().flatten();
        expressions.extend(targets.filter_map(|target| target["expr"].as_str()));
    }
    let variables = dashboard["templating"]["list"].as_array().into_iter().flatten();
    expressions.extend(variables.filter_map(|variable| variable["definition"].as_str()));
    let mut queries = Vec::new();
    for expression in expressions {
        let found = selectors(expression);
        ensure!(!found.is_empty(), "no metric of ours in {expression}");
        queries.extend(found);
    }
    Ok(queries)
}

/// Returns the metrics of a PromQL expression, each with the labels of its selector and of its
/// aggregations.
fn selectors(expression: &str) -> Vec<Query> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let labels_of = |text: &str| text.split(',').map(|label| label.trim().to_owned()).collect::<BTreeSet<String>>();
    let sums: BTreeSet<String> = expression
        .split("by (")
        .skip(1)
        .filter_map(|rest| rest.split_once(')'))
        .flat_map(|(labels, _)| labels_of(labels))
        .filter(|label| label != "le")
        .collect();
    let mut queries = Vec::new();
    let mut rest = expression;
    while let Some(start) = ["redis_mesh_", "envoy_"].iter().filter_map(|prefix| rest.find(prefix)).min() {
        let (before, from) = rest.split_at(start);
        let end = from.find(|c| !is_name(c)).unwrap_or(from.len());
        let (metric, after) = from.split_at(end);
        rest = after;
        // A label such as envoy_redis_prefix, in `by (…)` or in a selector.
        if before.ends_with(is_name)
            || before.ends_with("by (")
            || before.ends_with(['{', ','])
            || before.ends_with(", ")
        {
            continue;
        }
        let mut labels = sums.clone();
        if let Some((selector, _)) = after.strip_prefix('{').and_then(|after| after.split_once('}')) {
            labels.extend(selector.split(',').filter_map(|part| part.split(['=', '!']).next()).map(str::to_owned));
        }
        queries.push(Query { metric: metric.to_owned(), labels });
    }
    queries
}

/// Returns the metrics of a text in Prometheus' format, each with its labels.
fn samples(text: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut samples: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (metric, labels) = line.split_once('{').unwrap_or((line.split(' ').next().unwrap_or_default(), ""));
        let labels = labels.split("\",").filter_map(|part| part.split_once('=')).map(|(label, _)| label.to_owned());
        samples.entry(metric.to_owned()).or_default().extend(labels);
    }
    samples
}

#[test]
fn what_is_asked_for_is_understood() {
    let of = |expression: &str| {
        let queries = selectors(expression).into_iter();
        queries.map(|query| format!("{} {}", query.metric, Vec::from_iter(query.labels).join(" "))).collect::<Vec<_>>()
    };
    assert_eq!(
        of("sum by (redis_host) (rate(redis_mesh_a_total{pod=\"x\"}[1m]))"),
        ["redis_mesh_a_total pod redis_host"]
    );
    assert_eq!(of("sum(envoy_a{b=\"c\"}) / redis_mesh_d"), ["envoy_a b", "redis_mesh_d "]);
    assert_eq!(of("sum by (envoy_redis_prefix) (envoy_a)"), ["envoy_a envoy_redis_prefix"]);
    assert_eq!(of("up{job=\"x\"}"), Vec::<String>::new());
}
