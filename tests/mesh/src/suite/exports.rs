//! `exportTo`: rules and logins reach the namespaces that an object names, and no others.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Test;
use super::conditions::wait_condition;
use super::mission::NOAUTH;
use super::tenants::ALONE;
use crate::api::ObjectName;
use crate::mesh::{Mesh, PASSWORD, PATIENCE, eventually};
use crate::pod::Pod;

/// The tests.
pub const TESTS: &[Test] = &[
    ("exports::proxy", proxy),
    ("exports::direct", direct),
    ("exports::native", native),
    ("exports::service_annotation", service_annotation),
];

const HOST: &str = "redis-single.redis.svc.cluster.local";
/// What stands only in the configuration of a proxy that logs in on `proxy`: Envoy shows the type of the
/// settings, and hides the password.
const LOGIN: &str = "RedisProtocolOptions";

/// A RedisDestination with a login that is exported to these namespaces.
fn destination(exports: &str) -> String {
    format!(
        "
apiVersion: redis.aeraki.io/v1alpha1
kind: RedisDestination
metadata: {{name: exported, namespace: redis}}
spec:
  host: redis-single
  exportTo: {exports}
  trafficPolicy: {{connectionPool: {{redis: {{auth: {{plain: {{password: {PASSWORD}}}}}}}}}}}
"
    )
}

/// Rules on `proxy` that are exported to these namespaces.
fn rules(exports: &str) -> String {
    format!(
        "
apiVersion: redis.aeraki.io/v1alpha1
kind: RedisService
metadata: {{name: exported, namespace: redis, annotations: {{redis-mesh.io/data-path: proxy}}}}
spec:
  host: [redis-single]
  exportTo: {exports}
"
    )
}

/// Runs a task with a client in another namespace than the host's.
fn with_neighbour(mesh: &mut Mesh, task: impl FnOnce(&mut Mesh, &Pod) -> Result<()>) -> Result<()> {
    let pod = mesh.pod("web-client", "web", "web-client", 63, true)?;
    let result = task(mesh, &pod);
    let said = pod.sidecar()?.log();
    pod.delete()?;
    result.with_context(|| format!("the neighbour's sidecar said:\n{said}"))
}

fn answer(pod: &Pod) -> Result<String> {
    Ok(pod.client("redis-single.redis")?.line("set a a")?.tty())
}

/// What a proxy has been told, without its bootstrap, which names every extension that there is.
fn told(pod: &Pod) -> Result<Vec<Value>> {
    let mut dump = pod.sidecar()?.config_dump()?;
    let mut sections = dump["configs"].as_array_mut().map(std::mem::take).unwrap_or_default();
    sections.retain(|section| !section["@type"].as_str().is_some_and(|kind| kind.ends_with(".BootstrapConfigDump")));
    Ok(sections)
}

/// The part of it that is in force. A listener that is replaced stays for a while, for the connections
/// that it has, and so do the configurations of its filters.
fn dump(pod: &Pod) -> Result<String> {
    let mut sections = told(pod)?;
    sections.retain(|section| !section["@type"].as_str().is_some_and(|kind| kind.ends_with(".EcdsConfigDump")));
    let listeners = sections.iter_mut().filter_map(|section| section["dynamic_listeners"].as_array_mut()).flatten();
    listeners.filter_map(Value::as_object_mut).for_each(|listener| drop(listener.remove("draining_state")));
    Ok(Value::from(sections).to_string())
}

/// Waits until a client is served with the login, and its proxy has what belongs to that.
fn wait_served(pod: &Pod, parts: &[&str]) -> Result<()> {
    eventually(PATIENCE, || {
        let answer = answer(pod)?;
        ensure!(answer == "OK", "{}: {answer}", pod.name().name);
        let dump = dump(pod)?;
        for part in parts {
            ensure!(dump.contains(part), "the proxy of {} has no {part}", pod.name().name);
        }
        ensure!(!dump.contains(PASSWORD), "/config_dump shows a password");
        Ok(())
    })
}

/// Waits until a client reaches Redis as if there were no rules, and its proxy has nothing of them.
fn wait_left_out(pod: &Pod) -> Result<()> {
    eventually(PATIENCE, || {
        let answer = answer(pod)?;
        ensure!(answer == NOAUTH, "{}: {answer}", pod.name().name);
        let dump = dump(pod)?;
        for part in [LOGIN, PASSWORD, "redis-mesh-redis-single", "redis-mesh|6379", "redis_proxy.v3.RedisProxy"] {
            ensure!(!dump.contains(part), "the proxy of {} has {part}", pod.name().name);
        }
        Ok(())
    })
}

/// No login stands where tenants may read it.
fn ensure_kept(mesh: &Mesh) -> Result<()> {
    for namespace in ["redis", "web"] {
        let read = mesh.plane.kubectl(&["-n", namespace, "get", "envoyfilters,wasmplugins", "-o", "yaml"], "")?;
        ensure!(!read.contains(PASSWORD), "a login stands in the namespace {namespace}");
    }
    Ok(())
}

fn delete(mesh: &mut Mesh) -> Result<()> {
    mesh.delete(&["RedisService", "RedisDestination"].map(|kind| ObjectName::new(kind, "redis", "exported")))
}

fn proxy(mesh: &mut Mesh) -> Result<()> {
    with_neighbour(mesh, |mesh, web| {
        for (exports, in_redis, in_web) in [
            ("[web]", false, true),
            ("[.]", true, false),
            ("['*']", true, true),
            // Whatever stands in the root namespace is for everybody, but not by its name here.
            ("[istio-system]", false, false),
            ("[., web]", true, true),
        ] {
            mesh.apply(&(rules(exports) + "---" + &destination(exports)))?;
            for (pod, is_served) in [(&mesh.client, in_redis), (web, in_web)] {
                match is_served {
                    true => wait_served(pod, &[LOGIN, "redis_proxy.v3.RedisProxy"]),
                    false => wait_left_out(pod),
                }
                .with_context(|| exports.to_owned())?;
            }
            ensure_kept(mesh)?;
        }
        // Where the RedisDestination ends, so do the rules that lead there.
        mesh.apply(&destination("[web]"))?;
        wait_served(web, &[LOGIN])?;
        wait_left_out(&mesh.client)?;
        delete(mesh)?;
        wait_left_out(web)
    })
}

fn direct(mesh: &mut Mesh) -> Result<()> {
    with_neighbour(mesh, |mesh, web| {
        let filter = ["redis-mesh-redis-single.redis.svc-6379-"];
        mesh.apply(&destination("[web]"))?;
        wait_served(web, &filter)?;
        wait_left_out(&mesh.client)?;
        ensure_kept(mesh)?;
        mesh.apply(&destination("[.]"))?;
        wait_served(&mesh.client, &filter)?;
        wait_left_out(web)?;
        // Also what the old listener had, as soon as that has gone.
        eventually(Duration::from_secs(70), || {
            let told = Value::from(told(web)?).to_string();
            ensure!(!told.contains("redis-mesh-redis-single"), "the proxy still has the filter with the login");
            Ok(())
        })?;
        delete(mesh)
    })
}

fn native(mesh: &mut Mesh) -> Result<()> {
    mesh.natively(|mesh, _| {
        mesh.apply(&destination("[.]"))?;
        wait_served(&mesh.client, &["redis-mesh-redis-single.redis.svc-6379-native-"])?;
        mesh.apply(&destination("[web]"))?;
        wait_left_out(&mesh.client)?;
        delete(mesh)
    })
}

/// The Service's own annotation, and a stranger's rules, whom the login isn't for.
fn service_annotation(mesh: &mut Mesh) -> Result<()> {
    with_neighbour(mesh, |mesh, web| {
        mesh.apply(&destination("['*']"))?;
        wait_served(web, &[])?;
        let annotate = |mesh: &mut Mesh, value: &str| -> Result<()> {
            mesh.plane.kubectl(&["-n", "redis", "annotate", "--overwrite", "service", "redis-single", value], "")?;
            mesh.sync()
        };
        annotate(mesh, "networking.istio.io/exportTo=.")?;
        let limited = wait_served(&mesh.client, &[]).and_then(|()| wait_dump_without(web));
        annotate(mesh, "networking.istio.io/exportTo-")?;
        limited?;
        mesh.apply(&destination("[.]"))?;
        mesh.apply(ALONE)?;
        let name = ObjectName::new("RedisService", "web", "mine");
        wait_condition(mesh, &name, "Programmed", "True")?;
        let message = mesh.api().get(&name)?.context("no object")?["status"].to_string();
        ensure!(message.contains("isn't exported to"), "{message}");
        eventually(PATIENCE, || {
            let answer = web.client("redis-cluster.redis")?.line("set a a")?.tty();
            ensure!(answer.contains("NOAUTH"), "{answer}");
            Ok(())
        })?;
        mesh.delete(&[name])?;
        delete(mesh)
    })
}

fn wait_dump_without(pod: &Pod) -> Result<()> {
    eventually(PATIENCE, || {
        let dump = dump(pod)?;
        ensure!(!dump.contains(HOST) && !dump.contains("redis-mesh-redis-single"), "the proxy knows {HOST}");
        Ok(())
    })
}
