//! MULTI, EXEC and WATCH.

use anyhow::{Result, ensure};
use redis_mesh_tests::line::words;
use redis_mesh_tests::redis::Redis;
use redis_mesh_tests::reply::Reply;

use crate::{PATHS, mesh};

#[test]
fn transactions_are_redis_s_own() -> Result<()> {
    let server = mesh()?.server_of("transactions")?;
    multi_and_exec(&server)?;
    watch_compares_and_sets_or_is_refused(&server)
}

fn multi_and_exec(server: &Redis) -> Result<()> {
    let mesh = mesh()?;
    let lines = [
        "multi",
        "set a 1",
        "incr a",
        "get a",
        "rpush l x y",
        "exec",
        "multi",
        "exec",
        "multi",
        "set a 5",
        "discard",
        "get a",
        "multi",
        "incr l",
        "set b 1",
        "exec",
        "get b",
        "multi",
        "set a",
        "set a 9",
        "exec",
        "get a",
        "multi",
        "nosuchcommand",
        "exec",
        "multi",
        "multi",
        "set c 1",
        "exec",
        "get c",
        "exec",
        "discard",
        "multi",
        "mget a b",
        "mset d 1 e 2",
        "del d",
        "exec",
        "mget d e",
        "multi",
        "set f 1",
        "exec extra",
        "discard",
        "multi",
        "set f 1",
        "discard extra",
        "exec",
        "get f",
        "multi",
        "set f 1",
        "discard",
    ];
    // Redis answers a MULTI inside MULTI with an error and goes on, and so do we; Valkey discards
    // the transaction.
    let valkey = server.client()?.cmd(&["INFO", "server"])?.text().contains("valkey_version");
    let mut lines = lines.to_vec();
    if valkey {
        lines.dedup();
    }
    let requests = lines.iter().map(|line| words(line)).collect::<Result<Vec<_>>>()?;
    server.forget()?;
    let expected: Vec<Reply> = {
        let mut client = server.client()?;
        requests.iter().map(|request| client.cmd(request)).collect::<Result<_>>()?
    };
    for path in PATHS {
        server.forget()?;
        let mut client = mesh.client("transactions", path)?;
        let one_by_one: Vec<Reply> = requests.iter().map(|request| client.cmd(request)).collect::<Result<_>>()?;
        server.forget()?;
        let at_once = mesh.client("transactions", path)?.pipeline(&requests)?;
        for (how, ours) in [("one by one", one_by_one), ("at once", at_once)] {
            for ((line, ours), expected) in lines.iter().zip(ours).zip(&expected) {
                ensure!(ours == *expected, "{path}, {how}: {line}: {ours:?}, by the server {expected:?}");
            }
        }
    }
    Ok(())
}

fn watch_compares_and_sets_or_is_refused(server: &Redis) -> Result<()> {
    let mesh = mesh()?;
    let mut client = mesh.client("transactions", "direct")?;
    for conflict in [false, true] {
        server.cmd(&["SET", "w", "1"])?;
        client.ok(&["WATCH", "w"])?;
        if conflict {
            server.cmd(&["SET", "w", "7"])?;
        }
        client.ok(&["MULTI"])?;
        client.ok(&["INCR", "w"])?;
        let expected = if conflict { Reply::NullArray } else { Reply::Array(vec![Reply::Integer(2)]) };
        let reply = client.cmd(&["EXEC"])?;
        ensure!(reply == expected, "conflict {conflict}: {reply:?}");
    }
    let reply = mesh.client("transactions", "proxy")?.cmd(&["WATCH", "w"])?;
    ensure!(reply == Reply::error("ERR redis-mesh: WATCH needs the direct or native data path"), "{reply:?}");
    Ok(())
}
