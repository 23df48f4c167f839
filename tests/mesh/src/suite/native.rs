//! Sidecars with the dynamic module beside sidecars without it.

use anyhow::{Context, Result, ensure};

use super::mission::{self, CLIENT_AUTH, PREFIX_ROUTING, SERVER_AUTH, ensure_routed, redis_cluster, session};
use super::{Test, mtls};
use crate::mesh::{Mesh, PASSWORD, PATIENCE, eventually};

/// The tests.
pub const TESTS: &[Test] =
    &[("native::mission", mission), ("native::mutual_tls", mutual_tls), ("native::all_of_redis", all_of_redis)];

/// The examples of the mission in a sidecar with the module.
fn perform(mesh: &mut Mesh, tests: &[Test]) -> Result<()> {
    for (name, test) in tests {
        mesh.natively(|mesh, _| test(mesh)).with_context(|| name.to_string())?;
        mesh.reset()?;
    }
    Ok(())
}

fn mission(mesh: &mut Mesh) -> Result<()> {
    perform(mesh, mission::TESTS)
}

fn mutual_tls(mesh: &mut Mesh) -> Result<()> {
    perform(mesh, mtls::TESTS)?;
    perform(mesh, &[("members", mtls::members)])
}

fn all_of_redis(mesh: &mut Mesh) -> Result<()> {
    mesh.natively(|mesh, other| {
        mesh.apply(SERVER_AUTH)?;
        mesh.apply(CLIENT_AUTH)?;
        mesh.apply(&redis_cluster())?;
        mesh.apply(PREFIX_ROUTING)?;
        eventually(PATIENCE, || ensure_routed(mesh))?;
        let lines = [
            ("set elsewhere 1", "OK"),
            ("set cluster-here 1", "OK"),
            ("watch elsewhere", "OK"),
            ("multi", "OK"),
            ("incr elsewhere", "QUEUED"),
            ("exec", "1) (integer) 2"),
            ("mget elsewhere cluster-here", "1) \"2\"\n2) \"1\""),
        ];
        session(mesh, "redis-cluster", &lines)?;
        ensure!(mesh.single.cmd(&["GET", "elsewhere"])?.text() == "2");
        ensure!(mesh.cluster.get("cluster-here")?.text() == "1");
        // Who hasn't got it is served as before.
        eventually(PATIENCE, || {
            let mut client = other.client("redis-cluster")?;
            ensure!(client.line("set elsewhere 3")?.tty() == "OK");
            let reply = client.line("watch elsewhere")?.tty();
            ensure!(reply == "(error) ERR redis-mesh: WATCH needs the direct or native data path", "{reply}");
            ensure!(mesh.single.cmd(&["GET", "elsewhere"])?.text() == "3");
            Ok(())
        })?;
        session(mesh, "redis-cluster", &[("get elsewhere", "\"3\"")])?;
        let filters = filters(mesh, "10.96.0.21_6379")?;
        ensure!(filters.len() == 1 && filters[0].contains("-native-"), "{filters:?}");
        let dump = mesh.client.sidecar()?.get("/config_dump?include_eds")?;
        ensure!(!dump.contains(PASSWORD), "/config_dump shows a password");
        Ok(())
    })
}

/// Returns the names of the filters of a listener.
fn filters(mesh: &Mesh, listener: &str) -> Result<Vec<String>> {
    let listener = mesh.client.sidecar()?.listener(listener)?.context("there is no such listener")?;
    let chains = listener["filter_chains"].as_array().into_iter().flatten();
    let filters = chains.flat_map(|chain| chain["filters"].as_array().into_iter().flatten());
    Ok(filters.map(|filter| filter["name"].as_str().unwrap_or_default().to_owned()).collect())
}
