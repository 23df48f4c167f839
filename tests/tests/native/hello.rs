//! HELLO before servers of several kinds, and what the sidecar's login may do.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};

use anyhow::Result;
use redis_mesh_core::wire::{KeyMatch, Target, Upstream, UpstreamLogin};
use redis_mesh_tests::client::{Client, info_field};
use redis_mesh_tests::listener::{self, Config, route};
use redis_mesh_tests::native;
use redis_mesh_tests::net::Subnet;
use redis_mesh_tests::redis::{Options, Redis};
use redis_mesh_tests::reply::Reply;

use crate::Scene;
use crate::logins::scene;

/// A server that closes the connection at commands that it doesn't know, as twemproxy does.
fn closing_server(addr: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(addr)?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let (mut stream, mut received) = (stream, Vec::new());
                let mut piece = [0; 4096];
                while let Ok(length @ 1..) = stream.read(&mut piece) {
                    received.extend_from_slice(&piece[..length]);
                    let text = String::from_utf8_lossy(&received).to_uppercase();
                    if ["HELLO", "ACL", "MULTI"].iter().any(|name| text.contains(name)) {
                        return;
                    }
                    let pings = text.matches("PING").count();
                    let gets = text.matches("GET").count();
                    let replies = "+PONG\r\n".repeat(pings) + &"$1\r\nv\r\n".repeat(gets);
                    received.clear();
                    let _ = stream.write_all(replies.as_bytes());
                }
            });
        }
    });
    Ok(())
}

#[test]
fn a_server_without_hello_answers_it_itself() -> Result<()> {
    let without = Options { config: vec!["rename-command HELLO \"\"".into()], ..Options::default() };
    let scene = scene(&[("one", without)], vec![route(KeyMatch::Any, 0)])?;
    for _ in 0..3 {
        let mut client = scene.client()?;
        let expected = scene.servers[0].client()?.line("HELLO 3")?;
        assert!(expected.text().starts_with("ERR unknown command"), "{expected:?}");
        assert_eq!(client.line("HELLO 3")?, expected);
        // Client libraries go on in RESP2.
        assert_eq!(client.line("SET k v")?, Reply::ok());
        assert_eq!(client.line("HGETALL none")?, Reply::Array(vec![]));
        assert!(matches!(client.line("HELLO 2")?, Reply::Array(_)));
        assert_eq!(client.line("GET k")?, Reply::bulk("v"));
    }
    Ok(())
}

#[test]
fn a_server_that_closes_at_hello_serves_in_resp2() -> Result<()> {
    let subnet = Subnet::claim()?;
    let filters =
        vec![native::proxy(&listener::config("redis", 1, native::host(&["one"], vec![route(KeyMatch::Any, 0)])))?];
    let addr = subnet.redis(21);
    closing_server(addr)?;
    let config = Config::new().listener("redis", subnet.redis(1), filters).cluster("one.test:6379", &[addr]);
    let _envoy = native::start(&config, 1)?;
    let connect = || Client::connect(subnet.redis(1));
    let mut before = connect()?;
    assert_eq!(before.line("GET k")?, Reply::bulk("v"));
    for _ in 0..2 {
        let mut client = connect()?;
        assert_eq!(client.line("HELLO 3")?, Reply::error("ERR unknown command 'HELLO'"));
        assert_eq!(client.line("GET k")?, Reply::bulk("v"));
    }
    assert_eq!(before.line("GET k")?, Reply::bulk("v"), "its connection is another one");
    Ok(())
}

#[test]
fn hello_tells_the_servers_version() -> Result<()> {
    let scene = Scene::two()?;
    let server = scene.servers[0].info("server")?;
    let version = info_field(&server, "redis_version").unwrap_or_default().to_owned();
    let theirs = format!("{:?}", scene.servers[0].client()?.line("HELLO")?);
    for hello in ["HELLO 2", "HELLO 3", "HELLO"] {
        let ours = format!("{:?}", scene.client()?.line(hello)?);
        let valkey = theirs.contains("valkey");
        assert_eq!(ours.contains("valkey"), valkey, "{ours}");
        assert!(valkey || ours.contains(&version), "{version} {ours}");
    }
    let connections = scene.upstream("one", "upstream_cx_total")?;
    for _ in 0..20 {
        scene.client()?.line("HELLO 3")?;
    }
    assert_eq!(scene.upstream("one", "upstream_cx_total")?, connections, "a server is asked once");
    Ok(())
}

/// A host whose sidecar logs in as this user, at a server with these users.
fn logged_in(user: &str, rules: &[&str]) -> Result<Scene> {
    let subnet = Subnet::claim()?;
    let options = Options {
        addr: Some(subnet.redis(21)),
        users: rules.iter().map(|rule| (*rule).to_owned()).collect(),
        ..Options::default()
    };
    let redis = Redis::start_with(options)?;
    let login = UpstreamLogin { username: Some(user.into()), password: "secret".into() };
    let mut host = native::host(&["one"], vec![route(KeyMatch::Any, 0)]);
    for Target { upstream, .. } in &mut host.targets {
        *upstream = upstream.take().map(|upstream| Upstream { login: Some(login.clone()), ..upstream });
    }
    let filters = vec![native::proxy(&listener::config("redis", 1, host))?];
    let config = Config::new().listener("redis", subnet.redis(1), filters).cluster("one.test:6379", &[redis.addr()]);
    let envoy = native::start(&config, 2)?;
    Ok(Scene { envoy, servers: vec![redis], subnet })
}

fn privileged(scene: &Scene) -> Result<Option<u64>> {
    let stats = scene.envoy.stats("upstream_login_privileged")?;
    Ok(stats.first().map(|(_, value)| *value))
}

#[test]
fn a_login_that_may_do_too_much_is_told_of() -> Result<()> {
    let scene = logged_in("app", &["app on >secret ~* &* +@all"])?;
    let mut clients = (0..8).map(|_| scene.client()).collect::<Result<Vec<_>>>()?;
    for client in &mut clients {
        assert_eq!(client.line("SET k v")?, Reply::ok());
    }
    scene.wait_for("the gauge", |scene| Ok(privileged(scene)? == Some(1)))?;
    let logged = || scene.envoy.log().matches("may execute CONFIG, MIGRATE, REPLICAOF").count();
    scene.wait_for("the log", |_| Ok(logged() > 0))?;
    assert_eq!(logged(), 1, "once for all workers and connections");
    assert!(!scene.envoy.log().contains("secret"));
    Ok(())
}

#[test]
fn a_login_that_is_restricted_raises_no_alarm() -> Result<()> {
    for rule in
        ["app on >secret ~* &* +@all -@admin -@dangerous", "app on >secret ~* &* +@all -@admin -@dangerous +acl"]
    {
        let scene = logged_in("app", &[rule])?;
        assert_eq!(scene.client()?.line("SET k v")?, Reply::ok());
        let asked = || scene.servers[0].info("commandstats").is_ok_and(|text| text.contains("cmdstat_acl|dryrun"));
        scene.wait_for("the questions", |_| Ok(asked()))?;
        assert_eq!(scene.client()?.line("SET k v")?, Reply::ok());
        assert_eq!(privileged(&scene)?.unwrap_or(0), 0, "{rule}");
        assert!(!scene.envoy.log().contains("may execute"));
    }
    Ok(())
}

#[test]
fn a_transaction_that_was_none_is_told_so() -> Result<()> {
    let scene = logged_in("app", &["app on >secret ~* &* +@all -multi -exec"])?;
    let mut client = scene.client()?;
    for (line, expected) in [("MULTI", "OK"), ("SET a 1", "QUEUED"), ("SET b 2", "QUEUED")] {
        assert_eq!(client.line(line)?, Reply::Status(expected.into()));
    }
    let told = client.line("EXEC")?;
    assert!(told.is_error(), "{told:?}");
    let told = told.text();
    assert!(told.starts_with("ERR redis-mesh: MULTI was refused (NOPERM "), "{told}");
    assert!(told.ends_with("the commands may have been executed one by one"), "{told}");
    assert_eq!(client.line("MGET a b")?, Reply::Array(vec![Reply::bulk("1"), Reply::bulk("2")]));
    Ok(())
}
