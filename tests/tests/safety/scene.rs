//! The servers and the one Envoy, with one worker, that all tests of this file share.

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use anyhow::{Context, Result, anyhow};
use redis_mesh_tests::client::Client;
use redis_mesh_tests::envoy::Envoy;
use redis_mesh_tests::line;
use redis_mesh_tests::listener::{Rendered, host, listener_name, object, pinned, service};
use redis_mesh_tests::net::Subnet;
use redis_mesh_tests::redis::{Options, Redis};
use redis_mesh_tests::reply::Reply;

/// The password of the server that we log in to for the client.
pub const UPSTREAM_PASSWORD: &str = "upstream-Secret-4711";
/// The password that clients must present.
pub const CLIENT_PASSWORD: &str = "client-Secret-0815";
/// The key of the handshakes.
pub const HANDSHAKE_KEY: &str = "handshake-Secret-1234";

/// The hosts, by the last number of their address.
pub const DIRECT: u8 = 11;
pub const SINGLE: u8 = 12;
pub const SEVERAL: u8 = 13;
pub const MIRROR: u8 = 14;
pub const LOGIN_DIRECT: u8 = 21;
pub const LOGIN_PROXY: u8 = 22;
pub const ADMIN_DIRECT: u8 = 23;
pub const ADMIN_PROXY: u8 = 24;
pub const WRONG_DIRECT: u8 = 25;
pub const WRONG_PROXY: u8 = 26;
pub const ASK_DIRECT: u8 = 31;
pub const ASK_PROXY: u8 = 32;
pub const ASK_USER: u8 = 33;
pub const ASK_LOGIN: u8 = 34;
pub const MIXED_DIRECT: u8 = 41;
pub const MIXED_SINGLE: u8 = 42;
pub const MIXED_SEVERAL: u8 = 43;

pub struct Scene {
    pub x: Redis,
    pub y: Redis,
    pub secret: Redis,
    pub envoy: Envoy,
    pub rendered: Rendered,
    subnet: Subnet,
}

fn route(to: &str) -> String {
    format!("  redis: [{{route: {{host: {}}}}}]\n", host(to))
}

/// `b:` to two, everything else to one.
fn two() -> String {
    format!(
        "  redis:\n  - {{match: {{key: {{prefix: 'b:'}}}}, route: {{host: {}}}}}\n  - {{route: {{host: {}}}}}\n",
        host("two"),
        host("one")
    )
}

fn faults() -> &'static str {
    "  faults:\n  - {type: ERROR, commands: [strlen]}\n  - {type: DELAY, delay: 3ms, commands: [getrange]}\n"
}

fn auth(username: &str) -> String {
    format!("  settings: {{auth: {{plain: {{{username}password: {CLIENT_PASSWORD}}}}}}}\n")
}

impl Scene {
    fn new() -> Result<Scene> {
        let subnet = Subnet::claim()?;
        let (x, y) = (Redis::start_at(subnet.redis(1))?, Redis::start_at(subnet.redis(2))?);
        let secret = Redis::start_with(Options {
            addr: Some(subnet.redis(3)),
            password: Some(UPSTREAM_PASSWORD.into()),
            ..Options::default()
        })?;
        let mut manifests = String::new();
        for (name, at, redis) in [("one", 51, &x), ("two", 52, &y), ("hidden", 53, &secret), ("wrong", 54, &secret)] {
            manifests += &service(name, subnet.redis(at), redis.addr());
        }
        for (name, password) in [("hidden", UPSTREAM_PASSWORD), ("wrong", "wrong-Secret-999")] {
            let spec = format!(
                "  trafficPolicy: {{connectionPool: {{redis: {{auth: {{plain: {{password: {password}}}}}}}}}}}\n"
            );
            manifests += &object("RedisDestination", name, &spec);
        }
        let admin = "  settings: {allowAdminCommands: true}\n";
        let mirror = format!(
            "  redis: [{{route: {{host: {}}}, mirror: [{{route: {{host: {}}}, percentage: {{value: 50}}}}]}}]\n",
            host("one"),
            host("two")
        );
        for (name, at, path, spec) in [
            ("direct", DIRECT, "direct", route("one")),
            ("single", SINGLE, "proxy", route("one")),
            ("several", SEVERAL, "auto", two()),
            ("mirror", MIRROR, "auto", mirror),
            ("login-direct", LOGIN_DIRECT, "direct", route("hidden")),
            ("login-proxy", LOGIN_PROXY, "proxy", route("hidden")),
            ("admin-direct", ADMIN_DIRECT, "direct", format!("{admin}{}", route("hidden"))),
            ("admin-proxy", ADMIN_PROXY, "proxy", format!("{admin}{}", route("hidden"))),
            ("wrong-direct", WRONG_DIRECT, "direct", route("wrong")),
            ("wrong-proxy", WRONG_PROXY, "proxy", route("wrong")),
            ("ask-direct", ASK_DIRECT, "direct", format!("{}{}", auth(""), route("one"))),
            ("ask-proxy", ASK_PROXY, "proxy", format!("{}{}", auth(""), two())),
            ("ask-user", ASK_USER, "direct", format!("{}{}", auth("username: app, "), route("one"))),
            ("ask-login", ASK_LOGIN, "direct", format!("{}{}", auth(""), route("hidden"))),
            ("mixed-direct", MIXED_DIRECT, "direct", format!("{}{}", route("one"), faults())),
            ("mixed-single", MIXED_SINGLE, "proxy", format!("{}{}", route("one"), faults())),
            ("mixed-several", MIXED_SEVERAL, "auto", format!("{}{}", two(), faults())),
        ] {
            manifests += &service(name, subnet.redis(at), x.addr());
            manifests += &pinned("RedisService", name, path, &spec);
        }
        let rendered = Rendered::new(&manifests, &["--handshake-key", HANDSHAKE_KEY])?;
        Ok(Scene { envoy: rendered.start()?, rendered, x, y, secret, subnet })
    }

    pub fn client(&self, at: u8) -> Result<Client> {
        Client::connect(self.subnet.redis(at))
    }

    /// Returns the tags of a host's backends in the configuration.
    pub fn tags(&self, name: &str) -> Result<Vec<String>> {
        let document = self.rendered.document(&listener_name(name, self.subnet.port()))?;
        let tags = document.hosts[0].targets.iter().flat_map(|target| target.tags.iter().flatten().cloned());
        Ok(tags.collect())
    }

    /// The password between the filter and redis_proxy.
    pub fn handshake(&self, name: &str) -> Result<String> {
        let document = self.rendered.document(&listener_name(name, self.subnet.port()))?;
        document.hosts[0].handshake.clone().context("no handshake")
    }

    /// Checks that the wasm sandbox has never crashed or been reloaded.
    pub fn check_alive(&self) -> Result<()> {
        for (name, value) in self.envoy.stats("wasm")? {
            assert!(!(name.contains("crash") || name.contains("reload")) || value == 0, "{name}: {value}");
        }
        let log = self.envoy.log();
        for word in ["panicked", "Proxy-Wasm plugin in-VM backtrace", "RuntimeError", "can't be woken"] {
            assert!(!log.contains(word), "{}", self.envoy.process().log_tail(30));
        }
        Ok(())
    }
}

/// Returns the scene with empty servers. A test has it for itself.
pub fn scene() -> Result<MutexGuard<'static, Scene>> {
    static SCENE: OnceLock<Result<Mutex<Scene>, String>> = OnceLock::new();
    let scene = SCENE.get_or_init(|| Scene::new().map(Mutex::new).map_err(|error| format!("{error:#}")));
    let scene = scene.as_ref().map_err(|error| anyhow!("{error}"))?;
    let scene = scene.lock().unwrap_or_else(PoisonError::into_inner);
    for redis in [&scene.x, &scene.y, &scene.secret] {
        redis.forget()?;
    }
    Ok(scene)
}

/// Sends lines, written as for redis-cli, in one write and returns the replies.
pub fn lines(client: &mut Client, lines: &[&str]) -> Result<Vec<String>> {
    let commands = lines.iter().map(|one| line::words(one)).collect::<Result<Vec<_>>>()?;
    Ok(client.pipeline(&commands)?.iter().map(Reply::tty).collect())
}
