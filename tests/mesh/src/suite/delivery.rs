//! Many hosts on one port: where rules outgrow a WasmPlugin, as many hosts as must are delivered by
//! themselves, and by the WasmPlugin again after the rules have shrunk. Nobody else notices.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::Test;
use super::conditions::single;
use super::mission::{CLIENT_AUTH, SERVER_AUTH, soon};
use super::outages::controller;
use super::updates::{LISTENER, PREFIXES, REFUSALS, ensure_routed, route_by_prefix};
use crate::api::ObjectName;
use crate::mesh::{Mesh, PATIENCE, eventually};
use crate::operator::controller::Options;
use crate::traffic::Traffic;

/// The tests.
pub const TESTS: &[Test] = &[
    ("delivery::by_size", |mesh| {
        let result = by_size(mesh);
        remove(mesh, &["RedisService", "Service"], 0..LARGE)?;
        result
    }),
    ("delivery::declared_port", declared_port),
];

/// The time after which a sidecar closes the connections of a listener that was replaced, 45 s, and some more.
const DRAIN_TIME: Duration = Duration::from_secs(50);

/// As the controller has them.
const MAX_PLUGIN: usize = 256 * 1024;
const MIN_PLUGIN: usize = 192 * 1024;

/// Hosts that one WasmPlugin still holds, though too large a one for others to come back to; that it
/// doesn't hold; that it holds whatever was before.
const MIDDLE: usize = 45;
const LARGE: usize = 60;
const SMALL: usize = 30;
/// Routes of each of them, by which it weighs 5 kB.
const ROUTES: usize = 60;

fn name(number: usize) -> String {
    format!("many-{number:02}")
}

/// Returns a Service without endpoints and its RedisService with many routes.
fn host(number: usize) -> [Value; 2] {
    let metadata = json!({"name": name(number), "namespace": "redis"});
    let host = format!("{}.redis.svc.cluster.local", name(number));
    let routes: Vec<Value> = (0..ROUTES)
        .map(|i| json!({"match": {"key": {"prefix": format!("prefix-{i:03}:")}}, "route": {"host": host}}))
        .chain([json!({"route": {"host": host}})])
        .collect();
    [
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": metadata,
            "spec": {"clusterIP": format!("10.96.7.{}", number + 1), "ports": [{"name": "tcp-redis", "port": 6379}]},
        }),
        json!({
            "apiVersion": "redis.aeraki.io/v1alpha1", "kind": "RedisService", "metadata": metadata,
            "spec": {"host": [host], "redis": routes},
        }),
    ]
}

fn add(mesh: &Mesh, numbers: Range<usize>) -> Result<()> {
    numbers.flat_map(host).try_for_each(|object| mesh.api().apply_object(&object).map(drop))
}

fn remove(mesh: &Mesh, kinds: &[&str], numbers: Range<usize>) -> Result<()> {
    let names = numbers.flat_map(|number| kinds.iter().map(move |kind| ObjectName::new(kind, "redis", &name(number))));
    names.into_iter().try_for_each(|name| mesh.api().delete(&name))
}

/// Returns the size of the WasmPlugin's configuration, or `None` if there is no WasmPlugin.
fn plugin(mesh: &Mesh) -> Result<Option<usize>> {
    let plugin = mesh.api().get(&ObjectName::new("WasmPlugin", "istio-system", "redis-mesh-6379"))?;
    Ok(plugin.map(|plugin| plugin["spec"]["pluginConfig"].to_string().len()))
}

/// Returns the number of the many hosts in the WasmPlugin.
fn sharing(mesh: &Mesh) -> Result<usize> {
    let plugin = mesh.api().get(&ObjectName::new("WasmPlugin", "istio-system", "redis-mesh-6379"))?;
    let plugin = plugin.context("no WasmPlugin")?;
    let hosts = plugin["spec"]["pluginConfig"]["hosts"].as_array().into_iter().flatten();
    Ok(hosts.filter(|host| host["host"].as_str().is_some_and(|name| name.starts_with("many-"))).count())
}

/// Returns the EnvoyFilters with the configuration of one of the many hosts.
fn by_themselves(mesh: &Mesh) -> Result<usize> {
    let filters = mesh.api().list("EnvoyFilter")?.into_iter().filter(|filter| {
        let is_of_many = filter["metadata"]["name"].as_str().is_some_and(|name| name.starts_with("redis-mesh-many-"));
        is_of_many && filter["spec"].to_string().contains("EXTENSION_CONFIG")
    });
    Ok(filters.count())
}

/// Waits until as many hosts are delivered by themselves as expected, and returns their number.
fn wait_delivered(mesh: &Mesh, is_expected: impl Fn(usize) -> bool) -> Result<usize> {
    eventually(PATIENCE, || {
        let (found, size) = (by_themselves(mesh)?, plugin(mesh)?.context("no WasmPlugin")?);
        ensure!(is_expected(found), "{found} of the hosts are configured by themselves");
        ensure!(size <= MAX_PLUGIN, "the WasmPlugin's size: {size}");
        Ok(found)
    })
}

/// The results of connections for one value each.
#[derive(Debug, Default)]
struct Fresh {
    right: u64,
    wrong: Vec<String>,
    failures: BTreeMap<String, u64>,
    /// Connections that ended before the first reply.
    closed: u64,
    slowest: Duration,
}

/// Keeps opening new connections.
fn fresh(mesh: &Mesh, stop: &AtomicBool) -> Fresh {
    let mut fresh = Fresh::default();
    let mut count = 0u64;
    while !stop.load(Ordering::Relaxed) {
        count += 1;
        let begin = Instant::now();
        let key = format!("{}fresh-{count}", PREFIXES[count as usize % 2]);
        let replies = mesh
            .client
            .client("redis-cluster")
            .and_then(|mut client| client.pipeline(&[vec!["SET", &key, &key], vec!["GET", &key]]));
        fresh.slowest = fresh.slowest.max(begin.elapsed());
        match replies {
            Err(error) if format!("{error:#}").contains("the connection was closed") => fresh.closed += 1,
            Err(error) => *fresh.failures.entry(format!("{error:#}")).or_default() += 1,
            Ok(replies) => match replies.iter().find(|reply| reply.is_error()) {
                Some(error) => *fresh.failures.entry(error.text()).or_default() += 1,
                None if replies[1].text() == key => fresh.right += 1,
                None => fresh.wrong.push(format!("{key}: {}", replies[1].tty())),
            },
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    fresh
}

fn by_size(mesh: &mut Mesh) -> Result<()> {
    route_by_prefix(mesh)?;
    let mesh = &*mesh;
    let traffic = Traffic::start(&mesh.client, "redis-cluster", None, &PREFIXES)?;
    let stop = AtomicBool::new(false);
    let (result, fresh) = std::thread::scope(|scope| {
        let fresh = scope.spawn(|| fresh(mesh, &stop));
        let result = grow_and_shrink(mesh, &traffic);
        stop.store(true, Ordering::Relaxed);
        (result, fresh.join())
    });
    result?;
    let (seen, fresh) = (traffic.stop()?, fresh.ok().context("a client panicked")?);
    ensure!(seen.wrong.is_empty() && fresh.wrong.is_empty(), "wrong values: {:?} {:?}", seen.wrong, fresh.wrong);
    let told = seen.errors.keys().chain(fresh.failures.keys());
    let unexpected: Vec<&String> = told.filter(|error| !REFUSALS.iter().any(|r| error.starts_with(r))).collect();
    ensure!(unexpected.is_empty(), "the clients saw {unexpected:?}");
    ensure!(seen.refused == 0, "{} connections were refused", seen.refused);
    // The listener has been replaced by its first rules, where WasmPlugin and EnvoyFilters come in pushes of
    // their own, and not since.
    ensure!(seen.closed <= 2, "{} connections were closed: {seen:?}", seen.closed);
    ensure!(fresh.closed <= 2, "{} new connections were closed: {fresh:?}", fresh.closed);
    ensure!(fresh.right > 100 && fresh.slowest < Duration::from_secs(5), "new connections: {fresh:?}");
    ensure_routed(mesh, false)
}

fn grow_and_shrink(mesh: &Mesh, traffic: &Traffic) -> Result<()> {
    let listener = || mesh.client.sidecar()?.listener(LISTENER)?.context("no listener");
    add(mesh, 0..MIDDLE)?;
    eventually(PATIENCE, || {
        let size = plugin(mesh)?.unwrap_or_default();
        ensure!(size > MIN_PLUGIN && size < MAX_PLUGIN, "the WasmPlugin's size: {size}");
        Ok(())
    })?;
    wait_delivered(mesh, |alone| alone == 0)?;
    traffic.wait_right(200)?;
    let before = listener()?;

    // Only those that have come last and don't fit.
    add(mesh, MIDDLE..LARGE)?;
    eventually(PATIENCE, || {
        let (alone, shared) = (by_themselves(mesh)?, sharing(mesh)?);
        ensure!(alone + shared == LARGE, "{alone} hosts are configured by themselves, {shared} in the WasmPlugin");
        Ok(())
    })?;
    let alone = wait_delivered(mesh, |alone| alone > 0 && alone < LARGE - MIDDLE)?;
    let size = plugin(mesh)?.unwrap_or_default();
    ensure!(size > MIN_PLUGIN, "the WasmPlugin's size: {size}");
    traffic.wait_right(200)?;

    // As large as it was when all of them shared it: not small enough.
    remove(mesh, &["RedisService", "Service"], 0..LARGE - MIDDLE)?;
    eventually(PATIENCE, || {
        let size = plugin(mesh)?.unwrap_or_default();
        ensure!(size < MIN_PLUGIN, "the WasmPlugin's size: {size}");
        Ok(())
    })?;
    wait_delivered(mesh, |found| found == alone)?;
    traffic.wait_right(200)?;

    remove(mesh, &["RedisService", "Service"], LARGE - MIDDLE..LARGE - SMALL)?;
    wait_delivered(mesh, |alone| alone == 0)?;
    traffic.wait_right(200)?;
    ensure!(listener()? == before, "the listener of redis-cluster has changed");
    Ok(())
}

/// A connection of a host without rules outlives the first object for another host of its port, and the
/// last one, where the port is declared.
fn declared_port(mesh: &mut Mesh) -> Result<()> {
    let arguments = ["--port", "6379"].map(str::to_owned).into();
    controller(mesh)?.restart_as(Options { arguments, ..Options::default() })?;
    let listener = |mesh: &Mesh| mesh.client.sidecar()?.listener(LISTENER)?.context("no listener");
    eventually(PATIENCE, || {
        ensure!(plugin(mesh)?.is_some(), "there is no WasmPlugin of the port");
        let listener = listener(mesh)?.to_string();
        ensure!(listener.contains("redis-mesh-6379"), "{listener}");
        Ok(())
    })?;
    let before = listener(mesh)?;
    let mut held = mesh.client.client("redis-cluster")?;
    let mut is_there = || -> Result<()> {
        let reply = held.line("ping")?.tty();
        ensure!(reply == "PONG", "{reply}");
        Ok(())
    };
    is_there()?;
    mesh.apply(&format!("{SERVER_AUTH}---\n{CLIENT_AUTH}"))?;
    soon(mesh, "redis-single", &[("auth testredis123!", "OK"), ("set a a", "OK")])?;
    mesh.delete(&[single("RedisDestination")])?;
    // Now without a filter of its own.
    soon(
        mesh,
        "redis-single",
        &[("auth testredis123!", "OK"), ("set a a", "(error) NOAUTH Authentication required.")],
    )?;
    mesh.delete(&[single("RedisService")])?;
    mesh.wait_plain()?;
    ensure!(plugin(mesh)?.is_some(), "the WasmPlugin of the port is gone");
    ensure!(listener(mesh)? == before, "the listener of redis-cluster has changed");
    // As long as a listener that was replaced would keep its connections.
    let end = Instant::now() + DRAIN_TIME;
    while Instant::now() < end {
        is_there()?;
        std::thread::sleep(Duration::from_secs(1));
    }
    Ok(())
}
