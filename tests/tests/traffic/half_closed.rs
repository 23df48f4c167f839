//! Clients that half-close the connection after their last command and read afterwards, as `nc`
//! does.

use std::time::Duration;

use anyhow::{Result, ensure};
use redis_mesh_tests::client::encode;
use redis_mesh_tests::process::wait_until;
use redis_mesh_tests::reply::Reply;

use crate::{PATHS, mesh};

#[test]
fn a_half_closed_client_gets_its_replies() -> Result<()> {
    let mesh = mesh()?;
    let server = mesh.server_of("half-closed")?;
    for path in PATHS {
        for count in [1, 1000] {
            server.forget()?;
            let mut client = mesh.client("half-closed", path)?;
            let commands: Vec<u8> = (0..count).flat_map(|_| encode(&["INCR", "n"])).collect();
            client.write(&commands)?;
            client.finish()?;
            let mut replies = 0;
            while let Ok(reply) = client.read() {
                replies += 1;
                ensure!(reply == Reply::Integer(replies), "{path}: reply {replies} is {reply:?}");
            }
            // redis_proxy knows no half-closed connections: it closes them, and what was under way
            // is lost.
            ensure!(replies == count || path == "proxy", "{path}: {replies} replies to {count} commands");
            ensure!(client.is_closed_within(Duration::from_secs(5)), "{path}: the connection stays open");
        }
        let address = mesh.address("half-closed", path)?;
        wait_until("end of all connections", Duration::from_secs(5), || mesh.connected(address).is_ok_and(|n| n == 0))?;
        ensure!(mesh.client("half-closed", path)?.cmd(&["ECHO", "x"])? == Reply::bulk("x"));
    }
    Ok(())
}
