//! A server that is killed and started again.

use std::time::Duration;

use anyhow::{Result, ensure};
use redis_mesh_tests::process::wait_until;
use redis_mesh_tests::reply::Reply;

use crate::mesh;

#[test]
fn an_upstream_restarts() -> Result<()> {
    let mesh = mesh()?;
    let mut server = mesh.server_of("restart")?;
    for _ in 0..2 {
        let mut direct = mesh.client("restart", "direct")?;
        let mut proxied = mesh.client("restart", "proxy")?;
        let mut resp3 = mesh.client("restart", "proxy")?;
        resp3.ok(&["HELLO", "3"])?;
        direct.ok(&["SET", "k", "v"])?;
        for client in [&mut proxied, &mut resp3] {
            ensure!(client.cmd(&["GET", "k"])? == Reply::bulk("v"));
        }

        server.kill();
        // As Redis itself would.
        ensure!(direct.is_closed_within(Duration::from_secs(5)), "direct: the connection outlives the server");
        ensure!(
            mesh.client("restart", "direct")?.is_closed_within(Duration::from_secs(5)),
            "direct: a new one is kept"
        );
        for (protocol, client) in [("2", &mut proxied), ("3", &mut resp3)] {
            let replies = client.pipeline(&[vec!["GET", "k"], vec!["ECHO", "x"], vec!["GET", "k"]])?;
            println!("proxy, RESP{protocol}, without its server: {:?}", replies[0]);
            ensure!(replies[0].is_error() && replies[0] == replies[2] && replies[1] == Reply::bulk("x"), "{replies:?}");
        }

        server.restart()?;
        for client in [&mut proxied, &mut resp3] {
            let mut last = Reply::NullBulk;
            let back = wait_until("recovery on the same connection", Duration::from_secs(10), || {
                last = client.cmd(&["SET", "k", "w"]).unwrap_or(Reply::NullBulk);
                last == Reply::ok()
            });
            ensure!(back.is_ok(), "proxy: after the restart: {last:?}");
            ensure!(client.cmd(&["GET", "k"])? == Reply::bulk("w"));
        }
        ensure!(mesh.client("restart", "direct")?.cmd(&["GET", "k"])? == Reply::bulk("w"));
    }
    Ok(())
}
