//! What the sidecar's login on `direct` may do.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use anyhow::{Result, ensure};
use redis_mesh_core::wire::UpstreamLogin;
use redis_mesh_tests::client::Client;
use redis_mesh_tests::envoy::Envoy;
use redis_mesh_tests::listener::{self, Config, tcp_proxy, wasm};
use redis_mesh_tests::net::Subnet;
use redis_mesh_tests::process::wait_until;
use redis_mesh_tests::redis::{Options, Redis};
use redis_mesh_tests::reply::Reply;

const PASSWORD: &str = "login-4711";
const PATIENCE: Duration = Duration::from_secs(10);

/// A sidecar that logs in as the user `app` at this server.
struct Sidecar {
    envoy: Envoy,
    subnet: Subnet,
}

impl Sidecar {
    fn before(subnet: Subnet, server: SocketAddr) -> Result<Sidecar> {
        let mut host = listener::direct("one");
        host.upstream_login = Some(UpstreamLogin { username: Some("app".into()), password: PASSWORD.into() });
        let filters = vec![wasm(&listener::config("redis", 1, host))?, tcp_proxy("one")];
        let envoy = Config::new().listener("redis", subnet.redis(1), filters).cluster("one", &[server]).start()?;
        Ok(Sidecar { envoy, subnet })
    }

    fn client(&self) -> Result<Client> {
        Client::connect(self.subnet.redis(1))
    }

    fn privileged(&self) -> Result<Option<u64>> {
        let stats = self.envoy.stats("upstream_login_privileged")?;
        Ok(stats.first().map(|(_, value)| *value))
    }
}

/// A Redis with a user who may do this.
fn redis(subnet: &Subnet, rule: &str) -> Result<Redis> {
    Redis::start_with(Options {
        addr: Some(subnet.redis(21)),
        users: vec![format!("app on >{PASSWORD} {rule}")],
        ..Options::default()
    })
}

/// How often Redis was asked what a login may do.
fn questions(redis: &Redis) -> Result<usize> {
    let stats = redis.info("commandstats")?;
    let of_dryrun = stats.lines().find_map(|line| line.strip_prefix("cmdstat_acl|dryrun:calls="));
    let calls = of_dryrun.and_then(|rest| rest.split(',').next()).unwrap_or("0");
    Ok(calls.parse()?)
}

#[test]
fn a_login_that_may_do_too_much_is_told_of() -> Result<()> {
    let subnet = Subnet::claim()?;
    let redis = redis(&subnet, "~* &* +@all")?;
    let sidecar = Sidecar::before(subnet, redis.addr())?;
    for number in 0..20 {
        let mut client = sidecar.client()?;
        client.write(format!("SET k{number} v\r\nGET k{number}\r\nMULTI\r\nECHO x\r\nEXEC\r\n").as_bytes())?;
        let expected = [
            Reply::ok(),
            Reply::bulk("v"),
            Reply::ok(),
            Reply::Status("QUEUED".into()),
            Reply::Array(vec![Reply::bulk("x")]),
        ];
        for expected in expected {
            assert_eq!(client.read()?, expected);
        }
    }
    wait_until("the gauge", PATIENCE, || sidecar.privileged().is_ok_and(|value| value == Some(1)))?;
    let log = sidecar.envoy.log();
    let told = log.matches("the login at one.test:6379 may execute CONFIG, MIGRATE, REPLICAOF").count();
    assert_eq!((told, questions(&redis)?), (1, 3), "once for all connections");
    assert!(!log.contains(PASSWORD));
    Ok(())
}

#[test]
fn a_login_that_is_restricted_raises_no_alarm() -> Result<()> {
    for rule in ["~* &* +@all -@admin -@dangerous", "~* &* +@all -@admin -@dangerous +acl"] {
        let subnet = Subnet::claim()?;
        let redis = redis(&subnet, rule)?;
        let sidecar = Sidecar::before(subnet, redis.addr())?;
        for _ in 0..3 {
            assert_eq!(sidecar.client()?.line("SET k v")?, Reply::ok());
        }
        wait_until("the gauge", PATIENCE, || sidecar.privileged().is_ok_and(|value| value.is_some()))?;
        assert_eq!(sidecar.privileged()?, Some(0), "{rule}");
        assert!(!sidecar.envoy.log().contains("may execute"));
    }
    Ok(())
}

/// A server that closes the connection at commands that it doesn't know, as twemproxy does.
fn closing_server(addr: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(addr)?;
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut piece = [0; 4096];
                while let Ok(length @ 1..) = stream.read(&mut piece) {
                    let text = String::from_utf8_lossy(piece.get(..length).unwrap_or_default()).to_uppercase();
                    if text.contains("ACL") {
                        return;
                    }
                    let replies = text.matches("AUTH").count() + text.matches("SET").count();
                    let _ = stream.write_all("+OK\r\n".repeat(replies).as_bytes());
                }
            });
        }
    });
    Ok(())
}

#[test]
fn a_server_that_closes_at_the_question_is_not_asked_again() -> Result<()> {
    let subnet = Subnet::claim()?;
    closing_server(subnet.redis(21))?;
    let server = subnet.redis(21);
    let sidecar = Sidecar::before(subnet, server)?;
    let served = (0..10).filter(|_| sidecar.client().and_then(|mut client| client.line("SET k v")).is_ok()).count();
    ensure!(served == 9, "{served} of 10 clients are served");
    assert_eq!(sidecar.privileged()?, None);
    Ok(())
}
