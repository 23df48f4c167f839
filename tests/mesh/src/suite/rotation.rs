//! Passwords that change while clients are connected.

use anyhow::{Result, ensure};
use redis_mesh_tests::client::Client;

use super::Test;
use super::conditions::{single, wait_condition};
use super::mission::{PREFIX_ROUTING, SERVER_AUTH, redis_cluster, session, soon};
use crate::api::ObjectName;
use crate::mesh::{Mesh, PASSWORD, PATIENCE, eventually};
use crate::traffic::Traffic;

/// The tests.
pub const TESTS: &[Test] =
    &[("rotation::direct", direct), ("rotation::proxy", proxy), ("rotation::secret_disappears", disappears)];

const NEW: &str = "rotated";

fn secret(password: &str) -> String {
    format!(
        "apiVersion: v1
kind: Secret
metadata: {{name: redis-service-secret, namespace: redis}}
stringData: {{password: {password}}}
"
    )
}

/// A rotation without an outage: Redis accepts both passwords, then the Secret has the new one,
/// then Redis accepts only that.
fn rotate(mesh: &mut Mesh, host: &str, prefix: &str) -> Result<()> {
    let traffic = Traffic::start(&mesh.client, host, None, &[prefix])?;
    let mut redis = mesh.single.client()?;
    redis.ok(&["ACL", "SETUSER", "default", &format!(">{NEW}")])?;
    let result = (|| {
        mesh.api().apply(&secret(NEW))?;
        mesh.sync()?;
        eventually(PATIENCE, || {
            // A login of the sidecar that fails is told apart by its connection: the old password
            // is tried in secret no more.
            redis.ok(&["ACL", "SETUSER", "default", &format!("<{PASSWORD}")])?;
            let answer = session(mesh, host, &[(&format!("set {prefix}probe 1"), "OK")]);
            redis.ok(&["ACL", "SETUSER", "default", &format!(">{PASSWORD}")])?;
            answer
        })?;
        redis.ok(&["ACL", "SETUSER", "default", &format!("<{PASSWORD}")])?;
        traffic.wait_right(100)?;
        let before = traffic.seen();
        // Connections from before the rotation, and new ones.
        for _ in 0..5 {
            session(mesh, host, &[(&format!("set {prefix}new 1"), "OK")])?;
        }
        traffic.wait_right(100)?;
        let seen = traffic.stop()?;
        ensure!(seen.errors == before.errors && seen.closed == before.closed, "{seen:?} after {before:?}");
        ensure!(seen.closed == 0 && seen.wrong.is_empty(), "{seen:?}");
        Ok(())
    })();
    restore(&mut redis)?;
    result
}

/// Restores the password of redis-single.
fn restore(redis: &mut Client) -> Result<()> {
    redis.ok(&["ACL", "SETUSER", "default", "resetpass", &format!(">{PASSWORD}")]).map(drop)
}

fn direct(mesh: &mut Mesh) -> Result<()> {
    mesh.apply(SERVER_AUTH)?;
    soon(mesh, "redis-single", &[("set a a", "OK")])?;
    rotate(mesh, "redis-single", "key-")
}

fn proxy(mesh: &mut Mesh) -> Result<()> {
    mesh.apply(&format!("{SERVER_AUTH}---\n{}---\n{PREFIX_ROUTING}", redis_cluster()))?;
    eventually(PATIENCE, || {
        session(mesh, "redis-cluster", &[("set other-0 0", "OK")])?;
        ensure!(mesh.single.cmd(&["GET", "other-0"])?.text() == "0");
        Ok(())
    })?;
    rotate(mesh, "redis-cluster", "other-")
}

/// The last known credentials stay in force, and the status reports it, until the Secret is back.
fn disappears(mesh: &mut Mesh) -> Result<()> {
    mesh.apply(SERVER_AUTH)?;
    soon(mesh, "redis-single", &[("set a a", "OK")])?;
    wait_condition(mesh, &single("RedisDestination"), "Programmed", "True")?;
    let traffic = Traffic::start(&mesh.client, "redis-single", None, &["key-"])?;
    mesh.delete(&[ObjectName::new("Secret", "redis", "redis-service-secret")])?;
    let (reason, message) = wait_condition(mesh, &single("RedisDestination"), "ResolvedRefs", "False")?;
    ensure!(reason == "RefNotFound" && message.contains("redis-service-secret"), "{reason}: {message}");
    let (reason, message) = wait_condition(mesh, &single("RedisDestination"), "Programmed", "False")?;
    ensure!(reason == "LastGoodKept", "{reason}: {message}");
    for _ in 0..5 {
        session(mesh, "redis-single", &[("get a", "\"a\"")])?;
    }
    traffic.wait_right(100)?;
    mesh.api().apply(&secret(PASSWORD))?;
    wait_condition(mesh, &single("RedisDestination"), "Programmed", "True")?;
    traffic.wait_right(100)?;
    traffic.stop()?.ensure_calm()
}
