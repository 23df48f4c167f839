//! Two servers, and the listeners, filters and hosts that the tests put before them.

use anyhow::{Context, Result};
use redis_mesh_core::wire::{self, KeyMatch};
use redis_mesh_tests::client::Client;
use redis_mesh_tests::envoy::Envoy;
use redis_mesh_tests::listener::{Config, RedisProxy, route, several};
use redis_mesh_tests::net::Subnet;
use redis_mesh_tests::redis::{Options, Redis};
use serde_json::Value;

pub const HANDSHAKE: &str = "they-know-each-other";
pub const UPSTREAM_PASSWORD: &str = "upstream-password";
pub const TAG_X: &str = "\u{1}xxxx:";
pub const TAG_Y: &str = "\u{1}yyyy:";

/// Two servers, and one listener of each kind before them whose filter is discovered.
pub struct Scene {
    pub subnet: Subnet,
    pub x: Redis,
    pub y: Redis,
}

pub const DIRECT: u8 = 11;
pub const SINGLE: u8 = 12;
pub const SEVERAL: u8 = 13;

impl Scene {
    pub fn new() -> Result<Scene> {
        let subnet = Subnet::claim()?;
        Ok(Scene { x: Redis::start_at(subnet.redis(1))?, y: Redis::start_at(subnet.redis(2))?, subnet })
    }

    pub fn config(&self) -> Config {
        Config::new().cluster("x", &[self.x.addr()]).cluster("y", &[self.y.addr()]).cluster("nowhere", &[])
    }

    /// A third server, which asks for [`UPSTREAM_PASSWORD`].
    pub fn secret(&self) -> Result<Redis> {
        Redis::start_with(Options {
            addr: Some(self.subnet.redis(3)),
            password: Some(UPSTREAM_PASSWORD.into()),
            ..Options::default()
        })
    }

    pub fn client(&self, at: u8) -> Result<Client> {
        Client::connect(self.subnet.redis(at))
    }
}

/// The redis_proxy that belongs to [`several_hosts`].
pub fn several_proxy() -> Value {
    RedisProxy::new("several").route(TAG_X, "x", true).route(TAG_Y, "y", true).password(HANDSHAKE).filter()
}

/// The redis_proxy of one destination.
pub fn single_proxy(cluster: &str) -> Value {
    single_proxy_with(cluster, HANDSHAKE)
}

/// Returns a host with routes for `a:` to x, `b:` to y, and these.
pub fn several_hosts(more: Vec<wire::Route>) -> wire::Host {
    let mut routes = vec![route(KeyMatch::Prefix("a:".into()), 0), route(KeyMatch::Prefix("b:".into()), 1)];
    routes.extend(more);
    several(&[("x", TAG_X), ("y", TAG_Y)], HANDSHAKE, routes)
}

pub fn password(host: wire::Host, password: &str) -> wire::Host {
    let salt = "00112233445566778899aabbccddeeff";
    let bytes: Vec<u8> = (0..16).map(|i| i * 0x11).collect();
    let hash = sha256(&[&bytes, password.as_bytes()].concat());
    let client_auth = Some(wire::ClientAuth { username: None, salt: salt.into(), password_sha256: vec![hash] });
    wire::Host { client_auth, ..host }
}

/// Returns the SHA-256 in hex, computed by a tool of the system: the tests share no code with the
/// filter.
pub fn sha256(bytes: &[u8]) -> String {
    use std::io::Write as _;
    use std::process::{Command, Stdio};
    let run = || -> Result<String> {
        let mut child = Command::new("sha256sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        child.stdin.take().context("no stdin")?.write_all(bytes)?;
        let output = child.wait_with_output()?;
        Ok(String::from_utf8(output.stdout)?.split(' ').next().unwrap_or_default().to_string())
    };
    run().unwrap_or_default()
}

pub fn single_proxy_with(cluster: &str, handshake: &str) -> Value {
    RedisProxy::new("single").catch_all(cluster).route("\u{1}", "nowhere", false).password(handshake).filter()
}

/// Checks that the wasm sandbox has never crashed.
pub fn check_sandbox(envoy: &Envoy) -> Result<()> {
    for (name, value) in envoy.stats("wasm")? {
        assert!(!name.contains("crash") || value == 0, "{name}: {value}");
    }
    Ok(())
}
