//! Two servers, redis_proxy alone before them, and an Envoy with rendered manifests.

use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::{Result, anyhow};
use redis_mesh_tests::client::Client;
use redis_mesh_tests::envoy::Envoy;
use redis_mesh_tests::listener::{Config, RedisProxy, Rendered, host, pinned, service};
use redis_mesh_tests::net::Subnet;
use redis_mesh_tests::redis::Redis;
use redis_mesh_tests::reply::Reply;
use serde_json::json;

/// Two Redis servers, an Envoy with redis_proxy alone before them, and one with rendered
/// manifests.
pub struct Scene {
    pub subnet: Subnet,
    pub x: Redis,
    pub y: Redis,
    _alone: Envoy,
    _ours: Envoy,
}

/// Last numbers of the addresses: servers, redis_proxy alone, ours.
pub const X: u8 = 1;
pub const Y: u8 = 2;
pub const ALONE_SINGLE: u8 = 11;
pub const ALONE_PREFIX: u8 = 12;
pub const ALONE_STRIP: u8 = 13;
pub const ALONE_READS: u8 = 14;
pub const ALONE_MIRROR: u8 = 15;
pub const ALONE_RESP3: u8 = 16;
pub const ALONE_STRIP_ONLY: u8 = 17;
pub const SINGLE: u8 = 21;
pub const DIRECT: u8 = 22;
pub const PREFIX: u8 = 23;
pub const STRIP: u8 = 24;
pub const STRIP_DIRECT: u8 = 25;
pub const MIRROR: u8 = 26;

impl Scene {
    pub fn new() -> Result<Scene> {
        let subnet = Subnet::claim()?;
        let (x, y) = (Redis::start_at(subnet.redis(X))?, Redis::start_at(subnet.redis(Y))?);
        let alone = |host: u8| format!("alone-{host}");
        let proxy = |host: u8| RedisProxy::new(&alone(host));
        let mut config = Config::new().cluster("x", &[x.addr()]).cluster("y", &[y.addr()]);
        let write_mirror = json!({"cluster": "y", "exclude_read_commands": true});
        for (host, proxy) in [
            (ALONE_SINGLE, proxy(ALONE_SINGLE).catch_all("x")),
            (ALONE_PREFIX, proxy(ALONE_PREFIX).catch_all("x").route("a:", "x", false).route("b:", "y", false)),
            (ALONE_STRIP, proxy(ALONE_STRIP).catch_all("x").route("r:", "x", true)),
            (ALONE_STRIP_ONLY, proxy(ALONE_STRIP_ONLY).route("r:", "x", true)),
            (
                ALONE_READS,
                proxy(ALONE_READS).catch_all_with(json!({"cluster": "x", "read_command_policy": {"cluster": "y"}})),
            ),
            (
                ALONE_MIRROR,
                proxy(ALONE_MIRROR).catch_all_with(json!({"cluster": "x", "request_mirror_policy": [write_mirror]})),
            ),
            (ALONE_RESP3, proxy(ALONE_RESP3).catch_all("x").field("protocol_version", json!("RESP3"))),
        ] {
            config = config.listener(&alone(host), subnet.redis(host), vec![proxy.filter()]);
        }
        let all = format!("  redis: [{{route: {{host: {}}}}}]\n", host("one"));
        let mut manifests = String::new();
        // The addresses of the destinations' Services don't matter: nobody connects to them.
        manifests += &service("one", subnet.redis(31), x.addr());
        manifests += &service("two", subnet.redis(32), y.addr());
        for (name, at, path, spec) in [
            ("single", SINGLE, "proxy", all.clone()),
            ("single-direct", DIRECT, "direct", all.clone()),
            (
                "prefix",
                PREFIX,
                "auto",
                format!(
                    "  redis:\n  - {{match: {{key: {{prefix: 'a:'}}}}, route: {{host: {x}}}}}\n  - {{match: {{key: {{prefix: 'b:'}}}}, route: {{host: {y}}}}}\n  - {{route: {{host: {x}}}}}\n",
                    x = host("one"),
                    y = host("two")
                ),
            ),
            ("strip", STRIP, "proxy", strip()),
            ("strip-direct", STRIP_DIRECT, "direct", strip()),
            (
                "mirror",
                MIRROR,
                "auto",
                format!(
                    "  redis:\n  - route: {{host: {}}}\n    mirror: [{{route: {{host: {}}}, percentage: {{value: 100}}, excludeReadCommands: true}}]\n",
                    host("one"),
                    host("two")
                ),
            ),
        ] {
            manifests += &service(name, subnet.redis(at), x.addr());
            manifests += &pinned("RedisService", name, path, &spec);
        }
        let rendered = Rendered::new(&manifests, &[])?;
        let scene = Scene { _alone: config.start()?, _ours: rendered.start()?, subnet, x, y };
        Ok(scene)
    }

    pub fn client(&self, at: u8) -> Result<Client> {
        Client::connect(self.subnet.redis(at))
    }

    pub fn addr(&self, at: u8) -> SocketAddr {
        self.subnet.redis(at)
    }
}

pub fn strip() -> String {
    format!(
        "  redis:\n  - {{match: {{key: {{prefix: 'r:', removePrefix: true}}}}, route: {{host: {x}}}}}\n  - {{route: {{host: {x}}}}}\n",
        x = host("one")
    )
}

/// The servers, which all tests share. Each test finds them empty and has them for itself.
pub fn scene() -> Result<MutexGuard<'static, Scene>> {
    static SCENE: OnceLock<Result<Mutex<Scene>, String>> = OnceLock::new();
    let scene = SCENE.get_or_init(|| Scene::new().map(Mutex::new).map_err(|error| format!("{error:#}")));
    let scene = scene.as_ref().map_err(|error| anyhow!("{error}"))?;
    let scene = scene.lock().unwrap_or_else(PoisonError::into_inner);
    scene.x.forget()?;
    scene.y.forget()?;
    Ok(scene)
}

/// Sends lines, written as for redis-cli, in one write and returns the replies.
pub fn lines(client: &mut Client, lines: &[&str]) -> Result<Vec<String>> {
    let commands = lines.iter().map(|line| redis_mesh_tests::line::words(line)).collect::<Result<Vec<_>>>()?;
    Ok(client.pipeline(&commands)?.iter().map(Reply::tty).collect())
}

pub fn wait_for(what: &str, mut ready: impl FnMut() -> Result<bool>) -> Result<()> {
    redis_mesh_tests::process::wait_until(what, Duration::from_secs(5), || ready().unwrap_or(false))
}
