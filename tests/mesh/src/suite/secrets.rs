//! Places that must not show a password of Redis.

use anyhow::{Result, ensure};

use super::Test;
use super::mission::{CLIENT_AUTH, PREFIX_ROUTING, SERVER_AUTH, redis_cluster, session, soon};
use crate::mesh::{Mesh, PASSWORD, PATIENCE, eventually};
use crate::operator::Operator;

/// The tests.
pub const TESTS: &[Test] = &[("secrets::config_dump", config_dump)];

/// Both kinds of logins to Redis: by the filter, and by redis_proxy.
fn config_dump(mesh: &mut Mesh) -> Result<()> {
    mesh.apply(&format!("{SERVER_AUTH}---\n{CLIENT_AUTH}---\n{}---\n{PREFIX_ROUTING}", redis_cluster()))?;
    soon(mesh, "redis-single", &[("auth testredis123!", "OK"), ("set a a", "OK")])?;
    eventually(PATIENCE, || {
        session(mesh, "redis-cluster", &[("set b b", "OK")])?;
        ensure!(mesh.single.cmd(&["GET", "b"])?.text() == "b");
        Ok(())
    })?;
    let sidecar = mesh.client.sidecar()?;
    let dump = sidecar.get("/config_dump?include_eds")?;
    ensure!(dump.contains("RedisProtocolOptions") && dump.contains("GenericSecret"), "the logins aren't in the dump");
    let mut texts = vec![("/config_dump", dump), ("the sidecar's log", sidecar.log())];
    for path in ["/stats", "/clusters", "/listeners?format=json", "/server_info"] {
        texts.push((path, sidecar.get(path)?));
    }
    // The client's password too, of which the other is the beginning.
    let kinds = "wasmplugins,redisservices,redisdestinations,events";
    texts.push(("status and events", mesh.plane.kubectl(&["describe", kinds, "--all-namespaces"], "")?));
    if let Operator::Controller(controller) = &mesh.operator {
        texts.push(("the controller's log", controller.log()));
        texts.push(("the controller's metrics", controller.metrics()?));
    }
    for (place, text) in texts {
        let line = text.lines().find(|line| line.contains(PASSWORD));
        // The manifest itself, as the person wrote it.
        let line = line.filter(|line| !line.contains("testredis123!") || place != "status and events");
        ensure!(line.is_none(), "{place}: {}", line.unwrap_or_default());
    }
    Ok(())
}
