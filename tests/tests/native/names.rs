//! Keys in replies have the names that clients know, where a route removes a prefix.

use anyhow::{Result, ensure};
use redis_mesh_core::wire::{KeyMatch, Route};
use redis_mesh_tests::client::Client;
use redis_mesh_tests::listener::route;
use redis_mesh_tests::redis::Redis;
use redis_mesh_tests::reply::Reply;

use crate::Scene;

/// Routes that remove `r:` and leave other keys unchanged.
fn scene() -> Result<Scene> {
    let stripped = Route { remove_prefix: true, ..route(KeyMatch::Prefix("r:".into()), 0) };
    Scene::start(&["one"], vec![stripped, route(KeyMatch::Any, 0)], 1)
}

#[test]
fn replies_are_those_of_a_server_that_has_such_keys() -> Result<()> {
    let (scene, alone) = (scene()?, Redis::start()?);
    let lines = [
        "RPUSH r:l a b c d e f g",
        "BLPOP r:none r:l 0",
        "BRPOP r:l 0",
        "LMPOP 2 r:none r:l LEFT",
        "BLMPOP 0 1 r:l RIGHT COUNT 2",
        "LMPOP 1 r:none LEFT",
        "BLPOP r:none 0.01",
        "ZADD r:z 1 a 2 b 3 c 4 d",
        "BZPOPMIN r:z 0",
        "ZMPOP 1 r:z MAX",
        "BZMPOP 0 1 r:z MIN",
        "XADD r:s 1-1 f r:s",
        "XADD r:t 1-1 f v",
        "XREAD STREAMS r:s r:t none 0 0 0",
        "XREAD BLOCK 10 STREAMS r:s 5-5",
        "XGROUP CREATE r:s g 0",
        "XREADGROUP GROUP g c STREAMS r:s >",
        "XREADGROUP GROUP x c STREAMS r:s >",
        "XPENDING r:s x",
        "XCLAIM r:s x c 0 1-1",
        "XAUTOCLAIM r:s x c 0 0",
        "XINFO CONSUMERS r:s x",
        "XGROUP DELCONSUMER r:s x c",
        "MULTI",
        "GET r:k",
        "LMPOP 1 r:l LEFT",
        "XREAD STREAMS r:s 0",
        "XPENDING r:none x",
        "LMPOP 1 r:none LEFT",
        "EXEC",
        "WATCH r:k",
        "MULTI",
        "BLPOP r:l 0",
        "EXEC",
    ];
    for hello in ["HELLO 2", "HELLO 3"] {
        scene.servers[0].forget()?;
        alone.forget()?;
        let (mut ours, mut server) = (scene.client()?, alone.client()?);
        ours.line(hello)?;
        server.line(hello)?;
        for line in lines {
            let (ours, expected) = (ours.line(line)?, server.line(line)?);
            ensure!(ours == expected, "{hello}, {line}: {ours:?}, by the server {expected:?}");
        }
        ensure!(scene.servers[0].cmd(&["EXISTS", "s", "t"])? == Reply::Integer(2));
        ensure!(alone.cmd(&["EXISTS", "r:s", "r:t"])? == Reply::Integer(2));
    }
    Ok(())
}

#[test]
fn changes_are_told_under_the_names_of_the_client() -> Result<()> {
    let scene = scene()?;
    let told = |client: &mut Client| -> Result<Vec<String>> {
        let push = client.read()?;
        let [word, keys] = push.items() else { anyhow::bail!("{push:?}") };
        ensure!(*word == Reply::bulk("invalidate"), "{push:?}");
        Ok(keys.items().iter().map(Reply::text).collect())
    };
    let (mut a, mut b) = (scene.client()?, scene.client()?);
    a.ok(&["HELLO", "3"])?;
    a.ok(&["CLIENT", "TRACKING", "ON"])?;
    b.ok(&["SET", "r:k", "1"])?;
    ensure!(a.line("GET r:k")? == Reply::bulk("1"));
    b.ok(&["SET", "r:k", "2"])?;
    // The server has one key of which there are two names.
    ensure!(told(&mut a)? == ["r:k", "k"]);
    ensure!(a.line("GET r:k")? == Reply::bulk("2"));
    b.ok(&["FLUSHALL"])?;
    ensure!(a.read()?.items().last() == Some(&Reply::Null));
    a.ok(&["CLIENT", "TRACKING", "OFF"])?;
    a.ok(&["CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", "r:user:"])?;
    b.ok(&["SET", "r:other", "1"])?;
    b.ok(&["SET", "r:user:1", "1"])?;
    ensure!(told(&mut a)? == ["r:user:1"]);
    a.ok(&["CLIENT", "TRACKING", "OFF"])?;
    a.ok(&["CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", "r"])?;
    b.ok(&["SET", "k", "1"])?;
    ensure!(told(&mut a)? == ["r:k"]);
    Ok(())
}
