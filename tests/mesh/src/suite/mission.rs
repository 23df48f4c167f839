//! The mission's scenarios, with its manifests as they stand.

use anyhow::Result;

use super::Test;
use crate::api::ObjectName;
use crate::mesh::{Mesh, PATIENCE, eventually};

/// The tests.
pub const TESTS: &[Test] = &[("mission::server_auth", server_auth)];

const SERVER_AUTH: &str = include_str!("../../manifests/mission/server-auth.yaml");

fn server_auth(mesh: &mut Mesh) -> Result<()> {
    let reply = mesh.client.client("redis-single")?.line("set a a")?;
    assert_eq!(reply.tty(), "(error) NOAUTH Authentication required.");
    mesh.apply(SERVER_AUTH)?;
    eventually(PATIENCE, || {
        let reply = mesh.client.client("redis-single")?.line("set foo bar")?;
        anyhow::ensure!(reply.tty() == "OK", "{}", reply.tty());
        Ok(())
    })?;
    assert_eq!(mesh.single.cmd(&["GET", "foo"])?.text(), "bar");
    mesh.delete(&[ObjectName::new("RedisDestination", "redis", "redis-single")])?;
    mesh.wait_plain()
}
