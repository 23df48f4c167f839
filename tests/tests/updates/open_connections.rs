//! Connections that are open during an update: their clients are served under the new
//! configuration or disconnected.

use std::time::Duration;

use anyhow::Result;
use redis_mesh_core::wire::{self, KeyMatch};
use redis_mesh_tests::client::{Client, encode};
use redis_mesh_tests::listener::{Config, Discovered, config, direct, proxy, route, tcp_proxy, wasm};
use redis_mesh_tests::reply::Reply;

use crate::scene::*;

#[test]
fn a_connection_that_can_no_longer_be_served_as_it_began_is_closed() -> Result<()> {
    let scene = Scene::new()?;
    let mut on_direct = Discovered::new(&config("direct", 1, direct("x")))?;
    let mut on_proxy = Discovered::new(&config("proxy", 1, proxy("x", HANDSHAKE)))?;
    let envoy = scene
        .config()
        .listener("direct", scene.subnet.redis(DIRECT), vec![on_direct.filter(), tcp_proxy("x")])
        .listener("proxy", scene.subnet.redis(SINGLE), vec![on_proxy.filter(), single_proxy("x")])
        .start()?;
    let connect = |at: u8| -> Result<Client> {
        let mut client = scene.client(at)?;
        assert_eq!(client.line("set k 1")?, Reply::ok());
        Ok(client)
    };
    // What a client of such a connection sends next, in a row, reaches no server.
    let cut_off = |client: &mut Client, key: &str| -> Result<String> {
        client.write(&[encode(&["SET", key, "1"]), encode(&["SET", key, "2"])].concat())?;
        let reply = client.read().map(|reply| reply.text()).unwrap_or_default();
        assert!(client.is_closed_within(Duration::from_secs(5)), "{key}: still open after {reply:?}");
        assert_eq!(scene.x.cmd(&["EXISTS", key])?, Reply::Integer(0), "{key}");
        Ok(reply)
    };

    // The other kind of filter stands behind.
    let mut client = connect(DIRECT)?;
    on_direct.push(&envoy, &config("direct", 2, proxy("x", HANDSHAKE)))?;
    cut_off(&mut client, "became-proxy")?;
    on_direct.push(&envoy, &config("direct", 3, direct("x")))?;
    let mut client = connect(SINGLE)?;
    on_proxy.push(&envoy, &config("proxy", 2, direct("x")))?;
    cut_off(&mut client, "became-direct")?;
    on_proxy.push(&envoy, &config("proxy", 3, proxy("x", HANDSHAKE)))?;

    // The host is no longer among those of the plugin.
    let selector = wire::Selector { addresses: vec!["192.0.2.1:6379".into()], ..wire::Selector::default() };
    let mut client = connect(DIRECT)?;
    on_direct.push(&envoy, &config("direct", 4, wire::Host { selector: selector.clone(), ..direct("x") }))?;
    cut_off(&mut client, "no-longer-managed")?;
    on_direct.push(&envoy, &config("direct", 5, direct("x")))?;
    let mut client = connect(SINGLE)?;
    on_proxy.push(&envoy, &config("proxy", 4, wire::Host { selector, ..proxy("x", HANDSHAKE) }))?;
    cut_off(&mut client, "no-longer-managed")?;
    on_proxy.push(&envoy, &config("proxy", 5, proxy("x", HANDSHAKE)))?;

    // redis_proxy doesn't know the new handshake yet.
    let mut client = connect(SINGLE)?;
    on_proxy.push(&envoy, &config("proxy", 6, proxy("x", "another")))?;
    let replaced = "ERR redis-mesh: the configuration of x.test:6379 is being replaced, try again";
    assert_eq!(cut_off(&mut client, "handshake")?, replaced);
    assert_eq!(cut_off(&mut scene.client(SINGLE)?, "handshake")?, replaced);
    on_proxy.push(&envoy, &config("proxy", 7, proxy("x", HANDSHAKE)))?;
    connect(SINGLE)?;
    Ok(())
}

#[test]
fn a_login_that_comes_later_is_done_on_open_connections() -> Result<()> {
    let scene = Scene::new()?;
    let secret = scene.secret()?;
    let with = |revision: u64, password: Option<&str>| {
        let upstream_login = password.map(|p| wire::UpstreamLogin { username: None, password: p.to_string() });
        config("login", revision, wire::Host { upstream_login, ..direct("p") })
    };
    let mut discovered = Discovered::new(&with(1, None))?;
    let envoy = Config::new()
        .cluster("p", &[secret.addr()])
        .listener("login", scene.subnet.redis(DIRECT), vec![discovered.filter(), tcp_proxy("p")])
        .start()?;
    let mut early = scene.client(DIRECT)?;
    assert_eq!(early.line("get k")?, Reply::error("NOAUTH Authentication required."));
    let mut idle = scene.client(DIRECT)?;
    discovered.push(&envoy, &with(2, Some(UPSTREAM_PASSWORD)))?;
    for client in [&mut early, &mut idle] {
        assert_eq!(client.line("get k")?, Reply::NullBulk);
        assert_eq!(client.line("set k 1")?, Reply::ok());
        assert_eq!(client.line("del k")?, Reply::Integer(1));
    }
    // A wrong one: who is in stays in, who comes is told.
    discovered.push(&envoy, &with(3, Some("not-the-password")))?;
    assert_eq!(early.line("get k")?, Reply::NullBulk);
    let mut late = scene.client(DIRECT)?;
    assert_eq!(
        late.line("get k")?,
        Reply::error("ERR redis-mesh: p.test:6379 refused the login of its RedisDestination")
    );
    assert!(late.is_closed_within(Duration::from_secs(5)));
    assert!(!envoy.log().contains("password"), "a password in the log");
    Ok(())
}

#[test]
fn a_tag_of_another_age_is_never_part_of_a_key() -> Result<()> {
    let scene = Scene::new()?;
    // Even where the handshake would let the filter in.
    let stale = config("stale", 1, several_hosts(vec![route(KeyMatch::Any, 0)]));
    let envoy = scene
        .config()
        .listener("stale", scene.subnet.redis(SEVERAL), vec![wasm(&stale)?, single_proxy("x")])
        .start()?;
    let mut client = scene.client(SEVERAL)?;
    for line in [
        "set a:1 1",
        "set b:1 1",
        "mset a:2 1 b:2 1",
        "del a:1 b:1",
        "eval \"return redis.call('set', KEYS[1], 1)\" 1 b:3",
    ] {
        let reply = client.line(line)?;
        assert!(
            reply.text().contains("no upstream host") || reply.text().contains("finished with"),
            "{line}: {reply:?}"
        );
    }
    for redis in [&scene.x, &scene.y] {
        assert_eq!(redis.cmd(&["DBSIZE"])?, Reply::Integer(0));
    }
    drop(envoy);
    Ok(())
}
